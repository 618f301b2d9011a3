//! A shutdown ends in time even if a callback of the program or a client blocks.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use support::{PATIENCE, RawPeer, TestServer, echo, ms, next, watchdog};
use threadws::{Message, handshake::Response};

/// The tick waits for a lock that the caller of the shutdown holds.
#[test]
fn a_shutdown_does_not_wait_for_a_blocked_tick() {
    let _dog = watchdog(30);
    let shared = Arc::new(Mutex::new(0));
    let wanted = Arc::clone(&shared);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let (tx, wanted) = (tx.clone(), Arc::clone(&wanted));
        client.every_with(ms(5), move || {
            tx.send(()).unwrap_or(());
            *wanted.lock().expect("no panic") += 1;
            None::<Message>
        });
        client.ignore()?;
        Ok(())
    });
    let peer = RawPeer::open(server.addr());
    next(&rx, "a tick");
    let held = shared.lock().expect("no panic");
    // The earlier reports were of ticks that had the lock.
    while rx.recv_timeout(ms(200)).is_ok() {}
    let handle = server.into_handle();
    drop(peer);
    let start = Instant::now();
    let report = handle.shutdown(ms(300));
    let took = start.elapsed();
    assert!(took < ms(300) + PATIENCE / 2, "took {took:?}");
    assert!(report.abandoned.is_empty() && !report.is_complete(), "{report}");
    assert!(report.to_string().contains("still runs"), "{report}");
    let start = Instant::now();
    drop(handle);
    assert!(start.elapsed() < ms(1000), "dropping the handle waited again");
    drop(held);
}

#[test]
fn a_shutdown_waits_for_a_tick_that_ends_in_time() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let tx = tx.clone();
        client.every_with(ms(5), move || {
            tx.send(()).unwrap_or(());
            std::thread::sleep(ms(100));
            None::<Message>
        });
        client.ignore()?;
        Ok(())
    });
    let peer = RawPeer::open(server.addr());
    next(&rx, "a tick");
    drop(peer);
    let report = server.into_handle().shutdown(PATIENCE);
    assert!(report.is_complete(), "{report}");
}

#[test]
fn a_handle_dropped_in_a_tick_does_not_wait() {
    let _dog = watchdog(30);
    let handle = Arc::new(Mutex::new(None::<threadws::ServerHandle>));
    let inside = Arc::clone(&handle);
    let (tx, rx) = mpsc::channel::<Duration>();
    let server = TestServer::new(move |client| {
        let (tx, inside) = (tx.clone(), Arc::clone(&inside));
        client.every_with(ms(5), move || {
            let handle = inside.lock().expect("no panic").take()?;
            let start = Instant::now();
            drop(handle);
            tx.send(start.elapsed()).unwrap_or(());
            None::<Message>
        });
        client.ignore()?;
        Ok(())
    });
    let addr = server.addr();
    *handle.lock().expect("no panic") = Some(server.into_handle());
    let mut peer = RawPeer::open(addr);
    let took = next(&rx, "the drop");
    assert!(took < ms(1000), "the drop took {took:?}");
    peer.expect_close(1001);
}

#[test]
fn a_slow_reader_of_http_ends_at_the_timeout() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            server.serve_http(move |_| {
                tx.send(()).unwrap_or(());
                Response::new(vec![b'x'; 16 << 20]) // more than the buffers of any socket take
            })
        },
        echo,
    );
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    next(&rx, "the request");
    let start = Instant::now();
    let report = server.into_handle().shutdown(ms(300));
    let took = start.elapsed();
    assert!(report.is_complete(), "{report} after {took:?}");
    assert!(took >= ms(250) && took < ms(300) + PATIENCE / 2, "took {took:?}");
    drop(peer);
}
