//! Several threads send compressed messages. The peer has the window that each of them refers to.
//!
//! Each of these breakages of `outbox/compression.rs` makes a model fail:
//!
//! * The window is put back before the lock under which its frame is queued: both models.
//! * A shared frame does not clear the window: `senders_and_broadcasts_share_one_window`.
//! * A message that is refused stays in the window: `a_window_comes_back_after_a_refusal`.

use super::transport::Script;
use super::wire::{self, Wire};
use super::{BACKLOG, Flushing, Link, Sent, check, join, spawn};
use crate::config::{Config, SlowPeer};
use crate::deflate::{Deflate, Uncompressed};
use crate::deflate_pool::DeflatePool;
use crate::outbox::{Compression, Outbox, SharedFrames};
use crate::protocol::Role;
use crate::protocol::deflate::{Agreed, Direction};
use crate::protocol::encoder::{self, Opcode};
use crate::sync::Arc;
use http::HeaderValue;
use shuttle::rand::{Rng, thread_rng};

/// A connection that compresses all messages of 10 bytes or more, with a window for the last few of them.
fn compressing(role: Role, room: usize, takeover: bool, flushing: &Flushing) -> Link {
    let direction = Direction { bits: 9, takeover };
    let agreed = Agreed { ours: direction, peers: direction };
    let pool = Arc::new(DeflatePool::new());
    let compression =
        Compression::new(agreed, &HeaderValue::from_static(""), &Deflate::new().threshold(10), pool);
    let config = Config::new().with_max_backlog(BACKLOG);
    Link::with_compression(Script::new(room), role, &config, flushing, Some(compression))
}

fn shared(sender: u8, number: u8, len: usize) -> SharedFrames {
    let mut frame = Vec::new();
    encoder::append(Role::Server, Opcode::Binary, &wire::message(sender, number, len), &mut frame);
    SharedFrames::new(frame.into(), 1, true)
}

/// I15 and I16: `Wire` checks the window of each message.
#[test]
fn senders_and_broadcasts_share_one_window() {
    check(|| {
        let flushing = Flushing::start();
        let takeover = thread_rng().gen_bool(0.8);
        let link = compressing(Role::Server, 30, takeover, &flushing);
        link.outbox.set_slow_peer(SlowPeer::Skip);
        let senders = [(1, [20, 200]), (2, [30, 12])].map(|(sender, lens)| {
            let link = link.clone();
            spawn(move || [link.send(sender, 0, lens[0]), link.send(sender, 1, lens[1])])
        });
        let broadcaster = spawn({
            let outbox: Arc<Outbox> = Arc::clone(&link.outbox);
            move || {
                for number in 0..3 {
                    outbox.broadcast(&shared(3, number, 40));
                }
            }
        });
        // Many of these are refused, because the backlog is small.
        let skipper = spawn({
            let link = link.clone();
            move || [0, 1, 2].map(|number| link.try_send(4, number, 60))
        });
        let plain = spawn({
            let outbox: Arc<Outbox> = Arc::clone(&link.outbox);
            move || outbox.try_send(Uncompressed(wire::message(5, 0, 20))).map(drop)
        });
        let closer = spawn({
            let link = link.clone();
            move || link.start_close(1000)
        });
        link.script.drain();
        let mut sent = Vec::from_iter(senders.map(join).into_iter().flatten());
        sent.extend(join(skipper));
        sent.push(Sent { sender: 5, number: 0, result: join(plain) });
        join(broadcaster);
        join(closer);
        link.script.wait_wire(|wire| Wire::read(Role::Server, wire).close.is_some());
        let closed = link.outbox.end(crate::outbox::Counts::default(), None);
        flushing.stop();
        link.check_outcome(&closed, &sent);
    });
}

/// A window that a sender has taken is put back, whatever becomes of its message. So the last message is compressed.
#[test]
fn a_window_comes_back_after_a_refusal() {
    check(|| {
        let flushing = Flushing::start();
        let role = if thread_rng().gen_bool(0.5) { Role::Server } else { Role::Client };
        let link = compressing(role, 5, true, &flushing);
        let first = link.try_send(1, 0, 90);
        assert!(first.result.is_ok(), "an empty backlog takes one message");
        let senders = [2, 3].map(|sender| {
            let link = link.clone();
            spawn(move || [link.try_send(sender, 0, 50), link.try_send(sender, 1, 60)])
        });
        let mut sent = Vec::from_iter(senders.map(join).into_iter().flatten());
        link.script.drain();
        link.outbox.wait_drained(crate::net::Deadline::NEVER).expect("the peer reads");
        let before = link.outbox.stats().saved_sent.messages;
        sent.extend([first, link.send(1, 1, 20)]);
        assert_eq!(link.outbox.stats().saved_sent.messages, before + 1, "I16: the window is lost");
        link.start_close(1000);
        link.script.wait_wire(|wire| Wire::read(role, wire).close.is_some());
        let closed = link.outbox.end(crate::outbox::Counts::default(), None);
        flushing.stop();
        link.check_outcome(&closed, &sent);
    });
}
