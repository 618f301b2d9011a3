use super::broadcast::Fate;
use super::*;
use crate::config::TIMEOUT_UNIT;
use crate::error::Error;
use crate::net::{Stream, Transport};
use crate::verify::mock_session::{MockSession, WORN, unseal};
use std::io::IoSlice;
use std::os::unix::net::UnixStream;

/// Each client takes the memory of one outbox. Other systems have other sizes of the types of std.
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(model)))]
#[test]
fn an_outbox_has_at_most_608_bytes() {
    assert!(size_of::<Outbox>() <= 632, "{}", size_of::<Outbox>());
}

#[test]
fn the_first_send_after_the_peer_has_gone_fails() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    for large in [false, true] {
        let (ours, peers) = UnixStream::pair().expect("a pair");
        let stream = Arc::new(Stream::new(ours).expect("a stream"));
        let outbox = Outbox::new(Role::Server, &Config::new(), stream, Arc::clone(&flush), None);
        drop(peers);
        let message = "x".repeat(if large { 2048 } else { 1 });
        assert!(matches!(outbox.send(&message), Err(Error::Closed(_))));
        assert!(matches!(outbox.try_send(&message), Err(Error::Closed(_))));
    }
    flush.stop();
    thread.join().expect("it ends");
}

#[test]
fn a_close_that_a_full_socket_refuses_is_written_later() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    let (outbox, peers) = stuck(&flush, &Config::new());
    assert!(outbox.close(None));
    peers.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut bytes = std::io::Read::bytes(peers).map(|byte| byte.expect("the Close comes"));
    assert_eq!(bytes.find(|byte| *byte != b'x'), Some(0x88));
    flush.stop();
    thread.join().expect("it ends");
}

#[test]
fn the_close_deadline_holds_while_another_sender_polls() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    let (ours, _peers) = UnixStream::pair().expect("a pair");
    let stream = Arc::new(Stream::new(ours).expect("a stream"));
    let config = Config::new()
        .with_close_timeout(Duration::from_millis(50))
        .with_write_timeout(Duration::from_secs(8));
    let outbox = Outbox::new(Role::Server, &config, stream, Arc::clone(&flush), None);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| outbox.send(vec![0; TIMEOUT_UNIT]));
        while !outbox.state.lock().has_poller {
            std::thread::yield_now();
        }
        let start = now();
        outbox.close_received(None);
        outbox.close(None);
        // The reading thread calls this next. It returns because the connection breaks.
        drop(outbox.wait_empty(Deadline::NEVER));
        assert!(start.elapsed() < config.write_timeout() / 2, "after {:?}", start.elapsed());
        assert_eq!(outbox.broken(), Some(Cause::Timeout(Timeout::Close)));
        assert!(sender.join().expect("no panic").is_err());
    });
    flush.stop();
    thread.join().expect("it ends");
}

/// Returns an outbox whose socket is full, and its peer, which reads nothing.
fn stuck(flush: &Arc<FlushThread>, config: &Config) -> (Arc<Outbox>, UnixStream) {
    let (ours, peers) = UnixStream::pair().expect("a pair");
    let stream = Arc::new(Stream::new(ours).expect("a stream"));
    // One byte at a time, until not even that fits.
    while stream.try_write(&[IoSlice::new(b"x")]).is_ok() {}
    (Outbox::new(Role::Server, config, stream, Arc::clone(flush), None), peers)
}

#[test]
fn messages_of_waiting_senders_do_not_count_as_backlog() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    let (outbox, peers) = stuck(&flush, &Config::new().with_max_backlog(TIMEOUT_UNIT));
    std::thread::scope(|scope| {
        let senders = [(); 2].map(|()| scope.spawn(|| outbox.send(vec![0; 2 * TIMEOUT_UNIT])));
        while outbox.state.lock().waiting < senders.len() {
            std::thread::yield_now();
        }
        let frame = SharedFrames::new(Arc::from(&b"\x82\x01x"[..]), 1, true);
        assert_eq!(outbox.broadcast(&frame), Fate::Queued);
        outbox.break_off(Cause::Terminated);
        for sender in senders {
            assert!(sender.join().expect("no panic").is_err());
        }
    });
    drop(peers);
    flush.stop();
    thread.join().expect("it ends");
}

#[test]
fn a_close_that_was_never_written_counts_as_not_sent() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    for breaks in [true, false] {
        let (outbox, _peers) = stuck(&flush, &Config::new());
        outbox.close_received(None);
        assert!(outbox.close(None));
        if breaks {
            outbox.break_off(Cause::Timeout(Timeout::Close));
        }
        let closed = outbox.end(Counts::default(), None);
        assert!(!closed.is_clean(), "{closed}");
    }
    flush.stop();
    thread.join().expect("it ends");
}

#[test]
fn a_101_that_is_not_read_ends_at_the_earlier_deadline() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);
    for (handshake, write, expired) in [(SHORT, LONG, Timeout::Handshake), (LONG, SHORT, Timeout::Write)] {
        let (outbox, _peers) = stuck(&flush, &Config::new().with_write_timeout(write));
        outbox.hold(b"HTTP/1.1 101 \r\n\r\n".to_vec());
        outbox.try_send("behind it").expect("an empty backlog");
        let start = now();
        let error = outbox.open(Deadline::after(handshake)).expect_err("the peer does not read");
        assert!(matches!(error, Error::Timeout(timeout) if timeout == expired), "{error}");
        assert!(start.elapsed() < LONG / 2, "after {:?}", start.elapsed());
        assert_eq!(outbox.totals().0.opened, 0);
    }
    flush.stop();
    thread.join().expect("it ends");
}

#[test]
fn a_101_counts_neither_as_backlog_nor_as_sent() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    let (ours, mut peers) = UnixStream::pair().expect("a pair");
    let stream = Arc::new(Stream::new(ours).expect("a stream"));
    let outbox =
        Outbox::new(Role::Server, &Config::new().with_max_backlog(100), stream, Arc::clone(&flush), None);
    outbox.hold(vec![b'x'; 1000]);
    assert_eq!(outbox.stats().backlog, 0);
    // An empty backlog takes a message of any size.
    outbox.try_send(vec![7; 200]).expect("an empty backlog");
    assert_eq!(outbox.stats().traffic.bytes_sent, 0);
    outbox.open(Deadline::after(Duration::from_secs(5))).expect("there is room");
    assert_eq!((outbox.stats().traffic.bytes_sent, outbox.stats().traffic.messages_sent), (204, 1));
    let mut bytes = [0; 1204];
    std::io::Read::read_exact(&mut peers, &mut bytes).expect("all is written");
    assert!(bytes.starts_with(&[b'x'; 1000]) && bytes.ends_with(&[7; 200]));
    flush.stop();
    thread.join().expect("it ends");
}

#[test]
fn a_connection_with_worn_keys_is_closed() {
    let (flush, thread) = FlushThread::start().expect("a thread");
    let (ours, peers) = UnixStream::pair().expect("a pair");
    let stream = Arc::new(Stream::new(ours).expect("a stream"));
    let outbox = Outbox::new(Role::Server, &Config::new(), stream, Arc::clone(&flush), None);
    outbox.seal_with(Box::new(MockSession::new(100)));
    for _ in 0..WORN {
        outbox.send("x").expect("it is open");
    }
    assert!(matches!(outbox.send("x"), Err(Error::Closed(_))));
    outbox.break_off(Cause::Terminated);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &peers, &mut bytes).expect("it ends");
    let close = [&[0x88, 22, 3, 233][..], b"the keys are used up"].concat();
    assert_eq!(unseal(&bytes).plain, [[0x81, 1, b'x'].repeat(WORN.into()), close].concat());
    flush.stop();
    thread.join().expect("it ends");
}
