//! The end of a connection: who may close it, and that nothing follows.

use std::io::Write as _;
use std::sync::mpsc::{self};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::frame::{self};
use support::{
    Frame, PATIENCE, RawPeer, TestServer, eventually, ms, next, reported_end, reporting_echo, watchdog,
};
use threadws::{Config, Error};

#[test]
fn the_server_echoes_a_close_and_ends_the_stream_first() {
    let _dog = watchdog(30);
    let (server, rx) = reporting_echo(Config::new());
    for (code, reason) in
        [(1000, "x"), (1001, ""), (1000, "r".repeat(123).as_str()), (1000, "\u{c548}\u{b155}")]
    {
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("hello");
        peer.expect_text("hello");
        peer.send(&Frame::close(code, reason));
        peer.expect_close(code);
        peer.expect_eof(); // this end is still open
        let (result, closed) = reported_end(&rx);
        assert_eq!(result, Ok(()), "a clean end is not an error");
        assert_eq!((closed.code().into(), closed.reason()), (code, reason));
        assert!(closed.is_clean() && closed.by_peer(), "{closed}");
        assert_eq!((closed.traffic().messages_received, closed.traffic().messages_sent), (1, 1));
        assert_eq!(
            closed.traffic().bytes_received,
            11 + 6 + 2 + u64::try_from(reason.len()).expect("a length")
        );
        assert_eq!(closed.reason(), reason);
        assert_eq!(closed.sent().map(|frame| u16::from(frame.code)), Some(code));
        let shown = closed.to_string();
        let word = if code == 1000 { "1000 (normal closure)" } else { "1001 (going away)" };
        assert!(shown.starts_with(&format!("received {word}")), "{shown}");
        assert!(shown.contains(&format!("; then sent {word}")), "{shown}");
    }
}

#[test]
fn a_close_without_a_code_is_reported_as_1005() {
    let _dog = watchdog(20);
    let (server, rx) = reporting_echo(Config::new());
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::close_without_code());
    peer.expect_close_without_code();
    peer.expect_eof();
    let (result, closed) = reported_end(&rx);
    assert_eq!(result, Ok(()));
    assert_eq!((closed.code().into(), closed.reason()), (1005_u16, ""));
    assert!(closed.is_clean() && closed.code() == 1005 && closed.sent().is_none(), "{closed}");
    assert_eq!(closed.to_string(), "received a Close without a code; then sent a Close without a code");
}

#[test]
fn a_close_with_a_private_code_is_an_error() {
    let _dog = watchdog(20);
    let (server, rx) = reporting_echo(Config::new());
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::close(4001, "session\nover"));
    peer.expect_close(4001);
    peer.expect_eof();
    let (result, closed) = reported_end(&rx);
    let error = result.expect_err("neither 1000 nor 1001");
    assert!(error.contains(r#"received 4001 (private use) "session\nover""#), "{error}");
    assert!(closed.is_clean() && closed.by_peer());
    assert_eq!((closed.code().into(), closed.reason()), (4001_u16, "session\nover"));
}

#[test]
fn the_answer_to_the_servers_close_makes_it_clean() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        assert!(client.recv()?.is_some());
        client.close(4000, "that was all")?;
        tx.send(client.closed().cloned()).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("go");
    assert_eq!(peer.expect_close(4000), "that was all");
    peer.send_text("this crosses it and is discarded");
    peer.send(&Frame::close(4000, "fine"));
    peer.expect_eof();
    let closed = next(&rx, "the report").expect("it is closed");
    assert!(closed.is_clean() && !closed.by_peer(), "{closed}");
    assert_eq!((closed.code().into(), closed.reason()), (4000_u16, "fine"));
    let shown = closed.to_string();
    assert_eq!(shown, r#"sent 4000 (private use) "that was all"; then received 4000 (private use) "fine""#);
}

#[test]
fn an_unanswered_close_ends_at_the_close_timeout() {
    let _dog = watchdog(30);
    for chatty in [false, true] {
        let (tx, rx) = mpsc::channel();
        let server = TestServer::with(
            |server| server.config(Config::new().with_close_timeout(ms(400))),
            move |client| {
                let start = Instant::now();
                let result = client.close(1000, "bye");
                tx.send((result, client.closed().cloned(), start.elapsed())).unwrap_or(());
                Ok(())
            },
        );
        let mut peer = RawPeer::open(server.addr());
        peer.expect_close(1000);
        if chatty {
            // It sends until it is disconnected.
            let bytes = Frame::binary(vec![0; 1000]).encode();
            let start = Instant::now();
            while peer.try_write(&bytes).is_ok() {
                assert!(start.elapsed() < PATIENCE, "still read after {:?}", start.elapsed());
                std::thread::sleep(Duration::from_millis(2)); // the pace of a chat, not of a flood
            }
        }
        peer.expect_gone();
        let (_, closed, took) = next(&rx, "the end of close");
        assert!(took >= ms(350) && took < ms(400) + PATIENCE / 2, "close took {took:?}");
        let closed = closed.expect("it is closed");
        assert!(!closed.is_clean(), "{closed}");
        assert_eq!(closed.code(), 1006);
        assert!(
            closed.to_string().starts_with(r#"sent 1000 (normal closure) "bye"; no Close received"#),
            "{closed}"
        );
    }
}

#[test]
fn a_half_closed_client_ends_every_pending_send() {
    let _dog = watchdog(60);
    let (tx, rx) = mpsc::channel();
    let (tell_full, full) = mpsc::channel();
    let (tell_result, result_told) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_write_timeout(Duration::from_secs(60))),
        move |client| {
            let message = vec![1; 256 << 10];
            while client.try_send(&message).is_ok() {}
            tell_full.send(()).unwrap_or(());
            let (sender, tell_result) = (client.sender(), tell_result.clone());
            let pending =
                std::thread::spawn(move || tell_result.send(sender.send(&message).is_err()).unwrap_or(()));
            let result = client.ignore();
            tx.send((result.map_err(|error| error.to_string()), client.closed().cloned())).unwrap_or(());
            pending.join().expect("the sending thread");
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    next(&full, "a backlog that is full");
    peer.fin();
    let start = Instant::now();
    let (result, closed) = next(&rx, "the reader's end");
    let error = result.expect_err("no Close came");
    assert!(error.contains("end of stream"), "{error}");
    let closed = closed.expect("it is closed");
    assert_eq!((closed.code().into(), closed.is_clean()), (1006_u16, false));
    assert!(next(&result_told, "the pending send's end"), "a send ended well without a reader");
    assert!(start.elapsed() < ms(2000), "ended only after {:?}", start.elapsed());
    // Everything before the end is whole, and nothing follows a torn frame.
    while let Ok(Some(frame)) = peer.frame_until(Instant::now() + PATIENCE) {
        assert!(frame.payload.len() == 256 << 10 && frame.opcode == frame::BINARY, "{frame:?}");
    }
}

#[test]
fn both_ends_may_close_at_once() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        assert!(client.recv()?.is_some());
        // The client's Close has arrived, unread, so the two cross.
        client.sender().close(1000, "server")?;
        let last = client.recv().map_err(|error| error.to_string());
        tx.send((last, client.closed().cloned())).unwrap_or(());
        Ok(())
    });
    for _ in 0..20 {
        let mut peer = RawPeer::open(server.addr());
        peer.write([Frame::text("go").encode(), Frame::close(1000, "client").encode()].concat());
        let reason = peer.expect_close(1000);
        peer.expect_eof(); // One Close each way.
        let (last, closed) = next(&rx, "the report");
        assert_eq!(last, Ok(None));
        let closed = closed.expect("it is closed");
        assert!(closed.is_clean(), "{closed}");
        assert_eq!((closed.reason(), reason.as_str()), ("client", "server"));
    }
}

#[test]
fn closing_does_not_wait_for_a_stuck_peer() {
    let _dog = watchdog(30);
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        released.lock().expect("one waits").recv()?;
        let result = client.close(1000, "").map_err(|error| error.to_string());
        tx.send((result, client.closed().cloned())).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    // Writes until the kernel takes no more and the peer is stuck in the middle of a message.
    let mut stream = peer.stream();
    let message = Frame::binary(vec![7; 512 << 10]).encode();
    let mut written = 0;
    stream.set_write_timeout(Some(ms(300))).expect("not zero");
    while let Ok(bytes) = stream.write(&message[written % message.len()..]) {
        written += bytes;
        assert!(written < 64 << 20, "the test reads");
    }
    assert!(written > 1 << 20, "{written} bytes were taken");
    release.send(()).expect("the handler waits");
    peer.expect_close(1000);
    stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
    stream.write_all(&message[written % message.len()..]).expect("it is read to its end");
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
    let (result, closed) = next(&rx, "the end of close");
    assert_eq!(result, Ok(()));
    assert!(closed.expect("it is closed").is_clean());
}

#[test]
fn bytes_after_the_clients_close_are_discarded() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        while let Some(message) = client.recv()? {
            tx.send(message.to_string()).unwrap_or(());
        }
        tx.send("the end".into()).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let after =
        [Frame::close(1000, ""), Frame::text("ghost"), Frame::ping("ghost"), Frame::close(1001, "ghost")];
    let bytes: Vec<u8> = [Frame::text("last")].iter().chain(&after).flat_map(Frame::encode).collect();
    peer.write(bytes);
    peer.expect_close(1000);
    peer.expect_eof();
    assert_eq!(next(&rx, "the last message"), "last");
    assert_eq!(next(&rx, "the end"), "the end");
}

#[test]
fn nothing_follows_a_close_frame() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        let sender = client.sender();
        client.every(ms(5), "tick");
        client.write("before")?;
        sender.close(1000, "first")?;
        for result in [
            sender.send("x"),
            sender.try_send("x"),
            sender.ping(b"x"),
            client.send("x"),
            client.try_send("x"),
            client.ping(b"x"),
        ] {
            assert!(matches!(result, Err(Error::Closed(_))), "{result:?}");
        }
        // `write` may put it into the cork, but it must not leave the cork.
        drop(client.write("x"));
        drop(client.flush());
        sender.close(1001, "second").unwrap_or(());
        drop(client.write_broadcast("x"));
        client.ignore()?;
        drop(client.send("x"));
        Ok(())
    });
    for _ in 0..10 {
        let mut peer = RawPeer::open(server.addr());
        loop {
            // Ticks and "before" may come or be missing. The strict reader checks what follows the Close.
            let frame = peer.frame();
            if frame.opcode == frame::CLOSE {
                assert_eq!(frame.close_content(), Some((1000, "first".into())));
                break;
            }
        }
        peer.send(&Frame::ping("no pong either"));
        server.hub().broadcast("nor this");
        peer.expect_silence(ms(30)); // time for six ticks
        peer.send(&Frame::close(1000, ""));
        peer.expect_eof();
    }
}

#[test]
fn a_corked_message_goes_out_before_the_close() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        assert!(client.recv()?.is_some());
        client.write("corked")?; // Unread input remains, so it stays in the cork.
        client.close(1000, "")?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.write([Frame::text("go").encode(), Frame::text("unread").encode()].concat());
    peer.expect_text("corked");
    peer.expect_close(1000);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
}

#[test]
fn a_sender_after_the_end_holds_nothing_and_returns_closed() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        tx.send(client.sender()).unwrap_or(());
        client.ignore()?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let sender = next(&rx, "the sender");
    drop(sender.clone()); // Dropping a sender closes nothing.
    sender.send("open").expect("open");
    peer.expect_text("open");
    peer.close(1000); // The stream ends although a sender is alive.
    eventually("closed", || sender.state() == threadws::connection::State::Closed);
    sender.close(1001, "").expect("a second Close does nothing");
    for result in [sender.send("x"), sender.try_send("x"), sender.ping(b"")] {
        match result {
            Err(Error::Closed(closed)) => assert!(closed.is_clean(), "{closed}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sender.stats().backlog, 0);
}

#[test]
fn terminate_ends_at_once_without_a_close() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        client.sender().terminate();
        let result = client.recv().map_err(|error| error.to_string());
        tx.send((result, client.closed().cloned())).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    match peer.frame_until(Instant::now() + PATIENCE) {
        Ok(None) | Err(_) => {}
        Ok(Some(frame)) => panic!("expected nothing, got {frame:?}"),
    }
    let (result, closed) = next(&rx, "the end");
    assert!(result.is_err(), "{result:?}");
    assert_eq!(closed.expect("it is closed").code(), 1006);
}

#[test]
fn invalid_frames_are_refused_before_the_wire() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let sender = client.sender();
        let mut results = vec![
            ("a ping of 126 bytes", client.ping(&[0; 126])),
            ("a ping of 126 bytes by the sender", sender.ping(&[0; 126])),
            ("a reason of 124 bytes", sender.close(1000, &"x".repeat(124))),
            ("a reason of 62 characters and 124 bytes", sender.close(1000, &"\u{e9}".repeat(62))),
            ("a reason of 124 bytes by the connection", client.close(1000, &"x".repeat(124))),
        ];
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535] {
            results.push(("a code that may not be sent", sender.close(code, "")));
            results.push(("a code that may not be sent, by the connection", client.close(code, "")));
        }
        for (what, result) in results {
            assert!(matches!(result, Err(Error::Invalid(_))), "{what}: {result:?}");
        }
        client.send("the first bytes on the wire")?;
        sender.ping(&[0; 125])?;
        assert!(client.recv()?.is_some(), "usable");
        let result = sender.close(1000, &"x".repeat(123));
        tx.send(result.is_ok()).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("the first bytes on the wire");
    let ping = peer.frame();
    assert_eq!((ping.opcode, ping.payload.len()), (frame::PING, 125));
    peer.send_text("go on");
    assert!(next(&rx, "the longest reason"));
    assert_eq!(peer.expect_close(1000).len(), 123);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
}

#[test]
fn every_sendable_code_is_echoed() {
    let _dog = watchdog(30);
    let (server, rx) = reporting_echo(Config::new());
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        let mut peer = RawPeer::open(server.addr());
        peer.send(&Frame::close(code, "reason"));
        peer.expect_close(code);
        peer.expect_eof();
        let (result, closed) = reported_end(&rx);
        assert_eq!((closed.code().into(), closed.is_clean()), (code, true));
        assert_eq!(result.is_ok(), matches!(code, 1000 | 1001), "{code}: {result:?}");
    }
}

#[test]
fn a_close_inside_a_fragmented_message_drops_the_message() {
    let _dog = watchdog(20);
    let (server, rx) = reporting_echo(Config::new());
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::text("half").more());
    peer.send(&Frame::close(1000, "enough"));
    peer.expect_close(1000);
    peer.expect_eof();
    let (result, closed) = reported_end(&rx);
    assert_eq!((result, closed.traffic().messages_received), (Ok(()), 0));
}

#[test]
fn the_close_reaches_a_client_that_is_still_sending() {
    let _dog = watchdog(60);
    // Closing a socket with unread input would send an RST, which may destroy bytes that were already sent.
    let server = TestServer::new(|client| {
        for _ in 0..20 {
            client.send(vec![3; 64 << 10])?;
        }
        Err("and then it fails".into())
    });
    let mut peer = RawPeer::open(server.addr());
    let stream = peer.stream();
    let writer = std::thread::spawn(move || {
        let bytes = Frame::binary(vec![0; 100 << 10]).encode();
        for _ in 0..5 {
            if (&stream).write_all(&bytes).is_err() {
                break;
            }
        }
    });
    for _ in 0..20 {
        peer.expect_binary(&[3; 64 << 10]);
    }
    peer.expect_close(1011);
    writer.join().expect("the writer");
    peer.fin();
    peer.expect_eof();
}

/// The client closed or broke the protocol, and does not end its side of the stream.
#[test]
fn a_client_that_stays_open_delays_the_end_briefly() {
    let _dog = watchdog(30);
    let (server, rx) = reporting_echo(Config::new());
    for (what, bytes, code) in [
        ("a Close", Frame::close(1000, "").encode(), 1000),
        ("a violation", Frame::new(3, "").encode(), 1002),
    ] {
        let mut peer = RawPeer::open(server.addr());
        peer.write(bytes);
        peer.expect_close(code);
        peer.expect_eof_alone();
        let start = Instant::now();
        next(&rx, "the handler's end").1.expect("a report of the end");
        eventually("its place is free", || server.hub().count() == 0);
        assert!(start.elapsed() < ms(3000), "after {what} it took {:?}", start.elapsed());
    }
}

#[test]
fn the_handlers_end_closes_even_when_senders_remain() {
    let _dog = watchdog(20);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let server = TestServer::new(move |client| {
        keep.lock().expect("no panic").push((client.sender(), client.every(ms(10), "tick")));
        assert!(client.recv()?.is_some());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("go");
    peer.expect_close_at_last(&[1000]);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
    eventually("no client is connected", || server.hub().count() == 0);
    assert_eq!(kept.lock().expect("no panic").len(), 1);
}
