//! Thousands of clients of the binary that connect, stay and leave: their costs, and that nothing is left behind.

#![cfg(feature = "cli")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;
use support::{
    Bystander, Process, RawPeer, can_open_sockets, eventually_within, ms, take_turn, upgrade_request,
    watchdog,
};

/// Connects clients that leave in every way.
fn churn(addr: SocketAddr, times: usize) {
    for number in 0..times {
        // From many addresses, because one address has too few ports.
        let [.., high, low] = (number / 1000).to_be_bytes();
        let from = IpAddr::V4(Ipv4Addr::new(127, 1, high, low));
        let mut peer = RawPeer::connect_from(from, addr);
        if number % 7 == 0 {
            continue; // without sending anything
        }
        peer.upgrade("/", &[]);
        peer.send_text("and again");
        peer.expect_text("and again");
        match number % 4 {
            0 => peer.reset(),
            1 => peer.fin(),
            2 => peer.close(1000),
            _ => drop(peer),
        }
    }
}

fn leaves_nothing_behind(times: usize) {
    // A few at a time: the client that leaves and the next one.
    const AT_ONCE: usize = 8;
    let (turn, _dog) = (take_turn(), watchdog(30 + times as u64 / 50));
    let server = Process::threadws(&["--echo", "--every", "0", "--log", "warn"]);
    let start = server.usage();
    churn(server.addr(), times / 2);
    server.expect_settled(&start, ms(2000), AT_ONCE);
    let before = server.usage();
    churn(server.addr(), times / 2);
    drop(turn);
    server.expect_settled(&before, ms(2000), AT_ONCE);
    let now = server.usage();
    // The memory that the first half left is used again. A leak of 700 bytes for each client would show.
    assert!(now.growth_since(&before) < 1 << 20, "{now:?} after {before:?}");
    server.stop();
}

#[test]
fn three_thousand_clients_leave_nothing_behind() {
    leaves_nothing_behind(3000);
}

#[test]
#[ignore = "takes a minute: cargo test --release --test load -- --ignored"]
fn a_hundred_thousand_clients_leave_nothing_behind() {
    leaves_nothing_behind(100_000);
}

#[test]
fn five_thousand_clients_connect_within_ten_seconds() {
    const STORM: usize = 5000;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    if !can_open_sockets(STORM) {
        return;
    }
    let server = Process::threadws(&["--echo", "--every", "0", "--log", "warn"]);
    let bystander = Bystander::beside(server.addr());
    let start = Instant::now();
    let mut peers: Vec<_> = (0..STORM).map(|_| RawPeer::connect(server.addr())).collect();
    let request = upgrade_request(server.addr(), "/", &[]);
    for peer in &mut peers {
        peer.write(&request);
    }
    for peer in &mut peers {
        peer.expect_101();
    }
    assert!(start.elapsed() < ms(10_000), "all were in after {:?}", start.elapsed());
    bystander.expect_undisturbed();
    for peer in peers {
        peer.reset();
    }
    eventually_within(ms(60_000), "all have left", || server.usage().threads < 50);
    server.stop();
}

/// The burst is accepted at once when the server goes on.
#[test]
fn a_burst_at_a_stopped_server_waits_in_its_queue() {
    // More than the 128 of std's queue, and fewer than the 4096 of this server's queue.
    const BURST: usize = 2000;
    let (_turn, _dog) = (take_turn(), watchdog(60));
    if !can_open_sockets(BURST) {
        return;
    }
    let server = Process::threadws(&["--echo", "--every", "0", "--log", "warn"]);
    server.signal(Signal::STOP);
    let start = Instant::now();
    let sockets: Vec<_> = (0..BURST).map(|_| connecting(server.addr())).collect();
    for socket in &sockets {
        // A SYN that finds no room is sent again after 1 s.
        let left = ms(900).saturating_sub(start.elapsed());
        let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut connected = [PollFd::new(socket, PollFlags::OUT)];
        assert_eq!(poll(&mut connected, Some(&left)), Ok(1), "it found no room");
    }
    let request = upgrade_request(server.addr(), "/", &[]);
    let mut peers: Vec<_> = sockets.into_iter().map(|it| RawPeer::from_stream(it, server.addr())).collect();
    for peer in &mut peers {
        peer.write(&request);
    }
    server.signal(Signal::CONT);
    let start = Instant::now();
    for peer in &mut peers {
        peer.expect_101();
    }
    assert!(start.elapsed() < ms(5000), "all were in after {:?}", start.elapsed());
    for peer in peers {
        peer.reset();
    }
    server.stop();
}

/// Returns a socket that has begun to connect. Its later calls block.
fn connecting(addr: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
    let begun = connect(&socket, &addr);
    assert!(matches!(begun, Ok(()) | Err(Errno::INPROGRESS)), "{begun:?}");
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false).expect("a mode");
    stream
}

/// `per_client` is the memory that an idle client may take, in bytes.
fn idle(clients: usize, per_client: usize) {
    let (turn, _dog) = (take_turn(), watchdog(60 + clients as u64 / 50));
    if !can_open_sockets(clients) {
        return;
    }
    let server = Process::threadws(&["--echo", "--every", "0", "--log", "warn", "--ping", "0"]);
    RawPeer::open(server.addr()).close(1000);
    let before = server.usage();
    let peers: Vec<_> = (0..clients).map(|_| RawPeer::open(server.addr())).collect();
    let all = server.usage();
    assert!(all.threads <= before.threads + clients, "a thread each and no more: {all:?}");
    assert!(all.growth_since(&before) <= clients * per_client, "{all:?} after {before:?}");
    let idle = server.thread_times();
    std::thread::sleep(ms(1000));
    let load = server.thread_times().load_since(&idle);
    assert!(load < 0.03, "{clients} idle clients take {load:.2} of a processor");
    for peer in peers {
        peer.reset();
    }
    drop(turn);
    server.expect_settled(&before, ms(20_000), clients);
    server.stop();
}

/// Each client has one thread.
#[test]
fn a_thousand_idle_clients_take_little_memory_and_no_time() {
    idle(1000, 60 << 10);
}

#[test]
#[ignore = "takes 10000 threads: cargo test --release --test load -- --ignored"]
fn ten_thousand_idle_clients_take_little_memory_and_no_time() {
    idle(10_000, 60 << 10);
}
