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
use crate::net::{Session, Transport};
use std::mem;

/// The most plaintext that is sealed for one system call.
const SEALED: usize = 4 * RECORD;

/// The session, and what the socket has not taken of its sealed bytes.
#[derive(Debug)]
pub(super) struct Sealing {
    session: Box<dyn Session>,
    /// The part of the queue that is in the sealed bytes. Nothing, if they are only the session's own.
    sealed: Taken,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
        Self { session, sealed: Taken::default(), phase: Phase::Open }
    }

    /// Writes the sealed bytes. If they contain nothing of the queue, first seals what is next in it.
    ///
    /// Returns what the socket took of the queue, or `None` if there is nothing that this thread can write. A socket that
    /// `is_refusing` bytes gets one record at a time, because a control frame cannot overtake it.
    pub(super) fn write_next(
        &mut self,
        queue: &mut Queue,
        stream: &dyn Transport,
        lent: Lent<'_>,
        is_refusing: bool,
    ) -> Result<Option<Taken>, Cause> {
        if self.phase == Phase::Broken {
            return Ok(None);
        }
        if self.sealed.bytes() == 0 {
            let slices = queue.gather(lent, if is_refusing { RECORD } else { SEALED });
            if !slices.is_empty() {
                let count = self.session.seal(&slices)?;
                self.sealed = queue.take(count);
            } else if self.phase == Phase::Ending && queue.is_empty() {
                self.session.close_notify();
                self.phase = Phase::Ended;
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
            Phase::Open | Phase::Ended => !self.session.has_sealed(),
            Phase::Ending => false,
            Phase::Broken => true,
        }
    }

    /// Returns whether a ping is sealed that the socket has not taken.
    pub(super) fn has_ping(&self) -> bool {
        self.sealed.has_ping
    }

    /// Called when the connection breaks: drops what is sealed. What the peer has sent can still be opened.
    pub(super) fn break_off(&mut self) {
        self.phase = Phase::Broken;
        self.sealed = Taken::default();
    }
}

impl Outbox {
    /// Seals everything from now on. Called before any other thread knows this outbox.
    pub(crate) fn seal_with(&self, session: Box<dyn Session>) {
        self.state.lock().sealing = Some(Box::new(Sealing::new(session)));
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
        if sealing.phase == Phase::Open {
            sealing.phase = Phase::Ending;
            if state.stall.is_none() {
                self.write_queue(&mut state, NOTHING);
            }
            self.unlock(state);
        }
    }
}
