//! [`Queue`]: the frames that the socket has not taken yet. Data frames are written in order. Control frames overtake them,
//! but never interrupt a frame.
//!
//! No lock and no I/O is here: the outbox's mutex guards the queue, and the outbox writes what [`Queue::gather`] lists.

use crate::protocol::encoder::EncodedFrame;
use crate::sync::Arc;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::iter;

/// The most slices for one system call. Linux takes 1024, but more than some dozens gain nothing.
const MAX_SLICES: usize = 64;
/// Short frames are joined in units of at most this size, because an allocation for each of them would cost more. A control
/// frame waits for the end of the unit that is being written.
const UNIT: usize = 16 * 1024;
/// Frames below this size are copied and joined. Larger ones are queued without a copy, if possible.
const JOINED: usize = 1024;
/// The memory of a unit beside its bytes: twice its place in the queue, which doubles when it grows, and one word of the
/// allocator for each of two allocations. It counts as backlog, so that `max_backlog` limits all of a slow peer's memory.
const BOOKKEEPING: usize = 2 * size_of::<Unit>() + 2 * size_of::<usize>();

/// Whole frames to send, and how they are queued if the socket does not take them at once.
#[derive(Debug)]
pub(super) enum Payload<'a> {
    /// Copied.
    Copied(&'a [u8]),
    /// One message. A large one is not copied, if the caller gave it away.
    Owned(EncodedFrame<'a>),
    /// Frames for many peers. Large ones are not copied.
    Shared(&'a Arc<[u8]>),
    /// Frames of a caller that waits until they are written. Not copied, if that caller writes the queue meanwhile.
    Lent(Lent<'a>),
}

impl<'a> Payload<'a> {
    #[inline]
    pub(super) fn slices(&self) -> [&[u8]; 2] {
        match self {
            Self::Copied(frames) => [frames, &[]],
            Self::Owned(frame) => frame.slices(),
            Self::Shared(frames) => [frames, &[]],
            Self::Lent(frames) => *frames,
        }
    }

    /// Returns the unit to queue, and the slices that the caller lends with it.
    ///
    /// `has_poller` says that another sender writes the queue for all.
    pub(super) fn into_unit(self, has_poller: bool) -> (Unit, Lent<'a>) {
        let unit = match self {
            Self::Copied(frames) => Unit::Frames(frames.to_vec()),
            Self::Owned(frame) if frame.len() < JOINED => Unit::Frames(frame.slices().concat()),
            Self::Owned(frame) => {
                let header = frame.slices()[0].to_vec();
                Unit::Owned { header, payload: frame.into_payload() }
            }
            Self::Shared(frames) if frames.len() < JOINED => Unit::Frames(frames.to_vec()),
            Self::Shared(frames) => Unit::Shared(Arc::clone(frames)),
            // Copied, because the polling sender cannot reach the slices of another.
            Self::Lent(frames) if has_poller => Unit::Waited(frames.concat()),
            Self::Lent(frames) => return (Unit::Lent(frames.map(<[u8]>::len).iter().sum()), frames),
        };
        (unit, NOTHING)
    }
}

/// An entry of the queue: whole frames that nothing interrupts.
#[derive(Debug)]
pub(super) enum Unit {
    /// Short frames.
    Frames(Vec<u8>),
    /// Large frames for many peers.
    Shared(Arc<[u8]>),
    /// One large message.
    Owned { header: Vec<u8>, payload: Vec<u8> },
    /// This number of bytes, lent by the polling sender. Only that sender can write them. There is at most one such unit.
    Lent(usize),
    /// Frames of another sender that waits until they are written.
    Waited(Vec<u8>),
}

/// The bytes of [`Unit::Lent`], which stay in the memory of the sender that lends them.
pub(super) type Lent<'a> = [&'a [u8]; 2];
/// For threads that lend nothing.
pub(super) const NOTHING: Lent<'static> = [&[]; 2];

impl Unit {
    fn slices<'a>(&'a self, lent: Lent<'a>) -> [&'a [u8]; 2] {
        match self {
            Self::Frames(frames) | Self::Waited(frames) => [frames, &[]],
            Self::Shared(frame) => [frame, &[]],
            Self::Owned { header, payload } => [header, payload],
            Self::Lent(_) => lent,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Frames(frames) | Self::Waited(frames) => frames.len(),
            Self::Shared(frame) => frame.len(),
            Self::Owned { header, payload } => header.len() + payload.len(),
            Self::Lent(len) => *len,
        }
    }

    /// Returns how much of the backlog it takes.
    ///
    /// Frames of waiting senders take nothing, because a broadcast would otherwise find the backlog full of them. A shared
    /// frame counts in full for each peer, because that peer may be the last to hold it.
    fn cost(&self) -> usize {
        BOOKKEEPING
            + match self {
                Self::Frames(frames) => frames.capacity(),
                Self::Shared(frame) => frame.len(),
                Self::Owned { header, payload } => header.capacity() + payload.capacity(),
                Self::Lent(_) | Self::Waited(_) => 0,
            }
    }
}

/// A place for one control frame.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    /// See [`Queue::first`].
    First,
    Ping,
    Pong,
    Close,
}

/// A part of the queue: a control frame, or a unit of which the given number of bytes is written.
enum Segment<'a> {
    Control(Slot, &'a [u8]),
    Unit(&'a Unit, usize),
}

impl<'a> Segment<'a> {
    fn slices(&self, lent: Lent<'a>) -> Lent<'a> {
        match *self {
            Self::Control(_, frame) => [frame, &[]],
            Self::Unit(unit, start) => {
                let [first, second] = unit.slices(lent);
                let skip = start.saturating_sub(first.len());
                [first.get(start..).unwrap_or_default(), second.get(skip..).unwrap_or_default()]
            }
        }
    }

    /// Returns whether only another thread, which lends the bytes, can write it.
    fn is_out_of_reach(&self, lent: Lent<'_>) -> bool {
        matches!(self, Self::Unit(Unit::Lent(_), _)) && lent[0].is_empty()
    }
}

/// Bytes that were taken from the front of the queue. They count as queued until [`Queue::written`].
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Bytes of data frames.
    data: usize,
    /// Bytes of control frames, and of the 101.
    control: usize,
    /// The cost of the units that end with them.
    memory: usize,
    /// A ping, whole or in part, is among them.
    pub(super) has_ping: bool,
}

impl Taken {
    pub(super) fn bytes(&self) -> usize {
        self.data + self.control
    }
}

/// The queued frames.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Bytes of data frames ever queued, and ever written. A message is written when `written` reaches the value that
    /// `queued` had behind it.
    queued: u64,
    written: u64,
    /// Bytes of queued control frames, and of the 101.
    control: usize,
    /// Bytes of the 101 that are not written. It is before everything else.
    response: usize,
    units: VecDeque<Unit>,
    /// A server's 101, or the rest of a control frame of which some bytes are written. Nothing may be written before it.
    first: Vec<u8>,
    ping: Vec<u8>,
    pong: Vec<u8>,
    close: Vec<u8>,
    /// How many bytes of the first unit are written.
    start: usize,
    /// The memory of all units, and of those that were taken and are not written yet. It includes written bytes of a unit,
    /// because they are freed with their unit.
    memory: usize,
    /// The highest number of bytes so far that the socket did not take at once.
    high_water: usize,
}

impl Queue {
    /// Returns whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.queued == self.written && self.control == 0
    }

    /// Returns whether everything was taken from the queue.
    pub(super) fn is_taken(&self) -> bool {
        self.segments().next().is_none()
    }

    /// Returns how many bytes of data frames are queued.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.queued - self.written).unwrap_or(usize::MAX)
    }

    /// Returns the memory of the data frames.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Raises the high-water mark to the number of bytes queued now, if that is more.
    pub(super) fn note_high_water(&mut self) {
        self.high_water = self.high_water.max(self.bytes());
    }

    /// Returns the highest number of bytes that the socket did not take at once.
    pub(super) fn high_water(&self) -> usize {
        self.high_water
    }

    /// Returns the ticket of everything that is queued now, for [`is_out`](Self::is_out).
    pub(super) fn ticket(&self) -> u64 {
        self.queued
    }

    pub(super) fn is_out(&self, ticket: u64) -> bool {
        self.written >= ticket
    }

    /// Counts data frames that were written without being queued, and returns their ticket. The queue must be empty.
    pub(super) fn passed(&mut self, bytes: usize) -> u64 {
        self.queued += bytes as u64;
        self.written += bytes as u64;
        self.queued
    }

    /// Appends a unit of which the first `written` bytes are written, and returns its ticket. If `written` is not 0, the queue
    /// must be empty.
    pub(super) fn push(&mut self, unit: Unit, written: usize) -> u64 {
        let len = unit.len();
        self.queued += len as u64;
        self.written += written as u64;
        if written > 0 {
            self.start = written;
        } else if let (Some(Unit::Frames(last)), Unit::Frames(frames)) = (self.units.back_mut(), &unit) {
            let joined = last.len() + len;
            if joined <= UNIT {
                let before = last.capacity();
                if before < joined {
                    // Doubled, but at most to the size of a unit, because unused capacity counts as backlog.
                    last.reserve_exact(joined.max(2 * before).min(UNIT) - last.len());
                    self.memory += last.capacity() - before;
                }
                last.extend_from_slice(frames);
                return self.queued;
            }
        }
        self.memory += unit.cost();
        self.units.push_back(unit);
        self.queued
    }

    /// Queues a control frame. It replaces a frame in the same slot.
    ///
    /// RFC 6455 §5.5.3 allows to answer only the newest ping. So one pong is queued at most, even if the peer floods us with
    /// pings.
    pub(super) fn set(&mut self, slot: Slot, frame: Vec<u8>) {
        self.control += frame.len();
        self.control -= std::mem::replace(self.slot(slot), frame).len();
    }

    fn slot(&mut self, slot: Slot) -> &mut Vec<u8> {
        match slot {
            Slot::First => &mut self.first,
            Slot::Ping => &mut self.ping,
            Slot::Pong => &mut self.pong,
            Slot::Close => &mut self.close,
        }
    }

    /// Queues a server's 101, before everything else.
    pub(super) fn hold(&mut self, response: Vec<u8>) {
        self.response = response.len();
        self.set(Slot::First, response);
    }

    /// Returns whether the 101 is queued, whole or in part. Also true if it was dropped before it was written.
    pub(super) fn is_opening(&self) -> bool {
        self.response > 0
    }

    /// Drops everything, including the rest of a frame of which some bytes are written.
    pub(super) fn clear(&mut self) {
        let Self { written, high_water, response, .. } = *self;
        *self = Self { queued: written, written, high_water, response, ..Self::default() };
    }

    /// Returns whether a ping is queued.
    pub(super) fn has_ping(&self) -> bool {
        !self.ping.is_empty()
    }

    /// Iterates over everything that is queued, in the order in which it is written.
    fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut units = self.units.iter();
        // A unit of which some bytes are written comes first, because a control frame must not interrupt a frame.
        let begun = (self.start > 0).then(|| units.next()).flatten();
        iter::once(Segment::Control(Slot::First, &self.first))
            .chain(begun.map(|unit| Segment::Unit(unit, self.start)))
            .chain([Segment::Control(Slot::Ping, &self.ping), Segment::Control(Slot::Pong, &self.pong)])
            .chain(units.map(|unit| Segment::Unit(unit, 0)))
            .chain([Segment::Control(Slot::Close, &self.close)])
            .filter(|segment| !matches!(segment, Segment::Control(_, [])))
    }

    /// Lists the slices to write next, of at most `limit` bytes. The list ends before a lent unit, unless `lent` has its
    /// bytes.
    pub(super) fn gather<'a>(&'a self, lent: Lent<'a>, limit: usize) -> Vec<IoSlice<'a>> {
        let mut left = limit;
        self.segments()
            .take_while(|segment| !segment.is_out_of_reach(lent))
            .flat_map(|segment| segment.slices(lent))
            .filter(|slice| !slice.is_empty())
            .take(MAX_SLICES)
            .map_while(|slice| {
                let slice = slice.get(..left).unwrap_or(slice);
                left -= slice.len();
                (!slice.is_empty()).then(|| IoSlice::new(slice))
            })
            .collect()
    }

    /// Takes the first `count` bytes that [`gather`](Self::gather) listed.
    pub(super) fn take(&mut self, mut count: usize) -> Taken {
        let mut taken = Taken::default();
        while count > 0 {
            let Some(segment) = self.segments().next() else { break };
            count -= match segment {
                Segment::Control(slot, frame) => {
                    let part = count.min(frame.len());
                    // The rest stays first in the queue.
                    self.first = std::mem::take(self.slot(slot)).split_off(part);
                    taken.control += part;
                    taken.has_ping |= matches!(slot, Slot::Ping);
                    part
                }
                Segment::Unit(unit, start) => {
                    let left = unit.len() - start;
                    let part = count.min(left);
                    if part == left {
                        taken.memory += unit.cost();
                        self.units.pop_front();
                        self.start = 0;
                        if self.units.is_empty() {
                            self.units = VecDeque::new();
                        }
                    } else {
                        self.start += part;
                    }
                    taken.data += part;
                    part
                }
            };
        }
        taken
    }

    /// Counts bytes that were taken as written. Returns how many of them were frames, and not the 101.
    pub(super) fn written(&mut self, taken: &Taken) -> usize {
        self.written += taken.data as u64;
        self.control -= taken.control;
        self.memory -= taken.memory;
        let response = self.response.min(taken.bytes());
        self.response -= response;
        taken.bytes() - response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENT: Lent<'static> = [b"le", b"nt"];

    fn gathered(queue: &Queue, lent: Lent<'_>) -> Vec<u8> {
        queue.gather(lent, usize::MAX).iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    fn advance(queue: &mut Queue, count: usize) {
        let taken = queue.take(count);
        queue.written(&taken);
    }

    /// Writes `queue` in pieces of at most `piece` bytes.
    fn written(mut queue: Queue, piece: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        while !queue.is_empty() {
            let all = gathered(&queue, LENT);
            let count = piece.min(all.len());
            wire.extend_from_slice(&all[..count]);
            advance(&mut queue, count);
        }
        assert_eq!((queue.bytes(), queue.memory()), (0, 0));
        wire
    }

    impl Queue {
        /// Returns a queue with a unit of each kind.
        pub(in crate::outbox) fn of_each_kind() -> Self {
            let mut queue = Self::default();
            queue.push(Unit::Frames(b"first".to_vec()), 0);
            queue.push(Unit::Owned { header: b"he".to_vec(), payload: b"ad".to_vec() }, 0);
            queue.push(Unit::Lent(4), 0);
            queue.push(Unit::Waited(b"waited".to_vec()), 0);
            queue.push(Unit::Shared(Arc::from(&b"shared"[..])), 0);
            queue
        }
    }

    #[test]
    fn frames_are_written_in_order_whatever_the_socket_takes() {
        for piece in 1..30 {
            assert_eq!(written(Queue::of_each_kind(), piece), b"firstheadlentwaitedshared");
        }
    }

    #[test]
    fn a_control_frame_overtakes_data_but_never_interrupts_a_frame() {
        for torn in 0..5 {
            for piece in 1..30 {
                let mut queue = Queue::of_each_kind();
                advance(&mut queue, torn);
                queue.set(Slot::Pong, b"PONG".to_vec());
                queue.set(Slot::Close, b"CLOSE".to_vec());
                let rest = written(queue, piece);
                let expected = if torn == 0 {
                    b"PONGfirstheadlentwaitedsharedCLOSE".to_vec()
                } else {
                    [&b"first"[torn..], b"PONGheadlentwaitedsharedCLOSE"].concat()
                };
                assert_eq!(rest, expected, "{torn} bytes out, then pieces of {piece}");
            }
        }
    }

    #[test]
    fn lent_bytes_and_those_behind_them_are_left_to_the_lender() {
        let mut queue = Queue::of_each_kind();
        queue.set(Slot::Close, b"CLOSE".to_vec());
        for expected in ["firsthead", "", ""] {
            let all = gathered(&queue, [&[]; 2]);
            assert_eq!(all, expected.as_bytes());
            // In the second round the lent unit is first, in the third one byte of it is written.
            advance(&mut queue, all.len().max(1));
        }
        assert_eq!(written(queue, 100), b"ntwaitedsharedCLOSE");
    }

    #[test]
    fn a_newer_pong_replaces_a_queued_one_but_not_a_torn_one() {
        let mut queue = Queue::default();
        queue.set(Slot::Pong, b"old".to_vec());
        queue.set(Slot::Pong, b"new".to_vec());
        advance(&mut queue, 1);
        queue.set(Slot::Pong, b"newer".to_vec());
        assert_eq!(written(queue, 100), b"ewnewer");
    }

    #[test]
    fn short_frames_are_joined_in_one_unit() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            queue.push(Unit::Frames(b"\x81\x01x".to_vec()), 0);
        }
        assert_eq!((queue.units.len(), queue.bytes()), (1, 3000));
    }

    #[test]
    fn the_backlog_counts_all_memory_and_little_more() {
        let mut queue = Queue::default();
        for size in (0..2000).chain([1, 100_000]) {
            match size % 3 {
                0 => queue.push(Unit::Frames(vec![0; size + 1]), 0),
                1 => queue.push(Unit::Shared(vec![0; size].into()), 0),
                _ => queue.push(Unit::Owned { header: vec![0; 4], payload: Vec::with_capacity(size) }, 0),
            };
            let table = queue.units.capacity() * size_of::<Unit>();
            let bytes: usize = queue.units.iter().map(|unit| unit.cost() - BOOKKEEPING).sum();
            // An empty queue has room for four.
            assert!(queue.memory() + 4 * size_of::<Unit>() >= table + bytes, "{size}");
            assert!(queue.memory() <= 2 * table + bytes + queue.units.len() * 16, "{size}");
        }
        let mut small = Queue::default();
        for _ in 0..100_000 {
            small.push(Unit::Frames(vec![0; 10]), 0);
        }
        assert!(
            small.memory() >= 1_000_000 && small.memory() < 1_040_000,
            "{} for a million bytes",
            small.memory()
        );
    }

    #[test]
    fn a_message_is_out_when_its_last_byte_is_written() {
        let mut queue = Queue::of_each_kind();
        let ticket = queue.ticket();
        queue.push(Unit::Frames(b"later".to_vec()), 0);
        advance(&mut queue, 24);
        assert!(!queue.is_out(ticket));
        advance(&mut queue, 1);
        assert!(queue.is_out(ticket));
    }
}
