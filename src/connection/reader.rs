//! The buffer of a connection: filled from the socket, and taken apart by the decoder.
//!
//! With TLS the buffer also has the start of a record that is not complete, behind the plaintext. All complete records are
//! opened after each read, in place. So no call has to ask whether TLS still holds something.
//!
//! The reader also knows when the peer was last heard from and when the message that is arriving began. Its locks: none, because
//! only the thread of the connection reads.

mod records;

use self::records::Records;
use super::Early;
use crate::config::{Config, time_for};
use crate::error::{Result, Violation};
use crate::message::{CloseFrame, Message, MessageRef};
use crate::net::{Deadline, Stream};
use crate::outbox::{Counts, Outbox};
use crate::protocol::Role;
use crate::protocol::decoder::{self, Decoder, Item, Span};
use crate::sync::Arc;
use std::io;
use std::time::{Duration, Instant};

/// Size of the buffer of a new or silent connection. It takes any control frame, and most messages of most clients.
const RESTING_BUFFER: usize = 512;
/// Size of the buffer after a read has filled the one above.
const IDLE_BUFFER: usize = 4 * 1024;
/// Size of the buffer of a busy connection. Measured: 64 KiB is the worst size for messages of 64 KiB, because with their
/// headers they take two reads.
const BULK_BUFFER: usize = 128 * 1024;
/// The large buffer is freed after this number of reads in a row that the idle buffer could have held.
const SMALL_READS: u32 = 32;
/// If at least this many bytes of a message are missing, they are read directly into the message. For fewer, the second
/// read would cost more than a copy.
const DIRECT: usize = 16 * 1024;

/// The bytes that were read, and the decoder.
#[derive(Debug)]
pub(super) struct Reader {
    message_timeout: Duration,
    /// The read timeout that the socket has now. The reader waits for an earlier deadline with `poll`.
    socket_timeout: Duration,
    pub(super) decoder: Decoder,
    stream: Arc<Stream>,
    /// Zeroed when it is allocated. `start..end` was read from the socket and not parsed yet. With TLS, `end..filled` is the
    /// start of a record.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    small_reads: u32,
    last_was_full: bool,
    /// Bytes were read since `last_heard` was updated.
    was_heard: bool,
    counts: Counts,
    /// When the last byte arrived: see [`last_heard`](Self::last_heard).
    last_heard: Instant,
    /// The read timeout that the socket gets after the first read that finds nothing.
    read_timeout: Duration,
    /// When the message that is arriving began, moved on by the time in which the handler did not read.
    message_started: Option<Instant>,
    records: Option<Box<Records>>,
}

impl Reader {
    pub(super) fn new(
        config: &Config,
        stream: Arc<Stream>,
        early: Early<'_>,
        outbox: &Arc<Outbox>,
    ) -> io::Result<Self> {
        let (plain, sealed) = (early.plain, early.sealed.unwrap_or_default());
        let read_timeout = config.read_timeout();
        let socket_timeout = match stream.inherited_read_timeout() {
            Some(inherited) if inherited <= read_timeout => inherited,
            _ => {
                stream.set_read_timeout(read_timeout)?;
                read_timeout
            }
        };
        let size = RESTING_BUFFER.max(plain.len() + sealed.len());
        let mut buffer = Vec::with_capacity(size);
        buffer.extend_from_slice(plain);
        buffer.extend_from_slice(sealed);
        buffer.resize(size, 0);
        let mut decoder = Decoder::new(outbox.role(), config.max_message_size());
        if let Some(compression) = outbox.compression() {
            decoder.accept_compressed(compression.agreed.peers);
        }
        Ok(Self {
            stream,
            decoder,
            buffer,
            start: 0,
            end: plain.len(),
            small_reads: 0,
            last_was_full: false,
            socket_timeout,
            read_timeout,
            counts: Counts { messages: 0, bytes: plain.len() as u64 },
            last_heard: Instant::now(),
            was_heard: false,
            message_timeout: config.message_timeout(),
            message_started: None,
            records: early.sealed.map(|_| Box::new(Records::new(outbox, plain.len() + sealed.len()))),
        })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns a number that changes when the caller has received a message, and when a part of one has arrived.
    pub(super) fn progress(&mut self) -> u64 {
        if self.is_between_messages() { self.counts.messages } else { self.counts.bytes }
    }

    /// Returns whether bytes were read that are not parsed yet.
    #[inline]
    pub(super) fn has_unread(&self) -> bool {
        self.start < self.end
    }

    /// Discards what was read and not parsed. Called at the end, so that no call returns it, and no answer is held for it.
    pub(super) fn discard_unread(&mut self) {
        self.start = self.end;
    }

    /// Returns the next item that is whole. [`bytes`](Self::bytes) has its payload until the next call.
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

    /// Returns the next item if [`Decoder::next_short`] can parse it.
    #[inline]
    pub(super) fn next_short(&mut self) -> Option<Item> {
        let base = self.start;
        let step = self.decoder.next_short(self.buffer.get_mut(base..self.end)?)?;
        self.start += step.used;
        self.message_started = None;
        Some(step.item?.shifted(base))
    }

    /// Returns the payload of an item that is in the buffer.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "the span is from `next`, and the buffer has not changed since"
    )]
    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        &self.buffer[span.range()]
    }

    /// Validates a text, so that [`view`](Self::view) can lend it, and counts the message as received.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "the span is from `next`, and the buffer has not changed since"
    )]
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

    /// Lends the message of an item that was [prepared](Self::prepare).
    #[inline]
    pub(super) fn view(&self, item: Item) -> MessageRef<'_> {
        match item {
            Item::Binary(span) => MessageRef::Binary(self.bytes(span)),
            _ => self.decoder.assembled(),
        }
    }

    /// Copies the payload of a binary item, and counts the message as received.
    #[inline]
    pub(super) fn copy(&mut self, span: Span) -> Vec<u8> {
        self.counts.messages += 1;
        self.bytes(span).to_vec()
    }

    /// Validates and copies the payload of a text item, and counts the message as received.
    #[inline]
    pub(super) fn copy_text(&mut self, span: Span) -> Result<String, Violation> {
        let text = decoder::text(self.bytes(span))?.to_owned();
        self.counts.messages += 1;
        Ok(text)
    }

    /// Moves the message of an assembled item out, and counts it as received.
    pub(super) fn take(&mut self) -> Message {
        self.counts.messages += 1;
        self.decoder.take()
    }

    /// Returns whether no part of an unfinished message has arrived. A part of a record counts as one.
    #[inline]
    pub(super) fn is_between_messages(&mut self) -> bool {
        let is_between = self.start == self.filled() && !self.decoder.is_inside_message();
        if is_between {
            self.message_started = None;
        }
        is_between
    }

    /// Returns the deadline of the first MiB of the message that is arriving. Its time starts with the first call after it
    /// began.
    pub(super) fn message_deadline(&mut self, now: Instant) -> Deadline {
        if self.is_between_messages() {
            return Deadline::NEVER;
        }
        let started = *self.message_started.get_or_insert(now);
        started.checked_add(self.message_timeout).into()
    }

    /// Returns the deadline of the message that is arriving, after [`message_deadline`](Self::message_deadline) has passed: the
    /// message timeout is granted for each started MiB that has arrived.
    pub(super) fn extended_deadline(&self) -> Deadline {
        let time = time_for(self.decoder.received(), self.message_timeout);
        self.message_started.and_then(|started| started.checked_add(time)).into()
    }

    /// Returns when the last byte arrived. Bytes of the last read count as having arrived `now`. That saves reading the clock
    /// after each read, and a peer does not count as silent while the handler does not read.
    pub(super) fn last_heard(&mut self, now: Instant) -> Instant {
        if std::mem::take(&mut self.was_heard) {
            self.last_heard = now;
        }
        self.last_heard
    }

    /// Sets when the last byte arrived, for a caller that has read the clock.
    pub(super) fn set_last_heard(&mut self, now: Instant) {
        (self.last_heard, self.was_heard) = (now, false);
    }

    /// Extends the deadline of the message that is arriving by a time in which the handler did not read.
    pub(super) fn skip_pause(&mut self, pause: Duration) {
        if let Some(started) = &mut self.message_started {
            *started += pause;
        }
    }

    /// Reads more bytes, and waits for them until the first of two deadlines; if `exact` has passed already, it does not
    /// wait. Zero is the end of the stream. `WouldBlock` means that nothing arrived.
    ///
    /// It can return late for the `rough` deadline, by up to a sixteenth of the socket's read timeout. That is early enough
    /// for keepalive, and saves a `poll` before each read of a busy connection.
    pub(super) fn read_until(&mut self, now: Instant, exact: Deadline, rough: Deadline) -> io::Result<usize> {
        if exact.has_passed(now) || self.has_ended() {
            return self.read(false);
        }
        let timeout = self.socket_timeout;
        if !exact.is_within(timeout, now) && !rough.is_within(timeout - timeout / 17, now) {
            return self.read(true);
        }
        if !self.stream.wait_readable(exact.or(rough))? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read(false)
    }

    /// Reads more bytes. With `wait` it waits for them, at most the socket's read timeout. Zero is the end of the stream.
    pub(super) fn read(&mut self, wait: bool) -> io::Result<usize> {
        let count = if self.records.is_some() { self.read_records(wait)? } else { self.read_plain(wait)? };
        self.was_heard = true;
        Ok(count)
    }

    /// Reads into the message that is arriving if much of it is missing, otherwise into the buffer.
    fn read_plain(&mut self, wait: bool) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Some((message, left)) = self.decoder.direct() {
                if left >= DIRECT {
                    // The message grows with the bytes that arrive, not with the length in the frame header. It has
                    // no room beyond this frame, because a read fills all the room there is.
                    if message.capacity() == message.len() {
                        message.reserve_exact(left.min(message.len().max(BULK_BUFFER)));
                    } else if message.capacity() - message.len() > left {
                        message.shrink_to(message.len() + left);
                    }
                    if message.capacity() - message.len() <= left {
                        let count = self.stream.read_append(message, wait)?;
                        self.decoder.directly_read(count);
                        self.counts.bytes += count as u64;
                        return Ok(count);
                    }
                }
            }
        }
        self.make_room();
        let count = self.fill(self.end, wait)?;
        self.end += count;
        self.counts.bytes += count as u64;
        Ok(count)
    }

    /// Reads into the buffer from `start` on.
    #[inline]
    fn fill(&mut self, start: usize, wait: bool) -> io::Result<usize> {
        let room = self.buffer.get_mut(start..).unwrap_or_default();
        let size = room.len();
        let count = self.stream.read(room, wait)?;
        self.last_was_full = count == size;
        self.small_reads = if count < IDLE_BUFFER / 2 { self.small_reads.saturating_add(1) } else { 0 };
        Ok(count)
    }

    /// Moves the unread bytes to the front of the buffer. The buffer is replaced by a larger one after a full read, and by
    /// a small one after a number of small reads.
    fn make_room(&mut self) {
        let mut size = self.buffer.len();
        if self.last_was_full {
            size = if size < IDLE_BUFFER { IDLE_BUFFER } else { BULK_BUFFER };
            self.small_reads = 0;
        } else if self.small_reads == SMALL_READS {
            // Only once, and not at each of the small reads that follow.
            self.decoder.release_memory();
            size = size.min(IDLE_BUFFER);
        }
        if self.start > 0 || size != self.buffer.len() {
            self.resize(size);
        }
    }

    /// Moves the unread bytes to the front of a buffer of this size, if they fit.
    fn resize(&mut self, size: usize) {
        let unread = self.start..self.filled();
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
        (self.start, self.end) = (0, self.end - unread.start);
        self.set_filled(unread.len());
    }

    /// Sets the read timeout for a silent peer. Called after a read that has found nothing, so that a connection whose peer
    /// is never silent saves this system call.
    pub(super) fn lengthen_socket_timeout(&mut self) {
        if self.socket_timeout < self.read_timeout && self.stream.set_read_timeout(self.read_timeout).is_ok()
        {
            self.socket_timeout = self.read_timeout;
        }
    }

    /// Returns the content of a Close that has arrived and was not received yet, without receiving anything.
    ///
    /// Called after a failed write. Reads what the socket holds, up to the size of a large buffer. A Close behind a part of a
    /// message is not found.
    pub(super) fn find_close(&mut self, role: Role) -> Option<Option<CloseFrame>> {
        if self.decoder.is_inside_message() {
            return None;
        }
        while self.read(false).is_ok_and(|count| count > 0) {}
        // A copy and a decoder of its own, because the messages before the Close are still to be received.
        let mut bytes = self.buffer.get(self.start..self.end)?.to_vec();
        let mut decoder = Decoder::new(role, usize::MAX);
        let mut at = 0;
        loop {
            let window = bytes.get_mut(at..)?;
            self.decoder.hide_compression(window);
            let step = decoder.next(window).ok()?;
            if let Item::Close(span) = step.item? {
                return decoder::close_frame(window.get(span.range())?).ok();
            }
            at += step.used;
        }
    }

    /// Takes a large buffer from a thread that reads for many connections, and frees the own one.
    pub(super) fn borrow_buffer(&mut self, lent: &mut Vec<u8>) {
        let unread = self.filled() - self.start;
        if unread < BULK_BUFFER {
            lent.resize(BULK_BUFFER, 0);
            let own = self.buffer.get(self.start..self.start + unread);
            if let (Some(from), Some(to)) = (own, lent.get_mut(..unread)) {
                to.copy_from_slice(from);
            }
            self.buffer = std::mem::take(lent);
            (self.start, self.end) = (0, self.end - self.start);
            self.set_filled(unread);
        }
        // The buffer stays as large as it is.
        self.small_reads = 0;
    }

    /// Gives a large buffer back, and keeps only what is not parsed yet. The next read needs a buffer first.
    pub(super) fn return_buffer(&mut self, lent: &mut Vec<u8>) {
        let unread = self.start..self.filled();
        let own = self.buffer.get(unread.clone()).unwrap_or_default().to_vec();
        *lent = std::mem::replace(&mut self.buffer, own);
        (self.start, self.end) = (0, self.end - unread.start);
        self.set_filled(unread.len());
        self.last_was_full = false;
    }

    /// Frees the memory of the last message.
    pub(super) fn release_message(&mut self) {
        self.decoder.release_memory();
    }

    /// Frees the memory that only a busy connection needs.
    pub(super) fn release_memory(&mut self) {
        self.last_was_full = false;
        self.decoder.release_memory();
        self.resize(RESTING_BUFFER);
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::flush_thread::FlushThread;
    use crate::net::stream::prepare_listener;
    use crate::protocol::encoder::{Opcode, append};
    use rustix::net::sockopt::{Timeout, socket_timeout};
    use std::os::unix::net::UnixStream;

    fn reader(config: &Config, stream: Stream) -> Reader {
        let (flush, _) = FlushThread::start().expect("a thread");
        let stream = Arc::new(stream);
        let outbox = Outbox::new(Role::Server, config, Arc::clone(&stream), Arc::clone(&flush), None);
        flush.stop();
        Reader::new(config, stream, Early::default(), &outbox).expect("a reader")
    }

    #[test]
    fn a_silent_client_holds_no_more_memory_than_before_its_large_message() {
        const SIZE: usize = 1 << 20;
        let (ours, peers) = UnixStream::pair().expect("a pair");
        let stream = Stream::new(ours).expect("a stream");
        let config = Config::new();
        let mut reader = reader(&config, stream);
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
            assert_eq!(message.as_bytes().len(), SIZE);
            if let Message::Binary(bytes) = message {
                assert_eq!(bytes.capacity(), SIZE, "a kept message pins no more than itself");
            }
        }
        drop(writer.join().expect("it ends"));
        reader.release_memory();
        assert_eq!(reader.buffer.capacity(), before);
        assert!(!reader.has_unread());
        assert_eq!(reader.decoder.allocated(), 0, "the memory of the decoder");
    }

    #[test]
    fn the_next_lent_message_reuses_the_memory_until_the_peer_is_silent() {
        const SIZE: usize = 1 << 20;
        let (ours, peers) = UnixStream::pair().expect("a pair");
        let stream = Stream::new(ours).expect("a stream");
        let mut reader = reader(&Config::new(), stream);
        let mut frames = Vec::new();
        // The last is smaller, and large enough to be read directly into its message.
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
        assert_eq!(places[0], places[1], "nothing was allocated");
        assert!(reader.next().expect("nothing more").is_none());
        assert!(reader.decoder.allocated() > 0);
        drop(writer.join().expect("it ends"));
        reader.release_memory();
        assert_eq!(reader.decoder.allocated(), 0, "the memory of the decoder");
    }

    #[test]
    fn a_callers_deadline_is_exact_although_the_sockets_own_timeout_is_near() {
        let (ours, _peers) = UnixStream::pair().expect("a pair");
        let stream = Stream::new(ours).expect("a stream");
        const SOCKET_TIMEOUT: Duration = Duration::from_secs(1);
        let config = Config::new().with_message_timeout(SOCKET_TIMEOUT);
        let mut reader = reader(&config, stream);
        // A read that relied on the socket's own timeout would now be noticed.
        const TOO_LONG: Duration = Duration::from_secs(30);
        reader.stream.set_read_timeout(TOO_LONG).expect("a timeout");
        let start = Instant::now();
        let deadline = Deadline::at(start + SOCKET_TIMEOUT - SOCKET_TIMEOUT / 20);
        reader.read_until(start, deadline, Deadline::NEVER).expect_err("nothing comes");
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
            Stream::from_accepted(listener.accept().expect("a client").0, came_with).expect("a stream");
        let config = Config::new();
        let mut reader = reader(&config, stream);
        let timeout = |reader: &Reader| socket_timeout(&*reader.stream, Timeout::Recv).expect("it is set");
        (&peer).write_all(&[0x81, 0x80]).expect("it is read");
        reader.read(true).expect("it is there");
        assert_eq!(timeout(&reader), Some(FIRST));
        let error =
            reader.read_until(Instant::now(), Deadline::NEVER, Deadline::NEVER).expect_err("nothing comes");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        reader.lengthen_socket_timeout();
        assert_eq!(
            (timeout(&reader), reader.socket_timeout),
            (Some(config.read_timeout()), config.read_timeout())
        );
        assert!(config.read_timeout() > FIRST);
    }
}
