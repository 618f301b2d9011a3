//! Who listens to what.

use super::Client;
use super::audience::{Audience, List};
use crate::error::{Error, Result};
use crate::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

/// The longest topic, in bytes: a path, say. Clients often name topics, so what they may cost is bounded.
const MAX_TOPIC: usize = 256;

/// Topics with at least one member each, and what each client listens to.
#[derive(Debug, Default)]
pub(super) struct Topics {
    members: BTreeMap<Arc<str>, Audience>,
    subscriptions: BTreeMap<u64, BTreeSet<Arc<str>>>,
}

/// What has to be dropped outside the lock.
pub(super) type Dropped = Vec<List>;

pub(super) fn check(topic: &str) -> Result<()> {
    match topic.len() {
        0 => Err(Error::invalid("a topic without a name")),
        1..=MAX_TOPIC => Ok(()),
        _ => Err(Error::invalid(format!("topic longer than {MAX_TOPIC} bytes"))),
    }
}

impl Topics {
    /// Adds a client to a topic; false if it is there already.
    pub(super) fn subscribe(
        &mut self,
        client: &Client,
        topic: &str,
        limit: usize,
        dropped: &mut Dropped,
    ) -> Result<bool> {
        let own = self.subscriptions.entry(client.id()).or_default();
        if own.contains(topic) {
            return Ok(false);
        }
        if own.len() >= limit {
            return Err(Error::TooManyTopics { limit });
        }
        let name = match self.members.get_key_value(topic) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(topic),
        };
        own.insert(Arc::clone(&name));
        dropped.extend(self.members.entry(name).or_default().insert(client.clone()));
        Ok(true)
    }

    /// Takes a client out of a topic; false if it is not there.
    pub(super) fn unsubscribe(&mut self, id: u64, topic: &str, dropped: &mut Dropped) -> bool {
        let Some(own) = self.subscriptions.get_mut(&id) else { return false };
        let was = own.remove(topic);
        if own.is_empty() {
            self.subscriptions.remove(&id);
        }
        if was {
            self.remove(id, topic, dropped);
        }
        was
    }

    /// Takes a client out of all its topics, and returns them.
    pub(super) fn leave(&mut self, id: u64, dropped: &mut Dropped) -> BTreeSet<Arc<str>> {
        let own = self.subscriptions.remove(&id).unwrap_or_default();
        for topic in &own {
            self.remove(id, topic, dropped);
        }
        own
    }

    fn remove(&mut self, id: u64, topic: &str, dropped: &mut Dropped) {
        let Some(members) = self.members.get_mut(topic) else { return };
        // The registry has the same client: this handle is not the last.
        dropped.extend(members.remove(id).1);
        if members.len() == 0 {
            self.members.remove(topic);
        }
    }

    pub(super) fn members(&mut self, topic: &str) -> Option<List> {
        self.members.get_mut(topic).map(Audience::list)
    }

    pub(super) fn sizes(&self) -> Vec<(String, usize)> {
        self.members.iter().map(|(topic, members)| (topic.to_string(), members.len())).collect()
    }
}
