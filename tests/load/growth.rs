//! The cost of one more thing does not grow with the number of things that are there already.

use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{Frame, RawPeer, TestServer, eventually, next, take_turn, watchdog};
use threadws::Config;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_hundred_thousand_pending_ticks_do_not_slow_the_next() {
    const PART: usize = 10_000;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let add = |_| {
            let start = Instant::now();
            for _ in 0..PART {
                client.after(HOUR, "late");
            }
            start.elapsed()
        };
        tx.send((0..10).map(add).collect::<Vec<_>>()).unwrap_or(());
        Ok(())
    });
    let peer = RawPeer::open(server.addr());
    let times = next(&rx, "the ticks");
    // If each new tick looked at all others, the last part would take nineteen times as long as the first.
    let (first, last) = (times[0], times[7..].iter().min().expect("three parts"));
    assert!(*last < 6 * first, "{times:?}");
    peer.close(1000);
    eventually("the client is gone", || server.hub().count() == 0);
}

#[test]
fn a_message_in_fragments_takes_time_for_its_size_only() {
    const SIZES: [usize; 2] = [4 << 20, 32 << 20];
    // Large enough to be read directly into the message.
    const PIECE: usize = 20_000;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let server = TestServer::with(
        |server| server.config(Config::new().with_max_message_size(SIZES[1])),
        |client| {
            while let Some(message) = client.recv()? {
                client.send(message.as_bytes().len().to_string())?;
            }
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    let [small, large] = SIZES.map(|size| {
        let pieces = size / PIECE;
        let mut bytes = Frame::binary([0; PIECE]).more().encode();
        bytes.extend(Frame::continuation([0; PIECE]).more().encode().repeat(pieces - 2));
        bytes.extend(Frame::continuation([0; PIECE]).encode());
        let times = [(); 3].map(|()| {
            let start = Instant::now();
            peer.write(&bytes);
            peer.expect_text(&(pieces * PIECE).to_string());
            start.elapsed()
        });
        times.into_iter().min().expect("three")
    });
    assert!(large < 8 * small * 3, "{large:?} after {small:?}");
}
