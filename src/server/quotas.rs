//! Settings of what one client address may take, and of whose word tells the address.

use super::Server;
use crate::error::Error;
use crate::quota::{Buckets, Connections, Rate};
use crate::sync::Arc;
use std::time::Duration;

impl Server {
    /// How many connections one client address may have at a time; more are answered 429. Defaults to no limit.
    ///
    /// Whom it counts is [`Request::client_addr`](crate::Request::client_addr), so that the clients of a trusted proxy do not
    /// share one budget. An IPv6 client counts by its /64: whoever has one has all of it. A connection counts from its
    /// accept, or behind a trusted proxy from its request's head, until its handler has ended; plain HTTP requests count
    /// while they are answered.
    ///
    /// Who comes without a trusted proxy is turned away before it gets a thread: a flood from one address costs an accept
    /// and an answer each, and no more than 16 at a time get even the answer. As with a full server,
    /// [`on_handshake_error`](Self::on_handshake_error) is not told of these; [`Stats::refused`](crate::Stats::refused)
    /// counts them.
    pub fn max_clients_per_address(mut self, clients: usize) -> Self {
        if clients == 0 {
            return self.note(Err(Error::invalid("max_clients_per_address is 0")));
        }
        self.rules.quotas.connections = Some(Arc::new(Connections::new(clients)));
        self
    }

    /// How many handshakes one client address may begin in `per`; more are answered 429, with a `Retry-After` in seconds.
    /// Defaults to no limit.
    ///
    /// It is a token bucket: `limit` may come at once, and each comes back after its share of the time. Plain HTTP
    /// requests take from it, too: a page, its icon and its WebSocket are three. Clients are told apart, and turned away,
    /// as for [`max_clients_per_address`](Self::max_clients_per_address). 65536 addresses are remembered; of more, those
    /// that have taken least are forgotten.
    pub fn handshake_rate(mut self, limit: u32, per: Duration) -> Self {
        match Rate::new("handshake_rate", limit, per) {
            Ok(rate) => self.rules.quotas.handshakes = Some(Buckets::new(rate)),
            Err(error) => return self.note(Err(error)),
        }
        self
    }

    /// How many data messages may come from one client address in `per`, on all its connections together. Defaults to no
    /// limit.
    ///
    /// It is a token bucket, as [`handshake_rate`](Self::handshake_rate) is. The message that is one too many is not
    /// received: its connection is closed with 1008, "too many messages", and its handler is given
    /// [`Error::TooManyMessages`]. Other connections of the address go on until they send too much as well. Control
    /// frames are not counted. Messages are counted as they are received: a handler that is slow takes no more of them
    /// than it asks for.
    pub fn message_rate(mut self, limit: u32, per: Duration) -> Self {
        match Rate::new("message_rate", limit, per) {
            Ok(rate) => self.rules.quotas.messages = Some(Buckets::new(rate)),
            Err(error) => return self.note(Err(error)),
        }
        self
    }
}
