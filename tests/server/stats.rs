//! The counters of a server: they match what happened, never decrease, and have the format of Prometheus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;
use support::frame::PING;
use support::{Frame, PATIENCE, RawPeer, TestServer, echo, eventually, ms, next, watchdog};
use threadws::{Config, stats::Stats};

#[test]
fn the_counters_match_what_happened() {
    let _dog = watchdog(30);
    let server = TestServer::with(|server| server.path("/chat"), echo);
    let hub = server.hub();
    let mut peer = RawPeer::open_at(server.addr(), "/chat", &[]);
    for _ in 0..3 {
        peer.send_text("hello"); // 6 bytes of header and mask, 5 of text
        peer.expect_text("hello"); // 2 bytes of header, 5 of text
    }
    // The reader counts when it waits again.
    eventually("it is counted", || {
        server.stats().traffic.messages_received == 3 && server.stats().traffic.bytes_received == 33
    });
    let one = hub.clients()[0].sender().stats();
    assert_eq!((one.traffic.messages_received, one.traffic.bytes_received), (3, 33));
    assert_eq!((one.traffic.messages_sent, one.traffic.bytes_sent, one.messages_skipped), (3, 21, 0));
    assert_eq!((one.backlog, one.high_water, one.round_trip), (0, 0, None));
    assert!(one.opened_at.elapsed() < PATIENCE);
    assert_eq!(hub.clients()[0].sender().state(), threadws::connection::State::Open);
    let client = hub.clients()[0].clone();

    RawPeer::connect(server.addr()).fin(); // It sends nothing, so this is not a failure.
    for (target, status) in [("/other", 404), ("/nowhere", 404), ("/chat", 400)] {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask(target, if status == 400 { &[("Sec-WebSocket-Key", "short")] } else { &[] });
        peer.expect_refusal(status);
    }
    eventually("all is counted", || server.stats().handshake_failures.values().sum::<u64>() == 3);
    let stats = server.stats();
    assert_eq!(stats.handshake_failures, BTreeMap::from([(400, 1), (404, 2)]));
    assert_eq!((stats.accepted, stats.opened, stats.open), (5, 1, 1));
    assert!(stats.threads >= 1 && stats.threads <= 5, "{} threads", stats.threads);

    peer.close(1000);
    eventually("it is out", || hub.count() == 0);
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.opened, stats.open), (5, 1, 0));
    // With the Close frames: 8 bytes and 4 bytes.
    assert_eq!((stats.traffic.messages_received, stats.traffic.bytes_received), (3, 41));
    assert_eq!((stats.traffic.messages_sent, stats.traffic.bytes_sent), (3, 25));
    // The numbers can still be read after the end.
    assert_eq!(
        (client.sender().stats().traffic.bytes_received, client.sender().state()),
        (41, threadws::connection::State::Closed)
    );
    assert_eq!(
        stats.refused.iter().map(|(reason, count)| (*reason, *count)).collect::<Vec<_>>(),
        [("address", 0), ("full", 0), ("no_thread", 0), ("rate", 0), ("stopping", 0), ("tls", 0)]
    );
}

/// Browsers open a connection in advance, and may never use it.
#[test]
fn a_connection_without_a_byte_is_no_failed_handshake() {
    let _dog = watchdog(30);
    let (errors, reported) = mpsc::channel();
    let config = Config::new().with_handshake_timeout(ms(300));
    let mut meter = None;
    let server = TestServer::with(
        |server| {
            meter = Some(server.meter());
            let server = server.config(config).max_clients(3).proxy_protocol(true);
            server.on_handshake_error(move |error| drop(errors.send(error.to_string())))
        },
        echo,
    );
    let mut spares: Vec<_> = (0..3).map(|_| RawPeer::connect(server.addr())).collect();
    spares[1].write("PROXY TCP4 203.0.113.1 203.0.113.2 1 2\r\n"); // the proxy's bytes, and none of the client
    // All the same it takes a place.
    RawPeer::connect(server.addr()).expect_refusal(503);
    drop(spares.pop());
    for mut spare in spares {
        spare.expect_refusal(408);
    }
    let mut slow = RawPeer::connect(server.addr());
    slow.write("PROXY TCP4 203.0.113.1 203.0.113.2 1 2\r\nG");
    slow.expect_refusal(408);
    assert_eq!(server.stats().handshake_failures, BTreeMap::from([(408, 1)]));
    next(&reported, "the slow request");
    // Nor is it one when the server stops.
    let _spare = RawPeer::connect(server.addr());
    eventually("it has a thread", || server.stats().accepted == 6);
    server.into_handle().shutdown(PATIENCE);
    assert_eq!(meter.expect("it was started").stats().handshake_failures, BTreeMap::from([(408, 1)]));
    assert_eq!(reported.try_iter().count(), 0);
}

#[test]
fn refused_clients_are_counted_by_reason() {
    let _dog = watchdog(30);
    let server = TestServer::with(|server| server.max_clients(1), echo);
    let peer = RawPeer::open(server.addr());
    // The 101 is sent before the client is counted.
    eventually("it is in", || server.hub().count() == 1);
    for _ in 0..2 {
        let mut refused = RawPeer::connect(server.addr());
        assert_eq!(refused.answer().status, 503);
    }
    let stats = server.stats();
    assert_eq!((stats.refused["full"], stats.accepted, stats.opened), (2, 3, 1));
    assert!(stats.handshake_failures.is_empty());
    peer.close(1000);
}

#[test]
fn ticks_pings_and_round_trips_are_counted() {
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| server.config(Config::new().with_ping_interval(ms(40))),
        |client| {
            client.after(ms(1), "tick");
            client.ignore()?;
            Ok(())
        },
    );
    let hub = server.hub();
    let mut peer = RawPeer::open(server.addr());
    // Three pings with their answers, and the tick, which a busy machine may send between them.
    let (mut pongs, mut ticks) = (0, 0);
    while pongs < 3 || ticks < 1 {
        let frame = peer.frame();
        if frame.opcode == PING {
            thread::sleep(ms(5)); // so that the round trip takes some time
            peer.send(&Frame::pong(frame.payload));
            pongs += 1;
        } else {
            assert_eq!(frame.as_text(), "tick");
            ticks += 1;
        }
    }
    eventually("the last pong is counted", || server.stats().round_trips == pongs);
    let stats = server.stats();
    let one = hub.clients()[0].sender().stats();
    let last = one.round_trip.expect("measured");
    assert!(last >= ms(5) && last < PATIENCE, "{last:?}");
    assert!(stats.round_trip_sum >= ms(15) && stats.round_trip_sum < PATIENCE, "{:?}", stats.round_trip_sum);
    assert!(stats.pings >= 3, "{} pings", stats.pings);
    eventually("the tick is counted", || server.stats().ticks_sent == 1);
    assert_eq!(stats.ticks_skipped, 0);
    peer.send(&Frame::close(1000, ""));
    peer.expect_close_at_last(&[1000]);
    peer.expect_eof();
    eventually("it is out", || hub.count() == 0);
    let after = server.stats();
    assert!(after.round_trips >= 3 && after.pings >= stats.pings);
}

#[test]
fn counters_never_decrease() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let over = AtomicBool::new(false);
    let sent: u64 = thread::scope(|scope| {
        let over = &over;
        let peers: Vec<_> = (0..4)
            .map(|_| {
                let addr = server.addr();
                scope.spawn(move || {
                    let mut sent = 0;
                    while !over.load(Ordering::Relaxed) {
                        let mut peer = RawPeer::open(addr);
                        for _ in 0..5 {
                            peer.send_text("x");
                            peer.expect_text("x");
                            sent += 1;
                        }
                        peer.close(1000);
                    }
                    sent
                })
            })
            .collect();
        let numbers = |stats: &Stats| {
            [
                stats.accepted,
                stats.opened,
                stats.traffic.messages_received,
                stats.traffic.messages_sent,
                stats.traffic.bytes_received,
                stats.traffic.bytes_sent,
            ]
        };
        let mut before = numbers(&server.stats());
        let end = Instant::now() + ms(700);
        while Instant::now() < end {
            let now = numbers(&server.stats());
            assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "{before:?}, then {now:?}");
            before = now;
        }
        over.store(true, Ordering::Relaxed);
        peers.into_iter().map(|peer| peer.join().expect("a peer")).sum()
    });
    eventually("all are out", || server.hub().count() == 0);
    let stats = server.stats();
    assert_eq!(
        (stats.traffic.messages_received, stats.traffic.messages_sent, stats.opened),
        (sent, sent, sent / 5)
    );
    // 7 bytes and 3 bytes for a message, 8 and 4 bytes for the Close frames.
    assert_eq!(
        (stats.traffic.bytes_received, stats.traffic.bytes_sent),
        (sent * 7 + sent / 5 * 8, sent * 3 + sent / 5 * 4)
    );
}

/// A family of metrics: its type, and its samples by name and labels.
struct Family {
    kind: String,
    samples: Vec<(String, Label, f64)>,
}

/// The name and value of a label.
type Label = Option<(String, String)>;

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Parses the text format, version 0.0.4, strictly: HELP, TYPE, then only the samples of the family. Each family and
/// each series occurs once, and each line ends in a line feed.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    assert!(text.ends_with('\n') && !text.contains('\r') && !text.contains("\n\n"), "lines:\n{text}");
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
            .unwrap_or_else(|| panic!("HELP: {line}"));
        assert!(is_name(name) && name.starts_with("threadws_"), "name: {line}");
        assert!(!help.is_empty() && !help.contains('\\'), "help: {line}");
        let line = lines.next().expect("a TYPE line");
        let kind = line.strip_prefix(&format!("# TYPE {name} ")).unwrap_or_else(|| panic!("TYPE: {line}"));
        let mut family = Family { kind: kind.to_owned(), samples: Vec::new() };
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (series, value) = line.split_once(' ').unwrap_or_else(|| panic!("sample: {line}"));
            let (sample, label) = match series.split_once('{') {
                None => (series, None),
                Some((sample, label)) => {
                    let (label, value) = label
                        .strip_suffix("\"}")
                        .and_then(|label| label.split_once("=\""))
                        .unwrap_or_else(|| panic!("label: {line}"));
                    assert!(
                        is_name(label) && !value.is_empty() && !value.contains(['"', '\\']),
                        "label: {line}"
                    );
                    (sample, Some((label.to_owned(), value.to_owned())))
                }
            };
            let suffix =
                sample.strip_prefix(name).unwrap_or_else(|| panic!("a sample of another family: {line}"));
            match kind {
                "counter" => assert!(suffix.is_empty() && name.ends_with("_total"), "counter: {line}"),
                "gauge" => assert!(suffix.is_empty() && !name.ends_with("_total"), "gauge: {line}"),
                "summary" => assert!(matches!(suffix, "_sum" | "_count"), "summary: {line}"),
                _ => panic!("type: {kind}"),
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("value: {line}"));
            assert!(value.is_finite() && value >= 0.0, "value: {line}");
            assert!(
                !family.samples.iter().any(|(s, l, _)| (s.as_str(), l) == (sample, &label)),
                "twice: {line}"
            );
            family.samples.push((sample.to_owned(), label, value));
        }
        assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
    }
    families
}

#[cfg(feature = "deflate")]
#[test]
fn the_metrics_have_plain_and_compressed_bytes_of_both_directions() {
    use threadws::deflate::Deflate;
    let _dog = watchdog(30);
    let config = Config::new().with_deflate(Deflate::new().threshold(100));
    let server = TestServer::with(|server| server.config(config.clone()), echo);
    let url = format!("ws://{}/", server.addr());
    let mut client = threadws::Connect::new(url).config(config).connect().expect("it opens");
    for message in ["short".to_owned(), "a".repeat(1000), "b".repeat(3000)] {
        client.send(message.as_str()).expect("open");
        assert_eq!(client.recv().expect("an echo"), Some(message.into()));
    }
    eventually("all is counted", || server.stats().saved_received.messages == 2);
    let mut text = Vec::new();
    server.stats().write_prometheus(&mut text).expect("a Vec takes all");
    let families = parse(std::str::from_utf8(&text).expect("UTF-8"));
    let value = |name: &str, direction: &str| {
        let samples = families.values().flat_map(|family| &family.samples);
        let label = Some(("direction".to_owned(), direction.to_owned()));
        let mut found =
            samples.filter(|(sample, its, _)| *sample == format!("threadws_deflate_{name}") && *its == label);
        found.next().expect("a metric").2
    };
    for direction in ["received", "sent"] {
        assert_eq!(value("messages_total", direction), 2.0);
        assert_eq!(value("plain_bytes_total", direction), 4000.0);
        let compressed = value("compressed_bytes_total", direction);
        assert!((10.0..100.0).contains(&compressed), "{compressed} {direction}");
    }
    client.close(1000, "").expect("clean");
}

#[test]
fn the_prometheus_text_is_well_formed_and_matches() {
    let _dog = watchdog(30);
    let server = TestServer::with(|server| server.path("/"), echo);
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("hello");
    peer.expect_text("hello");
    let mut refused = RawPeer::connect(server.addr());
    refused.ask("/other", &[]);
    refused.expect_refusal(404);
    eventually("all is counted", || {
        server.stats().handshake_failures.len() == 1 && server.stats().traffic.messages_received == 1
    });
    let mut text = Vec::new();
    server.stats().write_prometheus(&mut text).expect("a Vec takes all");
    let families = parse(std::str::from_utf8(&text).expect("UTF-8"));
    let value = |name: &str, label: Option<(&str, &str)>| {
        let family =
            families.values().find(|family| family.samples.iter().any(|(sample, ..)| sample == name));
        let family = family.unwrap_or_else(|| panic!("no {name}"));
        let label = label.map(|(label, value)| (label.to_owned(), value.to_owned()));
        let sample = family.samples.iter().find(|(sample, found, _)| sample == name && *found == label);
        (family.kind.as_str(), sample.unwrap_or_else(|| panic!("no {name} {label:?}")).2)
    };
    let expected = [
        ("threadws_connections_accepted_total", None, "counter", 2.0),
        ("threadws_connections_opened_total", None, "counter", 1.0),
        ("threadws_connections_open", None, "gauge", 1.0),
        ("threadws_connections_refused_total", Some(("reason", "full")), "counter", 0.0),
        ("threadws_connections_refused_total", Some(("reason", "no_thread")), "counter", 0.0),
        ("threadws_connections_refused_total", Some(("reason", "stopping")), "counter", 0.0),
        ("threadws_connections_refused_total", Some(("reason", "address")), "counter", 0.0),
        ("threadws_connections_refused_total", Some(("reason", "rate")), "counter", 0.0),
        ("threadws_connections_refused_total", Some(("reason", "tls")), "counter", 0.0),
        ("threadws_policy_closes_total", Some(("policy", "message_rate")), "counter", 0.0),
        ("threadws_policy_closes_total", Some(("policy", "max_lifetime")), "counter", 0.0),
        ("threadws_policy_closes_total", Some(("policy", "idle_timeout")), "counter", 0.0),
        ("threadws_handshake_failures_total", Some(("status", "404")), "counter", 1.0),
        ("threadws_messages_received_total", None, "counter", 1.0),
        ("threadws_messages_sent_total", None, "counter", 1.0),
        ("threadws_messages_skipped_total", None, "counter", 0.0),
        ("threadws_received_bytes_total", None, "counter", 11.0),
        ("threadws_sent_bytes_total", None, "counter", 7.0),
        ("threadws_deflate_messages_total", Some(("direction", "received")), "counter", 0.0),
        ("threadws_deflate_messages_total", Some(("direction", "sent")), "counter", 0.0),
        ("threadws_deflate_plain_bytes_total", Some(("direction", "received")), "counter", 0.0),
        ("threadws_deflate_plain_bytes_total", Some(("direction", "sent")), "counter", 0.0),
        ("threadws_deflate_compressed_bytes_total", Some(("direction", "received")), "counter", 0.0),
        ("threadws_deflate_compressed_bytes_total", Some(("direction", "sent")), "counter", 0.0),
        ("threadws_backlog_bytes", None, "gauge", 0.0),
        ("threadws_ticks_sent_total", None, "counter", 0.0),
        ("threadws_ticks_skipped_total", None, "counter", 0.0),
        ("threadws_pings_sent_total", None, "counter", 0.0),
        ("threadws_round_trip_seconds_sum", None, "summary", 0.0),
        ("threadws_round_trip_seconds_count", None, "summary", 0.0),
        ("threadws_slow_peers_closed_total", None, "counter", 0.0),
    ];
    for (name, label, kind, count) in expected {
        assert_eq!(value(name, label), (kind, count), "{name} {label:?}");
    }
    assert!(value("threadws_threads", None).1 >= 1.0);
    let samples: usize = families.values().map(|family| family.samples.len()).sum();
    assert_eq!(samples, expected.len() + 1, "a metric that this test does not know");
    assert_eq!(Stats::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    peer.close(1000);
}
