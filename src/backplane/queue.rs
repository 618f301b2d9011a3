//! The messages that wait for the engine. No I/O and no lock.

use super::envelope::{EnvelopeHead, EnvelopeKind};
use super::ledger::{NodeId, OutgoingNumbers};
use crate::sync::Arc;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The greatest body of an envelope that holds several messages. A longer message has an envelope of its own.
const MAX_JOINED: usize = 64 << 10;
/// How much is sent at most before the engine has taken it.
const MAX_UNANSWERED: usize = 1 << 20;

/// An envelope on its way to the engine.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pub(super) channel: Arc<str>,
    pub(super) head: EnvelopeHead,
    pub(super) body: Arc<[u8]>,
    /// When the oldest of its messages was published.
    since: Instant,
}

/// Messages that the engine has not taken yet.
#[derive(Debug)]
pub(super) struct PublishQueue {
    node: NodeId,
    outgoing: OutgoingNumbers,
    waiting: VecDeque<Envelope>,
    waiting_bytes: usize,
    /// Sent on this link, oldest first.
    unanswered: VecDeque<Envelope>,
    unanswered_bytes: usize,
    limits: QueueLimits,
    pub(super) dropped: Dropped,
    /// How many messages the engine has taken.
    pub(super) taken: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimits {
    pub(super) max_waiting: usize,
    pub(super) max_age: Duration,
}

/// Messages that were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) full: u64,
    pub(super) old: u64,
}

impl Envelope {
    pub(super) fn new(channel: Arc<str>, head: EnvelopeHead, body: Arc<[u8]>, since: Instant) -> Self {
        Self { channel, head, body, since }
    }
}

impl PublishQueue {
    pub(super) fn new(node: NodeId, limits: QueueLimits) -> Self {
        Self {
            node,
            outgoing: OutgoingNumbers::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            limits,
            dropped: Dropped::default(),
            taken: 0,
        }
    }

    /// Numbers messages and queues them. If the queue is full then, drops the oldest messages.
    ///
    /// Returns false if this message alone is larger than the queue. It was numbered, so the others know that they missed it.
    pub(super) fn push(&mut self, channel: &Arc<str>, body: Arc<[u8]>, messages: u32, now: Instant) -> bool {
        let position = self.outgoing.number(channel, messages, now);
        if body.len() > self.limits.max_waiting {
            self.dropped.full += u64::from(messages);
            return false;
        }
        let head = EnvelopeHead { kind: EnvelopeKind::Messages, node: self.node, position, count: messages };
        self.waiting_bytes += body.len();
        self.waiting.push_back(Envelope::new(Arc::clone(channel), head, body, now));
        self.drop_oldest();
        true
    }

    fn drop_oldest(&mut self) {
        while self.waiting_bytes > self.limits.max_waiting {
            let Some(oldest) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= oldest.body.len();
            self.dropped.full += u64::from(oldest.head.count);
        }
    }

    /// Takes the next envelope to send, if the engine has taken enough of those before. Joins consecutive messages of one
    /// channel.
    pub(super) fn take(&mut self, now: Instant) -> Option<Envelope> {
        self.drop_old(now);
        if self.unanswered_bytes >= MAX_UNANSWERED {
            return None;
        }
        let first = self.waiting.pop_front()?;
        self.waiting_bytes -= first.body.len();
        let envelope = self.join(first);
        self.sent(envelope.clone());
        Some(envelope)
    }

    /// Remembers an envelope until the engine has taken it.
    pub(super) fn sent(&mut self, envelope: Envelope) {
        self.unanswered_bytes += envelope.body.len();
        self.unanswered.push_back(envelope);
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some(oldest) = self.waiting.front() {
            if now.saturating_duration_since(oldest.since) < self.limits.max_age {
                break;
            }
            self.waiting_bytes -= oldest.body.len();
            self.dropped.old += u64::from(oldest.head.count);
            self.waiting.pop_front();
        }
    }

    fn join(&mut self, first: Envelope) -> Envelope {
        let mut len = first.body.len();
        let mut end = first.head.position.first + u64::from(first.head.count);
        let mut more = 0;
        for next in &self.waiting {
            let position = next.head.position;
            let follows = next.channel == first.channel
                && position.stream == first.head.position.stream
                && position.first == end;
            if !follows || len + next.body.len() > MAX_JOINED {
                break;
            }
            len += next.body.len();
            end += u64::from(next.head.count);
            more += 1;
        }
        if more == 0 {
            return first;
        }
        let Envelope { channel, mut head, body, since } = first;
        let mut joined = Vec::with_capacity(len);
        joined.extend_from_slice(&body);
        for next in self.waiting.drain(..more) {
            self.waiting_bytes -= next.body.len();
            joined.extend_from_slice(&next.body);
            head.count += next.head.count;
        }
        Envelope { channel, head, body: joined.into(), since }
    }

    /// The engine has taken the oldest unanswered envelope.
    pub(super) fn answered(&mut self) {
        if let Some(oldest) = self.unanswered.pop_front() {
            self.unanswered_bytes -= oldest.body.len();
            if oldest.head.kind == EnvelopeKind::Messages {
                self.taken += u64::from(oldest.head.count);
            }
        }
    }

    /// The link is lost: the unanswered envelopes go back to the front, to be sent again. Receivers drop those that arrive
    /// twice.
    pub(super) fn link_lost(&mut self) {
        self.waiting_bytes += self.unanswered_bytes;
        self.unanswered_bytes = 0;
        while let Some(newest) = self.unanswered.pop_back() {
            // Others, which are empty, say only that this server lived.
            if newest.head.kind == EnvelopeKind::Messages {
                self.waiting.push_front(newest);
            }
        }
        self.drop_oldest();
    }

    /// Returns whether the engine has taken everything.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.unanswered.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.waiting_bytes + self.unanswered_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits = QueueLimits { max_waiting: 100, max_age: Duration::from_secs(30) };

    struct QueueFixture {
        queue: PublishQueue,
        now: Instant,
    }

    impl QueueFixture {
        fn new() -> Self {
            Self { queue: PublishQueue::new(7, LIMITS), now: Instant::now() }
        }

        fn push(&mut self, channel: &str, body: &str) -> bool {
            self.queue.push(&channel.into(), body.as_bytes().into(), 1, self.now)
        }

        /// Channel, number of the first message, messages, body.
        fn take(&mut self) -> Option<(String, u64, u32, String)> {
            let Envelope { channel, head, body, .. } = self.queue.take(self.now)?;
            let body = String::from_utf8(body.to_vec()).expect("text");
            Some((channel.to_string(), head.position.first, head.count, body))
        }
    }

    fn envelope(channel: &str, first: u64, count: u32, body: &str) -> Option<(String, u64, u32, String)> {
        Some((channel.to_owned(), first, count, body.to_owned()))
    }

    #[test]
    fn consecutive_messages_of_a_channel_share_an_envelope() {
        let mut fixture = QueueFixture::new();
        for (channel, body) in [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")] {
            assert!(fixture.push(channel, body));
        }
        assert_eq!(fixture.take(), envelope("a", 1, 2, "12"));
        assert_eq!(fixture.take(), envelope("b", 1, 1, "3"));
        assert_eq!(fixture.take(), envelope("a", 3, 1, "4"));
        assert_eq!(fixture.take(), None);
        assert_eq!(fixture.queue.bytes(), 4, "not yet answered");
        fixture.queue.answered();
        assert_eq!((fixture.queue.taken, fixture.queue.bytes()), (2, 2));
    }

    #[test]
    fn unanswered_envelopes_are_sent_again_first() {
        let mut fixture = QueueFixture::new();
        assert!(fixture.push("a", "1") && fixture.push("b", "2"));
        assert!(fixture.take().is_some());
        assert!(fixture.take().is_some());
        assert!(fixture.push("c", "3"));
        fixture.queue.answered();
        fixture.queue.link_lost();
        assert_eq!(fixture.take(), envelope("b", 1, 1, "2"));
        assert_eq!(fixture.take(), envelope("c", 1, 1, "3"));
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_leaves_a_gap() {
        let mut fixture = QueueFixture::new();
        let (long, longer) = ("x".repeat(60), "y".repeat(101));
        assert!(fixture.push("a", &long) && fixture.push("a", &long));
        assert!(!fixture.push("a", &longer), "longer than the queue");
        assert!(fixture.push("a", "4"));
        assert_eq!(fixture.queue.dropped, Dropped { full: 2, old: 0 });
        assert_eq!(fixture.take(), envelope("a", 2, 1, &long));
        assert_eq!(fixture.take(), envelope("a", 4, 1, "4"));
    }

    #[test]
    fn messages_that_waited_too_long_are_dropped() {
        let mut fixture = QueueFixture::new();
        assert!(fixture.push("a", "1"));
        fixture.now += LIMITS.max_age;
        assert!(fixture.push("a", "2"));
        assert_eq!(fixture.take(), envelope("a", 2, 1, "2"));
        assert_eq!(fixture.queue.dropped, Dropped { full: 0, old: 1 });
    }

    #[test]
    fn a_mebibyte_is_sent_before_an_answer() {
        let mut fixture = QueueFixture::new();
        fixture.queue.limits.max_waiting = 4 * MAX_UNANSWERED;
        let body = "z".repeat(MAX_UNANSWERED / 2);
        for _ in 0..3 {
            assert!(fixture.push("a", &body));
        }
        assert!(fixture.take().is_some() && fixture.take().is_some());
        assert_eq!(fixture.take(), None);
        fixture.queue.answered();
        assert!(fixture.take().is_some());
    }
}
