//! The channels that this server wants to hear, and those that it hears on its link. No I/O and no lock.
//!
//! Commands follow from the difference of the two, so no late command can undo an earlier one. A channel has at most one
//! unanswered command at a time.

use crate::sync::Arc;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How many channels one command names at most.
const MAX_NAMES: usize = 512;
/// How many channels at most are heard although no client here subscribed.
const MAX_LINGERING: usize = 4096;

/// The channels that this server wants to hear, and those that it hears.
#[derive(Debug)]
pub(super) struct Wanted {
    channels: HashMap<Arc<str>, Channel>,
    /// Channels to look at in [`next`](Self::next).
    changed: BTreeSet<Arc<str>>,
    /// The times at which channels without subscribers are left. All wait equally long, so the first is the oldest.
    lingering: VecDeque<(Instant, Arc<str>)>,
    linger: Duration,
    /// How many channels were asked for and not confirmed.
    unconfirmed: usize,
}

#[derive(Debug, Default)]
struct Channel {
    /// Can be negative for a moment, if the thread that removes the last one is faster than the one that added it.
    subscribers: i64,
    /// Until when the channel is heard without a subscriber.
    lingers: Option<Instant>,
    asked: bool,
    confirmed: bool,
}

impl Channel {
    fn is_wanted(&self) -> bool {
        self.subscribers > 0 || self.lingers.is_some()
    }
}

/// Channels to ask the engine for, and to leave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) subscribe: Vec<Arc<str>>,
    pub(super) unsubscribe: Vec<Arc<str>>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.subscribe.is_empty() && self.unsubscribe.is_empty()
    }
}

impl Wanted {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            channels: HashMap::new(),
            changed: BTreeSet::new(),
            lingering: VecDeque::new(),
            linger,
            unconfirmed: 0,
        }
    }

    /// Counts one subscriber more. Returns whether the channel is heard already.
    pub(super) fn add(&mut self, name: &Arc<str>) -> bool {
        let channel = self.channels.entry(Arc::clone(name)).or_default();
        channel.subscribers += 1;
        channel.lingers = None;
        if !channel.asked {
            self.changed.insert(Arc::clone(name));
        }
        channel.confirmed && channel.asked
    }

    /// Counts one subscriber less. A channel without subscribers is heard a while longer, because clients come back.
    pub(super) fn remove(&mut self, name: &Arc<str>, now: Instant) {
        let channel = self.channels.entry(Arc::clone(name)).or_default();
        channel.subscribers -= 1;
        if channel.subscribers > 0 {
            return;
        }
        if self.lingering.len() < MAX_LINGERING {
            let until = now + self.linger;
            channel.lingers = Some(until);
            self.lingering.push_back((until, Arc::clone(name)));
        } else {
            self.changed.insert(Arc::clone(name));
        }
    }

    /// Returns what to ask the engine for, and remembers that it is asked.
    pub(super) fn next(&mut self, now: Instant) -> Changes {
        while self.next_deadline().is_some_and(|until| until <= now) {
            self.end_linger();
        }
        let mut changes = Changes::default();
        while changes.subscribe.len() < MAX_NAMES && changes.unsubscribe.len() < MAX_NAMES {
            let Some(name) = self.changed.pop_first() else { break };
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            match (channel.is_wanted(), channel.asked, channel.confirmed) {
                (true, false, false) => {
                    channel.asked = true;
                    self.unconfirmed += 1;
                    changes.subscribe.push(name);
                }
                (false, true, true) => {
                    channel.asked = false;
                    changes.unsubscribe.push(name);
                }
                (false, false, false) => drop(self.channels.remove(&name)),
                // As wanted, or a command is unanswered.
                _ => {}
            }
        }
        changes
    }

    fn end_linger(&mut self) {
        let Some((until, name)) = self.lingering.pop_front() else { return };
        if let Some(channel) = self.channels.get_mut(&name) {
            if channel.lingers == Some(until) {
                channel.lingers = None;
                self.changed.insert(name);
            }
        }
    }

    /// The engine has answered a command.
    pub(super) fn answered(&mut self, name: &str, subscribed: bool) {
        let Some((name, channel)) = self.channels.get_key_value(name) else { return };
        let name = Arc::clone(name);
        if channel.confirmed == subscribed {
            return;
        }
        if subscribed {
            self.unconfirmed = self.unconfirmed.saturating_sub(1);
        }
        if let Some(channel) = self.channels.get_mut(&name) {
            channel.confirmed = subscribed;
        }
        self.changed.insert(name);
    }

    /// Returns whether the engine has confirmed every channel with subscribers.
    pub(super) fn is_settled(&self) -> bool {
        self.unconfirmed == 0 && self.changed.is_empty()
    }

    pub(super) fn is_confirmed(&self, name: &str) -> bool {
        self.channels.get(name).is_some_and(|channel| channel.asked && channel.confirmed)
    }

    /// Nothing is heard any more.
    pub(super) fn link_lost(&mut self) {
        self.unconfirmed = 0;
        self.channels.retain(|_, channel| channel.is_wanted());
        for channel in self.channels.values_mut() {
            (channel.asked, channel.confirmed) = (false, false);
        }
        self.changed = self.channels.keys().cloned().collect();
    }

    /// Returns when [`next`](Self::next) has something to do, though nothing was added or removed.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lingering.front().map(|(until, _)| *until)
    }

    /// Returns how many channels are heard.
    pub(super) fn heard(&self) -> usize {
        self.channels.values().filter(|channel| channel.confirmed).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(10);

    struct WantedFixture {
        wanted: Wanted,
        now: Instant,
    }

    impl WantedFixture {
        fn new() -> Self {
            Self { wanted: Wanted::new(LINGER), now: Instant::now() }
        }

        fn add(&mut self, name: &str) -> bool {
            self.wanted.add(&name.into())
        }

        fn remove(&mut self, name: &str) {
            self.wanted.remove(&name.into(), self.now);
        }

        /// `+a` for a subscription, `-a` for its end.
        fn next(&mut self) -> Vec<String> {
            let Changes { subscribe, unsubscribe } = self.wanted.next(self.now);
            let all = subscribe.iter().map(|name| format!("+{name}"));
            all.chain(unsubscribe.iter().map(|name| format!("-{name}"))).collect()
        }
    }

    #[test]
    fn a_channel_is_asked_for_once_however_many_subscribe() {
        let mut fixture = WantedFixture::new();
        assert!(!fixture.add("a"));
        assert!(!fixture.add("a") && !fixture.wanted.is_settled());
        assert_eq!(fixture.next(), ["+a"]);
        assert!(!fixture.add("a") && !fixture.wanted.is_settled());
        fixture.wanted.answered("a", true);
        assert_eq!(fixture.next(), [""; 0]);
        assert!(fixture.add("a") && fixture.wanted.is_settled() && fixture.wanted.is_confirmed("a"));
    }

    #[test]
    fn a_channel_is_left_some_time_after_its_last_subscriber() {
        let mut fixture = WantedFixture::new();
        fixture.add("a");
        assert_eq!(fixture.next(), ["+a"]);
        fixture.wanted.answered("a", true);
        fixture.remove("a");
        assert_eq!(fixture.next(), [""; 0]);
        assert!(fixture.add("a"), "still heard");
        fixture.now += LINGER;
        assert_eq!(fixture.next(), [""; 0]);
        fixture.remove("a");
        assert_eq!(fixture.wanted.next_deadline(), Some(fixture.now + LINGER));
        fixture.now += LINGER;
        assert_eq!(fixture.next(), ["-a"]);
        fixture.wanted.answered("a", false);
        assert_eq!(fixture.next(), [""; 0]);
        assert!(fixture.wanted.channels.is_empty());
    }

    #[test]
    fn who_comes_back_before_the_answer_is_subscribed_again() {
        let mut fixture = WantedFixture::new();
        fixture.wanted.linger = Duration::ZERO;
        fixture.add("a");
        assert_eq!(fixture.next(), ["+a"]);
        fixture.remove("a");
        assert_eq!(fixture.next(), [""; 0], "the subscription is unanswered");
        fixture.wanted.answered("a", true);
        assert_eq!(fixture.next(), ["-a"]);
        assert!(!fixture.add("a"));
        assert_eq!(fixture.next(), [""; 0], "the end is unanswered");
        fixture.wanted.answered("a", false);
        assert_eq!(fixture.next(), ["+a"]);
    }

    #[test]
    fn after_a_loss_everything_wanted_is_asked_for_again() {
        let mut fixture = WantedFixture::new();
        for name in ["a", "b", "c"] {
            fixture.add(name);
        }
        assert_eq!(fixture.next(), ["+a", "+b", "+c"]);
        fixture.wanted.answered("a", true);
        fixture.wanted.link_lost();
        assert!(!fixture.wanted.is_settled() && !fixture.wanted.is_confirmed("a"));
        assert_eq!(fixture.next(), ["+a", "+b", "+c"]);
        for name in ["a", "b", "c"] {
            fixture.wanted.answered(name, true);
        }
        assert_eq!(fixture.next(), [""; 0]);
        assert!(fixture.wanted.is_settled());
        assert_eq!(fixture.wanted.heard(), 3);
    }

    #[test]
    fn a_command_names_512_channels_at_most() {
        let mut fixture = WantedFixture::new();
        for number in 0..=MAX_NAMES {
            fixture.add(&number.to_string());
        }
        assert_eq!((fixture.next().len(), fixture.next().len(), fixture.next().len()), (MAX_NAMES, 1, 0));
    }

    #[test]
    fn only_4096_channels_linger() {
        let mut fixture = WantedFixture::new();
        for number in 0..=MAX_LINGERING {
            let name = number.to_string();
            fixture.add(&name);
            fixture.next();
            fixture.wanted.answered(&name, true);
        }
        for number in 0..=MAX_LINGERING {
            fixture.remove(&number.to_string());
        }
        assert_eq!(fixture.next(), [format!("-{MAX_LINGERING}")]);
    }
}
