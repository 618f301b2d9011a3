//! Sends frames that were encoded once for many connections, and applies [`SlowPeer`] where the backlog is full.
//!
//! The lists of connections are in `hub`.

use super::compression::Compression;
use super::queue::Payload;
use super::state::OutboxState;
use super::{Outbox, Written};
use crate::config::SlowPeer;
use crate::deflate::Saved;
use crate::error::{Cause, Result};
use crate::sync::{Arc, MutexGuard, Ordering};
use std::cell::{Ref, RefCell};

/// Frames of a server for many connections, or for many times. They are compressed once for all peers with the same window.
#[derive(Debug)]
pub(crate) struct SharedFrames {
    plain: Arc<[u8]>,
    /// How many messages they hold.
    messages: u64,
    may_compress: bool,
    /// For each window that a peer has, in bits. `None` if the frames would not be smaller.
    compressed: RefCell<Vec<(u8, Option<CompressedForm>)>>,
}

/// Compressed frames that refer to no message before them.
#[derive(Debug)]
struct CompressedForm {
    bytes: Arc<[u8]>,
    saved: Saved,
}

impl SharedFrames {
    pub(crate) fn new(plain: Arc<[u8]>, messages: u64, may_compress: bool) -> Self {
        Self { plain, messages, may_compress, compressed: RefCell::default() }
    }

    /// Returns the frames as a peer can decompress them, or `None` if they are sent as they are. Compresses them if this is the
    /// first peer with its window.
    fn compressed(&self, compression: &Compression) -> Option<Ref<'_, CompressedForm>> {
        if !self.may_compress || self.plain.len() < compression.shortest() {
            return None;
        }
        let bits = compression.agreed.ours.bits;
        let find = |forms: &[(u8, _)]| forms.iter().position(|(its, _)| *its == bits);
        let found = find(&self.compressed.borrow());
        if found.is_none() {
            let form = compression.compress_shared(&self.plain);
            let form = form.map(|(bytes, saved)| CompressedForm { bytes: bytes.into(), saved });
            self.compressed.borrow_mut().push((bits, form));
        }
        Ref::filter_map(self.compressed.borrow(), |forms| forms.get(find(forms)?)?.1.as_ref()).ok()
    }
}

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
    /// Sends or queues frames, without waiting. Returns the ticket for [`is_out`](Self::is_out).
    ///
    /// Only for servers: each frame of a client needs a mask of its own.
    pub(crate) fn try_send_shared(&self, frames: &SharedFrames) -> Result<u64> {
        let try_send = |state, bytes: &Arc<[u8]>, saved| {
            let mut state = self.admit_to(state, bytes.len(), Some(self.max_backlog))?;
            state.count_shared(saved);
            Ok(self.write(state, Payload::Shared(bytes), frames.messages)?.ticket)
        };
        match self.compression() {
            None => try_send(self.state.lock(), &frames.plain, None),
            Some(compression) => self.with_form(compression, frames, try_send),
        }
    }

    /// Sends or queues frames, without waiting.
    ///
    /// If the backlog is full, skips them or breaks the connection, as [`set_slow_peer`](Self::set_slow_peer) says.
    pub(crate) fn broadcast(&self, frames: &SharedFrames) -> Fate {
        match self.compression() {
            None => self.deliver(self.state.lock(), &frames.plain, None, frames.messages),
            Some(compression) => self.broadcast_compressed(compression, frames),
        }
    }

    fn broadcast_compressed(&self, compression: &Compression, frames: &SharedFrames) -> Fate {
        self.with_form(compression, frames, |state, bytes, saved| {
            self.deliver(state, bytes, saved, frames.messages)
        })
    }

    /// Calls `send` under the lock, with the form of the frames for this peer, and what it saves: compressed if the peer can
    /// decompress it now.
    fn with_form<'a, T>(
        &'a self,
        compression: &Compression,
        frames: &SharedFrames,
        send: impl FnOnce(MutexGuard<'a, OutboxState>, &Arc<[u8]>, Option<Saved>) -> T,
    ) -> T {
        let compressed = frames.compressed(compression);
        let state = self.state.lock();
        let ours = compression.agreed.ours;
        let may_share = state.compression.as_ref().is_some_and(|state| state.may_share(ours));
        let form = compressed.as_deref().filter(|_| may_share);
        send(state, form.map_or(&frames.plain, |form| &form.bytes), form.map(|form| form.saved))
    }

    #[inline(always)]
    fn deliver<'a>(
        &'a self,
        mut state: MutexGuard<'a, OutboxState>,
        bytes: &Arc<[u8]>,
        saved: Option<Saved>,
        messages: u64,
    ) -> Fate {
        let has_room = self.find_room(&mut state, bytes.len(), Some(self.max_backlog));
        if !state.gate.is_open() {
            return Fate::Gone;
        }
        if has_room {
            state.count_shared(saved);
            return match self.write(state, Payload::Shared(bytes), messages) {
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

impl OutboxState {
    /// Counts shared frames, if they were compressed.
    fn count_shared(&mut self, saved: Option<Saved>) {
        if let (Some(saved), Some(compression)) = (saved, &mut self.compression) {
            compression.shared(saved);
        }
    }
}
