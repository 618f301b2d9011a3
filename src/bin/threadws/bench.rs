//! `threadws bench`: many clients send to an echo server and check the messages that come back.
//!
//! Each client has a thread. The main thread keeps the time and shows the progress.

mod histogram;
mod numbered_message;
mod report;

use crate::args::bench::BenchOptions;
use crate::signals::StopSignal;
use crate::stdio::Blocking;
#[cfg(feature = "tls")]
use crate::tls;
use crate::{CommandError, print};
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

/// Stack size of a client's thread: enough for the handshake and for receiving.
const STACK_SIZE: usize = 128 * 1024;
/// How often the progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long the connections may take to close after the load.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the TCP connection may take, and then the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a client may have in flight if its thread waits while it sends. Socket buffers hold that many, so client and
/// server can never wait for each other.
const MAX_BLOCKING: usize = 64 * 1024;
/// The longest header of a frame, with its masking key.
const MAX_HEADER: usize = 14;
/// The bytes that a message takes from the backlog in addition to its payload, at most.
const QUEUE_OVERHEAD: usize = 256;

/// How many messages each client can have in memory beside those in flight: two that are compared, one that is encoded, and
/// one that arrives, which is copied when it grows.
const MESSAGES_BESIDE: usize = 5;
/// The memory of a client without its messages, in bytes: its stack, its histogram and its connection.
const CLIENT_SIZE: usize = STACK_SIZE + 64 * 1024;

/// A client, as the main thread sees it.
struct BenchClient {
    /// Makes its thread start to send.
    start: Sender<()>,
    sender: threadws::Sender,
}

/// Sent from the other threads to the main thread.
enum LoadEvent {
    Connected(threadws::Sender),
    NotConnected(CommandError),
    Ended(Result<Histogram, String>),
    Interrupted,
}

/// Shared by all threads.
#[derive(Debug)]
struct LoadState {
    options: BenchOptions,
    /// Set when the time is over. `Relaxed` is enough, because no other data depends on it.
    is_over: AtomicBool,
    /// Round trips of all clients, for the progress. The report counts those that each client has measured.
    messages: AtomicU64,
}

/// Connects all clients, lets them send until the time is over, and prints the report.
pub(crate) fn bench(options: &BenchOptions, stop: StopSignal) -> Result<(), CommandError> {
    check_memory(options)?;
    let address = target(options)?;
    let shared = Arc::new(LoadState {
        options: options.clone(),
        is_over: AtomicBool::new(false),
        messages: AtomicU64::new(0),
    });
    let (to_main, events) = channel();
    let interrupt = to_main.clone();
    spawn("threadws-signal", move || {
        if let Err(error) = stop.wait() {
            warn!("cannot wait for signals: {error}");
            return;
        }
        // Fails only if the main thread has stopped receiving, and so ends.
        drop(interrupt.send(LoadEvent::Interrupted));
    })?;
    let clients = connect_all(&shared, address, &to_main, &events)?;
    info!("{} clients connected to {address}, for {:?}", options.clients, options.duration);
    let start = Instant::now();
    for client in &clients {
        // Fails only if the client has failed. Its event says why.
        let _ = client.start.send(());
    }
    let interrupted = wait(&shared, &events, start)?;
    shared.is_over.store(true, Ordering::Relaxed);
    let took = start.elapsed();
    for client in clients {
        // Fails if the connection has ended. A client that waits for a message is woken by the end of the connection.
        drop(client.sender.close(1000, ""));
    }
    let latency = collect(&events, options.clients)?;
    let report = LoadReport { options, address, took, interrupted, latency };
    let text = if options.json { report.json() } else { report.tables() };
    print(&text).map_err(|error| CommandError::Failed(format!("cannot write to stdout: {error}")))
}

/// Refuses a load for which the system would not give the process the memory. Otherwise a failed allocation would abort it in
/// the middle of the load.
fn check_memory(options: &BenchOptions) -> Result<(), CommandError> {
    let messages = options.in_flight.saturating_add(MESSAGES_BESIDE);
    let client = (options.size + QUEUE_OVERHEAD).saturating_mul(messages).saturating_add(CLIENT_SIZE);
    let all = client.saturating_mul(options.clients);
    // Reserved and given back. The system counts the addresses against its limits, and provides no memory.
    Vec::<u8>::new().try_reserve_exact(all).map_err(|_| {
        let size = all.div_ceil(1 << 20);
        CommandError::Usage(format!(
            "--clients, --size and --in-flight together may need {size} MiB of memory, which the system does not give"
        ))
    })
}

/// Starts the threads of all clients, and waits until each is connected.
fn connect_all(
    shared: &Arc<LoadState>,
    address: SocketAddr,
    to_main: &Sender<LoadEvent>,
    events: &Receiver<LoadEvent>,
) -> Result<Vec<BenchClient>, CommandError> {
    let mut clients = Vec::new();
    for _ in 0..shared.options.clients {
        let (start, wait) = channel();
        let (shared, to_main) = (Arc::clone(shared), to_main.clone());
        spawn("threadws-bench", move || run_client(&shared, address, &wait, &to_main))?;
        // One after the other, because the server's listen queue may be short.
        match events.recv() {
            Ok(LoadEvent::Connected(sender)) => clients.push(BenchClient { start, sender }),
            Ok(LoadEvent::NotConnected(error)) => return Err(error),
            _ => {
                return Err(CommandError::Failed("interrupted before all clients were connected".to_owned()));
            }
        }
    }
    Ok(clients)
}

/// Waits until all clients have ended, and merges their histograms.
fn collect(events: &Receiver<LoadEvent>, clients: usize) -> Result<Histogram, CommandError> {
    let mut latency = Histogram::new();
    let ended = events.iter().filter_map(|event| match event {
        LoadEvent::Ended(result) => Some(result),
        _ => None,
    });
    for result in ended.take(clients) {
        latency.merge(&result.map_err(CommandError::Failed)?);
    }
    if latency.count() == 0 {
        return Err(CommandError::Failed(
            "no message came back: is it an echo server, such as threadws --echo --every 0?".to_owned(),
        ));
    }
    Ok(latency)
}

/// Resolves the host of the URL. This is done once, so that the address that was checked is the one that is loaded.
fn target(options: &BenchOptions) -> Result<SocketAddr, CommandError> {
    let usage = |text: &str| CommandError::Usage(text.to_owned());
    let uri: Uri =
        options.url.parse().map_err(|_| usage("not a URL such as ws://127.0.0.1:8005/, over TCP"))?;
    let port = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
        Some("ws") => 80,
        Some("wss") => 443,
        _ => return Err(usage("the URL must begin with ws:// or wss://")),
    };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, uri.port_u16().unwrap_or(port)).to_socket_addrs();
    let addresses: Vec<_> =
        addresses.map_err(|error| CommandError::Failed(format!("cannot resolve {host}: {error}")))?.collect();
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    if !options.allow_remote && !addresses.iter().all(is_loopback) {
        return Err(usage("the server is not on this machine; --allow-remote allows that"));
    }
    let address = match addresses.as_slice() {
        [address] => Some(*address),
        // A name may have an IPv4 and an IPv6 address, of which the server listens on one.
        several => {
            several.iter().copied().find(|one| TcpStream::connect_timeout(one, HANDSHAKE_TIMEOUT).is_ok())
        }
    };
    address.ok_or_else(|| CommandError::Failed(format!("cannot connect to any of {addresses:?}")))
}

/// Waits until the time is over, a signal arrives or a client fails. Returns whether it was a signal.
fn wait(shared: &LoadState, events: &Receiver<LoadEvent>, start: Instant) -> Result<bool, CommandError> {
    let deadline = start + shared.options.duration;
    let mut line = ProgressLine::new();
    let (mut before, mut seen) = (start, 0);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            line.clear();
            return Ok(false);
        }
        match events.recv_timeout(left.min(PROGRESS_INTERVAL)) {
            Ok(LoadEvent::Interrupted) => {
                line.clear();
                return Ok(true);
            }
            Ok(LoadEvent::Ended(Err(error))) => {
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

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    // The threads are not joined, because each sends an event when it is done.
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_SIZE);
    match thread.spawn(body) {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError::Failed(format!("cannot start a thread: {error}"))),
    }
}

/// Runs one client: connects, waits for the start, and loads the server.
fn run_client(shared: &LoadState, address: SocketAddr, start: &Receiver<()>, events: &Sender<LoadEvent>) {
    let event = match connect(&shared.options, address) {
        Ok(mut connection) => {
            // This and the send below fail only if the main thread has failed, and so ends.
            drop(events.send(LoadEvent::Connected(connection.sender())));
            if start.recv().is_err() {
                return;
            }
            LoadEvent::Ended(load(shared, &mut connection))
        }
        Err(error) => LoadEvent::NotConnected(error),
    };
    drop(events.send(event));
}

fn connect(options: &BenchOptions, address: SocketAddr) -> Result<Connection, CommandError> {
    // All messages in flight fit in the backlog, because socket buffers may be smaller than one message.
    let all = (options.size + QUEUE_OVERHEAD).saturating_mul(options.in_flight);
    let config = Config::new()
        .with_handshake_timeout(HANDSHAKE_TIMEOUT)
        .with_close_timeout(CLOSE_TIMEOUT)
        .with_max_close_time(CLOSE_TIMEOUT)
        .with_max_message_size(options.size)
        .with_max_backlog(all);
    let connect = || -> threadws::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT)?;
        let settings = Connect::new(&options.url).config(config);
        #[cfg(feature = "tls")]
        let settings = settings.tls(tls::client(&options.tls));
        settings.connect_over(stream)
    };
    connect().map_err(|error| match error {
        Error::Invalid(what) => CommandError::Usage(what.into_owned()),
        error @ Error::Refused(_) => CommandError::Failed(error.to_string()),
        error => CommandError::Failed(format!("cannot connect to {address}: {error}")),
    })
}

/// Sends, receives and compares messages until the time is over.
fn load(shared: &LoadState, connection: &mut Connection) -> Result<Histogram, String> {
    let BenchOptions { size, in_flight, binary, .. } = shared.options;
    // If more messages are in flight than the buffers between client and server hold, sending must not wait: this thread
    // would no longer receive, so the server would stop reading, too.
    let may_block = (size + MAX_HEADER).saturating_mul(in_flight) <= MAX_BLOCKING;
    let sender = connection.sender();
    let mut latency = Histogram::new();
    let mut sent = VecDeque::new();
    let mut outgoing = NumberedMessage::new(size, binary);
    let mut expected = NumberedMessage::new(size, binary);
    for _ in 0..in_flight {
        sent.push_back(Instant::now());
        let result = if may_block {
            connection.write(outgoing.message())
        } else {
            sender.try_send(outgoing.message())
        };
        match result {
            Ok(()) => {}
            // The time was over before all messages were sent.
            Err(_) if shared.is_over.load(Ordering::Relaxed) => return Ok(latency),
            Err(error) => return Err(error.to_string()),
        }
        outgoing.advance();
    }
    loop {
        let received = connection.recv_ref();
        let is_over = shared.is_over.load(Ordering::Relaxed);
        let mut received = match received {
            Ok(Some(received)) => received,
            Ok(None) | Err(_) if is_over => return Ok(latency),
            Ok(None) => return Err("the server closed a connection".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        if is_over {
            continue; // Too late to be counted. The connection is being closed.
        }
        if !expected.matches(received.message) {
            return Err("a message that came back is not the one that was sent: is this an echo server? \
                 'threadws --echo --every 0' is one"
                .to_owned());
        }
        expected.advance();
        let now = Instant::now();
        if let Some(sent) = sent.pop_front() {
            latency.add(now - sent);
        }
        shared.messages.fetch_add(1, Ordering::Relaxed);
        sent.push_back(now);
        let result =
            if may_block { received.write(outgoing.message()) } else { sender.try_send(outgoing.message()) };
        outgoing.advance();
        match result {
            Ok(()) => {}
            Err(_) if shared.is_over.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// A line on stderr that overwrites itself. Shown on a terminal only.
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
            // The load goes on even if the progress cannot be shown.
            drop(write!(Blocking(io::stderr()), "\r{text}\x1b[K"));
        }
    }

    fn clear(&mut self) {
        self.show("");
    }
}
