//! Clients that rest take no thread: before their request, while they are idle, and while the server waits for their Close.

use std::time::Instant;
use support::{Frame, RawPeer, TestServer, eventually, ms, watchdog};
use threadws::{Config, Connection, Message, Server};

/// The threads of the pool that may be there: a leader, and threads that have just been used.
const FEW: usize = 34;
const CLIENTS: usize = 100;

fn server(settings: impl FnOnce(Server) -> Server) -> TestServer {
    TestServer::with_events(
        |server| settings(server.workers(1)),
        |_| Ok(|client: &mut Connection, message: Message| Ok(client.write(message)?)),
    )
}

#[test]
fn silent_and_idle_clients_have_no_thread() {
    let _dog = watchdog(60);
    let server = server(|server| server);
    let silent: Vec<_> = (0..CLIENTS).map(|_| RawPeer::connect(server.addr())).collect();
    let mut idle: Vec<_> = (0..CLIENTS).map(|_| RawPeer::open(server.addr())).collect();
    eventually("the threads end", || server.stats().threads <= 2);
    for peer in &mut idle {
        peer.send_text("hello");
        peer.expect_text("hello");
    }
    assert!(server.stats().threads <= FEW, "{}", server.stats().threads);
    drop(silent);
    for peer in idle {
        peer.close(1000);
    }
    eventually("no client", || server.stats().open == 0);
}

#[test]
fn a_silent_client_is_answered_at_the_deadline() {
    let _dog = watchdog(60);
    let server = server(|server| server.config(Config::new().with_handshake_timeout(ms(150))));
    let start = Instant::now();
    let mut peer = RawPeer::connect(server.addr());
    peer.expect_refusal(408);
    assert!(start.elapsed() >= ms(140), "{:?}", start.elapsed());
    // A request that began in time, and does not end.
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET / HTTP/1.1\r\n");
    peer.expect_refusal(408);
}

#[test]
fn clients_that_do_not_answer_a_close_take_no_thread() {
    let _dog = watchdog(60);
    let server = server(|server| server);
    let mut peers: Vec<_> = (0..CLIENTS).map(|_| RawPeer::open(server.addr())).collect();
    eventually("the threads end", || server.stats().threads <= 2);
    for client in server.hub().clients() {
        client.sender().close(1001, "").expect("valid");
    }
    for peer in &mut peers {
        peer.expect_close(1001);
    }
    assert!(server.stats().threads <= 2, "{}", server.stats().threads);
    // Half of them leave a message on the way.
    for peer in peers.iter_mut().step_by(2) {
        peer.send_text("on the way");
    }
    for peer in &mut peers {
        peer.send(&Frame::close(1001, ""));
        peer.expect_eof();
    }
    assert!(server.stats().threads <= FEW, "{}", server.stats().threads);
    drop(peers);
    eventually("no client", || server.stats().open == 0);
}

#[test]
fn a_shutdown_reaches_clients_in_every_phase() {
    let _dog = watchdog(60);
    let server = server(|server| server);
    let silent: Vec<_> = (0..CLIENTS).map(|_| RawPeer::connect(server.addr())).collect();
    let open: Vec<_> = (0..CLIENTS).map(|_| RawPeer::open(server.addr())).collect();
    let mut draining: Vec<_> = (0..CLIENTS).map(|_| RawPeer::open(server.addr())).collect();
    for peer in &mut draining {
        peer.send(&Frame::close(1000, ""));
        peer.expect_close(1000);
    }
    eventually("all are accepted", || server.stats().accepted == 3 * CLIENTS as u64);
    let peers = std::thread::spawn(move || {
        for mut peer in open {
            peer.expect_close(1001);
            peer.send(&Frame::close(1001, ""));
            peer.expect_eof();
        }
        drop((silent, draining));
    });
    let report = server.shutdown(ms(20_000));
    assert!(report.is_complete(), "{report}");
    peers.join().expect("no panic");
}

#[test]
fn silence_is_pinged_and_a_pong_keeps_a_client() {
    let _dog = watchdog(60);
    let config = Config::new().with_ping_interval(ms(100)).with_ping_timeout(ms(200));
    let server = server(|server| server.config(config));
    let (mut alive, mut dead) = (RawPeer::open(server.addr()), RawPeer::open(server.addr()));
    for _ in 0..5 {
        let ping = alive.frame();
        assert_eq!(ping.opcode, support::frame::PING);
        alive.send(&Frame::pong(ping.payload));
    }
    assert_eq!(dead.frame().opcode, support::frame::PING);
    dead.expect_gone();
    alive.send_text("still there?");
    loop {
        let frame = alive.frame();
        if frame.opcode != support::frame::PING {
            assert_eq!(frame.as_text(), "still there?");
            break;
        }
    }
    eventually("one is left", || server.hub().count() == 1);
}

#[test]
fn a_message_that_does_not_end_is_late() {
    let _dog = watchdog(60);
    let server = server(|server| server.config(Config::new().with_message_timeout(ms(200))));
    let mut peer = RawPeer::open(server.addr());
    let start = Instant::now();
    peer.write(&Frame::text("hello").encode()[..4]);
    peer.expect_close(1008);
    assert!(start.elapsed() >= ms(190), "{:?}", start.elapsed());
}

#[test]
fn an_idle_client_that_ignores_the_close_is_disconnected() {
    let _dog = watchdog(60);
    let config = Config::new().with_idle_timeout(ms(150)).with_close_timeout(ms(150));
    let server = server(|server| server.config(config));
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    assert_eq!(peer.expect_close(1001), "idle timeout");
    peer.expect_eof_alone();
    assert!(start.elapsed() >= ms(290) && start.elapsed() < ms(10_000), "{:?}", start.elapsed());
    eventually("it has left", || server.hub().count() == 0);
}
