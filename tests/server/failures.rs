//! The end of each connection and of its handler, as `on_close` and the report of a shutdown show it.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::mpsc;
use support::{Frame, PATIENCE, RawPeer, TestServer, eventually, expect_echo, next, watchdog};
use threadws::{BoxError, Connection, server::HandlerResult};

/// Ends as the path of the request says.
fn handler(client: &mut Connection) -> Result<(), BoxError> {
    match client.request().path() {
        "/ok" => return Ok(()),
        "/error" => return Err("the disk is full".into()),
        "/panic" => assert_eq!(1 + 1, 3, "on purpose"),
        "/text" => panic!("on purpose"),
        "/any" => panic_any(7),
        _ => {}
    }
    while let Some(message) = client.recv()? {
        client.send(message)?;
    }
    Ok(())
}

/// A server that reports each call of `on_close`: the number of the client, how it ended, and how its handler ended.
fn reporting() -> (TestServer, mpsc::Receiver<(u64, String, String)>) {
    let (report, reports) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            let hub = server.hub().clone();
            server.on_open(|client| client.subscribe("all").expect("a short name")).on_close(
                move |client, closed, result| {
                    let id = client.id();
                    assert!(hub.get(id).is_none() && hub.topics().is_empty(), "{id} has not left yet");
                    assert!(client.sender().try_send("late").is_err());
                    report.send((id, closed.to_string(), result.to_string())).unwrap_or(());
                },
            )
        },
        handler,
    );
    (server, reports)
}

/// A value of a program whose `Drop` panics.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        // A panic while the handler unwinds would abort the process.
        if !std::thread::panicking() {
            panic!("on purpose, when dropped");
        }
    }
}

impl std::fmt::Display for Bomb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

#[test]
fn a_failure_that_panics_when_dropped_leaves_nothing_behind() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| match client.request().path() {
        "/panic" => panic_any(Bomb),
        _ => Err(Box::new(Bomb)),
    });
    for path in ["/panic", "/error"] {
        let mut peer = RawPeer::open_at(server.addr(), path, &[]);
        peer.expect_close(1011);
        peer.send(&Frame::close(1011, ""));
        peer.expect_eof();
    }
    eventually("both have left", || server.hub().count() == 0);
    let report = server.into_handle().shutdown(PATIENCE);
    assert!(report.is_complete() && report.failed == 2, "{report}");
}

#[test]
fn on_close_sees_how_a_connection_and_its_handler_ended() {
    let _dog = watchdog(30);
    let (server, reports) = reporting();
    let mut last = 0;
    for (path, code, expected) in [
        ("/ok", 1000, "ended"),
        ("/error", 1011, "failed: the disk is full"),
        ("/panic", 1011, "panicked: assertion `left == right` failed: on purpose\n  left: 2\n right: 3"),
        ("/text", 1011, "panicked: on purpose"),
        ("/any", 1011, "panicked: not a text"),
    ] {
        let mut peer = RawPeer::open_at(server.addr(), path, &[]);
        peer.expect_close(code);
        peer.send(&Frame::close(code, ""));
        peer.expect_eof();
        let (id, closed, result) = next(&reports, path);
        assert!(id > last, "{path}: called twice");
        assert!(closed.starts_with(&format!("sent {code} (")), "{path}: {closed}");
        assert_eq!(result, expected, "{path}");
        last = id;
    }
    // The client closes, vanishes or breaks the protocol. Then `recv` has no message, and the handler has not failed.
    for (frame, expected) in [
        (Some(Frame::close(1000, "")), "received 1000 (normal closure); then sent 1000 (normal closure)"),
        (Some(Frame::text("unmasked").unmasked()), "unmasked frame from a client"),
        (None, "no Close either way: "),
    ] {
        let mut peer = RawPeer::open(server.addr());
        match frame {
            Some(frame) => {
                peer.send(&frame);
                peer.frame();
                peer.fin();
            }
            None => peer.reset(),
        }
        let (_, closed, result) = next(&reports, expected);
        assert!(closed.contains(expected), "{closed}, expected {expected}");
        assert_eq!(result, "ended", "{closed}");
    }
    assert!(reports.try_recv().is_err(), "called without a connection");
}

#[test]
fn a_shutdown_reports_failed_handlers_and_raises_them() {
    let _dog = watchdog(30);
    let (server, reports) = reporting();
    for path in ["/ok", "/error", "/panic"] {
        drop(RawPeer::open_at(server.addr(), path, &[]));
        next(&reports, path);
    }
    let report = server.shutdown(PATIENCE);
    assert!(report.is_complete(), "{report}");
    assert!(report.to_string().ends_with(" closed, 2 handlers failed"), "{report}");
    assert_eq!((report.failed, report.failures.len()), (2, 2));
    let texts: Vec<_> = report.failures.iter().map(|failure| (failure.is_panic, &*failure.text)).collect();
    assert_eq!(texts[0], (false, "the disk is full"));
    assert!(texts[1].0 && texts[1].1.contains("on purpose"), "{texts:?}");
    let raised = catch_unwind(|| report.raise()).expect_err("a handler failed");
    let text = raised.downcast_ref::<String>().expect("a text");
    assert_eq!(*text, format!("the handler of client {} failed: the disk is full", report.failures[0].id));
}

#[test]
fn a_report_without_failures_raises_nothing() {
    let _dog = watchdog(30);
    let (server, reports) = reporting();
    RawPeer::open(server.addr()).reset();
    next(&reports, "the end");
    let report = server.shutdown(PATIENCE);
    assert_eq!((report.failed, &report.failures[..]), (0, &[][..]));
    report.raise();
}

#[test]
fn a_panic_in_on_close_affects_no_other_client() {
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| {
            server.on_close(|_, _, result| {
                assert!(!matches!(result, HandlerResult::Err(_)), "in on_close, on purpose");
            })
        },
        handler,
    );
    for _ in 0..3 {
        drop(RawPeer::open_at(server.addr(), "/error", &[]));
    }
    expect_echo(&server);
    server.hub().wait_count(..=0, PATIENCE).expect("all have left");
    assert_eq!(server.shutdown(PATIENCE).failed, 3);
}

#[test]
fn a_handle_that_is_dropped_panics_only_if_asked() {
    let _dog = watchdog(30);
    let server = TestServer::new(handler);
    drop(RawPeer::open_at(server.addr(), "/panic", &[]));
    server.hub().wait_count(..=0, PATIENCE).expect("it leaves");
    let handle = server.into_handle();
    catch_unwind(AssertUnwindSafe(|| drop(handle))).expect("it was not asked to panic");
}
