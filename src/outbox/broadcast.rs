//! Frames that were encoded once for many peers, and what becomes of a peer that cannot take them.

use super::queue::Payload;
use super::{Outbox, Written};
use crate::config::SlowPeer;
use crate::error::{Cause, Result};
use crate::sync::{Arc, Ordering};

/// What became of frames that were sent to many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The socket took all of it.
    Sent,
    /// It waits, or its rest does.
    Queued,
    /// The backlog is full, and the peer misses it.
    Skipped,
    /// The backlog is full, and the connection was ended for it.
    Closed,
    /// The connection was ending already.
    Gone,
}

impl Outbox {
    /// Sends or queues a frame that is encoded already, without waiting. Only a server has such frames to share.
    pub(crate) fn try_send_shared(&self, frame: &Arc<[u8]>) -> Result<u64> {
        let state = self.admit(frame.len(), Some(self.max_backlog))?;
        Ok(self.write(state, Payload::Shared(frame), 1)?.ticket)
    }

    /// Sends or queues whole frames, `messages` in number, without waiting; the policy says what a full backlog means.
    pub(crate) fn broadcast(&self, frames: &Arc<[u8]>, messages: u64) -> Fate {
        let mut state = self.state.lock();
        if !state.gate.is_open() {
            return Fate::Gone;
        }
        if state.has_room(frames.len(), Some(self.max_backlog)) {
            return match self.write(state, Payload::Shared(frames), messages) {
                Ok(Written { is_out: true, .. }) => Fate::Sent,
                Ok(_) => Fate::Queued,
                // It fails where the socket has.
                Err(_) => Fate::Gone,
            };
        }
        if self.skips.load(Ordering::Relaxed) {
            state.skipped += messages;
            return Fate::Skipped;
        }
        self.break_gate(&mut state, Cause::SlowPeer);
        Fate::Closed
    }

    /// What a full backlog means to broadcasts.
    pub(crate) fn set_slow_peer(&self, policy: SlowPeer) {
        self.skips.store(policy == SlowPeer::Skip, Ordering::Relaxed);
    }
}
