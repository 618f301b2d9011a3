//! What is known of a connection: who it is, how it came, where it stands.

use super::Connection;
use crate::error::Closed;
use crate::hub::Hub;
use crate::message::State;
use crate::request::{Request, Response};
use crate::sender::Sender;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

impl Connection {
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

    /// The client's address: from the headers of a trusted proxy, else the socket's.
    ///
    /// On a connection that was opened by [`connect`](crate::connect) it is that of [`peer_addr`](Self::peer_addr): the
    /// server's.
    pub fn ip(&self) -> IpAddr {
        self.request.client_ip()
    }

    /// The address of the socket's other end: the proxy's, if there is one; `0.0.0.0:0` if it has none, as a Unix
    /// socket.
    pub fn peer_addr(&self) -> SocketAddr {
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

    /// When the handshake ended.
    pub fn since(&self) -> Instant {
        self.sender.outbox().opened()
    }

    /// The round-trip time that the last keepalive ping measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.keepalive.round_trip()
    }

    /// All clients of this server. That of a connection that was opened by [`connect`](crate::connect) is empty: what
    /// it is told reaches nobody.
    pub fn hub(&self) -> &Hub {
        &self.hub
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
