//! Messages to all clients, to a topic, and to all except one. The order of messages is tested in `order.rs`, clients
//! that join and leave meanwhile in `churn.rs`.

use std::sync::mpsc;
use support::{RawPeer, TestServer, eventually, is_behind_relay, ms, next, reached, watchdog};
use threadws::{BoxError, Connection, Error, hub::SlowPeer};

/// Executes each message: `+topic`, `-topic` or `topic: text`. Answers with the result.
fn listener(client: &mut Connection) -> Result<(), BoxError> {
    while let Some(message) = client.recv()? {
        let text = message.as_text().unwrap_or_default().to_owned();
        if let Some(topic) = text.strip_prefix('+') {
            let answer = client.subscribe(topic).map_or_else(|error| error.to_string(), |()| "on".into());
            client.send(answer)?;
        } else if let Some(topic) = text.strip_prefix('-') {
            let was = client.unsubscribe(topic)?;
            client.send(was.to_string())?;
        } else if let Some((topic, text)) = text.split_once(": ") {
            let delivery = client.hub()?.publish(topic, text);
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
fn a_broadcast_returns_its_delivery() {
    let _dog = watchdog(20);
    let server = TestServer::new(listener);
    let hub = server.hub();
    assert_eq!(hub.broadcast("no client is here").to_string(), "0 sent, 0 queued, 0 skipped, 0 closed");
    let mut peers: Vec<_> = (0..3).map(|_| RawPeer::open(server.addr())).collect();
    eventually("all are in", || hub.count() == 3);
    let delivery = hub.broadcast("to all");
    assert_eq!((delivery.sent, reached(delivery), delivery.skipped + delivery.closed), (3, 3, 0));
    let second = hub.clients()[1].id();
    assert_eq!(hub.broadcast_except(second, b"to two").sent, 2);
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
fn a_topic_reaches_its_subscribers_only() {
    let _dog = watchdog(20);
    if is_behind_relay("the relay has an address of its own") {
        return;
    }
    let server = TestServer::new(listener);
    let hub = server.hub();
    let [mut a, mut b, mut c] = [(); 3].map(|()| RawPeer::open(server.addr()));
    asks(&mut a, "+room/7", "on");
    asks(&mut a, "+room/7", "on"); // A second call does nothing.
    asks(&mut a, "+lobby", "on");
    asks(&mut b, "+room/7", "on");
    assert_eq!(hub.topics(), [("lobby".to_owned(), 1), ("room/7".to_owned(), 2)]);
    let members = hub.subscribers("room/7");
    assert_eq!(members.len(), 2);
    assert_eq!(members[0].peer_addr(), a.local_addr().into());
    assert!(hub.subscribers("room/8").is_empty());

    // A publisher need not have subscribed.
    asks(&mut c, "room/7: from outside", "2 sent, 0 queued, 0 skipped, 0 closed");
    a.expect_text("from outside");
    b.expect_text("from outside");
    a.send_text("room/7: from inside");
    a.expect_text("from inside");
    a.expect_text("2 sent, 0 queued, 0 skipped, 0 closed");
    b.expect_text("from inside");
    assert_eq!(reached(hub.publish_except(members[0].id(), "room/7", "not to a")), 1);
    b.expect_text("not to a");
    assert_eq!(reached(hub.publish("nowhere", "x")), 0);

    asks(&mut b, "-room/7", "true");
    asks(&mut b, "-room/7", "false");
    assert_eq!(reached(hub.publish("room/7", "last")), 1);
    a.expect_text("last");
    // Subscriptions end with the connection.
    a.close(1000);
    eventually("no topics", || hub.topics().is_empty());
    assert_eq!(reached(hub.publish("room/7", "x")), 0);
    b.close(1000);
    c.close(1000);
}

#[test]
fn topics_are_bounded_in_length_and_number() {
    let _dog = watchdog(20);
    let server = TestServer::with(|server| server.max_topics(3), listener);
    let mut peer = RawPeer::open(server.addr());
    let longest = "x".repeat(256);
    asks(&mut peer, &format!("+{longest}"), "on");
    asks(&mut peer, &format!("+{longest}x"), "invalid input: topic longer than 256 bytes");
    asks(&mut peer, "+", "invalid input: a topic without a name");
    asks(&mut peer, "+second", "on");
    asks(&mut peer, "+third", "on");
    asks(&mut peer, "+fourth", "more than 3 topics");
    asks(&mut peer, "+third", "on"); // It is subscribed already.
    asks(&mut peer, "-second", "true");
    asks(&mut peer, "+fourth", "on");
    assert_eq!(server.hub().topics().len(), 3);
    peer.close(1000);
    eventually("no topics", || server.hub().topics().is_empty());
}

#[test]
fn a_client_of_another_server_has_no_topics() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        client.hub()?.broadcast("from the server");
        client.ignore()?;
        tx.send(client.subscribe("too late")).unwrap_or(());
        Ok(())
    });
    let mut client = threadws::connect(format!("ws://{}/", server.addr())).expect("it listens");
    let results = [
        client.hub().map(drop),
        client.subscribe("topic"),
        client.unsubscribe("topic").map(drop),
        client.set_slow_peer(SlowPeer::Skip),
        client.write_broadcast("a client has no other clients"),
    ];
    for result in results {
        let error = result.expect_err("only a server has a hub");
        assert_eq!(error.to_string(), "invalid input: only a server's connection has a hub");
        assert!(!error.is_fatal());
    }
    assert!(client.recv().expect("open").is_some());
    client.close(1000, "").expect("a clean end");
    assert!(matches!(next(&rx, "the server's end"), Err(Error::Closed(_))));
    let closed = client.closed().expect("closed");
    assert_eq!((closed.traffic().messages_sent, closed.traffic().messages_received), (0, 1));
}

#[test]
fn hooks_are_called_once_and_under_no_lock() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let joins = tx.clone();
    let server = TestServer::with(
        move |server| {
            server
                .on_subscribe(move |hub, client, topic| {
                    // It is a subscriber already, and the hub can be used.
                    let there = hub.subscribers(topic).iter().any(|member| member.id() == client.id());
                    hub.publish(topic, "joined");
                    joins.send(format!("{} joins {topic} {there}", client.id())).unwrap_or(());
                    assert_ne!(topic, "panic", "a hook's own fault");
                })
                .on_unsubscribe(move |hub, client, topic| {
                    let there = hub.subscribers(topic).iter().any(|member| member.id() == client.id());
                    hub.publish(topic, "left");
                    tx.send(format!("{} leaves {topic} {there}", client.id())).unwrap_or(());
                    assert_ne!(topic, "panic", "a hook's own fault");
                })
        },
        listener,
    );
    let mut stays = RawPeer::open(server.addr());
    stays.send_text("+a");
    stays.expect_text("joined");
    stays.expect_text("on");
    let one = next(&rx, "the first join");
    let (id, _) = one.split_once(' ').expect("words");
    assert_eq!(one, format!("{id} joins a true"));

    let mut peer = RawPeer::open(server.addr());
    for topic in ["a", "panic", "b"] {
        peer.send_text(&format!("+{topic}"));
        peer.expect_text("joined");
        peer.expect_text("on");
    }
    stays.expect_text("joined");
    let other = next(&rx, "a join");
    let (other, _) = other.split_once(' ').expect("words");
    assert_eq!(next(&rx, "a join"), format!("{other} joins panic true"));
    assert_eq!(next(&rx, "a join"), format!("{other} joins b true"));
    asks(&mut peer, "-b", "true");
    assert_eq!(next(&rx, "a leave"), format!("{other} leaves b false"));
    asks(&mut peer, "-b", "false");
    // The end removes the other subscriptions.
    peer.close(1000);
    assert_eq!(next(&rx, "a leave"), format!("{other} leaves a false"));
    assert_eq!(next(&rx, "a leave"), format!("{other} leaves panic false"));
    stays.expect_text("left");
    assert!(rx.try_recv().is_err(), "called twice");
    stays.close(1000);
    assert_eq!(next(&rx, "the last leave"), format!("{id} leaves a false"));
}
