//! `threadws serve`: starts the server, handles each client, and stops at a signal.

use crate::args::serve::{Answer, DeflateOptions, LISTEN, Listen, ServeOptions};
use crate::http::{self, PlainHttp};
use crate::preview::Preview;
use crate::signals::StopSignal;
use crate::stdio::is_ready;
use crate::systemd::ServiceManager;
#[cfg(feature = "tls")]
use crate::tls;
use crate::{CommandError, print};
use log::{Level, debug, info, log_enabled, warn};
use rustix::event::PollFlags;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use threadws::connection::Arrival;
use threadws::deflate::Deflate;
use threadws::handshake::{Reject, Request};
use threadws::http::Method;
use threadws::server::Events;
use threadws::{Addr, BoxError, Closed, Config, Connection, Error, Message, Server, ServerHandle};

/// The longest path that can be a topic, in bytes. `subscribe` refuses a longer one, too, but only after the 101.
const MAX_TOPIC: usize = 256;

/// How long clients may take to disconnect when the process ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until a signal arrives. `passed` is the socket from the service manager. The library logs that the server is
/// listening, and that it has stopped.
pub(crate) fn serve(
    options: &ServeOptions,
    passed: Option<OwnedFd>,
    stop: StopSignal,
) -> Result<(), CommandError> {
    let failed = |error: Error| match error {
        Error::Invalid(what) => CommandError::Usage(what.into_owned()),
        error => CommandError::Failed(error.to_string()),
    };
    // The path of the Unix socket, if it is one that has a path.
    let mut path = None;
    let server = match (&options.listen, passed) {
        (Listen::Systemd | Listen::Default, Some(listener)) => {
            path = path_of(&listener);
            Server::from_listener(listener)
        }
        (Listen::Default, None) => bind(LISTEN)?,
        (Listen::Address(address), None) => bind(address)?,
        (Listen::Unix(socket), None) => {
            path = Some(socket.clone());
            Server::bind_unix(socket).map_err(failed)?
        }
        (Listen::Systemd, None) => {
            return Err(CommandError::Failed("the service manager passed no socket".to_owned()));
        }
        // Clients of the other socket would wait forever.
        (Listen::Address(_) | Listen::Unix(_), Some(_)) => {
            let error = format!(
                "the service manager passed a socket, but --listen {} is another one",
                options.listen
            );
            return Err(CommandError::Failed(error));
        }
    };
    let handler =
        ClientHandler { every: options.every, message: options.message.clone(), answer: options.answer };
    let server = configure(server, options);
    let handle = if options.events {
        let handler = Arc::new(handler);
        server.spawn_events(move |client| ClientEvents::open(&handler, client))
    } else {
        server.spawn(move |client| handler.run(client))
    };
    let handle = Arc::new(handle.map_err(failed)?);
    #[cfg(feature = "tls")]
    if let Some(cert) = &options.cert {
        tls::reload_at_sighup(cert, &handle)
            .map_err(|error| CommandError::Failed(format!("cannot handle SIGHUP: {error}")))?;
    }
    let address = handle.local_addr().map_err(failed)?;
    announce(addresses(address, path.as_deref(), options.cert.is_some()));
    let manager = ServiceManager::from_env();
    let stopped = match &manager {
        None => stop.wait(),
        Some(manager) => wait(manager, &handle, stop),
    };
    // The library logs the report.
    drop(handle.shutdown(SHUTDOWN_TIMEOUT));
    stopped.map_err(|error| CommandError::Failed(format!("cannot wait for signals: {error}")))
}

/// Binds a TCP address.
fn bind(address: &str) -> Result<Server, CommandError> {
    // A name is resolved here, so that an error can name it, and without brackets, so that the resolver finds the zone in
    // `[fe80::1%eth0]:8005`.
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().unwrap_or(0);
    let addresses: Vec<SocketAddr> = if host.is_empty() {
        // The first one takes IPv4 clients, too. The second one is for a system without IPv6.
        vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
    } else {
        (host, port)
            .to_socket_addrs()
            .map_err(|error| CommandError::Failed(format!("cannot listen on {address}: {error}")))?
            .collect()
    };
    Server::bind(addresses.as_slice()).map_err(|error| CommandError::Failed(error.to_string()))
}

/// Returns the path of a Unix socket that was passed by the service manager.
fn path_of(socket: &OwnedFd) -> Option<PathBuf> {
    let listener = UnixListener::from(socket.try_clone().ok()?);
    Some(listener.local_addr().ok()?.as_pathname()?.to_owned())
}

/// Returns the addresses for browsers and for WebSocket clients.
fn addresses(address: Addr, path: Option<&Path>, has_tls: bool) -> String {
    match (address, path) {
        (Addr::Unix, Some(path)) if has_tls => format!("unix:{} (TLS)", path.display()),
        (Addr::Unix, Some(path)) => format!("unix:{0} (ws+unix:{0}:/)", path.display()),
        (Addr::Unix, None) => address.to_string(),
        _ => {
            // RFC 6874 §2: the "%" before the zone of an IPv6 address is escaped in a URL.
            let address = address.to_string().replace('%', "%25");
            let s = if has_tls { "s" } else { "" };
            format!("http{s}://{address}/ (ws{s}://{address}/)")
        }
    }
}

/// Waits for a signal, and notifies the service manager meanwhile. The notifications stop if this thread hangs, or if the
/// lock of the table of clients is never released.
fn wait(manager: &ServiceManager, handle: &ServerHandle, mut stop: StopSignal) -> io::Result<()> {
    let status = || {
        let stats = handle.stats();
        format!("{} clients, {} threads; {}", stats.open, stats.threads, handle.capacity())
    };
    manager.ready(&status());
    let stopped = loop {
        match stop.wait_timeout(manager.interval()) {
            Ok(false) => manager.alive(&status()),
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    manager.stopping(&format!("closing {} connections", handle.stats().open));
    stopped
}

fn configure(server: Server, options: &ServeOptions) -> Server {
    let mut config = Config::new()
        .with_max_message_size(options.max_message)
        .with_max_head_size(options.max_head)
        .with_message_timeout(options.message_timeout)
        .with_ping_interval(options.ping)
        .with_max_lifetime(options.max_lifetime)
        .with_idle_timeout(options.idle_timeout);
    if let Some(ping) = options.ping {
        config = config.with_ping_timeout(ping);
    }
    if let Some(DeflateOptions { threshold, takeover }) = options.deflate {
        let deflate = Deflate::new().threshold(threshold);
        config = config.with_deflate(deflate.context_takeover(takeover).peer_context_takeover(takeover));
    }
    let topics = options.answer == Answer::Topics;
    let plain = PlainHttp { page: options.page, path: options.path.clone(), topics };
    let meter = server.meter();
    let mut server = server
        .config(config)
        .slow_peer(options.slow_peer)
        .proxy_protocol(options.proxy_protocol)
        .subprotocols(&options.subprotocols)
        .serve_http(move |request: &Request| match (request.method(), request.path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => http::metrics(&meter.stats()),
            (&Method::GET | &Method::HEAD, path) => plain.answer(path, request.header("host")),
            (&Method::OPTIONS, _) => http::options(),
            _ => http::method_not_allowed(),
        });
    if topics {
        server = server
            .check_request(|request, _| match request.path().len() {
                0..=MAX_TOPIC => Ok(()),
                _ => Err(Reject::new(414, "the path is too long for a topic")),
            })
            .on_subscribe(|_, client, topic| debug!("client {} joined {topic:?}", client.id()))
            .on_unsubscribe(|_, client, topic| debug!("client {} left {topic:?}", client.id()));
    }
    #[cfg(feature = "tls")]
    if let Some(cert) = &options.cert {
        server = server.tls(tls::server(cert));
    }
    for who in &options.trust {
        server = if who == "any" { server.trust_any_proxy() } else { server.trust_proxy(who) };
    }
    for origin in &options.origins {
        server = if origin == "any" { server.allow_any_origin() } else { server.allow_origin(origin) };
    }
    if let Some(path) = &options.path {
        server = server.path(path);
    }
    if let Some(workers) = options.workers {
        server = server.workers(workers);
    }
    if let Some(clients) = options.max_clients {
        server = server.max_clients(clients);
    }
    if let Some(clients) = options.max_per_address {
        server = server.max_clients_per_address(clients);
    }
    if let Some((limit, per)) = options.handshake_rate {
        server = server.handshake_rate(limit, per);
    }
    if let Some((limit, per)) = options.message_rate {
        server = server.message_rate(limit, per);
    }
    server
}

/// Prints the address on stdout, for scripts that wait for the line or need the port. If nothing reads stdout, another
/// thread prints it, so that the server never waits for stdout.
fn announce(addresses: String) {
    let thread = std::thread::Builder::new().name("threadws-stdout".to_owned());
    let line = format!("threadws listening on {addresses}\n");
    if is_ready(io::stdout(), PollFlags::OUT) {
        print_line(&line);
    } else if let Err(error) = thread.spawn(move || print_line(&line)) {
        warn!("cannot write the address to stdout: {error}");
    }
}

fn print_line(line: &str) {
    if let Err(error) = print(line) {
        warn!("cannot write the address to stdout: {error}");
    }
}

/// Serves the clients.
#[derive(Debug)]
struct ClientHandler {
    every: Option<Duration>,
    message: String,
    answer: Answer,
}

impl ClientHandler {
    /// Serves a client in a thread of its own.
    fn run(&self, client: &mut Connection) -> Result<(), BoxError> {
        self.open(client);
        let result = self.answer_messages(client);
        log_end(client, result.as_ref().err());
        Ok(result?)
    }

    /// Logs a new client, and starts its tick.
    fn open(&self, client: &mut Connection) {
        let (id, addr, peer) = (client.id(), client.client_addr(), client.peer_addr());
        // Compared and shown without the port, which `client_addr` does not have: the peer may be the client itself.
        let peer = peer.ip().map_or(peer, Addr::from);
        let via = if addr == peer { String::new() } else { format!(" via {peer}") };
        let subprotocol = client.subprotocol().map_or(String::new(), |name| format!(", subprotocol {name}"));
        info!("client {id} connected from {addr}{via}{subprotocol}");
        if let Some(interval) = self.every {
            // The tick is not cancelled: it stops when the connection ends.
            drop(client.every(interval, self.message.as_str()));
        }
    }

    /// Returns the topic of a client, which is its path without the query, and subscribes to it.
    fn join_topic(&self, client: &Connection) -> threadws::Result<String> {
        let topic = client.request().path().to_owned();
        if self.answer == Answer::Topics {
            client.subscribe(&topic)?;
        }
        Ok(topic)
    }

    fn answer_messages(&self, client: &mut Connection) -> threadws::Result<()> {
        let topic = self.join_topic(client)?;
        // Checked once for the connection, because the log level does not change.
        let (id, is_logged) = (client.id(), log_enabled!(Level::Info));
        while let Some(mut received) = client.recv_ref()? {
            let message = received.message;
            if is_logged {
                info!("client {id} sent {}", Preview(message));
            }
            match self.answer {
                Answer::Nothing => {}
                Answer::Echo => received.write(message)?,
                Answer::Broadcast => {
                    let message = Message::from(message);
                    client.write_broadcast(message)?;
                }
                Answer::Topics => {
                    let message = Message::from(message);
                    client.hub()?.publish(&topic, message);
                }
            }
        }
        Ok(())
    }
}

fn log_end(client: &Connection, error: Option<&Error>) {
    let (id, age) = (client.id(), client.stats().opened_at.elapsed().as_secs_f64());
    match (client.closed(), error) {
        (Some(closed), _) => info!("client {id} disconnected after {age:.1}s: {closed}"),
        (None, Some(error)) => info!("client {id} disconnected after {age:.1}s: {error}"),
        (None, None) => info!("client {id} disconnected after {age:.1}s"),
    }
}

/// Serves one client with `--events`.
#[derive(Debug)]
struct ClientEvents {
    handler: Arc<ClientHandler>,
    topic: String,
    is_logged: bool,
}

impl ClientEvents {
    fn open(handler: &Arc<ClientHandler>, client: &mut Connection) -> Result<Self, BoxError> {
        handler.open(client);
        let topic = handler.join_topic(client)?;
        Ok(Self { handler: Arc::clone(handler), topic, is_logged: log_enabled!(Level::Info) })
    }
}

impl Events for ClientEvents {
    fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError> {
        if self.is_logged {
            info!("client {} sent {}", client.id(), Preview((&message).into()));
        }
        match self.handler.answer {
            Answer::Nothing => {}
            Answer::Echo => client.write(message)?,
            Answer::Broadcast => client.write_broadcast(message)?,
            Answer::Topics => drop(client.hub()?.publish(&self.topic, message)),
        }
        Ok(())
    }

    fn received(&mut self, arrival: Arrival<'_>) -> Result<(), BoxError> {
        if self.handler.answer == Answer::Echo && !self.is_logged {
            let mut received = arrival.lend()?;
            return Ok(received.write(received.message)?);
        }
        let (client, message) = arrival.take()?;
        self.message(client, message)
    }

    fn closed(&mut self, client: &mut Connection, _: &Closed) {
        log_end(client, None);
    }
}
