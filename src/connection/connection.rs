//! The type [`Connection`], its ticks, its topics and its properties.

use super::close::Closing;
use super::cork::Cork;
use super::keepalive::Keepalive;
use super::limits::AgeLimits;
use super::reader::Reader;
use crate::addr::Addr;
use crate::config::{Config, SlowPeer};
use crate::error::{Cause, Closed, Error, Result};
use crate::hub::{Hooks, Hub};
use crate::message::IntoMessage;
use crate::net::Stream;
use crate::protocol::Role;
use crate::quota::Bucket;
use crate::request::{Request, Response};
use crate::sender::Sender;
use crate::stats::{ClientStats, Counters};
use crate::sync::Arc;
use crate::tick::{Action, Tick};
use crate::timer::Timer;
use std::fmt;
use std::time::{Duration, Instant};

/// Ticks that are over are searched for when this number was added, or more if there are more.
const FEW_TICKS: usize = 4;

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
    /// An end that would wait for the peer is deferred, because the thread that reads serves other clients, too.
    pub(super) defers_end: bool,
    /// The cause of a deferred end. The rest of the queue and FIN are still to be sent.
    pub(super) deferred_end: Option<Box<Option<Cause>>>,
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
            defers_end: false,
            deferred_end: None,
        }))
    }
}

/// # Ticks
///
/// Messages at intervals, or after a delay, without a thread of the program.
impl Connection {
    /// Sends `message` every `interval`, for the first time after one interval, until the connection is closed or the tick
    /// is cancelled.
    ///
    /// If the message before is still queued, the tick is skipped and counted. The next tick is due one interval after the
    /// last was due. Ticks that were missed are not made up for.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     let tick = client.every(Duration::from_millis(10), "tick");
    ///     client.recv()?; // until the client says something
    ///     tick.cancel();
    ///     Ok(client.ignore()?)
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some("tick".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    pub fn every(&mut self, interval: Duration, message: impl IntoMessage) -> Tick {
        assert!(!interval.is_zero(), "interval is 0");
        self.start_tick(interval, Some(interval), Action::message(message))
    }

    /// Like [`every`](Self::every), with a new message each time. `None` sends nothing this time.
    ///
    /// The closure runs on the timer thread, which all connections share. It must be quick, because it delays other ticks.
    /// If it panics, its tick is cancelled.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     let mut count = 0;
    ///     client.every_with(Duration::from_millis(10), move || {
    ///         count += 1;
    ///         Some(format!("tick {count}"))
    ///     });
    ///     Ok(client.ignore()?)
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some("tick 1".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    pub fn every_with<T: IntoMessage>(
        &mut self,
        interval: Duration,
        make: impl FnMut() -> Option<T> + Send + 'static,
    ) -> Tick {
        assert!(!interval.is_zero(), "interval is 0");
        self.start_tick(interval, Some(interval), Action::make(make))
    }

    /// Sends `message` once, after `delay`. It is not sent if it does not fit into the backlog then, or if the connection is
    /// closing.
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn after(&mut self, delay: Duration, message: impl IntoMessage) -> Tick {
        self.start_tick(delay, None, Action::message(message))
    }

    /// Like [`after`](Self::after), with a message that is made at that time, as for [`every_with`](Self::every_with).
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn after_with<T: IntoMessage>(
        &mut self,
        delay: Duration,
        make: impl FnMut() -> Option<T> + Send + 'static,
    ) -> Tick {
        self.start_tick(delay, None, Action::make(make))
    }

    fn start_tick(&mut self, delay: Duration, interval: Option<Duration>, action: Action) -> Tick {
        let tick = Tick::start(&self.timer, self.sender.outbox(), &self.counters, delay, interval, action);
        if self.ticks.len() == self.ticks.capacity() {
            self.ticks.retain(|tick| !tick.is_over());
            // At least as many ticks are added before the next search, so it costs little for each of them.
            let left = self.ticks.len();
            self.ticks.shrink_to(2 * left.max(FEW_TICKS));
            self.ticks.reserve_exact(left.max(FEW_TICKS));
        }
        self.ticks.push(tick.clone());
        tick
    }
}

/// # Topics and other clients
///
/// On a connection of a server. A client's connection returns [`Error::Invalid`].
impl Connection {
    /// Subscribes this client to a topic, until [`unsubscribe`](Self::unsubscribe) or the end of its handler. A second call
    /// does nothing.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     client.subscribe("news")?;
    ///     client.send("subscribed")?;
    ///     Ok(client.ignore()?)
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// connection.recv()?;
    /// handle.hub().publish("news", "it rains");
    /// assert_eq!(connection.recv()?, Some("it rains".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Never waits for a peer. It calls [`on_subscribe`](crate::Server::on_subscribe).
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the topic is empty or longer than 256 bytes, or the connection was opened by
    ///   [`connect`](crate::connect). The connection stays open.
    /// * [`Error::TooManyTopics`]: see [`Server::max_topics`](crate::Server::max_topics). The connection stays open.
    /// * [`Error::Closed`]: the connection has ended.
    pub fn subscribe(&self, topic: &str) -> Result<()> {
        let hub = self.hub()?;
        if let Some(closed) = &self.closed {
            return Err(Error::Closed(closed.clone()));
        }
        hub.subscribe(self.id(), topic, &self.hooks)
    }

    /// Ends a subscription. Returns whether there was one.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer. It calls [`on_unsubscribe`](crate::Server::on_unsubscribe).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    pub fn unsubscribe(&self, topic: &str) -> Result<bool> {
        Ok(self.hub()?.unsubscribe(self.id(), topic, &self.hooks))
    }

    /// Sets how the server treats this client if its backlog is full when a message is broadcast or published. Defaults to
    /// [`Server::slow_peer`](crate::Server::slow_peer).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    pub fn set_slow_peer(&self, policy: SlowPeer) -> Result<()> {
        self.hub()?;
        self.sender.outbox().set_slow_peer(policy);
        Ok(())
    }

    /// Returns the server's hub: all of its clients and their topics.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     while let Some(message) = client.recv()? {
    ///         client.hub()?.broadcast_except(client.id(), message); // to all the others
    ///     }
    ///     Ok(())
    /// })?;
    /// # drop(handle);
    /// # Ok(())
    /// # }
    /// ```
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

/// # About the connection
impl Connection {
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
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     let request = client.request();
    ///     let agent = request.header("user-agent").unwrap_or("an unknown program");
    ///     client.send(format!("{} for {agent}", request.path()))?;
    ///     Ok(())
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/news", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some("/news for an unknown program".into()));
    /// # Ok(())
    /// # }
    /// ```
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

    /// Returns the extension that both ends agreed on, with its parameters, as `extensions` of a browser's socket does:
    /// `permessage-deflate`, or `None`. See [`Config::with_deflate`].
    pub fn extensions(&self) -> Option<&str> {
        self.sender.outbox().compression().map(|compression| &*compression.extensions)
    }

    /// Returns the connection's numbers: messages and bytes in both directions, its backlog, the last round-trip time,
    /// and when it was opened.
    pub fn stats(&self) -> ClientStats {
        let outbox = self.sender.outbox();
        let counts = self.reader.counts();
        outbox.reader_counts().set_received(counts.messages, counts.bytes);
        outbox.stats()
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
    fn a_connection_has_at_most_632_bytes() {
        assert!(size_of::<Connection>() <= 632, "{}", size_of::<Connection>());
    }
}
