//! TLS between the queue and the socket: [`Sealing`], and how the reader opens records.
//!
//! The order of all frames is decided in the queue, in plaintext. A frame is sealed at the last moment: when the socket has
//! taken all bytes that were sealed before it. So a control frame overtakes the queue as without TLS, and waits only for the
//! bytes that are sealed. A frame counts as queued until the socket has taken the sealed bytes that contain it.
//!
//! Both directions share one session. So the reader, which reads without a lock, opens each record under the outbox's mutex.

use super::Outbox;
use super::queue::{Lent, NOTHING, Queue, Taken};
use crate::error::Cause;
use crate::net::session::{Content, RECORD};
use crate::net::{Established, Session, Transport};
use std::io::IoSlice;
use std::mem;

/// The most plaintext that is sealed for one system call: a message of 64 KiB with its header.
const SEALED: usize = 4 * RECORD + MAX_HEADER;
/// The longest header of a frame (RFC 6455 §5.2).
const MAX_HEADER: usize = 14;

/// The session, and what the socket has not taken of its sealed bytes.
#[derive(Debug)]
pub(super) struct Sealing {
    session: Box<dyn Session>,
    /// The part of the queue that the sealed bytes contain. Empty if they are only the session's own records.
    sealed: Taken,
    /// How many bytes are sealed of the frames that are queued next: see [`write_now`](Self::write_now).
    sealed_before: usize,
    phase: SealPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SealPhase {
    Open,
    /// A close_notify follows when the queue is empty.
    Ending,
    /// The close_notify is sealed.
    Ended,
    /// The connection is broken: nothing more is written.
    Broken,
}

impl Sealing {
    fn new(session: Box<dyn Session>) -> Self {
        Self { session, sealed: Taken::default(), sealed_before: 0, phase: SealPhase::Open }
    }

    /// Seals and writes frames without queuing them. Nothing may be queued. Returns how many of their bytes the socket took.
    ///
    /// If the socket does not take all that was sealed, that is 0, and the caller has to queue the frames. `write_next` does
    /// not seal that part again.
    pub(super) fn write_now(&mut self, frames: Lent<'_>, stream: &dyn Transport) -> usize {
        if self.phase != SealPhase::Open || frames[0].len() + frames[1].len() > SEALED {
            return 0;
        }
        let slices = frames.map(IoSlice::new);
        let slices = if frames[1].is_empty() { &slices[..1] } else { &slices };
        let Ok(sealed) = self.session.seal(slices) else { return 0 };
        // If the keys are worn, the caller closes the connection when it has queued the frames.
        if !self.is_worn() && self.session.write(stream).is_ok() {
            return sealed;
        }
        self.sealed_before = sealed;
        0
    }

    /// Writes the sealed bytes. If they contain nothing of the queue, first seals what is next in it.
    ///
    /// Returns what the socket took of the queue, or `None` if there is nothing that this thread can write. While the socket
    /// refuses bytes (`is_refused`), seals one record at a time, because a control frame cannot overtake sealed bytes.
    pub(super) fn write_next(
        &mut self,
        queue: &mut Queue,
        stream: &dyn Transport,
        lent: Lent<'_>,
        is_refused: bool,
    ) -> Result<Option<Taken>, Cause> {
        if self.phase == SealPhase::Broken {
            return Ok(None);
        }
        if self.sealed_before > 0 {
            self.sealed = queue.take(mem::take(&mut self.sealed_before));
        } else if self.sealed.bytes() == 0 {
            let slices = queue.gather(lent, if is_refused { RECORD } else { SEALED });
            if !slices.is_empty() {
                let count = self.session.seal(&slices)?;
                self.sealed = queue.take(count);
            }
            if self.phase == SealPhase::Ending && queue.is_taken() {
                self.session.close_notify();
                self.phase = SealPhase::Ended;
            }
        }
        if !self.session.has_sealed() {
            return Ok(None);
        }
        self.session.write(stream).map_err(|error| Cause::Io(error.kind()))?;
        Ok(Some(mem::take(&mut self.sealed)))
    }

    /// Returns whether nothing is to be written beside the queue.
    pub(super) fn is_empty(&self) -> bool {
        match self.phase {
            SealPhase::Open | SealPhase::Ended => !self.session.has_sealed(),
            SealPhase::Ending => false,
            SealPhase::Broken => true,
        }
    }

    /// Returns whether the connection has to end, because its keys are nearly used up.
    pub(super) fn is_worn(&self) -> bool {
        self.session.is_worn()
    }

    /// Returns whether a ping is sealed that the socket has not taken.
    pub(super) fn has_ping(&self) -> bool {
        self.sealed.has_ping
    }

    /// From now on, a close_notify is sealed after everything that is queued.
    pub(super) fn end(&mut self) {
        if self.phase == SealPhase::Open {
            self.phase = SealPhase::Ending;
        }
    }

    /// Called when the connection breaks: drops what is sealed. What the peer has sent can still be opened.
    pub(super) fn break_off(&mut self) {
        self.phase = SealPhase::Broken;
        self.sealed = Taken::default();
    }
}

impl Outbox {
    /// Seals everything from now on. Called before any other thread knows this outbox.
    pub(crate) fn seal_with(&self, session: Box<dyn Session>) {
        self.state.lock().sealing = Some(Box::new(Sealing::new(session)));
    }

    /// Like [`seal_with`](Self::seal_with). Returns the start of a record that was read with the handshake.
    pub(crate) fn establish(&self, established: Established) -> Vec<u8> {
        self.seal_with(established.session);
        established.sealed
    }

    /// Opens one whole record. Its plaintext replaces the start of `record`.
    ///
    /// Also writes the session's own answer, without waiting. After an error that is the alert, and the connection is broken.
    pub(crate) fn open_record(&self, record: &mut [u8]) -> Result<Content, Cause> {
        let mut state = self.state.lock();
        let Some(sealing) = &mut state.sealing else { return Ok(Content::End) };
        let opened = sealing.session.open(record);
        if sealing.session.has_sealed() && state.stall.is_none() {
            self.write_queue(&mut state, NOTHING);
        }
        match opened {
            Ok(_) => self.unlock(state),
            Err(cause) => {
                state.start_close_deadline(self.close_timeout);
                // The reading thread still discards input, so that no RST destroys the alert.
                self.break_gate_by(&mut state, cause, |stream| stream.shutdown_write());
            }
        }
        opened
    }

    /// Seals a close_notify behind everything that is queued. Called when nothing more is read.
    pub(crate) fn close_notify(&self) {
        let mut state = self.state.lock();
        let Some(sealing) = &mut state.sealing else { return };
        if sealing.phase == SealPhase::Open {
            sealing.end();
            if state.stall.is_none() {
                self.write_queue(&mut state, NOTHING);
            }
            self.unlock(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Deadline;
    use crate::outbox::queue::{NOTHING, Slot, Unit};
    use crate::sync::Mutex;
    use crate::verify::mock_session::{MockSession, key_update, unseal};
    use rustix::fd::{AsFd, BorrowedFd};
    use std::io::{self, ErrorKind};

    const LENT: Lent<'static> = [b"le", b"nt"];

    /// A socket that takes `room` bytes, then refuses once, and so on.
    #[derive(Debug)]
    struct SmallSocket {
        room: usize,
        wire: Mutex<Vec<u8>>,
        refuses: Mutex<bool>,
    }

    impl SmallSocket {
        fn new(room: usize) -> Self {
            Self { room, wire: Mutex::new(Vec::new()), refuses: Mutex::new(false) }
        }

        fn plain(&self) -> Vec<u8> {
            unseal(&self.wire.lock()).plain
        }
    }

    impl Transport for SmallSocket {
        fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut refuses = self.refuses.lock();
            *refuses = !*refuses;
            if !*refuses {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = self.room.min(bytes[0].len());
            self.wire.lock().extend_from_slice(&bytes[0][..count]);
            Ok(count)
        }

        fn wait_writable(&self, _: Deadline) -> io::Result<bool> {
            Ok(true)
        }

        fn shutdown_read(&self) {}
        fn shutdown_write(&self) {}
        fn shutdown_both(&self) {}
        fn forget_unsent(&self) {}
    }

    impl AsFd for SmallSocket {
        fn as_fd(&self) -> BorrowedFd<'_> {
            unreachable!("nothing polls it")
        }
    }

    /// Writes the queue until nothing is left. Checks after each write that what counts as written has reached the peer.
    fn write(sealing: &mut Sealing, queue: &mut Queue, socket: &SmallSocket) {
        let before = socket.plain().len() + queue.bytes();
        loop {
            match sealing.write_next(queue, socket, LENT, true) {
                Ok(Some(taken)) => {
                    queue.written(&taken);
                }
                Ok(None) => break,
                Err(cause) => assert_eq!(cause, Cause::Io(ErrorKind::WouldBlock)),
            }
            assert!(before - queue.bytes() <= socket.plain().len(), "counted before it was written");
        }
        assert!(queue.is_empty() && sealing.is_empty());
        assert_eq!((queue.bytes(), queue.memory()), (0, 0));
    }

    #[test]
    fn sealed_frames_are_written_in_order_whatever_the_socket_takes() {
        for piece in 1..30 {
            for room in [1, 3, 7, 100] {
                let mut sealing = Sealing::new(Box::new(MockSession::new(piece)));
                let socket = SmallSocket::new(room);
                write(&mut sealing, &mut Queue::of_each_kind(), &socket);
                assert_eq!(socket.plain(), b"firstheadlentwaitedshared", "records of {piece}");
            }
        }
    }

    #[test]
    fn frames_that_are_sealed_before_they_are_queued_are_sealed_once() {
        for piece in 1..12 {
            for room in [1, 3, 7, 100] {
                let mut sealing = Sealing::new(Box::new(MockSession::new(piece)));
                let (socket, mut queue) = (SmallSocket::new(room), Queue::default());
                let frames: Lent<'_> = [b"header", b"data"];
                let written = sealing.write_now(frames, &socket);
                assert!([0, piece.min(10)].contains(&written));
                if written < 10 {
                    queue.push(Unit::Frames(frames.concat()), written);
                }
                write(&mut sealing, &mut queue, &socket);
                assert_eq!(socket.plain(), b"headerdata", "records of {piece}");
            }
        }
    }

    #[test]
    fn a_control_frame_overtakes_all_that_is_not_sealed() {
        for piece in 1..30 {
            let mut sealing = Sealing::new(Box::new(MockSession::new(piece)));
            let (socket, mut queue) = (SmallSocket::new(1), Queue::of_each_kind());
            sealing.write_next(&mut queue, &socket, LENT, false).expect_err("the record has more bytes");
            let sealed = &b"firstheadlentwaitedshared"[..piece.min(25)];
            queue.set(Slot::Pong, b"PONG".to_vec());
            queue.set(Slot::Ping, b"PING".to_vec());
            assert!(queue.has_ping() && !sealing.has_ping());
            write(&mut sealing, &mut queue, &socket);
            // The frame that is sealed in part is completed first.
            let ends = [5, 9, 13, 19, 25];
            let whole = ends.into_iter().find(|end| *end >= sealed.len()).expect("25 is the end");
            let all = b"firstheadlentwaitedshared";
            let expected = [&all[..whole], b"PINGPONG", &all[whole..]].concat();
            assert_eq!(socket.plain(), expected, "records of {piece}");
        }
    }

    #[test]
    fn a_sealed_ping_waits_until_the_socket_takes_it() {
        let mut sealing = Sealing::new(Box::new(MockSession::new(100)));
        let (socket, mut queue) = (SmallSocket::new(1), Queue::default());
        queue.set(Slot::Ping, b"PING".to_vec());
        sealing.write_next(&mut queue, &socket, NOTHING, false).expect_err("the record has more bytes");
        assert!(!queue.has_ping() && sealing.has_ping());
        write(&mut sealing, &mut queue, &socket);
        assert!(!sealing.has_ping());
    }

    #[test]
    fn sealed_bytes_of_a_lender_need_no_lender() {
        let mut sealing = Sealing::new(Box::new(MockSession::new(100)));
        let (socket, mut queue) = (SmallSocket::new(1), Queue::of_each_kind());
        sealing.write_next(&mut queue, &socket, LENT, false).expect_err("the record has more bytes");
        loop {
            match sealing.write_next(&mut queue, &socket, NOTHING, true) {
                Ok(Some(taken)) => break assert_eq!(queue.written(&taken), 25),
                Ok(None) => panic!("nothing was written"),
                Err(_) => {}
            }
        }
        assert_eq!(socket.plain(), b"firstheadlentwaitedshared");
    }

    #[test]
    fn a_close_notify_follows_the_queue_and_own_records() {
        let mut sealing = Sealing::new(Box::new(MockSession::new(10)));
        let (socket, mut queue) = (SmallSocket::new(7), Queue::of_each_kind());
        assert_eq!(sealing.session.open(&mut key_update()), Ok(Content::Data(0)));
        sealing.phase = SealPhase::Ending;
        assert!(!sealing.is_empty());
        write(&mut sealing, &mut queue, &socket);
        let unsealed = unseal(&socket.wire.lock());
        assert_eq!((unsealed.answers, unsealed.has_ended), (1, true));
        assert_eq!(unsealed.plain.len(), 25);
    }

    #[test]
    fn a_close_notify_is_sealed_with_the_last_of_the_queue() {
        // Records of 100 bytes take the whole queue at once, those of 10 do not.
        for (piece, writes) in [(100, 1), (10, 3)] {
            let mut sealing = Sealing::new(Box::new(MockSession::new(piece)));
            let (socket, mut queue) = (SmallSocket::new(1000), Queue::of_each_kind());
            sealing.end();
            for _ in 0..writes {
                assert!(!sealing.is_empty() && !queue.is_taken());
                while let Err(cause) = sealing.write_next(&mut queue, &socket, LENT, false) {
                    assert_eq!(cause, Cause::Io(ErrorKind::WouldBlock));
                }
            }
            assert!(sealing.is_empty() && queue.is_taken());
            let unsealed = unseal(&socket.wire.lock());
            assert!(unsealed.has_ended && unsealed.plain == b"firstheadlentwaitedshared");
        }
    }

    #[test]
    fn nothing_is_written_after_the_connection_broke() {
        let mut sealing = Sealing::new(Box::new(MockSession::new(10)));
        let (socket, mut queue) = (SmallSocket::new(1), Queue::of_each_kind());
        sealing.write_next(&mut queue, &socket, LENT, false).expect_err("the record has more bytes");
        sealing.break_off();
        assert!(sealing.is_empty());
        assert!(matches!(sealing.write_next(&mut queue, &socket, LENT, false), Ok(None)));
        assert_eq!(socket.wire.lock().len(), 1);
    }
}
