//! Many clients are told at once: everyone, a topic, all but one; in order, without a loss, whoever comes and goes.

mod common;

use common::{Frame, PATIENCE, RawPeer, TestServer, eventually, ms, next, watchdog};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;
use threadws::{BoxError, Connection, Error, State};

/// Several messages in one segment: all but the last find unread input behind them.
fn together(peer: &mut RawPeer, texts: &[&str]) {
    let octets: Vec<u8> = texts.iter().flat_map(|text| Frame::text(text).encode()).collect();
    peer.write(octets);
}

/// Does what each message says: `+topic`, `-topic`, `topic: text`; answers what came of it.
fn listener(client: &mut Connection) -> Result<(), BoxError> {
    while let Some(message) = client.recv()? {
        let text = message.as_text().unwrap_or_default().to_owned();
        if let Some(topic) = text.strip_prefix('+') {
            let answer = client.subscribe(topic).map_or_else(|error| error.to_string(), |()| "on".into());
            client.send(answer)?;
        } else if let Some(topic) = text.strip_prefix('-') {
            let was = client.unsubscribe(topic);
            client.send(was.to_string())?;
        } else if let Some((topic, text)) = text.split_once(": ") {
            let delivery = client.publish(topic, text);
            client.send(delivery.to_string())?;
        }
    }
    Ok(())
}

#[track_caller]
fn asks(peer: &mut RawPeer, text: &str, answer: &str) {
    peer.send_text(text);
    peer.expect_text(answer);
}

#[test]
fn a_broadcast_says_what_became_of_it() {
    let _dog = watchdog(20);
    let server = TestServer::new(listener);
    let hub = server.hub();
    assert_eq!(hub.broadcast("nobody is here").to_string(), "0 sent, 0 queued, 0 skipped, 0 closed");
    let mut peers: Vec<_> = (0..3).map(|_| RawPeer::open(server.addr())).collect();
    eventually("all are in", || hub.len() == 3);
    let delivery = hub.broadcast("to all");
    assert_eq!((delivery.sent(), delivery.reached(), delivery.skipped() + delivery.closed()), (3, 3, 0));
    let second = hub.clients()[1].id();
    assert_eq!(hub.broadcast_except(second, b"to two").sent(), 2);
    for peer in &mut peers {
        peer.expect_text("to all");
    }
    for number in [0, 2] {
        peers[number].expect_binary(b"to two");
    }
    peers[1].expect_silence(ms(50));
    for peer in peers {
        peer.close(1000);
    }
}

#[test]
fn a_topic_reaches_who_subscribed_and_nobody_else() {
    let _dog = watchdog(20);
    let server = TestServer::new(listener);
    let hub = server.hub();
    let [mut a, mut b, mut c] = [(); 3].map(|()| RawPeer::open(server.addr()));
    asks(&mut a, "+room/7", "on");
    asks(&mut a, "+room/7", "on"); // A second time does nothing.
    asks(&mut a, "+lobby", "on");
    asks(&mut b, "+room/7", "on");
    assert_eq!(hub.topics(), [("lobby".to_owned(), 1), ("room/7".to_owned(), 2)]);
    let members = hub.members("room/7");
    assert_eq!(members.len(), 2);
    assert_eq!(members[0].peer_addr(), a.local_addr());
    assert!(hub.members("room/8").is_empty());

    // Who publishes need not have subscribed.
    asks(&mut c, "room/7: from outside", "2 sent, 0 queued, 0 skipped, 0 closed");
    a.expect_text("from outside");
    b.expect_text("from outside");
    a.send_text("room/7: from inside");
    a.expect_text("from inside");
    a.expect_text("2 sent, 0 queued, 0 skipped, 0 closed");
    b.expect_text("from inside");
    assert_eq!(hub.publish_except(members[0].id(), "room/7", "not to a").reached(), 1);
    b.expect_text("not to a");
    assert_eq!(hub.publish("nowhere", "x").reached(), 0);

    asks(&mut b, "-room/7", "true");
    asks(&mut b, "-room/7", "false");
    assert_eq!(hub.publish("room/7", "last").reached(), 1);
    a.expect_text("last");
    // Subscriptions end with the connection.
    a.close(1000);
    eventually("no topics", || hub.topics().is_empty());
    assert_eq!(hub.publish("room/7", "x").reached(), 0);
    b.close(1000);
    c.close(1000);
}

#[test]
fn topics_are_bounded_in_length_and_number() {
    let _dog = watchdog(20);
    let server = TestServer::with(|server| server.config(threadws::Config::new().max_topics(3)), listener);
    let mut peer = RawPeer::open(server.addr());
    let longest = "x".repeat(256);
    asks(&mut peer, &format!("+{longest}"), "on");
    asks(&mut peer, &format!("+{longest}x"), "invalid input: topic longer than 256 bytes");
    asks(&mut peer, "+", "invalid input: a topic without a name");
    asks(&mut peer, "+second", "on");
    asks(&mut peer, "+third", "on");
    asks(&mut peer, "+fourth", "more than 3 topics");
    asks(&mut peer, "+third", "on"); // It is there already.
    asks(&mut peer, "-second", "true");
    asks(&mut peer, "+fourth", "on");
    assert_eq!(server.hub().topics().len(), 3);
    peer.close(1000);
    eventually("no topics", || server.hub().topics().is_empty());
}

#[test]
fn a_client_of_another_server_has_no_topics_to_subscribe_to() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        client.broadcast("from the server");
        client.ignore()?;
        Ok(())
    });
    let mut client = threadws::connect(format!("ws://{}/", server.addr())).expect("it listens");
    assert!(matches!(client.subscribe("topic"), Err(Error::Invalid(_))));
    assert!(!client.unsubscribe("topic"));
    client.broadcast("a client has nobody to tell");
    assert_eq!(client.publish("topic", "x").reached(), 0);
    assert!(client.recv().expect("open").is_some());
    client.close(1000, "").expect("a clean end");
    assert!(matches!(client.subscribe("topic"), Err(Error::Closed(_))));
    let closed = client.closed().expect("closed");
    assert_eq!((closed.messages_sent(), closed.messages_received()), (0, 1));
}

#[test]
fn hooks_tell_who_joins_and_leaves_each_once_and_under_no_lock() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
    let joins = tell.clone();
    let server = TestServer::with(
        move |server| {
            let (joined, left) = (server.hub().clone(), server.hub().clone());
            server
                .on_join(move |client, topic| {
                    // It is a member already, and the hub can be asked and used.
                    let there = joined.members(topic).iter().any(|member| member.id() == client.id());
                    joined.publish(topic, "joined");
                    joins.send(format!("{} joins {topic} {there}", client.id())).unwrap_or(());
                    assert_ne!(topic, "panic", "a hook's own fault");
                })
                .on_leave(move |client, topic| {
                    let there = left.members(topic).iter().any(|member| member.id() == client.id());
                    left.publish(topic, "left");
                    tell.send(format!("{} leaves {topic} {there}", client.id())).unwrap_or(());
                    assert_ne!(topic, "panic", "a hook's own fault");
                })
        },
        listener,
    );
    let mut stays = RawPeer::open(server.addr());
    stays.send_text("+a");
    stays.expect_text("joined");
    stays.expect_text("on");
    let one = next(&told, "the first join");
    let (id, _) = one.split_once(' ').expect("words");
    assert_eq!(one, format!("{id} joins a true"));

    let mut peer = RawPeer::open(server.addr());
    for topic in ["a", "panic", "b"] {
        peer.send_text(&format!("+{topic}"));
        peer.expect_text("joined");
        peer.expect_text("on");
    }
    stays.expect_text("joined");
    let other = next(&told, "a join");
    let (other, _) = other.split_once(' ').expect("words");
    assert_eq!(next(&told, "a join"), format!("{other} joins panic true"));
    assert_eq!(next(&told, "a join"), format!("{other} joins b true"));
    asks(&mut peer, "-b", "true");
    assert_eq!(next(&told, "a leave"), format!("{other} leaves b false"));
    asks(&mut peer, "-b", "false");
    // The end leaves the rest.
    peer.close(1000);
    assert_eq!(next(&told, "a leave"), format!("{other} leaves a false"));
    assert_eq!(next(&told, "a leave"), format!("{other} leaves panic false"));
    stays.expect_text("left");
    assert!(told.try_recv().is_err(), "told twice");
    stays.close(1000);
    assert_eq!(next(&told, "the last leave"), format!("{id} leaves a false"));
}

#[test]
fn a_burst_is_passed_on_at_once_when_its_last_message_is_read() {
    let _dog = watchdog(20);
    let (tell, told) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let mut sent = Vec::new();
        while let Some(message) = client.recv()? {
            client.broadcast(message);
            sent.push(
                client.hub().clients().iter().map(|client| client.stats().messages_sent()).sum::<u64>(),
            );
            if sent.len() == 10 {
                tell.send(std::mem::take(&mut sent)).unwrap_or(());
            }
        }
        Ok(())
    });
    let mut other = RawPeer::open(server.addr());
    let mut peer = RawPeer::open(server.addr());
    eventually("both are in", || server.hub().len() == 2);
    let texts: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    together(&mut peer, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    // Nine are held, and the tenth takes all of them to both.
    assert_eq!(next(&told, "ten counts"), [0, 0, 0, 0, 0, 0, 0, 0, 0, 20]);
    for text in &texts {
        peer.expect_text(text);
        other.expect_text(text);
    }
    // With nothing unread it goes out at once.
    asks(&mut peer, "alone", "alone");
    other.expect_text("alone");
    peer.close(1000);
    other.close(1000);
}

#[test]
fn answers_and_broadcasts_reach_their_own_client_in_the_order_of_the_calls() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            let text = message.as_text().unwrap_or_default().to_owned();
            match text.split_at(1) {
                ("w", text) => client.write(text)?,
                ("b", text) => client.broadcast(text),
                ("s", text) => client.send(text)?,
                ("p", text) => {
                    client.publish("topic", text);
                }
                (_, topic) => client.subscribe(topic)?,
            }
        }
        Ok(())
    });
    let [mut peer, mut other] = [(); 2].map(|()| RawPeer::open(server.addr()));
    eventually("both are in", || server.hub().len() == 2);
    peer.send_text("+topic");
    other.send_text("+topic");
    eventually("both listen", || server.hub().members("topic").len() == 2);
    let rounds: [(&[&str], &[&str]); 6] = [
        (&["w1", "b2", "w3", "b4"], &["2", "4"]),
        (&["b1", "w2", "b3", "w4"], &["1", "3"]),
        (&["b1", "b2", "s3", "b4"], &["1", "2", "4"]),
        (&["w1", "b2", "p3", "w4"], &["2", "3"]),
        (&["b1", "b2", "p3", "w4"], &["1", "2", "3"]),
        (&["b1", "b2", "b3", "b4"], &["1", "2", "3", "4"]),
    ];
    for (texts, others) in rounds {
        together(&mut peer, texts);
        for text in ["1", "2", "3", "4"] {
            peer.expect_text(text);
        }
        for text in others {
            other.expect_text(text);
        }
    }
    // More than a cork holds, in messages small and large.
    let sizes = (0..40).map(|number| number * 1000).chain([100_000]);
    let large: Vec<_> = sizes.map(|size| format!("b{}", "x".repeat(size))).collect();
    together(&mut peer, &large.iter().map(String::as_str).collect::<Vec<_>>());
    for text in &large {
        peer.expect_text(&text[1..]);
        other.expect_text(&text[1..]);
    }
    peer.close(1000);
    other.close(1000);
}

#[test]
fn what_is_held_is_told_however_the_handler_ends() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        loop {
            let Some(message) = client.recv()? else {
                client.broadcast("and gone");
                return Ok(());
            };
            let text = message.as_text().unwrap_or_default().to_owned();
            client.broadcast(&*text);
            match &*text {
                "return" => return Ok(()),
                "fail" => return Err("it failed".into()),
                "panic" => panic!("a handler's own fault"),
                "close" => client.close(1000, "")?,
                "terminate" => client.sender().terminate(),
                _ => {}
            }
        }
    });
    let mut other = RawPeer::open(server.addr());
    eventually("in", || server.hub().len() == 1);
    for (text, gone) in
        [("return", false), ("fail", false), ("panic", false), ("close", true), ("terminate", false)]
    {
        let mut peer = RawPeer::open(server.addr());
        eventually("in", || server.hub().len() == 2);
        // Two unread messages behind it keep it in the cork, and nobody ever reads them.
        together(&mut peer, &["held", text, "unread", "unread"]);
        other.expect_text("held");
        other.expect_text(text);
        if text == "terminate" {
            // What was read before is still handed out.
            other.expect_text("unread");
            other.expect_text("unread");
        }
        if gone {
            peer.send(&Frame::close(1000, ""));
            peer.fin();
            other.expect_text("and gone");
        }
        drop(peer);
        eventually("out", || server.hub().len() == 1);
    }
    // A Close behind it, a violation behind it, an end of the stream inside a frame behind it.
    for octets in [Frame::close(1000, "").encode(), Frame::text("x").rsv(0x40).encode(), vec![0x81, 0xff]] {
        let mut peer = RawPeer::open(server.addr());
        eventually("in", || server.hub().len() == 2);
        peer.write([Frame::text("last words").encode(), octets.clone()].concat());
        other.expect_text("last words");
        if octets[0] == 0x88 {
            peer.expect_text("last words");
            peer.expect_close(1000);
            peer.expect_eof();
            other.expect_text("and gone");
        }
        drop(peer);
        eventually("out", || server.hub().len() == 1);
    }
    other.expect_silence(ms(20));
    other.close(1000);
}

/// One publisher's messages as one client sees them: `publisher number`, without a hole from the first one on.
#[derive(Default)]
struct Sequence(Vec<Option<u64>>);

impl Sequence {
    #[track_caller]
    fn note(&mut self, text: &str) {
        let (publisher, number) = text.split_once(' ').expect("two words");
        let publisher: usize = publisher.parse().expect("a publisher");
        let number = number.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        self.0.resize(self.0.len().max(publisher + 1), None);
        if let Some(last) = self.0[publisher] {
            assert_eq!(number, last + 1, "publisher {publisher}");
        }
        self.0[publisher] = Some(number);
    }

    fn last(&self, publisher: usize) -> Option<u64> {
        self.0.get(publisher).copied().flatten()
    }
}

#[test]
fn nothing_is_lost_or_doubled_while_others_come_and_go() {
    let _dog = watchdog(60);
    const THREADS: usize = 2;
    const HANDLERS: usize = 2;

    // The publishers: two threads on the hub, one to everyone and one to a topic, and two handlers, whose messages their clients make.
    let server = TestServer::new(|client| {
        client.subscribe("all")?;
        while let Some(message) = client.recv()? {
            client.broadcast(message);
        }
        Ok(())
    });
    let addr = server.addr();
    let over = AtomicBool::new(false);
    let came = AtomicU64::new(0);
    // Those who stay are there before the first word.
    let stayers: Vec<_> = (0..6).map(|_| RawPeer::open(addr)).collect();
    eventually("all listen", || server.hub().members("all").len() == 6);
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
                        assert_eq!(delivery.closed() + delivery.skipped(), 0, "{delivery}");
                        number += 1;
                        thread::sleep(std::time::Duration::from_micros(300)); // so that nobody is slow
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
                    // It stays until all others have heard it: an abrupt end may take unread words with it.
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
                    // Nobody says anything any more when it is over.
                    while heard < 20 && !over.load(Ordering::Relaxed) {
                        match peer.frame_until(Instant::now() + ms(50)) {
                            Ok(Some(frame)) => {
                                seen.note(frame.as_text());
                                heard += 1;
                                last = Instant::now();
                            }
                            Ok(None) => panic!("the server let go of a healthy client"),
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
                    // Long enough, and until enough of them have.
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
        // Everything that was published arrives.
        for (peer, seen) in &mut stayers {
            while published
                .iter()
                .enumerate()
                .any(|(publisher, count)| seen.last(publisher).is_none_or(|last| last + 1 < *count))
            {
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
    eventually("all are out", || server.hub().is_empty() && server.hub().topics().is_empty());
}

#[test]
fn no_frame_comes_before_the_101_and_no_callback_before_the_handler() {
    let _dog = watchdog(60);
    let handlers = Arc::new(Mutex::new(Vec::new()));
    let early = Arc::new(AtomicU64::new(0));
    let (begun, counted) = (Arc::clone(&handlers), Arc::clone(&early));
    let server = TestServer::with(
        move |server| {
            server.on_join(move |client, _| {
                if !begun.lock().expect("no panic").contains(&client.id()) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            })
        },
        move |client| {
            assert_eq!(client.state(), State::Open);
            handlers.lock().expect("no panic").push(client.id());
            client.subscribe("topic")?;
            // The first message is there, however many broadcasts passed it.
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
            // `upgrade` minds that the 101 comes first and is whole, `message` that whole frames follow.
            let mut peer = RawPeer::connect(server.addr());
            let request = common::upgrade_request(server.addr(), "/", &[]);
            peer.write([request.as_bytes(), &Frame::text("first").encode()].concat());
            peer.expect_101();
            while peer.message().as_text() != "second" {}
            peer.reset();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(early.load(Ordering::Relaxed), 0);
}
