//! The real binary under a mixed load for a chosen time, and thousands of clients that come and go. Both tests print
//! figures, and fail if anything grows or is lost.
//!
//! ```sh
//! THREADWS_SOAK=3600 cargo test --release --test load soak -- --ignored --nocapture
//! ```
//!
//! `THREADWS_SOAK` is the length in seconds, 60 by default; `THREADWS_CHURN` is the number of clients, 5000 by default. With
//! `THREADWS_TEST_TLS=1` all clients use TLS. With `THREADWS_TEST_EVENTS=1` the server has `--events`.

#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use support::{
    Fault, FaultyProxy, Frame, Haproxy, PATIENCE, Process, ProcessUsage, RawPeer, eventually_within, header,
    next, program, take_turn, watchdog,
};
use threadws::{Connection, Error};

/// The path where numbered messages are sent to all clients.
const ROOM: &str = "/room";

/// The length of the padding of a number. A client that never reads is full after some thousands of messages.
const PADDING: usize = 2048;

/// How long the last ones may take to leave: twice a ping, a closing handshake, and the threads that wait for another
/// client.
const AFTERMATH: Duration = Duration::from_secs(60);

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn start(options: &[&str]) -> Process {
    // One line for each beginning and each end of a connection, and none for a message.
    let mut all = vec!["--log", "warn,threadws::connection=debug"];
    all.extend(options);
    Process::threadws_over_tls_if_asked(&all)
}

/// A proxy that can be restarted: the real HAProxy, or the one of these tests if it is missing.
#[derive(Debug)]
enum Front {
    Haproxy(Haproxy),
    Plain(FaultyProxy),
}

impl Front {
    fn before(haproxy: Option<&Path>, server: SocketAddr) -> Self {
        match haproxy {
            Some(haproxy) => Self::Haproxy(Haproxy::before(haproxy, server, "")),
            None => Self::Plain(FaultyProxy::before(server, Fault::Pass, Fault::Pass)),
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Haproxy(proxy) => proxy.addr(),
            Self::Plain(proxy) => proxy.addr(),
        }
    }
}

/// The load on the server.
#[derive(Debug, Default)]
struct Load {
    stop: AtomicBool,
    messages: AtomicU64,
    ticks: AtomicU64,
    visits: AtomicU64,
    broken: AtomicU64,
    misbehaved: AtomicU64,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Returns the number in the next message, or `None` for a tick.
    fn hear(&self, connection: &mut Connection) -> threadws::Result<Option<u64>> {
        let message =
            connection.recv()?.ok_or_else(|| Error::Io(std::io::ErrorKind::UnexpectedEof.into()))?;
        let text = message.as_text().expect("only text was sent");
        if text == "tick" {
            self.ticks.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        let (number, padding) = text.split_once(' ').expect("a number and padding");
        assert!(padding.bytes().all(|byte| byte == b'.'), "not what was sent: {padding:?}");
        Ok(Some(number.parse().expect("a number")))
    }

    /// Returns the next number. Ticks end the wait for a number that never comes.
    fn number(&self, connection: &mut Connection) -> threadws::Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "lost: {PATIENCE:?} without the next number");
            if let Some(number) = self.hear(connection)? {
                return Ok(number);
            }
        }
    }
}

fn numbered(number: u64, padding: usize) -> String {
    format!("{number} {}", ".".repeat(padding))
}

fn connect(addr: SocketAddr, path: &str) -> Connection {
    threadws::connect(format!("ws://{addr}{path}")).expect("a healthy client is accepted")
}

/// Sends into its own room, eight at a time, and expects them back in order. Gives up at the first failure.
fn talk(load: &Load, connection: &mut Connection) -> threadws::Result<()> {
    let mut sent = 0;
    while load.goes_on() {
        for number in sent..sent + 8 {
            // Now and then a message that no socket takes at once.
            let padding = if number % 500 == 0 { 300 << 10 } else { 20 };
            connection.send(numbered(number, padding))?;
        }
        for number in sent..sent + 8 {
            assert_eq!(load.number(connection)?, number, "lost, or out of order");
        }
        sent += 8;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Sends its numbers to the room, each as soon as the one before has come back.
fn publish(load: &Load, addr: SocketAddr) {
    let mut connection = connect(addr, ROOM);
    let mut number = 0;
    while load.goes_on() {
        connection.send(numbered(number, PADDING)).expect("a healthy publisher");
        assert_eq!(load.number(&mut connection).expect("a healthy publisher"), number);
        number += 1;
        thread::sleep(Duration::from_millis(2));
    }
    connection.close(1000, "").expect("a clean end");
}

/// Receives this many numbers of the room without a gap, and leaves.
fn listen(load: &Load, addr: SocketAddr, numbers: u64) {
    let mut connection = connect(addr, ROOM);
    let (mut last, mut heard) = (None, 0);
    // When the publisher has gone, ticks come.
    while load.goes_on() && heard < numbers {
        if let Some(number) = load.hear(&mut connection).expect("a healthy listener") {
            assert!(
                last.is_none_or(|last| number == last + 1),
                "lost, or out of order: {number} after {last:?}"
            );
            last = Some(number);
            heard += 1;
        }
    }
    connection.close(1000, "").expect("a clean end");
    load.visits.fetch_add(1, Ordering::Relaxed);
}

/// The clients that attack, one after the other.
fn misbehave(load: &Load, addr: SocketAddr, kind: u64) {
    load.misbehaved.fetch_add(1, Ordering::Relaxed);
    let patience = |seconds: u64| {
        let until = Instant::now() + Duration::from_secs(seconds);
        move || load.goes_on() && Instant::now() < until
    };
    match kind % 9 {
        // Never reads the broadcasts.
        0 => {
            let peer = RawPeer::open_at(addr, ROOM, &[]);
            let goes_on = patience(30);
            while goes_on() {
                thread::sleep(Duration::from_millis(100));
            }
            drop(peer);
        }
        // Sends a head without an end, a byte at a time, or a message.
        1 | 2 => {
            let mut peer = if kind % 9 == 1 { RawPeer::connect(addr) } else { RawPeer::open(addr) };
            let bytes = if kind % 9 == 1 {
                b"GET / HTTP/1.1\r\nX-Slow: ".to_vec()
            } else {
                Frame::binary([7; 100]).encode()
            };
            let goes_on = patience(15);
            for byte in bytes.iter().chain(std::iter::repeat_n(&b'a', 1000)) {
                if !goes_on() || peer.try_write(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        // Sends garbage instead of a head, or instead of frames.
        3 | 4 => {
            let mut peer = if kind % 9 == 3 { RawPeer::connect(addr) } else { RawPeer::open(addr) };
            let mut state = kind + 1;
            let garbage: Vec<u8> = (0..4096)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    state.to_be_bytes()[0]
                })
                .collect();
            drop(peer.try_write(&garbage));
            drop(peer.stream().read(&mut [0; 512]));
        }
        // Sends an RST within a frame.
        5 => {
            let mut peer = RawPeer::open(addr);
            drop(peer.try_write(&Frame::binary([7; 1000]).encode()[..500]));
            peer.reset();
        }
        // Ends its own direction and reads on, without a Close.
        6 => {
            let mut peer = RawPeer::open(addr);
            peer.fin();
            while matches!(peer.frame_until(Instant::now() + Duration::from_secs(5)), Ok(Some(_))) {}
        }
        // Announces more than it may send.
        7 => {
            let mut peer = RawPeer::open(addr);
            peer.write(header(0x82, Some([1, 2, 3, 4]), 1 << 30, 64));
            peer.expect_close_at_last(&[1009]);
        }
        // Sends without reading, and vanishes.
        _ => {
            let mut peer = RawPeer::open_at(addr, "/gone", &[]);
            for _ in 0..100 {
                if peer.try_write(&Frame::binary(vec![7; 10_000]).encode()).is_err() {
                    break;
                }
            }
        }
    }
}

/// Returns one of the server's metrics.
#[track_caller]
fn metric(server: &Process, name: &str) -> u64 {
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n");
    let text = peer.answer().text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a whole number")
}

/// Checks that every connection in the log began once and ended once, and that the server has counted as many. Returns
/// their number.
#[track_caller]
fn each_ended_once(server: &Process) -> u64 {
    let opened = metric(server, "threadws_connections_opened_total");
    assert_eq!(metric(server, "threadws_connections_open"), 0, "of {opened}");
    // The log is written with a delay.
    eventually_within(PATIENCE, "the log has every end", || {
        server.log().iter().filter(|line| line.contains(" closed after ")).count() as u64 >= opened
    });
    let mut seen: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for line in server.log() {
        assert!(!line.contains("dropped") && !line.contains("panicked"), "{line}");
        let Some((_, rest)) = line.split_once("client ") else { continue };
        let Some((id, what)) = rest.split_once(' ') else { continue };
        let entry = seen.entry(id.to_owned()).or_default();
        entry.0 += u32::from(what.starts_with("opened "));
        entry.1 += u32::from(what.starts_with("closed "));
    }
    let odd: Vec<_> = seen.iter().filter(|(_, counts)| **counts != (1, 1)).take(10).collect();
    assert!(!seen.is_empty() && odd.is_empty(), "clients and how often they began and ended: {odd:?}");
    assert_eq!(seen.len() as u64, opened, "in the log, and counted");
    opened
}

fn figures(usage: &ProcessUsage) -> String {
    let ProcessUsage { memory, threads, descriptors, .. } = usage;
    format!("{} KiB, {threads} threads, {descriptors} descriptors", memory >> 10)
}

/// Returns the median of the samples in the quarter of the time that ends at `end`, of four.
fn typical(samples: &[ProcessUsage], end: usize) -> usize {
    let quarter = &samples[samples.len() * (end - 1) / 4..samples.len() * end / 4];
    let mut memory: Vec<_> = quarter.iter().map(|sample| sample.memory).collect();
    memory.sort_unstable();
    memory[memory.len() / 2]
}

/// Checks that memory is not higher in the last quarter than in the second, when everything had been used once.
#[track_caller]
fn is_flat(samples: &[ProcessUsage]) {
    let (second, last) = (typical(samples, 2), typical(samples, 4));
    println!("memory: {} KiB in the second quarter, {} KiB in the last", second >> 10, last >> 10);
    assert!(last <= second + second / 10 + (1 << 20), "memory grows: {second} bytes, then {last}");
}

#[track_caller]
fn settles(server: &Process, before: &ProcessUsage) {
    eventually_within(AFTERMATH, "threads and descriptors are back where they were", || {
        let now = server.usage();
        now.threads <= before.threads && now.descriptors <= before.descriptors
    });
    println!("before: {}\nafter:  {}", figures(before), figures(&server.usage()));
}

#[test]
#[ignore = "takes THREADWS_SOAK seconds, 60 by default"]
fn a_mixed_load_leaks_nothing_and_loses_no_message() {
    let length = Duration::from_secs(from_env("THREADWS_SOAK", 60));
    let (_turn, _dog) = (take_turn(), watchdog(length.as_secs() + 180));
    let server = start(&["--topics", "--every", "1s", "--message", "tick", "--ping", "2s"]);
    let (direct, threads) = (server.addr(), server.usage().threads);
    // The first client triggers the allocations that happen once.
    RawPeer::open(direct).close(1000);
    server.wait_for_line(&["client", "closed after"]);
    let haproxy = program("haproxy");
    let front = || Front::before(haproxy.as_deref(), direct);
    let before = {
        eventually_within(AFTERMATH, "the first client's thread has ended", || {
            server.usage().threads <= threads
        });
        server.usage()
    };
    let load = Load::default();
    let proxy = Mutex::new(front());
    let proxied = || proxy.lock().unwrap_or_else(PoisonError::into_inner).addr();
    let mut samples = Vec::new();
    thread::scope(|scope| {
        let load = &load;
        // The others receive the publisher's last numbers, or a tick each second, so that all notice the end.
        scope.spawn(move || publish(load, direct));
        for _ in 0..4 {
            scope.spawn(move || listen(load, direct, u64::MAX));
        }
        for _ in 0..2 {
            scope.spawn(move || {
                while load.goes_on() {
                    listen(load, direct, 20);
                }
            });
        }
        for own in 0..4 {
            scope.spawn(move || {
                let mut connection = connect(direct, &format!("/own/{own}"));
                talk(load, &mut connection).expect("a healthy client");
                connection.close(1000, "").expect("a clean end");
            });
        }
        let proxied = &proxied;
        for own in 4..6 {
            scope.spawn(move || {
                while load.goes_on() {
                    let connected = threadws::connect(format!("ws://{}/own/{own}", proxied()));
                    // A proxy that is restarted breaks its connections. The messages until then were in order.
                    if connected.is_ok_and(|mut connection| talk(load, &mut connection).is_ok()) {
                        break;
                    }
                    load.broken.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        for offset in 0..3 {
            scope.spawn(move || {
                let mut kind = offset * 3;
                while load.goes_on() {
                    misbehave(load, direct, kind);
                    kind += 1;
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let began = Instant::now();
        let mut next_line = began;
        let mut restart = began + length / 6;
        while began.elapsed() < length {
            samples.push(server.usage());
            let now = Instant::now();
            if now >= next_line {
                next_line += length / 10;
                let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                println!(
                    "{:5} s: {}, {} messages, {} ticks, {} visits, \
                     {} misbehaved, {} broken with the proxy",
                    began.elapsed().as_secs(),
                    figures(&samples[samples.len() - 1]),
                    count(&load.messages),
                    count(&load.ticks),
                    count(&load.visits),
                    count(&load.misbehaved),
                    count(&load.broken),
                );
            }
            if now >= restart {
                restart += length / 6;
                let fresh = front();
                let old =
                    std::mem::replace(&mut *proxy.lock().unwrap_or_else(PoisonError::into_inner), fresh);
                drop(old);
            }
            thread::sleep((length / 400).clamp(Duration::from_millis(100), Duration::from_secs(5)));
        }
        load.stop.store(true, Ordering::Relaxed);
    });
    drop(proxy);
    let seconds = length.as_secs();
    assert!(load.messages.into_inner() > 100 * seconds, "hardly any messages");
    assert!(load.ticks.into_inner() > seconds, "hardly any ticks");
    assert!(load.broken.into_inner() > 0, "the proxy was never restarted under a connection");
    settles(&server, &before);
    println!("{} connections, each ended once", each_ended_once(&server));
    is_flat(&samples);
    server.stop();
}

#[test]
#[ignore = "takes a while: THREADWS_CHURN clients, 5000 by default"]
fn thousands_of_clients_leave_nothing_behind() {
    let rounds = from_env("THREADWS_CHURN", 5000);
    let (_turn, _dog) = (take_turn(), watchdog(120 + rounds / 50));
    let server = start(&["--echo", "--every", "1s"]);
    let threads = server.usage().threads;
    RawPeer::open(server.addr()).close(1000);
    eventually_within(AFTERMATH, "the first client's thread has ended", || server.usage().threads <= threads);
    let before = server.usage();
    let began = Instant::now();
    let (tx, rx) = mpsc::channel();
    let round = &AtomicU64::new(0);
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (tx, addr) = (tx.clone(), server.addr());
            scope.spawn(move || {
                loop {
                    let number = round.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds {
                        break;
                    }
                    // An address has some 28,000 ports, and each rests for a minute.
                    let host = u8::try_from(number % 200).expect("below 200") + 2;
                    let mut peer = RawPeer::connect_from([127, 0, 1, host].into(), addr);
                    peer.upgrade("/", &[]);
                    peer.send_text("here");
                    peer.expect_text("here");
                    match number % 4 {
                        0 | 1 => peer.close(1000),
                        2 => peer.fin(),
                        _ => peer.reset(),
                    }
                    if number % (rounds / 40).max(1) == 0 {
                        tx.send(number).expect("some clients count");
                    }
                }
            });
        }
        drop(tx);
        let step = (rounds / 40).max(1);
        for count in 0..rounds.div_ceil(step) {
            next(&rx, "the next of forty parts");
            samples.push(server.usage());
            if count % 4 == 0 {
                println!("{:6} came: {}", count * step, figures(&samples[samples.len() - 1]));
            }
        }
    });
    println!("{rounds} came and went in {:.1} s", began.elapsed().as_secs_f64());
    settles(&server, &before);
    // One more, because of the connection before them.
    assert_eq!(each_ended_once(&server), rounds + 1);
    is_flat(&samples);
    server.stop();
}
