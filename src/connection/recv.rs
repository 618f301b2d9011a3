//! What happens between two messages: control frames are dealt with, what is held is sent, and more is read, within all
//! deadlines.

use super::keepalive::KeepaliveStep;
use super::{Connection, Wait, close};
use crate::error::{Cause, Error, Result, Timeout};
use crate::message::State;
use crate::net::Deadline;
use crate::protocol::decoder::{Item, close_frame};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// A peer that has been silent for so long, when a read finds nothing, may be so for longer: its memory is given back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What [`Connection::advance`] came to.
#[derive(Debug, Clone, Copy)]
enum Advance {
    Item(Item),
    /// More bytes are here.
    Read,
    /// A normal end.
    End,
}

impl Connection {
    /// The next item; control frames are dealt with before they are returned. `None` is a normal end. `asked` says that a
    /// read since the caller's deadline found nothing.
    // Inlined into the handler's loop, as are its callers, and short messages found there: a result that comes back through
    // memory, written in halves and read whole, waits until the halves have left the store buffer. Measured: that was half
    // the user time of an echo.
    #[inline(always)]
    pub(super) fn next_item(&mut self, wait: Wait, asked: &mut bool) -> Result<Option<Item>> {
        loop {
            if self.closed.is_none() && self.messages.is_none() {
                if let Some(item) = self.reader.next_short() {
                    return Ok(Some(item));
                }
            }
            match self.advance(wait, asked)? {
                Advance::Item(item) => return Ok(Some(item)),
                Advance::Read => {}
                Advance::End => return Ok(None),
            }
        }
    }

    /// Takes any item out of what is here, or reads more.
    #[inline(never)]
    fn advance(&mut self, wait: Wait, asked: &mut bool) -> Result<Advance> {
        if let Some(closed) = &self.closed {
            return close::outcome(closed).map(|()| Advance::End);
        }
        if let Some(paused) = self.paused.take() {
            self.reader.skip_pause(paused.elapsed());
        }
        match self.reader.next() {
            Ok(Some(item)) => {
                if !item.is_data() {
                    self.control(item)?;
                } else if self.messages.is_some() {
                    self.count_message()?;
                }
                return Ok(Advance::Item(item));
            }
            Ok(None) => {}
            Err(error) => return Err(self.fail(error)),
        }
        if let Some(cause) = self.sender.outbox().broken_hint() {
            return Err(self.lost(cause));
        }
        if self.cork.may_wait() && self.read_late()? {
            return Ok(Advance::Read);
        }
        if let Err(error) = self.flush() {
            // A Close of ours went out meanwhile: what was held is lost, but the peer may still say something.
            if self.sender.outbox().broken().is_some() {
                return Err(self.lost(Cause::from_error(&error)));
            }
        }
        if self.read_more(wait, asked)? {
            return Ok(Advance::Read);
        }
        self.paused = Some(Instant::now());
        Err(match wait {
            Wait::Not => Error::Empty,
            _ => Error::Timeout(Timeout::Recv),
        })
    }

    /// Deals with a control frame.
    fn control(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Ping(span) => {
                // Fails only if a Close is out, and then nothing may follow it.
                drop(self.sender.outbox().pong(self.reader.bytes(span)));
            }
            Item::Pong(span) => {
                if let Some(time) = self.keepalive.pong(self.reader.bytes(span), Instant::now()) {
                    self.sender.outbox().tally().round_trip(time);
                }
            }
            Item::Close(span) => {
                let content = close_frame(self.reader.bytes(span))?;
                self.answer_close(content);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads once, within all deadlines; false if the caller's has passed.
    fn read_more(&mut self, wait: Wait, asked: &mut bool) -> Result<bool> {
        let now = Instant::now();
        let counts = self.reader.counts();
        let outbox = self.sender.outbox();
        outbox.tally().received(counts.messages, counts.bytes);
        let is_open = outbox.state() == State::Open;
        // Who was heard just now, and has begun nothing, can be late with nothing before the socket's own timeout: so it is
        // for nearly every read of a busy connection.
        let is_anew = self.reader.last_life(now) == now && self.reader.is_between_messages();
        let read = if is_anew && is_open && self.policies.is_none() && matches!(wait, Wait::Forever) {
            self.reader.read(true)
        } else {
            match self.read_within(now, is_open, wait, asked)? {
                ControlFlow::Continue(read) => read,
                ControlFlow::Break(go_on) => return Ok(go_on),
            }
        };
        match read {
            Ok(0) => Err(self.lost(Cause::Eof)),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                *asked = matches!(wait, Wait::Not) || *asked;
                self.keep_alive()?;
                Ok(true)
            }
            Err(error) => Err(self.lost(Cause::Io(error.kind()))),
        }
    }

    /// Reads once, within whatever deadlines there are; or breaks off: true if a policy has just sent the Close, false if the
    /// caller's deadline has passed.
    #[inline(never)]
    fn read_within(
        &mut self,
        now: Instant,
        is_open: bool,
        wait: Wait,
        asked: &mut bool,
    ) -> Result<ControlFlow<bool, io::Result<usize>>> {
        let outbox = self.sender.outbox();
        let close = if is_open { Deadline::NEVER } else { outbox.close_deadline() };
        let message = self.reader.message_deadline(now);
        if close.has_passed(now) {
            return Err(self.lost(Cause::Timeout(Timeout::Close)));
        }
        if message.has_passed(now) {
            return Err(self.fail(Error::Timeout(Timeout::Message)));
        }
        let exact = close.or(message);
        let mut rough = Deadline::NEVER;
        if is_open {
            if let Some(policies) = &mut self.policies {
                let messages = self.reader.counts().messages;
                if let Some((policy, reason)) = policies.due(now, messages, message, outbox) {
                    self.retire(policy, reason);
                    return Ok(ControlFlow::Break(true));
                }
                rough = policies.deadline(message);
            }
            rough = rough.or(self.keepalive.deadline(self.reader.last_life(now)));
        }
        Ok(ControlFlow::Continue(match wait {
            Wait::Forever => self.reader.fill(now, exact, rough),
            Wait::Until(callers) if *asked && callers.has_passed(now) => {
                return Ok(ControlFlow::Break(false));
            }
            Wait::Until(callers) => {
                *asked = callers.has_passed(now);
                self.reader.fill(now, exact.or(callers), rough)
            }
            Wait::Not if *asked => return Ok(ControlFlow::Break(false)),
            Wait::Not => self.reader.read(false),
        }))
    }

    /// Reads what is there without waiting, once while broadcasts are held: a burst that comes in two pieces is passed on in
    /// one. False if there is nothing.
    #[inline(never)]
    fn read_late(&mut self) -> Result<bool> {
        self.cork.waited();
        match self.reader.read(false) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => {
                drop(self.flush());
                Err(self.lost(Cause::Io(error.kind())))
            }
        }
    }

    /// Pings a peer that has been silent for long enough, or gives it up. Nothing was there to read just now.
    fn keep_alive(&mut self) -> Result<()> {
        self.reader.arm();
        let now = Instant::now();
        let last_life = self.reader.last_life(now);
        if now.saturating_duration_since(last_life) >= REST_AFTER {
            self.reader.rest();
            self.cork.rest();
        }
        let outbox = self.sender.outbox();
        if outbox.state() != State::Open || !self.keepalive.deadline(last_life).has_passed(now) {
            return Ok(());
        }
        match self.keepalive.due(now, last_life, outbox.ping_waits()) {
            KeepaliveStep::Ping(payload) => {
                // Fails only if the connection is closing, which the next read tells.
                drop(outbox.ping(&payload));
                outbox.tally().pinged();
                Ok(())
            }
            KeepaliveStep::Dead => Err(self.lost(Cause::Timeout(Timeout::Ping))),
        }
    }
}
