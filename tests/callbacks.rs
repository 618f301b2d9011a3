//! What a program does in its callbacks is its own affair: it may call everything from everywhere, block and panic.

#![cfg(feature = "cli")]

mod common;

use common::{
    Frame, PATIENCE, RawPeer, TestServer, child, echo, eventually, ms, next, program, upgrade_request,
    watchdog,
};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};
use threadws::{Config, Hub, Message, Response, Server, ServerHandle};

/// Calls everything that can be called from anywhere, about everybody.
fn everything(hub: &Hub) {
    hub.broadcast("to all");
    hub.publish("topic", "to some");
    assert_eq!(hub.members("topic").len(), hub.topics().first().map_or(0, |(_, members)| *members));
    hub.stats();
    for client in hub.clients() {
        let sender = client.sender();
        // Who is gone says so; nobody waits for anybody else.
        drop((sender.send("to one"), sender.try_send("to one"), sender.ping(b"are you there?")));
        client.stats();
        assert!(sender.backlog() <= (1 << 20) && sender.id() == client.id());
        assert!(hub.get(client.id()).is_none_or(|found| found.id() == client.id()));
    }
}

/// The same, and everybody is sent away, one way or the other, and the server stopped.
fn everything_and_the_end(hub: &Hub, handle: &OnceLock<ServerHandle>) {
    everything(hub);
    for client in hub.clients() {
        drop(client.sender().close(1001, "the end"));
        client.sender().terminate();
    }
    if let Some(handle) = handle.get() {
        // On a thread of the server's own it must not wait for itself.
        handle.shutdown(PATIENCE);
    }
    everything(hub);
}

const PLACES: [&str; 9] = [
    "on_request",
    "on_http",
    "on_handshake_error",
    "on_join",
    "on_leave",
    "handler",
    "tick",
    "after close",
    "drop",
];

/// A server that calls `action` in one of its callbacks, and tells when that is over.
fn server_that_acts_in(
    place: &'static str,
    action: impl Fn(&Hub) + Send + Sync + 'static,
) -> (TestServer, mpsc::Receiver<()>) {
    /// Acts when it is dropped: as a handler's locals are, at its end.
    struct AtTheEnd<F: Fn()>(F);
    impl<F: Fn()> Drop for AtTheEnd<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let (tell, told) = mpsc::channel();
    let hub = OnceLock::new();
    let shared = Arc::new((hub, action));
    let act: Arc<dyn Fn(&str) + Send + Sync> = Arc::new({
        let shared = Arc::clone(&shared);
        move |here| {
            if here == place {
                (shared.1)(shared.0.get().expect("set before anybody comes"));
                tell.send(()).unwrap_or(());
            }
        }
    });
    let acts = || Arc::clone(&act);
    let (request, http, error, join, leave) = (acts(), acts(), acts(), acts(), acts());
    let server = TestServer::with(
        |server| {
            shared.0.set(server.hub().clone()).expect("once");
            let config = Config::new().close_timeout(ms(500));
            server
                .config(config)
                .on_request(move |_, _| {
                    request("on_request");
                    Ok(())
                })
                .on_http(move |_| {
                    http("on_http");
                    Response::new(b"ok".to_vec())
                })
                .on_handshake_error(move |_| error("on_handshake_error"))
                .on_join(move |_, _| join("on_join"))
                .on_leave(move |_, _| leave("on_leave"))
        },
        move |client| {
            let (tick, dropped) = (Arc::clone(&act), Arc::clone(&act));
            client.after_with(ms(50), move || {
                tick("tick");
                None
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
    (server, told)
}

/// Makes every callback happen. Whatever becomes of these clients is no failure: the server may stop meanwhile.
fn visit(addr: SocketAddr) {
    let connect = || TcpStream::connect(addr).ok().map(|stream| RawPeer::from_stream(stream, addr));
    let head = "GET / HTTP/1.1\r\nHost: x\r\n";
    for request in [format!("{head}\r\n"), format!("{head}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")]
    {
        if let Some(mut peer) = connect() {
            drop(peer.try_write(request.as_bytes()));
            drop(peer.try_answer());
        }
    }
    let Some(mut peer) = connect() else { return };
    drop(peer.try_write(upgrade_request(addr, "/", &[]).as_bytes()));
    drop(peer.try_answer());
    std::thread::sleep(ms(150)); // the tick
    drop(peer.try_write(&Frame::text("on").encode()));
    drop(peer.try_write(&Frame::close(1000, "").encode()));
    peer.fin();
}

#[test]
fn everything_may_be_called_from_every_callback() {
    for place in PLACES {
        let _dog = watchdog(30);
        let (server, told) = server_that_acts_in(place, everything);
        visit(server.addr());
        next(&told, place);
        // It can do it again.
        visit(server.addr());
        next(&told, place);
        eventually("all have left", || server.clients().is_empty());
        drop(server);
    }
}

#[test]
fn everybody_may_be_sent_away_and_the_server_stopped_from_every_callback() {
    for place in PLACES {
        let _dog = watchdog(30);
        let handle: Arc<OnceLock<ServerHandle>> = Arc::default();
        let inside = Arc::clone(&handle);
        let (server, told) = server_that_acts_in(place, move |hub| everything_and_the_end(hub, &inside));
        let addr = server.addr();
        let _stays = RawPeer::connect(addr);
        // The handle is inside before anybody comes who makes a callback happen.
        let visitor = {
            let server = server.into_handle();
            handle.set(server).expect("once");
            Arc::clone(&handle)
        };
        let start = Instant::now();
        visit(addr);
        next(&told, place);
        assert!(start.elapsed() < PATIENCE, "{place}: it waited for itself, {:?}", start.elapsed());
        let handle = visitor.get().expect("it was set");
        eventually("it is empty", || handle.clients().is_empty());
        let gone = || TcpStream::connect_timeout(&addr, ms(1000)).is_err();
        eventually("it accepts no more", gone);
    }
}

#[test]
fn a_handler_that_never_returns_keeps_its_own_client_and_nobody_else() {
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
    for round in 0..10 {
        let text = format!("round {round}");
        others.iter_mut().for_each(|peer| peer.send_text(&text));
        others.iter_mut().for_each(|peer| peer.expect_text(&text));
        server.hub().broadcast_except(0, "news");
        others.iter_mut().for_each(|peer| peer.expect_text("news"));
        blocked.expect_text("news"); // what others send reaches it, too
    }
    let handle = server.into_handle();
    let report = handle.shutdown(ms(300));
    assert_eq!(report.abandoned().len(), 1, "{report}");
    blocked.expect_close_at_last(&[1001]);
    blocked.expect_gone();
    drop(release);
}

/// A logger that panics whatever it is told.
struct Fuse(AtomicUsize);

impl log::Log for Fuse {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("the logger's own fault");
    }

    fn flush(&self) {}
}

static FUSE: Fuse = Fuse(AtomicUsize::new(0));

#[test]
fn a_server_for_the_others() {
    match child::part().as_deref() {
        None => {}
        Some("bad logger") => {
            // Nobody needs its thousands of lines.
            std::panic::set_hook(Box::new(|_| {}));
            log::set_logger(&FUSE).expect("the first");
            log::set_max_level(log::LevelFilter::Trace);
            let server = Server::bind("127.0.0.1:0").expect("a port").max_clients(4);
            let server =
                server.on_http(|_| Response::new(FUSE.0.load(Ordering::Relaxed).to_string().into_bytes()));
            let server =
                server.on_join(|_, _| panic!("in a hook")).on_handshake_error(|_| panic!("in a callback"));
            child::serve(server, Duration::from_secs(2), |client| {
                client.every(Duration::from_millis(20), "tick");
                client.subscribe("topic")?;
                while let Some(message) = client.recv()? {
                    match message.as_text() {
                        Some("tick") => drop(client.after_with(Duration::ZERO, || panic!("in a tick"))),
                        Some("panic") => panic!("in a handler"),
                        Some("fail") => return Err("a handler's error".into()),
                        _ => client.send(message)?,
                    }
                }
                Ok(())
            })
        }
        Some("on_error") => {
            let told = Arc::new(AtomicBool::new(false));
            let server = Server::bind("127.0.0.1:0").expect("a port");
            let (hub, tell) = (server.hub().clone(), Arc::clone(&told));
            let server = server.on_error(move |_| {
                everything(&hub);
                tell.store(true, Ordering::Relaxed);
                panic!("in on_error");
            });
            child::serve(server, Duration::from_secs(2), move |client| {
                client.send(Message::from(told.load(Ordering::Relaxed).to_string()))?;
                echo(client)
            })
        }
        Some(part) => panic!("{part}"),
    }
}

/// Opens a connection as soon as there is a place.
#[track_caller]
fn enter(addr: SocketAddr) -> RawPeer {
    let mut inside = None;
    eventually("there is a place", || {
        let mut peer = RawPeer::connect(addr);
        peer.ask("/", &[]);
        if peer.try_answer().is_ok_and(|answer| answer.is_some_and(|answer| answer.status == 101)) {
            inside = Some(peer);
        }
        inside.is_some()
    });
    inside.expect("it was let in")
}

#[test]
fn a_logger_that_panics_ends_no_thread_of_the_servers() {
    let _dog = watchdog(60);
    let server = child::start("bad logger", &[]);
    let addr = server.addr();
    for _ in 0..5 {
        for word in ["tick", "fail", "panic"] {
            let mut peer = enter(addr);
            peer.expect_text("tick"); // from the timer
            peer.send_text(word);
            if word == "tick" {
                peer.send_text(word);
                while peer.message().as_text() != "tick" {}
            } else {
                peer.expect_close_at_last(&[1011]);
                peer.send(&Frame::close(1011, ""));
            }
            peer.fin();
            peer.expect_gone();
        }
        // A handshake that fails, one that vanishes, and more than there are places for.
        let mut peer = RawPeer::connect(addr);
        peer.ask("/", &[("Sec-WebSocket-Version", "8")]);
        peer.expect_refusal(426);
        RawPeer::connect(addr).reset();
        let _four: Vec<_> = (0..4).map(|_| enter(addr)).collect();
        let mut fifth = RawPeer::connect(addr);
        fifth.ask("/", &[]);
        fifth.expect_refusal(503);
    }
    let mut panics = 0;
    eventually("it tells how often the logger panicked", || {
        let mut peer = RawPeer::connect(addr);
        peer.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = peer.answer();
        panics = answer.text().parse().unwrap_or(0);
        answer.status == 200
    });
    assert!(panics > 50, "the logger panicked {panics} times only");
    server.stop();
}

#[test]
fn a_callback_that_is_told_of_an_error_may_call_everything_and_panic() {
    let _dog = watchdog(60);
    let Some(strace) = program("strace") else { return };
    let inject = "inject=accept4:error=EMFILE:when=4..6";
    let wrapper = [
        &*strace.to_string_lossy(),
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=accept4",
        "-e",
        inject,
    ]
    .map(str::to_owned);
    let server = child::start("on_error", &wrapper.each_ref().map(String::as_str));
    let mut first = RawPeer::open(server.addr());
    first.message();
    let mut others = Vec::new();
    eventually("the callback is called", || {
        let mut peer = RawPeer::open(server.addr());
        let told = peer.message().as_text() == "true";
        others.push(peer);
        told
    });
    first.expect_text("to all");
    server.signal(rustix::process::Signal::TERM);
    first.expect_close_at_last(&[1001]);
}
