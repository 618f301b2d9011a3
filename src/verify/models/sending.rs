//! Several threads send over sockets that accept few bytes, fail, or accept nothing.

use super::transport::Input;
use super::wire::Wire;
use super::{BACKLOG, Flushing, Link, check, check_sealed, clock, join, spawn};
use crate::addr::Addr;
use crate::config::SlowPeer;
use crate::error::{Cause, Error, Timeout};
use crate::hub::{Client, Hub};
use crate::net::Deadline;
use crate::outbox::Counts;
use crate::protocol::Role;
use crate::sender::Sender;
use crate::sync::next_id;
use shuttle::rand::{Rng, thread_rng};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A message of this length is not copied behind its header.
const LARGE: usize = 1100;

fn random_role() -> Role {
    if thread_rng().gen_bool(0.5) { Role::Server } else { Role::Client }
}

#[test]
fn two_senders_and_the_pongs_of_a_reader() {
    check(|| {
        let flushing = Flushing::start();
        let link = Link::new(random_role(), 7, &flushing);
        let senders = [(1, [LARGE, 5]), (2, [9, LARGE])].map(|(sender, lens)| {
            let link = link.clone();
            spawn(move || [link.send(sender, 0, lens[0]), link.send(sender, 1, lens[1])])
        });
        let reader = spawn({
            let link = link.clone();
            move || (1..=3).for_each(|byte| link.outbox.pong(&[byte]).expect("the outbox is open"))
        });
        link.script.drain();
        for sent in senders.map(join).as_flattened() {
            assert!(sent.result.is_ok(), "{sent:?}");
        }
        join(reader);
        // I11: the flush thread sends it if no other thread does.
        link.script.wait_wire(|wire| Wire::read(link.outbox.role(), wire).pongs.last() == Some(&3));
        let wire = link.wire();
        assert_eq!((wire.messages.len(), wire.torn), (4, 0));
        assert!(!link.script.is_down());
        flushing.stop();
    });
}

#[test]
fn at_most_one_pong_waits_and_it_is_the_latest() {
    check(|| {
        let flushing = Flushing::start();
        let link = Link::new(Role::Server, 4, &flushing);
        let sender = spawn({
            let link = link.clone();
            move || link.send(1, 0, 20)
        });
        let reader = spawn({
            let link = link.clone();
            move || (1..=5).for_each(|byte| link.outbox.pong(&[byte]).expect("the outbox is open"))
        });
        join(reader);
        let before = link.wire();
        link.script.drain();
        assert!(join(sender).result.is_ok());
        link.script.wait_wire(|wire| Wire::read(Role::Server, wire).pongs.last() == Some(&5));
        // One may have been partly sent by then, or sealed, and one more waited.
        let after = link.wire().pongs.len() - before.pongs.len();
        let most = if before.torn > 0 || Link::is_sealed() { 2 } else { 1 };
        assert!(after <= most, "I11: {after} pongs waited");
        flushing.stop();
    });
}

#[test]
fn a_sender_a_tick_the_flush_thread_and_a_close() {
    check(|| {
        let flushing = Flushing::start();
        let link = Link::new(Role::Server, 12, &flushing);
        let tick = spawn({
            let link = link.clone();
            move || [(0, 9), (1, LARGE), (2, 10)].map(|(number, len)| link.try_send_shared(1, number, len))
        });
        let sender = spawn({
            let link = link.clone();
            move || [link.send(2, 0, 30), link.send(2, 1, 5)]
        });
        let closer = spawn({
            let link = link.clone();
            move || assert!(link.outbox.close(None), "the only Close")
        });
        let observer = spawn({
            let link = link.clone();
            move || link.watch_state()
        });
        link.script.drain();
        let sent = Vec::from_iter(join(tick).into_iter().chain(join(sender)));
        join(closer);
        link.script.wait_wire(|wire| Wire::read(Role::Server, wire).close.is_some());
        assert!(link.outbox.pong(&[1]).is_err(), "I1: a pong after a Close");
        let closed = link.outbox.end(Counts::default(), None);
        join(observer);
        flushing.stop();
        let wire = link.check_outcome(&closed, &sent);
        assert!(wire.close.is_some());
    });
}

#[test]
fn the_readers_own_records_stay_between_those_of_senders() {
    check_sealed(|| {
        let flushing = Flushing::start();
        let link = Link::new(random_role(), 9, &flushing);
        let senders = [(1, LARGE), (2, 9)].map(|(sender, len)| {
            let link = link.clone();
            spawn(move || [link.send(sender, 0, len), link.send(sender, 1, 5)])
        });
        for _ in 0..2 {
            link.script.peer_sends(Input::KeyUpdate);
        }
        link.script.peer_sends(Input::Ping(1));
        let peer = spawn({
            let link = link.clone();
            move || {
                link.script.drain();
                link.script.wait_wire(|wire| {
                    let wire = Wire::read(link.outbox.role(), wire);
                    wire.messages.len() == 4 && wire.pongs == [1]
                });
                // I7: the flush thread writes the answers if no other thread does.
                link.script.wait_unsealed(|unsealed| unsealed.answers == 2);
                link.script.peer_sends(Input::Close(None));
            }
        });
        let closed = link.read();
        let sent = senders.map(join);
        join(peer);
        flushing.stop();
        assert!(closed.is_clean(), "{closed}");
        link.check_outcome(&closed, sent.as_flattened());
    });
}

#[test]
fn a_close_notify_is_last_and_follows_every_clean_close() {
    check_sealed(|| {
        let flushing = Flushing::start();
        let link = Link::new(Role::Server, 5, &flushing);
        let sender = spawn({
            let link = link.clone();
            move || [link.send(1, 0, LARGE), link.try_send(1, 1, 5), link.try_send(1, 2, 5)]
        });
        let closer = spawn({
            let link = link.clone();
            move || link.start_close(1000)
        });
        let peer = spawn({
            let link = link.clone();
            move || {
                link.script.peer_sends(Input::KeyUpdate);
                link.script.drain();
                link.script.wait_wire(|wire| Wire::read(Role::Server, wire).close.is_some());
                link.script.peer_sends(Input::Close(None));
            }
        });
        let closed = link.read();
        let sent = join(sender);
        join(closer);
        join(peer);
        flushing.stop();
        assert!(closed.is_clean(), "{closed}");
        assert!(link.script.unsealed().has_ended, "no close_notify");
        link.check_outcome(&closed, &sent);
    });
}

#[test]
fn terminate_wakes_every_waiting_sender() {
    check(|| {
        let flushing = Flushing::start();
        let link = Link::new(Role::Server, thread_rng().gen_range(0..10), &flushing);
        let senders = [1, 2].map(|sender| {
            let link = link.clone();
            spawn(move || link.send(sender, 0, 20))
        });
        let pinger = spawn({
            let link = link.clone();
            move || drop(link.outbox.ping(&[1]))
        });
        let terminator = spawn({
            let link = link.clone();
            move || link.outbox.break_off(Cause::Terminated)
        });
        let closed = link.read();
        let sent = senders.map(join);
        join(pinger);
        join(terminator);
        flushing.stop();
        assert_eq!(closed.cause(), Some(Cause::Terminated));
        assert!(sent.iter().all(|sent| matches!(sent.result, Err(Error::Closed(_)))), "{sent:?}");
        link.check_outcome(&closed, &sent);
    });
}

#[test]
fn nothing_follows_a_frame_that_an_error_has_torn() {
    check(|| {
        let flushing = Flushing::start();
        let link = Link::new(Role::Server, 13, &flushing);
        let senders = [(1, 20), (2, LARGE)].map(|(sender, len)| {
            let link = link.clone();
            spawn(move || [link.send(sender, 0, len), link.try_send(sender, 1, 5)])
        });
        let reader = spawn({
            let link = link.clone();
            move || link.read()
        });
        link.script.make_room(5);
        link.script.fail(ErrorKind::ConnectionReset);
        let sent = senders.map(join);
        let closed = join(reader);
        flushing.stop();
        assert_eq!(closed.cause(), Some(Cause::Io(ErrorKind::ConnectionReset)));
        link.check_outcome(&closed, sent.as_flattened());
    });
}

#[test]
fn a_peer_that_never_reads_is_dropped_at_the_write_deadline() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::patient();
        let link = Link::new(Role::Server, thread_rng().gen_range(0..10), &flushing);
        // Without a waiting sender, the flush thread waits for the deadline.
        let senders = thread_rng().gen_range(0..=2);
        let senders = Vec::from_iter((0..senders).map(|sender| {
            let link = link.clone();
            spawn(move || link.send(sender, 0, 20))
        }));
        let other = spawn({
            let link = link.clone();
            move || link.try_send(9, 0, 30)
        });
        let closed = link.read();
        let mut sent = Vec::from_iter(senders.into_iter().map(join));
        sent.push(join(other));
        flushing.stop();
        clock.stop();
        assert_eq!(closed.cause(), Some(Cause::Timeout(Timeout::Write)));
        assert_eq!(clock::elapsed(), Duration::from_secs(10), "I7");
        link.check_outcome(&closed, &sent);
    });
}

#[test]
fn a_slow_peer_and_the_write_deadline_are_never_both_reported() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::racing();
        let link = Link::new(Role::Server, 6, &flushing);
        let senders = [(1, LARGE), (2, 20)].map(|(sender, len)| {
            let link = link.clone();
            spawn(move || [link.send(sender, 0, len), link.send(sender, 1, 5)])
        });
        let peer = spawn({
            let link = link.clone();
            move || {
                link.script.drain();
                // The senders may have timed out before.
                link.script.wait_wire_or_end(|wire| Wire::read(Role::Server, wire).messages.len() == 4);
                link.script.peer_sends(super::Input::End);
            }
        });
        let closed = link.read();
        let sent = senders.map(join);
        join(peer);
        flushing.stop();
        clock.stop();
        assert!(matches!(closed.cause(), Some(Cause::Timeout(Timeout::Write) | Cause::Eof)), "{closed}");
        link.check_outcome(&closed, sent.as_flattened());
    });
}

fn hub_of(links: &[&Link]) -> Hub {
    let hub = Hub::default();
    for link in links {
        let sender = Sender::new(next_id(), link.outbox.clone());
        let peer_addr = Addr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        hub.join(Client { sender, client_addr: peer_addr, peer_addr });
    }
    hub
}

#[test]
fn a_stuck_peer_delays_no_other_and_queues_no_more_than_its_backlog() {
    check(|| {
        let flushing = Flushing::start();
        let stuck = Link::new(Role::Server, 3, &flushing);
        stuck.outbox.set_slow_peer(SlowPeer::Skip);
        let healthy = Link::new(Role::Server, 1 << 20, &flushing);
        let hub = hub_of(&[&stuck, &healthy]);
        let waiting = spawn({
            let stuck = stuck.clone();
            move || stuck.send(1, 0, 40)
        });
        let fillers = [2, 3].map(|sender| {
            let stuck = stuck.clone();
            spawn(move || [0, 1, 2].map(|number| stuck.try_send(sender, number, 30)))
        });
        // The message of a waiting sender is not in the backlog, because its caller owns it.
        let most = BACKLOG + 42;
        for number in 0..3 {
            let taken = hub.broadcast(super::wire::message(4, number, 10));
            assert!((1..=2).contains(&(taken.sent + taken.queued)));
            assert!(healthy.wire().has(4, number), "I12: a stuck peer delays another");
            let backlog = stuck.outbox.stats().backlog;
            assert!(backlog <= most, "I12: {backlog} bytes wait");
        }
        let mut sent = Vec::from_iter(fillers.map(join).into_iter().flatten());
        assert!(sent.iter().any(|sent| matches!(sent.result, Err(Error::Full))), "I12: {sent:?}");
        stuck.outbox.break_off(Cause::Terminated);
        sent.push(join(waiting));
        let closed = stuck.read();
        flushing.stop();
        stuck.check_outcome(&closed, &sent);
    });
}

#[test]
fn one_broadcast_ends_a_peer_whose_backlog_is_full() {
    check(|| {
        let flushing = Flushing::start();
        let stuck = Link::new(Role::Server, 3, &flushing);
        let healthy = Link::new(Role::Server, 1 << 20, &flushing);
        let hub = hub_of(&[&stuck, &healthy]);
        let waiting = spawn({
            let stuck = stuck.clone();
            move || stuck.send(1, 0, 40)
        });
        let publishers = [2, 3].map(|sender| {
            let hub = hub.clone();
            spawn(move || {
                [0, 1, 2].map(|number| hub.broadcast(super::wire::message(sender, number, 30)).closed)
            })
        });
        let closed = stuck.read();
        let sent = [join(waiting)];
        let ended: usize = publishers.map(join).as_flattened().iter().sum();
        flushing.stop();
        assert_eq!((ended, closed.cause()), (1, Some(Cause::SlowPeer)), "I5");
        assert_eq!(healthy.wire().messages.len(), 6, "I12");
        stuck.check_outcome(&closed, &sent);
    });
}

#[test]
fn a_waiter_that_times_out_passes_its_turn_on() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::patient();
        let link = Link::new(Role::Server, 3, &flushing);
        let queued = link.try_send(1, 0, 20);
        assert!(queued.result.is_ok(), "{queued:?}");
        let waiting = [1, 2].map(|seconds| {
            let link = link.clone();
            spawn(move || link.outbox.wait_drained(Deadline::after(Duration::from_secs(seconds))))
        });
        let sender = spawn({
            let link = link.clone();
            move || link.send(2, 0, 20)
        });
        for result in waiting.map(join) {
            assert!(matches!(result, Err(Error::Timeout(Timeout::Drained))), "{result:?}");
        }
        assert_eq!(clock::elapsed(), Duration::from_secs(2), "I7");
        link.script.drain();
        assert!(join(sender).result.is_ok());
        assert_eq!(clock::elapsed(), Duration::from_secs(2), "I7");
        assert!(link.outbox.wait_drained(Deadline::NEVER).is_ok());
        flushing.stop();
        clock.stop();
    });
}
