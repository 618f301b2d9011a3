//! Topics and their subscribers.

use super::Client;
use super::audience::{Audience, ClientList};
use crate::error::{Error, Result};
use crate::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

/// The longest topic, in bytes: a path fits. Limited because clients often choose the topics.
const MAX_TOPIC: usize = 256;

/// Topics with at least one subscriber each, and the topics of each client.
#[derive(Debug, Default)]
pub(super) struct Topics {
    subscribers: BTreeMap<Arc<str>, Audience>,
    subscriptions: BTreeMap<u64, BTreeSet<Arc<str>>>,
}

/// Lists that the caller drops outside the hub's lock, because they may hold the last handles of clients.
pub(super) type Outdated = Vec<ClientList>;

pub(super) fn check(topic: &str) -> Result<()> {
    match topic.len() {
        0 => Err(Error::invalid("a topic without a name")),
        1..=MAX_TOPIC => Ok(()),
        _ => Err(Error::invalid(format!("topic longer than {MAX_TOPIC} bytes"))),
    }
}

impl Topics {
    /// Subscribes a client to a topic. Returns whether the subscription is new.
    pub(super) fn subscribe(
        &mut self,
        client: &Client,
        topic: &str,
        limit: usize,
        outdated: &mut Outdated,
    ) -> Result<bool> {
        let own = self.subscriptions.entry(client.id()).or_default();
        if own.contains(topic) {
            return Ok(false);
        }
        if own.len() >= limit {
            return Err(Error::TooManyTopics { limit });
        }
        let name = match self.subscribers.get_key_value(topic) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(topic),
        };
        own.insert(Arc::clone(&name));
        outdated.extend(self.subscribers.entry(name).or_default().insert(client.clone()));
        Ok(true)
    }

    /// Ends a client's subscription to a topic. Returns whether there was one.
    pub(super) fn unsubscribe(&mut self, id: u64, topic: &str, outdated: &mut Outdated) -> bool {
        let Some(own) = self.subscriptions.get_mut(&id) else { return false };
        let was_subscribed = own.remove(topic);
        if own.is_empty() {
            self.subscriptions.remove(&id);
        }
        if was_subscribed {
            self.remove(id, topic, outdated);
        }
        was_subscribed
    }

    /// Ends all subscriptions of a client, and returns their topics.
    pub(super) fn leave(&mut self, id: u64, outdated: &mut Outdated) -> BTreeSet<Arc<str>> {
        let own = self.subscriptions.remove(&id).unwrap_or_default();
        for topic in &own {
            self.remove(id, topic, outdated);
        }
        own
    }

    fn remove(&mut self, id: u64, topic: &str, outdated: &mut Outdated) {
        let Some(audience) = self.subscribers.get_mut(topic) else { return };
        // The hub's list of all clients still has this client, so the handle that is dropped here is not the last.
        outdated.extend(audience.remove(id).1);
        if audience.len() == 0 {
            self.subscribers.remove(topic);
        }
    }

    pub(super) fn subscribers(&mut self, topic: &str) -> Option<ClientList> {
        self.subscribers.get_mut(topic).map(Audience::list)
    }

    pub(super) fn sizes(&self) -> Vec<(String, usize)> {
        self.subscribers.iter().map(|(topic, audience)| (topic.to_string(), audience.len())).collect()
    }
}
