//! Receiving messages in every form in which they can arrive, and with every method.

use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::frame::PONG;
use support::{Frame, PATIENCE, RawPeer, TestServer, echo, ms, next, watchdog};
use threadws::{Config, Error, Event, Message, MessageRef, Timeout};

#[test]
fn a_frame_may_come_in_pieces_cut_anywhere() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    let text = "caf\u{e9}, ".repeat(20); // 140 bytes: the length takes two more bytes
    let bytes = [Frame::text(&text).encode(), Frame::ping("p").encode()].concat();
    for cut in 1..bytes.len() {
        peer.write(&bytes[..cut]);
        peer.write(&bytes[cut..]);
        peer.expect_text(&text);
        peer.expect_pong(b"p");
    }
    for byte in &bytes {
        peer.write([*byte]);
    }
    peer.expect_text(&text);
    peer.expect_pong(b"p");
    // Many frames in one segment.
    peer.write(bytes.repeat(50));
    for _ in 0..50 {
        assert_eq!(peer.message().as_text(), text);
    }
    peer.close(1000);
}

/// The message is whole afterwards.
#[test]
fn a_ping_inside_a_fragmented_message_is_answered_at_once() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::text("one ").more());
    peer.send(&Frame::ping("inside"));
    peer.expect_pong(b"inside"); // before the message ends
    peer.send(&Frame::continuation("").more());
    peer.send(&Frame::pong("unasked for"));
    peer.send(&Frame::continuation(b"two caf\xc3").more()); // the first half of an e with an accent,
    peer.send(&Frame::continuation(b"\xa9").more()); // and the second half
    peer.send(&Frame::continuation(""));
    peer.expect_text("one two caf\u{e9}");
    peer.close(1000);
}

/// The pong has the payload of the ping.
#[test]
fn a_ping_is_answered_while_the_handler_waits_in_recv() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        peer.send(&Frame::ping(payload));
        peer.expect_pong(payload);
    }
    for payload in ["unasked for", ""] {
        peer.send(&Frame::pong(payload));
    }
    peer.send_text("an unsolicited pong has no effect");
    peer.expect_text("an unsolicited pong has no effect");
    peer.close(1000);
}

#[test]
fn a_flood_of_pings_is_answered_with_the_last_pong() {
    let _dog = watchdog(120);
    // On a slow machine this test reads nothing for longer than the default write timeout of the server.
    let config = Config::new().with_write_timeout(Duration::from_secs(100));
    let server = TestServer::with(|server| server.config(config), echo);
    let mut peer = RawPeer::open(server.addr());
    // 20 MB of pongs if each were kept. That is far more than the kernel's buffers hold, and the test reads none until
    // all pings are written.
    const PINGS: u32 = 160_000;
    for first in (0..PINGS).step_by(1000) {
        let bytes: Vec<u8> = (first..first + 1000)
            .flat_map(|number| Frame::ping([&number.to_be_bytes()[..], &[0; 121]].concat()).encode())
            .collect();
        peer.write(bytes);
    }
    peer.send_text("after the flood");
    let mut last = None;
    loop {
        let frame = peer.frame();
        if frame.opcode != PONG {
            assert_eq!(frame.as_text(), "after the flood");
            break;
        }
        let number = u32::from_be_bytes(*frame.payload.first_chunk().expect("four bytes"));
        assert!(last < Some(number), "pong {number} after {last:?}");
        last = Some(number);
    }
    if last != Some(PINGS - 1) {
        // RFC 6455 §5.5.3 allows an answer to the most recent ping only, and requires that one.
        let frame = peer.frame();
        assert_eq!((frame.opcode, &frame.payload[..4]), (PONG, &(PINGS - 1).to_be_bytes()[..]));
    }
    peer.close(1000);
}

#[test]
fn a_recv_that_times_out_leaves_the_connection_usable() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        assert!(matches!(client.try_recv(), Err(Error::Empty)));
        let start = Instant::now();
        assert!(matches!(client.recv_timeout(ms(60)), Err(Error::Timeout(Timeout::Recv))));
        tx.send(start.elapsed()).unwrap_or(());
        assert!(matches!(client.recv_timeout(Duration::ZERO), Err(Error::Timeout(Timeout::Recv))));
        client.send("now")?;
        assert_eq!(client.recv_timeout(PATIENCE)?, Some(Message::from("one")));
        client.send("next")?;
        let two = loop {
            match client.try_recv() {
                Err(Error::Empty) => std::thread::sleep(ms(1)), // a poll between other work
                other => break other?,
            }
        };
        assert_eq!(two, Some(Message::from("two")));
        client.send("half")?;
        // Half a frame has arrived. Neither call may lose it.
        assert!(matches!(client.recv_timeout(ms(60)), Err(Error::Timeout(Timeout::Recv))));
        assert!(matches!(client.try_recv(), Err(Error::Empty)));
        client.send("the other half")?;
        assert_eq!(client.recv()?, Some(Message::from("in two halves")));
        assert_eq!(client.recv_timeout(PATIENCE)?, None);
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let waited = next(&rx, "the timeout");
    assert!(waited >= ms(55) && waited < PATIENCE, "{waited:?}");
    peer.expect_text("now");
    peer.send_text("one");
    peer.expect_text("next");
    peer.send_text("two");
    peer.expect_text("half");
    let bytes = Frame::text("in two halves").encode();
    peer.write(&bytes[..9]);
    peer.expect_text("the other half");
    peer.write(&bytes[9..]);
    peer.close(1000);
}

#[test]
fn next_event_shows_control_frames_too() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        while let Some(event) = client.next_event()? {
            tx.send(Some(event)).unwrap_or(());
        }
        tx.send(None).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::ping("a"));
    peer.send(&Frame::pong("b"));
    peer.send_text("c");
    peer.send(&Frame::binary("d"));
    peer.expect_pong(b"a");
    peer.send(&Frame::close(1001, "e"));
    peer.expect_close(1001);
    peer.expect_eof();
    assert_eq!(next(&rx, "a ping"), Some(Event::Ping(b"a".to_vec())));
    assert_eq!(next(&rx, "a pong"), Some(Event::Pong(b"b".to_vec())));
    assert_eq!(next(&rx, "a text"), Some(Event::Message("c".into())));
    assert_eq!(next(&rx, "bytes"), Some(Event::Message(b"d".to_vec().into())));
    match next(&rx, "the Close") {
        Some(Event::Close(Some(frame))) => {
            assert_eq!((frame.code.into(), frame.reason.as_str()), (1001_u16, "e"))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(next(&rx, "the end"), None, "the Close is the last event");
}

#[test]
fn a_borrowed_message_can_be_echoed_without_a_copy() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        while let Some(mut received) = client.recv_ref()? {
            let message: MessageRef<'_> = received.message;
            received.write(message)?;
        }
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let bytes: Vec<u8> =
        (0..200).flat_map(|number| Frame::text(&format!("message {number}")).encode()).collect();
    peer.write(bytes);
    for number in 0..200 {
        peer.expect_text(&format!("message {number}"));
    }
    let large = vec![1; 1 << 20];
    peer.send(&Frame::binary(large.clone()));
    peer.expect_binary(&large);
    peer.send(&Frame::text("in ").more());
    peer.send(&Frame::continuation("two"));
    peer.expect_text("in two");
    peer.close(1000);
}

#[test]
fn ignore_reads_and_discards_until_the_end() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        client.send("I only push")?;
        client.ignore()?;
        tx.send(client.closed().map(|closed| closed.traffic().messages_received)).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("I only push");
    for _ in 0..10 {
        peer.send_text("this is not read");
    }
    peer.send(&Frame::ping("but pings are answered"));
    peer.expect_pong(b"but pings are answered");
    peer.close(1000);
    assert_eq!(next(&rx, "the end"), Some(10));
}
