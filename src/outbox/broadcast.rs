//! Frames that were encoded once for many peers, and what becomes of a peer that cannot take them.

use super::queue::Unit;
use super::{COPIED, Outbox};
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
        let (state, ticket) = self.write_or_keep(state, frame, 1, || unit(frame))?;
        self.unlock(state);
        Ok(ticket)
    }

    /// Sends or queues whole frames, `messages` in number, without waiting; the policy says what a full backlog means.
    pub(crate) fn broadcast(&self, frames: &Arc<[u8]>, messages: u64) -> Fate {
        let mut state = self.state.lock();
        if !state.gate.is_open() {
            return Fate::Gone;
        }
        if state.has_room(frames.len(), Some(self.max_backlog)) {
            // It fails where the socket has.
            let Ok((state, ticket)) = self.write_or_keep(state, frames, messages, || unit(frames)) else {
                return Fate::Gone;
            };
            let fate = if state.queue.is_out(ticket) { Fate::Sent } else { Fate::Queued };
            self.unlock(state);
            return fate;
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

fn unit(frames: &Arc<[u8]>) -> Unit {
    if frames.len() < COPIED { Unit::Frames(frames.to_vec()) } else { Unit::Shared(Arc::clone(frames)) }
}
