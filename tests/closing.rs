//! How connections end: whoever closes, whatever is wrong, and nothing after it.

mod common;

use common::frame::{self, header};
use common::{Frame, PATIENCE, RawPeer, TestServer, echo, eventually, ms, next, watchdog};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use threadws::{Closed, Config, Connection, Error, Timeout, Violation};

/// What a handler saw last, and the report of it.
type End = (Result<(), String>, Option<Closed>);

/// An echo server that tells each connection's end.
fn telling(config: Config) -> (TestServer, Receiver<End>) {
    let (tell, told) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config),
        move |client| {
            let result = echo(client);
            let end = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            tell.send((end, client.closed().cloned())).unwrap_or(());
            result
        },
    );
    (server, told)
}

#[track_caller]
fn closed(told: &Receiver<End>) -> (Result<(), String>, Closed) {
    let (result, closed) = next(told, "the handler's end");
    (result, closed.expect("a report of the end"))
}

#[test]
fn a_clients_close_is_echoed_and_the_server_ends_the_stream_first() {
    let _dog = watchdog(30);
    let (server, told) = telling(Config::new());
    for (code, reason) in
        [(1000, "x"), (1001, ""), (1000, "r".repeat(123).as_str()), (1000, "\u{c548}\u{b155}")]
    {
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("hello");
        peer.expect_text("hello");
        peer.send(&Frame::close(code, reason));
        peer.expect_close(code);
        peer.expect_eof(); // and we have not ended ours
        let (result, closed) = closed(&told);
        assert_eq!(result, Ok(()), "a clean end is no error");
        assert_eq!((closed.code().into(), closed.reason()), (code, reason));
        assert!(closed.is_clean() && closed.by_peer(), "{closed}");
        assert_eq!((closed.messages_received(), closed.messages_sent()), (1, 1));
        assert_eq!(closed.bytes_received(), 11 + 6 + 2 + u64::try_from(reason.len()).expect("a length"));
        assert_eq!(closed.received().map(|frame| frame.reason.as_str()), Some(reason));
        assert_eq!(closed.sent().map(|frame| u16::from(frame.code)), Some(code));
        let shown = closed.to_string();
        let word = if code == 1000 { "1000 (normal closure)" } else { "1001 (going away)" };
        assert!(shown.starts_with(&format!("received {word}")), "{shown}");
        assert!(shown.contains(&format!("; then sent {word}")), "{shown}");
    }
}

#[test]
fn a_close_without_a_code_is_echoed_without_one_and_told_as_1005() {
    let _dog = watchdog(20);
    let (server, told) = telling(Config::new());
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::close_without_code());
    peer.expect_close_without_code();
    peer.expect_eof();
    let (result, closed) = closed(&told);
    assert_eq!(result, Ok(()));
    assert_eq!((closed.code().into(), closed.reason()), (1005_u16, ""));
    assert!(closed.is_clean() && closed.received().is_none() && closed.sent().is_none(), "{closed}");
    assert_eq!(closed.to_string(), "received a Close without a code; then sent a Close without a code");
}

#[test]
fn a_close_with_a_code_of_its_own_is_an_error_that_tells_it() {
    let _dog = watchdog(20);
    let (server, told) = telling(Config::new());
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::close(4001, "session\nover"));
    peer.expect_close(4001);
    peer.expect_eof();
    let (result, closed) = closed(&told);
    let error = result.expect_err("neither 1000 nor 1001");
    assert!(error.contains(r#"received 4001 (private use) "session\nover""#), "{error}");
    assert!(closed.is_clean() && closed.by_peer());
    assert_eq!((closed.code().into(), closed.reason()), (4001_u16, "session\nover"));
}

#[test]
fn the_server_closes_and_the_clients_close_makes_it_clean() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client| {
        assert!(client.recv()?.is_some());
        client.close(4000, "that was all")?;
        tell.send(client.closed().cloned()).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("go");
    assert_eq!(peer.expect_close(4000), "that was all");
    peer.send_text("this crosses it and is discarded");
    peer.send(&Frame::close(4000, "fine"));
    peer.expect_eof();
    let closed = next(&told, "the report").expect("it is closed");
    assert!(closed.is_clean() && !closed.by_peer(), "{closed}");
    assert_eq!((closed.code().into(), closed.reason()), (4000_u16, "fine"));
    let shown = closed.to_string();
    assert_eq!(shown, r#"sent 4000 (private use) "that was all"; then received 4000 (private use) "fine""#);
}

#[test]
fn a_client_that_never_answers_our_close_is_cut_at_the_close_timeout() {
    let _dog = watchdog(30);
    for chatty in [false, true] {
        let (tell, told) = mpsc::channel();
        let server = TestServer::with(
            |server| server.config(Config::new().close_timeout(ms(400))),
            move |client| {
                let start = Instant::now();
                let result = client.close(1000, "bye");
                tell.send((result, client.closed().cloned(), start.elapsed())).unwrap_or(());
                Ok(())
            },
        );
        let mut peer = RawPeer::open(server.addr());
        peer.expect_close(1000);
        if chatty {
            // For ever, until it is thrown out.
            let octets = Frame::binary(vec![0; 1000]).encode();
            let start = Instant::now();
            while peer.try_write(&octets).is_ok() {
                assert!(start.elapsed() < PATIENCE, "still read after {:?}", start.elapsed());
                std::thread::sleep(Duration::from_millis(2)); // a chat, not a flood
            }
        }
        peer.expect_gone();
        let (_, closed, took) = next(&told, "the end of close");
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
    let (tell, told) = mpsc::channel();
    let (tell_full, full) = mpsc::channel();
    let (tell_result, result_told) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().write_timeout(Duration::from_secs(60))),
        move |client| {
            let message = vec![1; 256 << 10];
            while client.try_send(&message).is_ok() {}
            tell_full.send(()).unwrap_or(());
            let (sender, tell_result) = (client.sender(), tell_result.clone());
            let pending =
                std::thread::spawn(move || tell_result.send(sender.send(&message).is_err()).unwrap_or(()));
            let result = client.ignore();
            tell.send((result.map_err(|error| error.to_string()), client.closed().cloned())).unwrap_or(());
            pending.join().expect("the sending thread");
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    next(&full, "a backlog that is full");
    peer.fin();
    let start = Instant::now();
    let (result, closed) = next(&told, "the reader's end");
    let error = result.expect_err("no Close came");
    assert!(error.contains("end of stream"), "{error}");
    let closed = closed.expect("it is closed");
    assert_eq!((closed.code().into(), closed.is_clean()), (1006_u16, false));
    assert!(next(&result_told, "the pending send's end"), "a send ended well without a reader");
    assert!(start.elapsed() < ms(2000), "ended only after {:?}", start.elapsed());
    // What was sent is whole up to the end, and a torn frame is followed by nothing.
    while let Ok(Some(frame)) = peer.frame_until(Instant::now() + PATIENCE) {
        assert!(frame.payload.len() == 256 << 10 && frame.opcode == frame::BINARY, "{frame:?}");
    }
}

#[test]
fn both_may_close_at_once() {
    let _dog = watchdog(30);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client| {
        assert!(client.recv()?.is_some());
        // The client's Close is there already, unread: the two cross.
        client.sender().close(1000, "server")?;
        let last = client.recv().map_err(|error| error.to_string());
        tell.send((last, client.closed().cloned())).unwrap_or(());
        Ok(())
    });
    for _ in 0..20 {
        let mut peer = RawPeer::open(server.addr());
        peer.write([Frame::text("go").encode(), Frame::close(1000, "client").encode()].concat());
        let reason = peer.expect_close(1000);
        peer.expect_eof(); // One Close each way.
        let (last, closed) = next(&told, "the report");
        assert_eq!(last, Ok(None));
        let closed = closed.expect("it is closed");
        assert!(closed.is_clean(), "{closed}");
        assert_eq!((closed.reason(), reason.as_str()), ("client", "server"));
    }
}

#[test]
fn closing_does_not_wait_for_messages_that_nobody_reads() {
    let _dog = watchdog(30);
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client| {
        released.lock().expect("one waits").recv()?;
        let result = client.close(1000, "").map_err(|error| error.to_string());
        tell.send((result, client.closed().cloned())).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    for _ in 0..1000 {
        peer.send(&Frame::text(&"never read ".repeat(50)));
    }
    release.send(()).expect("the handler waits");
    peer.expect_close(1000);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
    let (result, closed) = next(&told, "the end of close");
    assert_eq!(result, Ok(()));
    assert!(closed.expect("it is closed").is_clean());
}

#[test]
fn what_comes_after_the_clients_close_reaches_nobody() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client| {
        while let Some(message) = client.recv()? {
            tell.send(message.to_string()).unwrap_or(());
        }
        tell.send("the end".into()).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let after =
        [Frame::close(1000, ""), Frame::text("ghost"), Frame::ping("ghost"), Frame::close(1001, "ghost")];
    let octets: Vec<u8> = [Frame::text("last")].iter().chain(&after).flat_map(Frame::encode).collect();
    peer.write(octets);
    peer.expect_close(1000);
    peer.expect_eof();
    assert_eq!(next(&told, "the last message"), "last");
    assert_eq!(next(&told, "the end"), "the end");
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
        // In the cork it may be taken, but it must not come out of it.
        drop(client.write("x"));
        drop(client.flush());
        sender.close(1001, "second").unwrap_or(());
        client.broadcast("x");
        client.ignore()?;
        drop(client.send("x"));
        Ok(())
    });
    for _ in 0..10 {
        let mut peer = RawPeer::open(server.addr());
        loop {
            // Ticks and "before" come or not; the strict reader minds what comes after the Close.
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
fn a_sender_that_outlives_its_connection_holds_nothing_and_says_closed() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client| {
        tell.send(client.sender()).unwrap_or(());
        client.ignore()?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let sender = next(&told, "the sender");
    drop(sender.clone()); // Dropping senders closes nothing.
    sender.send("open").expect("open");
    peer.expect_text("open");
    peer.close(1000); // Its end of stream comes although the sender is alive.
    eventually("closed", || sender.state() == threadws::State::Closed);
    sender.close(1001, "").expect("a second Close does nothing");
    for result in [sender.send("x"), sender.try_send("x"), sender.ping(b"")] {
        match result {
            Err(Error::Closed(closed)) => assert!(closed.is_clean(), "{closed}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sender.backlog(), 0);
}

#[test]
fn terminate_ends_at_once_without_a_close() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client| {
        client.sender().terminate();
        let result = client.recv().map_err(|error| error.to_string());
        tell.send((result, client.closed().cloned())).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    match peer.frame_until(Instant::now() + PATIENCE) {
        Ok(None) | Err(_) => {}
        Ok(Some(frame)) => panic!("expected nothing, got {frame:?}"),
    }
    let (result, closed) = next(&told, "the end");
    assert!(result.is_err(), "{result:?}");
    assert_eq!(closed.expect("it is closed").code(), 1006);
}

#[test]
fn what_may_not_be_sent_is_refused_and_nothing_of_it_is_on_the_wire() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
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
        client.send("the first octets on the wire")?;
        sender.ping(&[0; 125])?;
        assert!(client.recv()?.is_some(), "usable");
        let result = sender.close(1000, &"x".repeat(123));
        tell.send(result.is_ok()).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("the first octets on the wire");
    let ping = peer.frame();
    assert_eq!((ping.opcode, ping.payload.len()), (frame::PING, 125));
    peer.send_text("go on");
    assert!(next(&told, "the longest reason"));
    assert_eq!(peer.expect_close(1000).len(), 123);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
}

/// Octets, the close codes that are right for them, and what to call it.
type Case = (&'static str, Vec<u8>, &'static [u16]);

/// Each case on a connection of its own: the code on the wire, nothing after it, and nothing reached the handler.
fn breaks(config: &Config, cases: Vec<Case>) {
    let (server, told) = telling(config.clone());
    let mut canary = RawPeer::open(server.addr());
    for (what, octets, codes) in cases {
        println!("{what}");
        let mut peer = RawPeer::open(server.addr());
        drop(peer.try_write(&octets));
        let frame = peer.frame();
        match frame.close_content() {
            Some((code, _)) if frame.opcode == frame::CLOSE => {
                assert!(codes.contains(&code), "{what}: {frame:?}")
            }
            _ => panic!("{what}: expected Close {codes:?}, got {frame:?}"),
        }
        peer.expect_eof();
        let (result, closed) = closed(&told);
        assert!(result.is_err(), "{what}: told as a clean end");
        assert!(!closed.is_clean(), "{what}: {closed}");
        assert_eq!(closed.messages_received(), 0, "{what}: a broken message was delivered");
        let sent = closed.sent().map(|frame| u16::from(frame.code));
        assert!(sent.is_some_and(|code| codes.contains(&code)), "{what}: {closed}");
    }
    canary.send_text("others are not affected");
    canary.expect_text("others are not affected");
    canary.close(1000);
}

const KEY: Option<[u8; 4]> = Some([1, 2, 3, 4]);

#[test]
fn frames_that_break_the_protocol_are_answered_with_1002() {
    let _dog = watchdog(120);
    let mut cases: Vec<Case> = vec![
        ("unmasked text", Frame::text("x").unmasked().encode(), &[1002]),
        ("unmasked ping", Frame::ping("x").unmasked().encode(), &[1002]),
        ("unmasked empty text", Frame::text("").unmasked().encode(), &[1002]),
        ("RSV1", Frame::text("x").rsv(0x40).encode(), &[1002]),
        ("RSV1 with deflated data", Frame::text("\u{2}").rsv(0x40).encode(), &[1002]),
        ("RSV2", Frame::text("x").rsv(0x20).encode(), &[1002]),
        ("RSV3", Frame::text("x").rsv(0x10).encode(), &[1002]),
        ("all reserved bits", Frame::binary("x").rsv(0x70).encode(), &[1002]),
        ("RSV1 on a ping", Frame::ping("x").rsv(0x40).encode(), &[1002]),
        ("a ping of 126 octets", Frame::ping([0; 126]).encode(), &[1002]),
        ("a ping that announces 16 MiB", header(0x89, KEY, 16 << 20, 64), &[1002]),
        ("a ping without FIN", Frame::ping("x").more().encode(), &[1002]),
        ("a pong without FIN", Frame::pong("x").more().encode(), &[1002]),
        ("a Close without FIN", Frame::close(1000, "").more().encode(), &[1002]),
        ("a Close of 126 octets", Frame::close(1000, &"x".repeat(124)).encode(), &[1002]),
        ("length 5 in 16 bits", Frame::text("hello").encode_with(5, 16), &[1002]),
        ("length 125 in 16 bits", Frame::binary([0; 125]).encode_with(125, 16), &[1002]),
        ("length 5 in 64 bits", Frame::text("hello").encode_with(5, 64), &[1002]),
        ("length 65535 in 64 bits", Frame::binary(vec![0; 65535]).encode_with(65535, 64), &[1002]),
        ("a ping's length in 16 bits", Frame::ping("hello").encode_with(5, 16), &[1002]),
        ("a continuation of nothing", Frame::continuation("x").encode(), &[1002]),
        ("a continuation of nothing, more to come", Frame::continuation("x").more().encode(), &[1002]),
        (
            "text inside a fragmented message",
            [Frame::text("a").more().encode(), Frame::text("b").encode()].concat(),
            &[1002],
        ),
        (
            "binary inside a fragmented message",
            [Frame::text("a").more().encode(), Frame::binary("b").more().encode()].concat(),
            &[1002],
        ),
        ("a Close of one octet", Frame::new(frame::CLOSE, "x").encode(), &[1002]),
    ];
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(("a reserved opcode", Frame::new(opcode, "x").encode(), &[1002]));
        cases.push(("an empty frame of a reserved opcode", Frame::new(opcode, "").encode(), &[1002]));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        cases.push(("a close code that may not be sent", Frame::close(code, "").encode(), &[1002]));
    }
    breaks(&Config::new(), cases);
}

#[test]
fn a_length_beyond_the_limit_is_answered_at_its_header() {
    let _dog = watchdog(60);
    let cases = [
        (1 << 31, &[1009][..]),
        (1 << 32, &[1009]),
        ((1 << 63) - 1, &[1009]),
        (1 << 63, &[1002, 1009]),
        (u64::MAX, &[1002, 1009]),
    ];
    let cases = cases.into_iter().flat_map(|(length, codes)| {
        let first = [0x81, 0x82, 0x02]; // text, binary, a first fragment
        first.map(|first| ("a giant announced", header(first, KEY, length, 64), codes))
    });
    breaks(&Config::new(), cases.collect());
}

#[test]
fn a_message_of_the_limit_passes_and_one_octet_more_does_not() {
    let _dog = watchdog(60);
    const LIMIT: usize = 1000;
    let config = Config::new().max_message_size(LIMIT);
    let (server, _told) = telling(config.clone());
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::binary([1; LIMIT]));
    peer.expect_binary(&[1; LIMIT]);
    peer.send(&Frame::binary([2; LIMIT - 1]).more());
    peer.send(&Frame::continuation([2]).more());
    peer.send(&Frame::continuation(""));
    peer.expect_binary(&[2; LIMIT]);
    peer.close(1000);
    let first = Frame::binary([1; LIMIT]).more().encode();
    let cases: Vec<Case> = vec![
        ("in one frame", Frame::binary([1; LIMIT + 1]).encode(), &[1009]),
        ("its header alone", header(0x82, KEY, 1001, 16), &[1009]),
        ("in two", [&first[..], &Frame::continuation("x").encode()].concat(), &[1009]),
        ("in two, of the second the header alone", [&first[..], &header(0x80, KEY, 1, 7)].concat(), &[1009]),
        (
            "in many",
            Frame::text("x")
                .more()
                .encode()
                .into_iter()
                .chain(Frame::continuation("x").more().encode().repeat(LIMIT))
                .collect(),
            &[1009],
        ),
    ];
    breaks(&config, cases);
    // The default limit.
    breaks(&Config::new(), vec![("1 MiB and one", header(0x82, KEY, (1 << 20) + 1, 64), &[1009])]);
}

#[test]
fn text_that_is_not_utf_8_is_answered_with_1007() {
    let _dog = watchdog(120);
    let bad: [(&'static str, &[u8]); 12] = [
        ("a lone continuation octet", b"\x80"),
        ("an octet that never occurs", b"\xff"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong slash of three", b"\xe0\x80\xaf"),
        ("an overlong NUL of four", b"\xf0\x80\x80\x80"),
        ("a high surrogate", b"\xed\xa0\x80"),
        ("a surrogate pair", b"\xed\xa0\x80\xed\xb0\x80"),
        ("above U+10FFFF", b"\xf4\x90\x80\x80"),
        ("five octets", b"\xf8\x88\x80\x80\x80"),
        ("truncated at the end", b"caf\xc3"),
        ("truncated in the middle", b"\xe2\x82x"),
        (
            "long and bad at its end",
            b"0123456789012345678901234567890123456789012345678901234567890123456789\xff",
        ),
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (what, octets) in bad {
        cases.push((what, Frame::new(frame::TEXT, octets).encode(), &[1007]));
        let fragments = |first: usize| {
            [
                Frame::new(frame::TEXT, &octets[..first]).more().encode(),
                Frame::continuation(&octets[first..]).encode(),
            ]
            .concat()
        };
        cases.push((what, fragments(0), &[1007]));
        cases.push((what, fragments(octets.len() - 1), &[1007]));
        cases.push((what, fragments(octets.len()), &[1007]));
        cases.push((what, Frame::new(frame::CLOSE, [&[3, 0xe8], octets].concat()).encode(), &[1007]));
    }
    // It need not wait for the end of a message that cannot become text any more.
    cases.push((
        "a first fragment",
        Frame::new(frame::TEXT, "\u{e9}\u{e9}")
            .more()
            .encode()
            .into_iter()
            .chain(Frame::continuation(b"\xff").more().encode())
            .collect(),
        &[1007],
    ));
    breaks(&Config::new(), cases);
    // As binary all of that is fine.
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    for (_, octets) in bad {
        peer.send(&Frame::binary(octets));
        peer.expect_binary(octets);
    }
    peer.close(1000);
}

#[test]
fn a_message_of_too_many_fragments_is_answered_with_1008() {
    let _dog = watchdog(60);
    let empty = Frame::text("")
        .more()
        .encode()
        .into_iter()
        .chain(Frame::continuation("").more().encode().repeat(9000));
    breaks(&Config::new(), vec![("9000 empty fragments", empty.collect(), &[1008, 1009])]);
    // But 4096 of one octet each are a message.
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    let mut octets = Frame::text("x").more().encode();
    octets.extend(Frame::continuation("x").more().encode().repeat(4094));
    octets.extend(Frame::continuation("x").encode());
    peer.write(octets);
    peer.expect_text(&"x".repeat(4096));
    peer.close(1000);
}

#[test]
fn a_message_that_never_ends_is_cut_by_its_deadline() {
    let _dog = watchdog(60);
    let (server, told) = telling(Config::new().message_timeout(ms(300)));
    let trickles: [(&str, Vec<u8>, Vec<u8>); 4] = [
        ("a frame octet by octet", header(0x82, KEY, 100_000, 64), vec![0]),
        (
            "a fragment now and then",
            Frame::text("x").more().encode(),
            Frame::continuation("x").more().encode(),
        ),
        ("empty fragments", Frame::text("").more().encode(), Frame::continuation("").more().encode()),
        ("nothing more, but pings", Frame::text("x").more().encode(), Frame::ping("alive").encode()),
    ];
    for (what, start, more) in trickles {
        println!("{what}");
        let mut peer = RawPeer::open(server.addr());
        let begin = Instant::now();
        peer.write(start);
        // The pace is the attack.
        while peer.try_write(&more).is_ok() && begin.elapsed() < ms(900) {
            std::thread::sleep(ms(10));
        }
        let code = peer.expect_close_at_last(&[1008]);
        assert_eq!(code, 1008);
        peer.expect_gone(); // We may have written after its end of stream, and been reset for that.
        let (result, closed) = closed(&told);
        assert_eq!(result, Err(Error::Timeout(Timeout::Message).to_string()), "{what}");
        let lived = closed.lifetime();
        assert!(lived >= ms(290) && lived < ms(300) + PATIENCE / 2, "{what}: {lived:?}");
    }
    // Time between messages is nobody's business.
    let mut peer = RawPeer::open(server.addr());
    for _ in 0..3 {
        peer.send_text("x");
        peer.expect_text("x");
        std::thread::sleep(ms(150));
    }
    peer.close(1000);
}

#[test]
fn every_code_that_may_be_sent_is_echoed() {
    let _dog = watchdog(30);
    let (server, told) = telling(Config::new());
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        let mut peer = RawPeer::open(server.addr());
        peer.send(&Frame::close(code, "reason"));
        peer.expect_close(code);
        peer.expect_eof();
        let (result, closed) = closed(&told);
        assert_eq!((closed.code().into(), closed.is_clean()), (code, true));
        assert_eq!(result.is_ok(), matches!(code, 1000 | 1001), "{code}: {result:?}");
    }
}

#[test]
fn a_close_inside_a_fragmented_message_drops_the_message() {
    let _dog = watchdog(20);
    let (server, told) = telling(Config::new());
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::text("half").more());
    peer.send(&Frame::close(1000, "enough"));
    peer.expect_close(1000);
    peer.expect_eof();
    let (result, closed) = closed(&told);
    assert_eq!((result, closed.messages_received()), (Ok(()), 0));
}

#[test]
fn an_error_is_told_once_and_then_the_end_again_and_again() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client: &mut Connection| {
        let first = client.recv();
        let violation = matches!(first, Err(Error::Violation(Violation::ReservedOpcode(3))));
        // A caller that loops on errors must not spin on a success that is none.
        let again =
            (0..3).all(|_| client.recv().is_err() && client.try_recv().is_err() && client.send("x").is_err());
        tell.send((violation, again, first.err().map(|error| error.close_code()))).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::new(3, "x"));
    peer.expect_close(1002);
    peer.expect_eof();
    assert_eq!(next(&told, "the error"), (true, true, Some(threadws::CloseCode::PROTOCOL_ERROR)));
}

#[test]
fn the_close_frame_reaches_a_client_that_still_sends_much() {
    let _dog = watchdog(60);
    // Closing a socket with unread input would send an RST, and that may destroy what we have sent.
    let server = TestServer::new(|client| {
        for _ in 0..20 {
            client.send(vec![3; 64 << 10])?;
        }
        Err("and then it fails".into())
    });
    let mut peer = RawPeer::open(server.addr());
    let stream = peer.stream();
    let writer = std::thread::spawn(move || {
        use std::io::Write as _;
        let octets = Frame::binary(vec![0; 100 << 10]).encode();
        for _ in 0..5 {
            if (&stream).write_all(&octets).is_err() {
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

#[test]
fn a_client_that_does_not_end_its_side_is_not_waited_for_for_long() {
    let _dog = watchdog(30);
    let (server, told) = telling(Config::new());
    for (what, octets, code) in [
        ("a Close", Frame::close(1000, "").encode(), 1000),
        ("a violation", Frame::new(3, "").encode(), 1002),
    ] {
        let mut peer = RawPeer::open(server.addr());
        peer.write(octets);
        peer.expect_close(code);
        peer.expect_eof_alone();
        let start = Instant::now();
        next(&told, "the handler's end").1.expect("a report of the end");
        eventually("its place is free", || server.clients().is_empty());
        assert!(start.elapsed() < ms(3000), "after {what} it took {:?}", start.elapsed());
    }
}

#[test]
fn a_handler_that_ends_closes_although_others_hold_the_connection() {
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
    eventually("nobody is in", || server.clients().is_empty());
    assert_eq!(kept.lock().expect("no panic").len(), 1);
}
