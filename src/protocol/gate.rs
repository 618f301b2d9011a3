//! What may still be sent: open, then a Close, then nothing. It only ever moves forward.

use crate::error::Cause;
use crate::message::State;

/// The truth about a connection's sending side. The outbox asks it under its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// A Close is queued or out. RFC 6455 §5.5.1: "The application MUST NOT send any more data frames after sending a
    /// Close frame." We send nothing at all, not even a pong.
    CloseSent,
    /// Nothing more goes out: half a frame may be on the wire.
    Broken(Cause),
    /// Over after a Close.
    Ended,
}

impl Gate {
    /// Whether a frame may be queued.
    #[inline]
    pub(crate) fn is_open(self) -> bool {
        self == Self::Open
    }

    pub(crate) fn is_broken(self) -> bool {
        matches!(self, Self::Broken(_) | Self::Ended)
    }

    /// The reason for which it broke.
    pub(crate) fn cause(self) -> Option<Cause> {
        match self {
            Self::Broken(cause) => Some(cause),
            _ => None,
        }
    }

    /// Breaks it; the first reason stays. Returns whether this was the first.
    pub(crate) fn break_off(&mut self, cause: Cause) -> bool {
        let first = !self.is_broken();
        if first {
            *self = Self::Broken(cause);
        }
        first
    }

    pub(crate) fn state(self) -> State {
        match self {
            Self::Open => State::Open,
            Self::CloseSent => State::Closing,
            Self::Broken(_) | Self::Ended => State::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_kept() {
        let mut gate = Gate::CloseSent;
        assert!(gate.break_off(Cause::Eof));
        assert!(!gate.break_off(Cause::Terminated));
        assert_eq!(gate, Gate::Broken(Cause::Eof));
    }
}
