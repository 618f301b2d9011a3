//! What a program is told of topics. It runs outside all locks, in the thread of the client that comes or goes.

use super::Client;
use crate::logging::log_line;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Hook = dyn Fn(&Client, &str) + Send + Sync;

/// The callbacks of one server.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_join: Option<Box<Hook>>,
    pub(crate) on_leave: Option<Box<Hook>>,
}

impl Hooks {
    pub(crate) fn joined(&self, client: &Client, topic: &str) {
        call("on_join", self.on_join.as_deref(), client, topic);
    }

    pub(crate) fn left(&self, client: &Client, topic: &str) {
        call("on_leave", self.on_leave.as_deref(), client, topic);
    }
}

fn call(name: &str, hook: Option<&Hook>, client: &Client, topic: &str) {
    let Some(hook) = hook else { return };
    if catch_unwind(AssertUnwindSafe(|| hook(client, topic))).is_err() {
        log_line!(Error, "threadws::hub", "the callback {name} panicked for client {}", client.id());
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
