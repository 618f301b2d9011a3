//! `threadws --topics`, `--slow-peer` and `GET /metrics`: the real binary, from the outside.

#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use support::{Frame, PATIENCE, Process, RawPeer, eventually, watchdog};

/// Returns a client that is a member of its path's topic, because its own message came back.
fn member(addr: SocketAddr, target: &str) -> RawPeer {
    let mut peer = RawPeer::open_at(addr, target, &[]);
    let hello = format!("hello from {:?}", peer.local_addr());
    peer.send_text(&hello);
    peer.expect_text(&hello);
    peer
}

/// Returns the whole answer to a plain GET.
fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    answer
}

/// Returns the samples by name and labels. Fails if the text is not in the exposition format.
fn metrics(addr: SocketAddr) -> BTreeMap<String, f64> {
    let answer = get(addr, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.ends_with('\n'), "{body}");
    let mut typed = Vec::new();
    let mut samples = BTreeMap::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next(), words.next().expect("a name"));
            match kind {
                Some("HELP") => assert!(words.next().is_some_and(|help| !help.is_empty()), "{line}"),
                Some("TYPE") => typed.push(name.to_owned()),
                _ => panic!("neither HELP nor TYPE: {line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let family = typed.last().expect("a TYPE goes before");
        assert!(name.starts_with(family.as_str()) && name.starts_with("threadws_"), "{line} in {family}");
        let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

#[test]
fn a_message_reaches_the_members_of_its_room_only() {
    let _watchdog = watchdog(30);
    let server = Process::threadws(&["--topics", "--every", "0", "-v"]);
    let addr = server.addr();
    let mut first = member(addr, "/room/7");
    let mut other_room = member(addr, "/room/8");
    let mut root = member(addr, "/");
    // The query is not a part of the room's name.
    let mut second = member(addr, "/room/7?token=1");
    let hello = format!("hello from {:?}", second.local_addr());
    first.expect_text(&hello);

    first.send_text("text");
    second.send(&Frame::binary(vec![0, 255]));
    // Two clients publish. Each has its own message in order, and the other's message may be before or after it.
    for peer in [&mut first, &mut second] {
        let mut got = [peer.message(), peer.message()].map(|frame| frame.payload);
        got.sort();
        assert_eq!(got, [vec![0, 255], b"text".to_vec()]);
    }
    // No message has crossed, because the next message of the others is their own.
    for (peer, text) in [(&mut other_room, "eight"), (&mut root, "root")] {
        peer.send_text(text);
        peer.expect_text(text);
    }
    second.close(1000);
    server.wait_for_line(&["[DEBUG]", "client 4 left \"/room/7\""]);
    server.wait_for_line(&["[DEBUG]", "client 1 joined \"/room/7\""]);
    first.send_text("alone");
    first.expect_text("alone");
    server.stop();
}

#[test]
fn a_room_serves_the_page_and_limits_its_name() {
    let _watchdog = watchdog(30);
    let server = Process::threadws(&["--topics", "--every", "0", "-q"]);
    for path in ["/", "/room/7", "/a/b/c"] {
        let page = get(server.addr(), path);
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<!doctype html>"), "{path}: {page}");
    }
    assert!(get(server.addr(), "/healthz").ends_with("\r\n\r\nok"));
    drop(member(server.addr(), &format!("/{}", "x".repeat(255))));
    let mut peer = RawPeer::connect(server.addr());
    peer.ask(&format!("/{}", "x".repeat(256)), &[]);
    peer.expect_refusal(414);
    assert_eq!(server.log(), [""; 0], "subscriptions are logged at debug only");
}

#[test]
fn metrics_are_served_with_and_without_a_page() {
    let _watchdog = watchdog(30);
    for page in [&["--topics", "--every", "0"][..], &["--topics", "--every", "0", "--no-page"]] {
        let server = Process::threadws(page);
        let addr = server.addr();
        let before = metrics(addr);
        assert_eq!(before["threadws_connections_open"], 0.0);
        assert_eq!(before["threadws_messages_received_total"], 0.0);

        let mut first = member(addr, "/room/7");
        let mut second = member(addr, "/room/7");
        first.frame();
        first.send_text("two get it");
        second.expect_text("two get it");
        first.expect_text("two get it");
        let mut refused = RawPeer::connect(addr);
        refused.ask("/", &[("Sec-WebSocket-Version", "12")]);
        refused.answer();
        drop(refused);

        second.close(1000);
        eventually("the second one has left", || metrics(addr)["threadws_connections_open"] == 1.0);
        // It is counted after the linger time of the refused client.
        let failures = r#"threadws_handshake_failures_total{status="426"}"#;
        eventually("the refusal is counted", || metrics(addr).get(failures) == Some(&1.0));
        let after = metrics(addr);
        let count = |name: &str| after[&format!("threadws_{name}")];
        assert_eq!(count("connections_opened_total"), 2.0);
        assert_eq!(count("messages_sent_total"), 5.0);
        assert_eq!(count("messages_skipped_total"), 0.0);
        assert_eq!(count("slow_peers_closed_total"), 0.0);
        assert!(count("connections_accepted_total") >= 5.0, "{after:?}");
        assert!(count("sent_bytes_total") > 60.0 && count("received_bytes_total") > 40.0, "{after:?}");
        assert!(count("threads") >= 1.0, "{after:?}");
    }
}

/// The cost of a peer that never reads: megabytes that the kernel takes, 1 MiB of backlog, and then the policy applies.
fn flood(server: &Process, until: impl Fn(&BTreeMap<String, f64>) -> bool) {
    let addr = server.addr();
    let stuck = RawPeer::open_at(addr, "/room/7", &[]);
    let mut loud = member(addr, "/room/7");
    let message = Frame::binary(vec![7; 64 * 1024]);
    let mut count = 0;
    while !until(&metrics(addr)) {
        assert!(count < 400, "no effect after 25 MB: {:?}", metrics(addr));
        for _ in 0..10 {
            loud.send(&message);
            assert_eq!(loud.message().payload.len(), 64 * 1024, "the sender reads every message");
            count += 1;
        }
    }
    drop(stuck);
}

#[test]
fn the_option_closes_or_skips_a_slow_peer() {
    let _watchdog = watchdog(30);
    let closing = Process::threadws(&["--topics", "--every", "0", "-q"]);
    flood(&closing, |metrics| metrics["threadws_slow_peers_closed_total"] == 1.0);
    eventually("it is gone", || metrics(closing.addr())["threadws_messages_skipped_total"] == 0.0);

    let skipping = Process::threadws(&["--topics", "--every", "0", "-q", "--slow-peer", "skip"]);
    flood(&skipping, |metrics| metrics["threadws_messages_skipped_total"] >= 10.0);
    assert_eq!(metrics(skipping.addr())["threadws_slow_peers_closed_total"], 0.0);
}
