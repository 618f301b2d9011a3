//! The server: what becomes of each client, and of the process when it is told to stop.

use crate::CommandError;
use crate::args::serve::{AllowedOrigins, Answer, LISTEN, Listen, ServeOptions, TrustedProxies};
use crate::args::values;
use crate::http::{self, PlainHttp};
use crate::preview::Preview;
use crate::signals::StopSignal;
use crate::systemd::ServiceManager;
use log::{Level, debug, info, log_enabled, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use threadws::{
    Addr, BoxError, Config, Connection, Error, Message, MessageRef, Reject, Request, Response, Server,
    ServerHandle,
};

/// How long clients may take to leave when the process ends.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The longest path that can be a topic, in bytes: the library's own limit.
const MAX_TOPIC: usize = 256;

/// Serves until a signal comes. That it listens and that it has stopped is logged by the library.
/// `handed` is the service manager's socket.
pub(crate) fn serve(
    options: &ServeOptions,
    handed: Option<TcpListener>,
    stop: StopSignal,
) -> Result<(), CommandError> {
    let place = match &options.listen {
        Listen::Address(address) => address,
        Listen::Systemd => "the socket that was handed over",
        Listen::Unsaid => LISTEN,
    };
    let failed = |error: Error| match error {
        Error::Invalid(what) => CommandError::Usage(what.into_owned()),
        error => CommandError::Failed(format!("cannot listen on {place}: {error}")),
    };
    let job =
        ClientHandler { every: options.every, message: options.message.clone(), answer: options.answer };
    let server = configure(
        match (&options.listen, handed) {
            (Listen::Systemd | Listen::Unsaid, Some(listener)) => Server::from_listener(listener),
            (Listen::Systemd, None) => {
                return Err(CommandError::Failed("no socket was handed over".to_owned()));
            }
            // One of the two would be left without an answer.
            (Listen::Address(address), Some(_)) => {
                return Err(CommandError::Failed(format!(
                    "a socket was handed over, and --listen {address} given"
                )));
            }
            (Listen::Address(_) | Listen::Unsaid, None) => Server::bind(place).map_err(failed)?,
        },
        options,
    );
    let handle = server.spawn(move |client| job.run(client)).map_err(failed)?;
    announce(handle.local_addr().map_err(failed)?);
    let manager = ServiceManager::from_env();
    let signalled = match &manager {
        None => stop.wait(),
        Some(manager) => wait(manager, &handle, stop),
    };
    // The report, with what had to be abandoned, is in the log.
    drop(handle.shutdown(SHUTDOWN));
    signalled.map_err(|error| CommandError::Failed(format!("cannot wait for signals: {error}")))
}

/// Waits for a signal, and tells the service manager how it goes meanwhile. It hears nothing if this thread is not run
/// any more, or if the table of clients is locked up.
fn wait(manager: &ServiceManager, handle: &ServerHandle, mut stop: StopSignal) -> io::Result<()> {
    let status = || {
        let stats = handle.stats();
        format!("{} clients, {} threads; {}", stats.open(), stats.threads(), handle.capacity())
    };
    manager.ready(&status());
    let signalled = loop {
        match stop.wait_timeout(manager.interval()) {
            Ok(false) => manager.alive(&status()),
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    manager.stopping(&format!("{} clients are told to leave", handle.stats().open()));
    signalled
}

fn configure(server: Server, options: &ServeOptions) -> Server {
    let mut config = Config::new()
        .with_max_message_size(options.max_message)
        .with_ping_interval(values::unless_zero(options.ping))
        .with_max_lifetime(values::unless_zero(options.max_lifetime))
        .with_idle_timeout(values::unless_zero(options.idle_timeout));
    if let Some(ping) = values::unless_zero(options.ping) {
        config = config.with_ping_timeout(ping);
    }
    let topics = options.answer == Answer::Topics;
    let plain = PlainHttp { page: options.page, path: options.path.clone(), topics };
    let hub = server.hub().clone();
    let mut server =
        server.config(config).slow_peer(options.slow_peer).proxy_protocol(options.proxy_protocol).serve_http(
            move |request: &Request| match request.path() {
                "/metrics" => http::metrics(&hub.stats()),
                path => plain.answer(path, request.header("host")),
            },
        );
    if topics {
        server = server
            .check_request(|request: &mut Request, _: &mut Response| match request.path().len() {
                0..=MAX_TOPIC => Ok(()),
                _ => Err(Reject::new(414, "the path is too long for a topic")),
            })
            .on_subscribe(|_, client, topic| debug!("client {} joined {topic:?}", client.id()))
            .on_unsubscribe(|_, client, topic| debug!("client {} left {topic:?}", client.id()));
    }
    server = match &options.trust {
        TrustedProxies::None => server.trust_proxy("none"),
        TrustedProxies::Any => server.trust_any_proxy(),
        TrustedProxies::These(who) => who.iter().fold(server, |server, who| server.trust_proxy(who)),
    };
    server = match &options.origins {
        AllowedOrigins::Any => server.allow_any_origin(),
        AllowedOrigins::These(origins) => {
            origins.iter().fold(server, |server, origin| server.allow_origin(origin))
        }
    };
    if let Some(path) = &options.path {
        server = server.path(path);
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

/// The one line on stdout, for scripts that wait for it or want the port. Where it would have to wait it has a thread, which
/// ends by itself, or with the process: whoever does not read it holds nobody up.
fn announce(address: SocketAddr) {
    let stdout = io::stdout();
    let takes_it =
        poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], Some(&Timespec::default())).is_ok_and(|n| n > 0);
    let thread = std::thread::Builder::new().name("threadws-stdout".to_owned());
    if takes_it || thread.spawn(move || tell(address)).is_err() {
        tell(address);
    }
}

fn tell(address: SocketAddr) {
    let line = format!("threadws listening on http://{address}/ (ws://{address}/)\n");
    let mut stdout = io::stdout().lock();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
        // Who started us does not want to know the address, and is served all the same.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            warn!("stdout does not take the address: {error}")
        }
        _ => {}
    }
}

/// What is done for each client.
#[derive(Debug)]
struct ClientHandler {
    every: Duration,
    message: String,
    answer: Answer,
}

impl ClientHandler {
    /// The life of one client, in its own thread.
    fn run(&self, client: &mut Connection) -> Result<(), BoxError> {
        let (id, addr, peer) = (client.id(), client.client_addr(), client.peer_addr());
        // The port of the peer says nothing.
        let peer = peer.ip().map_or(peer, Addr::from);
        if addr == peer {
            info!("client {id} connected from {addr}");
        } else {
            info!("client {id} connected from {addr} via {peer}");
        }
        if !self.every.is_zero() {
            // It ends with the connection.
            drop(client.every(self.every, self.message.as_str()));
        }
        // The query is no part of it.
        let topic = client.request().path().to_owned();
        let topics = if self.answer == Answer::Topics { client.subscribe(&topic) } else { Ok(()) };
        let ended = topics.and_then(|()| self.answer_all(client, &topic));
        let lived = || client.stats().since().elapsed().as_secs_f64();
        match (client.closed(), &ended) {
            (Some(closed), _) => info!("client {id} disconnected after {:.1}s: {closed}", lived()),
            (None, Err(error)) => info!("client {id} disconnected after {:.1}s: {error}", lived()),
            (None, Ok(())) => info!("client {id} disconnected after {:.1}s", lived()),
        }
        Ok(ended?)
    }

    /// Apart, as what seldom happens in it: what surrounds the loop shall not lie between what each message touches of the
    /// stack.
    #[inline(never)]
    fn answer_all(&self, client: &mut Connection, topic: &str) -> threadws::Result<()> {
        // The levels do not change while the process runs. Asked for once, they cost an echo nothing.
        let (id, logged) = (client.id(), log_enabled!(Level::Info));
        while let Some(mut received) = client.recv_ref()? {
            if logged {
                log(id, received.message);
            }
            match self.answer {
                Answer::Nothing => {}
                Answer::Echo => received.write(received.message)?,
                Answer::Broadcast | Answer::Topics => {
                    let message = received.message.to_message();
                    self.pass_on(client, topic, message)?;
                }
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn pass_on(&self, client: &mut Connection, topic: &str, message: Message) -> threadws::Result<()> {
        if self.answer == Answer::Topics {
            client.hub()?.publish(topic, message);
            return Ok(());
        }
        client.write_broadcast(message)
    }
}

#[inline(never)]
fn log(id: u64, message: MessageRef<'_>) {
    info!("client {id} sent {}", Preview(message));
}
