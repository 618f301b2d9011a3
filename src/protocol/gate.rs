//! The gate: whether a connection can still send frames. It is open, then closed after a Close frame, and never opens again.
//!
//! The outbox holds the gate under its lock, see `outbox/state.rs`.

use crate::error::Cause;

/// The state of a connection's sending side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// A Close is queued or was sent. RFC 6455 §5.5.1: "The application MUST NOT send any more data frames after sending a
    /// Close frame." Nothing at all is sent, not even a pong.
    CloseSent,
    /// Nothing more can be sent, because part of a frame may be on the wire.
    Broken(Cause),
    /// The connection has ended after a Close.
    Ended,
}

impl Gate {
    /// Returns whether a frame can be queued.
    #[inline]
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Open)
    }

    /// Returns whether nothing more is sent or queued, not even control frames.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Broken(_) | Self::Ended)
    }

    /// Returns why the connection broke.
    pub(crate) fn cause(self) -> Option<Cause> {
        match self {
            Self::Broken(cause) => Some(cause),
            _ => None,
        }
    }

    /// Breaks the connection. The first cause is kept. Returns whether this was the first.
    pub(crate) fn break_off(&mut self, cause: Cause) -> bool {
        let first = !self.is_over();
        if first {
            *self = Self::Broken(cause);
        }
        first
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
