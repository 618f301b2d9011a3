//! Clients of a hub that join, leave or stop waiting do not affect the others.

use super::wire::{Wire, message};
use super::{Flushing, Link, check, clock, join, spawn};
use crate::addr::Addr;
use crate::error::{Cause, Error, Timeout};
use crate::hub::{Client, Hooks, Hub};
use crate::net::Deadline;
use crate::protocol::Role;
use crate::sender::Sender;
use crate::stats::{Measured, Stats};
use crate::sync::{next_id, now};
use shuttle::rand::{Rng, thread_rng};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Adds a client to the hub.
fn join_hub(hub: &Hub, link: &Link) -> u64 {
    let sender = Sender::new(next_id(), link.outbox.clone());
    let peer_addr = Addr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let id = sender.id();
    hub.join(Client { sender, client_addr: peer_addr, peer_addr });
    id
}

#[test]
fn a_wait_for_the_backlog_that_times_out_loses_no_message() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::racing();
        let link = Link::new(Role::Server, thread_rng().gen_range(0..20), &flushing);
        let waiters = [1, 2].map(|millis| {
            let link = link.clone();
            spawn(move || {
                let sent = link.try_send(millis, 0, 30);
                (sent, link.outbox.wait_drained(Deadline::at(now() + Duration::from_millis(millis.into()))))
            })
        });
        let results = waiters.map(|waiter| {
            // The peer reads after a wait has timed out, or before.
            if thread_rng().gen_bool(0.5) {
                link.script.drain();
            }
            join(waiter)
        });
        link.script.drain();
        // No thread calls the outbox any more, so the flush thread has to send the rest. Otherwise this hangs.
        let accepted =
            Vec::from_iter(results.iter().map(|(sent, _)| sent).filter(|sent| sent.result.is_ok()));
        link.script.wait_wire_or_end(|wire| {
            let wire = Wire::read(Role::Server, wire);
            accepted.iter().all(|sent| wire.has(sent.sender, sent.number))
        });
        for (_, drained) in &results {
            assert!(
                matches!(
                    drained,
                    Ok(()) | Err(Error::Timeout(Timeout::Drained | Timeout::Write) | Error::Closed(_))
                ),
                "{drained:?}"
            );
        }
        flushing.stop();
        clock.stop();
    });
}

#[test]
fn a_client_that_stays_gets_every_message_while_others_come_and_go() {
    check(|| {
        let flushing = Flushing::start();
        let hub = Hub::default();
        let staying = Link::new(Role::Server, 1 << 20, &flushing);
        let hooks = Hooks { max_topics: 1, ..Hooks::default() };
        let id = join_hub(&hub, &staying);
        hub.subscribe(id, "topic", &hooks).expect("it is there");
        let publishers = [1, 2].map(|publisher| {
            let hub = hub.clone();
            spawn(move || {
                for number in 0..3 {
                    let message = message(publisher, number, 10);
                    let delivery =
                        if publisher == 1 { hub.broadcast(message) } else { hub.publish("topic", message) };
                    assert!((1..=2).contains(&delivery.sent), "{delivery}");
                }
            })
        });
        let visiting = Link::new(Role::Server, 1 << 20, &flushing);
        let visitor = spawn({
            let (hub, visiting) = (hub.clone(), visiting.clone());
            move || {
                let id = join_hub(&hub, &visiting);
                let hooks = Hooks { max_topics: 1, ..Hooks::default() };
                hub.subscribe(id, "topic", &hooks).expect("it is there");
                assert!(matches!(hub.subscribe(id, "other", &hooks), Err(Error::TooManyTopics { limit: 1 })));
                visiting.outbox.break_off(Cause::Terminated);
                visiting.read();
                hub.leave(id, &hooks);
            }
        });
        let mut before = 0;
        for _ in 0..3 {
            let sent = messages_sent(&hub);
            assert!(sent >= before, "{sent} after {before}");
            before = sent;
        }
        publishers.into_iter().for_each(join);
        join(visitor);
        assert_eq!((hub.count(), hub.topics()), (1, vec![("topic".to_owned(), 1)]), "I9");
        let wire = staying.wire();
        assert_eq!(wire.messages.len(), 6, "{:?}", wire.messages);
        assert_eq!(messages_sent(&hub), 6 + visiting.wire().messages.len() as u64);
        flushing.stop();
    });
}

fn messages_sent(hub: &Hub) -> u64 {
    let mut stats = Stats::default();
    hub.measure(&mut stats);
    stats.traffic.messages_sent
}
