//! Runs the decoder on a window that is filled as in `connection::reader`, but from memory.

use super::frames::end_inside_message;
use super::{Decoded, MIN_WINDOW, Rule, Seen, Setting};
use crate::error::Error;
use crate::message::{Message, MessageRef};
use crate::protocol::decoder::{self, Decoder, Item};

/// The number of small reads after which the large buffer is freed.
const SMALL_READS: u32 = 32;

/// A decoded item, and how many bytes had been read before and after the last read.
#[derive(Debug)]
pub(super) struct ReadEvent {
    pub(super) before: usize,
    pub(super) after: usize,
    pub(super) event: Decoded,
}

/// Returns the output of our decoder for single bytes.
pub(super) fn ours_byte_by_byte(bytes: &[u8], setting: &Setting) -> Vec<Seen> {
    let setting = Setting { pieces: vec![1], lend: !setting.lend, ..setting.clone() };
    ours(bytes, &setting).into_iter().map(|read| Seen { bytes: read.after, event: read.event }).collect()
}

/// Returns the output of our decoder for bytes in pieces.
pub(super) fn ours(bytes: &[u8], setting: &Setting) -> Vec<ReadEvent> {
    assert!(setting.idle_buffer >= MIN_WINDOW && !setting.pieces.contains(&0), "{setting:?}");
    let mut reader = MemoryReader {
        setting,
        decoder: Decoder::new(setting.role, setting.max_message),
        buffer: vec![0; setting.idle_buffer],
        start: 0,
        end: 0,
        small_reads: 0,
        last_was_full: false,
        source: Pieces { bytes, at: 0, piece: 0, end: 0 },
    };
    let mut events = Vec::new();
    let mut before = 0;
    loop {
        let event = match reader.next() {
            Ok(Some(event)) => event,
            Ok(None) => {
                assert!(reader.end - reader.start < MIN_WINDOW, "more bytes than a control frame are left");
                before = reader.source.at;
                if reader.read() {
                    continue;
                }
                assert_eq!(reader.decoder.is_inside_message(), end_inside_message(bytes), "{bytes:02x?}");
                return events;
            }
            Err(error) => Decoded::Broken(Rule::from(&error)),
        };
        let last = matches!(event, Decoded::Close(_) | Decoded::Broken(_));
        events.push(ReadEvent { before, after: reader.source.at, event });
        if last {
            return events;
        }
    }
}

struct MemoryReader<'a> {
    setting: &'a Setting,
    decoder: Decoder,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    small_reads: u32,
    last_was_full: bool,
    source: Pieces<'a>,
}

impl MemoryReader<'_> {
    fn next(&mut self) -> Result<Option<Decoded>, Error> {
        let base = self.start;
        let window = &mut self.buffer[base..self.end];
        let step = match self.decoder.next_short(window) {
            Some(step) => step,
            None => self.decoder.next(window)?,
        };
        self.start += step.used;
        let Some(item) = step.item else { return Ok(None) };
        let bytes = |item: decoder::Span| &self.buffer[item.range()];
        Ok(Some(match item.shifted(base) {
            Item::Text(span) if self.setting.lend => {
                self.decoder.copy_text(bytes(span))?;
                lent(self.decoder.assembled())
            }
            Item::Text(span) => Decoded::Text(decoder::text(bytes(span))?.to_owned()),
            Item::Binary(span) => Decoded::Binary(bytes(span).to_vec()),
            Item::Assembled if self.setting.lend => lent(self.decoder.assembled()),
            Item::Assembled => Decoded::from(self.decoder.take()),
            Item::Ping(span) => Decoded::Ping(bytes(span).to_vec()),
            Item::Pong(span) => Decoded::Pong(bytes(span).to_vec()),
            Item::Close(span) => Decoded::from(decoder::close_frame(bytes(span))?),
        }))
    }

    /// Reads bytes into the window. Returns false at the end.
    fn read(&mut self) -> bool {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Some((message, left)) = self.decoder.direct() {
                if left >= self.setting.direct {
                    if message.capacity() == message.len() {
                        message.reserve_exact(left.min(message.len().max(self.setting.bulk_buffer)));
                    }
                    let room = message.capacity() - message.len();
                    if room <= left {
                        let bytes = self.source.read(&self.setting.pieces, room);
                        message.extend_from_slice(bytes);
                        self.decoder.directly_read(bytes.len());
                        return !bytes.is_empty();
                    }
                }
            }
        }
        self.make_room();
        let room = &mut self.buffer[self.end..];
        assert!(!room.is_empty(), "the window is full without a complete frame");
        let bytes = self.source.read(&self.setting.pieces, room.len());
        room[..bytes.len()].copy_from_slice(bytes);
        self.last_was_full = bytes.len() == room.len();
        self.end += bytes.len();
        let small = bytes.len() < self.setting.idle_buffer / 2;
        self.small_reads = if small { self.small_reads.saturating_add(1) } else { 0 };
        !bytes.is_empty()
    }

    fn make_room(&mut self) {
        let unread = self.start..self.end;
        let size = if self.last_was_full {
            self.setting.bulk_buffer
        } else if self.small_reads >= SMALL_READS {
            self.setting.idle_buffer
        } else {
            self.buffer.len()
        };
        if size != self.buffer.len() && unread.len() < size {
            let mut buffer = vec![0; size];
            buffer[..unread.len()].copy_from_slice(&self.buffer[unread.clone()]);
            self.buffer = buffer;
        } else if unread.start > 0 {
            self.buffer.copy_within(unread.clone(), 0);
        }
        (self.start, self.end) = (0, unread.len());
    }
}

fn lent(message: MessageRef<'_>) -> Decoded {
    Decoded::from(Message::from(message))
}

/// Bytes that arrive in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The index of the next piece.
    piece: usize,
    /// The end of the current piece.
    end: usize,
}

impl<'a> Pieces<'a> {
    fn read(&mut self, pieces: &[usize], room: usize) -> &'a [u8] {
        if self.at == self.end {
            self.end = self.bytes.len().min(self.end.saturating_add(pieces[self.piece % pieces.len()]));
            self.piece += 1;
        }
        let bytes = &self.bytes[self.at..self.end.min(self.at + room)];
        self.at += bytes.len();
        bytes
    }
}
