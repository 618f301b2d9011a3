//! One time budget over many system calls.

use crate::sync::now;
use std::time::{Duration, Instant};

/// A moment after which a wait has failed; or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) const NEVER: Self = Self(None);

    pub(crate) fn after(budget: Duration) -> Self {
        // What overflows an `Instant` is further away than the process lives.
        Self(now().checked_add(budget))
    }

    pub(crate) fn at(moment: Instant) -> Self {
        Self(Some(moment))
    }

    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    /// What is left; zero if it has passed, `None` if it never will.
    pub(crate) fn left(self, now: Instant) -> Option<Duration> {
        self.0.map(|moment| moment.saturating_duration_since(now))
    }

    pub(crate) fn has_passed(self, now: Instant) -> bool {
        self.0.is_some_and(|moment| moment <= now)
    }

    /// Whether it comes within `span`.
    #[inline]
    pub(crate) fn is_within(self, span: Duration, now: Instant) -> bool {
        self.0.is_some_and(|moment| moment <= now + span)
    }

    /// The earlier of two.
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
    fn the_earlier_deadline_counts() {
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
