//! A connection as its own thread sees it: it owns the reading side and the cork, keeps the peer alive, and ends in the
//! closing handshake. What is sent goes through the outbox, and so does everybody else's.

mod closing;
mod cork;
mod facts;
mod keepalive;
mod policy;
mod publishing;
mod reader;
mod received;
mod sending;

pub use received::Received;

use crate::config::Config;
use crate::error::{Cause, Closed, Error, Result, Timeout};
use crate::hub::{Hooks, Hub};
use crate::message::{Event, Message, State};
use crate::net::{Deadline, Stream};
use crate::protocol::Role;
use crate::protocol::decoder::{Item, close_frame};
use crate::quota::Bucket;
use crate::request::{Request, Response};
use crate::sender::Sender;
use crate::sync::Arc;
use crate::tick::Tick;
use crate::timer::Timer;
use cork::{Cork, To};
use keepalive::{Due, Keepalive};
use policy::Policies;
use reader::Reader;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// A peer that has been silent for so long, when a read finds nothing, may be so for longer: its memory is given back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// One WebSocket connection, in the hands of the thread that reads it.
///
/// # Keep reading
///
/// Pings, pongs and the peer's Close are seen by the calls that receive. A handler that only sends calls
/// [`ignore`](Self::ignore) in the end, or is declared dead by its peer.
///
/// # The end
///
/// A server's connection is closed when its handler returns: with 1000 after `Ok`, with 1011 after an error or a panic.
// In this order: what every message touches lies together, as in the outbox.
#[repr(C)]
pub struct Connection {
    reader: Reader,
    sender: Sender,
    closed: Option<Closed>,
    /// When a receiving call last came back empty: until the next one the message clock stands still.
    paused: Option<Instant>,
    /// What all connections of this client's address may receive together.
    messages: Option<Arc<Bucket>>,
    hub: Hub,
    cork: Cork,
    keepalive: Keepalive,
    policies: Option<Policies>,
    request: Box<Request>,
    response: Option<Box<Response>>,
    subprotocol: Option<Box<str>>,
    hooks: Arc<Hooks>,
    max_topics: usize,
    timer: Arc<Timer>,
    ticks: Vec<Tick>,
}

// Each client holds one of these, and one of the outbox's.
#[cfg(all(target_pointer_width = "64", not(model)))]
const _: () = assert!(size_of::<Connection>() <= 624);

/// What a new connection is made of, beside its socket.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) sender: Sender,
    pub(crate) request: Box<Request>,
    /// The server's 101, if we are the client.
    pub(crate) response: Option<Box<Response>>,
    pub(crate) subprotocol: Option<String>,
    pub(crate) hub: Hub,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) messages: Option<Arc<Bucket>>,
}

/// What [`Connection::advance`] came to.
#[derive(Debug, Clone, Copy)]
enum Advance {
    Item(Item),
    /// More octets are here.
    Read,
    /// A normal end.
    End,
}

/// How long a receiving call may wait.
#[derive(Debug, Clone, Copy)]
enum Wait {
    Forever,
    Until(Deadline),
    Not,
}

impl Connection {
    /// Takes over after the handshake; `early` are octets that came behind it.
    #[inline(never)]
    pub(crate) fn new(
        role: Role,
        config: &Config,
        stream: Arc<Stream>,
        early: &[u8],
        parts: Parts,
    ) -> Result<Box<Self>> {
        let Parts { sender, request, response, subprotocol, hub, hooks, timer, messages } = parts;
        let policies = Policies::new(config, sender.outbox().opened());
        Ok(Box::new(Self {
            sender,
            reader: Reader::new(role, config, stream, early)?,
            keepalive: Keepalive::new(config),
            cork: Cork::new(config),
            request,
            response,
            subprotocol: subprotocol.map(String::into_boxed_str),
            hub,
            hooks,
            max_topics: config.max_topics,
            policies,
            messages,
            timer,
            ticks: Vec::new(),
            paused: None,
            closed: None,
        }))
    }

    /// Receives the next message; `None` is the end after a closing handshake with 1000, 1001 or no code.
    ///
    /// Pings are answered, pongs noted and Closes answered on the way. What [`write`](Self::write) and
    /// [`broadcast`](Self::broadcast) hold is sent first.
    ///
    /// # Blocking
    ///
    /// Waits until a message comes or the connection ends; a silent peer is found dead by keepalive pings, after 40 s by
    /// default. [`Sender`]s are never held up by it.
    ///
    /// # Errors
    ///
    /// Any that [`is_fatal`](Error::is_fatal): the connection is over, and every further call gives the same.
    #[inline(always)]
    pub fn recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Wait::Forever)
    }

    /// Like [`recv`](Self::recv), but waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with [`Timeout::Recv`] if no whole message came: the connection goes on, and a part of one is
    /// kept. Else as for [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>> {
        self.recv_within(Wait::Until(Deadline::after(timeout)))
    }

    /// Like [`recv`](Self::recv), but does not wait for the peer.
    ///
    /// # Blocking
    ///
    /// As [`flush`](Self::flush), if [`write`](Self::write) holds something; else it does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] if no whole message is here: the connection goes on. Else as for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Wait::Not)
    }

    #[inline(always)]
    fn recv_within(&mut self, wait: Wait) -> Result<Option<Message>> {
        loop {
            let Some(item) = self.next_item(wait)? else { return Ok(None) };
            if item.is_data() {
                return Ok(Some(self.take(item)?));
            }
        }
    }

    /// The message of a data item, owned.
    #[inline(always)]
    fn take(&mut self, item: Item) -> Result<Message> {
        match item {
            Item::Binary(span) => Ok(Message::Binary(self.reader.copy(span))),
            Item::Text(span) => match self.reader.copy_text(span) {
                Ok(text) => Ok(Message::Text(text)),
                Err(violation) => Err(self.fail(violation.into())),
            },
            _ => Ok(self.reader.take()),
        }
    }

    /// Like [`recv`](Self::recv), but lends the message instead of giving it away: no allocation, no copy.
    ///
    /// It saves some ten nanoseconds a message, which show only where tiny messages come by the million. Because it is
    /// lent, the connection cannot be used beside it; [`Received::write`] answers.
    ///
    /// ```
    /// # let server = threadws::Server::bind("127.0.0.1:0")?;
    /// let handle = server.spawn(|client| {
    ///     while let Some(mut received) = client.recv_ref()? {
    ///         received.write(received.message())?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # drop(handle);
    /// # Ok::<(), threadws::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    #[inline(always)]
    pub fn recv_ref(&mut self) -> Result<Option<Received<'_>>> {
        loop {
            let Some(item) = self.next_item(Wait::Forever)? else { return Ok(None) };
            if !item.is_data() {
                continue;
            }
            return match self.reader.prepare(item) {
                Ok(item) => Ok(Some(self.lend(item))),
                Err(violation) => Err(self.fail(violation.into())),
            };
        }
    }

    /// The borrow of a returned value cannot depend on a branch of a loop, so it starts here.
    #[inline]
    fn lend(&mut self, item: Item) -> Received<'_> {
        let hold = self.reader.has_unread();
        let to = To { sender: &self.sender, hub: &self.hub };
        Received { message: self.reader.view(item), to, cork: &mut self.cork, hold }
    }

    /// Receives the next message or control frame, for those who want to see pings, pongs and the Close too.
    ///
    /// They are dealt with all the same. After [`Event::Close`] comes what
    /// [`recv`](Self::recv) says of the end: `None`, or the error it was.
    ///
    /// # Blocking
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let Some(item) = self.next_item(Wait::Forever)? else { return Ok(None) };
        match item {
            Item::Ping(span) => Ok(Some(Event::Ping(self.reader.octets(span).to_vec()))),
            Item::Pong(span) => Ok(Some(Event::Pong(self.reader.octets(span).to_vec()))),
            Item::Close(span) => Ok(Some(Event::Close(close_frame(self.reader.octets(span))?))),
            data => Ok(Some(Event::Message(self.take(data)?))),
        }
    }

    /// Receives and discards until the end: for a handler that only sends.
    ///
    /// # Blocking
    ///
    /// Until the connection ends.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn ignore(&mut self) -> Result<()> {
        while self.recv_ref()?.is_some() {}
        Ok(())
    }

    /// The messages until the end, as an iterator: it ends where [`recv`](Self::recv) gives `None`, or after an error.
    pub fn messages(&mut self) -> impl Iterator<Item = Result<Message>> + '_ {
        let mut over = false;
        std::iter::from_fn(move || {
            if over {
                return None;
            }
            let next = self.recv().transpose();
            over = !matches!(next, Some(Ok(_)));
            next
        })
    }

    /// The next item; control frames are dealt with before they are returned. `None` is a normal end.
    // Inlined into the handler's loop, as are its callers, and short messages found there: a result that comes back through
    // memory, written in halves and read whole, waits until the halves have left the store buffer. Measured: that was half
    // the user time of an echo.
    #[inline(always)]
    fn next_item(&mut self, wait: Wait) -> Result<Option<Item>> {
        let mut asked = false;
        loop {
            if self.closed.is_none() && self.messages.is_none() {
                if let Some(item) = self.reader.next_short() {
                    return Ok(Some(item));
                }
            }
            match self.advance(wait, &mut asked)? {
                Advance::Item(item) => return Ok(Some(item)),
                Advance::Read => {}
                Advance::End => return Ok(None),
            }
        }
    }

    /// Takes any item out of what is here, or reads more. `asked` says that a read since the caller's deadline found nothing.
    #[inline(never)]
    fn advance(&mut self, wait: Wait, asked: &mut bool) -> Result<Advance> {
        if let Some(closed) = &self.closed {
            return closing::outcome(closed).map(|()| Advance::End);
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
                drop(self.sender.outbox().pong(self.reader.octets(span)));
            }
            Item::Pong(span) => {
                if let Some(time) = self.keepalive.pong(self.reader.octets(span), Instant::now()) {
                    self.sender.outbox().tally().round_trip(time);
                }
            }
            Item::Close(span) => {
                let content = close_frame(self.reader.octets(span))?;
                self.answer_close(content);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads once, within all deadlines; false if the caller's has passed. `asked` says that a read since then found
    /// nothing.
    fn read_more(&mut self, wait: Wait, asked: &mut bool) -> Result<bool> {
        let now = Instant::now();
        let last_life = self.reader.last_life(now);
        let outbox = self.sender.outbox();
        let closing = outbox.state() != State::Open;
        let counts = self.reader.counts();
        outbox.tally().received(counts.messages, counts.octets);
        let close = if closing { outbox.close_deadline() } else { Deadline::NEVER };
        let message = self.reader.message_deadline(now);
        if close.has_passed(now) {
            return Err(self.lost(Cause::Timeout(Timeout::Close)));
        }
        if message.has_passed(now) {
            return Err(self.fail(Error::Timeout(Timeout::Message)));
        }
        let mut deadline = close.or(message);
        if !closing {
            if let Some(policies) = &mut self.policies {
                if let Some((policy, reason)) = policies.due(now, counts.messages, message, outbox) {
                    self.retire(policy, reason);
                    return Ok(true);
                }
                deadline = deadline.or(policies.deadline(message));
            }
            deadline = deadline.or(self.keepalive.deadline(last_life));
        }
        let read = match wait {
            Wait::Forever => self.reader.fill(now, deadline),
            Wait::Until(callers) if *asked && callers.has_passed(now) => return Ok(false),
            Wait::Until(callers) => {
                *asked = callers.has_passed(now);
                self.reader.fill(now, deadline.or(callers))
            }
            Wait::Not if *asked => return Ok(false),
            Wait::Not => self.reader.fill_at_once(),
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

    /// Reads what is there without waiting, once while broadcasts are held: a burst that comes in two pieces is passed on in
    /// one. False if there is nothing.
    #[inline(never)]
    fn read_late(&mut self) -> Result<bool> {
        self.cork.waited();
        match self.reader.fill_at_once() {
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
            Due::Ping(payload) => {
                // Fails only if the connection is closing, which the next read tells.
                drop(outbox.ping(&payload));
                outbox.tally().pinged();
                Ok(())
            }
            Due::Dead => Err(self.lost(Cause::Timeout(Timeout::Ping))),
        }
    }
}
