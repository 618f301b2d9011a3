//! A server that stops closes all clients, waits at most for its timeout, and reports which handlers it had to abandon.

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;
use support::{
    Frame, PATIENCE, RawPeer, TestServer, echo, eventually, is_behind_relay, ms, next, spawn, watchdog,
};
use threadws::{Config, Server};

#[test]
fn all_clients_get_1001_and_are_counted() {
    let _dog = watchdog(30);
    if is_behind_relay("the relay still accepts") {
        return;
    }
    let server = TestServer::new(echo);
    let addr = server.addr();
    let mut peers: Vec<_> = (0..10).map(|_| RawPeer::open(addr)).collect();
    eventually("all are in", || server.hub().count() == 10);
    let handle = Arc::new(server.into_handle());
    let stopping = Arc::clone(&handle);
    let start = Instant::now();
    let stop = std::thread::spawn(move || stopping.shutdown(PATIENCE));
    for peer in &mut peers {
        peer.expect_close(1001);
        peer.send(&Frame::close(1001, ""));
        peer.expect_eof();
    }
    let report = stop.join().expect("the shutdown");
    assert!(start.elapsed() < PATIENCE / 2, "waited although all had gone: {:?}", start.elapsed());
    assert_eq!((report.closed, &report.abandoned[..]), (10, &[][..]));
    assert!(report.is_complete() && !report.to_string().is_empty());
    assert!(handle.hub().count() == 0);
    assert!(TcpStream::connect_timeout(&addr, ms(1000)).is_err(), "it still accepts");
    let again = handle.shutdown(PATIENCE);
    assert_eq!((again.closed, &again.abandoned[..]), (0, &[][..]), "a second call has nothing to do");
}

#[test]
fn queued_messages_are_sent_before_the_shutdown() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    eventually("it is in", || server.hub().count() == 1);
    let sender = server.hub().clients()[0].sender();
    let mut queued = 0;
    while sender.try_send(vec![9; 64 << 10]).is_ok() {
        queued += 1; // until both the kernel's buffers and the backlog are full
    }
    let handle = server.into_handle();
    let stop = std::thread::spawn(move || handle.shutdown(PATIENCE));
    for _ in 0..queued {
        peer.expect_binary(&[9; 64 << 10]);
    }
    peer.expect_close(1001);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
    assert!(stop.join().expect("the shutdown").is_complete());
}

#[test]
fn a_client_that_does_not_answer_ends_at_the_timeout() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    eventually("it is in", || server.hub().count() == 1);
    let handle = server.into_handle();
    let start = Instant::now();
    let report = handle.shutdown(ms(300));
    let took = start.elapsed();
    assert!(took >= ms(250) && took < ms(300) + PATIENCE / 2, "took {took:?}");
    // It may count as closed or as abandoned, but not as both.
    assert_eq!(report.closed + report.abandoned.len(), 1, "{report}");
    peer.expect_close(1001);
    peer.expect_gone();
}

#[test]
fn a_handler_that_does_not_return_is_reported() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let server = TestServer::new(move |client| {
        if client.request().path() == "/stuck" {
            tx.send(client.id()).unwrap_or(());
            released.lock().expect("one waits").recv().unwrap_or_default(); // never reads
            return Ok(());
        }
        echo(client)
    });
    let mut stuck = RawPeer::open_at(server.addr(), "/stuck", &[]);
    let id = next(&rx, "the stuck handler");
    let mut peer = RawPeer::open(server.addr());
    eventually("both are in", || server.hub().count() == 2);
    let handle = server.into_handle();
    let stop = std::thread::spawn(move || {
        let start = Instant::now();
        let report = handle.shutdown(ms(500));
        let took = start.elapsed();
        let dropping = Instant::now();
        drop(handle);
        (report, took, dropping.elapsed())
    });
    peer.expect_close(1001);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
    stuck.expect_close(1001);
    stuck.expect_gone(); // The connection is cut although its handler is not finished.
    let (report, took, drop_took) = stop.join().expect("the shutdown");
    assert!(took >= ms(450) && took < ms(500) + PATIENCE / 2, "took {took:?}");
    assert_eq!((report.closed, &report.abandoned[..]), (1, &[id][..]), "{report}");
    assert!(!report.is_complete());
    assert!(report.to_string().contains(&id.to_string()), "{report}");
    assert!(drop_took < ms(1000), "dropping the handle waited again: {drop_took:?}");
    drop(release);
}

#[test]
fn a_stuck_writer_ends_at_the_timeout() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let message = vec![1; 256 << 10];
        while client.try_send(&message).is_ok() {}
        tx.send(()).unwrap_or(());
        loop {
            client.send(&message)?; // to a client that reads nothing
        }
    });
    let mut peer = RawPeer::open(server.addr());
    next(&rx, "a full backlog");
    let handle = server.into_handle();
    let start = Instant::now();
    let report = handle.shutdown(ms(500));
    assert!(start.elapsed() < ms(500) + PATIENCE / 2, "took {:?}", start.elapsed());
    assert_eq!(report.closed + report.abandoned.len(), 1, "{report}");
    eventually("its handler has ended", || handle.hub().count() == 0);
    peer.expect_gone();
}

#[test]
fn dropping_the_handle_shuts_down_and_joins() {
    let _dog = watchdog(30);
    if is_behind_relay("the relay still accepts") {
        return;
    }
    let (starts, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&starts), Arc::clone(&ends));
    let server = TestServer::new(move |client| {
        counts.0.fetch_add(1, Ordering::SeqCst);
        let result = echo(client);
        counts.1.fetch_add(1, Ordering::SeqCst);
        result
    });
    let addr = server.addr();
    let mut peers: Vec<_> = (0..5).map(|_| RawPeer::open(addr)).collect();
    eventually("all are in", || starts.load(Ordering::SeqCst) == 5);
    let answers = std::thread::spawn(move || {
        for peer in &mut peers {
            peer.expect_close(1001);
            peer.send(&Frame::close(1001, ""));
            peer.expect_eof();
        }
    });
    drop(server.into_handle());
    assert_eq!(ends.load(Ordering::SeqCst), 5, "a handler still runs");
    assert!(TcpStream::connect_timeout(&addr, ms(1000)).is_err(), "it still accepts");
    answers.join().expect("the peers");
}

#[test]
fn dropping_the_handle_in_a_handler_does_not_block() {
    let _dog = watchdog(30);
    let handle = Arc::new(Mutex::new(None));
    let inside = Arc::clone(&handle);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        while client.recv()?.is_some() {
            let handle: Option<threadws::ServerHandle> = inside.lock().expect("no panic").take();
            let start = Instant::now();
            drop(handle);
            tx.send(start.elapsed()).unwrap_or(());
        }
        Ok(())
    });
    let addr = server.addr();
    *handle.lock().expect("no panic") = Some(server.into_handle());
    let mut peer = RawPeer::open(addr);
    peer.send_text("stop");
    let took = next(&rx, "the drop");
    assert!(took < ms(1000), "the drop took {took:?}");
    peer.expect_close(1001);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
    eventually("it accepts no more", || TcpStream::connect_timeout(&addr, ms(1000)).is_err());
}

#[test]
fn a_handshake_under_way_is_answered_503() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let mut half = RawPeer::connect(server.addr());
    half.write("GET / HTTP/1.1\r\nHost: x\r\n");
    // Connections are accepted in order, so the earlier one was accepted when a later one is open.
    RawPeer::open(server.addr()).close(1000);
    let handle = server.into_handle();
    let start = Instant::now();
    handle.shutdown(PATIENCE);
    assert!(start.elapsed() < PATIENCE / 2, "the shutdown waited for a handshake: {:?}", start.elapsed());
    half.expect_refusal(503);
}

#[test]
fn a_client_that_comes_during_the_shutdown_is_not_forgotten() {
    let _dog = watchdog(60);
    for round in 0..5 {
        let server = TestServer::new(echo);
        let addr = server.addr();
        let (begin, begun) = mpsc::channel();
        let comers: Vec<_> = (0..4)
            .map(|_| {
                let begin = begin.clone();
                std::thread::spawn(move || {
                    // Until there is no server any more. After that every accepted client must get its Close.
                    let mut inside = Vec::new();
                    while inside.len() < 50 {
                        let Some(peer) = try_open(addr) else { break };
                        inside.push(peer);
                        begin.send(()).unwrap_or(());
                    }
                    for mut peer in inside {
                        // It was accepted, so it gets the Close.
                        peer.expect_close(1001);
                        peer.expect_gone();
                    }
                })
            })
            .collect();
        next(&begun, "a client");
        std::thread::sleep(ms(round)); // another moment each time
        let start = Instant::now();
        server.into_handle().shutdown(ms(1000));
        assert!(start.elapsed() < ms(1000) + PATIENCE / 2, "took {:?}", start.elapsed());
        for comer in comers {
            comer.join().expect("a client that came");
        }
    }
}

/// Returns an open WebSocket, or `None` if there is no server any more.
fn try_open(addr: std::net::SocketAddr) -> Option<RawPeer> {
    let stream = TcpStream::connect_timeout(&addr, ms(1000)).ok()?;
    let mut peer = RawPeer::from_stream(stream, addr);
    peer.try_write(support::upgrade_request(addr, "/", &[]).as_bytes()).ok()?;
    let answer = peer.try_answer().ok()??;
    (answer.status == 101).then_some(peer)
}

#[test]
fn many_silent_clients_do_not_delay_the_shutdown() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.config(Config::new().with_close_timeout(ms(500))), echo);
    let peers: Vec<_> = (0..50).map(|_| RawPeer::open(server.addr())).collect();
    eventually("all are in", || server.hub().count() == 50);
    let start = Instant::now();
    drop(server); // within the close timeout, for all of them at once and not one after the other
    assert!(start.elapsed() < ms(500) + ms(2000), "took {:?}", start.elapsed());
    for mut peer in peers {
        peer.expect_close(1001);
        peer.expect_gone();
    }
}

#[test]
fn the_port_is_free_after_the_shutdown() {
    let _dog = watchdog(30);
    if is_behind_relay("the relay has the port") {
        return;
    }
    let server = TestServer::new(echo);
    let addr = server.addr();
    let mut peer = RawPeer::open(addr);
    eventually("it is in", || server.hub().count() == 1);
    let stop = std::thread::spawn(move || drop(server));
    peer.expect_close(1001); // The server closes first, so its port is left in TIME_WAIT.
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
    stop.join().expect("the shutdown");
    let next = spawn(Server::bind(addr).expect("the same port"), echo).expect("it starts");
    RawPeer::open(addr).close(1000);
    drop(next);
}

#[cfg(feature = "cli")]
mod binary {
    use super::*;
    use rustix::process::Signal;
    use support::Process;

    #[test]
    fn sigterm_closes_fifty_clients_and_exits_0() {
        let _dog = watchdog(60);
        let mut server = Process::threadws(&["--every", "0"]);
        let mut peers: Vec<_> = (0..50).map(|_| RawPeer::open(server.addr())).collect();
        server.wait_for_lines(&["connected from"], 50);
        let start = Instant::now();
        server.signal(Signal::TERM);
        for peer in &mut peers {
            peer.expect_close(1001);
            peer.send(&Frame::close(1001, ""));
            peer.expect_eof();
        }
        server.wait_for_success(PATIENCE);
        assert!(start.elapsed() < ms(4000), "took {:?}", start.elapsed());
        assert_eq!(server.log().iter().filter(|line| line.contains("disconnected")).count(), 50);
        assert!(server.log().iter().any(|line| line.contains("stopped")), "{:#?}", server.log());
    }

    #[test]
    fn sigint_with_silent_clients_exits_0_within_the_timeout() {
        let _dog = watchdog(60);
        let mut server = Process::threadws(&["--every", "20ms"]);
        let mut peers: Vec<_> = (0..50).map(|_| RawPeer::open(server.addr())).collect();
        server.wait_for_lines(&["connected from"], 50);
        let start = Instant::now();
        server.signal(Signal::INT);
        for peer in &mut peers {
            peer.expect_close_at_last(&[1001]);
        }
        server.wait_for_success(PATIENCE);
        assert!(start.elapsed() < ms(7000), "took {:?}", start.elapsed());
    }

    #[test]
    fn a_second_signal_exits_130_at_once() {
        let _dog = watchdog(30);
        for (first, second) in
            [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::INT), (Signal::TERM, Signal::INT)]
        {
            let mut server = Process::threadws(&["--every", "0"]);
            let mut peer = RawPeer::open(server.addr());
            server.signal(first);
            peer.expect_close(1001); // The shutdown has begun, and waits for the answer in vain.
            let start = Instant::now();
            server.signal(second);
            assert_eq!(server.wait(PATIENCE).code(), Some(130));
            assert!(start.elapsed() < ms(2000), "took {:?}", start.elapsed());
        }
    }

    #[test]
    fn a_taken_port_is_named_and_exits_1() {
        let _dog = watchdog(30);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = taken.local_addr().expect("it is bound").to_string();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_threadws"));
        command.args(["--listen", &addr]);
        let mut server = Process::spawn(command);
        assert_eq!(server.wait(PATIENCE).code(), Some(1));
        assert!(server.log().iter().any(|line| line.contains(&addr)), "{:#?}", server.log());
        assert_eq!(server.stdout(), [""; 0]);
    }
}
