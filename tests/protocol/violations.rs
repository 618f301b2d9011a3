//! Violations of the protocol or of a limit: each is answered at once with its close code, and no part reaches the
//! handler.

use std::sync::mpsc::{self};
use std::time::Instant;
use support::frame::{self, header};
use support::{Frame, PATIENCE, RawPeer, TestServer, echo, ms, next, reported_end, reporting_echo, watchdog};
use threadws::{Config, Connection, Error, Timeout, error::Violation};

/// A name, the bytes, and the close codes that are right for them.
type Case = (&'static str, Vec<u8>, &'static [u16]);

/// Runs each case on its own connection: expects the code, nothing after it, and no message in the handler.
fn breaks(config: &Config, cases: Vec<Case>) {
    let (server, rx) = reporting_echo(config.clone());
    let mut bystander = RawPeer::open(server.addr());
    for (what, bytes, codes) in cases {
        println!("{what}");
        let mut peer = RawPeer::open(server.addr());
        drop(peer.try_write(&bytes));
        let frame = peer.frame();
        match frame.close_content() {
            Some((code, _)) if frame.opcode == frame::CLOSE => {
                assert!(codes.contains(&code), "{what}: {frame:?}")
            }
            _ => panic!("{what}: expected Close {codes:?}, got {frame:?}"),
        }
        peer.expect_eof();
        let (result, closed) = reported_end(&rx);
        assert!(result.is_err(), "{what}: reported as a clean end");
        assert!(!closed.is_clean(), "{what}: {closed}");
        assert_eq!(closed.traffic().messages_received, 0, "{what}: a broken message was delivered");
        let sent = closed.sent().map(|frame| u16::from(frame.code));
        assert!(sent.is_some_and(|code| codes.contains(&code)), "{what}: {closed}");
    }
    bystander.send_text("others are not affected");
    bystander.expect_text("others are not affected");
    bystander.close(1000);
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
        ("a ping of 126 bytes", Frame::ping([0; 126]).encode(), &[1002]),
        ("a ping that announces 16 MiB", header(0x89, KEY, 16 << 20, 64), &[1002]),
        ("a ping without FIN", Frame::ping("x").more().encode(), &[1002]),
        ("a pong without FIN", Frame::pong("x").more().encode(), &[1002]),
        ("a Close without FIN", Frame::close(1000, "").more().encode(), &[1002]),
        ("a Close of 126 bytes", Frame::close(1000, &"x".repeat(124)).encode(), &[1002]),
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
        ("a Close of one byte", Frame::new(frame::CLOSE, "x").encode(), &[1002]),
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
fn a_length_above_the_limit_is_answered_at_its_header() {
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
fn messages_of_the_limit_pass_and_one_more_byte_fails() {
    let _dog = watchdog(60);
    const LIMIT: usize = 1000;
    let config = Config::new().with_max_message_size(LIMIT);
    let (server, _told) = reporting_echo(config.clone());
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
        ("a lone continuation byte", b"\x80"),
        ("a byte that never occurs", b"\xff"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong slash of three", b"\xe0\x80\xaf"),
        ("an overlong NUL of four", b"\xf0\x80\x80\x80"),
        ("a high surrogate", b"\xed\xa0\x80"),
        ("a surrogate pair", b"\xed\xa0\x80\xed\xb0\x80"),
        ("above U+10FFFF", b"\xf4\x90\x80\x80"),
        ("five bytes", b"\xf8\x88\x80\x80\x80"),
        ("truncated at the end", b"caf\xc3"),
        ("truncated in the middle", b"\xe2\x82x"),
        (
            "long and bad at its end",
            b"0123456789012345678901234567890123456789012345678901234567890123456789\xff",
        ),
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (what, bytes) in bad {
        cases.push((what, Frame::new(frame::TEXT, bytes).encode(), &[1007]));
        let fragments = |first: usize| {
            [
                Frame::new(frame::TEXT, &bytes[..first]).more().encode(),
                Frame::continuation(&bytes[first..]).encode(),
            ]
            .concat()
        };
        cases.push((what, fragments(0), &[1007]));
        cases.push((what, fragments(bytes.len() - 1), &[1007]));
        cases.push((what, fragments(bytes.len()), &[1007]));
        cases.push((what, Frame::new(frame::CLOSE, [&[3, 0xe8], bytes].concat()).encode(), &[1007]));
    }
    // The server need not wait for the end of a message that cannot become text any more.
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
    // As binary messages, all of these are accepted.
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    for (_, bytes) in bad {
        peer.send(&Frame::binary(bytes));
        peer.expect_binary(bytes);
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
    // 4096 fragments of one byte each are accepted.
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    let mut bytes = Frame::text("x").more().encode();
    bytes.extend(Frame::continuation("x").more().encode().repeat(4094));
    bytes.extend(Frame::continuation("x").encode());
    peer.write(bytes);
    peer.expect_text(&"x".repeat(4096));
    peer.close(1000);
}

#[test]
fn an_endless_message_ends_at_its_deadline() {
    let _dog = watchdog(60);
    let (server, rx) = reporting_echo(Config::new().with_message_timeout(ms(300)));
    let trickles: [(&str, Vec<u8>, Vec<u8>); 4] = [
        ("a frame byte by byte", header(0x82, KEY, 100_000, 64), vec![0]),
        (
            "a fragment now and then",
            Frame::text("x").more().encode(),
            Frame::continuation("x").more().encode(),
        ),
        ("empty fragments", Frame::text("").more().encode(), Frame::continuation("").more().encode()),
        ("nothing more, except pings", Frame::text("x").more().encode(), Frame::ping("alive").encode()),
    ];
    for (what, start, more) in trickles {
        println!("{what}");
        let mut peer = RawPeer::open(server.addr());
        let begin = Instant::now();
        peer.write(start);
        // The slow pace is the attack.
        while peer.try_write(&more).is_ok() && begin.elapsed() < ms(900) {
            std::thread::sleep(ms(10));
        }
        let code = peer.expect_close_at_last(&[1008]);
        assert_eq!(code, 1008);
        // The test may have written after the server's end of stream, and may have got a reset for that.
        peer.expect_gone();
        let (result, closed) = reported_end(&rx);
        assert_eq!(result, Err(Error::Timeout(Timeout::Message).to_string()), "{what}");
        let lived = closed.lifetime();
        assert!(lived >= ms(290) && lived < ms(300) + PATIENCE / 2, "{what}: {lived:?}");
    }
    // The time between two messages is not limited.
    let mut peer = RawPeer::open(server.addr());
    for _ in 0..3 {
        peer.send_text("x");
        peer.expect_text("x");
        std::thread::sleep(ms(150));
    }
    peer.close(1000);
}

#[test]
fn an_error_is_returned_once_and_then_the_end() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client: &mut Connection| {
        let first = client.recv();
        let violation = matches!(first, Err(Error::Violation(Violation::ReservedOpcode(3))));
        // A caller that loops on errors must not spin on a false success.
        let again =
            (0..3).all(|_| client.recv().is_err() && client.try_recv().is_err() && client.send("x").is_err());
        tx.send((violation, again, first.err().map(|error| error.close_code()))).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::new(3, "x"));
    peer.expect_close(1002);
    peer.expect_eof();
    assert_eq!(next(&rx, "the error"), (true, true, Some(threadws::CloseCode::PROTOCOL_ERROR)));
}
