//! Compression between the message and the queue: permessage-deflate (RFC 7692).
//!
//! A message is compressed without a lock, before it is queued. No sender waits for another one that compresses: a message that
//! cannot be compressed at this moment is sent as it is.
//!
//! With context takeover a message is compressed against the connection's window, and the peer decompresses it against the same
//! one. So a sender takes the window out of the state, and the lock is free while it compresses. The window with the message is
//! put back in the critical section that queues the message. Until then all other messages are sent as they are. If the message
//! is not queued in the end, the window is put back as it was.

use super::queue::Payload;
use super::state::OutboxState;
use super::{FrameCounts, Outbox, Written};
use crate::deflate::{Deflate, Saved};
use crate::deflate_pool::DeflatePool;
use crate::error::Result;
use crate::message::MessageRef;
use crate::protocol::Role;
use crate::protocol::deflate::{
    Agreed, Compressor, Decompressor, Direction, Window, append_compressed, compress_frames, compressor_bits,
};
use crate::sync::{Arc, AtomicU64, Ordering};
use http::HeaderValue;

/// The agreement with the peer, and the compressors.
#[derive(Debug)]
pub(crate) struct Compression {
    pub(crate) agreed: Agreed,
    /// The header `Sec-WebSocket-Extensions` of the 101.
    pub(crate) extensions: Box<str>,
    level: u8,
    shortest: usize,
    pool: Arc<DeflatePool>,
    received: SavedCounters,
}

/// The messages that the peer has compressed. Only the thread that reads writes it. Relaxed: no number depends on another.
#[derive(Debug, Default)]
struct SavedCounters {
    messages: AtomicU64,
    plain: AtomicU64,
    compressed: AtomicU64,
}

/// The part of it that the outbox's mutex guards.
#[derive(Debug)]
pub(super) struct CompressionState {
    /// With context takeover. `None` while a sender compresses against it.
    window: Option<Window>,
    saved: Saved,
}

/// Compressed frames that are not queued yet.
pub(super) struct CompressedFrames<'a> {
    bytes: Vec<u8>,
    saved: Saved,
    window: Option<TakenWindow<'a>>,
}

/// The window of a connection while a sender compresses against it. It is put back when this is dropped.
struct TakenWindow<'a> {
    outbox: &'a Outbox,
    /// As it was. `None` when it was put back.
    before: Option<Window>,
    /// With the messages that were compressed.
    after: Window,
}

impl Compression {
    pub(crate) fn new(
        agreed: Agreed,
        extensions: &HeaderValue,
        settings: &Deflate,
        pool: Arc<DeflatePool>,
    ) -> Self {
        Self {
            agreed,
            extensions: extensions.to_str().unwrap_or_default().into(),
            level: settings.effort(),
            shortest: settings.shortest(),
            pool,
            received: SavedCounters::default(),
        }
    }

    /// Returns the length of the shortest message that is compressed.
    pub(super) fn shortest(&self) -> usize {
        self.shortest
    }

    pub(super) fn state(&self) -> CompressionState {
        let Direction { bits, takeover } = self.agreed.ours;
        CompressionState { window: takeover.then(|| Window::new(bits)), saved: Saved::default() }
    }

    /// Calls `compress` with a compressor for this connection. Returns `None` if too many are used, or if it returns so.
    fn with_compressor<T>(&self, compress: impl FnOnce(&mut Compressor) -> Option<T>) -> Option<T> {
        let bits = compressor_bits(self.agreed.ours.bits);
        let mut compressor = self.pool.take_compressor(self.level, bits)?;
        let result = compress(&mut compressor);
        self.pool.put_compressor(compressor);
        result
    }

    /// Compresses frames for this peer and all others with the same window. They refer to no message before them.
    pub(super) fn compress_shared(&self, frames: &[u8]) -> Option<(Vec<u8>, Saved)> {
        let bits = self.agreed.ours.bits;
        self.with_compressor(|compressor| compress_frames(frames, self.shortest, compressor, bits, None))
    }

    pub(crate) fn take_decompressor(&self) -> Option<Decompressor> {
        self.pool.take_decompressor()
    }

    /// Takes a decompressor back behind a message. `saved` is the sum of all messages so far.
    pub(crate) fn put_decompressor(&self, decompressor: Decompressor, saved: Saved) {
        self.received.messages.store(saved.messages, Ordering::Relaxed);
        self.received.plain.store(saved.plain_bytes, Ordering::Relaxed);
        self.received.compressed.store(saved.compressed_bytes, Ordering::Relaxed);
        self.pool.put_decompressor(decompressor);
    }

    fn received(&self) -> Saved {
        Saved {
            messages: self.received.messages.load(Ordering::Relaxed),
            plain_bytes: self.received.plain.load(Ordering::Relaxed),
            compressed_bytes: self.received.compressed.load(Ordering::Relaxed),
        }
    }
}

impl CompressionState {
    /// Returns whether frames may be sent that refer to no message before them.
    ///
    /// While a sender compresses against the window they may not, because the peer's window would contain their messages, and
    /// that sender's would not.
    pub(super) fn may_share(&self, ours: Direction) -> bool {
        self.window.is_some() || !ours.takeover
    }

    /// Called when such frames are queued. The next messages do not refer to those before them, because copying the frames'
    /// messages to each window would cost more than a delivery.
    pub(super) fn shared(&mut self, saved: Saved) {
        self.saved.add(saved);
        if let Some(window) = &mut self.window {
            window.clear();
        }
    }

    /// Frees the window at the end of the connection.
    pub(super) fn release(&mut self) {
        self.window = None;
    }
}

impl OutboxState {
    /// Returns what compression has saved of the sent messages.
    pub(super) fn saved(&self) -> Saved {
        self.compression.as_ref().map_or_else(Saved::default, |compression| compression.saved)
    }
}

impl Outbox {
    /// Returns what compression has saved of the received messages.
    pub(super) fn saved_received(&self) -> Saved {
        self.compression.as_ref().map_or_else(Saved::default, |compression| compression.received())
    }

    /// Compresses one message, and sends or queues it. Returns `None` if it has to be sent as it is.
    pub(super) fn send_smaller(
        &self,
        message: MessageRef<'_>,
        bound: Option<usize>,
        waits: bool,
    ) -> Option<Result<Written>> {
        let frames = self.compress_with(|compressor, bits, window| {
            let (mut bytes, mut saved) = (Vec::new(), Saved::default());
            let plain = message.as_bytes();
            append_compressed(self.role, message.into(), plain, compressor, bits, window, &mut bytes).then(
                || {
                    saved.count(plain.len(), bytes.len());
                    (bytes, saved)
                },
            )
        })?;
        Some(self.send_compressed(frames, 1, bound, waits))
    }

    /// Compresses the frames that the cork has held, and sends or queues them. Returns `None` if they have to be sent as they
    /// are. A client's cork holds only frames that are too short.
    #[inline]
    pub(super) fn send_corked_smaller(
        &self,
        frames: &[u8],
        counts: FrameCounts,
        bound: Option<usize>,
        waits: bool,
    ) -> Option<Result<Written>> {
        if counts.longest < self.compress_from || self.role == Role::Client {
            return None;
        }
        self.send_frames_smaller(frames, counts.messages, bound, waits)
    }

    /// Compresses whole unmasked frames, and sends or queues them. Returns `None` if they have to be sent as they are.
    fn send_frames_smaller(
        &self,
        frames: &[u8],
        messages: u64,
        bound: Option<usize>,
        waits: bool,
    ) -> Option<Result<Written>> {
        let shortest = self.compress_from;
        let frames = self.compress_with(|compressor, bits, window| {
            compress_frames(frames, shortest, compressor, bits, window)
        })?;
        Some(self.send_compressed(frames, messages, bound, waits))
    }

    fn compress_with(
        &self,
        compress: impl FnOnce(&mut Compressor, u8, Option<&mut Window>) -> Option<(Vec<u8>, Saved)>,
    ) -> Option<CompressedFrames<'_>> {
        let compression = self.compression.as_ref()?;
        let Direction { bits, takeover } = compression.agreed.ours;
        let mut window = if takeover { Some(self.take_window()?) } else { None };
        let after = window.as_mut().map(|window| &mut window.after);
        let (bytes, saved) = compression.with_compressor(|compressor| compress(compressor, bits, after))?;
        Some(CompressedFrames { bytes, saved, window })
    }

    /// Takes the window. Returns `None` while another sender has it.
    fn take_window(&self) -> Option<TakenWindow<'_>> {
        let before = self.state.lock().compression.as_mut()?.window.take()?;
        let after = before.clone();
        Some(TakenWindow { outbox: self, before: Some(before), after })
    }

    /// Sends or queues compressed frames. If the caller `waits`, returns when the socket has taken all of them.
    fn send_compressed(
        &self,
        mut frames: CompressedFrames<'_>,
        messages: u64,
        bound: Option<usize>,
        waits: bool,
    ) -> Result<Written> {
        let mut state = self.admit(frames.bytes.len(), bound)?;
        frames.commit(&mut state);
        let bytes = &frames.bytes;
        let payload = if waits { Payload::Lent([bytes, &[]]) } else { Payload::Copied(bytes) };
        self.write(state, payload, messages)
    }
}

impl CompressedFrames<'_> {
    /// Puts the window back, with the messages. Called under the lock under which they are queued.
    fn commit(&mut self, state: &mut OutboxState) {
        let Some(compression) = &mut state.compression else { return };
        compression.saved.add(self.saved);
        if let Some(window) = &mut self.window {
            window.before = None;
            compression.window = Some(std::mem::replace(&mut window.after, Window::new(0)));
        }
    }
}

impl Drop for TakenWindow<'_> {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else { return };
        let mut state = self.outbox.state.lock();
        let is_over = state.stream.is_none();
        if let Some(compression) = state.compression.as_mut().filter(|_| !is_over) {
            compression.window = Some(before);
        }
    }
}
