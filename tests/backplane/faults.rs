//! Engines that are away, hang or lie.

use crate::faulty_engine::FaultyEngine;
use crate::servers::{Node, expect, expect_numbers};
use std::time::{Duration, Instant};
use support::{PATIENCE, eventually, eventually_within, watchdog};
use threadws::backplane::{Backplane, Engine, LinkState, Memory};

#[test]
fn without_an_engine_a_server_serves_its_own_clients() {
    let _dog = watchdog(60);
    let engine = FaultyEngine::default();
    engine.leave();
    let node = Node::start_alone(engine);
    node.wait_for(LinkState::Away);
    let mut clients = [node.client("/room"), node.client("/room")];
    let delivery = node.server.hub().publish("/room", "hello");
    assert_eq!(delivery.to_string(), "2 sent, 0 queued, 0 skipped, 0 closed, passed on");
    for client in &mut clients {
        expect(client, "hello");
    }
    assert_eq!(node.status().cause.as_deref(), Some("connection refused"));
}

#[test]
fn nothing_is_lost_while_an_engine_is_away() {
    let _dog = watchdog(60);
    let near = FaultyEngine::default();
    let far = near.for_another();
    let (here, there) = (Node::start(near.clone()), Node::start(far.clone()));
    let mut client = there.client("/room");
    here.publish("/room", 0..100);
    for engine in [&near, &far] {
        engine.leave();
    }
    here.publish("/room", 100..200);
    here.wait_for(LinkState::Away);
    there.wait_for(LinkState::Away);
    here.publish("/room", 200..300);
    far.come_back();
    there.wait_for(LinkState::Up);
    near.come_back();
    here.wait_for(LinkState::Up);
    here.publish("/room", 300..400);
    expect_numbers(&mut client, 0..400);
    assert_eq!((there.missed("/room"), there.status().missed), (0, 0));
    eventually("the loss is reported", || there.losses() == 1);
}

#[test]
fn unanswered_messages_are_sent_again_and_delivered_once() {
    let _dog = watchdog(60);
    let near = FaultyEngine::default();
    let (here, there) = (Node::start(near.clone()), Node::start(near.for_another()));
    let mut client = there.client("/room");
    near.lose_answers();
    here.publish("/room", 0..10);
    expect_numbers(&mut client, 0..10);
    near.break_links();
    near.come_back();
    eventually("it is sent again", || there.status().repeated == 10);
    here.publish("/room", 10..20);
    expect_numbers(&mut client, 10..20);
    assert_eq!(there.status().missed, 0);
}

#[test]
fn broken_links_repeat_nothing_and_keep_the_order() {
    let _dog = watchdog(60);
    let engine = FaultyEngine::default();
    let (here, there) = (Node::start(engine.clone()), Node::start(engine.clone()));
    let mut client = there.client("/room");
    here.publish("/room", [0]);
    expect(&mut client, "0");
    let mut last = 0;
    let (mut heard, mut next) = (0, 1);
    for round in 0..5 {
        for _ in 0..40 {
            here.publish("/room", next..next + 10);
            next += 10;
        }
        engine.break_links();
        eventually("both are back", || engine.links() >= 4 + 2 * round);
        here.wait_for(LinkState::Up);
        there.wait_for(LinkState::Up);
    }
    here.publish("/room", [next]);
    while last != next {
        let message = client.recv_timeout(PATIENCE).expect("open").expect("open");
        let number: u32 = message.as_text().expect("text").parse().expect("a number");
        assert!(last < number, "{number} after {last}");
        last = number;
        heard += 1;
    }
    assert_eq!(heard + there.missed("/room"), u64::from(next));
}

#[test]
fn others_count_what_a_full_queue_dropped() {
    let _dog = watchdog(60);
    let engine = FaultyEngine::default();
    let few = Backplane::new(engine.clone()).max_waiting(3000);
    let (here, there) = (Node::start(few), Node::start(engine.for_another()));
    let mut client = there.client("/room");
    here.publish("/room", [0]);
    expect(&mut client, "0");
    eventually("the engine has answered", || here.status().passed_on == 1);
    engine.leave();
    here.wait_for(LinkState::Away);
    // Five bytes each.
    here.publish("/room", 100..1000);
    assert_eq!(here.status().waiting_bytes, 3000);
    engine.come_back();
    expect_numbers(&mut client, 400..1000);
    assert_eq!((there.missed("/room"), here.status().dropped), (300, 300));
}

#[test]
fn an_engine_that_answers_nothing_is_left() {
    let _dog = watchdog(60);
    let engine = FaultyEngine::default();
    let node = Node::start(engine.clone());
    engine.fall_silent();
    // A ping is due within 2 s. Its answer has 3 s.
    eventually_within(Duration::from_secs(8), "it is left", || node.status().connects > 1);
    engine.come_back();
    node.wait_for(LinkState::Up);
}

#[test]
fn a_server_that_is_refused_tries_again_slowly() {
    let _dog = watchdog(60);
    let engine = FaultyEngine::default();
    engine.refuse();
    let node = Node::start_alone(engine.clone());
    node.wait_for(LinkState::Refused);
    assert_eq!(node.status().cause.as_deref(), Some("wrong password"));
    engine.come_back();
    node.wait_for(LinkState::Up);
}

#[test]
fn a_shutdown_does_not_wait_for_an_engine_that_hangs() {
    let _dog = watchdog(60);
    let engine = FaultyEngine::default();
    engine.hang(Duration::from_secs(5));
    let node = Node::start_alone(engine);
    node.publish("/room", 0..10);
    let begin = Instant::now();
    let report = node.server.shutdown(Duration::from_secs(4));
    assert!(report.is_complete(), "{report}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn a_publish_never_waits_for_an_engine() {
    let _dog = watchdog(60);
    let engine = FaultyEngine::default();
    let node = Node::start(engine.clone());
    engine.fall_silent();
    let begin = Instant::now();
    node.publish("/room", 0..20_000);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(node.status().waiting_bytes > 0);
}

#[test]
fn bytes_that_no_server_sent_are_counted_and_ignored() {
    let _dog = watchdog(60);
    let memory = Memory::new();
    let node = Node::start(memory.clone());
    let mut client = node.client("/room");
    let (mut writer, _reader) = memory.connect("stranger", PATIENCE).expect("open");
    let mut send = |channel: &str, head: &[u8], body: &[u8]| {
        writer.publish(channel, head, body).expect("open");
    };
    let room = "threadws:t:/room";
    // Version 1, kind 0, node 9, stream 1, first 1, one message.
    let head = b"t\x01\0\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01";
    send(room, b"", b"");
    send(room, b"garbage", b"garbage");
    for (at, byte) in [(0, b'x'), (1, 2), (2, 1), (3, 9), (27, 0), (31, 0), (31, 2)] {
        let mut other = *head;
        other[at] = byte;
        send(room, &other, b"\x81\x02no");
    }
    for body in [
        &b""[..],
        b"\x81\x03no",                               // cut
        b"\x81\x02no!",                              // longer
        b"\x81\x82\0\0\0\0no",                       // masked
        b"\x81\x7e\0\x02no",                         // not the shortest length
        b"\x81\x02\xff\xff",                         // not UTF-8
        b"\x01\x02no",                               // a fragment
        b"\xc1\x02no",                               // RSV1
        b"\x88\x02\x03\xe8",                         // Close
        b"\x89\x02no",                               // Ping
        b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", // longer than any memory
    ] {
        send(room, head, body);
    }
    send("threadws:x", head, b"\x81\x02no");
    send("threadws:c", head, b"\x81\x02no");
    send(room, head, b"\x81\x03yes");
    expect(&mut client, "yes");
    assert_eq!(node.status().foreign, 21);
}
