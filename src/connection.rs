//! A connection as its own thread sees it: it owns the reading side and the cork, keeps the peer alive, and ends in the
//! closing handshake. What is sent goes through the outbox, and so does everybody else's.

mod close;
mod cork;
mod keepalive;
mod limits;
mod reader;
mod recv;
mod send;

pub use recv::Received;

use crate::addr::Addr;
use crate::config::Config;
use crate::error::{Closed, Error, Result};
use crate::hub::{Hooks, Hub};
use crate::message::State;
use crate::net::Stream;
use crate::protocol::Role;
use crate::quota::Bucket;
use crate::request::{Request, Response};
use crate::sender::Sender;
use crate::stats::{ClientStats, Counters};
use crate::sync::Arc;
use crate::tick::Tick;
use crate::timer::Timer;
use cork::Cork;
use keepalive::Keepalive;
use limits::AgeLimits;
use reader::Reader;
use std::fmt;
use std::time::Instant;

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
    /// The server's own.
    counters: Arc<Counters>,
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
    pub(crate) counters: Arc<Counters>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) messages: Option<Arc<Bucket>>,
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
        let Parts { sender, request, response, subprotocol, hub, hooks, counters, timer, messages } = parts;
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
            counters,
            policies,
            messages,
            timer,
            ticks: Vec::new(),
            paused: None,
            closed: None,
        }))
    }

    /// A handle that sends from any thread.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Where the connection stands.
    pub fn state(&self) -> State {
        self.sender.state()
    }

    /// How it ended, once it has.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// The connection's number. It is never used again in this process.
    pub fn id(&self) -> u64 {
        self.sender.id()
    }

    /// Returns the client's address, as [`Request::client_addr`](crate::Request::client_addr) does: the one that a
    /// trusted proxy named, otherwise the peer's without its port.
    ///
    /// On a connection that was opened by [`connect`](crate::connect) it is the server's address.
    pub fn client_addr(&self) -> Addr {
        self.request.client_addr()
    }

    /// Returns the address of the socket's other end, which is the nearest proxy's if there is one.
    pub fn peer_addr(&self) -> Addr {
        self.request.peer_addr()
    }

    /// The request that opened the connection, with what the header callback put into its extensions.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The server's answer to it, 101, if this is a client's connection.
    pub fn response(&self) -> Option<&Response> {
        self.response.as_deref()
    }

    /// The subprotocol that both ends agreed on.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Returns the connection's numbers: messages and bytes in both directions, its backlog, the last round-trip time,
    /// and when it was opened.
    pub fn stats(&self) -> ClientStats {
        let outbox = self.sender.outbox();
        let counts = self.reader.counts();
        outbox.reader_counts().set_received(counts.messages, counts.bytes);
        outbox.stats()
    }

    /// Returns the server's hub: all of its clients and their topics.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    pub fn hub(&self) -> Result<&Hub> {
        match self.sender.outbox().role() {
            Role::Server => Ok(&self.hub),
            Role::Client => Err(Error::invalid("only a server's connection has a hub")),
        }
    }
}

/// Who it is and where it stands; nothing of what it sends and receives.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("state", &self.state())
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}
