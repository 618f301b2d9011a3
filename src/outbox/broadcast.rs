//! Sends frames that were encoded once for many connections, and applies [`SlowPeer`] where the backlog is full.
//!
//! The lists of connections are in `hub`.

use super::queue::Payload;
use super::{Outbox, Written};
use crate::config::SlowPeer;
use crate::error::{Cause, Result};
use crate::sync::{Arc, Ordering};

/// The result of a broadcast on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The socket took all bytes.
    Sent,
    /// Some bytes are queued.
    Queued,
    /// The backlog is full, and the message was dropped for this client.
    Skipped,
    /// The backlog is full, and the connection was broken.
    Closed,
    /// The connection was closing or closed before.
    Gone,
}

impl Outbox {
    /// Sends or queues one frame, without waiting. Returns the ticket for [`is_out`](Self::is_out).
    ///
    /// Only for servers: each frame of a client needs a mask of its own.
    pub(crate) fn try_send_shared(&self, frame: &Arc<[u8]>) -> Result<u64> {
        let state = self.admit(frame.len(), Some(self.max_backlog))?;
        Ok(self.write(state, Payload::Shared(frame), 1)?.ticket)
    }

    /// Sends or queues frames that hold `messages` messages, without waiting.
    ///
    /// If the backlog is full, skips them or breaks the connection, as [`set_slow_peer`](Self::set_slow_peer) says.
    pub(crate) fn broadcast(&self, frames: &Arc<[u8]>, messages: u64) -> Fate {
        let mut state = self.state.lock();
        let has_room = self.find_room(&mut state, frames.len(), Some(self.max_backlog));
        if !state.gate.is_open() {
            return Fate::Gone;
        }
        if has_room {
            return match self.write(state, Payload::Shared(frames), messages) {
                Ok(Written { is_out: true, .. }) => Fate::Sent,
                Ok(_) => Fate::Queued,
                // The socket failed, and the connection is broken.
                Err(_) => Fate::Gone,
            };
        }
        if self.skips.load(Ordering::Relaxed) {
            state.skipped += messages;
            self.unlock(state);
            return Fate::Skipped;
        }
        self.break_gate(&mut state, Cause::SlowPeer);
        Fate::Closed
    }

    /// Sets what a broadcast does when the backlog is full.
    pub(crate) fn set_slow_peer(&self, policy: SlowPeer) {
        self.skips.store(policy == SlowPeer::Skip, Ordering::Relaxed);
    }
}
