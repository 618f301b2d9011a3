//! Several threads and the peer close at the same time, with the close deadline.

use super::transport::Input;
use super::wire::Wire;
use super::{Flushing, INVALID_INPUT, Link, check, clock, join, spawn};
use crate::config::Config;
use crate::error::{Cause, Timeout};
use crate::message::CloseFrame;
use crate::net::Deadline;
use crate::protocol::Role;
use shuttle::rand::{Rng, thread_rng};

/// The peer replies to a Close when it has read it. It stops when the connection has ended.
fn peer_replies(link: &Link) {
    if link.script.wait_wire_or_end(|wire| Wire::read(Role::Server, wire).close.is_some()) {
        link.script.peer_sends(Input::Close(link.wire().close.flatten()));
    }
}

fn peer_closes(link: &Link) {
    link.script.peer_sends(Input::Close(Some(CloseFrame::new(4000, "from the peer"))));
}

#[test]
fn two_closes_race_with_the_peers_close_and_the_deadline() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::racing();
        let link = Link::new(Role::Server, 9, &flushing);
        let closers = [1000, 1001].map(|code| {
            let link = link.clone();
            spawn(move || link.start_close(code))
        });
        let sender = spawn({
            let link = link.clone();
            move || [link.try_send(1, 0, 5), link.send(1, 1, 20)]
        });
        let observer = spawn({
            let link = link.clone();
            move || link.watch_state()
        });
        let behaviour = thread_rng().gen_range(0..5);
        let peer = spawn({
            let link = link.clone();
            move || match behaviour {
                // It reads, and closes.
                0 => {
                    link.script.drain();
                    peer_closes(&link);
                }
                // It closes, and does not read.
                1 => peer_closes(&link),
                // It reads, and replies to the Close.
                2 => {
                    link.script.drain();
                    peer_replies(&link);
                }
                // It reads, and breaks the protocol.
                3 => {
                    link.script.drain();
                    link.script.peer_sends(Input::Invalid);
                }
                // It is dead.
                _ => {}
            }
        });
        let closed = link.read();
        let first = closers.map(join);
        let sent = join(sender);
        join(observer);
        join(peer);
        flushing.stop();
        clock.stop();
        assert!(first != [true, true], "I2: two were first");
        let wire = link.check_outcome(&closed, &sent);
        if first == [false, false] {
            // Then the reader replied to the peer's Close, or the connection had ended before.
            assert!(closed.code() != 1006 || closed.cause().is_some(), "{closed}");
        }
        if behaviour == 3 {
            assert!(matches!(closed.cause(), Some(INVALID_INPUT | Cause::Timeout(_))), "I5: {closed}");
        }
        if closed.is_clean() && closed.cause().is_none() {
            assert!(wire.close.is_some(), "{closed}, but no Close is on the wire");
        }
    });
}

#[test]
fn no_call_waits_beyond_the_close_deadline() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::patient();
        // The socket accepts less than a Close without a code.
        let link = Link::new(Role::Server, 1, &flushing);
        let sender = spawn({
            let link = link.clone();
            move || [link.send(1, 0, 30), link.send(1, 1, 30)]
        });
        let other = spawn({
            let link = link.clone();
            move || link.send(2, 0, 30)
        });
        let closed_by = thread_rng().gen_range(0..3);
        let closer = spawn({
            let link = link.clone();
            move || match closed_by {
                0 => peer_closes(&link),
                1 => assert!(link.start_close(1001)),
                _ => {}
            }
        });
        if closed_by == 2 {
            // The reader itself closes, and waits for the deadline.
            assert!(link.outbox.close(None));
        }
        let closed = link.read();
        let mut sent = Vec::from(join(sender));
        sent.push(join(other));
        join(closer);
        flushing.stop();
        clock.stop();
        assert_eq!(closed.cause(), Some(Cause::Timeout(Timeout::Close)));
        assert_eq!(clock::elapsed(), Config::default().close_timeout(), "I7");
        link.check_outcome(&closed, &sent);
    });
}

#[test]
fn messages_restart_the_close_deadline_up_to_its_limit() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::patient();
        // The socket accepts the whole Close, sealed or not. Otherwise the write timeout ends the connection first.
        let link = Link::new(Role::Server, 100, &flushing);
        let timeout = Config::default().close_timeout();
        let handling = timeout * 2;
        let limit = timeout * 12;
        assert!(link.start_close(1001));
        let messages = thread_rng().gen_range(0..10);
        let mut deadline = link.outbox.extend_close_deadline(Some(limit));
        for number in 0..messages {
            // The handler is busy with a message for longer than the close timeout.
            clock::pass(handling);
            let is_over = clock::elapsed() >= limit;
            assert!(is_over || link.outbox.broken().is_none(), "cut off after {number} messages");
            deadline = Deadline::after(timeout).or(link.outbox.close_deadline());
        }
        // No message is received any more.
        link.outbox.set_close_deadline(deadline);
        let closed = link.read();
        flushing.stop();
        clock.stop();
        assert_eq!(closed.cause(), Some(Cause::Timeout(Timeout::Close)));
        let handled = handling * messages;
        assert_eq!(clock::elapsed(), (handled + timeout).min(limit).max(handled), "I7");
    });
}

#[test]
fn messages_queued_before_the_peers_close_are_sent_before_the_reply() {
    check(|| {
        let flushing = Flushing::start();
        let link = Link::new(Role::Server, 3, &flushing);
        let sender = spawn({
            let link = link.clone();
            move || [link.send(1, 0, 30), link.try_send(1, 1, 5)]
        });
        let peer = spawn({
            let link = link.clone();
            move || {
                link.script.peer_sends(Input::Ping(1));
                peer_closes(&link);
                link.script.drain();
            }
        });
        let closed = link.read();
        let sent = join(sender);
        join(peer);
        flushing.stop();
        assert!(closed.is_clean() && closed.cause().is_none(), "{closed}");
        let wire = link.check_outcome(&closed, &sent);
        assert_eq!(wire.close, Some(Some(CloseFrame::new(4000, ""))));
        assert_eq!(wire.pongs, [1], "I11: before the Close");
    });
}
