//! Numbers the messages of this server, and finds gaps and repetitions in the numbers of others. No I/O and no clock.
//!
//! Each channel has a stream of its own, so a server that hears only some channels can still count what it missed. A message
//! gets its number when it is published. One that is dropped afterwards leaves a gap that each receiver sees.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

/// A number of this server. Random, so that no program has to choose one.
pub(super) type NodeId = u64;

/// The position of messages: of which stream, and the number of the first one. Numbers begin at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Later streams of a channel have greater numbers.
    pub(super) stream: u64,
    pub(super) first: u64,
}

/// How many channels have a stream at most.
const MAX_STREAMS: usize = 65_536;

/// A stream that was idle for this time is forgotten first.
const IDLE: Duration = Duration::from_secs(60);

/// The streams of this server.
#[derive(Debug, Default)]
pub(super) struct OutgoingNumbers {
    streams: HashMap<String, NumberedStream>,
    last_stream: u64,
}

#[derive(Debug)]
struct NumberedStream {
    number: u64,
    next: u64,
    used: Instant,
}

impl OutgoingNumbers {
    /// Numbers the next messages of a channel.
    pub(super) fn number(&mut self, channel: &str, messages: u32, now: Instant) -> Position {
        if !self.streams.contains_key(channel) {
            self.make_room(now);
            self.last_stream += 1;
            let stream = NumberedStream { number: self.last_stream, next: 1, used: now };
            self.streams.insert(channel.to_owned(), stream);
        }
        let Some(stream) = self.streams.get_mut(channel) else {
            return Position { stream: 0, first: 1 };
        };
        let position = Position { stream: stream.number, first: stream.next };
        stream.next += u64::from(messages);
        stream.used = now;
        position
    }

    /// Forgets the idle streams if there are too many, or the oldest half if none is idle. A channel that is used again gets
    /// a new stream.
    fn make_room(&mut self, now: Instant) {
        if self.streams.len() < MAX_STREAMS {
            return;
        }
        self.streams.retain(|_, stream| now.saturating_duration_since(stream.used) < IDLE);
        if self.streams.len() < MAX_STREAMS {
            return;
        }
        let mut used: Vec<_> = self.streams.values().map(|stream| stream.used).collect();
        let middle = used.len() / 2;
        let (_, &mut median, _) = used.select_nth_unstable(middle);
        self.streams.retain(|_, stream| stream.used > median);
    }
}

/// The result of a comparison with the messages that arrived before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How many messages before these never arrived.
    pub(super) missed: u64,
    /// How many messages at the front arrived before.
    pub(super) repeated: u32,
}

/// The streams of the other servers, as far as this one has heard them.
#[derive(Debug, Default)]
pub(super) struct IncomingNumbers {
    /// The position of the last message that arrived.
    channels: HashMap<String, HashMap<NodeId, Position>>,
}

impl IncomingNumbers {
    /// Compares messages with those that arrived before. The first messages of a server have missed nothing, because until then
    /// no client here was subscribed, or the other server was new.
    pub(super) fn judge(&mut self, node: NodeId, channel: &str, at: Position, messages: u32) -> Verdict {
        if !self.channels.contains_key(channel) {
            self.channels.insert(channel.to_owned(), HashMap::new());
        }
        let last_number = at.first.saturating_add(u64::from(messages)) - 1;
        let new = Position { stream: at.stream, first: last_number };
        let Some(nodes) = self.channels.get_mut(channel) else { return Verdict::default() };
        let last = match nodes.entry(node) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(new);
                return Verdict::default();
            }
        };
        let verdict = match at.stream.cmp(&last.stream) {
            Ordering::Less => Verdict { missed: 0, repeated: messages },
            Ordering::Greater => Verdict { missed: at.first - 1, repeated: 0 },
            Ordering::Equal => match at.first.checked_sub(last.first.saturating_add(1)) {
                Some(missed) => Verdict { missed, repeated: 0 },
                None => {
                    let repeated = last.first.saturating_add(1) - at.first;
                    Verdict { missed: 0, repeated: u32::try_from(repeated).unwrap_or(messages).min(messages) }
                }
            },
        };
        if verdict.repeated < messages {
            *last = new;
        }
        verdict
    }

    /// Forgets a channel that has no subscribers here any more.
    pub(super) fn forget_channel(&mut self, channel: &str) {
        self.channels.remove(channel);
    }

    /// Forgets a server that has ended, or was not heard of for a long time.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        for nodes in self.channels.values_mut() {
            nodes.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(stream: u64, first: u64) -> Position {
        Position { stream, first }
    }

    #[test]
    fn each_channel_counts_by_itself() {
        let (mut outgoing, now) = (OutgoingNumbers::default(), Instant::now());
        assert_eq!(outgoing.number("a", 1, now), at(1, 1));
        assert_eq!(outgoing.number("a", 3, now), at(1, 2));
        assert_eq!(outgoing.number("b", 1, now), at(2, 1));
        assert_eq!(outgoing.number("a", 1, now), at(1, 5));
    }

    #[test]
    fn a_forgotten_channel_gets_a_later_stream() {
        let (mut outgoing, start) = (OutgoingNumbers::default(), Instant::now());
        for channel in 0..MAX_STREAMS {
            outgoing.number(&channel.to_string(), 1, start);
        }
        let later = start + IDLE;
        assert_eq!(outgoing.number("one more", 1, later).stream, MAX_STREAMS as u64 + 1);
        assert_eq!(outgoing.streams.len(), 1);
        assert_eq!(outgoing.number("0", 1, later), at(MAX_STREAMS as u64 + 2, 1));
    }

    #[test]
    fn the_oldest_half_is_forgotten_if_no_channel_is_idle() {
        let (mut outgoing, start) = (OutgoingNumbers::default(), Instant::now());
        for channel in 0..MAX_STREAMS {
            outgoing.number(&channel.to_string(), 1, start + Duration::from_micros(channel as u64));
        }
        outgoing.number("one more", 1, start + Duration::from_secs(1));
        assert!(outgoing.streams.len() <= MAX_STREAMS / 2 + 1, "{}", outgoing.streams.len());
        assert!(outgoing.streams.contains_key(&(MAX_STREAMS - 1).to_string()));
        assert!(!outgoing.streams.contains_key("0"));
    }

    #[test]
    fn gaps_and_repetitions_are_counted() {
        let mut incoming = IncomingNumbers::default();
        // Position, messages, missed, repeated.
        for (position, messages, missed, repeated) in [
            (at(3, 7), 2, 0, 0),  // the first that is heard
            (at(3, 9), 1, 0, 0),  // the next
            (at(3, 12), 2, 2, 0), // 10 and 11 are missing
            (at(3, 12), 2, 0, 2), // both again
            (at(3, 13), 3, 0, 1), // one of three again
            (at(3, 10), 2, 0, 2), // too late: they were counted as missed
            (at(5, 4), 1, 3, 0),  // a later stream
            (at(3, 16), 2, 0, 2), // an earlier one
            (at(5, 5), 1, 0, 0),
            (at(5, u64::MAX), u32::MAX, u64::MAX - 6, 0),
        ] {
            let verdict = incoming.judge(1, "room", position, messages);
            assert_eq!(verdict, Verdict { missed, repeated }, "{position:?}");
        }
        assert_eq!(incoming.judge(2, "room", at(1, 9), 1), Verdict::default(), "another server");
        assert_eq!(incoming.judge(1, "other", at(1, 9), 1), Verdict::default(), "another channel");
        incoming.forget_channel("other");
        incoming.forget_node(2);
        assert_eq!(incoming.judge(2, "room", at(1, 20), 1), Verdict::default());
        assert_eq!(incoming.judge(1, "other", at(1, 20), 1), Verdict::default());
    }
}
