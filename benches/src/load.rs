//! The load generator: one thread with epoll. It keeps a number of messages in flight on each connection, and compares
//! every byte that comes back.

use crate::peers::Running;
use crate::stream::{Stream, client_config};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_socket_linger;
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use threadws_benches::{BINARY, RSV1, client_frame, compress, head_end, header, json, open_over, request};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes read at a time: enough for any burst of the loads here.
const READ: usize = 256 * 1024;
/// A server that is silent for this long has a fault.
const STALL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub enum Load {
    Echo {
        clients: usize,
        size: usize,
        in_flight: usize,
        /// With TLS: each message of a burst in a record of its own, as a client sends that does not join them.
        record_each: bool,
    },
    /// One client sends, all receive.
    Broadcast { clients: usize, size: usize, in_flight: usize },
    /// Handshakes, `parallel` of them at a time.
    Handshakes { parallel: usize },
    /// Clients that sent one message and are idle now: 32 bytes, or 1 KiB of JSON.
    Idle { clients: usize, json: bool },
}

/// The length of a run: the warm-up, and the part that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    pub warm_up: Duration,
    pub measured: Duration,
}

/// The result of one run. For a broadcast, each delivery counts as one message.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Messages, deliveries or handshakes per second. Zero if only memory is measured.
    pub rate: f64,
    /// Processor time of the server for each of them, in microseconds; or its memory for each client, in KiB.
    pub cost: f64,
    /// The median round trip, in microseconds.
    pub p50: u64,
    /// The 99th percentile of the round trips, in microseconds.
    pub p99: u64,
    /// The bytes of an answer on the wire, without those of TLS.
    pub bytes: f64,
}

impl Load {
    pub fn name(self) -> String {
        match self {
            Self::Echo { clients, size, in_flight, record_each } => {
                let records = if record_each { ", a record each" } else { "" };
                format!(
                    "echo {}, {} clients, {in_flight} in flight{records}",
                    bytes(size),
                    thousands(clients)
                )
            }
            Self::Broadcast { clients, size, in_flight } => {
                format!("broadcast {} to {}, {in_flight} in flight", bytes(size), thousands(clients))
            }
            Self::Handshakes { parallel } => format!("handshakes, {parallel} in parallel"),
            Self::Idle { clients, json: false } => format!("memory of {} idle clients", thousands(clients)),
            Self::Idle { clients, json: true } => {
                format!("memory of {} idle clients that have echoed 1 KiB", thousands(clients))
            }
        }
    }

    pub fn is_broadcast(self) -> bool {
        matches!(self, Self::Broadcast { .. })
    }

    pub fn is_memory(self) -> bool {
        matches!(self, Self::Idle { .. })
    }

    pub fn run(self, server: &Running, length: Length) -> Result<Outcome> {
        match self {
            Self::Echo { clients, size, in_flight, record_each } => {
                echo(server, length, clients, size, in_flight, record_each)
            }
            Self::Broadcast { clients, size, in_flight } => {
                broadcast(server, length, clients, size, in_flight)
            }
            Self::Handshakes { parallel } => handshakes(server, length, parallel),
            Self::Idle { clients, json } => idle(server, clients, json),
        }
    }
}

/// Returns the TLS settings for a server, if it has TLS.
fn tls(server: &Running, record: Option<usize>) -> Result<Option<Arc<ClientConfig>>> {
    server.is_tls.then(|| client_config(record)).transpose()
}

pub fn bytes(size: usize) -> String {
    match size {
        ..1024 => format!("{size} B"),
        ..1_048_576 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

pub fn thousands(count: usize) -> String {
    if count < 1000 { count.to_string() } else { format!("{} {:03}", count / 1000, count % 1000) }
}

/// Measures the part of a run after the warm-up, and the processor time of the server in it.
struct Meter<'a> {
    server: &'a Running,
    start: Instant,
    length: Length,
    cpu: Duration,
    round_trips: Histogram<u64>,
    count: u64,
    measuring: bool,
}

impl<'a> Meter<'a> {
    fn new(server: &'a Running, length: Length) -> Result<Self> {
        let round_trips = Histogram::new_with_bounds(1, STALL.as_micros() as u64, 2)?;
        let start = Instant::now();
        Ok(Self { server, start, length, cpu: Duration::ZERO, round_trips, count: 0, measuring: false })
    }

    /// Starts to measure when the warm-up is over. Returns false when the run is over.
    fn is_running(&mut self) -> Result<bool> {
        if !self.measuring && self.start.elapsed() >= self.length.warm_up {
            self.measuring = true;
            self.round_trips.reset();
            self.count = 0;
            self.cpu = cpu(self.server)?;
            self.start = Instant::now();
        }
        Ok(!self.measuring || self.start.elapsed() < self.length.measured)
    }

    fn outcome(self, clients: &[Client]) -> Result<Outcome> {
        let seconds = self.start.elapsed().as_secs_f64();
        let cpu = cpu(self.server)? - self.cpu;
        if self.count == 0 {
            return Err("no message came back".into());
        }
        let count = self.count as f64;
        Ok(Outcome {
            rate: count / seconds,
            cost: cpu.as_secs_f64() * 1e6 / count,
            p50: self.round_trips.value_at_quantile(0.5),
            p99: self.round_trips.value_at_quantile(0.99),
            bytes: clients.iter().map(|client| client.bytes).sum::<u64>() as f64
                / clients.iter().map(|client| client.messages).sum::<u64>() as f64,
        })
    }
}

/// Returns the user and system time of a process, including that of its threads that have ended (proc(5)).
fn cpu(server: &Running) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid()))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Returns the resident memory in KiB.
fn resident(server: &Running) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    last: Instant,
}

impl Poll {
    fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(1024), last: Instant::now() })
    }

    fn add(&self, stream: &TcpStream, index: usize) -> Result<()> {
        stream.set_nonblocking(true)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        Ok(epoll::add(&self.epoll, stream, EventData::new_u64(index as u64), flags)?)
    }

    fn wait(&mut self) -> Result<()> {
        self.events.clear();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !self.events.is_empty() {
            self.last = Instant::now();
        } else if self.last.elapsed() > STALL {
            return Err("stalled".into());
        }
        Ok(())
    }

    fn ready(&self) -> impl Iterator<Item = usize> + use<> {
        self.events.iter().map(|event| event.data.u64() as usize).collect::<Vec<_>>().into_iter()
    }
}

/// The bytes that every connection sends and expects. It is always the same frame, so that both directions are periodic.
struct Wire {
    frame: usize,
    sent: Vec<u8>,
    answer: usize,
    expected: Vec<u8>,
    /// Only the headers of answers are read, because each server compresses differently.
    is_compressed: bool,
}

impl Wire {
    fn new(size: usize, in_flight: usize, is_compressed: bool) -> Self {
        let payload = json(size);
        let frame = if is_compressed {
            client_frame(RSV1 | BINARY, &compress(&payload))
        } else {
            client_frame(BINARY, &payload)
        };
        let mut answer = header(BINARY, size);
        answer.extend_from_slice(&payload);
        let sent = frame.repeat((READ / frame.len() + 1).clamp(1, in_flight + 1));
        let expected = answer.repeat(READ / answer.len() + 2);
        Self { frame: frame.len(), sent, answer: answer.len(), expected, is_compressed }
    }
}

struct Client {
    stream: Stream,
    /// Bytes that have to be written.
    unwritten: usize,
    /// The position in the frame of the next byte to write.
    write_at: usize,
    /// The position in an answer of the next byte to read.
    read_at: usize,
    messages: u64,
    bytes: u64,
    answers: CompressedAnswers,
    /// When messages were sent, and how many at that time.
    sent: VecDeque<(Instant, u64)>,
}

impl Client {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            unwritten: 0,
            write_at: 0,
            read_at: 0,
            messages: 0,
            bytes: 0,
            answers: CompressedAnswers::default(),
            sent: VecDeque::new(),
        }
    }

    fn send(&mut self, wire: &Wire, messages: u64, now: Instant) -> io::Result<()> {
        self.unwritten += messages as usize * wire.frame;
        self.sent.push_back((now, messages));
        self.write(wire)
    }

    /// Writes as much as the socket takes.
    fn write(&mut self, wire: &Wire) -> io::Result<()> {
        self.stream.flush()?;
        while self.unwritten > 0 {
            let end = wire.sent.len().min(self.write_at + self.unwritten);
            match self.stream.write(&wire.sent[self.write_at..end]) {
                Ok(count) => {
                    self.unwritten -= count;
                    self.write_at = (self.write_at + count) % wire.frame;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once. Returns how many messages are complete now, and whether there may be more.
    fn receive(&mut self, wire: &Wire, buffer: &mut [u8]) -> Result<(u64, bool)> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err("closed by the server".into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((0, false)),
            Err(error) => return Err(error.into()),
        };
        self.bytes += count as u64;
        let whole = if wire.is_compressed {
            self.answers.count(&buffer[..count])?
        } else {
            if buffer[..count] != wire.expected[self.read_at..self.read_at + count] {
                return Err("an answer is not the message that was sent".into());
            }
            let whole = (self.read_at + count) / wire.answer;
            self.read_at = (self.read_at + count) % wire.answer;
            whole
        };
        self.messages += whole as u64;
        Ok((whole as u64, count == buffer.len() || self.stream.is_tls()))
    }

    /// Records the round trips of the oldest `messages` in flight.
    fn record(&mut self, mut messages: u64, now: Instant, round_trips: &mut Histogram<u64>) {
        while let Some((sent, left)) = self.sent.front_mut() {
            let taken = messages.min(*left);
            round_trips.saturating_record_n((now - *sent).as_micros().max(1) as u64, taken);
            *left -= taken;
            messages -= taken;
            if *left == 0 {
                self.sent.pop_front();
            }
            if messages == 0 {
                return;
            }
        }
    }
}

/// The part of a compressed answer that has arrived.
#[derive(Default)]
struct CompressedAnswers {
    header: Vec<u8>,
    /// The bytes of the payload that are missing.
    left: usize,
}

impl CompressedAnswers {
    /// Returns how many answers end in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> Result<usize> {
        let mut whole = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.left == 0 {
                self.header.push(*first);
                bytes = rest;
                self.left = match self.header[..] {
                    // A server may send some answers as they are. Their share shows in the bytes of an answer.
                    [0xc1 | 0xc2 | 0x81 | 0x82] | [_, 126] | [_, 126, _] => continue,
                    [_, short @ 1..126] => short.into(),
                    [_, 126, high, low] => u16::from_be_bytes([high, low]).into(),
                    _ => return Err(format!("not an answer: {:?}", self.header).into()),
                };
                self.header.clear();
            }
            let piece = self.left.min(bytes.len());
            bytes = &bytes[piece..];
            self.left -= piece;
            whole += usize::from(self.left == 0);
        }
        Ok(whole)
    }
}

/// Closes with RST, because thousands of connections in TIME_WAIT would use up the ports.
impl Drop for Client {
    fn drop(&mut self) {
        _ = set_socket_linger(&self.stream.socket, Some(Duration::ZERO));
    }
}

fn connect(
    server: &Running,
    tls: Option<&Arc<ClientConfig>>,
    poll: &Poll,
    clients: usize,
) -> Result<Vec<Client>> {
    let mut connected = Vec::with_capacity(clients);
    for index in 0..clients {
        let mut stream = Stream::connect(server.address, tls)?;
        open_over(&mut stream, server.address, server.offer)?;
        poll.add(&stream.socket, index)?;
        connected.push(Client::new(stream));
    }
    Ok(connected)
}

fn echo(
    server: &Running,
    length: Length,
    clients: usize,
    size: usize,
    in_flight: usize,
    record_each: bool,
) -> Result<Outcome> {
    let wire = Wire::new(size, in_flight, server.compresses());
    let tls = tls(server, record_each.then_some(wire.frame))?;
    let mut poll = Poll::new()?;
    let mut clients = connect(server, tls.as_ref(), &poll, clients)?;
    let mut buffer = vec![0; READ];
    let mut meter = Meter::new(server, length)?;
    for client in &mut clients {
        client.send(&wire, in_flight as u64, Instant::now())?;
    }
    while meter.is_running()? {
        poll.wait()?;
        for index in poll.ready() {
            let client = &mut clients[index];
            client.write(&wire)?;
            loop {
                let (messages, more) = client.receive(&wire, &mut buffer)?;
                if messages > 0 {
                    let now = Instant::now();
                    client.record(messages, now, &mut meter.round_trips);
                    meter.count += messages;
                    client.send(&wire, messages, now)?;
                }
                if !more {
                    break;
                }
            }
        }
    }
    if clients.iter().any(|client| client.messages == 0) {
        return Err("a client never got an answer".into());
    }
    meter.outcome(&clients)
}

fn broadcast(
    server: &Running,
    length: Length,
    clients: usize,
    size: usize,
    in_flight: usize,
) -> Result<Outcome> {
    let wire = Wire::new(size, in_flight, server.compresses());
    let mut poll = Poll::new()?;
    let mut clients = connect(server, tls(server, None)?.as_ref(), &poll, clients)?;
    // A broadcast before the server has added the last client would not reach it.
    std::thread::sleep(Duration::from_millis(100));
    let receivers = clients.len() as u64;
    let mut buffer = vec![0; READ];
    let mut meter = Meter::new(server, length)?;
    let (mut delivered, mut rounds) = (0, 0);
    clients[0].send(&wire, in_flight as u64, Instant::now())?;
    while meter.is_running()? {
        poll.wait()?;
        for index in poll.ready() {
            loop {
                let (messages, more) = clients[index].receive(&wire, &mut buffer)?;
                delivered += messages;
                meter.count += messages;
                if !more {
                    break;
                }
            }
        }
        clients[0].write(&wire)?;
        let whole = delivered / receivers - rounds;
        if whole > 0 {
            rounds += whole;
            let now = Instant::now();
            clients[0].record(whole, now, &mut meter.round_trips);
            clients[0].send(&wire, whole, now)?;
        }
    }
    meter.outcome(&clients)
}

fn handshakes(server: &Running, length: Length, parallel: usize) -> Result<Outcome> {
    let (request, tls) = (request(server.address, ""), tls(server, None)?);
    let mut poll = Poll::new()?;
    let mut meter = Meter::new(server, length)?;
    let begin = |poll: &Poll, index| -> Result<(Client, Vec<u8>, Instant)> {
        let began = Instant::now();
        let mut stream = Stream::connect(server.address, tls.as_ref())?;
        stream.write_all(&request)?;
        poll.add(&stream.socket, index)?;
        Ok((Client::new(stream), Vec::new(), began))
    };
    let mut slots = (0..parallel).map(|index| begin(&poll, index)).collect::<Result<Vec<_>>>()?;
    let mut buffer = [0; 4096];
    while meter.is_running()? {
        poll.wait()?;
        for index in poll.ready() {
            let (client, head, began) = &mut slots[index];
            match client.stream.read(&mut buffer) {
                Ok(0) => return Err("closed by the server".into()),
                Ok(count) => head.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if head_end(head)?.is_some() {
                meter.count += 1;
                meter.round_trips.saturating_record(began.elapsed().as_micros() as u64);
                slots[index] = begin(&poll, index)?;
            }
        }
    }
    meter.outcome(&[])
}

fn idle(server: &Running, clients: usize, json: bool) -> Result<Outcome> {
    let size = if json { 1024 } else { 32 };
    let (wire, tls) = (Wire::new(size, 1, server.compresses()), tls(server, None)?);
    let before = resident(server)?;
    let mut connected = Vec::new();
    for _ in 0..clients {
        let mut stream = Stream::connect(server.address, tls.as_ref())?;
        open_over(&mut stream, server.address, server.offer)?;
        let mut client = Client::new(stream);
        client.send(&wire, 1, Instant::now())?;
        let mut buffer = [0; 4096];
        while client.messages == 0 {
            client.receive(&wire, &mut buffer)?;
        }
        connected.push(client);
    }
    std::thread::sleep(Duration::from_millis(200));
    let cost = (resident(server)? - before) / clients as f64;
    Ok(Outcome { rate: 0.0, cost, p50: 0, p99: 0, bytes: 0.0 })
}
