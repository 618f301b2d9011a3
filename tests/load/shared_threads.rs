//! Far more clients than threads: `threadws --events` in a control group of 200 threads. 18 000 clients are what fits into
//! 20 000 descriptors of the server, and into as many of the test.

#![cfg(feature = "cli")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::{
    Bystander, Cgroup, Frame, PATIENCE, Process, RawPeer, can_open_sockets, eventually_within, ms,
    reset_when_dropped, take_turn, upgrade_request, watchdog,
};

const CLIENTS: usize = 18_000;
/// The default of the binary.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// With the two connections of a `Bystander`, and that of `metric`.
const SOCKETS: usize = CLIENTS + 10;

/// Returns a server in its group, or `None` if the test is to be skipped. The server has to end before the group is
/// removed.
#[track_caller]
fn server(options: &[&str]) -> Option<(Cgroup, Process)> {
    if !can_open_sockets(SOCKETS) {
        return None;
    }
    let setting = [("pids.max", "200")];
    let group = Cgroup::new("pids", &setting, &setting)?;
    let options = [&["--events", "--echo", "--every", "0", "--log", "warn"], options].concat();
    // With one arena the memory of clients that have left is used again. With several, it depends on the threads that happen
    // to serve the next clients.
    let in_group = group.wrapper();
    let wrapper = [&in_group.each_ref().map(String::as_str)[..], &["env", "MALLOC_ARENA_MAX=1"]].concat();
    let server = Process::threadws_under(&wrapper, &options);
    // The first client triggers the allocations that happen once.
    RawPeer::open(server.addr()).close(1000);
    Some((group, server))
}

/// Connects a crowd, whose clients send this. Each test has a network of its own, because an address has some 28,000 ports, and
/// each rests for a minute.
#[track_caller]
fn crowd(network: u8, addr: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    let client = |number: usize| {
        let host = if number % 2 == 0 { 1 } else { 2 };
        let mut stream = RawPeer::connect_from([127, 0, network, host].into(), addr).stream();
        // Silent clients wait for the handshake timeout.
        stream.set_read_timeout(Some(PATIENCE + HANDSHAKE_TIMEOUT)).expect("a read timeout");
        stream.write_all(bytes).expect("it reads");
        stream
    };
    (0..CLIENTS).map(client).collect()
}

/// The same with WebSockets.
#[track_caller]
fn open_crowd(network: u8, addr: SocketAddr) -> Vec<TcpStream> {
    let mut clients = crowd(network, addr, upgrade_request(addr, "/", &[]).as_bytes());
    for client in &mut clients {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut bytes = [0; 1024];
            let count = client.read(&mut bytes).expect("an answer");
            assert!(count > 0, "no 101");
            head.extend_from_slice(&bytes[..count]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    }
    clients
}

/// Expects these bytes next.
#[track_caller]
fn expect(client: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    client.read_exact(&mut bytes).expect("an answer");
    assert_eq!(bytes, expected);
}

/// Expects the end of the stream, or a reset.
#[track_caller]
fn expect_gone(client: &mut TcpStream) {
    match client.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
#[ignore = "takes 15 s and all descriptors"]
fn eighteen_thousand_silent_connections_take_no_threads() {
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let Some((_group, server)) = server(&[]) else { return };
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let start = Instant::now();
    let silent = crowd(2, server.addr(), b"");
    // On a busy machine the first ones are refused before the last ones are accepted.
    let accepted = || server.metric("threadws_connections_accepted_total");
    eventually_within(HANDSHAKE_TIMEOUT * 2, "all are accepted", || accepted() >= CLIENTS as u64);
    let all = server.usage();
    println!("all are accepted after {:?}: {all:?}", start.elapsed());
    assert!(all.threads <= before.threads + 50, "{all:?} after {before:?}");
    assert!(all.growth_since(&before) <= CLIENTS * (4 << 10), "{all:?} after {before:?}");
    for mut client in silent {
        expect(&mut client, b"HTTP/1.1 408 ");
        expect_gone(&mut client);
    }
    println!("all are refused after {:?}: {:?}", start.elapsed(), server.usage());
    assert!(start.elapsed() >= HANDSHAKE_TIMEOUT, "refused too early: {:?}", start.elapsed());
    bystander.expect_undisturbed();
    server.expect_settled(&before, ms(5000), CLIENTS);
    server.stop();
}

#[test]
#[ignore = "takes 10 s and all descriptors"]
fn eighteen_thousand_clients_may_leave_at_once() {
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let Some((_group, server)) = server(&["--ping", "0"]) else { return };
    let before = server.usage();
    let mut crowds = Vec::new();
    for network in 3..5 {
        let clients = open_crowd(network, server.addr());
        crowds.push(server.usage());
        let bystander = Bystander::beside(server.addr());
        let start = Instant::now();
        let leaving: Vec<_> = clients.into_iter().enumerate().filter_map(leave).collect();
        for mut client in leaving {
            expect_gone(&mut client);
        }
        println!("all have seen their end after {:?}", start.elapsed());
        // The bystander may have two clients.
        eventually_within(ms(5000), "all have left", || server.metric("threadws_connections_open") <= 2);
        println!("all have left after {:?}: {:?}", start.elapsed(), server.usage());
        bystander.expect_served();
    }
    eventually_within(ms(10_000), "threads and descriptors are back where they were", || {
        let now = server.usage();
        now.threads <= before.threads && now.descriptors <= before.descriptors
    });
    println!("the first crowd: {:?}, the second: {:?}", crowds[0], crowds[1]);
    assert!(crowds[1].growth_since(&crowds[0]) <= CLIENTS * 300, "{crowds:?}");
    server.stop();
}

/// Ends a connection with a Close, a FIN or an RST. With an RST it is over at once.
fn leave((number, mut client): (usize, TcpStream)) -> Option<TcpStream> {
    match number % 3 {
        0 => client.write_all(&Frame::close(1000, "").encode()).expect("it reads"),
        1 => client.shutdown(Shutdown::Write).expect("it is open"),
        _ => {
            reset_when_dropped(&client);
            return None;
        }
    }
    Some(client)
}

/// A third of them does not answer the server's Close.
#[test]
#[ignore = "takes 10 s and all descriptors"]
fn a_shutdown_reaches_eighteen_thousand_clients() {
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let Some((_group, mut server)) = server(&["--ping", "0"]) else { return };
    let mut clients = open_crowd(5, server.addr());
    let start = Instant::now();
    server.signal(rustix::process::Signal::TERM);
    for (number, client) in clients.iter_mut().enumerate() {
        expect(client, &[0x88, 2, 0x03, 0xe9]);
        if number % 3 > 0 {
            client.write_all(&Frame::close(1001, "").encode()).expect("it reads");
        }
    }
    println!("all have a Close after {:?}", start.elapsed());
    for (_, client) in clients.iter_mut().enumerate().filter(|(number, _)| number % 3 > 0) {
        expect_gone(client);
    }
    println!("two thirds have ended after {:?}", start.elapsed());
    // The binary waits for 5 s.
    server.wait_for_success(ms(10_000));
    println!("the server has ended after {:?}", start.elapsed());
    server.expect_no_panic();
}
