//! A connection as its own thread sees it: it owns the reading side and the cork, keeps the peer alive, and ends in the
//! closing handshake. What is sent goes through the outbox, and so does everybody else's.

mod close;
mod cork;
mod facts;
mod keepalive;
mod limits;
mod publishing;
mod reader;
mod received;
mod recv;
mod send;

pub use received::Received;

use crate::config::Config;
use crate::error::{Closed, Result};
use crate::hub::{Hooks, Hub};
use crate::message::{Event, Message};
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
use keepalive::Keepalive;
use limits::AgeLimits;
use reader::Reader;
use std::time::{Duration, Instant};

/// One WebSocket connection, in the hands of the thread that reads it.
///
/// # Keep reading
///
/// Pings, pongs and the peer's Close are seen by the calls that receive. A handler that only sends calls
/// [`ignore`](Self::ignore) in the end, or is declared dead by its peer.
///
/// # The end
///
/// A server's connection is closed when its handler returns: with 1000 after `Ok`, with 1011 after a panic or an error.
/// An error that is only the connection's own end is no failure, and changes nothing. A client's connection that is
/// dropped says 1001, if that can be said at once.
// In this order: what every message touches lies together, as in the outbox.
#[repr(C)]
pub struct Connection {
    reader: Reader,
    sender: Sender,
    closed: Option<Closed>,
    policies: Option<Box<AgeLimits>>,
    /// When a receiving call last came back empty: until the next one the message clock stands still.
    paused: Option<Instant>,
    /// What all connections of this client's address may receive together.
    messages: Option<Arc<Bucket>>,
    hub: Hub,
    cork: Cork,
    keepalive: Keepalive,
    request: Box<Request>,
    response: Option<Box<Response>>,
    subprotocol: Option<Box<str>>,
    hooks: Arc<Hooks>,
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

/// How long a receiving call may wait.
#[derive(Debug, Clone, Copy)]
enum Wait {
    Forever,
    Until(Deadline),
    Not,
}

impl Connection {
    /// Takes over after the handshake; `early` are bytes that came behind it.
    #[inline(never)]
    pub(crate) fn new(
        role: Role,
        config: &Config,
        stream: Arc<Stream>,
        early: &[u8],
        parts: Parts,
    ) -> Result<Box<Self>> {
        let Parts { sender, request, response, subprotocol, hub, hooks, timer, messages } = parts;
        let policies = AgeLimits::new(config, sender.outbox().opened()).map(Box::new);
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
    /// [`write_broadcast`](Self::write_broadcast) hold is sent first.
    ///
    /// # Blocking
    ///
    /// Waits until a message comes or the connection ends, after what is held was sent as by [`flush`](Self::flush). A
    /// silent peer is found dead by keepalive pings, after 40 s by default, and without them
    /// ([`ping_interval`](Config::ping_interval) `None`) never. The call that meets the peer's Close, or a violation,
    /// completes the closing handshake: at most [`close_timeout`](Config::close_timeout), 5 s by default. [`Sender`]s
    /// are never held up by any of it.
    ///
    /// # Errors
    ///
    /// Any that [`is_fatal`](crate::Error::is_fatal): the connection is over, and every further call gives the same.
    #[inline(always)]
    pub fn recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Wait::Forever)
    }

    /// Like [`recv`](Self::recv), but waits at most `timeout` for a message.
    ///
    /// # Blocking
    ///
    /// At most `timeout` for a message; what is held, and the closing handshake, take their time as in
    /// [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Recv`](crate::Timeout::Recv) if no whole message came: the
    /// connection goes on, and a part of one is kept. Else as for [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>> {
        self.recv_within(Wait::Until(Deadline::after(timeout)))
    }

    /// Like [`recv`](Self::recv), but does not wait for the peer.
    ///
    /// # Blocking
    ///
    /// As [`flush`](Self::flush), if [`write`](Self::write) holds something, and for the closing handshake as
    /// [`recv`](Self::recv); else it does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`](crate::Error::Empty) if no whole message is here: the connection goes on. Else as for
    /// [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Wait::Not)
    }

    #[inline(always)]
    fn recv_within(&mut self, wait: Wait) -> Result<Option<Message>> {
        let mut asked = false;
        loop {
            let Some(item) = self.next_item(wait, &mut asked)? else { return Ok(None) };
            if item.is_data() {
                return Ok(Some(self.take(item)?));
            }
            // Who does not wait is not held up by a peer that pings without end.
            asked |= matches!(wait, Wait::Not);
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
    ///         received.write(received.message)?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # drop(handle);
    /// # Ok::<(), threadws::Error>(())
    /// ```
    ///
    /// # Blocking
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    #[inline(always)]
    pub fn recv_ref(&mut self) -> Result<Option<Received<'_>>> {
        loop {
            let Some(item) = self.next_item(Wait::Forever, &mut false)? else { return Ok(None) };
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
        let Some(item) = self.next_item(Wait::Forever, &mut false)? else { return Ok(None) };
        if !item.is_data() {
            // Whoever sees control frames may be busy with one while a message is on its way.
            self.paused = Some(Instant::now());
        }
        match item {
            Item::Ping(span) => Ok(Some(Event::Ping(self.reader.bytes(span).to_vec()))),
            Item::Pong(span) => Ok(Some(Event::Pong(self.reader.bytes(span).to_vec()))),
            Item::Close(span) => Ok(Some(Event::Close(close_frame(self.reader.bytes(span))?))),
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
}
