//! The type [`Connection`], what it consists of, and what it tells about itself.

use super::close::Closing;
use super::cork::Cork;
use super::keepalive::Keepalive;
use super::limits::AgeLimits;
use super::reader::Reader;
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
use std::fmt;
use std::time::{Duration, Instant};

/// One WebSocket connection, used by the thread that reads it. Other threads send with its [`sender`](Self::sender).
///
/// # Keep reading
///
/// Pings, pongs and the peer's Close are handled by the calls that receive. A handler that only sends must end with
/// [`ignore`](Self::ignore), because the peer takes a connection without pongs for dead.
///
/// # How it ends
///
/// When the handler returns, the server closes the connection: with 1000 after `Ok`, with 1011 after an error or a panic.
/// An error that only reports the end of this connection counts as `Ok`. When a client's connection is dropped, a Close with
/// 1001 is sent if the socket takes it at once.
pub struct Connection {
    pub(super) reader: Reader,
    pub(super) sender: Sender,
    pub(super) max_close_time: Option<Duration>,
    /// Set when a receiving call has first looked at the close deadline.
    pub(super) closing: Option<Closing>,
    pub(super) closed: Option<Closed>,
    pub(super) age_limits: Option<Box<AgeLimits>>,
    /// When a receiving call last returned without a message. The message timeout does not run until the next call.
    pub(super) paused: Option<Instant>,
    /// The message rate of the client's address, for all its connections.
    pub(super) message_rate: Option<Arc<Bucket>>,
    /// One more read was made while broadcasts are held: see `read_again`.
    pub(super) has_read_again: bool,
    pub(super) hub: Hub,
    pub(super) cork: Cork,
    pub(super) keepalive: Keepalive,
    pub(super) request: Box<Request>,
    pub(super) response: Option<Box<Response>>,
    pub(super) subprotocol: Option<Box<str>>,
    pub(super) hooks: Arc<Hooks>,
    /// The server's own.
    pub(super) counters: Arc<Counters>,
    pub(super) timer: Arc<Timer>,
    pub(super) ticks: Vec<Tick>,
}

/// The parts of a new connection, except its socket.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) sender: Sender,
    pub(crate) request: Box<Request>,
    /// The server's 101, on a client's connection.
    pub(crate) response: Option<Box<Response>>,
    pub(crate) subprotocol: Option<String>,
    pub(crate) hub: Hub,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timer: Arc<Timer>,
    /// The message rate of the client's address, if the server has one.
    pub(crate) message_rate: Option<Arc<Bucket>>,
}

/// The bytes that were read after the handshake.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Early<'a> {
    /// The first frames, or a part of them.
    pub(crate) plain: &'a [u8],
    /// With TLS: the start of a record that is not complete. All records before it are opened.
    pub(crate) sealed: Option<&'a [u8]>,
}

impl Connection {
    /// Takes over after the handshake.
    pub(crate) fn new(
        config: &Config,
        stream: Arc<Stream>,
        early: Early<'_>,
        parts: Parts,
    ) -> Result<Box<Self>> {
        let Parts { sender, request, response, subprotocol, hub, hooks, counters, timer, message_rate } =
            parts;
        let age_limits = AgeLimits::new(config, sender.outbox().opened()).map(Box::new);
        Ok(Box::new(Self {
            reader: Reader::new(config, stream, early, sender.outbox())?,
            sender,
            keepalive: Keepalive::new(config),
            cork: Cork::new(config),
            request,
            response,
            subprotocol: subprotocol.map(String::into_boxed_str),
            hub,
            hooks,
            counters,
            age_limits,
            message_rate,
            has_read_again: false,
            timer,
            ticks: Vec::new(),
            paused: None,
            max_close_time: config.max_close_time(),
            closing: None,
            closed: None,
        }))
    }

    /// Returns a handle that sends from any thread.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Returns the state of the connection.
    pub fn state(&self) -> State {
        self.sender.state()
    }

    /// Returns the connection's numbers: messages and bytes in both directions, its backlog, the last round-trip time,
    /// and when it was opened.
    pub fn stats(&self) -> ClientStats {
        let outbox = self.sender.outbox();
        let counts = self.reader.counts();
        outbox.reader_counts().set_received(counts.messages, counts.bytes);
        outbox.stats()
    }

    /// Returns how the connection ended, or `None` before a receiving call or [`close`](Self::close) has found its end.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// Returns the number of the connection. It is not used again in this process.
    pub fn id(&self) -> u64 {
        self.sender.id()
    }

    /// Returns the client's address, as [`Request::client_addr`](crate::handshake::Request::client_addr) does: the one that a
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

    /// Returns the request that opened the connection, with the extensions that
    /// [`check_request`](crate::Server::check_request) has set.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Returns the server's answer to the request, 101, on a connection that was opened by [`connect`](crate::connect).
    pub fn response(&self) -> Option<&Response> {
        self.response.as_deref()
    }

    /// Returns the subprotocol that both ends agreed on.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
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

/// Shows the number, the state and the request; no message, because it could be secret.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("state", &self.state())
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64", not(model)))]
mod tests {
    use super::*;

    /// Each client takes the memory of one connection. Other systems have other sizes of the types of std.
    #[test]
    fn a_connection_has_at_most_624_bytes() {
        assert!(size_of::<Connection>() <= 624, "{}", size_of::<Connection>());
    }
}
