//! A peer that is in the middle of a large message, and reads nothing before it has written all of it, still gets the close
//! code of its error.

use std::sync::mpsc;
use std::time::Duration;
use support::frame::header;
use support::{
    Fault, FaultyProxy, Frame, PATIENCE, RawPeer, RawServer, TestServer, echo, ms, next, watchdog,
};
use threadws::{Config, Connection, Error, Message, Server, connect};

/// More than the buffers of both kernels take.
const LARGE: usize = 16 << 20;
/// A message that takes a moment even over loopback.
const HUGE: usize = 64 << 20;
const KEY: Option<[u8; 4]> = Some([0; 4]);

/// Limits that a slow machine does not reach, except the one that is tested.
fn patient() -> Config {
    Config::new().with_close_timeout(PATIENCE).with_write_timeout(PATIENCE)
}

/// Writes everything, and then expects a Close with this code, and the end of the stream without a reset.
#[track_caller]
fn writes_all(server: &TestServer, first: &[u8], rest: usize, code: u16) {
    let mut peer = RawPeer::open(server.addr());
    peer.write(first);
    peer.write(vec![0; rest]);
    peer.expect_close_at_last(&[code]);
    peer.expect_eof();
}

#[test]
fn every_violation_is_reported_to_a_peer_in_full_flow() {
    let _dog = watchdog(120);
    let server = TestServer::with(|server| server.config(patient().with_max_message_size(LARGE)), echo);
    let fragments = [Frame::text("").more().encode(), Frame::continuation("").more().encode().repeat(9000)];
    writes_all(&server, &header(0x82, KEY, HUGE as u64, 64), HUGE, 1009);
    for (what, first, code) in [
        ("a reserved bit", header(0xc2, KEY, LARGE as u64, 64), 1002),
        ("not masked", header(0x82, None, LARGE as u64, 64), 1002),
        ("not UTF-8", [header(0x81, KEY, LARGE as u64, 64), vec![0xff]].concat(), 1007),
        ("too many fragments", fragments.concat(), 1008),
    ] {
        println!("{what}");
        writes_all(&server, &first, LARGE, code);
    }
}

#[test]
fn the_message_rate_ends_a_peer_in_full_flow() {
    let _dog = watchdog(60);
    let settings = |server: Server| server.config(patient()).message_rate(1, Duration::from_secs(3600));
    let server = TestServer::with(settings, echo);
    writes_all(&server, &Frame::text("x").encode().repeat(2), LARGE, 1008);
}

/// Neither end reads: the peer because it writes, and the server because its queue waits for the peer.
#[test]
fn a_close_behind_a_backlog_reaches_a_writing_peer() {
    let _dog = watchdog(60);
    const BACKLOG: usize = 16 << 20;
    let server = TestServer::with(
        |server| server.config(patient()),
        |client| {
            client.try_send(vec![7; BACKLOG])?;
            client.ignore()?;
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    peer.write(header(0x82, KEY, LARGE as u64, 64));
    peer.write(vec![0; LARGE]);
    assert_eq!(peer.message().payload.len(), BACKLOG);
    peer.expect_close(1009);
    peer.expect_eof();
}

#[test]
fn our_client_learns_that_its_message_is_too_big() {
    let _dog = watchdog(120);
    let server = TestServer::with(|server| server.config(patient()), echo);
    for size in [(1 << 20) + 1, 8 << 20, HUGE] {
        let mut connection = connect(format!("ws://{}/", server.addr())).expect("a connection");
        let sent = connection.send(vec![0; size]);
        let error = sent.and_then(|()| connection.recv()).expect_err("it is too big");
        assert_eq!(error.close_code(), 1009, "{size} bytes: {error}");
        assert_eq!(connection.closed().map(|closed| closed.code()), Some(1009.into()));
    }
}

/// The server reads only until its close timeout, and then resets the connection.
#[test]
fn a_slow_client_learns_that_its_message_is_too_big() {
    let _dog = watchdog(60);
    let config = Config::new().with_close_timeout(ms(300));
    let server = TestServer::with(|server| server.config(config), echo);
    // 6 MB a second at most, so the message takes longer.
    let proxy = FaultyProxy::before(server.addr(), Fault::Delay(ms(10)), Fault::Pass);
    let mut connection = connect(format!("ws://{}/", proxy.addr())).expect("a connection");
    let error = connection.send(vec![0; LARGE]).expect_err("it is reset");
    assert_eq!(error.close_code(), 1009, "{error}");
    let error = connection.recv().expect_err("it is over");
    assert_eq!(error.close_code(), 1009, "{error}");
}

/// Starts a server that sends a text and a Close, reads nothing, and resets the connection.
fn rude_server() -> RawServer {
    RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.expect_input();
        // In one segment, because Nagle's algorithm could hold the second one back, and the reset would discard it.
        let frames = [Frame::text("not that much"), Frame::close(1009, "too big")];
        peer.write(frames.map(|frame| frame.unmasked().encode()).concat());
        // The input is not read, so dropping the socket resets the connection.
    })
}

#[track_caller]
fn expect_the_reason(error: &Error) {
    let Error::Closed(closed) = error else { panic!("{error}") };
    assert_eq!((u16::from(closed.code()), closed.reason()), (1009, "too big"), "{closed}");
    assert!(!closed.is_clean(), "{closed}");
}

/// The messages before the Close are not lost.
#[track_caller]
fn expect_the_rest(connection: &mut Connection) {
    assert_eq!(connection.recv().expect("it has arrived"), Some(Message::from("not that much")));
    expect_the_reason(&connection.recv().expect_err("it is over"));
    expect_the_reason(&connection.send("late").expect_err("it is over"));
}

#[test]
fn a_failed_send_reports_the_close_that_has_arrived() {
    let _dog = watchdog(30);
    for _ in 0..3 {
        let host = rude_server();
        let mut connection = connect(host.url()).expect("a connection");
        expect_the_reason(&connection.send(vec![0; LARGE]).expect_err("it is reset"));
        expect_the_rest(&mut connection);
    }
}

#[test]
fn a_failed_send_of_another_thread_hides_no_close() {
    let _dog = watchdog(30);
    for _ in 0..3 {
        let host = rude_server();
        let mut connection = connect(host.url()).expect("a connection");
        let sender = connection.sender();
        let (tx, rx) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            sender.send(vec![0; LARGE]).expect_err("it is reset");
            tx.send(()).expect("the test waits");
        });
        next(&rx, "the failure");
        expect_the_rest(&mut connection);
        thread.join().expect("no panic");
    }
}

/// The other direction: our client refuses, and the server writes.
#[test]
fn a_server_in_full_flow_learns_of_our_limit() {
    let _dog = watchdog(60);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.write(header(0x82, None, LARGE as u64, 64));
        peer.write(vec![0; LARGE]);
        peer.expect_close(1009);
        peer.expect_eof();
    });
    let mut connection = connect(host.url()).expect("a connection");
    let error = connection.recv().expect_err("it is too big");
    assert!(matches!(error, Error::MessageTooBig { .. }), "{error}");
    host.join();
}
