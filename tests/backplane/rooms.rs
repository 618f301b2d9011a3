//! Servers that hear each other.

use crate::servers::{Node, expect};
use std::time::Duration;
use support::{eventually, watchdog};
use threadws::Server;
use threadws::backplane::{Backplane, LinkState, Memory};

#[test]
fn clients_of_several_servers_form_one_room() {
    let _dog = watchdog(60);
    let memory = Memory::new();
    let nodes = [(); 3].map(|()| Node::start(memory.clone()));
    let mut clients = nodes.each_ref().map(|node| node.client("/room"));
    let mut other = nodes[0].client("/other");
    for from in 0..3 {
        let text = format!("from {from}");
        clients[from].send(&*text).expect("open");
        for client in &mut clients {
            expect(client, &text);
        }
    }
    let delivery = nodes[2].server.hub().broadcast("to all");
    assert_eq!(delivery.to_string(), "1 sent, 0 queued, 0 skipped, 0 closed, passed on");
    for client in clients.iter_mut().chain([&mut other]) {
        expect(client, "to all");
    }
    for node in &nodes {
        eventually("the others are counted", || node.status().nodes == 2);
        let status = node.status();
        assert_eq!((status.missed, status.repeated, status.foreign, status.dropped), (0, 0, 0, 0));
    }
}

#[test]
fn a_local_hub_reaches_only_its_own_clients() {
    let _dog = watchdog(60);
    let memory = Memory::new();
    let (here, there) = (Node::start(memory.clone()), Node::start(memory));
    let (mut near, mut far) = (here.client("/room"), there.client("/room"));
    let local = here.server.hub().local();
    assert_eq!(local.broadcast("here").to_string(), "1 sent, 0 queued, 0 skipped, 0 closed");
    assert_eq!(local.publish("/room", "here, too").passed_on, None);
    here.server.hub().publish("/room", "everywhere");
    for text in ["here", "here, too", "everywhere"] {
        expect(&mut near, text);
    }
    expect(&mut far, "everywhere");
}

#[test]
fn a_server_without_subscribers_hears_nothing_of_a_topic() {
    let _dog = watchdog(60);
    let memory = Memory::new();
    let (here, there) = (Node::start(memory.clone()), Node::start(memory));
    let (_client, mut other) = (here.client("/room"), there.client("/other"));
    here.publish("/room", 0..100);
    here.server.hub().broadcast("last");
    expect(&mut other, "last");
    assert_eq!(there.status().received, 1);
    assert_eq!(there.status().channels, 3);
}

#[test]
fn servers_with_different_prefixes_hear_nothing_of_each_other() {
    let _dog = watchdog(60);
    let memory = Memory::new();
    let with_prefix = |prefix: &str| Node::start(Backplane::new(memory.clone()).prefix(prefix));
    let (one, two) = (with_prefix("one"), with_prefix("two"));
    let (mut first, mut second) = (one.client("/room"), two.client("/room"));
    one.publish("/room", [1]);
    two.publish("/room", [2]);
    expect(&mut first, "1");
    expect(&mut second, "2");
    assert_eq!((one.status().received, two.status().received), (0, 0));
}

#[test]
fn what_is_published_after_subscribe_returned_is_heard() {
    let _dog = watchdog(60);
    let memory = Memory::new();
    let (here, there) = (Node::start(memory.clone()), Node::start(memory));
    for number in 0..300 {
        let topic = format!("/{number}");
        let mut client = here.client(&topic);
        there.server.hub().publish(&topic, "hello");
        expect(&mut client, "hello");
    }
}

#[test]
fn a_topic_is_left_some_time_after_its_last_subscriber() {
    let _dog = watchdog(60);
    let node = Node::start(Backplane::new(Memory::new()).linger(Duration::from_millis(100)));
    let clients = [(); 3].map(|()| node.client("/room"));
    assert_eq!(node.status().channels, 3);
    drop(clients);
    eventually("it is left", || node.status().channels == 2);
}

#[test]
fn messages_that_wait_are_sent_before_the_end() {
    let _dog = watchdog(60);
    let memory = Memory::new();
    let (here, there) = (Node::start(memory.clone()), Node::start(memory));
    let mut client = there.client("/room");
    let hub = here.server.hub().clone();
    here.publish("/room", 0..1000);
    let report = here.server.shutdown(Duration::from_secs(5));
    assert_eq!(report.to_string(), "0 connections closed");
    crate::servers::expect_numbers(&mut client, 0..1000);
    assert_eq!(hub.publish("/room", "too late").passed_on, Some(false));
    assert_eq!(hub.backplane().expect("a backplane").state, LinkState::Stopped);
    eventually("it has said goodbye", || there.status().nodes == 0);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let new = || Backplane::new(Memory::new());
    for (backplane, problem) in [
        (new().prefix(""), "the prefix of a backplane has 1 to 64 bytes"),
        (new().prefix("x".repeat(65)), "the prefix of a backplane has 1 to 64 bytes"),
        (new().max_waiting(0), "max_waiting is 0"),
        (new().max_age(Duration::ZERO), "max_age is 0"),
    ] {
        let server = Server::bind("127.0.0.1:0").expect("a port").backplane(backplane);
        let error = server.spawn(|client| Ok(client.ignore()?)).expect_err("it is refused");
        assert_eq!(error.to_string(), format!("invalid input: {problem}"));
    }
}
