//! Ticks, and the events that end them.

use super::clock;
use super::wire::{Wire, message};
use super::{Flushing, Link, check, join, spawn};
use crate::error::Cause;
use crate::message::Message;
use crate::outbox::Counts;
use crate::protocol::Role;
use crate::sync::Arc;
use crate::tick::{Action, Tick};
use crate::timer::Timer;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn message_of(sender: u8) -> Message {
    Message::Binary(message(sender, 0, 8))
}

/// Starts a tick that sends a message of `sender` after each interval.
fn tick(timer: &Arc<Timer>, link: &Link, sender: u8, interval: Duration) -> Tick {
    let action = Action::message(message_of(sender));
    Tick::start(timer, &link.outbox, &Arc::default(), interval, Some(interval), action)
}

fn count(bytes: &[u8], sender: u8) -> usize {
    Wire::read_ticks(Role::Server, bytes).iter().filter(|(from, _)| *from == sender).count()
}

#[test]
fn an_earlier_tick_wakes_the_timer() {
    check(|| {
        let flushing = Flushing::start();
        let (timer, thread) = Timer::start().expect("a thread");
        let link = Link::new(Role::Server, 1 << 20, &flushing);
        let ticks = [(1, 10), (2, 3)].map(|(sender, seconds)| {
            let (timer, link) = (timer.clone(), link.clone());
            spawn(move || tick(&timer, &link, sender, SECOND * seconds))
        });
        let ticks = ticks.map(join);
        // The clock moves no further than the earlier tick, so the timer must have been woken for it.
        for rounds in 1..=2 {
            clock::pass(SECOND * 3);
            link.script.wait_wire(|wire| count(wire, 2) == rounds);
        }
        assert_eq!(count(&link.script.wire(), 1), 0);
        ticks[0].cancel();
        clock::pass(SECOND * 3);
        link.script.wait_wire(|wire| count(wire, 2) == 3);
        clock::pass(SECOND * 9);
        link.script.wait_wire(|wire| count(wire, 2) >= 4);
        assert_eq!(count(&link.script.wire(), 1), 0, "it was cancelled");
        timer.stop();
        join_timer(thread);
        flushing.stop();
    });
}

#[test]
fn ticks_end_with_their_connection_and_a_stuck_peer_skips_its_own() {
    check(|| {
        let flushing = Flushing::start();
        let clock = clock::ClockThread::racing();
        let (timer, thread) = Timer::start().expect("a thread");
        let stuck = Link::new(Role::Server, 3, &flushing);
        let healthy = Link::new(Role::Server, 1 << 20, &flushing);
        let ticks = [tick(&timer, &stuck, 1, SECOND), tick(&timer, &healthy, 2, SECOND)];
        let closer = spawn({
            let stuck = stuck.clone();
            move || stuck.start_close(1000)
        });
        healthy.script.wait_wire(|wire| count(wire, 2) >= 3);
        // It ends at the close deadline or before.
        let closed = stuck.read();
        join(closer);
        assert!(closed.cause().is_some(), "{closed}");
        // At most one was sent completely before the socket was full.
        assert!(ticks[0].sent() <= 1, "I12: a tick is sent while its predecessor waits");
        healthy.outbox.break_off(Cause::Terminated);
        let before = healthy.outbox.end(Counts::default(), None).traffic().bytes_sent;
        timer.stop();
        join_timer(thread);
        flushing.stop();
        clock.stop();
        assert_eq!(healthy.script.wire().len() as u64, before, "a tick after the end");
    });
}

#[test]
fn a_tick_is_skipped_while_its_predecessor_waits() {
    check(|| {
        let flushing = Flushing::start();
        let (timer, thread) = Timer::start().expect("a thread");
        let stuck = Link::new(Role::Server, 3, &flushing);
        let healthy = Link::new(Role::Server, 1 << 20, &flushing);
        let skipped = tick(&timer, &stuck, 1, SECOND);
        let _other = tick(&timer, &healthy, 2, SECOND);
        for rounds in 1..=4 {
            clock::pass(SECOND);
            // I12: it fires although the other one is stuck.
            healthy.script.wait_wire(|wire| count(wire, 2) == rounds);
        }
        assert_eq!((skipped.sent(), skipped.skipped()), (1, 3));
        stuck.script.drain();
        stuck.script.wait_wire(|wire| count(wire, 1) == 1);
        clock::pass(SECOND);
        stuck.script.wait_wire(|wire| count(wire, 1) == 2);
        timer.stop();
        join_timer(thread);
        flushing.stop();
    });
}

fn join_timer(thread: crate::sync::JoinHandle<()>) {
    thread.join().expect("the timer does not panic");
}
