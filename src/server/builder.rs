//! `Server`: the settings of a server, and its start. Its callbacks are set in `callbacks.rs`.

use super::accept::Acceptor;
use super::backplane::OtherServers;
use super::handle::ServerHandle;
use super::settings::Settings;
use super::{Shared, Way, no_address};
use crate::addr::Addr;
use crate::config::{Config, SlowPeer};
use crate::connection::Connection;
use crate::error::{BoxError, Error, Result};
use crate::hub::{Hooks, Hub};
use crate::net::Listener;
#[cfg(feature = "tls")]
use crate::net::tls::ServerTls;
use crate::protocol::forwarded::{ForwardedHeader, TrustedProxies};
use crate::quota::{Buckets, Connections, Rate};
use crate::stats::Meter;
use crate::sync::Arc;
#[cfg(feature = "tls")]
use crate::sync::Mutex;
use std::fmt;
use std::net::ToSocketAddrs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// A WebSocket server with one thread for each client, and three threads of its own.
///
/// ```no_run
/// use std::time::Duration;
///
/// fn main() -> threadws::Result<()> {
///     threadws::Server::bind("127.0.0.1:8005")?.run(|client| {
///         client.every(Duration::from_secs(3), "a message from the server");
///         while let Some(message) = client.recv()? {
///             println!("{}: {message:?}", client.client_addr());
///         }
///         Ok(())
///     })
/// }
/// ```
///
/// [`run`](Self::run) and [`spawn`](Self::spawn) refuse settings that cannot work, with [`Error::Invalid`].
#[must_use = "a server does nothing until it runs"]
pub struct Server {
    listener: Option<Listener>,
    hub: Hub,
    pub(super) hooks: Hooks,
    meter: Meter,
    pub(super) settings: Settings,
    /// `None` until the first call that trusts a proxy, because that call replaces the default.
    trust: Option<TrustedProxies>,
    pub(super) others: OtherServers,
    /// The first setting that cannot work.
    error: Option<Error>,
}

/// # Listen
impl Server {
    /// Binds a TCP listener to an address.
    ///
    /// Port 0 chooses a free port, which [`local_addr`](Self::local_addr) returns.
    ///
    /// # Blocking
    ///
    /// Waits for the system's resolver if `addr` is a name. For an address it does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the name cannot be resolved, or the address cannot be bound. The text names the address.
    pub fn bind(addr: impl ToSocketAddrs) -> Result<Self> {
        Ok(Self::new(Some(Listener::bind(addr)?)))
    }

    /// Binds a Unix socket at a path. Its clients have the address [`Addr::Unix`].
    ///
    /// The socket's file is removed when the server ends. If a server was killed, the next one at the path replaces its
    /// file. Who may connect is decided by the permissions of the file, which the process's umask limits, and of its folder.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// # let folder = std::env::temp_dir().join(format!("threadws-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("ws.sock");
    /// let server = threadws::Server::bind_unix(&path)?.spawn(|client| Ok(client.ignore()?))?;
    /// let connection = threadws::connect(format!("ws+unix:{}:/chat", path.display()))?;
    /// assert_eq!(connection.peer_addr(), threadws::Addr::Unix);
    /// # drop((connection, server));
    /// # std::fs::remove_dir(&folder)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: another server listens on the path, a file that is no socket is there, or the path cannot be bound.
    /// The text names the path. While the path is bound, its folder is locked with `flock`, so that of several servers that
    /// start at once one listens. It is an error, too, if another program keeps a lock on the folder for a second.
    pub fn bind_unix(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::new(Some(Listener::bind_unix(path.as_ref())?)))
    }

    /// Creates a server for a listener that is bound already, for example by a supervisor: a `TcpListener`, a
    /// `UnixListener`, or the descriptor of either. Any other socket is refused by [`run`](Self::run) and
    /// [`spawn`](Self::spawn).
    ///
    /// The server does not remove the file of such a Unix socket.
    pub fn from_listener(listener: impl Into<OwnedFd>) -> Self {
        let mut server = Self::new(None);
        let listener = Listener::from_socket(listener.into());
        server.listener =
            server.keep(listener.map_err(|error| Error::invalid(format!("from_listener: {error}"))));
        server
    }

    /// Creates a server without a listener. Another HTTP server accepts the connections, and hands them over with
    /// [`ServerHandle::upgrade`].
    pub fn detached() -> Self {
        Self::new(None)
    }

    /// Returns the address that the server listens on: [`Addr::Tcp`], or [`Addr::Unix`].
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the server is [`detached`](Self::detached), so it has no address.
    /// * [`Error::Io`]: the operating system does not say.
    pub fn local_addr(&self) -> Result<Addr> {
        Ok(self.listener.as_ref().ok_or_else(no_address)?.local_addr()?)
    }
}

/// # Run
impl Server {
    /// Runs the server in this thread. `handler` is called for each client, in a thread of the client's own.
    ///
    /// The handler's result decides how the connection is closed: with 1000 after `Ok`, with 1011 after an error or a
    /// panic. Both are logged, passed to [`on_close`](Self::on_close), and kept for
    /// [`ShutdownReport::failures`](super::ShutdownReport::failures). A handler that returns this crate's [`Result`] or
    /// `anyhow::Result<()>` is passed as `run(|client| Ok(handler(client)?))`, which converts its error.
    ///
    /// ```no_run
    /// use threadws::{Connection, Server};
    ///
    /// fn handler(client: &mut Connection) -> threadws::Result<()> {
    ///     while let Some(message) = client.recv()? {
    ///         client.send(message)?; // an echo
    ///     }
    ///     Ok(())
    /// }
    ///
    /// fn main() -> threadws::Result<()> {
    ///     Server::bind("127.0.0.1:8005")?.run(|client| Ok(handler(client)?))
    /// }
    /// ```
    ///
    /// # Blocking
    ///
    /// Waits forever. Use [`spawn`](Self::spawn) for a server that ends.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Self::spawn).
    pub fn run(
        self,
        handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Result<()> {
        self.run_way(Way::Thread(Box::new(handler)))
    }

    /// Runs the server in its own threads, until the handle is dropped. `handler` is as for [`run`](Self::run).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     client.send("hello")?;
    ///     Ok(())
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some("hello".into()));
    /// assert_eq!(connection.recv()?, None); // the handler has returned
    /// let report = handle.shutdown(Duration::from_secs(5));
    /// assert!(report.is_complete());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: a setting cannot work. The text names it.
    /// * [`Error::Io`]: the server's own threads or descriptors could not be created.
    pub fn spawn(
        self,
        handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Result<ServerHandle> {
        self.spawn_way(Way::Thread(Box::new(handler)))
    }

    /// Returns the hub of this server's clients, for callbacks that send to them. The handle and each connection have the
    /// same hub.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Returns a meter, for callbacks that read the server's numbers.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

/// # Settings
///
/// Each has a default, so a first program needs none of them.
impl Server {
    /// Sets the limits and timeouts of each connection. Defaults to [`Config::default`].
    ///
    /// `Config` holds the limits and timeouts of a connection, the same for both ends; everything that only a server has is
    /// a method of `Server`.
    pub fn config(mut self, config: Config) -> Self {
        self.settings.config = config;
        self
    }

    /// Sets how many clients the server can have at the same time. Defaults to the [`Capacity`](super::Capacity) of the
    /// process, which is also the maximum.
    ///
    /// Further clients are answered 503. While 16 of them are being answered, others are disconnected without an answer.
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.settings.max_clients = Some(clients);
        self.require(clients > 0, "max_clients is 0");
        self
    }

    /// Sets the stack size of a client's thread, in bytes. Defaults to 2 MiB, as for every thread of std.
    ///
    /// A stack overflow aborts the whole process, and harms all clients. A handler that recurses more deeply than a parser of
    /// JSON does may need a larger stack.
    ///
    /// Only the pages that are used take memory. The unused rest takes addresses, and 4 KiB of the kernel's page tables for
    /// each 2 MiB. A smaller stack saves these, which matters on a 32-bit system, under `RLIMIT_AS`, or without overcommit:
    /// see [deploying](crate::guide::deploying#limits-of-the-system). A size below 64 KiB, or one that the system has no room
    /// for, is refused.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.settings.stack_size = bytes;
        self
    }

    /// Serves TLS with this certificate: `wss://` and `https://`. Every connection has to use it. Defaults to no TLS.
    ///
    /// A PROXY header precedes TLS ([`proxy_protocol`](Self::proxy_protocol)). A [`detached`](Self::detached) server refuses
    /// this setting, because it gets sockets on which another server has read already.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<ServerTls>) -> Self {
        let tls = self.keep(tls.into().build());
        self.settings.handshake.tls = tls.map(|tls| Mutex::new(Arc::new(tls)));
        self
    }

    /// Sets the only path that is upgraded to a WebSocket. Requests for other paths are answered 404. Defaults to every
    /// path.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        let result = self.settings.handshake.policy.set_path(path.into());
        self.keep(result);
        self
    }

    /// Sets the subprotocols that the server supports. Defaults to none.
    ///
    /// The first subprotocol in the client's list that the server supports is selected. If there is none, the connection
    /// opens without a subprotocol.
    pub fn subprotocols<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        let result = self.settings.handshake.policy.set_subprotocols(names);
        self.keep(result);
        self
    }

    /// Sets how many topics a client can be subscribed to at the same time. Defaults to 128.
    pub fn max_topics(mut self, topics: usize) -> Self {
        self.hooks.max_topics = topics;
        self.require(topics > 0, "max_topics is 0");
        self
    }

    /// Sets what happens to a client that cannot take a broadcast or published message because its queue is full
    /// ([`max_backlog`](Config::max_backlog)). Defaults to [`SlowPeer::Close`].
    ///
    /// Applies to broadcast and published messages only. Ticks are skipped, and [`try_send`](crate::Sender::try_send)
    /// returns [`Error::Full`]. A handler can choose another policy for its client by
    /// [`set_slow_peer`](Connection::set_slow_peer).
    pub fn slow_peer(mut self, policy: SlowPeer) -> Self {
        self.settings.slow_peer = policy;
        self
    }
}

/// # Browsers and proxies
impl Server {
    /// Lets web pages of this origin connect, in addition to pages of the server's own host. Can be repeated. Defaults to
    /// none.
    ///
    /// | origin | allows |
    /// | --- | --- |
    /// | `https://example.com`, `http://localhost:3000` | this origin, with or without the default port of its scheme |
    /// | `https://*.example.com` | all hosts below `example.com`, which do not include `example.com` |
    /// | `http://localhost:*` | every port of this host |
    /// | `*://example.com` | every scheme, with its default port |
    /// | `moz-extension://*` | every host of this scheme, which can be neither http nor https |
    /// | `null` | pages without an origin, such as sandboxed frames, which any site can create |
    /// | `file://`, `https://example.com/path` | exactly this value, which some apps and devices send |
    ///
    /// Pages of other origins are answered 403, and [`HandshakeError`](crate::handshake::HandshakeError) shows the `Origin`
    /// that was sent. Clients that send no `Origin` can connect: they are programs and not browsers.
    ///
    /// The server's own host is the one in the `Host` header, so a proxy must pass that header on.
    pub fn allow_origin(mut self, origin: impl AsRef<str>) -> Self {
        let result = self.settings.handshake.policy.origins.allow(origin.as_ref());
        self.keep(result);
        self
    }

    /// Lets web pages of every origin connect. Any page that a user visits can then act in the name of that user.
    pub fn allow_any_origin(mut self) -> Self {
        self.settings.handshake.policy.origins.allow_any();
        self
    }

    /// Trusts the forwarded headers of this proxy: an address, a CIDR block such as `10.0.0.0/8`, `loopback`, `unix` (for
    /// proxies that connect by a Unix socket), or `none`. Defaults to `loopback`.
    ///
    /// Can be repeated. The first call replaces the default, and each call adds one proxy. `none` adds none, so alone it
    /// makes each client's address the address of its socket. The word `any` is refused: see
    /// [`trust_any_proxy`](Self::trust_any_proxy).
    pub fn trust_proxy(mut self, proxy: impl AsRef<str>) -> Self {
        let result = self.trust.get_or_insert_with(TrustedProxies::none).add(proxy.as_ref());
        self.keep(result);
        self
    }

    /// Trusts the forwarded headers of every client, so any client can claim any address. A later
    /// [`trust_proxy`](Self::trust_proxy) changes nothing.
    pub fn trust_any_proxy(mut self) -> Self {
        self.trust = Some(TrustedProxies::Any);
        self
    }

    /// Sets which header trusted proxies write. The other one is ignored, because a proxy passes it on as the client wrote
    /// it. Defaults to `X-Forwarded-For`.
    pub fn forwarded_header(mut self, header: ForwardedHeader) -> Self {
        self.settings.handshake.forwarded_header = header;
        self
    }

    /// Sets whether trusted proxies send a PROXY header, version 1 or 2, before everything else. For proxies that forward
    /// bytes and do not speak HTTP, such as HAProxy with `send-proxy` or `send-proxy-v2`. Defaults to false.
    ///
    /// If it is true, every trusted proxy must send the header. A connection without one is answered 400, and so is a
    /// malformed header, or one that is longer than 107 bytes (version 1) or announces more than 2048 bytes (version 2).
    /// From other peers a PROXY header is not HTTP, so it is answered 400. The header must arrive within
    /// [`handshake_timeout`](Config::handshake_timeout), like the request. Connections that another HTTP server hands over
    /// have no such header, so a [`detached`](Self::detached) server refuses this setting.
    ///
    /// The address in the header replaces the peer's address in the search for
    /// [`Request::client_addr`](crate::handshake::Request::client_addr): it is the client, or another trusted proxy, whose
    /// headers are believed in turn. If the header contains no IP address (`LOCAL`, `UNKNOWN`, Unix sockets), the client's
    /// address is the peer's, and forwarded headers are ignored, because the client can have written them.
    /// [`Request::peer_addr`](crate::handshake::Request::peer_addr) always is the socket's.
    pub fn proxy_protocol(mut self, expected: bool) -> Self {
        self.settings.handshake.proxy_protocol = expected;
        self
    }
}

/// # Limits for each client address
impl Server {
    /// Sets how many connections one client address can have at the same time. Further ones are answered 429. Defaults to
    /// no limit.
    ///
    /// The address is [`Request::client_addr`](crate::handshake::Request::client_addr), so clients behind a trusted proxy
    /// have separate limits. IPv6 addresses count by their /64, because one machine has all addresses of it. Clients without an IP address are not counted. A
    /// connection counts from its accept, or behind a trusted proxy from its request, until its handler has ended. A plain
    /// HTTP request counts until it was answered.
    ///
    /// A client without a trusted proxy is turned away before it gets a thread. Only 16 of them at a time get an answer. As
    /// with a full server, [`on_handshake_error`](Self::on_handshake_error) is not called for them, and
    /// [`Stats::refused`](crate::stats::Stats::refused) counts them.
    pub fn max_clients_per_address(mut self, clients: usize) -> Self {
        self.settings.handshake.quotas.connections = Some(Arc::new(Connections::new(clients)));
        self.require(clients > 0, "max_clients_per_address is 0");
        self
    }

    /// Sets how many handshakes one client address can start in the period `per`. Further ones are answered 429, with a
    /// `Retry-After` in seconds. Defaults to no limit.
    ///
    /// The limit is a token bucket: `limit` handshakes can come at once, and each token returns after its share of the
    /// period. Plain HTTP requests also take a token, so a page, its icon and its WebSocket take three. Addresses are
    /// counted, and clients turned away, as for [`max_clients_per_address`](Self::max_clients_per_address). The server
    /// remembers up to 65536 addresses. Above that it forgets the ones that have used least.
    pub fn handshake_rate(mut self, limit: u32, per: Duration) -> Self {
        self.settings.handshake.quotas.handshakes =
            self.keep(Rate::new("handshake_rate", limit, per)).map(Buckets::new);
        self
    }

    /// Sets how many data messages one client address can send in the period `per`, on all of its connections together.
    /// Defaults to no limit.
    ///
    /// The limit is a token bucket, as for [`handshake_rate`](Self::handshake_rate). A message above the limit is not
    /// received: its connection is closed with 1008, "too many messages", and the handler gets
    /// [`Error::TooManyMessages`]. Other connections of the address stay open until they exceed the limit, too. Control
    /// frames do not count. A message counts when the handler receives it, so a slow handler takes few tokens.
    pub fn message_rate(mut self, limit: u32, per: Duration) -> Self {
        self.settings.handshake.quotas.messages =
            self.keep(Rate::new("message_rate", limit, per)).map(Buckets::new);
        self
    }
}

impl Server {
    fn new(listener: Option<Listener>) -> Self {
        let hub = Hub::default();
        Self {
            listener,
            meter: Meter::new(Arc::default(), Arc::new(hub.clone())),
            hub,
            hooks: Hooks::default(),
            settings: Settings::default(),
            trust: None,
            others: OtherServers::default(),
            error: None,
        }
    }

    pub(super) fn run_way(self, way: Way) -> Result<()> {
        let (shared, acceptor) = self.start(way)?;
        let handle = ServerHandle::new(shared);
        acceptor.run();
        drop(handle);
        Ok(())
    }

    pub(super) fn spawn_way(self, way: Way) -> Result<ServerHandle> {
        let (shared, acceptor) = self.start(way)?;
        let handle = ServerHandle::new(shared);
        handle.start_acceptor(acceptor)?;
        Ok(handle)
    }

    /// Starts everything except the acceptor's thread.
    pub(super) fn start(self, way: Way) -> Result<(Arc<Shared>, Acceptor)> {
        let Self { listener, hub, hooks, meter, mut settings, trust, others, error } = self;
        if let Some(error) = error {
            return Err(error);
        }
        settings.handshake.trust = trust.unwrap_or_default();
        settings.check(listener.is_none())?;
        others.check()?;
        let answers_http = settings.handshake.serve_http.is_some();
        settings.handshake.policy.max_body = answers_http.then(|| settings.config.max_message_size());
        // Before there are threads, which an error would leave behind.
        let address = listener.as_ref().map(Listener::local_addr).transpose()?;
        let place = listener.as_ref().map(ToString::to_string);
        let shared = Shared::start(address, settings, hub, hooks, meter, way)?;
        others.start(&shared)?;
        let acceptor = Acceptor::new(listener, Arc::clone(&shared))?;
        shared.log_start(place.as_deref());
        Ok((shared, acceptor))
    }

    /// Keeps the first error of a setting, for `start`.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    pub(super) fn require(&mut self, is_valid: bool, problem: &'static str) {
        if !is_valid {
            self.keep::<()>(Err(Error::invalid(problem)));
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("config", &self.settings.config)
            .finish_non_exhaustive()
    }
}
