//! Closes from several sides at once, and their deadline.

use super::transport::Input;
use super::wire::Wire;
use super::{Flushing, Link, NOISE, check, clock, go, join};
use crate::config::Config;
use crate::error::{Cause, Timeout};
use crate::message::CloseFrame;
use crate::protocol::Role;
use shuttle::rand::{Rng, thread_rng};

/// The peer answers a Close when it has read it, or gives up when the connection has ended.
fn answer(link: &Link) {
    if link.script.wait_wire_or_end(|wire| Wire::read(Role::Server, wire).close.is_some()) {
        link.script.say(Input::Close(link.wire().close.flatten()));
    }
}

fn say_close(link: &Link) {
    link.script.say(Input::Close(Some(CloseFrame::new(4000, "the peer's"))));
}

#[test]
fn two_closes_race_with_the_peers_close_and_the_deadline() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::Running::racing();
        let link = Link::new(Role::Server, 9, &flushing);
        let closers = [1000, 1001].map(|code| {
            let link = link.clone();
            go(move || link.start_close(code))
        });
        let sender = go({
            let link = link.clone();
            move || [link.try_send(1, 0, 5), link.send(1, 1, 20)]
        });
        let observer = go({
            let link = link.clone();
            move || link.watch_state()
        });
        let whim = thread_rng().gen_range(0..5);
        let peer = go({
            let link = link.clone();
            move || match whim {
                // It reads, and closes by itself.
                0 => {
                    link.script.drain();
                    say_close(&link);
                }
                // It closes, and does not read.
                1 => say_close(&link),
                // It reads and answers.
                2 => {
                    link.script.drain();
                    answer(&link);
                }
                // It reads, and breaks the protocol.
                3 => {
                    link.script.drain();
                    link.script.say(Input::Noise);
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
        let wire = link.judge(&closed, &sent);
        if first == [false, false] {
            // Then it was the answer to the peer's, or too late for any.
            assert!(closed.received().is_some() || closed.cause().is_some(), "{closed}");
        }
        if whim == 3 {
            assert!(matches!(closed.cause(), Some(NOISE | Cause::Timeout(_))), "I5: {closed}");
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
        let clock = clock::Running::patient();
        // Not even a Close without a code fits.
        let link = Link::new(Role::Server, 1, &flushing);
        let sender = go({
            let link = link.clone();
            move || [link.send(1, 0, 30), link.send(1, 1, 30)]
        });
        let other = go({
            let link = link.clone();
            move || link.send(2, 0, 30)
        });
        let who = thread_rng().gen_range(0..3);
        let closer = go({
            let link = link.clone();
            move || match who {
                0 => say_close(&link),
                1 => assert!(link.start_close(1001)),
                _ => {}
            }
        });
        if who == 2 {
            // By the reader itself, which keeps the deadline.
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
        link.judge(&closed, &sent);
    });
}

#[test]
fn messages_queued_before_the_peers_close_are_sent_before_the_reply() {
    check(|| {
        let flushing = Flushing::start();
        let link = Link::new(Role::Server, 3, &flushing);
        let sender = go({
            let link = link.clone();
            move || [link.send(1, 0, 30), link.try_send(1, 1, 5)]
        });
        let peer = go({
            let link = link.clone();
            move || {
                link.script.say(Input::Ping(1));
                say_close(&link);
                link.script.drain();
            }
        });
        let closed = link.read();
        let sent = join(sender);
        join(peer);
        flushing.stop();
        assert!(closed.is_clean() && closed.cause().is_none(), "{closed}");
        let wire = link.judge(&closed, &sent);
        assert_eq!(wire.close, Some(Some(CloseFrame::new(4000, ""))));
        assert_eq!(wire.pongs, [1], "I11: before the Close");
    });
}
