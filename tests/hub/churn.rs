//! Messages are sent while clients join and leave. The clients that stay lose no message and get none twice, and no
//! client gets a message too early.
//!
//! The soak for a minute: `THREADWS_SOAK=60 cargo test --release --test hub soak -- --nocapture`.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::frame::CLOSE;
use support::{
    Frame, PATIENCE, RawPeer, TestServer, ThreadlessClient, eventually, ms, poll_clients, watchdog,
};
use threadws::connection::State;

/// Sends several messages in one segment, so that all but the last find unread input behind them.
fn together(peer: &mut RawPeer, texts: &[&str]) {
    let bytes: Vec<u8> = texts.iter().flat_map(|text| Frame::text(text).encode()).collect();
    peer.write(bytes);
}

/// The messages of one publisher as one client sees them: `publisher number`, without a gap from the first one on.
#[derive(Default, Clone)]
struct Sequence(Vec<Option<u64>>);

impl Sequence {
    #[track_caller]
    fn note(&mut self, text: &str) {
        let (publisher, number) = text.split_once(' ').expect("two words");
        let publisher: usize = publisher.parse().expect("a publisher");
        let number: u64 = number.parse().expect("a number");
        self.0.resize(self.0.len().max(publisher + 1), None);
        if let Some(last) = self.0[publisher] {
            assert_eq!(number, last + 1, "publisher {publisher}");
        }
        self.0[publisher] = Some(number);
    }

    fn last(&self, publisher: usize) -> Option<u64> {
        self.0.get(publisher).copied().flatten()
    }

    fn has_all_of(&self, published: &[u64]) -> bool {
        published.iter().enumerate().all(|(publisher, count)| self.last(publisher) == count.checked_sub(1))
    }
}

#[test]
fn no_message_is_lost_or_doubled_while_others_join() {
    let _dog = watchdog(60);
    const THREADS: usize = 2;
    const HANDLERS: usize = 2;

    // The publishers are two threads on the hub, one for all clients and one for a topic, and two handlers, whose
    // messages their clients send.
    let server = TestServer::new(|client| {
        client.subscribe("all")?;
        while let Some(message) = client.recv()? {
            client.write_broadcast(message)?;
        }
        Ok(())
    });
    let addr = server.addr();
    let over = AtomicBool::new(false);
    let came = AtomicU64::new(0);
    // The clients that stay have connected before the first message.
    let stayers: Vec<_> = (0..6).map(|_| RawPeer::open(addr)).collect();
    eventually("all listen", || server.hub().subscribers("all").len() == 6);
    let (published, stayers) = thread::scope(|scope| {
        let publishers: Vec<_> = (0..THREADS)
            .map(|publisher| {
                let (hub, over) = (server.hub().clone(), &over);
                scope.spawn(move || {
                    let mut number = 0;
                    while !over.load(Ordering::Relaxed) {
                        let text = format!("{publisher} {number}");
                        let delivery =
                            if publisher == 0 { hub.broadcast(text) } else { hub.publish("all", text) };
                        assert_eq!(delivery.closed + delivery.skipped, 0, "{delivery}");
                        number += 1;
                        thread::sleep(std::time::Duration::from_micros(300)); // so that no client is slow
                    }
                    number
                })
            })
            .collect();
        let handlers: Vec<_> = (THREADS..THREADS + HANDLERS)
            .map(|publisher| {
                let mut peer = RawPeer::open(addr);
                let over = &over;
                scope.spawn(move || {
                    let mut seen = Sequence::default();
                    let mut number = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        let burst: Vec<_> =
                            (number..number + 5).map(|number| format!("{publisher} {number}")).collect();
                        together(&mut peer, &burst.iter().map(String::as_str).collect::<Vec<_>>());
                        number += 5;
                        while seen.last(publisher).is_none_or(|last| last + 1 < number) {
                            seen.note(peer.message().as_text());
                        }
                    }
                    // It stays until all others have received the message, because an abrupt end may destroy unread
                    // messages.
                    (number, peer)
                })
            })
            .collect();
        for _ in 0..3 {
            let (over, came) = (&over, &came);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut peer = RawPeer::open(addr);
                    let mut seen = Sequence::default();
                    let mut heard = 0;
                    let mut last = Instant::now();
                    // When the test is over, no further messages come.
                    while heard < 20 && !over.load(Ordering::Relaxed) {
                        match peer.frame_until(Instant::now() + ms(50)) {
                            Ok(Some(frame)) => {
                                seen.note(frame.as_text());
                                heard += 1;
                                last = Instant::now();
                            }
                            Ok(None) => panic!("the server disconnected a healthy client"),
                            Err(_) => assert!(last.elapsed() < PATIENCE, "silence"),
                        }
                    }
                    came.fetch_add(1, Ordering::Relaxed);
                    if came.load(Ordering::Relaxed) % 2 == 0 { drop(peer) } else { peer.reset() }
                }
            });
        }
        let readers: Vec<_> = stayers
            .into_iter()
            .map(|mut peer| {
                let came = &came;
                scope.spawn(move || {
                    let mut seen = Sequence::default();
                    let start = Instant::now();
                    // For a while, and until enough clients have come and gone.
                    while start.elapsed() < ms(1500)
                        || (came.load(Ordering::Relaxed) <= 10 && start.elapsed() < PATIENCE)
                    {
                        seen.note(peer.message().as_text());
                    }
                    (peer, seen)
                })
            })
            .collect();
        let mut stayers: Vec<_> =
            readers.into_iter().map(|thread| thread.join().expect("a reader")).collect();
        over.store(true, Ordering::Relaxed);
        let mut published: Vec<_> =
            publishers.into_iter().map(|thread| thread.join().expect("a publisher")).collect();
        let mut peers = Vec::new();
        for thread in handlers {
            let (number, peer) = thread.join().expect("a handler's client");
            published.push(number);
            peers.push(peer);
        }
        // Every published message arrives.
        for (peer, seen) in &mut stayers {
            while !seen.has_all_of(&published) {
                seen.note(peer.message().as_text());
            }
        }
        let published: Vec<u64> = published;
        (published, stayers)
    });
    assert!(published.iter().all(|count| *count > 10), "{published:?}");
    assert!(came.load(Ordering::Relaxed) > 10, "only {came:?} came and went");
    for (peer, _) in stayers {
        peer.close(1000);
    }
    eventually("all are out", || server.hub().count() == 0 && server.hub().topics().is_empty());
}

#[test]
fn no_frame_precedes_the_101_and_no_callback_the_handler() {
    let _dog = watchdog(60);
    let handlers = Arc::new(Mutex::new(Vec::new()));
    let early = Arc::new(AtomicU64::new(0));
    let (begun, counted) = (Arc::clone(&handlers), Arc::clone(&early));
    let server = TestServer::with(
        move |server| {
            server.on_subscribe(move |_, client, _| {
                if !begun.lock().expect("no panic").contains(&client.id()) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            })
        },
        move |client| {
            assert_eq!(client.state(), State::Open);
            handlers.lock().expect("no panic").push(client.id());
            client.subscribe("topic")?;
            // The first message arrives, however many broadcasts overtook it.
            assert_eq!(
                client.recv()?.and_then(|message| message.as_text().map(str::to_owned)).as_deref(),
                Some("first")
            );
            client.send("second")?;
            client.ignore()?;
            Ok(())
        },
    );
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (hub, over) = (server.hub(), &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                hub.broadcast("broadcast");
                hub.publish("topic", "published");
                thread::yield_now();
            }
        });
        for _ in 0..60 {
            // `upgrade` checks that the 101 comes first and whole, `message` that whole frames follow.
            let mut peer = RawPeer::connect(server.addr());
            let request = support::upgrade_request(server.addr(), "/", &[]);
            peer.write([request.as_bytes(), &Frame::text("first").encode()].concat());
            peer.expect_101();
            while peer.message().as_text() != "second" {}
            peer.reset();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(early.load(Ordering::Relaxed), 0);
}

#[test]
fn soak_nothing_is_lost_while_many_join_leave_and_broadcast() {
    const STAYERS: usize = 40;
    const THREADS: usize = 3;
    const HANDLERS: usize = 2;

    let seconds = std::env::var("THREADWS_SOAK").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
    let _dog = watchdog(seconds + 60);
    let server = TestServer::new(|client| {
        client.subscribe("all")?;
        while let Some(message) = client.recv()? {
            match message.as_text().unwrap_or_default().split_once('#') {
                // Changes to the lists of topics.
                Some(("+", topic)) => client.subscribe(topic)?,
                Some(("-", topic)) => drop(client.unsubscribe(topic)?),
                _ => client.write_broadcast(message)?,
            }
        }
        Ok(())
    });
    let (hub, handle, addr) = (server.hub(), &*server, server.addr());
    let mut stayers: Vec<_> = (0..STAYERS).map(|_| ThreadlessClient::open(addr, "/", None)).collect();
    eventually("all listen", || hub.subscribers("all").len() == STAYERS);
    let over = AtomicBool::new(false);
    let (came, asked) = (AtomicU64::new(0), AtomicU64::new(0));
    let published = Mutex::new(None::<Vec<u64>>);
    let deliveries = AtomicU64::new(0);
    // The publishing clients stay until all others have received the messages, at the end of the scope.
    let publishing = thread::scope(|scope| {
        let (over, came, asked, published, deliveries) = (&over, &came, &asked, &published, &deliveries);
        let half = STAYERS / 2;
        let (left, right) = stayers.split_at_mut(half);
        for share in [left, right] {
            scope.spawn(move || {
                let heard = std::cell::RefCell::new(vec![Sequence::default(); share.len()]);
                let mut deadline = None;
                let enough = || {
                    let published = published.lock().expect("no panic");
                    let Some(published) = &*published else { return false };
                    let deadline = *deadline.get_or_insert(Instant::now() + PATIENCE);
                    let done = heard.borrow().iter().all(|heard| heard.has_all_of(published));
                    assert!(
                        done || Instant::now() < deadline,
                        "{published:?} were published, {:?} came",
                        heard.borrow()[0].0
                    );
                    done
                };
                poll_clients(share, enough, |client, frame| {
                    heard.borrow_mut()[client].note(frame.as_text());
                    deliveries.fetch_add(1, Ordering::Relaxed);
                });
            });
        }
        let publishers: Vec<_> = (0..THREADS)
            .map(|publisher| {
                scope.spawn(move || {
                    let mut number = 0;
                    while !over.load(Ordering::Relaxed) {
                        let text = format!("{publisher} {number}");
                        let delivery = match publisher {
                            0 => hub.publish("all", text),
                            1 => hub.broadcast(text),
                            _ => hub.broadcast_except(0, text), // no client has this id
                        };
                        assert_eq!(delivery.closed + delivery.skipped, 0, "{delivery}");
                        number += 1;
                        thread::sleep(Duration::from_micros(500));
                    }
                    number
                })
            })
            .collect();
        let handlers: Vec<_> = (THREADS..THREADS + HANDLERS)
            .map(|publisher| {
                scope.spawn(move || {
                    let mut peer = [ThreadlessClient::open(addr, "/", None)];
                    let stream = peer[0].stream.try_clone().expect("a descriptor");
                    let mut number = 0_u64;
                    let heard = std::cell::RefCell::new(Sequence::default());
                    while !over.load(Ordering::Relaxed) {
                        let burst: Vec<u8> = (number..number + 10)
                            .flat_map(|number| Frame::text(&format!("{publisher} {number}")).encode())
                            .collect();
                        (&stream).write_all(&burst).expect("the server reads");
                        number += 10;
                        let deadline = Instant::now() + PATIENCE;
                        let own = || {
                            assert!(Instant::now() < deadline, "its own words do not come back");
                            heard.borrow().last(publisher) == Some(number - 1)
                        };
                        poll_clients(&mut peer, own, |_, frame| heard.borrow_mut().note(frame.as_text()));
                    }
                    (number, peer)
                })
            })
            .collect();
        for churner in 0..4_u64 {
            scope.spawn(move || {
                let mut round = churner;
                while !over.load(Ordering::Relaxed) {
                    round += 1;
                    let mut peer = [ThreadlessClient::open(addr, "/", None)];
                    let stream = peer[0].stream.try_clone().expect("a descriptor");
                    for number in 0..round % 5 {
                        for sign in ["+", "-", "+"] {
                            let text = Frame::text(&format!("{sign}#{}", (round + number) % 7)).encode();
                            (&stream).write_all(&text).expect("the server reads");
                        }
                    }
                    let (heard, count) =
                        (std::cell::RefCell::new(Sequence::default()), std::cell::Cell::new(0));
                    let enough = || count.get() > 20 || over.load(Ordering::Relaxed);
                    poll_clients(&mut peer, enough, |_, frame| {
                        heard.borrow_mut().note(frame.as_text());
                        count.set(count.get() + 1);
                    });
                    came.fetch_add(1, Ordering::Relaxed);
                    if round % 3 == 0 {
                        // Sends a Close, or answers one.
                        drop((&stream).write_all(&Frame::close(1000, "").encode()));
                        let closed = std::cell::Cell::new(false);
                        let deadline = Instant::now() + PATIENCE;
                        let enough = || {
                            assert!(Instant::now() < deadline, "no Close came back");
                            closed.get()
                        };
                        poll_clients(&mut peer, enough, |_, frame| match frame.opcode {
                            CLOSE => closed.set(true),
                            _ => heard.borrow_mut().note(frame.as_text()),
                        });
                    }
                }
            });
        }
        scope.spawn(move || {
            let mut before = 0;
            while !over.load(Ordering::Relaxed) {
                let stats = handle.stats();
                assert!(stats.traffic.messages_sent >= before && stats.slow_peers_closed == 0, "{stats:?}");
                assert!(hub.topics().iter().all(|(_, members)| *members > 0), "a topic without members");
                before = stats.traffic.messages_sent;
                asked.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        thread::sleep(Duration::from_secs(seconds));
        over.store(true, Ordering::Relaxed);
        let mut counts: Vec<u64> =
            publishers.into_iter().map(|thread| thread.join().expect("a publisher")).collect();
        let mut peers = Vec::new();
        for thread in handlers {
            let (number, peer) = thread.join().expect("a handler's client");
            counts.push(number);
            peers.push(peer);
        }
        *published.lock().expect("no panic") = Some(counts.clone());
        println!("published {counts:?} in {seconds} s");
        peers
    });
    println!(
        "{came:?} came and went, {deliveries:?} deliveries to {STAYERS} that stayed, {asked:?} looks at the numbers"
    );
    drop((stayers, publishing));
    eventually("all are out", || hub.count() == 0 && hub.topics().is_empty());
}
