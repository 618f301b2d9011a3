//! The reading side: one buffer, refilled from the socket, taken apart by the decoder.

use crate::config::Config;
use crate::error::{Result, Violation};
use crate::message::{Message, MessageRef};
use crate::net::{Deadline, Stream};
use crate::outbox::Counts;
use crate::protocol::Role;
use crate::protocol::decoder::{self, Decoder, Item, Span};
use crate::sync::Arc;
use std::io;
use std::time::{Duration, Instant};

/// What a connection holds that is new or at rest: room for any control frame, and for what most clients say at a time.
const RESTING_BUFFER: usize = 512;
/// What it holds once a read has filled that.
const IDLE_BUFFER: usize = 4 * 1024;
/// What a busy one reads into. Measured: 64 KiB is the worst size for messages of 64 KiB, whose headers make them need
/// two reads.
const BULK_BUFFER: usize = 128 * 1024;
/// After so many reads in a row that an idle buffer had held, the large one is given back.
const SMALL_READS: u32 = 32;
/// A remainder of at least this size is read straight into its message: below it, a second read costs more than a copy.
const DIRECT: usize = 16 * 1024;

/// Bytes from the peer, and what they mean. In this order for the [`Connection`](super::Connection)'s reason.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Reader {
    message_timeout: Duration,
    /// The read timeout that the socket has: a deadline that comes sooner is waited for by `poll`.
    armed: Duration,
    decoder: Decoder,
    stream: Arc<Stream>,
    /// Zeroed once, when it is allocated: `start..end` is unread.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    small_reads: u32,
    last_was_full: bool,
    /// Bytes came since `last_life` was told.
    lives: bool,
    counts: Counts,
    /// When the last byte came, as far as is known: see [`last_life`](Self::last_life).
    last_life: Instant,
    /// What the read timeout is to be once a read has found nothing.
    read_timeout: Duration,
    /// When the message began of which a part is here. It runs only while somebody reads.
    message_started: Option<Instant>,
}

impl Reader {
    /// `early` are bytes that came behind the handshake.
    pub(super) fn new(role: Role, config: &Config, stream: Arc<Stream>, early: &[u8]) -> io::Result<Self> {
        let read_timeout = config.read_timeout();
        let armed = match stream.inherited_read_timeout() {
            Some(armed) if armed <= read_timeout => armed,
            _ => {
                stream.set_read_timeout(read_timeout)?;
                read_timeout
            }
        };
        let size = RESTING_BUFFER.max(early.len());
        let mut buffer = Vec::with_capacity(size);
        buffer.extend_from_slice(early);
        buffer.resize(size, 0);
        Ok(Self {
            stream,
            decoder: Decoder::new(role, config.max_message_size()),
            buffer,
            start: 0,
            end: early.len(),
            small_reads: 0,
            last_was_full: false,
            armed,
            read_timeout,
            counts: Counts { messages: 0, bytes: early.len() as u64 },
            last_life: Instant::now(),
            lives: false,
            message_timeout: config.message_timeout(),
            message_started: None,
        })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether bytes are here that no item was made of yet.
    #[inline]
    pub(super) fn has_unread(&self) -> bool {
        self.start < self.end
    }

    /// The next item that is whole. Its place is that of [`bytes`](Self::bytes), until the next call.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "only this file moves `start` and `end`, and keeps them in order"
    )]
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        let base = self.start;
        let step = self.decoder.next(&mut self.buffer[base..self.end])?;
        self.start += step.used;
        let Some(item) = step.item else { return Ok(None) };
        if item.is_data() {
            self.message_started = None;
        }
        Ok(Some(item.shifted(base)))
    }

    /// The next item, if it is a message that [`Decoder::short`] knows.
    #[inline]
    pub(super) fn next_short(&mut self) -> Option<Item> {
        let base = self.start;
        let step = self.decoder.next_short(self.buffer.get_mut(base..self.end)?)?;
        self.start += step.used;
        self.message_started = None;
        Some(step.item?.shifted(base))
    }

    /// The payload of an item that lies in the buffer.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "`next` has given the span, for the buffer as it still is")]
    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        &self.buffer[span.range()]
    }

    /// Validates a text, so that its item can be lent. It counts as received then.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "`next` has given the span, for the buffer as it still is")]
    pub(super) fn prepare(&mut self, item: Item) -> Result<Item, Violation> {
        let item = match item {
            Item::Text(span) => {
                self.decoder.copy_text(&self.buffer[span.range()])?;
                Item::Assembled
            }
            item => item,
        };
        self.counts.messages += 1;
        Ok(item)
    }

    /// The message of a [prepared](Self::prepare) data item, borrowed.
    #[inline]
    pub(super) fn view(&self, item: Item) -> MessageRef<'_> {
        match item {
            Item::Binary(span) => MessageRef::Binary(self.bytes(span)),
            _ => self.decoder.assembled(),
        }
    }

    /// The payload of a binary item, copied. It counts as received then.
    #[inline]
    pub(super) fn copy(&mut self, span: Span) -> Vec<u8> {
        self.counts.messages += 1;
        self.bytes(span).to_vec()
    }

    /// The payload of a text item, validated and copied. It counts as received then.
    #[inline]
    pub(super) fn copy_text(&mut self, span: Span) -> Result<String, Violation> {
        let text = decoder::text(self.bytes(span))?.to_owned();
        self.counts.messages += 1;
        Ok(text)
    }

    /// The message of an assembled item, moved out. It counts as received then.
    pub(super) fn take(&mut self) -> Message {
        self.counts.messages += 1;
        self.decoder.take()
    }

    /// Whether nothing has begun whose end is missing.
    #[inline]
    pub(super) fn is_between_messages(&mut self) -> bool {
        let is_between = !self.has_unread() && !self.decoder.is_inside_message();
        if is_between {
            self.message_started = None;
        }
        is_between
    }

    /// The deadline of the message that has begun, which starts here if one has.
    pub(super) fn message_deadline(&mut self, now: Instant) -> Deadline {
        if self.is_between_messages() {
            return Deadline::NEVER;
        }
        let started = *self.message_started.get_or_insert(now);
        started.checked_add(self.message_timeout).into()
    }

    /// When the last byte came. What came with the last read is taken to have come `now`: that saves asking the clock
    /// after each read too, and a peer is not silent while nobody listens.
    pub(super) fn last_life(&mut self, now: Instant) -> Instant {
        if std::mem::take(&mut self.lives) {
            self.last_life = now;
        }
        self.last_life
    }

    /// Lets the message clock stand still for the time in which nobody read.
    pub(super) fn skip_pause(&mut self, pause: Duration) {
        if let Some(started) = &mut self.message_started {
            *started += pause;
        }
    }

    /// Reads more bytes, and waits for them until the first of two deadlines. Zero is the end of the stream; `WouldBlock`
    /// says that nothing came. The rough one may be a sixteenth of the socket's own timeout late: early enough for keepalive,
    /// and it saves a `poll` before each read of a busy connection.
    pub(super) fn fill(&mut self, now: Instant, exact: Deadline, rough: Deadline) -> io::Result<usize> {
        let wait = !exact.is_within(self.armed, now) && !rough.is_within(self.armed - self.armed / 17, now);
        if !wait && !self.stream.wait_readable(exact.or(rough))? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read(wait)
    }

    /// Reads more bytes. With `wait` it waits for them, until the socket's own timeout.
    pub(super) fn read(&mut self, wait: bool) -> io::Result<usize> {
        let count = self.read_to_place(wait)?;
        self.counts.bytes += count as u64;
        self.lives = true;
        Ok(count)
    }

    /// Reads into the message that is arriving, if much of it is missing, else into the buffer.
    fn read_to_place(&mut self, wait: bool) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Some((message, left)) = self.decoder.direct() {
                if left >= DIRECT {
                    // Grows with what has arrived, never with what was announced; and never beyond this frame, because a
                    // read fills all the room there is.
                    if message.capacity() == message.len() {
                        message.reserve_exact(left.min(message.len().max(BULK_BUFFER)));
                    } else if message.capacity() - message.len() > left {
                        message.shrink_to(message.len() + left);
                    }
                    if message.capacity() - message.len() <= left {
                        let count = self.stream.read_append(message, wait)?;
                        self.decoder.directly_read(count);
                        return Ok(count);
                    }
                }
            }
        }
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let size = room.len();
        let count = self.stream.read(room, wait)?;
        self.end += count;
        self.last_was_full = count == size;
        self.small_reads = if count < IDLE_BUFFER / 2 { self.small_reads.saturating_add(1) } else { 0 };
        Ok(count)
    }

    /// Moves what is unread to the front, into a larger buffer while reads come back full, into a small one after a
    /// number of small reads.
    fn make_room(&mut self) {
        let mut size = self.buffer.len();
        if self.last_was_full {
            size = if size < IDLE_BUFFER { IDLE_BUFFER } else { BULK_BUFFER };
            self.small_reads = 0;
        } else if self.small_reads == SMALL_READS {
            // Once, and not at each of the small reads that follow.
            self.decoder.release_memory();
            size = size.min(IDLE_BUFFER);
        }
        if self.start > 0 || size != self.buffer.len() {
            self.resize(size);
        }
    }

    /// Moves what is unread to the front of a buffer of that size, if it fits.
    fn resize(&mut self, size: usize) {
        let unread = self.start..self.end;
        if size != self.buffer.len() && unread.len() < size {
            let mut buffer = vec![0; size];
            let (from, to) = (self.buffer.get(unread.clone()), buffer.get_mut(..unread.len()));
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
            self.buffer = buffer;
        } else if unread.start > 0 {
            self.buffer.copy_within(unread.clone(), 0);
        }
        (self.start, self.end) = (0, unread.len());
    }

    /// Has the socket wait for as long as there is nothing to do, after a first read that has found nothing: whoever is not
    /// silent for so long does without this system call.
    pub(super) fn arm(&mut self) {
        if self.armed < self.read_timeout && self.stream.set_read_timeout(self.read_timeout).is_ok() {
            self.armed = self.read_timeout;
        }
    }

    /// Gives memory back that only a busy connection needs.
    pub(super) fn rest(&mut self) {
        self.last_was_full = false;
        self.decoder.release_memory();
        self.resize(RESTING_BUFFER);
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::net::stream::prepare_listener;
    use crate::protocol::encoder::{Opcode, append};
    use rustix::net::sockopt::{Timeout, socket_timeout};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_client_that_rests_holds_no_more_than_before_its_large_message() {
        const SIZE: usize = 1 << 20;
        let (ours, peers) = UnixStream::pair().expect("a pair");
        let stream = Arc::new(Stream::new(ours).expect("a stream"));
        let config = Config::new();
        let mut reader = Reader::new(Role::Server, &config, stream, &[]).expect("a reader");
        let before = reader.buffer.capacity();
        let mut frames = Vec::new();
        for opcode in [Opcode::Binary, Opcode::Text] {
            append(Role::Client, opcode, &vec![b'x'; SIZE], &mut frames);
        }
        let writer = std::thread::spawn(move || {
            use std::io::Write as _;
            (&peers).write_all(&frames).expect("it is read");
            peers
        });
        for _ in 0..2 {
            let item = loop {
                match reader.next().expect("well formed") {
                    Some(item) => break item,
                    None => assert!(reader.read(true).expect("open") > 0),
                }
            };
            assert_eq!(item, Item::Assembled);
            let message = reader.take();
            assert_eq!(message.len(), SIZE);
            if let Message::Binary(bytes) = message {
                assert_eq!(bytes.capacity(), SIZE, "a kept message pins no more than itself");
            }
        }
        drop(writer.join().expect("it ends"));
        reader.rest();
        assert_eq!(reader.buffer.capacity(), before);
        assert!(!reader.has_unread());
        assert_eq!(reader.decoder.allocated(), 0, "what the decoder holds");
    }

    #[test]
    fn a_lent_message_leaves_its_memory_to_the_next_one_until_the_peer_rests() {
        const SIZE: usize = 1 << 20;
        let (ours, peers) = UnixStream::pair().expect("a pair");
        let stream = Arc::new(Stream::new(ours).expect("a stream"));
        let mut reader = Reader::new(Role::Server, &Config::new(), stream, &[]).expect("a reader");
        let mut frames = Vec::new();
        // The last is smaller, and yet so large that it is read to where it goes.
        for size in [SIZE, SIZE, SIZE - 100_000] {
            append(Role::Client, Opcode::Binary, &vec![b'x'; size], &mut frames);
        }
        let writer = std::thread::spawn(move || {
            use std::io::Write as _;
            (&peers).write_all(&frames).expect("it is read");
            peers
        });
        let mut places = Vec::new();
        for size in [SIZE, SIZE, SIZE - 100_000] {
            let item = loop {
                match reader.next().expect("well formed") {
                    Some(item) => break item,
                    None => assert!(reader.read(true).expect("open") > 0),
                }
            };
            let item = reader.prepare(item).expect("valid");
            let bytes = reader.view(item).as_bytes();
            assert!(bytes.len() == size && bytes.iter().all(|byte| *byte == b'x'));
            places.push(bytes.as_ptr());
        }
        assert_eq!(places[0], places[1], "no memory was asked for");
        assert!(reader.next().expect("nothing more").is_none());
        assert!(reader.decoder.allocated() > 0);
        drop(writer.join().expect("it ends"));
        reader.rest();
        assert_eq!(reader.decoder.allocated(), 0, "what the decoder holds");
    }

    #[test]
    fn a_callers_deadline_is_exact_although_the_sockets_own_timeout_is_near() {
        let (ours, _peers) = UnixStream::pair().expect("a pair");
        let stream = Arc::new(Stream::new(ours).expect("a stream"));
        const ARMED: Duration = Duration::from_secs(1);
        let config = Config::new().with_message_timeout(ARMED);
        let mut reader = Reader::new(Role::Server, &config, stream, &[]).expect("a reader");
        // A read that relied on the socket's own timeout would now be noticed.
        const TOO_LONG: Duration = Duration::from_secs(30);
        reader.stream.set_read_timeout(TOO_LONG).expect("a timeout");
        let start = Instant::now();
        let deadline = Deadline::at(start + ARMED - ARMED / 20);
        reader.fill(start, deadline, Deadline::NEVER).expect_err("nothing comes");
        assert!(start.elapsed() < TOO_LONG / 2, "{:?}", start.elapsed());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_accepted_sockets_timeout_is_set_once_a_read_has_found_nothing() {
        use std::io::Write;
        const FIRST: Duration = Duration::from_millis(20);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let came_with = prepare_listener(&listener, FIRST);
        let peer = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let stream =
            Stream::from_accepted(listener.accept().expect("somebody came").0, came_with).expect("a stream");
        let config = Config::new();
        let mut reader = Reader::new(Role::Server, &config, Arc::new(stream), &[]).expect("a reader");
        let timeout = |reader: &Reader| socket_timeout(&*reader.stream, Timeout::Recv).expect("it is set");
        (&peer).write_all(&[0x81, 0x80]).expect("it is read");
        reader.read(true).expect("it is there");
        assert_eq!(timeout(&reader), Some(FIRST));
        let error = reader.fill(Instant::now(), Deadline::NEVER, Deadline::NEVER).expect_err("nothing comes");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        reader.arm();
        assert_eq!((timeout(&reader), reader.armed), (Some(config.read_timeout()), config.read_timeout()));
        assert!(config.read_timeout() > FIRST);
    }
}
