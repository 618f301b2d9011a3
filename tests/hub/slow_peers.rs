//! A peer that does not read takes a limited amount of memory, delays no other client, and is skipped or closed, as
//! configured.

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use support::frame::{BINARY, CLOSE};
use support::{
    Frame, PATIENCE, RawPeer, TestServer, eventually, is_behind_relay, ms, next, reached, watchdog,
};
use threadws::{CloseCode, Closed, Config, Error, Message, Sender, Timeout, hub::SlowPeer};

/// The kernel takes some 4.3 MB before the first message is refused.
const SIZE: usize = 64 << 10;

/// Returns a message that contains its number.
fn numbered(number: u32) -> Vec<u8> {
    let mut message = vec![0; SIZE];
    message[..4].copy_from_slice(&number.to_be_bytes());
    message
}

#[track_caller]
fn number_of(frame: &Frame) -> u32 {
    assert_eq!((frame.opcode, frame.payload.len()), (BINARY, SIZE), "{frame:?}");
    u32::from_be_bytes(*frame.payload.first_chunk().expect("four bytes"))
}

struct End {
    error: Option<Error>,
    closed: Closed,
}

/// Starts a server whose handler acts as the path says, reads to the end and reports it.
fn server(config: Config, slow_peer: SlowPeer) -> (TestServer, Receiver<Sender>, Receiver<End>) {
    let (tx, senders) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config).slow_peer(slow_peer),
        move |client| {
            match client.request().path() {
                "/skip" => client.set_slow_peer(SlowPeer::Skip)?,
                "/close" => client.set_slow_peer(SlowPeer::Close)?,
                _ => {}
            }
            tx.send(client.sender()).unwrap_or(());
            let error = client.ignore().err();
            let closed = client.closed().cloned().expect("it is over");
            end.send(End { error, closed }).unwrap_or(());
            Ok(())
        },
    );
    (server, senders, ends)
}

/// Broadcasts until one client is skipped or closed. Returns the number of broadcasts.
fn until_full(server: &TestServer, healthy: &mut [RawPeer]) -> u32 {
    for number in 0..1000 {
        let delivery = server.hub().broadcast(numbered(number));
        for peer in &mut *healthy {
            assert_eq!(number_of(&peer.message()), number);
        }
        if delivery.skipped + delivery.closed > 0 {
            return number + 1;
        }
    }
    panic!("64 MB went nowhere");
}

#[test]
fn a_full_backlog_closes_the_client_at_the_next_broadcast() {
    let _dog = watchdog(60);
    let (server, senders, ends) = server(Config::new(), SlowPeer::default());
    let stuck = RawPeer::open(server.addr());
    let sender = next(&senders, "the stuck one's sender");
    let mut healthy: Vec<_> = (0..2).map(|_| RawPeer::open(server.addr())).collect();
    for _ in &healthy {
        next(&senders, "a sender");
    }
    let count = until_full(&server, &mut healthy);
    // At once, without waiting for the write timeout.
    let end = next(&ends, "the end");
    assert!(matches!(&end.error, Some(Error::Closed(_))), "{:?}", end.error);
    assert_eq!(end.error.expect("an error").close_code(), CloseCode::TRY_AGAIN_LATER);
    assert_eq!((u16::from(end.closed.code()), end.closed.is_clean()), (1013, false));
    assert_eq!(end.closed.to_string(), "no Close either way: slow peer: its backlog was full");
    assert!(matches!(sender.try_send("x"), Err(Error::Closed(_))));
    // The whole backlog was used, except for less than one message.
    let high = sender.stats().high_water;
    assert!(high <= 1 << 20 && high + 2 * SIZE > 1 << 20, "{high} bytes waited");
    assert_eq!(sender.stats().backlog, 0, "a closed connection holds nothing");
    eventually("it is out", || server.hub().count() == 2);
    let stats = server.stats();
    assert_eq!((stats.slow_peers_closed, stats.messages_skipped, stats.backlog), (1, 0, 0));
    // The other clients go on.
    assert_eq!(server.hub().broadcast(numbered(count)).to_string(), "2 sent, 0 queued, 0 skipped, 0 closed");
    for peer in &mut healthy {
        assert_eq!(number_of(&peer.message()), count);
    }
    drop(stuck);
}

#[test]
fn a_skipped_client_goes_on_when_it_reads() {
    let _dog = watchdog(60);
    let (server, senders, ends) = server(Config::new(), SlowPeer::Skip);
    let mut stuck = RawPeer::open(server.addr());
    let sender = next(&senders, "the stuck one's sender");
    let mut healthy = [RawPeer::open(server.addr())];
    next(&senders, "a sender");
    let mut count = until_full(&server, &mut healthy);
    let delivery = server.hub().broadcast(numbered(count));
    assert_eq!((reached(delivery), delivery.skipped, delivery.closed), (1, 1, 0));
    assert_eq!(number_of(&healthy[0].message()), count);
    count += 1;
    // Ticks and `try_send` have their own results.
    assert!(matches!(sender.try_send(numbered(0)), Err(Error::Full)));
    assert!(ends.try_recv().is_err(), "skipping ends nothing");
    let stats = server.hub().get(sender.id()).expect("it is there").sender().stats();
    assert_eq!(stats.messages_skipped, 2);
    assert_eq!(stats.traffic.messages_sent + 2, u64::from(count));
    assert_eq!(stats.backlog, sender.stats().backlog);
    // Every message that was not skipped arrives, whole and in order.
    for number in 0..count - 2 {
        assert_eq!(number_of(&stuck.message()), number);
    }
    sender.wait_drained(PATIENCE).expect("it reads");
    assert_eq!((sender.stats().backlog, stats.high_water), (0, sender.stats().high_water));
    assert_eq!(server.hub().broadcast(numbered(count)).sent, 2);
    assert_eq!(number_of(&stuck.message()), count);
    stuck.close(1000);
}

#[test]
fn a_connection_may_have_a_policy_of_its_own() {
    let _dog = watchdog(60);
    for (policy, path, skips) in [(SlowPeer::Close, "/skip", true), (SlowPeer::Skip, "/close", false)] {
        let (server, senders, ends) = server(Config::new(), policy);
        let stuck = RawPeer::open_at(server.addr(), path, &[]);
        next(&senders, "the stuck one's sender");
        until_full(&server, &mut []);
        if skips {
            assert!(ends.recv_timeout(ms(50)).is_err(), "skipping ends nothing");
        } else {
            assert_eq!(u16::from(next(&ends, "the end").closed.code()), 1013);
        }
        drop(stuck);
    }
}

#[test]
fn write_broadcast_and_publish_follow_the_same_policy() {
    let _dog = watchdog(60);
    let (end, ends) = mpsc::channel();
    let server = TestServer::new(move |client| {
        if client.request().path() == "/stuck" {
            client.subscribe("all")?;
            let error = client.ignore().err();
            end.send((error, client.closed().cloned())).unwrap_or(());
        }
        while let Some(message) = client.recv()? {
            match message.as_bytes()[0] {
                b'p' => _ = client.hub()?.publish("all", message),
                _ => client.write_broadcast(message)?,
            }
        }
        Ok(())
    });
    for kind in *b"bp" {
        let stuck = RawPeer::open_at(server.addr(), "/stuck", &[]);
        eventually("it listens", || server.hub().subscribers("all").len() == 1);
        let mut talker = RawPeer::open(server.addr());
        let stream = talker.stream();
        let writer = thread::spawn(move || {
            use std::io::Write as _;
            for _ in 0..200 {
                // Small messages, so that some are held together.
                let burst: Vec<u8> =
                    (0..8).flat_map(|_| Frame::binary(vec![kind; 8 << 10]).encode()).collect();
                (&stream).write_all(&burst).expect("the server reads");
            }
        });
        if kind == b'b' {
            for _ in 0..1600 {
                assert_eq!(talker.message().payload, vec![kind; 8 << 10]);
            }
        }
        let (_, closed) = next(&ends, "the stuck one's end");
        assert_eq!(u16::from(closed.expect("closed").code()), 1013);
        writer.join().expect("the writer");
        talker.close(1000);
        drop(stuck);
        eventually("all are out", || server.hub().count() == 0);
    }
}

/// An empty backlog holds one message of any size.
#[test]
fn a_backlog_holds_its_size_or_one_larger_message() {
    let _dog = watchdog(60);
    if is_behind_relay("the relay reads") {
        return;
    }
    const BOUND: usize = 100_000;
    let (server, senders, _ends) = server(Config::new().with_max_backlog(BOUND), SlowPeer::Skip);
    let mut stuck = RawPeer::open(server.addr());
    let sender = next(&senders, "the stuck one's sender");
    // 6 MB: more than the kernel takes at once, and more than the limit.
    let large = vec![3; 6 << 20];
    assert_eq!(server.hub().broadcast(&large).queued, 1);
    assert!(sender.stats().backlog > BOUND, "the kernel took all of it");
    assert_eq!(server.hub().broadcast("x").skipped, 1, "not one byte beyond a full backlog");
    stuck.expect_binary(&large);
    sender.wait_drained(PATIENCE).expect("it reads");
    // Small messages until the backlog is full: never above the limit, and nearly up to it.
    let small = vec![4; 500];
    let large_high = sender.stats().high_water;
    let mut sent = 0_u32;
    let mut most = 0;
    while server.hub().broadcast(&small).skipped == 0 {
        sent += 1;
        most = most.max(sender.stats().backlog);
        assert!(sent < 1_000_000, "500 MB went nowhere");
    }
    assert!(most <= BOUND && most > BOUND * 4 / 5, "{most} bytes waited");
    assert_eq!(sender.stats().high_water, large_high);
    for _ in 0..sent {
        stuck.expect_binary(&small);
    }
    stuck.close(1000);
}

#[test]
fn wait_drained_waits_at_most_its_timeout() {
    let _dog = watchdog(60);
    if is_behind_relay("the relay reads") {
        return;
    }
    let (server, senders, _ends) = server(Config::new(), SlowPeer::default());
    let mut stuck = RawPeer::open(server.addr());
    let sender = next(&senders, "the sender");
    sender.wait_drained(Duration::ZERO).expect("nothing waits");
    let mut count = 0;
    while sender.try_send(numbered(count)).is_ok() {
        count += 1;
    }
    assert!(matches!(sender.wait_drained(Duration::ZERO), Err(Error::Timeout(Timeout::Drained))));
    let start = Instant::now();
    let error = sender.wait_drained(ms(80)).expect_err("it does not read");
    assert!(matches!(error, Error::Timeout(Timeout::Drained)) && !error.is_fatal(), "{error}");
    assert!(start.elapsed() >= ms(80), "returned after {:?}", start.elapsed());
    // Two threads wait. One has the turn at the socket and one has not.
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let sender = sender.clone();
            thread::spawn(move || sender.wait_drained(PATIENCE))
        })
        .collect();
    for number in 0..count {
        assert_eq!(number_of(&stuck.message()), number);
    }
    for waiter in waiters {
        waiter.join().expect("a thread").expect("it has read");
    }
    assert_eq!(sender.stats().backlog, 0);
    // After a wait that timed out, another thread goes on writing, and nothing stays behind.
    loop {
        while sender.try_send(numbered(count)).is_ok() {
            count += 1;
        }
        // The kernel may have made room for more meanwhile.
        if sender.wait_drained(ms(20)).is_err() {
            break;
        }
    }
    stuck.message();
    eventually("all is out", || {
        while matches!(stuck.frame_until(Instant::now() + ms(1)), Ok(Some(_))) {}
        sender.stats().backlog == 0
    });
    // The end wakes the waiting thread.
    while sender.try_send(numbered(0)).is_ok() {}
    let waiter = {
        let sender = sender.clone();
        thread::spawn(move || sender.wait_drained(PATIENCE))
    };
    thread::sleep(ms(20)); // Most likely it waits now. If it does not, the result is the same.
    sender.terminate();
    let result = waiter.join().expect("a thread");
    assert!(matches!(result, Err(Error::Closed(_))), "{result:?}");
    assert!(matches!(sender.wait_drained(Duration::ZERO), Err(Error::Closed(_))));
}

#[test]
fn an_unread_echo_ends_at_the_write_timeout() {
    if is_behind_relay("the relay holds more than the test sends") {
        return;
    }
    use std::io::Write as _;

    let _dog = watchdog(60);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_write_timeout(ms(400))),
        move |client| {
            loop {
                match client
                    .recv()
                    .and_then(|message| message.map_or(Ok(()), |message| client.write(message)))
                {
                    Ok(()) if client.closed().is_none() => {}
                    end => {
                        tx.send((end, client.closed().cloned())).unwrap_or(());
                        return Ok(());
                    }
                }
            }
        },
    );
    let peer = RawPeer::open(server.addr());
    let stream = peer.stream();
    // 4.3 MB fit into the kernel in each direction. After that both ends would wait forever.
    let frame = Frame::binary(vec![9; 256 << 10]).encode();
    let writer = thread::spawn(move || (0..100).all(|_| (&stream).write_all(&frame).is_ok()));
    let (end, closed) = next(&rx, "the end");
    let again = closed.as_ref().map(|closed| u16::from(closed.code()));
    assert!(matches!(end, Err(Error::Timeout(Timeout::Write))), "{end:?} {again:?}");
    eventually("its place is free", || server.hub().count() == 0);
    assert!(!writer.join().expect("the writer"), "25 MB went nowhere");
    drop(peer);
}

#[test]
fn a_reset_inside_a_frame_is_reported_once() {
    let _dog = watchdog(60);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let sender = client.sender();
        let large =
            thread::spawn(move || (sender.send(vec![1; 32 << 20]).err(), sender.try_send("more").err()));
        let error = client.ignore().err();
        tx.send((large.join().ok(), error, client.closed().cloned())).unwrap_or(());
        Ok(())
    });
    for _ in 0..10 {
        let peer = RawPeer::open(server.addr());
        // Some of it has arrived, and 4.3 MB fit into the kernel, so the rest is stuck in the middle of the frame.
        std::io::Read::read_exact(&mut &peer.stream(), &mut vec![0; 1 << 20]).expect("a part of it");
        peer.reset();
        let (large, error, closed) = next(&rx, "the end");
        let (sent, more) = large.expect("no panic");
        assert!(matches!(sent, Some(Error::Closed(_))), "{sent:?}");
        assert!(matches!(more, Some(Error::Closed(_))), "{more:?}");
        assert!(matches!(error, Some(Error::Closed(_))), "{error:?}");
        assert_eq!(u16::from(closed.expect("closed").code()), 1006);
    }
    eventually("all are out", || server.hub().count() == 0);
}

#[test]
fn a_large_message_takes_time_in_proportion_to_its_size() {
    let _dog = watchdog(100);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        // Starts when the reader counts, because the code that reads the 101 also reads the bytes that come with it.
        client.recv()?;
        for size in [8 << 20, 64 << 20] {
            // The quickest of three, because other load of the machine is not measured.
            let mut quickest = PATIENCE * 4;
            for _ in 0..3 {
                let message = vec![5; size];
                let start = Instant::now();
                client.send(message)?;
                quickest = quickest.min(start.elapsed());
            }
            tx.send(quickest).unwrap_or(());
        }
        client.ignore()?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("go");
    // Reads without parsing, because the test's own reader is not measured.
    let stream = peer.stream();
    // A busy machine needs a while to create 64 MiB.
    stream.set_read_timeout(Some(PATIENCE * 4)).expect("a timeout");
    let reader = thread::spawn(move || {
        use std::io::Read as _;
        let mut bytes = vec![0; 256 << 10];
        let mut left = 3 * ((8 << 20) + 10 + (64 << 20) + 10);
        while left > 0 {
            let count = (&stream).read(&mut bytes).expect("open");
            assert!(count > 0, "{left} bytes are missing");
            left -= count;
        }
    });
    let (small, large) = (next(&rx, "8 MiB"), rx.recv_timeout(PATIENCE * 4).expect("64 MiB"));
    reader.join().expect("the reader");
    // It has eight times the size. A quadratic algorithm would take sixty-four times as long, which is seconds for 64
    // MiB.
    assert!(large < small.max(ms(20)) * 30, "8 MiB in {small:?}, 64 MiB in {large:?}");
    peer.send(&Frame::close(1000, ""));
    peer.expect_close(1000);
    peer.expect_eof();
}

#[test]
fn a_started_frame_is_finished_before_any_other() {
    let _dog = watchdog(60);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let senders: Vec<_> = (0..4_u8)
            .map(|number| {
                let sender = client.sender();
                thread::spawn(move || sender.send(vec![number; 3 << 20]))
            })
            .collect();
        let end = client.recv();
        let results: Vec<_> =
            senders.into_iter().map(|thread| thread.join().expect("no panic").is_ok()).collect();
        tx.send((end.is_ok(), results)).unwrap_or(());
        Ok(())
    });
    for _ in 0..10 {
        let mut peer = RawPeer::open(server.addr());
        // The peer closes while a sender is in the middle of its frame, and reads only after that.
        thread::sleep(ms(5));
        peer.send(&Frame::close(1000, "enough"));
        thread::sleep(ms(5));
        let mut came = Vec::new();
        loop {
            let frame = peer.frame();
            if frame.opcode == CLOSE {
                break;
            }
            assert_eq!((frame.opcode, frame.payload.len()), (BINARY, 3 << 20));
            let number = frame.payload[0];
            assert!(frame.payload.iter().all(|byte| *byte == number), "frames run into each other");
            came.push(number);
        }
        peer.expect_eof();
        let (clean, results) = next(&rx, "the end");
        assert!(clean);
        // Every message whose send returned success has arrived.
        for (number, ok) in (0_u8..).zip(results) {
            assert!(!ok || came.contains(&number), "{number} was lost");
        }
    }
}

#[test]
fn a_deadline_at_the_last_byte_is_success_or_timeout() {
    let _dog = watchdog(100);
    if is_behind_relay("the relay reads") {
        return;
    }
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_write_timeout(ms(15))),
        move |client| {
            let sent = client.send(vec![1; 5 << 20]);
            let after = client.recv();
            tx.send((sent, after, client.closed().cloned())).unwrap_or(());
            Ok(())
        },
    );
    let (mut good, mut bad) = (0, 0);
    // The rest of 5 MiB that the kernel does not take may take 15 to 45 ms. Reading a little later after a success, and
    // a little earlier after a timeout, stays at the point where both happen.
    let mut delay = ms(0);
    while good + bad < 40 || good < 5 || bad < 5 {
        assert!(good + bad < 200, "{good} went well, {bad} did not: they hardly ever met");
        let mut peer = RawPeer::open(server.addr());
        thread::sleep(delay);
        let end = peer.frame_until(Instant::now() + PATIENCE);
        if matches!(end, Ok(Some(_))) {
            peer.send_text("I have it");
        }
        let (sent, after, closed) = next(&rx, "the outcome");
        match (sent, after) {
            (Ok(()), Ok(Some(Message::Text(_)))) => {
                good += 1;
                delay += ms(2);
                assert!(closed.is_none());
            }
            (Err(Error::Timeout(Timeout::Write)), Err(Error::Timeout(Timeout::Write))) => {
                bad += 1;
                delay = delay.saturating_sub(ms(2));
                assert_eq!(u16::from(closed.expect("closed").code()), 1013);
                assert!(!matches!(end, Ok(Some(_))), "it was reported as failed, and arrived whole");
            }
            other => panic!("{other:?}"),
        }
    }
}
