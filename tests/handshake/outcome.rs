//! The result of a handshake: a WebSocket, or an HTTP answer with the reason.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use support::raw_peer::ACCEPT;
use support::{
    Frame, PATIENCE, RawPeer, TestServer, echo, eventually, expect_echo, ms, upgrade_request, watchdog,
};
use threadws::Config;

/// Headers of a request, and the statuses that are right for it.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u16]);

/// The address in a request whose address is not compared with that of the socket.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

#[test]
fn a_handshake_is_answered_word_for_word() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::connect(server.addr());
    peer.ask(
        "/any/path?with=query",
        &[("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")],
    );
    let answer = peer.expect_101();
    let mut lines = answer.head.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 101 Switching Protocols"));
    let mut headers: Vec<_> = lines.filter(|line| !line.is_empty()).map(str::to_ascii_lowercase).collect();
    headers.sort();
    let accept = format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase());
    assert_eq!(headers, ["connection: upgrade", &accept, "upgrade: websocket"]);
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    peer.close(1000);
}

#[test]
fn a_silent_client_is_disconnected_at_the_handshake_timeout() {
    let _dog = watchdog(20);
    let config = Config::new().with_handshake_timeout(ms(300));
    let server = TestServer::with(|server| server.config(config).max_clients(3), echo);
    let start = Instant::now();
    let mut silent: Vec<_> = (0..3).map(|_| RawPeer::connect(server.addr())).collect();
    silent[1].write("GET / HTTP/1.1\r\nHost: x\r\n");
    RawPeer::connect(server.addr()).expect_refusal(503); // All places are taken ...
    for mut peer in silent {
        if let Ok(Some(answer)) = peer.try_answer() {
            assert_eq!(answer.status, 408, "{}", answer.head);
        }
        peer.expect_gone();
    }
    let took = start.elapsed();
    assert!(took >= ms(250) && took < ms(300) + PATIENCE / 2, "disconnected after {took:?}");
    // ... until then, and are free again now. The server may need a moment to notice.
    eventually("a place is free", || {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.answer().status == 101
    });
}

#[test]
fn one_byte_at_a_time_does_not_stretch_the_handshake() {
    let _dog = watchdog(20);
    let server =
        TestServer::with(|server| server.config(Config::new().with_handshake_timeout(ms(300))), echo);
    let mut peer = RawPeer::connect(server.addr());
    let request = upgrade_request(server.addr(), "/", &[]);
    let start = Instant::now();
    // The slow pace is the attack. The whole request would take about 4 s.
    let read = request.as_bytes().iter().take_while(|byte| {
        std::thread::sleep(ms(20));
        peer.try_write(&[**byte]).is_ok()
    });
    let read = read.count();
    assert!(read < request.len(), "the whole request was read, in {:?}", start.elapsed());
    peer.expect_gone();
}

#[test]
fn an_endless_head_is_refused_at_its_limit() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let cases: [(&str, String, &[u16]); 4] = [
        ("a target of 1 MB", format!("GET /{}", "a".repeat(1 << 20)), &[414, 431]),
        ("a header line of 1 MB", format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "a".repeat(1 << 20)), &[431]),
        ("2000 headers", format!("GET / HTTP/1.1\r\nHost: x\r\n{}", "X-Y: z\r\n".repeat(2000)), &[431]),
        ("125 headers", format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Y: z\r\n".repeat(125)), &[431]),
    ];
    for (what, head, statuses) in cases {
        println!("{what}");
        let mut peer = RawPeer::connect(server.addr());
        drop(peer.try_write(head.as_bytes())); // The server need not read all of it.
        peer.expect_refusal_in(statuses);
    }
    expect_echo(&server);
}

#[test]
fn a_hundred_headers_are_accepted_and_one_more_is_refused() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    for (more, status) in [(95, 101), (96, 431)] {
        let headers = vec![("X-Filler", "y"); more]; // Every upgrade has five more.
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &headers);
        if status == 101 {
            peer.expect_101();
            peer.close(1000);
        } else {
            peer.expect_refusal(status);
        }
    }
}

#[test]
fn requests_other_than_http_1_1_are_refused() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    let cases: [(&str, &[u8], &[u16]); 10] = [
        ("an unknown method", b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", &[400, 405, 501]),
        ("POST", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", &[405]),
        (
            "an upgrade by POST",
            b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            &[400, 405],
        ),
        (
            "HTTP/1.0",
            b"GET / HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            &[400, 426, 505],
        ),
        ("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 405, 505]),
        ("a TLS ClientHello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x00\x01\x02\x03", &[400]),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1\r\n", &[400]),
        ("noise", b"\x00\xff\xfe\x80\r\n\r\n\x01\x02", &[400]),
        ("an empty request line", b"\r\n \r\n\r\n", &[400]),
        ("no version", b"GET /\r\n\r\n", &[400, 505]),
    ];
    for (what, bytes, statuses) in cases {
        println!("{what}");
        let start = Instant::now();
        let mut peer = RawPeer::connect(server.addr());
        peer.write(bytes);
        let answer = peer.expect_refusal_in(statuses);
        if answer.status == 405 {
            assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{}", answer.head);
        }
        assert!(start.elapsed() < PATIENCE, "{what}: waited for a head that cannot come any more");
    }
    expect_echo(&server);
}

#[test]
fn an_upgrade_to_something_else_is_refused() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let cases: &[Case<'_>] = &[
        (&[("Upgrade", "-")], &[400, 426]),
        (&[("Upgrade", "h2c")], &[400, 426]),
        (&[("Connection", "-")], &[400, 426]),
        (&[("Connection", "keep-alive")], &[400, 426]),
        (&[("Sec-WebSocket-Key", "-")], &[400]),
        (&[("Sec-WebSocket-Key", "")], &[400]),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ==")], &[400]), // 10 bytes
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSE=")], &[400]), // 17
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j!Q==")], &[400]),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")], &[400]), // no padding
        (&[("Sec-WebSocket-Version", "-")], &[400, 426]),
        (&[("Sec-WebSocket-Version", "12")], &[426]),
        (&[("Sec-WebSocket-Version", "8")], &[426]),
        (&[("Sec-WebSocket-Version", "013")], &[400, 426]),
        (&[("Sec-WebSocket-Version", "x")], &[400, 426]),
        // Two of a header that may occur once:
        (
            &[("Sec-WebSocket-Key", support::raw_peer::KEY), ("Sec-WebSocket-Key", support::raw_peer::KEY)],
            &[400],
        ),
        (&[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "13")], &[400, 426]),
        (&[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "8")], &[400, 426]),
        (&[("Host", "a.example"), ("Host", "b.example")], &[400]),
        (&[("Host", "-")], &[400]),
        // A body would be read as frames:
        (&[("Content-Length", "5")], &[400]),
        (&[("Content-Length", "x")], &[400]),
        (&[("Content-Length", "0"), ("Content-Length", "5")], &[400]),
        (&[("Transfer-Encoding", "chunked")], &[400]),
        (&[("Transfer-Encoding", "identity")], &[400]),
    ];
    for (headers, statuses) in cases {
        println!("{headers:?}");
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", headers);
        let answer = peer.expect_refusal_in(statuses);
        if answer.status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{}", answer.head);
        }
    }
    expect_echo(&server);
}

#[test]
fn ambiguous_lines_are_refused() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let good = upgrade_request(server.addr(), "/", &[]);
    let with = |line: &str| good.replacen("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"), 1);
    let cases = [
        ("bare LF", good.replace("\r\n", "\n")),
        ("one bare LF", good.replacen("\r\nUpgrade", "\nUpgrade", 1)),
        ("a folded line", with("X-Long: one\r\n two")),
        ("a space before the colon", with("X-Space : y")),
        ("a NUL in a value", with("X-Nul: a\0b")),
        ("a CR in a value", with("X-Cr: a\rb")),
        ("a line without a colon", with("nothing")),
        ("a line without a name", with(": y")),
        ("a space in a name", with("X Y: z")),
        ("a space in the target", good.replacen("GET / ", "GET /a b ", 1)),
        ("a control character in the target", good.replacen("GET / ", "GET /\x01 ", 1)),
    ];
    for (what, request) in cases {
        println!("{what}");
        let mut peer = RawPeer::connect(server.addr());
        peer.write(request);
        peer.expect_refusal(400);
    }
    expect_echo(&server);
}

#[test]
fn requests_of_real_browsers_and_proxies_are_accepted() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    let cases: &[&[(&str, &str)]] = &[
        &[("Connection", "keep-alive, Upgrade")],
        &[("Connection", "keep-alive"), ("Connection", "Upgrade")],
        &[("Connection", "UPGRADE")],
        &[("Connection", "Upgrade,")],
        &[("Upgrade", "WebSocket")],
        &[("Upgrade", "h2c, websocket")],
        &[("upgrade", "websocket"), ("connection", "upgrade"), ("HOST", "anything.example:8005")],
        &[("Content-Length", "0")],
        &[
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
            ("Sec-WebSocket-Extensions", "x-unknown; a=\"b\""),
        ],
        &[("Sec-WebSocket-Protocol", "unknown, to, the, server")],
        &[("Cookie", "a=b; c=d"), ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"), ("Pragma", "no-cache")],
        &[("X-Empty", "")],
    ];
    for headers in cases {
        println!("{headers:?}");
        let mut peer = RawPeer::connect(server.addr());
        let answer = peer.upgrade("/", headers);
        assert_eq!(answer.header("sec-websocket-extensions"), None, "none was agreed on");
        assert_eq!(answer.header("sec-websocket-protocol"), None, "none was agreed on");
        peer.send_text("hello");
        peer.expect_text("hello");
        peer.close(1000);
    }
}

/// The answer is for the key as it was sent. In the first key, which is the example of RFC 6455 §4.1, and in the second
/// one, which deployed agents send (MeshAgent#369), the bits after the 16 bytes are not zero.
#[test]
fn a_key_with_nonzero_pad_bits_is_answered() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "dGhlIHNhbXBsZSBub25jZR=="] {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[("Sec-WebSocket-Key", key)]);
        let answer = peer.answer();
        assert_eq!(answer.status, 101, "{key}: {}", answer.head);
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        assert_eq!(answer.header("sec-websocket-accept"), Some(accept.as_str()));
        peer.send_text("hello");
        peer.expect_text("hello");
        peer.close(1000);
    }
}

/// RFC 9110 §2.5: a later minor version is processed as the last one that is known.
#[test]
fn http_1_2_is_answered_as_1_1() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        client.send(format!("{:?}", client.request().version()))?;
        echo(client)
    });
    let mut peer = RawPeer::connect(server.addr());
    peer.write(upgrade_request(server.addr(), "/", &[]).replace("HTTP/1.1", "HTTP/1.2"));
    let answer = peer.expect_101();
    assert!(answer.head.starts_with("HTTP/1.1 101 "), "{}", answer.head);
    peer.expect_text("HTTP/1.1");
    peer.close(1000);
}

#[test]
fn bytes_behind_the_head_are_the_first_frames() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    let request = upgrade_request(server.addr(), "/", &[]).into_bytes();
    let frame = Frame::text("early").encode();
    let whole = [&request[..], &frame].concat();
    // The first frame comes in one segment with the head, a moment later, or torn in its middle.
    for first in [whole.len(), request.len(), request.len() + 3, request.len() - 2] {
        let mut peer = RawPeer::connect(server.addr());
        peer.write(&whole[..first]);
        std::thread::sleep(ms(1)); // The test shows that the pause makes no difference.
        peer.write(&whole[first..]);
        peer.expect_101();
        peer.expect_text("early");
        peer.close(1000);
    }
    // More than any read buffer holds.
    let large = vec![7; 300_000];
    let mut peer = RawPeer::connect(server.addr());
    peer.write([&request[..], &Frame::binary(large.clone()).encode()].concat());
    peer.expect_101();
    peer.expect_binary(&large);
    peer.close(1000);
}

#[test]
fn nothing_is_sent_before_the_101() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        client.send("first words")?;
        echo(client)
    });
    for _ in 0..20 {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.expect_101();
        peer.expect_text("first words");
        peer.close(1000);
    }
}

#[test]
fn a_client_that_vanishes_during_the_handshake_leaves_nothing() {
    let _dog = watchdog(30);
    let (starts, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&starts), Arc::clone(&ends));
    let server = TestServer::new(move |client| {
        counts.0.fetch_add(1, Ordering::SeqCst);
        let result = echo(client);
        counts.1.fetch_add(1, Ordering::SeqCst);
        result
    });
    for _ in 0..20 {
        RawPeer::connect(server.addr()).reset();
        let mut half = RawPeer::connect(server.addr());
        half.write("GET / HTTP/1.1\r\nHo");
        half.reset();
        let mut whole = RawPeer::connect(server.addr());
        whole.ask("/", &[]);
        whole.reset();
        let mut done = RawPeer::connect(server.addr());
        done.ask("/", &[]);
        done.fin();
        done.expect_gone();
    }
    expect_echo(&server);
    eventually("all are gone", || server.hub().count() == 0);
    eventually("each handler that began has ended", || {
        starts.load(Ordering::SeqCst) == ends.load(Ordering::SeqCst) && starts.load(Ordering::SeqCst) > 0
    });
}

#[test]
fn a_full_server_answers_503_at_once_and_recovers() {
    let _dog = watchdog(30);
    let server = TestServer::with(|server| server.max_clients(3), echo);
    let mut inside: Vec<_> = (0..3).map(|_| RawPeer::open(server.addr())).collect();
    let mut delays = [(); 21].map(|()| {
        let start = Instant::now();
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.expect_refusal(503);
        start.elapsed()
    });
    delays.sort();
    // The machine may delay some of them.
    assert!(delays[10] < ms(100) && delays[20] < PATIENCE / 2, "refused after {delays:?}");
    for peer in &mut inside {
        peer.send_text("hello");
        peer.expect_text("hello");
    }
    inside.pop().expect("three").close(1000);
    eventually("the place is free again", || {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.answer().status == 101
    });
}

#[test]
fn bytes_that_are_not_ascii_break_no_header() {
    let _dog = watchdog(60);
    let server = TestServer::with(
        |server| {
            server.subprotocols(["chat"]).check_request(|request, _| {
                for name in request.headers().keys() {
                    request.header(name.as_str());
                }
                Ok(())
            })
        },
        echo,
    );
    let names = [
        "Host",
        "Origin",
        "Upgrade",
        "Connection",
        "Cookie",
        "X-Forwarded-For",
        "Forwarded",
        "User-Agent",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Content-Length",
        "Transfer-Encoding",
        "Authorization",
    ];
    let values: [&[u8]; 6] = [
        b"\xff",
        b"\x80\x81\x82",
        "caf\u{e9}".as_bytes(),
        "\u{c548}\u{b155}".as_bytes(),
        b"\xc3",
        b"a\xf0\x9f,b",
    ];
    for name in names {
        for value in values {
            let request = upgrade_request(ANYWHERE, "/", &[(name, "-")]).into_bytes();
            let line = [name.as_bytes(), b": ", value, b"\r\n\r\n"].concat();
            let mut peer = RawPeer::connect(server.addr());
            peer.write([&request[..request.len() - 2], &line].concat());
            let answer = peer.answer();
            assert!(matches!(answer.status, 101 | 400 | 403 | 426), "{name} {value:?}: {}", answer.head);
        }
    }
    expect_echo(&server);
}

#[test]
fn any_bytes_get_an_answer() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    let good = upgrade_request(server.addr(), "/", &[]).into_bytes();
    // A linear congruential generator (Knuth's MMIX), which generates the same requests in every run.
    let mut state = 8005_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % limit
    };
    for _ in 0..300 {
        let mut request = good.clone();
        for _ in 0..=below(3) {
            let at = below(request.len());
            match below(3) {
                0 => request[at] = u8::try_from(below(256)).expect("a byte"),
                1 => drop(request.remove(at)),
                _ => request.insert(at, u8::try_from(below(256)).expect("a byte")),
            }
        }
        let mut peer = RawPeer::connect(server.addr());
        peer.write(&request);
        peer.fin(); // Otherwise the server would wait for the end of a head that has none.
        // After a panic there would be a 500, or an end without an answer.
        let answer = peer.answer();
        let expected = matches!(answer.status, 101 | 400 | 403 | 405 | 414 | 426 | 431 | 505);
        assert!(expected, "{}\nfor {}", answer.head, request.escape_ascii());
        peer.expect_gone();
    }
    expect_echo(&server);
    eventually("all are gone", || server.hub().count() == 0);
}
