//! The contents of the log: one line for each record whatever a peer writes, and no secret at any level.

#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::process::Command;
use support::{Frame, PATIENCE, Process, RawPeer, eventually, upgrade_request, watchdog};

/// Ends a line, forges one, clears the screen, rings the bell, and changes the direction of writing. Its end is not
/// UTF-8.
const ATTACK: &str = "x\r\n2026-01-01T00:00:00Z [ERROR] forged\u{1b}[2J\u{7}\u{9b}31m\u{202e}\u{2028}\u{0}y";
/// The part of it that a header can carry.
const HEADER_ATTACK: &str = "x\t[ERROR] forged\u{9b}31m\u{202e}\u{2028}y";

/// Checks that the log itself wrote each line, and that each can be shown.
#[track_caller]
fn expect_clean(log: &[String]) {
    assert!(!log.is_empty(), "nothing was logged");
    for line in log {
        let (date, rest) = line.split_at_checked(10).unwrap_or((line, ""));
        let is_date = date
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
        assert!(is_date && rest.starts_with('T') && rest.contains("Z ["), "not a line of the log: {line:?}");
        let moves = |c: char| {
            c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        };
        assert!(!line.contains(moves), "{line:?}");
        assert!(line.len() < 6000, "a line of {} bytes: {}", line.len(), &line[..200]);
    }
}

#[test]
fn bytes_of_a_peer_stay_inside_their_log_line() {
    let _dog = watchdog(60);
    for level in ["info", "debug", "trace"] {
        let options = ["--echo", "--every", "0", "--trust-proxy", "any", "--log", level];
        let server = Process::threadws(&options);
        let addr = server.addr();
        // In data, in a reason, in a ping, and in a message that is too large.
        let mut peer = RawPeer::open(addr);
        peer.send_text(ATTACK);
        peer.expect_text(ATTACK);
        peer.send(&Frame::binary(ATTACK));
        peer.expect_binary(ATTACK.as_bytes());
        peer.send(&Frame::ping(ATTACK));
        peer.send_text(&ATTACK.repeat(2000));
        peer.send(&Frame::close(4000, ATTACK));
        peer.expect_close_at_last(&[4000]);
        peer.expect_eof();
        server.wait_for_line(&[" disconnected ", "4000"]);
        // In headers that may contain it, and in others.
        for attack in [ATTACK, HEADER_ATTACK, &HEADER_ATTACK.repeat(200)] {
            for name in [
                "Host",
                "Origin",
                "User-Agent",
                "X-Forwarded-For",
                "Forwarded",
                "Sec-WebSocket-Protocol",
                "Sec-WebSocket-Key",
                "Sec-WebSocket-Version",
                "Sec-WebSocket-Extensions",
                "Upgrade",
                "Cookie",
                "X-Any",
            ] {
                let mut peer = RawPeer::connect(addr);
                peer.ask("/", &[(name, attack)]);
                drop(peer.try_answer());
            }
        }
        // In the first line, and as its method.
        for line in [
            format!("GET /{ATTACK} HTTP/1.1"),
            format!("GET /?{HEADER_ATTACK} HTTP/1.1"),
            format!("{ATTACK} / HTTP/1.1"),
            "GET /%1b%0d%0a%5bERROR%5d HTTP/1.1".into(),
        ] {
            let mut peer = RawPeer::connect(addr);
            peer.write(format!("{line}\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"));
            drop(peer.try_answer());
        }
        RawPeer::open(addr).close(1000);
        server.wait_for_line(&[" disconnected ", "1000"]);
        let log = server.log();
        expect_clean(&log);
        assert!(
            log.iter().any(|line| line.contains(r"x\r\n2026-01-01T00:00:00Z [ERROR] forged\u{1b}[2J")),
            "{log:?}"
        );
        server.stop();
    }
}

#[test]
fn no_secret_is_logged_at_any_level_by_either_side() {
    let _dog = watchdog(60);
    let server = Process::threadws(&["--echo", "--every", "0", "--log", "trace"]);
    let addr = server.addr();
    let secrets = [
        ("Authorization", "Bearer confidential-1"),
        ("Cookie", "session=confidential-2"),
        ("Proxy-Authorization", "Basic confidential-3"),
    ];
    let target = "/path?token=confidential-8";
    RawPeer::open_at(addr, target, &secrets).close(1000);
    // The same when the request fails, and when it is not for a WebSocket.
    let faults: [&[(&str, &str)]; 4] = [
        &[("Sec-WebSocket-Version", "8")],
        &[("Origin", "http://evil.example")],
        &[("Upgrade", "-")],
        &[("Host", "-")],
    ];
    for fault in faults {
        let mut peer = RawPeer::connect(addr);
        peer.ask(target, &[&secrets[..], fault].concat());
        assert_ne!(peer.answer().status, 101);
    }
    let mut peer = RawPeer::connect(addr);
    peer.write(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(peer.answer().status, 404);
    let mut peer = RawPeer::connect(addr);
    peer.write("GET /?confidential-9 HTTP/1.1\r\nHost: x\r\nAuthorization: confidential-4\r\nCookie: confidential-5\r\nbroken line\r\n\r\n");
    assert_eq!(peer.answer().status, 400);

    let unused =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound");
    for addr in [addr, unused] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
        let url = format!("ws://me:confidential-6@{addr}/path?token=confidential-10");
        command.args(["connect", "--once", "--log", "trace", "--header", "Cookie: confidential-7", &url]);
        let mut client = Process::with_pipe(command);
        client.write("hello\n");
        client.end_input();
        let status = client.wait(PATIENCE);
        assert_eq!(status.success(), addr != unused, "{:?}", client.log());
        let said = [client.log(), client.stdout()].concat();
        assert!(!said.iter().any(|line| line.contains("confidential")), "{said:?}");
        assert!(!said.iter().any(|line| line.contains("bWU6dGVsbC1ub2JvZHk")), "in Base64: {said:?}");
    }
    server.wait_for_lines(&[" disconnected "], 2);
    let log = server.log();
    assert!(log.iter().any(|line| line.contains("[DEBUG]")), "not at the level that shows it: {log:?}");
    let logged =
        log.iter().find(|line| line.contains("confidential") || line.contains("bWU6dGVsbC1ub2JvZHk"));
    assert!(logged.is_none(), "{logged:?}");
    expect_clean(&log);
    server.stop();
}

#[test]
fn bad_handshakes_are_logged_at_debug_only() {
    let _dog = watchdog(60);
    let server = Process::threadws(&["--echo", "--every", "0", "--log", "info"]);
    for number in 0..1000 {
        let mut peer = RawPeer::connect(server.addr());
        match number % 4 {
            0 => peer.reset(),
            1 => peer.fin(),
            2 => drop(peer.try_write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")), // TLS
            _ => {
                peer.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                drop(peer.try_answer());
            }
        }
    }
    eventually("all have left", || server.usage().threads < 50);
    RawPeer::open(server.addr()).close(1000);
    server.wait_for_line(&[" disconnected "]);
    // Listening, connected, disconnected.
    let log = server.log();
    assert_eq!(log.len(), 3, "{log:?}");
    server.stop();
}

#[test]
fn a_bad_handshake_is_one_line_at_debug() {
    let _dog = watchdog(60);
    let server = Process::threadws(&["--echo", "--every", "0", "--log", "debug"]);
    let upgrade = |headers: &[(&str, &str)]| upgrade_request(server.addr(), "/", headers).into_bytes();
    let bad: [Vec<u8>; 9] = [
        upgrade_request(server.addr(), "/", &[]).replacen("GET", "BREW", 1).into_bytes(),
        b"GET / HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x00\x01\x02\x03".to_vec(),
        b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
        b"\x00\xff\xfe\x80\r\n\r\n\x01\x02".to_vec(),
        format!("GET /{}", "a".repeat(1 << 17)).into_bytes(),
        upgrade(&[("Sec-WebSocket-Version", "8")]),
        upgrade(&[("Origin", "http://evil.example")]),
    ];
    let mut from = Vec::new();
    for bytes in &bad {
        let mut peer = RawPeer::connect(server.addr());
        from.push(peer.local_addr().to_string());
        drop(peer.try_write(bytes)); // The server need not read to the end.
        let answer = peer.answer();
        assert!(answer.status >= 400, "{}", answer.head);
    }
    for peer in &from {
        server.wait_for_line(&["[DEBUG]", peer]);
    }
    // The end of a later client is logged later.
    RawPeer::open(server.addr()).close(1000);
    server.wait_for_line(&[" disconnected "]);
    let log = server.log();
    for peer in &from {
        let lines: Vec<_> = log.iter().filter(|line| line.contains(peer.as_str())).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    let others = log.iter().filter(|line| !from.iter().any(|peer| line.contains(peer.as_str())));
    let others: Vec<_> = others.collect();
    // Listening, and for the accepted client: connected, opened, disconnected, closed.
    assert!(others.len() <= 5, "{others:?}");
    server.stop();
}

#[test]
fn a_full_server_is_logged_once_a_second() {
    let _dog = watchdog(60);
    let server = Process::threadws(&["--echo", "--every", "0", "--max-clients", "2"]);
    let start = std::time::Instant::now();
    let _inside = [RawPeer::open(server.addr()), RawPeer::open(server.addr())];
    for _ in 0..500 {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        drop(peer.try_answer());
    }
    let logged = server.log().into_iter().filter(|line| line.contains("full: ")).count();
    let seconds = usize::try_from(start.elapsed().as_secs()).expect("few") + 1;
    assert!((1..=seconds).contains(&logged), "{logged} lines in {seconds} s");
    server.signal(Signal::TERM);
}
