//! Clients that a full server turns away get the reason, and are dropped in time whatever they do.

use std::time::{Duration, Instant};
use support::{PATIENCE, RawPeer, TestServer, echo, eventually, expect_echo, is_behind_relay, ms, watchdog};
use threadws::{Config, Server};

/// How long input is read after an answer, so that no RST destroys the answer. It is a constant of the library, so it
/// is not scaled.
const LINGER: Duration = Duration::from_secs(1);
/// How many clients a full server answers at a time.
const TOLD: usize = 16;

/// Starts a server with one place, and returns it with the client that takes the place.
fn full() -> (TestServer, RawPeer) {
    let server = TestServer::with(|server| server.config(patient()).max_clients(1), echo);
    let inside = RawPeer::open(server.addr());
    (server, inside)
}

/// A close timeout that a test does not reach.
fn patient() -> Config {
    Config::new().with_close_timeout(PATIENCE)
}

/// Returns the answer to a client that sends nothing: a status, or `None` for an end without an answer. The client does
/// not end its side.
#[track_caller]
fn answer_to(peer: &mut RawPeer) -> Option<u16> {
    let answer = peer.try_answer().expect("an answer or an end");
    peer.expect_eof_alone();
    answer.map(|answer| answer.status)
}

/// Further clients get the end of the stream without an answer.
#[test]
fn a_full_server_answers_sixteen_at_a_time() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let (server, mut inside) = full();
    let threads = server.stats().threads;
    loop {
        let start = Instant::now();
        let mut peers: Vec<_> = (0..TOLD + 24).map(|_| RawPeer::connect(server.addr())).collect();
        let statuses: Vec<_> = peers.iter_mut().map(answer_to).collect();
        // On a slow machine the first were dropped before the last came.
        if start.elapsed() < LINGER {
            let expected: Vec<_> = (0..TOLD).map(|_| Some(503)).chain((0..24).map(|_| None)).collect();
            assert_eq!(statuses, expected);
            break;
        }
        drop(peers);
    }
    assert!(server.stats().threads <= threads, "it costs no thread");
    inside.send_text("hello");
    inside.expect_text("hello");
    inside.close(1000);
    eventually("the place is free again", || {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.try_answer().is_ok_and(|answer| answer.is_some_and(|answer| answer.status == 101))
    });
}

#[test]
fn a_full_server_waits_a_second_before_it_answers_others() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let (server, _inside) = full();
    let start = Instant::now();
    let mut peers: Vec<_> = (0..TOLD).map(|_| RawPeer::connect(server.addr())).collect();
    for peer in &mut peers {
        assert_eq!(answer_to(peer), Some(503));
    }
    // They stay. The next client gets an answer as soon as one of them is dropped.
    eventually("another one gets an answer", || answer_to(&mut RawPeer::connect(server.addr())).is_some());
    let took = start.elapsed();
    assert!(took >= LINGER && took < LINGER + PATIENCE / 2, "after {took:?}");
}

#[test]
fn a_full_server_drops_a_writing_client_after_a_second() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let (server, _inside) = full();
    let start = Instant::now();
    let mut peer = RawPeer::connect(server.addr());
    assert_eq!(answer_to(&mut peer), Some(503));
    writes_on(&mut peer, start);
}

/// Writes a byte now and then until the server reads no more, which must be after the linger time.
#[track_caller]
fn writes_on(peer: &mut RawPeer, start: Instant) {
    // The slow pace is the attack.
    while peer.try_write(b"x").is_ok() {
        assert!(start.elapsed() < LINGER + PATIENCE / 2, "still read after {:?}", start.elapsed());
        std::thread::sleep(ms(20));
    }
    assert!(start.elapsed() >= LINGER, "dropped after {:?}", start.elapsed());
}

/// A client that writes without a pause is read from for longer than a second, but not if others wait.
#[test]
fn a_full_server_drops_flooding_clients_for_others() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let (server, _inside) = full();
    let start = Instant::now();
    let mut flooding: Vec<_> = (0..TOLD).map(|_| RawPeer::connect(server.addr())).collect();
    for peer in &mut flooding {
        assert_eq!(answer_to(peer), Some(503));
    }
    eventually("another one gets an answer", || {
        for peer in &mut flooding {
            drop(peer.try_write(&[b'x'; ENDLESS]));
        }
        answer_to(&mut RawPeer::connect(server.addr())).is_some()
    });
    let took = start.elapsed();
    assert!(took >= LINGER && took < LINGER + PATIENCE / 4, "after {took:?}");
}

/// A target that is too long, without an end.
const ENDLESS: usize = 64 << 10;

/// A close timeout that differs from the linger time.
fn close_timeout() -> Duration {
    LINGER + ms(500)
}

fn impatient() -> Config {
    Config::new().with_close_timeout(close_timeout())
}

/// Writes without a pause, and without waiting for an answer, until the server reads no more, which must be at the close
/// timeout.
#[track_caller]
fn floods(server: &TestServer, head: &str) {
    let mut peer = RawPeer::connect(server.addr());
    let start = Instant::now();
    peer.write(head);
    while peer.try_write(&[b'a'; ENDLESS]).is_ok() {
        assert!(start.elapsed() < close_timeout() + PATIENCE / 2, "still read after {:?}", start.elapsed());
    }
    assert!(start.elapsed() >= close_timeout(), "dropped after {:?}", start.elapsed());
}

/// The client is refused because its head is too long, and writes without a pause.
#[test]
fn a_flood_after_a_refusal_ends_at_the_close_timeout() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.config(impatient()), echo);
    for head in ["GET /", "GET / HTTP/1.1\r\nHost: x\r\nX: "] {
        floods(&server, head);
    }
    expect_echo(&server);
}

/// The client was refused because the server is full, and writes without a pause.
#[test]
fn a_full_server_reads_a_flood_until_the_close_timeout() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let server = TestServer::with(|server| server.config(impatient()).max_clients(1), echo);
    let mut inside = RawPeer::open(server.addr());
    floods(&server, "GET /");
    inside.send_text("still there?");
    inside.expect_text("still there?");
}

#[test]
fn a_refused_client_that_writes_is_read_for_a_second() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::connect(server.addr());
    let start = Instant::now();
    peer.write(format!("GET /{}", "a".repeat(ENDLESS)));
    assert!(matches!(answer_to(&mut peer), Some(414 | 431)));
    writes_on(&mut peer, start);
    expect_echo(&server);
}

/// More than the buffers of both kernels take.
const UPLOAD: usize = 64 << 20;

/// Writes all of an upload before it reads, as many HTTP clients do, and expects the answer, which no reset may destroy.
#[track_caller]
fn uploads(server: &TestServer, headers: &str, status: u16) {
    let mut peer = RawPeer::connect(server.addr());
    peer.write(format!("GET / HTTP/1.1\r\nContent-Length: {UPLOAD}\r\n{headers}\r\n"));
    peer.write(vec![0; UPLOAD]);
    peer.expect_refusal(status);
}

#[test]
fn a_refused_upload_of_64_mib_gets_its_answer() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.config(patient()), echo);
    uploads(&server, "Host: x\r\n", 413);
    uploads(&server, "", 400);
    let server = TestServer::with(|server| server.config(patient()).max_clients_per_address(1), echo);
    // Behind a proxy its address is known only after the head.
    let _inside = RawPeer::open_at(server.addr(), "/", &[("X-Forwarded-For", "192.0.2.1")]);
    uploads(&server, "Host: x\r\nX-Forwarded-For: 192.0.2.1\r\n", 429);
}

/// It was turned away before its head was read.
#[test]
fn an_upload_to_a_full_server_gets_its_answer() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let (server, _inside) = full();
    uploads(&server, "Host: x\r\n", 503);
    let settings = |server: Server| server.config(patient()).trust_proxy("none").max_clients_per_address(1);
    let server = TestServer::with(settings, echo);
    let _inside = RawPeer::open(server.addr());
    uploads(&server, "Host: x\r\n", 429);
}

#[test]
fn a_refused_client_that_stays_is_dropped_after_a_second() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let server = TestServer::with(|server| server.max_clients(1), echo);
    let start = Instant::now();
    let mut stays = RawPeer::connect(server.addr());
    stays.ask("/", &[("Sec-WebSocket-Version", "8")]);
    assert_eq!(answer_to(&mut stays), Some(426));
    eventually("the place is free", || {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        let answer = peer.try_answer();
        answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.status == 101))
    });
    let took = start.elapsed();
    assert!(took >= LINGER && took < LINGER + PATIENCE / 2, "after {took:?}");
}
