//! Sending over TLS: it never waits for reading, and the order and the ends are those of plain connections.

use crate::tls_peer::{CLOSE_NOTIFY, DATA, TlsPeer};
use crate::{client_tls, rustls_server, serve, server_tls};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::{Frame, TestServer, echo, eventually, ms, next, rustls_client, watchdog};
use threadws::tls::rustls::crypto::CipherSuiteCommon;
use threadws::tls::rustls::version::{TLS12, TLS13};
use threadws::tls::rustls::{SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite, crypto};
use threadws::{BoxError, Connect, Connection, Message};

fn url(addr: SocketAddr) -> String {
    format!("wss://localhost:{}/", addr.port())
}

fn connect(addr: SocketAddr) -> Connection {
    Connect::new(url(addr)).tls(client_tls()).connect().expect("it connects")
}

fn connect_with(addr: SocketAddr, version: &'static SupportedProtocolVersion) -> Connection {
    Connect::new(url(addr)).tls(Arc::new(rustls_client(&[version]))).connect().expect("it connects")
}

#[test]
fn both_ends_send_more_than_all_buffers_hold_at_once() {
    let _dog = watchdog(60);
    const SIZE: usize = 512 << 10;
    const MESSAGES: u8 = 64;
    fn both_ways(connection: &mut Connection) -> Result<(), BoxError> {
        let sender = connection.sender();
        let sending = std::thread::spawn(move || {
            for number in 0..MESSAGES {
                sender.send(vec![number; SIZE])?;
            }
            Ok::<_, threadws::Error>(())
        });
        for number in 0..MESSAGES {
            let message = connection.recv()?.expect("a message");
            assert!(
                message.as_bytes().len() == SIZE && message.as_bytes().iter().all(|byte| *byte == number)
            );
        }
        sending.join().expect("no panic")?;
        Ok(())
    }
    let server = serve(both_ways);
    for version in [&TLS12, &TLS13] {
        let mut client = connect_with(server.addr(), version);
        both_ways(&mut client).expect("both directions end");
        client.close(1000, "").expect("it closes");
    }
}

#[test]
fn a_send_does_not_wait_for_a_reader_that_waits() {
    let _dog = watchdog(30);
    let server = serve(echo);
    let mut client = connect(server.addr());
    let sender = client.sender();
    let (tx, rx) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for _ in 0..20 {
            tx.send(client.recv().expect("open").expect("an echo")).expect("it is received");
        }
    });
    for number in 0..20 {
        // The reader waits in its read by now.
        std::thread::sleep(ms(20));
        let start = Instant::now();
        sender.send(number.to_string()).expect("it is open");
        assert!(start.elapsed() < ms(1000));
        assert_eq!(next(&rx, "the echo"), Message::from(number.to_string()));
    }
    reader.join().expect("no panic");
}

#[test]
fn messages_of_many_threads_arrive_whole_and_in_order() {
    let _dog = watchdog(60);
    const SENDERS: usize = 8;
    const MESSAGES: usize = 300;
    let server = serve(|client| {
        client.every(ms(1), "tick");
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let handle = client.sender();
                std::thread::spawn(move || {
                    for number in 0..MESSAGES {
                        let size = [10, 200, 3000, 40_000][(sender + number) % 4];
                        let text = format!("{sender} {number} {}", "x".repeat(size));
                        if number % 3 == 0 { handle.send(text)? } else { handle.send(text.into_bytes())? }
                    }
                    Ok::<_, threadws::Error>(())
                })
            })
            .collect();
        let result = echo(client);
        for sender in senders {
            sender.join().expect("no panic")?;
        }
        result
    });
    let mut client = connect(server.addr());
    let is_over = Arc::new(AtomicBool::new(false));
    let broadcaster = std::thread::spawn({
        let (hub, is_over) = (server.hub().clone(), Arc::clone(&is_over));
        move || {
            while !is_over.load(Ordering::Relaxed) {
                hub.broadcast("to all");
                std::thread::sleep(ms(1));
            }
        }
    });
    let sender = client.sender();
    let pinger = std::thread::spawn(move || {
        for number in 0..200_u8 {
            sender.ping(&[number])?;
            sender.send(vec![number; 5])?;
        }
        Ok::<_, threadws::Error>(())
    });
    let mut last = [0; SENDERS];
    let mut echoes = 0;
    while last != [MESSAGES; SENDERS] || echoes < 200 {
        let message = client.recv().expect("no error").expect("it is open");
        let bytes = message.as_bytes();
        if bytes.len() == 5 {
            assert_eq!(bytes, [u8::try_from(echoes).expect("200 echoes"); 5]);
            echoes += 1;
        } else if bytes != b"tick" && bytes != b"to all" {
            let text = std::str::from_utf8(bytes).expect("text");
            let mut words = text.split(' ');
            let [sender, number]: [usize; 2] =
                [(); 2].map(|()| words.next().expect("a word").parse().expect("a number"));
            let payload: &str = words.next().expect("the payload");
            assert_eq!(number, last[sender], "the order of sender {sender}");
            assert_eq!(payload.len(), [10, 200, 3000, 40_000][(sender + number) % 4]);
            assert!(payload.bytes().all(|byte| byte == b'x'));
            last[sender] += 1;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    broadcaster.join().expect("no panic");
    pinger.join().expect("no panic").expect("open");
    client.close(1000, "").expect("it closes");
}

#[test]
fn the_last_messages_of_a_client_that_never_receives_arrive() {
    let _dog = watchdog(60);
    const SIZE: usize = 1 << 20;
    let (tx, rx) = mpsc::channel();
    let server = serve(move |client| {
        // The client never reads this.
        client.send("hello")?;
        let mut bytes = 0;
        while let Ok(Some(message)) = client.recv() {
            bytes += message.as_bytes().len();
        }
        tx.send((bytes, client.closed().expect("it has ended").clone())).unwrap_or(());
        Ok(())
    });
    for round in 0..50 {
        let client = connect(server.addr());
        client.sender().send(vec![1; SIZE]).expect("it is open");
        client.sender().send(vec![1; 1]).expect("it is open");
        drop(client);
        let (bytes, closed) = next(&rx, "the end");
        assert_eq!((bytes, u16::from(closed.code())), (SIZE + 1, 1001), "round {round}: {closed}");
    }
}

#[test]
fn a_burst_of_answers_is_one_record() {
    let _dog = watchdog(30);
    let server = serve(|client| {
        while let Some(message) = client.recv()? {
            client.write(message)?;
        }
        Ok(())
    });
    let mut peer = TlsPeer::open(server.addr());
    let burst: Vec<u8> =
        (0..64).flat_map(|_| Frame::text("thirty-two bytes of a short text").encode()).collect();
    peer.send(DATA, &burst);
    let (kind, body) = peer.read_record().expect("the answers");
    assert_eq!((kind, body.len()), (DATA, 64 * 34));
}

#[test]
fn a_peer_that_does_not_read_costs_its_backlog() {
    let _dog = watchdog(60);
    const BACKLOG: usize = 1 << 20;
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            let config = threadws::Config::new().with_max_backlog(BACKLOG).with_write_timeout(ms(500));
            server.config(config).tls(server_tls("server"))
        },
        move |client| {
            let sender = client.sender();
            let mut most = 0;
            // Full at last: the socket takes some megabytes before.
            while sender.try_send(vec![7; 10_000]).is_ok() {
                most = most.max(sender.stats().backlog);
            }
            tx.send(most)?;
            let start = Instant::now();
            let error = client.recv().expect_err("the peer does not read");
            assert!(matches!(error, threadws::Error::Timeout(threadws::Timeout::Write)), "{error}");
            tx.send(usize::try_from(start.elapsed().as_millis())?)?;
            Ok(())
        },
    );
    let peer = TlsPeer::open(server.addr());
    let most = next(&rx, "the backlog");
    assert!(most <= BACKLOG + 64 * 1024, "{most}");
    assert!(next(&rx, "the write timeout") < 10_000);
    drop(peer);
}

#[test]
fn a_close_behind_a_full_socket_ends_with_close_notify() {
    let _dog = watchdog(60);
    const SIZE: usize = 8 << 20;
    let server = serve(|client| {
        client.sender().try_send(vec![7; SIZE])?;
        client.close(4000, "enough")?;
        Ok(())
    });
    let mut peer = TlsPeer::open(server.addr());
    std::thread::sleep(ms(100));
    assert_eq!(peer.next_frame().payload.len(), SIZE);
    assert_eq!(peer.next_frame().close_content(), Some((4000, "enough".into())));
    peer.send_frame(Frame::close(4000, ""));
    assert_eq!(peer.last_alert().as_deref(), Some(CLOSE_NOTIFY));
}

#[test]
fn a_close_to_a_deaf_peer_ends_in_time() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            let config = threadws::Config::new().with_close_timeout(ms(500));
            server.config(config).tls(server_tls("server"))
        },
        move |client| {
            client.sender().try_send(vec![7; 16 << 20])?;
            let start = Instant::now();
            let error = client.close(4000, "enough").expect_err("the peer does not read");
            tx.send((start.elapsed(), error.to_string()))?;
            Ok(())
        },
    );
    let peer = TlsPeer::open(server.addr());
    let (elapsed, error) = next(&rx, "the end");
    assert!((ms(400)..ms(5000)).contains(&elapsed), "{elapsed:?}: {error}");
    drop(peer);
}

#[test]
fn the_numbers_count_frames_and_not_sealed_bytes() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = serve(move |client| {
        let message = client.recv()?.expect("a message");
        client.send(message)?;
        tx.send(client.stats().traffic)?;
        Ok(client.ignore()?)
    });
    let mut client = connect(server.addr());
    client.send(vec![7; 100]).expect("it is open");
    client.recv().expect("open").expect("an echo");
    // A header of two bytes, and the client's mask.
    let traffic = next(&rx, "the numbers");
    assert_eq!((traffic.bytes_received, traffic.bytes_sent), (106, 102));
    let traffic = client.stats().traffic;
    assert_eq!((traffic.bytes_received, traffic.bytes_sent), (102, 106));
    client.close(1000, "").expect("it closes");
}

#[test]
fn a_connection_whose_keys_are_nearly_used_up_is_closed() {
    let _dog = watchdog(30);
    // TLS 1.2 cannot renew its keys. The suite is the usual one with a lower limit than 2^24 records.
    const MESSAGES: u64 = 100;
    let mut provider = crypto::ring::default_provider();
    provider.cipher_suites.retain_mut(|suite| match suite {
        SupportedCipherSuite::Tls12(usual) if usual.common.confidentiality_limit < u64::MAX => {
            let common = CipherSuiteCommon {
                confidentiality_limit: (1 << 16) + 64 + MESSAGES,
                suite: usual.common.suite,
                hash_provider: usual.common.hash_provider,
            };
            let lower = Tls12CipherSuite { common, ..**usual };
            *suite = SupportedCipherSuite::Tls12(Box::leak(Box::new(lower)));
            true
        }
        _ => false,
    });
    let config = rustls_server(provider, &[&TLS12]);
    let server = TestServer::with(|server| server.tls(Arc::new(config)), echo);
    let mut client = connect_with(server.addr(), &TLS12);
    for _ in 0..MESSAGES {
        client.send("again").expect("it is open");
        client.recv().expect("an echo").expect("it is open");
    }
    client.send("once more").expect("it is open");
    while client.recv().expect("a normal end").is_some() {}
    let closed = client.closed().expect("it has ended");
    assert_eq!((u16::from(closed.code()), closed.reason()), (1001, "the keys are used up"));
}

#[test]
fn a_shutdown_closes_clients_with_tls() {
    let _dog = watchdog(30);
    let server = serve(echo);
    let clients: Vec<_> = (0..5).map(|_| connect(server.addr())).collect();
    eventually("five clients", || server.hub().count() == 5);
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                assert_eq!(client.recv().expect("a normal end"), None);
                client.closed().expect("it has ended").clone()
            })
        })
        .collect();
    let report = server.into_handle().shutdown(Duration::from_secs(5));
    drop(report);
    for reader in readers {
        let closed = reader.join().expect("no panic");
        assert!(closed.is_clean() && closed.code() == 1001, "{closed}");
    }
}
