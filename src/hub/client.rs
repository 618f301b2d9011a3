//! One client as everybody may see it.

use crate::addr::Addr;
use crate::message::State;
use crate::sender::Sender;
use crate::stats::ClientStats;
use std::fmt;

/// One client as everybody may see it.
#[derive(Clone)]
pub struct Client {
    pub(crate) sender: Sender,
    pub(crate) client_addr: Addr,
    pub(crate) peer_addr: Addr,
}

impl Client {
    /// Its number. It is never used again in this process.
    pub fn id(&self) -> u64 {
        self.sender.id()
    }

    /// Returns the client's address, as [`Request::client_addr`](crate::Request::client_addr) does.
    pub fn client_addr(&self) -> Addr {
        self.client_addr
    }

    /// Returns the address of the socket's other end.
    pub fn peer_addr(&self) -> Addr {
        self.peer_addr
    }

    /// Where its connection stands.
    pub fn state(&self) -> State {
        self.sender.state()
    }

    /// Sends to it.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// What it has sent and received so far, what waits for it, and how far away it is.
    ///
    /// They can be asked for after its end, too.
    pub fn stats(&self) -> ClientStats {
        self.sender.outbox().stats()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id())
            .field("state", &self.state())
            .field("client_addr", &self.client_addr)
            .field("peer_addr", &self.peer_addr)
            .finish()
    }
}
