//! What tests share of the machine they run on.

use super::programs::skip;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One at a time: they measure, and the machine is small.
pub fn take_turn() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for so many sockets in this process; false, and said so, if it may not have them. A server that runs in it, and not
/// in one of its own, has one for each client, too.
pub fn can_open_sockets(sockets: usize) -> bool {
    let wanted = sockets as u64 + 500;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < wanted) && most >= wanted {
        let raised = Rlimit { current: Some(wanted.max(most.min(20_000))), maximum: limit.maximum };
        // If it may not, the check below says so.
        _ = setrlimit(Resource::Nofile, raised);
    }
    let enough = getrlimit(Resource::Nofile).current.is_none_or(|current| current >= wanted);
    if !enough {
        skip(&format!("{sockets} sockets need {wanted} descriptors, the limit is {most}"));
    }
    enough
}
