//! Deadlines: one time limit for several system calls. How threads wait for them is in `stream.rs`, `wake.rs` and
//! `sync.rs`.

use crate::sync::now;
use std::time::{Duration, Instant};

/// The moment at which a wait ends with a timeout, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) const NEVER: Self = Self(None);

    pub(crate) fn after(timeout: Duration) -> Self {
        // An `Instant` that overflows is later than the end of the process, so it is never.
        Self(now().checked_add(timeout))
    }

    pub(crate) fn at(moment: Instant) -> Self {
        Self(Some(moment))
    }

    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Returns the remaining time: zero after the deadline, `None` if there is no deadline.
    pub(crate) fn left(self, now: Instant) -> Option<Duration> {
        self.0.map(|moment| moment.saturating_duration_since(now))
    }

    pub(crate) fn has_passed(self, now: Instant) -> bool {
        self.0.is_some_and(|moment| moment <= now)
    }

    /// Returns whether the deadline is at most `span` away.
    #[inline]
    pub(crate) fn is_within(self, span: Duration, now: Instant) -> bool {
        self.0.is_some_and(|moment| moment <= now + span)
    }

    /// Returns the earlier of two deadlines.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        })
    }
}

impl From<Option<Instant>> for Deadline {
    fn from(moment: Option<Instant>) -> Self {
        Self(moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_compared_with_a_given_time() {
        let now = Instant::now();
        let soon = Deadline::at(now);
        let later = Deadline::at(now + Duration::from_secs(1));
        assert_eq!(soon.or(later), soon);
        assert_eq!(Deadline::NEVER.or(later), later);
        assert!(soon.has_passed(now));
        assert!(later.is_within(Duration::from_secs(1), now));
        assert!(!later.is_within(Duration::from_millis(999), now));
        assert_eq!(later.left(now), Some(Duration::from_secs(1)));
        assert!(!Deadline::after(Duration::MAX).has_passed(now));
    }
}
