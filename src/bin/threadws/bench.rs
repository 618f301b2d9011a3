//! The load: many clients that send to an echo server and check what comes back.
//!
//! A thread for each client, and this one, which keeps the time and shows how it goes.

mod histogram;
mod numbered_message;
mod report;

use crate::CommandError;
use crate::args::bench::BenchOptions;
use crate::signals::StopSignal;
use histogram::Histogram;
use http::Uri;
use log::{info, warn};
use numbered_message::NumberedMessage;
use report::{LoadReport, grouped};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use threadws::{Config, Connect, Connection, Error};

/// Enough for a handshake and the read path.
const STACK: usize = 128 * 1024;
/// How often the line on a terminal is written anew.
const PROGRESS: Duration = Duration::from_millis(200);
/// How long the connections may take to close, when the load is over.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take to come about.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// While so many bytes a client are on the way, no two buffers between the ends can fill up and hold both of them.
const UNDER_WAY: usize = 64 * 1024;
/// A frame's header, key included, takes at most this.
const HEADER: usize = 14;
/// What a message counts in a backlog beside its payload, at most: its header, and its place in the queue.
const QUEUED: usize = 256;

/// What a client tells.
enum ClientEvent {
    Connected(threadws::Sender),
    NotConnected(CommandError),
    Ended(Result<Histogram, String>),
    Interrupted,
}

/// What all threads know.
#[derive(Debug)]
struct LoadState {
    options: BenchOptions,
    /// Set when the time is over. It guards nothing: a message more or less makes no difference.
    over: AtomicBool,
    /// Round trips of all clients. For the eye alone: what counts is what each client adds up on its own.
    messages: AtomicU64,
}

/// Connects all clients, lets them send for a while, and reports.
pub(crate) fn bench(options: &BenchOptions, stop: StopSignal) -> Result<(), CommandError> {
    let address = target(options)?;
    let shared = Arc::new(LoadState {
        options: options.clone(),
        over: AtomicBool::new(false),
        messages: AtomicU64::new(0),
    });
    let (sender, news) = channel();
    let interrupt = sender.clone();
    spawn("threadws-signal", move || {
        if let Err(error) = stop.wait() {
            warn!("cannot wait for signals: {error}");
            return;
        }
        // It fails only when the process ends anyway.
        drop(interrupt.send(ClientEvent::Interrupted));
    })?;
    let mut senders = Vec::with_capacity(options.clients);
    let mut begin = Vec::with_capacity(options.clients);
    for _ in 0..options.clients {
        let (go, wait) = channel();
        begin.push(go);
        let (shared, sender) = (Arc::clone(&shared), sender.clone());
        spawn("threadws-bench", move || client(&shared, address, &wait, &sender))?;
        // One after the other: a server's listen queue may be short.
        match news.recv() {
            Ok(ClientEvent::Connected(sender)) => senders.push(sender),
            Ok(ClientEvent::NotConnected(failure)) => return Err(failure),
            _ => {
                return Err(CommandError::Failed("interrupted before all clients were connected".to_owned()));
            }
        }
    }
    drop(sender);
    info!("{} clients connected to {address}, for {:?}", options.clients, options.duration);
    let start = Instant::now();
    for go in begin {
        // It fails only where the client has failed, which it told.
        let _ = go.send(());
    }
    let interrupted = watch(&shared, &news, start)?;
    shared.over.store(true, Ordering::Relaxed);
    let took = start.elapsed();
    for sender in senders {
        // It fails where the connection is over already; and who waits for a message is woken by the end.
        drop(sender.close(1000, ""));
    }
    let mut latency = Histogram::new();
    for _ in 0..options.clients {
        match next_end(&news) {
            Some(Ok(part)) => latency.merge(&part),
            Some(Err(error)) => return Err(CommandError::Failed(error)),
            None => return Err(CommandError::Failed("a client's thread is gone".to_owned())),
        }
    }
    if latency.count() == 0 {
        return Err(CommandError::Failed("nothing came back".to_owned()));
    }
    let report = LoadReport { options, address, took, interrupted, latency };
    let text = if options.json { report.json() } else { report.tables() };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
        .map_err(|error| CommandError::Failed(format!("cannot write to stdout: {error}")))
}

/// The address to load: resolved once, so that what is checked is what is connected to.
fn target(options: &BenchOptions) -> Result<SocketAddr, CommandError> {
    let usage = |text: &str| CommandError::Usage(text.to_owned());
    let uri: Uri = options.url.parse().map_err(|_| usage("this is no URL"))?;
    if !uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("ws")) {
        return Err(usage("only a URL with ws:// can be loaded"));
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, uri.port_u16().unwrap_or(80)).to_socket_addrs();
    let addresses: Vec<_> = addresses
        .map_err(|error| CommandError::Failed(format!("cannot resolve the host: {error}")))?
        .collect();
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    if !options.allow_remote && !addresses.iter().all(is_loopback) {
        return Err(usage("the server is not on this machine; --allow-remote loads it all the same"));
    }
    let address = match addresses.as_slice() {
        [address] => Some(*address),
        // A name may stand for both families where the server has one.
        several => {
            several.iter().copied().find(|one| TcpStream::connect_timeout(one, HANDSHAKE_TIMEOUT).is_ok())
        }
    };
    address.ok_or_else(|| CommandError::Failed("cannot connect: nobody listens there".to_owned()))
}

/// Waits until the time is over, an interrupt or a failure; true for an interrupt.
fn watch(shared: &LoadState, news: &Receiver<ClientEvent>, start: Instant) -> Result<bool, CommandError> {
    let deadline = start + shared.options.duration;
    let mut line = ProgressLine::new();
    let (mut before, mut seen) = (start, 0);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            line.clear();
            return Ok(false);
        }
        match news.recv_timeout(left.min(PROGRESS)) {
            Ok(ClientEvent::Interrupted) => {
                line.clear();
                return Ok(true);
            }
            Ok(ClientEvent::Ended(Err(error))) => {
                line.clear();
                return Err(CommandError::Failed(error));
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CommandError::Failed("no client is left".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {
                let (now, messages) = (Instant::now(), shared.messages.load(Ordering::Relaxed));
                let rate = (messages - seen) as f64 / (now - before).as_secs_f64();
                (before, seen) = (now, messages);
                line.show(&format!("{:5.1} s left, {} messages/s", left.as_secs_f64(), grouped(rate)));
            }
        }
    }
}

/// What the next client to end tells.
fn next_end(news: &Receiver<ClientEvent>) -> Option<Result<Histogram, String>> {
    loop {
        if let ClientEvent::Ended(end) = news.recv().ok()? {
            return Some(end);
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    // Nobody waits for these threads themselves: they tell when they are done.
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    match thread.spawn(body) {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError::Failed(format!("cannot start a thread: {error}"))),
    }
}

/// The whole life of a client.
fn client(shared: &LoadState, address: SocketAddr, wait: &Receiver<()>, news: &Sender<ClientEvent>) {
    let told = match connect(&shared.options, address) {
        Ok(mut connection) => {
            // Whether anybody listens does not matter: if not, the process is about to end.
            drop(news.send(ClientEvent::Connected(connection.sender())));
            if wait.recv().is_err() {
                return;
            }
            ClientEvent::Ended(load(shared, &mut connection))
        }
        Err(failure) => ClientEvent::NotConnected(failure),
    };
    drop(news.send(told));
}

fn connect(options: &BenchOptions, address: SocketAddr) -> Result<Connection, CommandError> {
    // All of them: where the system has little memory for sockets, its buffers take none of them whole.
    let all = (options.size + QUEUED).saturating_mul(options.in_flight);
    let config = Config::new()
        .with_handshake_timeout(HANDSHAKE_TIMEOUT)
        .with_close_timeout(CLOSE_TIMEOUT)
        .with_max_message_size(options.size)
        .with_max_backlog(all);
    let connect = || -> threadws::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT)?;
        Connect::new(&options.url).config(config).from_stream(stream)
    };
    connect().map_err(|error| match error {
        Error::Invalid(what) => CommandError::Usage(what.into_owned()),
        Error::Refused(response) => CommandError::Failed(format!("refused with {}", response.status())),
        error => CommandError::Failed(format!("cannot connect: {error}")),
    })
}

/// Sends, receives and compares until the time is over.
fn load(shared: &LoadState, connection: &mut Connection) -> Result<Histogram, String> {
    let BenchOptions { size, in_flight, binary, .. } = shared.options;
    let on_the_way = (size + HEADER).saturating_mul(in_flight);
    let sender = connection.sender();
    let mut latency = Histogram::new();
    let mut sent = VecDeque::new();
    let mut outgoing = NumberedMessage::new(size, binary);
    let mut expected = NumberedMessage::new(size, binary);
    for _ in 0..in_flight {
        sent.push_back(Instant::now());
        // More than the buffers between take must not wait here: nobody would read what comes back.
        let result = if on_the_way <= UNDER_WAY {
            connection.write(outgoing.message())
        } else {
            sender.try_send(outgoing.message())
        };
        match result {
            Ok(()) => {}
            // The time was too short even for this.
            Err(_) if shared.over.load(Ordering::Relaxed) => return Ok(latency),
            Err(error) => return Err(error.to_string()),
        }
        outgoing.count();
    }
    loop {
        let received = connection.recv_ref();
        let over = shared.over.load(Ordering::Relaxed);
        let mut received = match received {
            Ok(Some(received)) => received,
            Ok(None) | Err(_) if over => return Ok(latency),
            Ok(None) => return Err("the server closed a connection".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        if over {
            continue; // What comes until the connection is closed comes too late to count.
        }
        if !expected.is(received.message) {
            return Err("what came back is not what was sent: is this an echo server?".to_owned());
        }
        expected.count();
        let now = Instant::now();
        if let Some(sent) = sent.pop_front() {
            latency.add(now - sent);
        }
        shared.messages.fetch_add(1, Ordering::Relaxed);
        sent.push_back(now);
        let result = if on_the_way <= UNDER_WAY {
            received.write(outgoing.message())
        } else {
            sender.try_send(outgoing.message())
        };
        outgoing.count();
        match result {
            Ok(()) => {}
            Err(_) if shared.over.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// One line on stderr that is written over, if that is a terminal.
#[derive(Debug)]
struct ProgressLine {
    is_terminal: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, text: &str) {
        if self.is_terminal {
            // Progress that nobody can see is no failure.
            drop(write!(io::stderr(), "\r{text}\x1b[K"));
        }
    }

    fn clear(&mut self) {
        self.show("");
    }
}
