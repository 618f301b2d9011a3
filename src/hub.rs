//! The clients of a server and their topics, as [`Hub`] sees them.

mod audience;
mod hooks;
pub(crate) mod hub;
mod topics;

pub use crate::config::SlowPeer;
pub(crate) use hooks::Hooks;
pub(crate) use hub::Hub;

use crate::addr::Addr;
use crate::outbox::Fate;
use crate::sender::Sender;
use std::fmt;

/// One client of a server, as other threads see it. Clones refer to the same client.
#[derive(Clone)]
pub struct Client {
    pub(crate) sender: Sender,
    pub(crate) client_addr: Addr,
    pub(crate) peer_addr: Addr,
}

impl Client {
    /// Returns the client's number. It is never used again in this process.
    pub fn id(&self) -> u64 {
        self.sender.id()
    }

    /// Returns the client's address, as [`Request::client_addr`](crate::handshake::Request::client_addr) does.
    pub fn client_addr(&self) -> Addr {
        self.client_addr
    }

    /// Returns the address of the socket's other end.
    pub fn peer_addr(&self) -> Addr {
        self.peer_addr
    }

    /// Returns a handle that sends to this client. It also has the connection's state and numbers.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id())
            .field("state", &self.sender.state())
            .field("client_addr", &self.client_addr)
            .field("peer_addr", &self.peer_addr)
            .finish()
    }
}

/// For how many clients a broadcast or published message was sent, queued or dropped.
///
/// Clients that were already closing are not counted. Displays as `12 sent, 3 queued, 1 skipped, 0 closed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// For how many clients the operating system took the whole message at once.
    pub sent: usize,
    /// For how many clients the message, or the rest of it, was queued.
    pub queued: usize,
    /// For how many clients the message was dropped because their queue was full
    /// ([`SlowPeer::Skip`]).
    pub skipped: usize,
    /// How many clients were disconnected because their queue was full ([`SlowPeer::Close`]).
    pub closed: usize,
    /// With a [backplane](crate::Server::backplane): whether the message was queued for the other servers. Otherwise `None`.
    pub passed_on: Option<bool>,
}

impl Delivery {
    fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Sent => self.sent += 1,
            Fate::Queued => self.queued += 1,
            Fate::Skipped => self.skipped += 1,
            Fate::Closed => self.closed += 1,
            Fate::Gone => {}
        }
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, queued, skipped, closed, passed_on } = self;
        write!(f, "{sent} sent, {queued} queued, {skipped} skipped, {closed} closed")?;
        match passed_on {
            None => Ok(()),
            Some(true) => f.write_str(", passed on"),
            Some(false) => f.write_str(", not passed on"),
        }
    }
}
