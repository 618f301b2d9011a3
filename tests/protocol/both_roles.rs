//! The same tests for both ends of a connection: as a server and as a client.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Instant;
use support::{Frame, PATIENCE, RawPeer, RawServer, RawServerPeer, TestServer, frame, ms, next, watchdog};
use threadws::connection::State;
use threadws::{Config, Connect, Connection, Error, Message, Server, Timeout, error::Violation};

/// The scripted end, as a client or as a server.
trait Peer {
    fn send(&mut self, frame: Frame);
    fn frame(&mut self) -> Frame;
    fn expect_close(&mut self, code: u16) -> String;
    fn fin(&mut self);
    fn expect_eof(&mut self);
    fn try_write(&mut self, frame: Frame) -> io::Result<()>;
}

impl Peer for RawPeer {
    fn send(&mut self, frame: Frame) {
        RawPeer::send(self, &frame);
    }
    fn frame(&mut self) -> Frame {
        RawPeer::frame(self)
    }
    fn expect_close(&mut self, code: u16) -> String {
        RawPeer::expect_close(self, code)
    }
    fn fin(&mut self) {
        RawPeer::fin(self);
    }
    fn expect_eof(&mut self) {
        self.expect_eof_alone();
    }
    fn try_write(&mut self, frame: Frame) -> io::Result<()> {
        RawPeer::try_write(self, &frame.encode())
    }
}

impl Peer for RawServerPeer {
    fn send(&mut self, frame: Frame) {
        RawServerPeer::send(self, frame);
    }
    fn frame(&mut self) -> Frame {
        RawServerPeer::frame(self)
    }
    fn expect_close(&mut self, code: u16) -> String {
        RawServerPeer::expect_close(self, code)
    }
    fn fin(&mut self) {
        RawServerPeer::fin(self);
    }
    fn expect_eof(&mut self) {
        RawServerPeer::expect_eof(self);
    }
    fn try_write(&mut self, frame: Frame) -> io::Result<()> {
        RawServerPeer::try_write(self, &frame.unmasked().encode())
    }
}

/// Runs both scripts of a connection twice: once with `ours` as the server's handler, once as the client.
#[track_caller]
fn as_both(
    config: &Config,
    ours: impl Fn(&mut Connection) + Send + Sync + Clone + 'static,
    theirs: impl Fn(&mut dyn Peer) + Send + Clone + 'static,
) {
    let (report, reports) = mpsc::channel();
    let report = Mutex::new(report);
    let body = ours.clone();
    let settings = config.clone();
    let server = TestServer::with(
        move |server: Server| server.config(settings),
        move |client| {
            let result = catch_unwind(AssertUnwindSafe(|| body(client)));
            report.lock().expect("not poisoned").send(result.is_ok()).expect("the test waits");
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    theirs(&mut peer);
    peer.fin();
    assert!(next(&reports, "the handler's end"), "as a server it failed");
    drop(server);

    let host = RawServer::new(move |listener| {
        let mut guest = listener.accept();
        guest.accept_handshake("");
        theirs(&mut guest);
        guest.fin();
    });
    let mut connection = Connect::new(host.url()).config(config.clone()).connect().expect("a connection");
    ours(&mut connection);
    drop(connection);
    host.join();
}

#[test]
fn every_violation_has_its_close_code() {
    let _dog = watchdog(60);
    let too_big = Error::MessageTooBig { limit: 1000 };
    let cases: Vec<(&str, Vec<Frame>, u16, Error)> = vec![
        ("reserved bit", vec![Frame::text("x").rsv(0x40)], 1002, Violation::ReservedBit.into()),
        ("reserved opcode", vec![Frame::new(3, "x")], 1002, Violation::ReservedOpcode(3).into()),
        ("ping in fragments", vec![Frame::ping("x").more()], 1002, Violation::FragmentedControl.into()),
        ("large ping", vec![Frame::ping(vec![0; 126])], 1002, Violation::OversizeControl.into()),
        ("continues nothing", vec![Frame::continuation("x")], 1002, Violation::UnexpectedContinuation.into()),
        (
            "text in text",
            vec![Frame::text("x").more(), Frame::text("y")],
            1002,
            Violation::ExpectedContinuation.into(),
        ),
        ("close of one byte", vec![Frame::new(frame::CLOSE, "x")], 1002, Violation::TruncatedClose.into()),
        ("close code 1005", vec![Frame::close(1005, "")], 1002, Violation::InvalidCloseCode(1005).into()),
        ("text", vec![Frame::new(frame::TEXT, [0xff])], 1007, Violation::InvalidUtf8.into()),
        ("too big", vec![Frame::binary(vec![0; 1001])], 1009, too_big),
    ];
    for (what, frames, code, expected) in cases {
        println!("{what}");
        let expected = expected.to_string();
        as_both(
            &Config::new().with_max_message_size(1000),
            move |connection| {
                let error = connection.recv().expect_err("it breaks the protocol");
                assert_eq!(error.to_string(), expected);
                assert_eq!(connection.recv().expect_err("over").to_string(), expected);
            },
            move |peer| {
                for frame in &frames {
                    peer.send(frame.clone());
                }
                peer.expect_close(code);
                peer.expect_eof();
            },
        );
    }
}

#[test]
fn control_frames_may_come_between_fragments() {
    let _dog = watchdog(30);
    as_both(
        &Config::new(),
        |connection| {
            assert_eq!(connection.recv().expect("open"), Some(Message::from("one two")));
            assert_eq!(connection.recv().expect("open"), Some(Message::from(vec![0; 1 << 20])));
            connection.send("got it").expect("sent");
            assert_eq!(connection.recv().expect("a clean end"), None);
        },
        |peer| {
            peer.send(Frame::text("one ").more());
            peer.send(Frame::ping("inside"));
            let pong = peer.frame();
            assert_eq!((pong.opcode, &*pong.payload), (frame::PONG, &b"inside"[..]));
            peer.send(Frame::continuation("two"));
            peer.send(Frame::binary(vec![0; 1 << 20]));
            assert_eq!(peer.frame().as_text(), "got it");
            peer.send(Frame::close(1000, ""));
            peer.expect_close(1000);
        },
    );
}

#[test]
fn the_closing_handshake_works_in_every_order() {
    let _dog = watchdog(30);
    // The peer closes first.
    as_both(
        &Config::new(),
        |connection| {
            let Err(Error::Closed(closed)) = connection.recv() else { panic!("4001 is not a normal end") };
            assert_eq!((u16::from(closed.code()), closed.reason()), (4001, "theirs"));
            assert!(closed.is_clean() && closed.by_peer(), "{closed}");
            assert!(matches!(connection.send("late"), Err(Error::Closed(_))));
        },
        |peer| {
            peer.send(Frame::close(4001, "theirs"));
            peer.expect_close(4001);
        },
    );
    // This end closes first. A message that comes before the answer is still received.
    as_both(
        &Config::new(),
        |connection| {
            connection.sender().close(4002, "ours").expect("a code that may be sent");
            assert_eq!(connection.state(), State::Closing);
            assert_eq!(connection.recv().expect("not yet over"), Some(Message::from("on its way")));
            let Err(Error::Closed(closed)) = connection.recv() else { panic!("4002 is not a normal end") };
            assert!(closed.is_clean() && !closed.by_peer(), "{closed}");
            assert_eq!(connection.state(), State::Closed);
        },
        |peer| {
            assert_eq!(peer.expect_close(4002), "ours");
            peer.send(Frame::text("on its way"));
            peer.send(Frame::close(4002, ""));
        },
    );
    // No Close at all.
    as_both(
        &Config::new(),
        |connection| {
            let Err(Error::Closed(closed)) = connection.recv() else { panic!("an end without a Close") };
            assert_eq!((u16::from(closed.code()), closed.is_clean()), (1006, false));
        },
        |peer| peer.fin(),
    );
    // Only this end closes, and the deadline passes.
    as_both(
        &Config::new().with_close_timeout(ms(300)),
        |connection| {
            let error = connection.close(1000, "").expect_err("no answer");
            assert!(matches!(error, Error::Timeout(Timeout::Close)), "{error}");
        },
        |peer| {
            peer.expect_close(1000);
            peer.expect_eof();
        },
    );
}

#[test]
fn messages_after_our_close_restart_the_close_timeout() {
    let _dog = watchdog(60);
    const COUNT: usize = 10;
    let pace = ms(150);
    as_both(
        &Config::new().with_close_timeout(pace * 4),
        move |connection| {
            connection.sender().close(1000, "").expect("a valid code");
            for number in 0..COUNT {
                assert_eq!(connection.recv().expect("in time"), Some(number.to_string().into()));
            }
            let large = connection.recv().expect("it arrives all the time").expect("open");
            assert_eq!(large.as_bytes().len(), COUNT * 100);
            // More was read than one message. The time in which the handler works on it is its own.
            for number in 0..3 {
                assert_eq!(connection.recv().expect("it is here"), Some(number.to_string().into()));
                std::thread::sleep(pace * 3);
            }
            assert_eq!(connection.recv().expect("a clean end"), None);
        },
        move |peer| {
            peer.expect_close(1000);
            for number in 0..COUNT {
                std::thread::sleep(pace);
                peer.send(Frame::text(&number.to_string()));
            }
            for part in 0..COUNT {
                std::thread::sleep(pace);
                let frame = if part == 0 { Frame::binary([0; 100]) } else { Frame::continuation([0; 100]) };
                peer.send(if part == COUNT - 1 { frame } else { frame.more() });
            }
            for number in 0..3 {
                peer.send(Frame::text(&number.to_string()));
            }
            peer.send(Frame::close(1000, ""));
            peer.fin();
        },
    );
}

#[test]
fn a_peer_cannot_restart_the_close_timeout_forever() {
    let _dog = watchdog(60);
    let timeout = ms(200);
    as_both(
        &Config::new().with_close_timeout(timeout).with_max_close_time(timeout * 12),
        move |connection| {
            let start = Instant::now();
            connection.sender().close(1000, "").expect("a valid code");
            let error = loop {
                match connection.recv() {
                    Ok(message) => drop(message.expect("no Close")),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Timeout(Timeout::Close)), "{error}");
            let took = start.elapsed();
            assert!(took > timeout * 11 && took < timeout * 12 + PATIENCE / 2, "after {took:?}");
        },
        move |peer| {
            peer.expect_close(1000);
            while peer.try_write(Frame::text("more")).is_ok() {
                std::thread::sleep(timeout / 4);
            }
        },
    );
}

const TIMEOUT_UNIT: usize = 1 << 20;

#[test]
fn a_large_message_may_take_the_timeout_for_each_mebibyte() {
    let _dog = watchdog(60);
    const SIZE: usize = 4 * TIMEOUT_UNIT;
    let timeout = ms(2000);
    let config = Config::new().with_max_message_size(SIZE).with_message_timeout(timeout);
    as_both(
        &config,
        move |connection| {
            let start = Instant::now();
            let message = connection.recv().expect("it arrives all the time").expect("a message");
            assert_eq!(message.as_bytes().len(), SIZE);
            assert!(start.elapsed() > timeout, "it came within {:?}", start.elapsed());
            connection.send("got it").expect("open");
        },
        |peer| {
            const PIECES: usize = 8;
            let piece = vec![1; SIZE / PIECES];
            peer.send(Frame::binary(piece.clone()).more());
            for number in 2..=PIECES {
                std::thread::sleep(ms(300)); // the pace of a slow network
                let frame = Frame::continuation(piece.clone());
                peer.send(if number < PIECES { frame.more() } else { frame });
            }
            assert_eq!(peer.frame().as_text(), "got it");
        },
    );
}

#[test]
fn a_stopped_message_ends_at_the_time_for_its_size() {
    let _dog = watchdog(60);
    let timeout = ms(300);
    // 3 MiB have begun to arrive.
    let expected = 3 * timeout;
    let config = Config::new().with_max_message_size(8 * TIMEOUT_UNIT).with_message_timeout(timeout);
    as_both(
        &config,
        move |connection| {
            let start = Instant::now();
            let error = connection.recv().expect_err("no end comes");
            assert!(matches!(error, Error::Timeout(Timeout::Message)), "{error}");
            let took = start.elapsed();
            assert!(took > expected - timeout / 2 && took < expected + PATIENCE / 2, "after {took:?}");
        },
        |peer| {
            peer.send(Frame::binary(vec![1; 5 * TIMEOUT_UNIT / 2]).more());
            peer.expect_close(1008);
        },
    );
}

#[test]
fn a_waiting_recv_does_not_block_senders() {
    let _dog = watchdog(30);
    as_both(
        &Config::new(),
        |connection| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let sender = connection.sender();
                    std::thread::spawn(move || (0..250).try_for_each(|_| sender.send("from a thread")))
                })
                .collect();
            assert_eq!(connection.recv().expect("open"), Some(Message::from("all of them")));
            for thread in threads {
                thread.join().expect("no panic").expect("all sent");
            }
            assert!(matches!(connection.recv_timeout(ms(10)), Err(Error::Timeout(Timeout::Recv))));
            assert!(matches!(connection.try_recv(), Err(Error::Empty)));
            connection.send("still open").expect("sent");
            assert_eq!(connection.recv_timeout(PATIENCE).expect("a clean end"), None);
        },
        |peer| {
            for _ in 0..1000 {
                assert_eq!(peer.frame().as_text(), "from a thread");
            }
            peer.send(Frame::text("all of them"));
            assert_eq!(peer.frame().as_text(), "still open");
            peer.send(Frame::close(1000, ""));
            peer.expect_close(1000);
        },
    );
}
