//! What a socket has refused so far: whole frames in order, and the control frames that may pass them.

use crate::protocol::encoder::EncodedFrame;
use crate::sync::Arc;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::iter;

/// Slices that one system call is given. Linux takes 1024; beyond some dozens nothing is gained.
const MAX_SLICES: usize = 64;
/// Small frames are copied into one unit up to this size, so that a thousand of them are not a thousand allocations. A
/// control frame waits for the end of the unit that is being written.
const UNIT: usize = 16 * 1024;
/// Frames below this size are copied into such a unit, larger ones are kept as they are.
const JOINED: usize = 1024;
/// What a unit takes beside its bytes: its place in the queue, which may have twice the room it needs, and the allocator's
/// word for each of two allocations. It counts: a peer that does not read shall not cost more than it may.
const BOOKKEEPING: usize = 2 * size_of::<Unit>() + 2 * size_of::<usize>();

/// What is sent: whole frames.
#[derive(Debug)]
pub(super) enum Payload<'a> {
    /// Bytes that stay with the caller: copied if they must wait.
    Copied(&'a [u8]),
    /// One message: not copied if the caller gave it away, and it is large.
    Owned(EncodedFrame<'a>),
    /// Encoded once for many peers: not copied if large.
    Shared(&'a Arc<[u8]>),
    /// The bytes of a caller that waits until they are out: not copied if it is the one that writes meanwhile.
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

    /// The unit that is queued, and what is lent with it. `has_poller`: another sender waits, and writes for all.
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
            // The one that writes cannot reach what is in another's hands.
            Self::Lent(frames) if has_poller => Unit::Waited(frames.concat()),
            Self::Lent(frames) => return (Unit::Lent(frames.map(<[u8]>::len).iter().sum()), frames),
        };
        (unit, NOTHING)
    }
}

/// Whole frames that are written one after the other.
#[derive(Debug)]
pub(super) enum Unit {
    /// One or more encoded frames.
    Frames(Vec<u8>),
    /// One frame encoded for many peers.
    Shared(Arc<[u8]>),
    /// A large payload that was given to us, behind its header.
    Owned { header: Vec<u8>, payload: Vec<u8> },
    /// So many bytes of a sender that waits until they are out, and alone can write them. There is one at a time.
    Lent(usize),
    /// What another sender waits with meanwhile.
    Waited(Vec<u8>),
}

/// The bytes of [`Unit::Lent`], in the hands of who lends them; empty in everybody else's.
pub(super) type Lent<'a> = [&'a [u8]; 2];
/// In the hands of those who lend nothing.
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

    /// The memory it takes of the backlog: what a sender waits with does not count, or a broadcast would find the backlog full
    /// of it. A shared frame counts in full for each peer that it waits for: they may be the last to hold it.
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

/// Where a control frame waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    /// A control frame of which a part is written.
    Torn,
    Ping,
    Pong,
    Close,
}

/// A piece of what waits: a control frame, or a unit of which some bytes are written.
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

    /// Whether only the sender that waits with its bytes can write it.
    fn is_out_of_reach(&self, lent: Lent<'_>) -> bool {
        matches!(self, Self::Unit(Unit::Lent(_), _)) && lent[0].is_empty()
    }
}

/// A queue of frames, and a slot for each kind of control frame; in this order for [`OutboxState`](super::OutboxState)'s reason.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Queue {
    /// Bytes of data frames ever queued, and ever written: a message is out when `written` has reached what `queued` was
    /// behind it.
    queued: u64,
    written: u64,
    /// Bytes of control frames that wait.
    control: usize,
    units: VecDeque<Unit>,
    /// A control frame of which a part is written: nothing may come before its rest.
    torn: Vec<u8>,
    ping: Vec<u8>,
    pong: Vec<u8>,
    close: Vec<u8>,
    /// Bytes of the first unit that are written already.
    start: usize,
    /// The memory of all units, written bytes included: they are freed with their unit.
    held: usize,
    high_water: usize,
}

impl Queue {
    /// Whether there is nothing to write at all.
    pub(super) fn is_empty(&self) -> bool {
        self.queued == self.written && self.control == 0
    }

    /// Bytes of data frames that wait.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.queued - self.written).unwrap_or(usize::MAX)
    }

    /// The memory that the data frames take.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The most bytes that ever waited.
    pub(super) fn high_water(&self) -> usize {
        self.high_water
    }

    /// What [`written`](Self::is_out) must reach for everything queued so far to be out.
    pub(super) fn ticket(&self) -> u64 {
        self.queued
    }

    pub(super) fn is_out(&self, ticket: u64) -> bool {
        self.written >= ticket
    }

    /// Takes note of a frame that was written without having been queued, and returns its ticket. Nothing may be waiting.
    pub(super) fn passed(&mut self, bytes: usize) -> u64 {
        self.queued += bytes as u64;
        self.written += bytes as u64;
        self.queued
    }

    /// Appends a unit of which the first `written` bytes are out, and returns its ticket; then nothing may be waiting.
    pub(super) fn push(&mut self, unit: Unit, written: usize) -> u64 {
        let len = unit.len();
        self.queued += len as u64;
        self.written += written as u64;
        self.high_water = self.high_water.max(self.bytes());
        if written > 0 {
            self.start = written;
        } else if let (Some(Unit::Frames(last)), Unit::Frames(frames)) = (self.units.back_mut(), &unit) {
            let joined = last.len() + len;
            if joined <= UNIT {
                let before = last.capacity();
                if before < joined {
                    // Doubled, but never beyond a unit: what is allocated counts.
                    last.reserve_exact(joined.max(2 * before).min(UNIT) - last.len());
                    self.held += last.capacity() - before;
                }
                last.extend_from_slice(frames);
                return self.queued;
            }
        }
        self.held += unit.cost();
        self.units.push_back(unit);
        self.queued
    }

    /// Puts a control frame into its slot, in place of one that waits there.
    ///
    /// RFC 6455 §5.5.3: a pong may be left out if a newer ping has come, so a peer that floods us is kept one.
    pub(super) fn set(&mut self, slot: Slot, frame: Vec<u8>) {
        self.control += frame.len();
        self.control -= std::mem::replace(self.slot(slot), frame).len();
    }

    fn slot(&mut self, slot: Slot) -> &mut Vec<u8> {
        match slot {
            Slot::Torn => &mut self.torn,
            Slot::Ping => &mut self.ping,
            Slot::Pong => &mut self.pong,
            Slot::Close => &mut self.close,
        }
    }

    /// Drops everything: nothing follows a torn frame.
    pub(super) fn clear(&mut self) {
        let Self { written, high_water, .. } = *self;
        *self = Self { queued: written, written, high_water, ..Self::default() };
    }

    /// Whether a ping has not left yet.
    pub(super) fn has_ping(&self) -> bool {
        !self.ping.is_empty()
    }

    /// Everything that waits, in the order in which it is written.
    fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut units = self.units.iter();
        // Control frames go between frames, so behind a unit of which a part is out.
        let begun = (self.start > 0).then(|| units.next()).flatten();
        iter::once(Segment::Control(Slot::Torn, &self.torn))
            .chain(begun.map(|unit| Segment::Unit(unit, self.start)))
            .chain([Segment::Control(Slot::Ping, &self.ping), Segment::Control(Slot::Pong, &self.pong)])
            .chain(units.map(|unit| Segment::Unit(unit, 0)))
            .chain([Segment::Control(Slot::Close, &self.close)])
            .filter(|segment| !matches!(segment, Segment::Control(_, [])))
    }

    /// Lists what is to be written next. Without the lent bytes the list ends before them.
    pub(super) fn gather<'a>(&'a self, lent: Lent<'a>) -> Vec<IoSlice<'a>> {
        self.segments()
            .take_while(|segment| !segment.is_out_of_reach(lent))
            .flat_map(|segment| segment.slices(lent))
            .filter(|slice| !slice.is_empty())
            .take(MAX_SLICES)
            .map(IoSlice::new)
            .collect()
    }

    /// Removes the first `count` bytes of what [`gather`](Self::gather) listed: they are written.
    pub(super) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(segment) = self.segments().next() else { return };
            count -= match segment {
                Segment::Control(slot, frame) => {
                    let taken = count.min(frame.len());
                    // Nothing may come before the rest of a frame of which a part is written.
                    self.torn = std::mem::take(self.slot(slot)).split_off(taken);
                    self.control -= taken;
                    taken
                }
                Segment::Unit(unit, start) => {
                    let left = unit.len() - start;
                    let taken = count.min(left);
                    if taken == left {
                        self.held -= unit.cost();
                        self.units.pop_front();
                        self.start = 0;
                        if self.units.is_empty() {
                            self.units = VecDeque::new();
                        }
                    } else {
                        self.start += taken;
                    }
                    self.written += taken as u64;
                    taken
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENT: Lent<'static> = [b"le", b"nt"];

    fn gathered(queue: &Queue, lent: Lent<'_>) -> Vec<u8> {
        queue.gather(lent).iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    /// Writes `queue` in pieces of at most `piece` bytes.
    fn written(mut queue: Queue, piece: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        while !queue.is_empty() {
            let all = gathered(&queue, LENT);
            let count = piece.min(all.len());
            wire.extend_from_slice(&all[..count]);
            queue.advance(count);
        }
        assert_eq!((queue.bytes(), queue.held()), (0, 0));
        wire
    }

    fn queue() -> Queue {
        let mut queue = Queue::default();
        queue.push(Unit::Frames(b"first".to_vec()), 0);
        queue.push(Unit::Owned { header: b"he".to_vec(), payload: b"ad".to_vec() }, 0);
        queue.push(Unit::Lent(4), 0);
        queue.push(Unit::Waited(b"waited".to_vec()), 0);
        queue.push(Unit::Shared(Arc::from(&b"shared"[..])), 0);
        queue
    }

    #[test]
    fn frames_leave_whole_and_in_order_however_little_the_socket_takes() {
        for piece in 1..30 {
            assert_eq!(written(queue(), piece), b"firstheadlentwaitedshared");
        }
    }

    #[test]
    fn a_control_frame_passes_what_waits_but_never_stands_inside_a_frame() {
        for torn in 0..5 {
            for piece in 1..30 {
                let mut queue = queue();
                queue.advance(torn);
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
    fn nobody_writes_what_another_has_lent_nor_what_stands_behind_it() {
        let mut queue = queue();
        queue.set(Slot::Close, b"CLOSE".to_vec());
        for expected in ["firsthead", "", ""] {
            let all = gathered(&queue, [&[]; 2]);
            assert_eq!(all, expected.as_bytes());
            // The second time it stands at the front, the third time a part of it is out.
            queue.advance(all.len().max(1));
        }
        assert_eq!(written(queue, 100), b"ntwaitedsharedCLOSE");
    }

    #[test]
    fn a_newer_pong_replaces_a_waiting_one_but_not_a_torn_one() {
        let mut queue = Queue::default();
        queue.set(Slot::Pong, b"old".to_vec());
        queue.set(Slot::Pong, b"new".to_vec());
        queue.advance(1);
        queue.set(Slot::Pong, b"newer".to_vec());
        assert_eq!(written(queue, 100), b"ewnewer");
    }

    #[test]
    fn small_frames_share_memory_while_they_wait() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            queue.push(Unit::Frames(b"\x81\x01x".to_vec()), 0);
        }
        assert_eq!((queue.units.len(), queue.bytes()), (1, 3000));
    }

    #[test]
    fn all_that_is_allocated_counts_and_little_more() {
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
            assert!(queue.held() + 4 * size_of::<Unit>() >= table + bytes, "{size}");
            assert!(queue.held() <= 2 * table + bytes + queue.units.len() * 16, "{size}");
        }
        let mut small = Queue::default();
        for _ in 0..100_000 {
            small.push(Unit::Frames(vec![0; 10]), 0);
        }
        assert!(
            small.held() >= 1_000_000 && small.held() < 1_040_000,
            "{} for a million bytes",
            small.held()
        );
    }

    #[test]
    fn a_message_is_out_when_its_last_byte_is() {
        let mut queue = queue();
        let ticket = queue.ticket();
        queue.push(Unit::Frames(b"later".to_vec()), 0);
        queue.advance(24);
        assert!(!queue.is_out(ticket));
        queue.advance(1);
        assert!(queue.is_out(ticket));
    }
}
