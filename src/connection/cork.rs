//! The cork: answers and broadcasts of the handler that wait while more input is already here, and leave together, in one
//! system call for each receiver.
//!
//! The connection's own client receives answers and broadcasts in the order of the calls. All other clients receive the
//! broadcasts:
//!
//! ```text
//! handler        write(a)  write_broadcast(B)  write(c)  write_broadcast(D)
//! own client        a              B              c              D             Cork::own
//! other clients                    B                             D             Cork::broadcasts
//! ```
//!
//! Without answers all clients receive the same bytes. Then `own` is empty, and the hub sends `broadcasts` to the own
//! client, too. The first answer copies the broadcasts before it to `own`.

use crate::config::Config;
use crate::error::Result;
use crate::hub::Hub;
use crate::message::{IntoMessage, MessageRef};
use crate::outbox::FrameCounts;
use crate::protocol::{Role, encoder};
use crate::sender::Sender;
use crate::sync::Arc;

/// The size at which held frames are sent. Measured: with 128 KiB, which is the size of a large read, echoes of 1 KiB are a
/// tenth faster than with 64 KiB.
const MAX_CORK: usize = 128 * 1024;
/// The capacity that a cork keeps when its client is silent.
const KEPT: usize = 1024;

/// The payload of a frame that [`encoder::append_short`] appends. Not counted, so that it costs no time.
const SHORT: u32 = 125;

/// Frames that are held. Only the thread of the connection uses them, so there is no lock.
#[derive(Debug)]
pub(super) struct Cork {
    /// For the own client: answers, and the broadcasts between them. Empty if no answer is held.
    own: Frames,
    /// For the other clients, and for the own client if `own` is empty.
    broadcasts: Frames,
    max_broadcasts: usize,
}

/// Whole frames.
#[derive(Debug, Default)]
struct Frames {
    bytes: Vec<u8>,
    // 32 bits are enough for the messages in `MAX_CORK` bytes.
    messages: u32,
    /// The length of the longest message, if it is longer than [`SHORT`].
    longest: u32,
}

/// Where held frames are sent: the own client, and the clients of the hub.
#[derive(Debug, Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) sender: &'a Sender,
    pub(super) hub: &'a Hub,
}

impl Cork {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            own: Frames::default(),
            broadcasts: Frames::default(),
            // A backlog takes the held broadcasts together or not at all. A quarter leaves room for several of them.
            max_broadcasts: MAX_CORK.min(config.max_backlog() / 4),
        }
    }

    /// Returns whether broadcasts are held.
    #[inline]
    pub(super) fn has_broadcasts(&self) -> bool {
        !self.broadcasts.bytes.is_empty()
    }

    /// Appends an answer, and sends everything unless `hold`.
    #[inline]
    pub(super) fn write(&mut self, to: To<'_>, message: impl IntoMessage, hold: bool) -> Result<()> {
        let view = message.as_message();
        let payload = view.as_bytes();
        if hold
            && message.may_compress()
            && !self.has_broadcasts()
            && self.own.bytes.len() + payload.len() <= MAX_CORK
            && encoder::append_short(to.sender.outbox().role(), view.into(), payload, &mut self.own.bytes)
        {
            self.own.messages += 1;
            return Ok(());
        }
        let size = payload.len();
        let is_alone = !hold && self.len() == 0;
        if is_alone || size >= MAX_CORK || !holds(to, &message) {
            self.flush(to)?;
            return to.sender.outbox().send(message);
        }
        if self.len() + size > MAX_CORK {
            self.flush(to)?;
        }
        if self.own.bytes.is_empty() {
            self.own.bytes.extend_from_slice(&self.broadcasts.bytes);
            (self.own.messages, self.own.longest) = (self.broadcasts.messages, self.broadcasts.longest);
        }
        self.own.append(to.sender.outbox().role(), view);
        // The last answer of a burst leaves together with the others.
        if hold { Ok(()) } else { self.flush(to) }
    }

    /// Appends a broadcast, and sends everything unless `hold`. Called on a server's connection only.
    pub(super) fn broadcast(&mut self, to: To<'_>, message: impl IntoMessage, hold: bool) -> Result<()> {
        let view = message.as_message();
        let size = view.as_bytes().len();
        let is_alone = !hold && self.len() == 0;
        // An error concerns the own client. The others receive the message all the same.
        if is_alone || size >= self.max_broadcasts || !message.may_compress() {
            let flushed = self.flush(to);
            to.hub.broadcast(message);
            return flushed;
        }
        let is_full = self.len() + size > self.max_broadcasts;
        let flushed = if is_full { self.flush(to) } else { Ok(()) };
        if !self.own.bytes.is_empty() {
            self.own.append(Role::Server, view);
        }
        self.broadcasts.append(Role::Server, view);
        let last = if hold { Ok(()) } else { self.flush(to) };
        flushed.and(last)
    }

    /// Sends what is held, and waits until the own client's socket has taken the answers.
    #[inline]
    pub(super) fn flush(&mut self, to: To<'_>) -> Result<()> {
        self.flush_broadcasts(to);
        if self.own.bytes.is_empty() {
            return Ok(());
        }
        let counts = self.own.take_counts();
        to.sender.outbox().send_frames(&mut self.own.bytes, counts)
    }

    /// Sends or queues what is held, without waiting. If the answers do not fit into the backlog, they stay here, and the
    /// result is [`Error::Full`](crate::Error::Full).
    pub(super) fn try_flush(&mut self, to: To<'_>) -> Result<()> {
        self.queue(to, Some(to.sender.outbox().max_backlog()))
    }

    /// Sends or queues what is held, without waiting and without a limit, because a Close or nothing at all follows it.
    pub(super) fn queue_all(&mut self, to: To<'_>) {
        // Ignored: it fails only if the connection has ended.
        drop(self.queue(to, None));
    }

    fn queue(&mut self, to: To<'_>, bound: Option<usize>) -> Result<()> {
        self.flush_broadcasts(to);
        if self.own.bytes.is_empty() {
            return Ok(());
        }
        let counts = self.own.counts();
        let result = to.sender.outbox().queue_frames(&mut self.own.bytes, counts, bound);
        if self.own.bytes.is_empty() {
            self.own.take_counts();
        }
        result
    }

    #[inline]
    fn flush_broadcasts(&mut self, to: To<'_>) {
        if self.has_broadcasts() {
            self.send_broadcasts(to);
        }
    }

    fn send_broadcasts(&mut self, to: To<'_>) {
        let frames: Arc<[u8]> = self.broadcasts.bytes.as_slice().into();
        let messages = self.broadcasts.take_counts().messages;
        self.broadcasts.bytes.clear();
        // With answers among them, the own client receives the broadcasts from `own`.
        let except = (!self.own.bytes.is_empty()).then(|| to.sender.id());
        to.hub.broadcast_frames(except, frames, messages);
    }

    /// The size of the frames that the own client will receive.
    fn len(&self) -> usize {
        self.own.bytes.len().max(self.broadcasts.bytes.len())
    }

    /// Exchanges the memory for answers, if no answer is held.
    pub(super) fn exchange_memory(&mut self, memory: &mut Vec<u8>) {
        if self.own.bytes.is_empty() {
            std::mem::swap(&mut self.own.bytes, memory);
        }
    }

    /// Frees the memory that only a busy connection needs.
    pub(super) fn release_memory(&mut self) {
        self.own.bytes.shrink_to(KEPT);
        self.broadcasts.bytes.shrink_to(0);
    }
}

/// Returns whether an answer can be held. What is held is compressed when it leaves, so a message that must not be compressed is
/// not held. A client's frames have masks, so they have to be compressed before they are held.
fn holds(to: To<'_>, message: &impl IntoMessage) -> bool {
    let outbox = to.sender.outbox();
    if message.may_compress() {
        outbox.role() == Role::Server || !outbox.compresses(message)
    } else {
        outbox.compression().is_none()
    }
}

impl Frames {
    fn counts(&self) -> FrameCounts {
        FrameCounts { messages: self.messages.into(), longest: self.longest.max(SHORT) as usize }
    }

    /// Returns the counts, and resets them.
    fn take_counts(&mut self) -> FrameCounts {
        let counts = self.counts();
        (self.messages, self.longest) = (0, 0);
        counts
    }

    fn append(&mut self, role: Role, message: MessageRef<'_>) {
        self.longest = self.longest.max(u32::try_from(message.as_bytes().len()).unwrap_or(u32::MAX));
        encoder::append(role, message.into(), message.as_bytes(), &mut self.bytes);
        self.messages += 1;
    }
}
