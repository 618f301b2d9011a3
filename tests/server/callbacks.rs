//! Callbacks of the program: they may call every method of the crate, block and panic.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock, mpsc};
use support::{
    Frame, PATIENCE, RawPeer, TestServer, eventually, ms, next, reached, upgrade_request, watchdog,
};
use threadws::{Config, Hub, ServerHandle, handshake::Response, hub::Client, stats::Meter};

/// Calls everything that can be called from any thread, for every client.
fn everything(hub: &Hub, meter: &Meter) {
    hub.broadcast("to all");
    hub.publish("topic", "to some");
    // Other clients join and leave meanwhile, so two calls may differ. The result of one call has to be consistent.
    assert!(hub.topics().iter().all(|(topic, members)| topic == "topic" && *members > 0));
    assert!(hub.subscribers("topic").is_sorted_by_key(Client::id));
    meter.stats();
    for client in hub.clients() {
        let sender = client.sender();
        // A client that has gone gives an error, and no call waits for another client.
        drop((sender.send("to one"), sender.try_send("to one"), sender.ping(b"are you there?")));
        client.sender().stats();
        assert!(sender.stats().backlog <= (1 << 20) && sender.id() == client.id());
        assert!(hub.get(client.id()).is_none_or(|found| found.id() == client.id()));
    }
}

/// The same. In addition it closes every connection in one way or another, and stops the server.
fn everything_and_the_end(hub: &Hub, meter: &Meter, handle: &OnceLock<ServerHandle>) {
    everything(hub, meter);
    for client in hub.clients() {
        drop(client.sender().close(1001, "the end"));
        client.sender().terminate();
    }
    if let Some(handle) = handle.get() {
        // On a thread of the server it must not wait for itself. The timeout is longer than any other wait in this
        // test.
        handle.shutdown(PATIENCE * 10);
    }
    everything(hub, meter);
}

const PLACES: [&str; 11] = [
    "check_request",
    "on_open",
    "serve_http",
    "on_handshake_error",
    "on_subscribe",
    "on_unsubscribe",
    "handler",
    "tick",
    "after close",
    "on_close",
    "drop",
];

/// Starts a server that calls `action` in one of its callbacks, and reports when `action` has returned.
fn server_that_acts_in(
    place: &'static str,
    action: impl Fn(&Hub, &Meter) + Send + Sync + 'static,
) -> (TestServer, mpsc::Receiver<()>) {
    /// Acts when it is dropped, as the local variables of a handler are at its end.
    struct AtTheEnd<F: Fn()>(F);
    impl<F: Fn()> Drop for AtTheEnd<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let (tx, rx) = mpsc::channel();
    let shared = Arc::new((OnceLock::<(Hub, Meter)>::new(), action));
    let act: Arc<dyn Fn(&str) + Send + Sync> = Arc::new({
        let shared = Arc::clone(&shared);
        move |here| {
            if here == place {
                let (hub, meter) = shared.0.get().expect("set before the first client");
                (shared.1)(hub, meter);
                tx.send(()).unwrap_or(());
            }
        }
    });
    let acts = || Arc::clone(&act);
    let (request, http, error, open) = (acts(), acts(), acts(), acts());
    let (close, join, leave) = (acts(), acts(), acts());
    let server = TestServer::with(
        |server| {
            drop(shared.0.set((server.hub().clone(), server.meter())));
            let config = Config::new().with_close_timeout(ms(500));
            server
                .config(config)
                .check_request(move |_, _| {
                    request("check_request");
                    Ok(())
                })
                .serve_http(move |_| {
                    http("serve_http");
                    Response::new(b"ok".to_vec())
                })
                .on_handshake_error(move |_| error("on_handshake_error"))
                .on_open(move |_| open("on_open"))
                .on_close(move |_, _, _| close("on_close"))
                .on_subscribe(move |_, _, _| join("on_subscribe"))
                .on_unsubscribe(move |_, _, _| leave("on_unsubscribe"))
        },
        move |client| {
            let (tick, dropped) = (Arc::clone(&act), Arc::clone(&act));
            client.after_with(ms(50), move || {
                tick("tick");
                None::<&str>
            });
            let _end = AtTheEnd(move || dropped("drop"));
            client.subscribe("topic")?;
            act("handler");
            drop(client.recv());
            drop(client.close(1000, ""));
            act("after close");
            Ok(())
        },
    );
    (server, rx)
}

/// Triggers every callback, until the one at `place` has acted. Any end of these clients is accepted, because the
/// server may stop meanwhile.
#[track_caller]
fn visit(addr: SocketAddr, place: &str, rx: &mpsc::Receiver<()>) {
    let connect = || TcpStream::connect(addr).ok().map(|stream| RawPeer::from_stream(stream, addr));
    let head = "GET / HTTP/1.1\r\nHost: x\r\n";
    for request in [format!("{head}\r\n"), format!("{head}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")]
    {
        if let Some(mut peer) = connect() {
            drop(peer.try_write(request.as_bytes()));
            drop(peer.try_answer());
        }
    }
    if let Some(mut peer) = connect() {
        drop(peer.try_write(upgrade_request(addr, "/", &[]).as_bytes()));
        drop(peer.try_answer());
        // Ticks come as long as the client is connected.
        if place == "tick" {
            return next(rx, place);
        }
        drop(peer.try_write(&Frame::text("on").encode()));
        drop(peer.try_write(&Frame::close(1000, "").encode()));
        peer.fin();
    }
    next(rx, place);
}

#[test]
fn everything_may_be_called_from_every_callback() {
    for place in PLACES {
        let _dog = watchdog(30);
        let (server, rx) = server_that_acts_in(place, everything);
        visit(server.addr(), place, &rx);
        // It can act again.
        visit(server.addr(), place, &rx);
        eventually("all have left", || server.hub().count() == 0);
        drop(server);
    }
}

#[test]
fn every_callback_may_close_all_clients_and_stop_the_server() {
    for place in PLACES {
        let _dog = watchdog(30);
        let handle: Arc<OnceLock<ServerHandle>> = Arc::default();
        let inside = Arc::clone(&handle);
        let (server, rx) =
            server_that_acts_in(place, move |hub, meter| everything_and_the_end(hub, meter, &inside));
        let addr = server.addr();
        let _stays = RawPeer::connect(addr);
        // The handle is set before the first client can trigger a callback.
        let visitor = {
            let server = server.into_handle();
            handle.set(server).expect("once");
            Arc::clone(&handle)
        };
        visit(addr, place, &rx);
        let handle = visitor.get().expect("it was set");
        eventually("it is empty", || handle.hub().count() == 0);
        let gone = || TcpStream::connect_timeout(&addr, ms(1000)).is_err();
        eventually("it accepts no more", gone);
    }
}

#[test]
fn a_slow_peer_may_be_closed_from_every_callback() {
    // In `on_open` the client that does not read would flood itself, before its 101.
    for place in PLACES.into_iter().filter(|place| *place != "on_open") {
        let _dog = watchdog(60);
        // Far more than a socket and a backlog hold. A client that does not read is closed, even if its own handler
        // floods it.
        let flood = |hub: &Hub, meter: &Meter| {
            let message = vec![7; 64 << 10];
            for _ in 0..300 {
                let delivery = hub.broadcast(&*message);
                if reached(delivery) == 0 || meter.stats().slow_peers_closed > 0 {
                    break;
                }
            }
            // `everything` is not used here, because a `send` to a client whose backlog is nearly full waits, as it
            // should.
            drop((hub.subscribers("topic"), hub.topics(), hub.clients()));
        };
        let (server, rx) = server_that_acts_in(place, flood);
        let stuck = RawPeer::open(server.addr());
        eventually("it is in", || server.stats().opened == 1);
        visit(server.addr(), place, &rx);
        eventually("a slow peer is disconnected", || server.stats().slow_peers_closed > 0);
        drop(stuck);
        eventually("all have left", || server.hub().count() == 0);
    }
}

/// Needs several KiB of stack for each level, as a debug build of a parser does for a struct with many fields.
fn recurse(depth: u8) -> usize {
    let frame = std::hint::black_box([depth; 2 << 10]);
    let deeper = if depth == 0 { 0 } else { recurse(depth - 1) };
    deeper + usize::from(frame[usize::from(depth)])
}

/// An overflow would end this process.
#[test]
fn recursive_json_fits_the_stack_of_handlers_and_ticks() {
    let _dog = watchdog(30);
    const DEPTH: u8 = 127; // the most that serde_json accepts
    let parse = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).expect("valid JSON");
        std::hint::black_box(recurse(DEPTH));
        format!("{:?}", value.clone()).len()
    };
    let server = TestServer::new(move |client| {
        while let Some(message) = client.recv()? {
            let text = message.to_string();
            client.send(parse(&text).to_string())?;
            client.after_with(ms(1), move || Some(parse(&text).to_string()));
        }
        Ok(())
    });
    let text = "[".repeat(DEPTH.into()) + &"]".repeat(DEPTH.into());
    let mut peer = RawPeer::open(server.addr());
    peer.send_text(&text);
    assert!(peer.message().as_text().parse::<usize>().is_ok());
    assert!(peer.message().as_text().parse::<usize>().is_ok());
    peer.close(1000);
}

#[test]
fn a_handler_that_never_returns_blocks_only_its_client() {
    let _dog = watchdog(60);
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = TestServer::new(move |client| {
        while let Some(message) = client.recv()? {
            if message.as_text() == Some("block") {
                assert!(wait.lock().expect("one alone").recv().is_err(), "nothing is ever sent");
            }
            client.send(message)?;
        }
        Ok(())
    });
    let mut blocked = RawPeer::open(server.addr());
    blocked.send_text("block");
    let mut others: Vec<_> = (0..20).map(|_| RawPeer::open(server.addr())).collect();
    eventually("all are in", || server.hub().count() == 21);
    for round in 0..10 {
        let text = format!("round {round}");
        others.iter_mut().for_each(|peer| peer.send_text(&text));
        others.iter_mut().for_each(|peer| peer.expect_text(&text));
        server.hub().broadcast_except(0, "news");
        others.iter_mut().for_each(|peer| peer.expect_text("news"));
        blocked.expect_text("news"); // messages of other clients arrive too
    }
    let handle = server.into_handle();
    let leave = std::thread::spawn(move || {
        for peer in &mut others {
            peer.expect_close(1001);
            peer.send(&Frame::close(1001, ""));
            peer.expect_eof();
        }
    });
    let report = handle.shutdown(ms(2000));
    assert_eq!((report.closed, report.abandoned.len()), (20, 1), "{report}");
    leave.join().expect("all others left in good order");
    blocked.expect_close_at_last(&[1001]);
    blocked.expect_gone();
    drop(release);
}
