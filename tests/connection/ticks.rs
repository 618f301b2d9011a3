//! Ticks keep their interval until the connection ends or the tick is cancelled.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::lateness::Lateness;
use support::{Frame, RawPeer, TestServer, eventually, ms, next, watchdog};
use threadws::{Config, Message};

/// How late a tick may come on a busy machine. It is well below the interval of the tests.
fn tolerance() -> Duration {
    ms(60)
}

/// Checks that each arrival is near its due time. The due times are one interval apart, and none is later than its
/// arrival. So a drift adds up, a burst or an early tick moves the due times of all others, and one late tick counts
/// once.
fn keeps_its_pace(arrivals: &[Instant], interval: Duration) -> Result<(), String> {
    let after: Vec<_> = arrivals.iter().map(|arrival| *arrival - arrivals[0]).collect();
    // The arrival that is earliest for its number, as the time before the due time of the first.
    let early = (0_u32..).zip(&after).map(|(number, after)| (interval * number).saturating_sub(*after)).max();
    let early = early.unwrap_or_default();
    for (number, after) in (0_u32..).zip(&after) {
        let late = *after + early - interval * number;
        if late > tolerance() {
            return Err(format!("tick {number} came {late:?} late; after the first they came {after:?}"));
        }
    }
    Ok(())
}

/// Passes if one of three attempts does, because a machine may stall for a moment, and a faulty interval fails each
/// time. An attempt does not count if a thread that only sleeps was late too.
#[track_caller]
fn once_in_three(mut attempt: impl FnMut() -> Result<(), String>) {
    let mut faults = Vec::new();
    let mut stalls = Vec::new();
    while faults.len() < 3 && stalls.len() < 8 {
        let lateness = Lateness::from_now_on();
        let Err(fault) = attempt() else { return };
        match lateness.worst() {
            late if late > tolerance() / 3 => stalls.push(late),
            _ => faults.push(fault),
        }
    }
    panic!("never in time: {faults:#?}; while the machine was late by {stalls:?}");
}

/// Expects ten ticks and the end.
#[track_caller]
fn ten_ticks(addr: SocketAddr, text: impl Fn(usize) -> String) {
    once_in_three(|| {
        let start = Instant::now();
        let mut peer = RawPeer::open(addr);
        let mut arrivals = Vec::new();
        for number in 0..10 {
            peer.expect_text(&text(number)); // no tick is lost, and nothing else comes
            arrivals.push(Instant::now());
        }
        peer.send(&Frame::close(1000, ""));
        peer.expect_close_at_last(&[1000]); // On a machine that stalls, an eleventh may come before it.
        peer.expect_eof(); // and no tick after the Close, which the strict reader would report
        // As with setInterval, the first tick comes after one interval, not at once.
        let first = arrivals[0] - start;
        assert!(first >= ms(100), "the first came after {first:?}");
        keeps_its_pace(&arrivals, ms(100))
    });
}

#[test]
fn ten_ticks_come_in_time_and_none_after_the_close() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        client.every(ms(100), "tick");
        client.ignore()?;
        Ok(())
    });
    ten_ticks(server.addr(), |_| "tick".into());
}

#[test]
fn a_closure_makes_each_tick_and_none_after_the_end() {
    let _dog = watchdog(30);
    let calls = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&calls);
    let server = TestServer::new(move |client| {
        let counter = Arc::clone(&counter);
        let mut number = 0;
        client.every_with(ms(100), move || {
            counter.fetch_add(1, Ordering::SeqCst);
            number += 1;
            Some(Message::from(format!("tick {number}")))
        });
        client.ignore()?;
        Ok(())
    });
    ten_ticks(server.addr(), |number| format!("tick {}", number + 1));
    eventually("the client is gone", || server.hub().count() == 0);
    let called = calls.load(Ordering::SeqCst);
    std::thread::sleep(ms(350)); // That no tick comes can only be checked by waiting.
    assert_eq!(calls.load(Ordering::SeqCst), called, "called after the end");
}

#[test]
fn a_closure_may_skip_a_tick() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        let mut number = 0;
        client.every_with(ms(20), move || {
            number += 1;
            (number % 3 == 0).then(|| Message::from(number.to_string()))
        });
        client.ignore()?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    for text in ["3", "6", "9"] {
        peer.expect_text(text);
    }
    peer.send(&Frame::close(1000, ""));
    peer.expect_close_at_last(&[1000]);
    peer.expect_eof();
}

#[test]
fn a_closure_that_panics_ends_no_other_tick() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        match client.request().path() {
            "/panic" => client.every_with(ms(20), || -> Option<&str> { panic!("a tick's own fault") }),
            _ => client.every(ms(20), "tick"),
        };
        client.ignore()?;
        Ok(())
    });
    let mut panicked = RawPeer::open_at(server.addr(), "/panic", &[]);
    let mut peer = RawPeer::open(server.addr());
    for _ in 0..10 {
        peer.expect_text("tick");
    }
    panicked.send(&Frame::close(1000, ""));
    panicked.expect_close_at_last(&[1000, 1011]);
    panicked.expect_eof();
}

#[test]
fn cancel_stops_the_ticks_and_dropping_the_tick_does_not() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        {
            let _dropped_here = client.every(ms(70), "dropped");
        }
        let tick = client.every(ms(100), "cancelled");
        assert_eq!(client.recv()?, Some(Message::from("cancel")));
        tick.cancel();
        client.send("cancelled for good")?;
        tick.cancel(); // A second call does nothing.
        tx.send(tick).unwrap_or(());
        client.ignore()?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let mut came = 0;
    let mut until_there_are = |peer: &mut RawPeer, count: u32, wanted: &str| {
        let mut left = count;
        while left > 0 {
            let message = peer.message();
            came += u64::from(message.as_text() == "cancelled");
            left -= u32::from(message.as_text() == wanted);
        }
        came
    };
    until_there_are(&mut peer, 3, "cancelled");
    peer.send_text("cancel");
    // A busy machine may send more ticks before the call, and the tick that was being sent at that moment may still
    // arrive.
    let before = until_there_are(&mut peer, 1, "cancelled for good");
    let all = until_there_are(&mut peer, 5, "dropped");
    assert!(all <= before + 1, "{} came after it was cancelled", all - before);
    let tick = next(&rx, "the tick");
    eventually("it has counted all", || tick.sent() == all);
    peer.send(&Frame::close(1000, ""));
    peer.expect_close_at_last(&[1000]);
    peer.expect_eof();
}

#[test]
fn after_sends_once() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        client.after(ms(120), "late");
        client.after(ms(40), "early");
        client.after_with(ms(80), || Some("between"));
        let never = client.after(ms(500), "never");
        never.cancel();
        client.ignore()?;
        Ok(())
    });
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    for text in ["early", "between", "late"] {
        peer.expect_text(text);
    }
    assert!(start.elapsed() >= ms(120), "too early: {:?}", start.elapsed());
    peer.expect_silence(ms(550));
    peer.close(1000);
}

#[test]
fn many_intervals_keep_their_pace() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        client.every(ms(150), "150");
        client.every(ms(100), "100");
        client.ignore()?;
        Ok(())
    });
    once_in_three(|| {
        let threads = (0..3).map(|_| {
            let mut peer = RawPeer::open(server.addr());
            std::thread::spawn(move || {
                let (mut fast, mut slow) = (Vec::new(), Vec::new());
                while slow.len() < 5 {
                    match peer.message().as_text() {
                        "100" => fast.push(Instant::now()),
                        "150" => slow.push(Instant::now()),
                        text => panic!("{text}"),
                    }
                }
                keeps_its_pace(&fast, ms(100)).and(keeps_its_pace(&slow, ms(150)))
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("each client's ticks"))
    });
}

#[test]
fn a_stuck_client_misses_its_ticks_and_delays_no_other() {
    const SIZE: usize = 256 << 10;

    let _dog = watchdog(60);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_write_timeout(Duration::from_secs(60))),
        move |client| {
            if client.request().path() == "/stuck" {
                tx.send(client.every(ms(10), vec![5; SIZE])).unwrap_or(());
            } else {
                client.every(ms(100), "tick");
            }
            client.ignore()?;
            Ok(())
        },
    );
    let mut stuck = RawPeer::open_at(server.addr(), "/stuck", &[]);
    let tick = next(&rx, "the stuck client's tick");
    // The kernel takes some 4.3 MB before the first tick is skipped.
    eventually("ticks are skipped", || tick.skipped() > 0);
    ten_ticks(server.addr(), |_| "tick".into());
    eventually("many more are", || tick.skipped() > 5);
    let sent = tick.sent();
    assert!(sent < 60, "{sent} ticks of 256 KiB went to a client that reads nothing");
    // When the client reads again, all sent ticks arrive whole, and the ticks go on.
    for _ in 0..sent + 3 {
        stuck.expect_binary(&[5; SIZE]);
    }
    stuck.send(&Frame::close(1000, ""));
    stuck.expect_close_at_last(&[1000]);
    stuck.expect_eof();
}

#[test]
fn a_busy_handler_delays_no_tick() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        client.every(ms(100), "tick");
        std::thread::sleep(ms(750)); // busy with something else
        client.ignore()?;
        Ok(())
    });
    once_in_three(|| {
        let mut peer = RawPeer::open(server.addr());
        let arrivals: Vec<_> = (0..6)
            .map(|_| {
                peer.expect_text("tick");
                Instant::now()
            })
            .collect();
        peer.send(&Frame::close(1000, ""));
        peer.expect_close_at_last(&[1000]);
        peer.expect_eof();
        keeps_its_pace(&arrivals, ms(100))
    });
}

#[test]
fn no_tick_follows_a_close() {
    let _dog = watchdog(60);
    let server = TestServer::new(|client| {
        client.every(ms(1), "tick");
        client.ignore()?;
        Ok(())
    });
    for round in 0..50 {
        let mut peer = RawPeer::open(server.addr());
        peer.expect_text("tick");
        std::thread::sleep(Duration::from_micros(100 * (round % 12))); // another phase of the tick each time
        peer.send(&Frame::close(1000, ""));
        peer.expect_close_at_last(&[1000]);
        peer.expect_eof();
    }
    eventually("all are gone", || server.hub().count() == 0);
}

#[cfg(feature = "cli")]
mod binary {
    use super::*;
    use support::frame::CLOSE;
    use support::{PATIENCE, Process};

    #[test]
    fn the_binary_sends_ticks_and_none_after_the_close() {
        let _dog = watchdog(30);
        let server = Process::threadws(&["--every", "100ms", "--message", "from the server"]);
        ten_ticks(server.addr(), |_| "from the server".into());
        server.wait_for_line(&["connected from 127.0.0.1"]);
        server.stop();
    }

    #[test]
    fn the_binary_with_every_0_sends_nothing() {
        let _dog = watchdog(30);
        let server = Process::threadws(&["--every", "0"]);
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("hello");
        peer.expect_silence(ms(300));
        peer.close(1000);
        server.stop();
    }

    #[test]
    fn the_binary_keeps_the_pace_beside_a_stuck_client() {
        let _dog = watchdog(60);
        let message = "x".repeat(100 << 10);
        let server = Process::threadws(&["--every", "100ms", "--message", &message, "--broadcast"]);
        // Broadcasts fill the 4.3 MB, because ticks alone would take minutes.
        let mut stuck = RawPeer::open(server.addr());
        let mut talker = RawPeer::open(server.addr());
        let stream = talker.stream();
        let writer = std::thread::spawn(move || {
            use std::io::Write as _;
            let frame = Frame::binary(vec![0; 256 << 10]).encode();
            for _ in 0..40 {
                (&stream).write_all(&frame).expect("the server reads");
            }
        });
        let mut own = 0;
        let mut arrivals = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while own < 40 || arrivals.len() < 10 {
            assert!(Instant::now() < deadline, "{own} messages and {} ticks", arrivals.len());
            let frame = talker.message();
            if frame.payload.len() == 256 << 10 {
                own += 1;
            } else {
                arrivals.push(Instant::now());
            }
        }
        writer.join().expect("the talker's writing half");
        // 10 MB were sent to a client whose buffers take 4.3 MB, so it is stuck now.
        once_in_three(|| {
            let mut peer = RawPeer::open(server.addr());
            let arrivals: Vec<_> = (0..5)
                .map(|_| {
                    assert_eq!(peer.message().as_text().len(), 100 << 10);
                    Instant::now()
                })
                .collect();
            keeps_its_pace(&arrivals, ms(100))
        });
        // It is closed because of that. It receives the bytes that its own kernel holds, in order. The bytes that this
        // kernel still held are discarded.
        let mut read = 0;
        while let Ok(Some(frame)) = stuck.frame_until(Instant::now() + PATIENCE) {
            assert_ne!(frame.opcode, CLOSE, "a client that was dropped gets nothing more");
            read += frame.payload.len();
        }
        read += stuck.torn();
        assert!(read > 16 << 10, "its system had taken only {read} bytes");
        server.wait_for_line(&["disconnected", "slow peer"]);
    }
}
