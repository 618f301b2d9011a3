//! The receiving thread of a backplane: it delivers the messages of other servers, and counts those that were missed.

use super::Gap;
use super::bus::{Bus, Destination, LOG};
use super::engine::{LinkEvent, LinkReader};
use super::envelope::{EnvelopeHead, EnvelopeKind};
use super::ledger::{IncomingNumbers, NodeId};
use crate::logging::{Throttle, log_line};
use crate::protocol::encoder::{are_messages, frames};
use crate::sync::{Arc, JoinHandle, now, spawn};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

/// It calls the program's `on_gap`.
const STACK: usize = crate::sync::STACK;
/// How long a read waits, and with it how late an end is noticed whose link says nothing.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// A server that was not heard of for this long has ended.
const NODE_TIMEOUT: Duration = Duration::from_secs(6);
/// Its numbers are forgotten then.
const FORGET_NODE: Duration = Duration::from_secs(60);

pub(super) fn start(bus: Arc<Bus>) -> io::Result<JoinHandle<()>> {
    spawn("threadws-receive", STACK, move || {
        bus.set_receiver();
        let mut receiver = BusReceiver {
            bus: &bus,
            incoming: IncomingNumbers::default(),
            nodes: HashMap::new(),
            foreign: Throttle::default(),
        };
        while let Some(mut reader) = receiver.wait_for_link() {
            let error = receiver.read(&mut *reader);
            drop(reader);
            let mut state = bus.lock();
            state.link.is_read = false;
            state.link.error.get_or_insert(error);
            drop(state);
            bus.notify();
        }
    })
}

struct BusReceiver<'a> {
    bus: &'a Bus,
    incoming: IncomingNumbers,
    /// When each other server was last heard of.
    nodes: HashMap<NodeId, Instant>,
    foreign: Throttle,
}

impl BusReceiver<'_> {
    /// Returns `None` once the server has stopped.
    fn wait_for_link(&self) -> Option<Box<dyn LinkReader>> {
        let mut state = self.bus.lock();
        loop {
            if let Some(reader) = state.link.reader.take() {
                state.link.is_read = true;
                return Some(reader);
            }
            if state.state == super::LinkState::Stopped {
                return None;
            }
            state = self.bus.wait(state, None);
        }
    }

    /// Reads until the link is broken.
    fn read(&mut self, reader: &mut dyn LinkReader) -> io::Error {
        loop {
            let mut events = 0;
            let mut refused = None;
            let read = reader.read(READ_TIMEOUT, &mut |event| {
                events += 1;
                if let LinkEvent::Refused { why } = event {
                    refused = Some(io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned()));
                } else {
                    self.take(event);
                }
            });
            if let Some(error) = read.err().or(refused) {
                return error;
            }
            self.after_read(events > 0);
            if events == 0 && self.bus.lock().is_silent(now()) {
                return io::Error::new(io::ErrorKind::TimedOut, "no answer to a ping");
            }
        }
    }

    fn after_read(&mut self, has_events: bool) {
        let may_have_missed = std::mem::take(&mut self.bus.lock().link.report_loss);
        if may_have_missed {
            self.bus.report(&Gap { topic: None, missed: None });
        }
        if !has_events {
            self.count_nodes();
        }
    }

    fn count_nodes(&mut self) {
        let now = now();
        let age = |seen: &Instant| now.saturating_duration_since(*seen);
        let gone: Vec<_> =
            self.nodes.iter().filter(|(_, seen)| age(seen) > FORGET_NODE).map(|(node, _)| *node).collect();
        for node in gone {
            self.forget(node);
        }
        let alive = self.nodes.values().filter(|seen| age(seen) <= NODE_TIMEOUT).count();
        self.bus.lock().nodes = alive;
    }

    fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.incoming.forget_node(node);
    }

    fn take(&mut self, event: LinkEvent<'_>) {
        match event {
            LinkEvent::Message { channel, payload } => self.take_message(channel, payload),
            LinkEvent::Subscribed { channel } => {
                self.bus.lock().wanted.answered(channel, true);
                self.bus.notify();
            }
            LinkEvent::Unsubscribed { channel } => {
                self.incoming.forget_channel(channel);
                self.bus.lock().wanted.answered(channel, false);
                self.bus.notify();
            }
            LinkEvent::Published => {
                self.bus.lock().queue.answered();
                self.bus.notify();
            }
            LinkEvent::Pong => self.bus.lock().link.pinged = None,
            LinkEvent::Refused { .. } => {}
        }
    }

    fn take_message(&mut self, channel: &str, payload: &[u8]) {
        let max_message = self.bus.max_message;
        let decoded = EnvelopeHead::decode(payload).zip(self.bus.destination(channel));
        match decoded {
            Some(((head, _), _)) if head.node == self.bus.node => {}
            Some(((head, body), Destination::Clients(topic)))
                if head.kind == EnvelopeKind::Messages
                    && are_messages(body, head.count.into(), max_message) =>
            {
                self.deliver(channel, topic, &head, body);
            }
            Some(((EnvelopeHead { kind: EnvelopeKind::Alive, node, .. }, []), Destination::Servers)) => {
                self.nodes.insert(node, now());
                self.count_nodes();
            }
            Some(((EnvelopeHead { kind: EnvelopeKind::Goodbye, node, .. }, []), Destination::Servers)) => {
                self.forget(node);
                self.count_nodes();
            }
            _ => {
                self.bus.lock().counters.foreign += 1;
                if let Some(more) = self.foreign.pass(now()) {
                    let channel = channel.escape_debug();
                    log_line!(Warn, LOG, "ignored a message on {channel} that no server sent ({more} more)");
                }
            }
        }
    }

    fn deliver(&mut self, channel: &str, topic: Option<&str>, head: &EnvelopeHead, body: &[u8]) {
        let verdict = self.incoming.judge(head.node, channel, head.position, head.count);
        let new = u64::from(head.count - verdict.repeated);
        {
            let mut state = self.bus.lock();
            state.counters.missed += verdict.missed;
            state.counters.repeated += u64::from(verdict.repeated);
            state.counters.received += new;
        }
        if verdict.missed > 0 {
            let topic = topic.map(str::to_owned);
            self.bus.report(&Gap { topic, missed: Some(verdict.missed) });
        }
        if new == 0 {
            return;
        }
        let repeated: usize =
            frames(body).take(verdict.repeated as usize).map(|frame| frame.whole.len()).sum();
        if let Some(local) = self.bus.local() {
            local.deliver(topic, body.get(repeated..).unwrap_or_default().into(), new);
        }
    }
}
