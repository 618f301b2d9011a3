//! A client joins the hub, and then its 101 is sent.

use super::transport::{Input, Script};
use super::wire::{RESPONSE, Wire, after_response, message};
use super::{Flushing, Link, check, clock, join, spawn};
use crate::addr::Addr;
use crate::config::Config;
use crate::error::{Cause, Closed};
use crate::hub::{Client, Hooks, Hub};
use crate::message::CloseFrame;
use crate::net::Deadline;
use crate::protocol::Role;
use crate::sender::Sender;
use crate::stats::{Measured, Stats};
use crate::sync::next_id;
use shuttle::rand::{Rng, thread_rng};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A connection whose 101 is queued. The backlog is larger than in other models, because no message must be refused.
fn held(room: usize, flushing: &Flushing) -> Link {
    let script = Script::new(room);
    let link = Link::new_with(script, Role::Server, &Config::default(), flushing);
    link.outbox.hold(RESPONSE.to_vec());
    link
}

/// Opens a connection and reads it until its end, like a client's thread. Returns whether its 101 was sent.
fn serve(hub: &Hub, link: &Link, deadline: Deadline) -> (bool, Closed) {
    let sender = Sender::new(next_id(), link.outbox.clone());
    let (id, hooks) = (sender.id(), Hooks::default());
    let peer_addr = Addr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    hub.join(Client { sender, client_addr: peer_addr, peer_addr });
    hub.subscribe(id, "topic", &hooks).expect("it is in the hub");
    let is_open = link.outbox.open(deadline).is_ok();
    let closed = link.read();
    hub.leave(id, &hooks);
    (is_open, closed)
}

fn frames(wire: &[u8]) -> Option<Wire> {
    after_response(wire).map(|frames| Wire::read(Role::Server, frames))
}

fn opened(hub: &Hub) -> u64 {
    let mut stats = Stats::default();
    hub.measure(&mut stats);
    stats.opened
}

#[test]
fn a_client_that_has_its_101_is_in_the_hub_and_subscribed() {
    check(|| {
        let flushing = Flushing::start();
        let hub = Hub::default();
        let link = held(thread_rng().gen_range(0..30), &flushing);
        let server = spawn({
            let (hub, link) = (hub.clone(), link.clone());
            move || serve(&hub, &link, Deadline::NEVER)
        });
        let publisher = spawn({
            let hub = hub.clone();
            move || [0, 1].map(|number| hub.broadcast(message(1, number, 5)))
        });
        link.script.drain();
        // The client has read its 101.
        link.script.wait_wire(|wire| frames(wire).is_some());
        assert_eq!((hub.count(), opened(&hub)), (1, 1), "I13");
        let topic = hub.publish("topic", message(2, 0, 8));
        let all = hub.broadcast(message(3, 0, 8));
        assert_eq!((topic.sent + topic.queued, all.sent + all.queued), (1, 1), "I13");
        let before = join(publisher).iter().map(|delivery| delivery.sent + delivery.queued).sum::<usize>();
        link.script.wait_wire(|wire| frames(wire).is_some_and(|wire| wire.messages.len() == before + 2));
        link.script.peer_sends(Input::End);
        let (is_open, closed) = join(server);
        flushing.stop();
        assert!(is_open && hub.count() == 0 && opened(&hub) == 1, "I9, I13");
        let wire = link.script.wire();
        assert_eq!(closed.traffic().bytes_sent, (wire.len() - RESPONSE.len()) as u64, "bytes are miscounted");
    });
}

#[test]
fn a_101_that_cannot_be_sent_leaves_the_hub_without_a_trace() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::racing();
        let hub = Hub::default();
        let link = held(thread_rng().gen_range(0..RESPONSE.len() * 2), &flushing);
        let server = spawn({
            let (hub, link) = (hub.clone(), link.clone());
            move || serve(&hub, &link, Deadline::after(Duration::from_secs(3)))
        });
        // Others use the client as soon as it is in the hub: a sender that waits, one that does not, and one that closes.
        let others = [0, 1, 2].map(|number| {
            let hub = hub.clone();
            spawn(move || {
                for client in hub.clients() {
                    let outbox = client.sender.outbox();
                    match number {
                        0 => drop(outbox.send(message(1, 0, 20))),
                        1 => drop(outbox.try_send(message(2, 0, 20))),
                        _ => client.sender.start_close(CloseFrame::new(1001, "")),
                    }
                }
                hub.broadcast(message(4 + number, 0, 5));
            })
        });
        let behaviour = thread_rng().gen_range(0..4);
        let peer = spawn({
            let link = link.clone();
            move || match behaviour {
                0 => {
                    link.script.drain();
                    if link.script.wait_wire_or_end(|wire| frames(wire).is_some()) {
                        link.script.peer_sends(Input::End);
                    }
                }
                1 => {
                    link.script.make_room(5);
                    link.script.fail(ErrorKind::ConnectionReset);
                    link.script.peer_sends(Input::End);
                }
                2 => link.outbox.break_off(Cause::Terminated),
                // It reads nothing. A connection that is open in spite of that has to end.
                _ => link.script.peer_sends(Input::End),
            }
        });
        let (is_open, closed) = join(server);
        others.into_iter().for_each(join);
        join(peer);
        flushing.stop();
        clock.stop();
        let wire = link.script.wire();
        assert_eq!(is_open, frames(&wire).is_some(), "I13: {closed}");
        assert_eq!((hub.count(), hub.topics()), (0, Vec::new()), "I9, I13");
        assert_eq!(opened(&hub), u64::from(is_open), "I13");
        let sent = wire.len().saturating_sub(RESPONSE.len());
        assert_eq!(closed.traffic().bytes_sent, sent as u64, "bytes are miscounted");
        assert!(link.script.is_down(), "ended, but the socket is open");
    });
}

#[test]
fn a_wait_for_the_number_of_clients_misses_none() {
    check(|| {
        let flushing = Flushing::start();
        let hub = Hub::default();
        let waiting = [(1, 2), (2, 2), (0, 0)].map(|(from, to)| {
            let hub = hub.clone();
            spawn(move || hub.wait_count(from..=to, Duration::MAX).expect("no deadline"))
        });
        let clients = [(); 2].map(|()| {
            let (hub, link) = (hub.clone(), held(100, &flushing));
            let script = link.script.clone();
            (script, spawn(move || serve(&hub, &link, Deadline::NEVER)))
        });
        // No time passes in this model, so a lost notification is a deadlock.
        let [one, two, none] = waiting;
        join(one);
        join(two);
        for (script, server) in clients {
            script.peer_sends(Input::End);
            assert!(join(server).0);
        }
        join(none);
        flushing.stop();
    });
}
