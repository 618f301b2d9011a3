//! Compressed messages from a peer that keeps to the rules, and from one that does not. Sections are of RFC 7692.

use super::{connect, echo_server, json, noise, offering, takeover, with};
use std::sync::mpsc;
use support::frame::RSV1;
use support::{Frame, RawPeer, RawServer, TestServer, echo, next, reported_end, reporting_echo, watchdog};
use threadws::deflate::{Deflate, Uncompressed};
use threadws::{Connect, Error, Event, Message, connection::Received};

/// §7.2.3.1.
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
/// §7.2.3.2: the same, if it is the message before.
const AGAIN: [u8; 5] = [0xf2, 0x00, 0x11, 0x00, 0x00];

/// The first frame of a compressed message, or all of it.
fn compressed(bytes: &[u8]) -> Frame {
    Frame::new(1, bytes).rsv(RSV1)
}

#[test]
fn every_call_receives_compressed_messages() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            server.config(with(Deflate::new().threshold(100).peer_context_takeover(true).window_bits(15)))
        },
        move |client| {
            tx.send(client.recv()?)?;
            tx.send(client.recv_ref()?.map(|Received { message, .. }| message.into()))?;
            tx.send(client.recv_timeout(support::PATIENCE).map(Some)?.flatten())?;
            loop {
                match client.next_event()? {
                    Some(Event::Message(message)) => break tx.send(Some(message))?,
                    event => assert!(event.is_some()),
                }
            }
            loop {
                match client.try_recv() {
                    Err(Error::Empty) => std::thread::yield_now(),
                    message => break tx.send(message?)?,
                }
            }
            Ok(client.ignore()?)
        },
    );
    let mut peer = offering(&server, "permessage-deflate");
    peer.send(&compressed(&HELLO));
    for _ in 0..4 {
        // In five fragments, with a ping after each.
        for (at, byte) in AGAIN.iter().enumerate() {
            let frame = if at == 0 { compressed(&[*byte]) } else { Frame::continuation([*byte]) };
            peer.send(&if at < 4 { frame.more() } else { frame });
            peer.send(&Frame::ping([*byte]));
            peer.expect_pong(&[*byte]);
        }
    }
    for _ in 0..5 {
        assert_eq!(next(&rx, "a message"), Some(Message::from("Hello")));
    }
    let stats = server.hub().clients()[0].sender().stats();
    assert_eq!((stats.saved_received.messages, stats.saved_received.plain_bytes), (5, 25));
    assert_eq!(stats.saved_received.compressed_bytes, 27);
    peer.close(1000);
}

#[test]
fn single_bytes_become_a_message() {
    let _dog = watchdog(30);
    let server = echo_server(with(takeover().window_bits(15)));
    let mut peer = offering(&server, "permessage-deflate");
    let bytes = [compressed(&HELLO), compressed(&AGAIN), Frame::text("plain"), compressed(&AGAIN)];
    for byte in bytes.iter().flat_map(Frame::encode) {
        peer.write([byte]);
    }
    for expected in ["Hello", "Hello", "plain", "Hello"] {
        // A message of five bytes is not made smaller, so the echo is plain.
        peer.expect_text(expected);
    }
    peer.close(1000);
}

#[test]
fn frames_that_break_the_rules_are_answered_with_1002() {
    let _dog = watchdog(60);
    let (server, rx) = reporting_echo(with(takeover()));
    let start = compressed(&HELLO[..3]).more().encode();
    let cases: [(&str, Vec<u8>); 7] = [
        ("a compressed ping", Frame::ping("x").rsv(RSV1).encode()),
        ("a compressed pong", Frame::pong("x").rsv(RSV1).encode()),
        ("a compressed Close", Frame::close(1000, "").rsv(RSV1).encode()),
        (
            "a compressed fragment",
            [start.clone(), Frame::continuation(&HELLO[3..]).rsv(RSV1).encode()].concat(),
        ),
        ("a ping between the fragments", [start, Frame::ping("x").rsv(RSV1).encode()].concat()),
        ("RSV2", Frame::text("x").rsv(0x20).encode()),
        ("RSV1 and RSV3", Frame::text("x").rsv(RSV1 | 0x10).encode()),
    ];
    for (what, bytes) in cases {
        let mut peer = offering(&server, "permessage-deflate");
        peer.write(bytes);
        peer.expect_close(1002);
        peer.expect_eof();
        let (result, closed) = reported_end(&rx);
        assert!(result.is_err(), "{what}");
        assert_eq!(closed.traffic().messages_received, 0, "{what}");
    }
}

#[test]
fn data_that_is_not_deflate_is_answered_with_1007() {
    let _dog = watchdog(60);
    let (server, rx) = reporting_echo(with(takeover()));
    let cut = compressed(&HELLO[..4]);
    for frame in [compressed(&[0x07]), compressed(&[0xff; 20]), cut, compressed(&AGAIN)] {
        let mut peer = offering(&server, "permessage-deflate");
        peer.send(&frame);
        peer.expect_close(1007);
        peer.expect_eof();
        let (result, closed) = reported_end(&rx);
        let error = result.expect_err("a violation");
        assert!(error.contains("compressed message is not valid DEFLATE"), "{error}");
        assert_eq!(closed.traffic().messages_received, 0);
    }
}

/// Some peers compress each fragment by itself, and mark each. The error names that rule: the data would be valid.
#[test]
fn the_error_for_marks_on_all_fragments_names_the_rule() {
    let _dog = watchdog(20);
    let (server, rx) = reporting_echo(with(takeover()));
    let mut peer = offering(&server, "permessage-deflate");
    peer.send(&compressed(&HELLO).more());
    peer.send(&Frame::continuation(HELLO).rsv(RSV1));
    peer.expect_close(1002);
    peer.expect_eof();
    let error = reported_end(&rx).0.expect_err("a violation");
    assert!(error.contains("reserved bit set"), "{error}");
}

/// Undici, websockets, tornado and NATS had no limit behind the decompressor.
#[test]
fn bombs_are_answered_with_1009() {
    let _dog = watchdog(60);
    let (server, rx) = reporting_echo(with(takeover()).with_max_message_size(100_000));
    let mut bomb = Vec::new();
    // 0x63 0x00…: a block of zeros, made by a client of ours that has no limit.
    let (tx, sink) = mpsc::channel();
    let source = TestServer::with(
        |server| server.config(with(Deflate::new())),
        move |client| {
            client.send(vec![0; 5_000_000])?;
            tx.send(()).ok();
            Ok(client.ignore()?)
        },
    );
    let mut taker = offering(&source, "permessage-deflate");
    bomb.extend(taker.message().payload);
    next(&sink, "the bomb was sent");
    assert!(bomb.len() < 6000, "{}", bomb.len());
    for _ in 0..50 {
        let mut peer = offering(&server, "permessage-deflate");
        drop(peer.try_write(&Frame::new(2, bomb.clone()).rsv(RSV1).encode()));
        peer.expect_close(1009);
        peer.expect_eof();
        let (result, closed) = reported_end(&rx);
        assert!(result.expect_err("too big").contains("larger than 100000 bytes"));
        assert_eq!(closed.traffic().messages_received, 0);
    }
}

#[test]
fn messages_of_the_limit_pass_when_compressed() {
    let _dog = watchdog(60);
    let limit = 70_000;
    let server =
        TestServer::with(|server| server.config(with(takeover()).with_max_message_size(limit)), echo);
    for message in [Message::from(json(1, limit)), Message::Binary(noise(limit))] {
        let mut connection = connect(&server, with(takeover()));
        connection.send(&message).expect("it is taken");
        assert_eq!(connection.recv().expect("an echo"), Some(message));
        let error =
            connection.send(json(2, limit + 1)).and_then(|()| connection.recv()).expect_err("too big");
        assert_eq!(u16::from(error.close_code()), 1009);
    }
}

#[test]
fn compressed_text_has_to_be_utf_8() {
    let _dog = watchdog(20);
    let server = echo_server(with(takeover()));
    let mut peer = offering(&server, "permessage-deflate");
    // A block without compression: five bytes, of which one is invalid.
    peer.send(&compressed(&[0x00, 0x05, 0x00, 0xfa, 0xff, b'H', b'e', 0xff, b'l', b'o', 0x00]));
    peer.expect_close(1007);
    peer.expect_eof();
}

#[test]
fn compressed_messages_behind_the_handshake_are_not_lost() {
    let _dog = watchdog(20);
    let server = echo_server(with(takeover().window_bits(15)));
    let mut peer = RawPeer::connect(server.addr());
    let request =
        support::upgrade_request(server.addr(), "/", &[("Sec-WebSocket-Extensions", "permessage-deflate")]);
    peer.write([request.into_bytes(), compressed(&HELLO).encode(), compressed(&AGAIN).encode()].concat());
    peer.expect_101();
    peer.expect_text("Hello");
    peer.expect_text("Hello");
    peer.close(1000);
}

#[test]
fn a_client_finds_compressed_messages_behind_the_101() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        let frames = [compressed(&HELLO), compressed(&AGAIN)].map(|frame| frame.unmasked().encode()).concat();
        let answer = peer.handshake_answer("Sec-WebSocket-Extensions: permessage-deflate\r\n");
        // In one segment.
        peer.write([answer.into_bytes(), frames].concat());
        assert_eq!(peer.frame().close_content(), Some((1000, String::new())));
        peer.send(Frame::close(1000, ""));
    });
    let mut connection = Connect::new(host.url()).config(with(Deflate::new())).connect().expect("it opens");
    for _ in 0..2 {
        assert_eq!(connection.recv().expect("valid"), Some(Message::from("Hello")));
    }
    connection.close(1000, "").expect("clean");
}

/// While a message arrives, `message_timeout` applies instead.
#[test]
fn the_idle_timeout_waits_for_a_compressed_message() {
    let _dog = watchdog(30);
    let idle = support::ms(300);
    let server = echo_server(with(takeover()).with_idle_timeout(idle));
    let mut peer = offering(&server, "permessage-deflate");
    peer.send(&compressed(&HELLO[..4]).more());
    std::thread::sleep(idle * 2);
    peer.send(&Frame::continuation(&HELLO[4..]));
    peer.expect_text("Hello");
    let sent = std::time::Instant::now();
    assert_eq!(peer.expect_close(1001), "idle timeout");
    assert!(sent.elapsed() >= idle - support::ms(50), "{:?}", sent.elapsed());
}

#[test]
fn timeouts_hold_in_the_middle_of_a_compressed_message() {
    let _dog = watchdog(30);
    let config = with(takeover()).with_message_timeout(support::ms(200));
    let server = TestServer::with(|server| server.config(config), echo);
    let mut peer = offering(&server, "permessage-deflate");
    peer.send(&compressed(&HELLO[..4]).more());
    peer.expect_close(1008);
    let server = echo_server(with(takeover()));
    let mut peer = offering(&server, "permessage-deflate");
    peer.send(&compressed(&HELLO[..4]).more());
    peer.send(&Frame::ping("?"));
    peer.expect_pong(b"?");
    let closing = std::thread::spawn(move || server.into_handle().shutdown(support::PATIENCE));
    peer.expect_close(1001);
    peer.send(&Frame::continuation(&HELLO[4..]));
    peer.send(&Frame::close(1001, ""));
    assert!(closing.join().expect("no panic").is_complete());
}

/// The server reads nothing, so the client's write fails.
#[test]
fn a_failed_send_finds_the_close_behind_compressed_messages() {
    let _dog = watchdog(30);
    for _ in 0..3 {
        let host = RawServer::new(|listener| {
            let mut peer = listener.accept();
            peer.accept_handshake("Sec-WebSocket-Extensions: permessage-deflate\r\n");
            peer.expect_input();
            let frames = [
                compressed(&HELLO),
                // Its first bytes would not be valid as text.
                compressed(&AGAIN[..1]).more(),
                Frame::ping("?"),
                Frame::continuation(&AGAIN[1..]),
                Frame::close(1009, "too big"),
            ];
            // In one segment, because the reset could discard a second one.
            peer.write(frames.map(|frame| frame.unmasked().encode()).concat());
        });
        let mut connection =
            Connect::new(host.url()).config(with(Deflate::new())).connect().expect("it opens");
        let error = connection.send(Uncompressed(vec![0; 16 << 20])).expect_err("it is reset");
        assert_eq!(error.close_code(), 1009, "{error}");
        for _ in 0..2 {
            assert_eq!(connection.recv().expect("it has arrived"), Some(Message::from("Hello")));
        }
        let error = connection.recv().expect_err("it is over");
        assert_eq!(error.close_code(), 1009, "{error}");
    }
}
