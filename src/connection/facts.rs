//! What is known of a connection: who it is, how it came, where it stands.

use super::Connection;
use crate::addr::Addr;
use crate::error::{Closed, Error, Result};
use crate::hub::Hub;
use crate::message::State;
use crate::protocol::Role;
use crate::request::{Request, Response};
use crate::sender::Sender;
use crate::stats::ClientStats;
use std::fmt;

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
        outbox.tally().received(counts.messages, counts.bytes);
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
