//! Which messages are compressed, and in which order many senders compress them.

use super::{connect, json, noise, offering, takeover, with};
use std::time::Duration;
use support::frame::RSV1;
use support::{RawPeer, TestServer, echo, eventually, reached, watchdog};
use threadws::deflate::{Deflate, Uncompressed};
use threadws::hub::SlowPeer;
use threadws::{Config, Message};

/// Compression without takeover, from 100 bytes on.
fn plain_settings() -> Config {
    with(Deflate::new().threshold(100))
}

/// Reads the next message, and returns whether it was compressed, and its length on the wire.
fn next_form(peer: &mut RawPeer) -> (bool, usize) {
    let frame = peer.message();
    (frame.rsv == RSV1, frame.payload.len())
}

#[test]
fn messages_from_the_threshold_on_are_compressed() {
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| server.config(plain_settings()),
        |client| {
            for message in ["a".repeat(99), "a".repeat(100), String::new(), "b".repeat(5000)] {
                client.send(message)?;
            }
            client.send(noise(3000))?;
            client.try_send(json(1, 1000))?;
            client.write(json(2, 1000))?;
            client.ping(&[b'x'; 125])?;
            Ok(client.ignore()?)
        },
    );
    let mut peer = offering(&server, "permessage-deflate");
    assert_eq!(next_form(&mut peer), (false, 99));
    assert!(matches!(next_form(&mut peer), (true, 1..20)));
    assert_eq!(next_form(&mut peer), (false, 0));
    assert!(matches!(next_form(&mut peer), (true, 1..50)));
    assert_eq!(next_form(&mut peer), (false, 3000), "noise is not made smaller");
    assert!(matches!(next_form(&mut peer), (true, 100..700)));
    assert!(matches!(next_form(&mut peer), (true, 100..700)));
    let ping = peer.frame();
    assert_eq!((ping.opcode, ping.rsv), (9, 0), "a control frame is never compressed");
    let stats = server.hub().clients()[0].sender().stats().saved_sent;
    assert_eq!((stats.messages, stats.plain_bytes), (4, 7100));
    assert!(stats.compressed_bytes < 2000, "{stats:?}");
    peer.close(1000);
}

/// The frames that are held leave together, and the long messages of it are compressed.
#[test]
fn a_burst_is_compressed_message_by_message() {
    let _dog = watchdog(30);
    let burst = ["a".repeat(40), "b".repeat(120), "c".repeat(600), "d".repeat(40)];
    let frames: Vec<_> = burst.iter().flat_map(|text| support::Frame::text(text).encode()).collect();
    for (threshold, expected) in
        [(50, [false, true, true, false]), (512, [false, false, true, false]), (601, [false; 4])]
    {
        let server = TestServer::with(
            |server| server.config(with(Deflate::new().threshold(threshold))),
            |client| {
                while let Some(message) = client.recv()? {
                    client.write(message)?;
                }
                Ok(())
            },
        );
        let mut peer = offering(&server, "permessage-deflate");
        for _ in 0..3 {
            peer.write(&frames);
            for (text, is_compressed) in burst.iter().zip(expected) {
                let (found, len) = next_form(&mut peer);
                assert_eq!(found, is_compressed, "{threshold} {len}");
                assert!(found || len == text.len());
            }
        }
        peer.close(1000);
    }
}

#[test]
fn every_call_sends_an_uncompressed_message_as_it_is() {
    let _dog = watchdog(30);
    let text = "as it is ".repeat(100);
    let sent = text.clone();
    let server = TestServer::with(
        |server| server.config(with(takeover())),
        move |client| {
            let secret = || Uncompressed(sent.as_str());
            client.subscribe("topic")?;
            client.recv()?; // the first of two that arrive together: what is written is held
            client.write("held")?;
            client.write(secret())?;
            client.write_broadcast(secret())?;
            client.recv()?;
            client.send(secret())?;
            client.try_send(secret())?;
            client.hub()?.broadcast(secret());
            client.hub()?.publish("topic", secret());
            client.after(Duration::ZERO, secret());
            let secret = sent.clone();
            client.after_with(Duration::ZERO, move || Some(Uncompressed(secret.clone())));
            Ok(client.ignore()?)
        },
    );
    let mut peer = offering(&server, "permessage-deflate; client_max_window_bits");
    let two = [support::Frame::text("1").encode(), support::Frame::text("2").encode()].concat();
    peer.write(two);
    assert_eq!(next_form(&mut peer), (false, 4));
    for _ in 0..8 {
        assert_eq!(next_form(&mut peer), (false, text.len()));
    }
    server.hub().broadcast(text.as_str());
    assert!(next_form(&mut peer).0, "the connection compresses");
    peer.close(1000);
}

/// sockudo-ws and others corrupted all that followed a message that was sent plain in the end.
#[test]
fn a_message_that_is_not_compressed_changes_nothing() {
    let _dog = watchdog(60);
    for bits in [9, 12, 15] {
        let deflate = takeover().window_bits(bits);
        let server = TestServer::with(|server| server.config(with(deflate.clone())), echo);
        let mut connection = connect(&server, with(deflate));
        for number in 0..50 {
            let message = match number % 5 {
                1 => Message::Binary(noise(1024)),
                3 => Message::from("short"),
                _ => Message::from(json(number, 200 + 100 * number)),
            };
            match number % 3 {
                0 => connection.send(&message).expect("open"),
                1 => connection.send(Uncompressed(&message)).expect("open"),
                _ => connection.try_send(&message).expect("open"),
            }
            assert_eq!(connection.recv().expect("an echo"), Some(message));
        }
        let stats = connection.stats();
        assert!(stats.saved_sent.messages > 10 && stats.saved_received.messages > 20, "{stats:?}");
        connection.close(1000, "").expect("clean");
    }
}

/// faye, jaspervdj/websockets, gorilla and aiohttp: with several senders the order on the wire was not the order of compression.
#[test]
fn many_senders_and_broadcasts_share_one_window() {
    const SENDERS: usize = 6;
    const MESSAGES: usize = 200;
    let _dog = watchdog(120);
    for (role_takes_over, bits) in [(true, 12), (true, 9), (false, 12)] {
        let deflate = takeover().window_bits(bits).context_takeover(role_takes_over);
        let server = TestServer::with(
            |server| server.config(with(deflate.clone()).with_max_backlog(64 << 20)),
            |client| {
                client.every(Duration::from_millis(3), format!("tick {}", "tock ".repeat(50)));
                Ok(client.ignore()?)
            },
        );
        let mut connection = connect(&server, with(deflate));
        eventually("the client is in the hub", || server.hub().count() == 1);
        let sender = server.hub().clients()[0].sender();
        let hub = server.hub().clone();
        let mut seen = [0; SENDERS];
        std::thread::scope(|scope| {
            for number in 0..SENDERS {
                let (sender, hub) = (sender.clone(), hub.clone());
                scope.spawn(move || {
                    for message in 0..MESSAGES {
                        let text = format!("{number} {message} {}", json(message, 600));
                        match number {
                            0 => assert_eq!(hub.broadcast(text).closed, 0),
                            1 => sender.try_send(text).expect("there is room"),
                            _ => sender.send(text).expect("open"),
                        }
                    }
                });
            }
            let mut left = SENDERS * MESSAGES;
            while left > 0 {
                let message = connection.recv().expect("valid").expect("open");
                let text = message.as_text().expect("text");
                if text.starts_with("tick") {
                    continue;
                }
                let mut words = text.splitn(3, ' ');
                let mut number = || words.next().expect("a word").parse::<usize>().expect("a number");
                let (sender, message) = (number(), number());
                assert_eq!(words.next(), Some(json(message, 600).as_str()));
                assert_eq!(message, seen[sender], "of sender {sender}");
                seen[sender] += 1;
                left -= 1;
            }
        });
        let stats = sender.stats().saved_sent;
        // Those that others have delayed by their own compression are sent as they are.
        assert!(stats.messages > 100, "{stats:?}");
    }
}

#[test]
fn a_broadcast_reaches_clients_with_all_windows() {
    let _dog = watchdog(60);
    let server = TestServer::with(
        |server| server.config(with(takeover().window_bits(15)).with_max_backlog(16 << 20)),
        |client| {
            client.subscribe("all")?;
            while let Some(message) = client.recv()? {
                // A burst is held, and sent on together.
                client.write_broadcast(message)?;
            }
            Ok(())
        },
    );
    let mut clients: Vec<_> = (9..=15)
        .flat_map(|bits| [true, false].map(|takeover| (bits, takeover)))
        .map(|(bits, keeps)| {
            let deflate = takeover().window_bits(bits).peer_context_takeover(keeps);
            connect(&server, with(deflate))
        })
        .collect();
    clients.push(connect(&server, Config::new()));
    // Offers a window of 8 bits.
    let mut smallest = offering(&server, "permessage-deflate; server_max_window_bits=8");
    for number in 0..20 {
        let text = json(number, [50, 250, 700, 5000, 40_000][number % 5]);
        let delivery = match number % 3 {
            0 => server.hub().broadcast(text.as_str()),
            1 => server.hub().publish("all", text.as_str()),
            _ => {
                clients[number % 14].send(text.as_str()).expect("open");
                threadws::hub::Delivery::default()
            }
        };
        assert_eq!(delivery.closed, 0);
        for client in &mut clients {
            assert_eq!(client.recv().expect("valid"), Some(Message::from(text.as_str())));
        }
        let (is_compressed, len) = next_form(&mut smallest);
        assert_eq!(is_compressed, len < text.len());
        assert!(!is_compressed || text.len() <= 256, "a distance beyond its window");
    }
    smallest.close(1000);
}

/// 16 threads with an alphabet each: a shared compressor would mix them up.
#[test]
fn connections_do_not_see_what_others_have_compressed() {
    let _dog = watchdog(120);
    let server = TestServer::with(|server| server.config(with(takeover())), echo);
    std::thread::scope(|scope| {
        for number in 0..16_u8 {
            let server = &server;
            scope.spawn(move || {
                let mut connection = connect(server, with(takeover()));
                for round in 0..40_usize {
                    let letters = (b'a'..b'h').map(|letter| char::from(letter + number));
                    let text: String =
                        letters.cycle().step_by(round % 5 + 1).take(200 + round * 20).collect();
                    connection.send(text.as_str()).expect("open");
                    assert_eq!(connection.recv().expect("valid"), Some(text.into()));
                }
            });
        }
    });
}

/// The counts are of clients, whatever form each of them gets.
#[test]
fn a_delivery_counts_clients_of_every_form() {
    let _dog = watchdog(60);
    let server = TestServer::with(
        |server| server.config(with(takeover()).with_max_backlog(200_000)).slow_peer(SlowPeer::Skip),
        |client| Ok(client.ignore()?),
    );
    let offers = ["permessage-deflate", "permessage-deflate; server_no_context_takeover", "-"];
    let mut peers = offers.map(|offer| offering(&server, offer));
    eventually("all are in the hub", || server.hub().count() == peers.len());
    let text = json(1, 2000);
    assert_eq!(server.hub().broadcast(text.as_str()).sent, peers.len());
    for (peer, is_compressed) in peers.iter_mut().zip([true, true, false]) {
        assert_eq!(next_form(peer).0, is_compressed);
    }
    // None reads. Of a large message the clients' sockets take a few hundred bytes when compressed, and not all when plain.
    let large = "x".repeat(190_000);
    let mut skipped = 0;
    for _ in 0..60 {
        let delivery = server.hub().broadcast(large.as_str());
        assert_eq!(reached(delivery) + delivery.skipped, peers.len(), "{delivery}");
        skipped += delivery.skipped;
    }
    let stats: Vec<_> = server.hub().clients().iter().map(|client| client.sender().stats()).collect();
    let all: Vec<_> = stats.iter().map(|stats| (stats.saved_sent.messages, stats.messages_skipped)).collect();
    assert!(skipped > 0, "{all:?}");
    for (compressed, skips) in all {
        assert!(
            (compressed, skips) == (61, 0) || (compressed == 0 && skips == skipped as u64),
            "{compressed} {skips}"
        );
    }
    peers.into_iter().for_each(RawPeer::reset);
}

#[test]
fn a_backlog_counts_compressed_bytes() {
    let _dog = watchdog(60);
    let server = TestServer::with(
        |server| server.config(plain_settings().with_max_backlog(200_000)),
        |client| Ok(client.ignore()?),
    );
    let mut peer = offering(&server, "permessage-deflate");
    eventually("the client is in the hub", || server.hub().count() == 1);
    let sender = server.hub().clients()[0].sender();
    // The peer does not read. As it is, one message would fill the backlog.
    let text = "x".repeat(150_000);
    for _ in 0..20 {
        sender.try_send(text.as_str()).expect("a message takes a few hundred bytes");
    }
    assert!(sender.stats().traffic.bytes_sent < 20_000);
    for _ in 0..20 {
        assert!(matches!(next_form(&mut peer), (true, 1..1000)));
    }
    peer.close(1000);
}
