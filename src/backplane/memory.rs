//! An engine for several servers in one process.

use super::engine::{Engine, LinkEvent, LinkReader, LinkWriter};
use crate::sync::{Arc, Condvar, Mutex, now};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::time::Duration;

/// How many bytes wait for one server at most. A server that is slower loses its link.
const MAX_WAITING: usize = 16 << 20;

/// Connects servers of one process, for tests and for programs with several servers. Clones are the same engine.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    links: Arc<Mutex<Links>>,
}

#[derive(Debug, Default)]
struct Links {
    last: u64,
    inboxes: HashMap<u64, Arc<MemoryInbox>>,
}

/// The events of one link.
#[derive(Debug, Default)]
struct MemoryInbox {
    state: Mutex<MemoryInboxState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct MemoryInboxState {
    subscribed: HashSet<String>,
    events: VecDeque<OwnedEvent>,
    bytes: usize,
    /// Why the link has ended.
    ended: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum OwnedEvent {
    Message(Arc<str>, Arc<[u8]>),
    Subscribed(String),
    Unsubscribed(String),
    Published,
    Pong,
}

impl Memory {
    /// Creates an engine without any server.
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the memory of this process")
    }
}

impl Engine for Memory {
    fn connect(&self, _: &str, _: Duration) -> io::Result<(Box<dyn LinkWriter>, Box<dyn LinkReader>)> {
        let inbox = Arc::new(MemoryInbox::default());
        let mut links = self.links.lock();
        links.last += 1;
        let id = links.last;
        links.inboxes.insert(id, Arc::clone(&inbox));
        let writer = MemoryLinkWriter { links: Arc::clone(&self.links), id, inbox: Arc::clone(&inbox) };
        Ok((Box::new(writer), Box::new(MemoryLinkReader(inbox))))
    }
}

struct MemoryLinkWriter {
    links: Arc<Mutex<Links>>,
    id: u64,
    inbox: Arc<MemoryInbox>,
}

impl MemoryLinkWriter {
    fn answer(&self, change: impl FnOnce(&mut MemoryInboxState)) -> io::Result<()> {
        let mut state = self.inbox.state.lock();
        let ended = state.ended;
        change(&mut state);
        drop(state);
        self.inbox.changed.notify_all();
        ended.map_or(Ok(()), |why| Err(io::Error::new(io::ErrorKind::BrokenPipe, why)))
    }
}

impl LinkWriter for MemoryLinkWriter {
    fn subscribe(&mut self, channels: &[&str]) -> io::Result<()> {
        self.answer(|state| {
            for channel in channels {
                state.subscribed.insert((*channel).to_owned());
                state.events.push_back(OwnedEvent::Subscribed((*channel).to_owned()));
            }
        })
    }

    fn unsubscribe(&mut self, channels: &[&str]) -> io::Result<()> {
        self.answer(|state| {
            for channel in channels {
                state.subscribed.remove(*channel);
                state.events.push_back(OwnedEvent::Unsubscribed((*channel).to_owned()));
            }
        })
    }

    fn publish(&mut self, channel: &str, head: &[u8], body: &[u8]) -> io::Result<()> {
        let payload: Arc<[u8]> = [head, body].concat().into();
        let name: Arc<str> = channel.into();
        let inboxes: Vec<_> = self.links.lock().inboxes.values().cloned().collect();
        for inbox in inboxes {
            inbox.receive(&name, &payload);
        }
        self.answer(|state| state.events.push_back(OwnedEvent::Published))
    }

    fn ping(&mut self) -> io::Result<()> {
        self.answer(|state| state.events.push_back(OwnedEvent::Pong))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self) {
        self.links.lock().inboxes.remove(&self.id);
        self.inbox.end("the link has ended");
    }
}

impl Drop for MemoryLinkWriter {
    fn drop(&mut self) {
        self.end();
    }
}

impl MemoryInbox {
    fn receive(&self, channel: &Arc<str>, payload: &Arc<[u8]>) {
        let mut state = self.state.lock();
        if !state.subscribed.contains(&**channel) {
            return;
        }
        state.bytes += payload.len();
        if state.bytes > MAX_WAITING {
            drop(state);
            self.end("this server is too slow");
            return;
        }
        state.events.push_back(OwnedEvent::Message(Arc::clone(channel), Arc::clone(payload)));
        drop(state);
        self.changed.notify_all();
    }

    fn end(&self, why: &'static str) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(why);
        state.events.clear();
        drop(state);
        self.changed.notify_all();
    }
}

struct MemoryLinkReader(Arc<MemoryInbox>);

impl LinkReader for MemoryLinkReader {
    fn read(&mut self, timeout: Duration, receive: &mut dyn FnMut(LinkEvent<'_>)) -> io::Result<()> {
        let deadline = now() + timeout;
        let mut state = self.0.state.lock();
        while state.events.is_empty() && state.ended.is_none() && now() < deadline {
            state = self.0.changed.wait_until(state, Some(deadline));
        }
        if let Some(why) = state.ended {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        state.bytes = 0;
        let events = std::mem::take(&mut state.events);
        drop(state);
        for event in &events {
            receive(match event {
                OwnedEvent::Message(channel, payload) => LinkEvent::Message { channel, payload },
                OwnedEvent::Subscribed(channel) => LinkEvent::Subscribed { channel },
                OwnedEvent::Unsubscribed(channel) => LinkEvent::Unsubscribed { channel },
                OwnedEvent::Published => LinkEvent::Published,
                OwnedEvent::Pong => LinkEvent::Pong,
            });
        }
        Ok(())
    }
}
