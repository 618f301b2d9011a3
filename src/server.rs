//! The server: its settings, and how it is started. What its threads do is in the files of this folder.

mod accept;
mod capacity;
mod client_thread;
mod handle;
#[cfg(all(test, model))]
#[path = "verify/models/server.rs"]
mod models;
mod quotas;
mod registry;
mod thread_pool;

pub use capacity::Capacity;
pub use handle::{ServerHandle, ShutdownReport};

use crate::config::{Config, SlowPeer};
use crate::connection::Connection;
use crate::error::{BoxError, Error, Result};
use crate::flush_thread::Flush;
use crate::handshake::Rules;
use crate::hub::{Client, Hooks, Hub};
use crate::logging::log_line;
use crate::protocol::forwarded::{ForwardedHeader, TrustedProxies};
use crate::protocol::origin::AllowedOrigins;
use crate::protocol::server_handshake::HandshakePolicy;
use crate::request::{HandshakeError, Reject, Request, Response};
use crate::stats::Meter;
use crate::sync::{Arc, JoinHandle};
use crate::timer::Timer;
use accept::Acceptor;
use capacity::Place;
use client_thread::Accepted;
use registry::Registry;
use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use thread_pool::ThreadPool;

/// Enough for the handshake, the read path and an ordinary handler; what is not touched costs nothing.
const STACK: usize = 256 * 1024;

/// What is done for each client, in its own thread.
type Handler = dyn Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync;

type OnError = dyn Fn(&Error) + Send + Sync;

/// A WebSocket server: one thread per client, and three of its own.
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
/// Settings that cannot work are refused by [`run`](Self::run) and [`spawn`](Self::spawn), with
/// [`Error::Invalid`].
#[must_use = "a server does nothing until it runs"]
pub struct Server {
    listener: Option<TcpListener>,
    config: Config,
    rules: Rules,
    hub: Hub,
    meter: Meter,
    slow_peer: SlowPeer,
    hooks: Hooks,
    path: Option<String>,
    subprotocols: Vec<String>,
    origins: AllowedOrigins,
    /// `None` until somebody says whom to trust: then the default is not added to.
    trust: Option<TrustedProxies>,
    max_clients: Option<usize>,
    stack_size: usize,
    on_error: Option<Box<OnError>>,
    /// The first setting that cannot work.
    broken: Option<Error>,
}

impl Server {
    /// Listens on an address; port 0 takes a free one, which [`local_addr`](Self::local_addr) tells.
    ///
    /// # Blocking
    ///
    /// As long as the system's resolver takes for a name; for an address it does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the address cannot be resolved, or is taken.
    pub fn bind(addr: impl ToSocketAddrs) -> Result<Self> {
        Ok(Self::new(Some(TcpListener::bind(addr)?)))
    }

    /// Serves a listener that is bound already, by a supervisor perhaps.
    pub fn from_listener(listener: TcpListener) -> Self {
        Self::new(Some(listener))
    }

    /// A server without a listener of its own: another HTTP server accepts, and hands connections over by
    /// [`ServerHandle::upgrade`].
    pub fn detached() -> Self {
        Self::new(None)
    }

    fn new(listener: Option<TcpListener>) -> Self {
        let (hub, rules) = (Hub::default(), Rules::default());
        Self {
            listener,
            config: Config::default(),
            meter: Meter::new(Arc::clone(&rules.counters), Arc::new(hub.clone())),
            rules,
            hub,
            slow_peer: SlowPeer::default(),
            hooks: Hooks::default(),
            path: None,
            subprotocols: Vec::new(),
            origins: AllowedOrigins::default(),
            trust: None,
            max_clients: None,
            stack_size: STACK,
            on_error: None,
            broken: None,
        }
    }

    /// Returns the address that the server listens on.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the server is [`detached`](Self::detached), so it has no address.
    /// * [`Error::Io`]: the operating system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        match &self.listener {
            Some(listener) => Ok(listener.local_addr()?),
            None => Err(no_address()),
        }
    }

    /// Sets the limits and timeouts of each connection. Defaults to [`Config::default`].
    ///
    /// `Config` holds the limits and timeouts of a connection, the same for both ends; everything that only a server has is
    /// a method of `Server`.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How many clients at once; more are answered 503, or where 16 are being answered already, see a bare end of the
    /// stream. Defaults to what the process can bear ([`Capacity`]), which it cannot exceed.
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = Some(clients);
        self
    }

    /// The stack of a client's thread, in bytes. Raise it for handlers that recurse deeply: an overflow ends the whole
    /// process. Defaults to 256 KiB, of which only what is touched takes memory.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// The only path that is upgraded; others are answered 404. Defaults to any path.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// The subprotocols it speaks. The first of the client's that is among them is agreed on; if none is, the connection
    /// opens without one. Defaults to none.
    pub fn subprotocols<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Lets pages of this origin connect, beside those of the same host. Can be repeated. Others are answered 403; who
    /// sends no `Origin`, as programs do, passes.
    ///
    /// It is `https://example.com`, perhaps with a port; `https://*.example.com`, which is every host below
    /// `example.com`, however deep, and not `example.com`; or `null`, which pages without an origin send: files, and
    /// frames in a sandbox, which any site can make.
    ///
    /// "The same host" compares `Origin` with `Host`: a proxy in front must pass `Host` on.
    pub fn allow_origin(mut self, origin: impl AsRef<str>) -> Self {
        let result = self.origins.allow(origin.as_ref());
        self.note(result)
    }

    /// Lets pages of any origin connect: any web page that a user visits can then act in the user's name.
    pub fn allow_any_origin(mut self) -> Self {
        self.origins.allow_any();
        self
    }

    /// Trusts the forwarded headers of this proxy: an address, a CIDR block such as `10.0.0.0/8`, `loopback`, `unix` (for
    /// proxies that connect by a Unix socket), or `none`. Defaults to `loopback`.
    ///
    /// Can be repeated. The first call replaces the default, and each call adds one proxy. `none` adds none, so alone it
    /// makes each client's address the address of its socket. The word `any` is refused: see
    /// [`trust_any_proxy`](Self::trust_any_proxy).
    pub fn trust_proxy(mut self, who: impl AsRef<str>) -> Self {
        let result = self.trust.get_or_insert_with(TrustedProxies::none).add(who.as_ref());
        self.note(result)
    }

    /// Trusts the forwarded headers of every client, so any client can claim any address. A later
    /// [`trust_proxy`](Self::trust_proxy) changes nothing.
    pub fn trust_any_proxy(mut self) -> Self {
        self.trust = Some(TrustedProxies::Any);
        self
    }

    /// Which header trusted proxies keep; the other one is ignored, because they pass on what an attacker writes there.
    /// Defaults to `X-Forwarded-For`.
    pub fn forwarded_header(mut self, header: ForwardedHeader) -> Self {
        self.rules.forwarded_header = header;
        self
    }

    /// Whether trusted proxies send a PROXY header (version 1 or 2, as HAProxy's `send-proxy` and `send-proxy-v2` do) before
    /// everything else: for proxies that forward bytes and know no HTTP. Defaults to false.
    ///
    /// It is then required of them: without one they are answered 400, as with a malformed one, one of more than 107 bytes
    /// (version 1) or one that announces more than 2048 (version 2). From anybody else it is no HTTP, and answered 400.
    /// It has to come within the [`handshake_timeout`](Config::handshake_timeout), as all the rest. Connections that
    /// another HTTP server hands over are past it.
    ///
    /// Who connected to the proxy takes the place of the socket's other end in the search for
    /// [`Request::client_addr`]: it is the client, or another trusted proxy, which is believed in turn. `LOCAL`, `UNKNOWN`
    /// and addresses of Unix sockets name nobody: then it is the socket's other end, whatever the headers say, because
    /// nobody vouches for those. [`Request::peer_addr`] remains the socket's.
    pub fn proxy_protocol(mut self, expected: bool) -> Self {
        self.rules.proxy_protocol = expected;
        self
    }

    /// Sets how many topics a client can be subscribed to at a time. Defaults to 128.
    pub fn max_topics(mut self, topics: usize) -> Self {
        self.hooks.max_topics = topics;
        self
    }

    /// Sets what happens to a client that cannot take a broadcast or published message because its queue is full
    /// ([`max_backlog`](Config::max_backlog)). Defaults to [`SlowPeer::Close`].
    ///
    /// Applies to broadcast and published messages only. Ticks are skipped, and [`try_send`](crate::Sender::try_send)
    /// returns [`Error::Full`]. A handler can choose another policy for its client by
    /// [`set_slow_peer`](Connection::set_slow_peer).
    pub fn slow_peer(mut self, policy: SlowPeer) -> Self {
        self.slow_peer = policy;
        self
    }

    /// Checks each request. Called when a handshake has passed the server's own checks, just before the 101.
    ///
    /// The callback sees the request with the client's address and every header. It may add headers to the response,
    /// refuse the handshake with any status, and put values into the request's extensions, where the handler finds them
    /// by [`Connection::request`].
    ///
    /// The callback runs in the client's thread, so it delays no other client. If it panics, the client is answered 500.
    pub fn check_request(
        mut self,
        callback: impl Fn(&mut Request, &mut Response) -> Result<(), Reject> + Send + Sync + 'static,
    ) -> Self {
        self.rules.check_request = Some(Box::new(callback));
        self
    }

    /// Answers plain GET and HEAD requests on the same port. Without this callback they are answered 426.
    ///
    /// The callback runs in the client's thread. If it panics, the client is answered 500.
    ///
    /// The time limit for sending the answer is what is left of [`handshake_timeout`](Config::handshake_timeout), and at
    /// least the [`write_timeout`](Config::write_timeout), 10 s by default, for each started MiB. Then the connection is
    /// closed. The server adds no `Date` header, although RFC 9110 §6.6.1 asks for one: the callback can set it.
    pub fn serve_http(mut self, callback: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        self.rules.serve_http = Some(Box::new(callback));
        self
    }

    /// Is told of each handshake that was refused, after it was answered: not of who came and went without a word, left
    /// before the 101, or was turned away without a thread ([`Stats::refused`](crate::Stats::refused)).
    ///
    /// It runs in the client's thread. If it panics, that is logged and nothing else.
    pub fn on_handshake_error(mut self, callback: impl Fn(&HandshakeError) + Send + Sync + 'static) -> Self {
        self.rules.on_handshake_error = Some(Box::new(callback));
        self
    }

    /// Observes subscriptions. Called after a client has subscribed to a topic, with the hub, the client and the topic.
    ///
    /// The callback runs in the client's thread, without any lock held, so it can use the hub. If it panics, the panic is
    /// logged and has no other effect.
    pub fn on_subscribe(mut self, callback: impl Fn(&Hub, &Client, &str) + Send + Sync + 'static) -> Self {
        self.hooks.on_subscribe = Some(Box::new(callback));
        self
    }

    /// Observes the end of subscriptions. Called after a client has left a topic: because it unsubscribed, or because its
    /// handler has ended. Runs as [`on_subscribe`](Self::on_subscribe) does.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let server = threadws::Server::bind("127.0.0.1:0")?.on_unsubscribe(|hub, client, topic| {
    ///     hub.publish(topic, format!("{} is gone", client.id()));
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_unsubscribe(mut self, callback: impl Fn(&Hub, &Client, &str) + Send + Sync + 'static) -> Self {
        self.hooks.on_unsubscribe = Some(Box::new(callback));
        self
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

    /// Is told of the server's own errors: accepting fails, a thread cannot be started. Serving goes on after each.
    ///
    /// It is told at most once a second, as the log is; the log counts what was left out. It runs in the thread that
    /// accepts: while it waits, nobody is accepted. If it panics, that is logged and nothing else.
    pub fn on_error(mut self, callback: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_error = Some(Box::new(callback));
        self
    }

    /// Serves, and calls `handler` for each client in the client's own thread.
    ///
    /// # Blocking
    ///
    /// For ever. A server that has to end is started by [`spawn`](Self::spawn).
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Self::spawn).
    pub fn run(
        self,
        handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Result<()> {
        let (shared, acceptor) = self.start(Box::new(handler))?;
        let threads = ServerHandle::new(shared);
        acceptor.run();
        drop(threads);
        Ok(())
    }

    /// Serves in threads of its own, until the handle is dropped.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: a setting cannot work; the text says which.
    /// * [`Error::Io`]: the server's own threads or descriptors cannot be had.
    pub fn spawn(
        self,
        handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Result<ServerHandle> {
        let (shared, acceptor) = self.start(Box::new(handler))?;
        let handle = ServerHandle::new(shared);
        handle.start_acceptor(acceptor)?;
        Ok(handle)
    }

    fn start(mut self, handler: Box<Handler>) -> Result<(Arc<Shared>, Acceptor)> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.config.check()?;
        if self.max_clients == Some(0) {
            return Err(Error::invalid("max_clients is 0"));
        }
        self.rules.policy = HandshakePolicy::new(self.path, self.subprotocols, self.origins)?;
        self.rules.trust = self.trust.unwrap_or_default();
        if self.rules.proxy_protocol && self.rules.trust.is_empty() {
            return Err(Error::invalid("proxy_protocol is on, and no proxy is trusted"));
        }
        let process = Capacity::of_process();
        let capacity = process.at_most(self.max_clients.unwrap_or(usize::MAX));
        if let Some(wanted) = self.max_clients.filter(|wanted| *wanted > process.clients) {
            log_line!(Warn, "threadws::server", "max_clients {wanted} is more than there can be: {process}");
        }
        // Before there are threads that an error would leave behind.
        let address = self.listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let (flush, flush_thread) = Flush::start()?;
        let timer = Timer::start().inspect_err(|_| flush.stop())?;
        let counters = Arc::clone(&self.rules.counters);
        let shared = Arc::new(Shared {
            address,
            capacity,
            config: self.config,
            slow_peer: self.slow_peer,
            rules: self.rules,
            meter: self.meter,
            handler,
            on_error: self.on_error,
            live: Registry::default(),
            pool: Arc::new(ThreadPool::new(self.stack_size, counters)),
            hub: self.hub,
            hooks: Arc::new(self.hooks),
            flush,
            timer: timer.0,
            own: crate::sync::Mutex::new(vec![flush_thread, timer.1]),
        });
        let acceptor = Acceptor::new(self.listener, Arc::clone(&shared))?;
        if let Some(address) = shared.address {
            log_line!(Info, "threadws::server", "listening on {address}, {capacity}");
        }
        Ok((shared, acceptor))
    }

    fn note(mut self, result: Result<()>) -> Self {
        self.broken = self.broken.or(result.err());
        self
    }
}

fn no_address() -> Error {
    Error::invalid("a detached server has no address")
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What all threads of a server share.
struct Shared {
    address: Option<SocketAddr>,
    capacity: Capacity,
    config: Config,
    slow_peer: SlowPeer,
    rules: Rules,
    meter: Meter,
    handler: Box<Handler>,
    on_error: Option<Box<OnError>>,
    hub: Hub,
    hooks: Arc<Hooks>,
    live: Registry,
    pool: Arc<ThreadPool<Box<Accepted>>>,
    flush: Arc<Flush>,
    timer: Arc<Timer>,
    /// Flush, timer and acceptor, until they are joined.
    own: crate::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    /// A place for one more client, if this server and the process have one.
    fn place(&self) -> Option<Place> {
        if self.live.count() < self.capacity.clients { Place::take() } else { None }
    }

    fn stop_threads(&self) {
        self.timer.stop();
        self.flush.stop();
    }
}

/// Abandoned handlers need timer and flush for as long as they run.
impl Drop for Shared {
    fn drop(&mut self) {
        self.stop_threads();
    }
}
