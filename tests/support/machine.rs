//! The resources of the machine that tests share.

use super::programs::skip;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test of this process has a turn. Tests that measure time or load need it, because they would
/// disturb each other.
pub fn take_turn() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises the descriptor limit of this process for this number of sockets. Returns `false`, and prints so, if that is
/// not allowed. A server that runs in this process needs one more socket for each client.
pub fn can_open_sockets(sockets: usize) -> bool {
    let wanted = sockets as u64 + 500;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < wanted) && most >= wanted {
        let raised = Rlimit { current: Some(wanted.max(most.min(20_000))), maximum: limit.maximum };
        // If this fails, the check below prints why.
        _ = setrlimit(Resource::Nofile, raised);
    }
    let enough = getrlimit(Resource::Nofile).current.is_none_or(|current| current >= wanted);
    if !enough {
        skip(&format!("{sockets} sockets need {wanted} descriptors, the limit is {most}"));
    }
    enough
}
