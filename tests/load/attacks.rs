//! Attacks by many clients at once. Each attacker is ended for its own reason and costs a limited amount, and a
//! well-behaved client beside them notices nothing.

#![cfg(feature = "cli")]

use rustix::net::sockopt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::frame::{BINARY, CONTINUATION, PING};
use support::{
    Bystander, Fault, FaultyProxy, Frame, PATIENCE, Process, RawPeer, can_open_sockets, eventually,
    eventually_within, has_events, header, helper_process, ms, take_turn, unsent_bytes_of, upgrade_request,
    watchdog,
};
use threadws::{Config, Server};

/// The memory that an attacker may cost beside its message: the touched stack of a thread and its buffers.
const EACH: usize = 128 << 10;
/// The memory that a debug build or an allocator may take at any time.
const SLACK: usize = 8 << 20;

/// Logs only warnings, and how connections end.
const QUIET: &str = "warn,threadws::connection=debug";

/// Starts an echo server with the default options.
fn echo_server() -> Process {
    let server = Process::threadws(&["--echo", "--every", "0", "--log", QUIET]);
    // The first client costs more than later ones.
    RawPeer::open(server.addr()).close(1000);
    server
}

/// The same with short deadlines, and with this one for messages.
fn impatient_server(message_timeout: Duration) -> Process {
    let server = helper_process::start(module_path!(), &message_timeout.as_millis().to_string(), &[]);
    RawPeer::open(server.addr()).close(1000);
    server
}

const SHORT: Duration = Duration::from_secs(1);

#[test]
fn run_as_helper_process() {
    let Some(part) = helper_process::role() else { return };
    let message_timeout = Duration::from_millis(part.parse().expect("milliseconds"));
    let config = Config::new()
        .with_message_timeout(message_timeout)
        .with_write_timeout(SHORT)
        .with_close_timeout(SHORT);
    helper_process::serve(Server::bind("127.0.0.1:0").expect("a port").config(config), SHORT, support::echo);
}

#[test]
fn silent_clients_are_dropped_at_the_handshake_timeout() {
    const SILENT: usize = 500;
    let (turn, _dog) = (take_turn(), watchdog(90));
    if !can_open_sockets(SILENT) {
        return;
    }
    let server = echo_server();
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let start = Instant::now();
    let mut silent: Vec<_> = (0..SILENT).map(|_| RawPeer::connect(server.addr())).collect();
    let last = Instant::now();
    eventually("all are accepted", || server.usage().descriptors >= before.descriptors + SILENT);
    let idle = server.usage();
    assert!(idle.growth_since(&before) <= SILENT * EACH + SLACK, "{idle:?} after {before:?}");
    let idle = server.thread_times();
    std::thread::sleep(ms(3000));
    let load = server.thread_times().load_since(&idle);
    assert!(load < 0.2, "{SILENT} silent clients take {load:.2} of a processor");
    let deadline = ms(10_000) + ms(2000);
    eventually_within(deadline.saturating_sub(last.elapsed()), "all are disconnected", || {
        let now = server.usage();
        // The bystander remains, and 32 threads that wait for another client.
        now.threads < before.threads + 50 && now.descriptors < before.descriptors + 50
    });
    assert!(start.elapsed() > ms(9_900), "disconnected too early: {:?}", start.elapsed());
    for peer in &mut silent {
        peer.expect_refusal(408);
    }
    bystander.expect_undisturbed();
    // A browser's spare connection does the same.
    assert_eq!(server.metric("threadws_handshake_failures_total"), 0, "none has failed a handshake");
    drop(turn);
    server.expect_settled(&before, ms(2000), SILENT);
    let log: Vec<_> = server.log().into_iter().filter(|line| !line.contains("[DEBUG]")).collect();
    assert!(log.is_empty(), "a silent client is not worth a warning: {log:?}");
    server.stop();
}

#[test]
fn an_oversize_header_is_answered_at_once_and_costs_nothing() {
    let (turn, _dog) = (take_turn(), watchdog(60));
    let server = echo_server();
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let key = Some([1, 2, 3, 4]);
    let lengths = [1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX, (1 << 20) + 1];
    let data = lengths.map(|length| (header(0x80 | BINARY, key, length, 64), 1002..1010));
    let pings =
        [126, 16 << 20, u64::MAX >> 1].map(|length| (header(0x80 | PING, key, length, 64), 1002..1003));
    let others = [
        (header(0x80 | PING, key, 126, 16), 1002..1003),
        (header(PING, key, 5, 7), 1002..1003), // a control frame in fragments
    ];
    let mut attackers = Vec::new();
    for (header, codes) in data.iter().chain(&pings).chain(&others) {
        for _ in 0..10 {
            let mut peer = RawPeer::open(server.addr());
            peer.write(header);
            let code = peer.expect_close_at_last(&[1002, 1009]);
            assert!(codes.contains(&code), "{code} for {header:?}");
            attackers.push(peer);
        }
    }
    let during = server.usage();
    assert!(during.growth_since(&before) <= attackers.len() * EACH + SLACK, "{during:?} after {before:?}");
    let count = attackers.len();
    for mut peer in attackers {
        peer.expect_eof();
    }
    let over = server.thread_times();
    std::thread::sleep(ms(1000));
    let load = server.thread_times().load_since(&over);
    assert!(load < 0.2, "{load:.2} of a processor when all is over");
    bystander.expect_undisturbed();
    drop(turn);
    server.expect_settled(&before, ms(2000) + PATIENCE, count);
    server.expect_ends(count, "; no Close received: ");
    server.stop();
}

#[test]
fn endless_fragments_from_a_hundred_are_closed_with_1008() {
    const CROWD: usize = 100;
    if has_events() && cfg!(debug_assertions) {
        // These fragments take a debug build some milliseconds for each client, so the clients of a worker have to wait for
        // each other.
        return;
    }
    let (turn, _dog) = (take_turn(), watchdog(60));
    let server = echo_server();
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let mut bytes = Frame::text("x").more().encode();
    for number in 0..6000 {
        // Every other fragment is empty.
        bytes.extend(Frame::new(CONTINUATION, if number % 2 == 0 { "x" } else { "" }).more().encode());
    }
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < ms(1000) {
        rounds += 1;
        let mut attackers: Vec<_> = (0..CROWD).map(|_| RawPeer::open(server.addr())).collect();
        for peer in &mut attackers {
            peer.write(&bytes);
        }
        for peer in &mut attackers {
            peer.expect_close(1008);
        }
        let now = server.usage();
        assert!(now.growth_since(&before) <= attackers.len() * EACH + SLACK, "{now:?} after {before:?}");
        for mut peer in attackers {
            peer.expect_eof();
        }
    }
    bystander.expect_undisturbed();
    drop(turn);
    server.expect_settled(&before, ms(2000) + PATIENCE, CROWD);
    server.expect_ends(CROWD * rounds, "sent 1008 ");
    server.stop();
}

/// Writes `bytes` again and again for this time, and at least `least` times. Returns how often. A write fails if it
/// waits for longer than its timeout, so on a slow machine the flood still goes on.
fn flood(mut stream: TcpStream, bytes: &[u8], time: Duration, least: usize) -> usize {
    let until = Instant::now() + time;
    let mut times = 0;
    while times < least || Instant::now() < until {
        stream.write_all(bytes).expect("the server reads");
        times += 1;
    }
    times
}

#[test]
fn a_flood_of_pings_with_unread_pongs_costs_one_pong() {
    let (turn, _dog) = (take_turn(), watchdog(60));
    let server = echo_server();
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let pings = Frame::ping([7; 125]).encode().repeat(500);
    // More than the kernel takes for a peer that does not read.
    let least = (8 << 20) / pings.len();
    let attackers = [RawPeer::open(server.addr()), RawPeer::open(server.addr())];
    let floods: Vec<_> = attackers
        .iter()
        .map(|peer| {
            let (stream, pings) = (peer.stream(), pings.clone());
            std::thread::spawn(move || flood(stream, &pings, ms(1000), least))
        })
        .collect();
    let mut most = before;
    for flood in floods {
        while !flood.is_finished() {
            let now = server.usage();
            if now.memory > most.memory {
                most = now;
            }
            std::thread::sleep(ms(20));
        }
        flood.join().expect("it was read, and not stopped");
    }
    // A reader's large buffer each, and a pong.
    assert!(
        most.growth_since(&before) <= attackers.len() * (EACH + EACH) + SLACK,
        "{most:?} after {before:?}"
    );
    bystander.expect_undisturbed();
    let count = attackers.len();
    drop(attackers);
    drop(turn);
    // The bystander counts too, and there are two of its clients at times.
    server.expect_settled(&before, ms(2000) + PATIENCE, count + 2);
    // They end with a reset, because there are pongs that they did not read.
    server.expect_resets(count);
    server.stop();
}

#[test]
#[ignore = "takes 20 s of both processors"]
fn a_flood_of_empty_messages_takes_only_one_thread() {
    let (turn, _dog) = (take_turn(), watchdog(60));
    let server = echo_server();
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let bytes = [Frame::text(""), Frame::binary("")].map(|frame| frame.encode()).concat().repeat(1000);
    let attacker = RawPeer::open(server.addr());
    let mut echoes = attacker.stream();
    echoes.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        let mut bytes = 0;
        while let Ok(count @ 1..) = echoes.read(&mut buffer) {
            bytes += count;
        }
        bytes / 2
    });
    let start = server.thread_times();
    let times = flood(attacker.stream(), &bytes, ms(2000), 20);
    let work = server.thread_times().since(&start);
    let others: Duration = work[1..].iter().sum();
    assert!(others < work[0] / 5, "one client keeps more than one thread busy: {work:?}");
    let during = server.usage();
    assert!(during.growth_since(&before) <= 2 * EACH + SLACK, "{during:?} after {before:?}");
    attacker.stream().shutdown(std::net::Shutdown::Write).expect("FIN");
    drop(attacker);
    let echoed = reader.join().expect("the reader");
    assert!(echoed > 20_000 && echoed <= times * 2000, "{echoed} echoes of {times} thousand pairs");
    bystander.expect_undisturbed();
    drop(turn);
    server.expect_settled(&before, ms(2000) + PATIENCE, 1 + 2);
    server.ends(1);
    server.stop();
}

#[test]
fn a_trickling_message_ends_at_its_deadline() {
    let (turn, _dog) = (take_turn(), watchdog(60));
    let server = impatient_server(SHORT * 2);
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let after = upgrade_request(server.addr(), "/", &[]).len() + 1000;
    let chaos = Fault::Trickle { after, every: ms(100) };
    let proxy = FaultyProxy::before(server.addr(), chaos, Fault::Pass);
    let mut attackers: Vec<_> = (0..20)
        .map(|_| {
            let mut peer = RawPeer::connect(proxy.addr());
            peer.write(upgrade_request(server.addr(), "/", &[]));
            peer.expect_101();
            peer
        })
        .collect();
    let start = Instant::now();
    let message = Frame::binary(vec![5; 1 << 20]).encode();
    for peer in &attackers {
        let (mut stream, message) = (peer.stream(), message.clone());
        // It blocks, because the proxy takes a byte at a time.
        std::thread::spawn(move || drop(stream.write_all(&message)));
    }
    for peer in &mut attackers {
        assert_eq!(peer.expect_close_at_last(&[1008]), 1008);
    }
    assert!(start.elapsed() >= SHORT * 2 - ms(100), "cut too early: {:?}", start.elapsed());
    bystander.expect_undisturbed();
    let count = attackers.len();
    drop((attackers, proxy));
    drop(turn);
    server.expect_settled(&before, SHORT + ms(2000) + PATIENCE, count + 2);
    server.expect_ends(count, "sent 1008 ");
    server.stop();
}

/// Some read nothing, the others a byte at a time.
#[test]
fn a_client_that_hardly_reads_ends_at_the_write_timeout() {
    const EACH_KIND: usize = 4;
    let (turn, _dog) = (take_turn(), watchdog(60));
    let server = impatient_server(SHORT * 2);
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let message = Frame::binary(vec![5; 64 << 10]).encode();
    let start = Instant::now();
    let floods: Vec<_> = (0..2 * EACH_KIND)
        .map(|number| {
            let (mut stream, message) = (RawPeer::open(server.addr()).stream(), message.clone());
            sockopt::set_socket_recv_buffer_size(&stream, 4096).expect("SO_RCVBUF");
            let mut reading = stream.try_clone().expect("a descriptor");
            std::thread::spawn(move || {
                while number % 2 == 0 && matches!(reading.read(&mut [0]), Ok(1)) {
                    std::thread::sleep(ms(50));
                }
            });
            std::thread::spawn(move || {
                loop {
                    if let Err(error) = stream.write_all(&message) {
                        return error.kind();
                    }
                }
            })
        })
        .collect();
    for flood in floods {
        let error = flood.join().expect("the flood");
        // It must not be the timeout of this test's own write.
        assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    }
    assert!(start.elapsed() >= SHORT - ms(100), "cut too early: {:?}", start.elapsed());
    bystander.expect_undisturbed();
    drop(turn);
    server.expect_settled(&before, SHORT * 2 + ms(2000) + PATIENCE, 2 * EACH_KIND + 2);
    server.expect_ends(2 * EACH_KIND, "write timed out");
    server.stop();
}

/// Opens clients with the smallest receive buffer, which never read.
fn deaf(addr: SocketAddr, count: usize) -> Vec<RawPeer> {
    let open = |_| {
        let peer = RawPeer::open(addr);
        sockopt::set_socket_recv_buffer_size(peer.stream(), 2048).expect("SO_RCVBUF");
        peer
    };
    (0..count).map(open).collect()
}

/// Clients whose backlog is full are closed. After that the kernel must not keep for minutes what they will never read.
fn evict(count: usize) {
    let (_turn, _dog) = (take_turn(), watchdog(60 + count as u64 / 5));
    if !can_open_sockets(count) {
        return;
    }
    let server = Process::threadws(&["--broadcast", "--every", "0", "--log", QUIET]);
    let deaf = deaf(server.addr(), count);
    let mut talker = RawPeer::open(server.addr());
    let before = server.usage();
    let message = Frame::binary(vec![5; 1 << 20]);
    let mut most = 0;
    eventually_within(ms(1000) * 60, "all that never read are closed", || {
        talker.send(&message);
        talker.message();
        most = most.max(unsent_bytes_of(server.addr()));
        server.usage().descriptors + count <= before.descriptors
    });
    assert!(most > count << 18, "the kernel took only {most} bytes for {count}");
    eventually_within(PATIENCE, "the kernel keeps nothing for them", || unsent_bytes_of(server.addr()) == 0);
    // They are still connected, and still do not read.
    drop(deaf);
    talker.close(1000);
    server.expect_ends(count, "its backlog was full");
    server.stop();
}

#[test]
fn a_closed_slow_peer_leaves_nothing_in_the_kernel() {
    evict(20);
}

#[test]
#[ignore = "takes 1 GB of the kernel's memory, of which it has 2: cargo test --release --test load -- --ignored"]
fn three_hundred_closed_slow_peers_leave_nothing_in_the_kernel() {
    evict(300);
}

#[test]
fn five_hundred_announced_messages_cost_no_memory() {
    const ANNOUNCERS: usize = 500;
    let (turn, _dog) = (take_turn(), watchdog(90));
    if !can_open_sockets(ANNOUNCERS) {
        return;
    }
    // Long enough for all to connect before the first is closed.
    let server = impatient_server(SHORT * 6);
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let header = header(0x80 | BINARY, Some([1, 2, 3, 4]), 1 << 20, 64);
    let mut most = before;
    let mut attackers = Vec::new();
    for _ in 0..ANNOUNCERS {
        let mut peer = RawPeer::open(server.addr());
        peer.write([&header[..], b"ten bytes"].concat());
        attackers.push(peer);
        let now = server.usage();
        if now.memory > most.memory {
            most = now;
        }
    }
    let all = server.usage();
    // The first client may have been there before.
    assert!(
        all.descriptors >= before.descriptors - 1 + ANNOUNCERS,
        "not all at once: {all:?} after {before:?}"
    );
    assert!(most.growth_since(&before) <= ANNOUNCERS * EACH + SLACK, "{most:?} after {before:?}");
    for peer in &mut attackers {
        peer.expect_close(1008);
    }
    bystander.expect_undisturbed();
    drop(attackers);
    drop(turn);
    server.expect_settled(&before, ms(2000) + PATIENCE, ANNOUNCERS);
    server.expect_ends(ANNOUNCERS, "sent 1008 ");
    server.stop();
}
