//! A server's settings and callbacks for topics. The callbacks run without any lock held, in the thread of the client that
//! subscribes or unsubscribes.

use super::{Client, Hub};
use crate::logging::contain;
use std::fmt;

type Hook = dyn Fn(&Hub, &Client, &str) + Send + Sync;

/// How many topics a client can subscribe to at a time, unless the server sets another number. Limited because clients
/// often choose the topics.
const MAX_TOPICS: usize = 128;

/// A server's settings and callbacks for topics.
pub(crate) struct Hooks {
    pub(crate) max_topics: usize,
    pub(crate) on_subscribe: Option<Box<Hook>>,
    pub(crate) on_unsubscribe: Option<Box<Hook>>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { max_topics: MAX_TOPICS, on_subscribe: None, on_unsubscribe: None }
    }
}

impl Hooks {
    pub(crate) fn subscribed(&self, hub: &Hub, client: &Client, topic: &str) {
        call("on_subscribe", self.on_subscribe.as_deref(), hub, client, topic);
    }

    pub(crate) fn unsubscribed(&self, hub: &Hub, client: &Client, topic: &str) {
        call("on_unsubscribe", self.on_unsubscribe.as_deref(), hub, client, topic);
    }
}

fn call(name: &str, hook: Option<&Hook>, hub: &Hub, client: &Client, topic: &str) {
    let Some(hook) = hook else { return };
    let id = client.id();
    contain("threadws::hub", format_args!("the callback {name} for client {id}"), || {
        hook(hub, client, topic)
    });
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
