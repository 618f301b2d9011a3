//! Records of a peer that can send any record at any time: how they are cut into messages, and how bad ones end.

use crate::server_tls;
use crate::tls_peer::{ALERT, CLOSE_NOTIFY, ContentType, DATA, HANDSHAKE, TlsPeer};
use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;
use support::{Frame, PATIENCE, TestServer, echo, ms, next, watchdog};
use threadws::tls::rustls::version::{TLS12, TLS13};
use threadws::{Closed, Config};

/// Starts an echo server that reports the end of each connection.
fn reporting(config: Config) -> (TestServer, Receiver<Closed>) {
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config).tls(server_tls("server")),
        move |client| {
            let result = echo(client);
            // An answer that cannot be sent ends the echo, and the end is still to be received.
            while client.recv().is_ok_and(|message| message.is_some()) {}
            tx.send(client.closed().expect("it has ended").clone()).unwrap_or(());
            result
        },
    );
    (server, rx)
}

fn text(text: &str) -> Vec<u8> {
    Frame::text(text).encode()
}

#[test]
fn no_message_waits_however_its_records_are_cut() {
    let _dog = watchdog(30);
    let (server, _ends) = reporting(Config::new());
    for version in [&TLS12, &TLS13] {
        let mut peer = TlsPeer::open_with(server.addr(), version);
        // Three messages in one record.
        peer.send(DATA, &[text("a"), text("b"), text("c")].concat());
        for text in ["a", "b", "c"] {
            peer.expect_text(text);
        }
        // One message in a record for each byte, in one packet, among empty records.
        let mut records = Vec::new();
        for byte in text("one message") {
            records.extend(peer.seal(DATA, &[byte]));
            records.extend(peer.seal(DATA, &[]));
        }
        peer.write(&records);
        peer.expect_text("one message");
        // A record and a part of the next one, cut at each byte.
        for cut in 0..30 {
            let (first, second) = (peer.seal(DATA, &text("first")), peer.seal(DATA, &text("second")));
            let (start, rest) = second.split_at(cut);
            peer.write(&[&*first, start].concat());
            peer.expect_text("first");
            peer.write(rest);
            peer.expect_text("second");
        }
        // Records of the largest size, one after the other.
        let large = "x".repeat(100_000);
        let frame = text(&large);
        let records: Vec<u8> = frame.chunks(16384).flat_map(|part| peer.seal(DATA, part)).collect();
        peer.write(&records);
        peer.expect_text(&large);
    }
}

#[test]
fn a_part_of_a_record_fills_no_buffer() {
    let _dog = watchdog(60);
    let (server, _ends) = reporting(Config::new());
    let mut peer = TlsPeer::open(server.addr());
    let large = "x".repeat(16000);
    // The sizes of the reader's buffers, and one byte around them. Then the peer is silent, and the buffer is shrunk.
    for cut in [511, 512, 513, 4095, 4096, 4097] {
        let record = peer.seal(DATA, &text(&large));
        let (start, rest) = record.split_at(cut);
        peer.write(start);
        std::thread::sleep(ms(100));
        peer.write(rest);
        peer.expect_text(&large);
    }
}

#[test]
fn a_part_of_a_record_starts_the_message_clock() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new().with_message_timeout(ms(300)));
    let mut peer = TlsPeer::open(server.addr());
    let record = peer.seal(DATA, &text("too slow"));
    let start = Instant::now();
    for byte in &record[..6] {
        peer.write(&[*byte]);
        std::thread::sleep(ms(40));
    }
    let close = peer.next_frame();
    assert_eq!(close.close_content().expect("a code").0, 1008);
    assert!(start.elapsed() < PATIENCE / 2);
    assert_eq!(peer.last_alert().as_deref(), Some(CLOSE_NOTIFY));
    next(&ends, "the end");
}

#[test]
fn at_most_32_records_without_data_follow_each_other() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new());
    let mut peer = TlsPeer::open(server.addr());
    for _ in 0..40 {
        for _ in 0..32 {
            peer.send(DATA, &[]);
        }
        peer.send(DATA, &text("life"));
        peer.expect_text("life");
    }
    for version in [&TLS12, &TLS13] {
        let mut peer = TlsPeer::open_with(server.addr(), version);
        for _ in 0..33 {
            peer.send(DATA, &[]);
        }
        expect_flood_ends(peer, &ends);
    }
    // Other records without data count, too.
    let mut peer = TlsPeer::open(server.addr());
    for number in 0..33 {
        if number % 2 == 0 { peer.send(DATA, &[]) } else { peer.update_keys(false) }
    }
    expect_flood_ends(peer, &ends);
}

#[track_caller]
fn expect_flood_ends(mut peer: TlsPeer, ends: &Receiver<Closed>) {
    assert_eq!(peer.last_alert().as_deref(), Some(CLOSE_NOTIFY));
    drop(peer);
    let closed = next(ends, "the end");
    assert!(closed.to_string().ends_with("TLS failed: too many records without data"), "{closed}");
    assert_eq!(closed.code(), 1006);
}

#[test]
fn a_thousand_records_with_data_are_no_flood() {
    let _dog = watchdog(30);
    let (server, _ends) = reporting(Config::new());
    let mut peer = TlsPeer::open(server.addr());
    let frame = text(&"x".repeat(998));
    let records: Vec<u8> = frame.chunks(1).flat_map(|byte| peer.seal(DATA, byte)).collect();
    peer.write(&records);
    peer.expect_text(&"x".repeat(998));
}

#[test]
fn a_changed_record_is_answered_by_an_alert() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new());
    for version in [&TLS12, &TLS13] {
        let mut peer = TlsPeer::open_with(server.addr(), version);
        let before = peer.seal(DATA, &text("before"));
        let mut record = peer.seal(DATA, &text("changed"));
        *record.last_mut().expect("it is not empty") ^= 1;
        peer.write(&[before, record].concat());
        // More input follows the alert, and must not be answered by an RST, which could destroy the alert.
        for _ in 0..5 {
            std::thread::sleep(ms(20));
            peer.write(&[23; 20_000]);
        }
        // bad_record_mac
        assert_eq!(peer.last_alert().as_deref(), Some(&[2, 20][..]));
        drop(peer);
        let closed = next(&ends, "the end");
        assert!(closed.to_string().ends_with("a record cannot be decrypted"), "{closed}");
        assert_eq!((u16::from(closed.code()), closed.traffic().messages_received), (1006, 1));
    }
}

#[test]
fn no_record_that_breaks_a_rule_causes_a_panic() {
    let _dog = watchdog(60);
    let (server, ends) = reporting(Config::new());
    let big_handshake = [&[4, 0, 255, 255][..], &[0; 16000]].concat();
    type Attack = Box<dyn Fn(&mut TlsPeer) -> Vec<u8>>;
    let attacks: Vec<(&str, Attack)> = vec![
        ("an unknown type", Box::new(|peer| peer.seal(ContentType::Unknown(99), b"x"))),
        ("a heartbeat", Box::new(|peer| peer.seal(ContentType::Heartbeat, b"x"))),
        ("a sealed ChangeCipherSpec", Box::new(|peer| peer.seal(ContentType::ChangeCipherSpec, &[1]))),
        ("a plain ChangeCipherSpec", Box::new(|_| vec![20, 3, 3, 0, 1, 1])),
        ("a plain alert", Box::new(|_| vec![21, 3, 3, 0, 2, 2, 40])),
        ("a plain record", Box::new(|_| [&[23, 3, 3, 0, 20][..], &[0; 20]].concat())),
        ("a record too short for a tag", Box::new(|_| vec![23, 3, 3, 0, 1, 0])),
        ("an empty record", Box::new(|_| vec![23, 3, 3, 0, 0])),
        ("a length above the limit", Box::new(|_| vec![23, 3, 3, 255, 255])),
        ("HTTP", Box::new(|_| b"GET / HTTP/1.1\r\n\r\n".to_vec())),
        ("zeros", Box::new(|_| vec![0; 100])),
        ("an oversize record", Box::new(|peer| peer.seal(DATA, &[0; 16385]))),
        ("an alert of one byte", Box::new(|peer| peer.seal(ALERT, &[2]))),
        ("an alert of an unknown level", Box::new(|peer| peer.seal(ALERT, &[9, 9]))),
        ("a fatal alert", Box::new(|peer| peer.seal(ALERT, &[2, 80]))),
        ("an empty handshake message", Box::new(|peer| peer.seal(HANDSHAKE, &[]))),
        ("a ClientHello", Box::new(|peer| peer.seal(HANDSHAKE, &[1, 0, 0, 0]))),
        ("a ticket for a server", Box::new(|peer| peer.seal(HANDSHAKE, &[4, 0, 0, 0]))),
        ("a KeyUpdate of 7", Box::new(|peer| peer.seal(HANDSHAKE, &[24, 0, 0, 1, 7]))),
        ("a KeyUpdate without a body", Box::new(|peer| peer.seal(HANDSHAKE, &[24, 0, 0, 0]))),
        ("a KeyUpdate and half a message", Box::new(|peer| peer.seal(HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0]))),
        (
            "half a message, then data",
            Box::new(|peer| [peer.seal(HANDSHAKE, &[24, 0]), peer.seal(DATA, &text("x"))].concat()),
        ),
        (
            "a message of 64 KiB",
            Box::new(move |peer| (0..5).flat_map(|_| peer.seal(HANDSHAKE, &big_handshake)).collect()),
        ),
        (
            "user_canceled five times",
            Box::new(|peer| (0..5).flat_map(|_| peer.seal(ALERT, &[1, 90])).collect()),
        ),
    ];
    for (what, attack) in attacks {
        let mut peer = TlsPeer::open(server.addr());
        peer.send(DATA, &text("before"));
        peer.expect_text("before");
        let bytes = attack(&mut peer);
        peer.write(&bytes);
        peer.stream.shutdown(Shutdown::Write).expect("it is open");
        while peer.read_record().is_ok() {}
        let closed = next(&ends, what);
        assert_eq!((closed.code() == 1006, closed.is_clean()), (true, false), "{what}: {closed}");
        let is_error = closed.to_string().contains("TLS failed");
        assert!(is_error || closed.to_string().contains("close_notify"), "{what}: {closed}");
    }
    let mut bystander = TlsPeer::open(server.addr());
    bystander.send(DATA, &text("still there?"));
    bystander.expect_text("still there?");
}

#[test]
fn half_a_handshake_message_stops_no_sender() {
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| server.tls(server_tls("server")),
        |client| {
            client.every(ms(20), "tick");
            echo(client)
        },
    );
    let mut peer = TlsPeer::open(server.addr());
    peer.send(HANDSHAKE, &[24, 0]);
    for _ in 0..5 {
        peer.expect_text("tick");
    }
    peer.send(HANDSHAKE, &[0, 1, 0]);
    for _ in 0..5 {
        peer.expect_text("tick");
    }
}

#[test]
fn nothing_after_a_close_notify_is_received() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new());
    let mut peer = TlsPeer::open(server.addr());
    let records = [
        peer.seal(DATA, &text("before")),
        peer.seal(ALERT, CLOSE_NOTIFY),
        peer.seal(DATA, &text("after")),
        vec![0; 1000],
    ];
    peer.write(&records.concat());
    peer.expect_text("before");
    let closed = next(&ends, "the end");
    assert!(closed.to_string().ends_with("end of stream"), "{closed}");
    assert_eq!(closed.traffic().messages_received, 1);
}

#[test]
fn a_cut_stream_is_reported_as_cut() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new());
    let peer = TlsPeer::open(server.addr());
    peer.stream.shutdown(Shutdown::Write).expect("it is open");
    let closed = next(&ends, "the end");
    assert!(closed.to_string().contains("without close_notify"), "{closed}");
    assert_eq!(closed.code(), 1006);
}

#[test]
fn a_stream_cut_inside_a_frame_is_reported_as_cut() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new());
    let frame = text("half of it");
    let (start, _) = frame.split_at(frame.len() / 2);
    for part in [true, false] {
        let mut peer = TlsPeer::open(server.addr());
        let record = peer.seal(DATA, start);
        peer.write(if part { &record[..10] } else { &record });
        peer.stream.shutdown(Shutdown::Write).expect("it is open");
        let closed = next(&ends, "the end");
        assert!(closed.to_string().contains("without close_notify"), "{closed}");
        assert_eq!(closed.code(), 1006);
    }
}

#[test]
fn a_reset_after_both_closes_is_clean() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new());
    let mut peer = TlsPeer::open(server.addr());
    peer.send_frame(Frame::close(1000, ""));
    assert_eq!(peer.next_frame().close_content().expect("a code").0, 1000);
    support::reset_when_dropped(&peer.stream);
    drop(peer);
    assert!(next(&ends, "the end").is_clean());
}

#[test]
fn messages_of_one_record_are_received_without_waiting() {
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| server.tls(server_tls("server")),
        |client| {
            while let Some(first) = client.recv()? {
                let mut all = first.to_string();
                while let Ok(Some(message)) = client.try_recv() {
                    all += &message.to_string();
                }
                client.send(all)?;
            }
            Ok(())
        },
    );
    let mut peer = TlsPeer::open(server.addr());
    for _ in 0..100 {
        peer.send(DATA, &[text("a"), text("b"), text("c")].concat());
        peer.expect_text("abc");
    }
}

#[test]
fn a_missing_close_notify_after_both_closes_is_clean() {
    let _dog = watchdog(30);
    let (server, ends) = reporting(Config::new());
    let mut peer = TlsPeer::open(server.addr());
    peer.send_frame(Frame::close(1000, ""));
    assert_eq!(peer.next_frame().close_content().expect("a code").0, 1000);
    // Our close_notify, and FIN.
    assert_eq!(peer.last_alert().as_deref(), Some(CLOSE_NOTIFY));
    drop(peer);
    assert!(next(&ends, "the end").is_clean());
}

#[test]
fn each_request_for_new_keys_is_answered_once_before_data() {
    let _dog = watchdog(30);
    let (server, _ends) = reporting(Config::new());
    let mut peer = TlsPeer::open(server.addr());
    // Ten thousand requests.
    for round in 0..330 {
        // They owe one answer (RFC 8446 §4.6.3), and none is sent before the data.
        for _ in 0..31 {
            peer.update_keys(true);
        }
        peer.update_keys(false);
        peer.send(DATA, &text("new keys"));
        peer.expect_text("new keys");
        assert_eq!(peer.key_updates, round + 1);
    }
}

#[test]
fn new_keys_wait_for_the_rest_of_a_record() {
    let _dog = watchdog(60);
    const SIZE: usize = 8 << 20;
    let server = TestServer::with(
        |server| server.tls(server_tls("server")),
        |client| {
            let sender = client.sender();
            let sending = std::thread::spawn(move || sender.send(vec![7; SIZE]));
            let result = echo(client);
            sending.join().expect("no panic")?;
            result
        },
    );
    let mut peer = TlsPeer::open(server.addr());
    // The server is stuck in the middle of a record.
    std::thread::sleep(ms(200));
    for _ in 0..20 {
        peer.update_keys(true);
        peer.send(DATA, &text("small"));
    }
    let large = peer.next_frame();
    assert_eq!(large.payload.len(), SIZE);
    for _ in 0..20 {
        peer.expect_text("small");
    }
    assert!((1..=20).contains(&peer.key_updates), "{}", peer.key_updates);
}
