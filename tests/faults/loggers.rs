//! Parts of a program that are not handlers: its logger, and its callback for errors. Each test has a helper process.

#![cfg(feature = "cli")]

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use support::{
    Frame, PATIENCE, Process, RawPeer, echo, eventually, helper_process, program, spawn, watchdog,
};
use threadws::{Hub, Message, Server, ServerHandle, handshake::Response, stats::Meter};

/// Calls everything that can be called from any thread, for every client.
fn everything(hub: &Hub, meter: &Meter) {
    hub.broadcast("to all");
    hub.publish("topic", "to some");
    drop((hub.subscribers("topic"), hub.topics(), meter.stats()));
    for client in hub.clients() {
        let sender = client.sender();
        // A client that has gone gives an error, and no call waits for another client.
        drop((sender.send("to one"), sender.try_send("to one"), sender.ping(b"are you there?")));
        drop((client.sender().stats(), hub.get(client.id())));
    }
}

/// Closes every connection in one way or another, and stops the server.
fn the_end(hub: &Hub, handle: &OnceLock<ServerHandle>) {
    for client in hub.clients() {
        drop(client.sender().close(1001, "the end"));
        client.sender().terminate();
    }
    if let Some(handle) = handle.get() {
        // On a thread of the server it must not wait for itself. The timeout is longer than any other wait in this
        // test.
        handle.shutdown(PATIENCE * 10);
    }
}

/// A logger that always panics.
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

/// A logger that calls everything for each line, and counts the calls. At the end it stops the server.
#[derive(Default)]
struct Busybody {
    hub: OnceLock<(Hub, Meter)>,
    handle: OnceLock<ServerHandle>,
    calls: AtomicUsize,
    /// How many threads are inside the logger.
    inside: AtomicUsize,
    /// Whether the next line stops the server, and whether one has.
    enough: AtomicBool,
    ended: AtomicBool,
}

impl log::Log for Busybody {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        thread_local! {
            /// The calls of the logger are logged, too.
            static INSIDE: Cell<bool> = const { Cell::new(false) };
        }
        let Some((hub, meter)) = self.hub.get() else { return };
        if INSIDE.replace(true) {
            return;
        }
        self.inside.fetch_add(1, Ordering::SeqCst);
        everything(hub, meter);
        if self.enough.load(Ordering::SeqCst) {
            the_end(hub, &self.handle);
            everything(hub, meter);
            self.ended.store(true, Ordering::SeqCst);
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        INSIDE.set(false);
    }

    fn flush(&self) {}
}

static BUSYBODY: OnceLock<Busybody> = OnceLock::new();

/// Prints the address of the server, as the binary does. The harness has begun a line of its own.
fn announce(handle: &ServerHandle) {
    let address = handle.local_addr().expect("it listens");
    println!("\nthreadws listening on http://{address}/ (ws://{address}/)");
}

#[test]
fn run_as_helper_process() {
    match helper_process::role().as_deref() {
        None => {}
        Some("bad logger") => bad_logger(),
        Some("busy logger") => busy_logger(),
        Some("on_error") => on_error(),
        Some("on_error ends it") => on_error_ends_it(),
        Some(part) => panic!("{part}"),
    }
}

fn bad_logger() {
    // Its thousands of lines are not needed.
    std::panic::set_hook(Box::new(|_| {}));
    log::set_logger(&FUSE).expect("the first");
    log::set_max_level(log::LevelFilter::Trace);
    let server = Server::bind("127.0.0.1:0").expect("a port").max_clients(4);
    let server =
        server.serve_http(|_| Response::new(FUSE.0.load(Ordering::Relaxed).to_string().into_bytes()));
    let server =
        server.on_subscribe(|_, _, _| panic!("in a hook")).on_handshake_error(|_| panic!("in a callback"));
    helper_process::serve(server, Duration::from_secs(2), |client| {
        client.every(Duration::from_millis(20), "tick");
        client.subscribe("topic")?;
        while let Some(message) = client.recv()? {
            match message.as_text() {
                Some("tick") => {
                    drop(client.after_with(Duration::ZERO, || -> Option<&str> { panic!("in a tick") }))
                }
                Some("panic") => panic!("in a handler"),
                Some("fail") => return Err("a handler's error".into()),
                _ => client.send(message)?,
            }
        }
        Ok(())
    })
}

fn busy_logger() {
    let busybody = BUSYBODY.get_or_init(Busybody::default);
    log::set_logger(busybody).expect("the first");
    log::set_max_level(log::LevelFilter::Trace);
    let server = Server::bind("127.0.0.1:0").expect("a port").max_clients(4);
    drop(busybody.hub.set((server.hub().clone(), server.meter())));
    let server =
        server.serve_http(|_| Response::new(busybody.calls.load(Ordering::SeqCst).to_string().into_bytes()));
    let handle = spawn(server, |client| {
        client.subscribe("topic")?;
        while let Some(message) = client.recv()? {
            match message.as_text() {
                Some("enough") => {
                    busybody.enough.store(true, Ordering::SeqCst);
                    return Err("a line for the log".into());
                }
                Some("fail") => return Err("a handler's error".into()),
                _ => client.send(message)?,
            }
        }
        Ok(())
    });
    drop(busybody.handle.set(handle.expect("the settings work")));
    let handle = busybody.handle.get().expect("it was set");
    announce(handle);
    while !busybody.enough.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(10));
    }
    eventually("a line has ended it all", || busybody.ended.load(Ordering::SeqCst));
    eventually("all are gone, and no line hangs", || {
        handle.hub().count() == 0 && busybody.inside.load(Ordering::SeqCst) == 0
    });
    std::process::exit(0)
}

fn on_error() {
    let called = Arc::new(AtomicBool::new(false));
    let server = Server::bind("127.0.0.1:0").expect("a port");
    let (hub, meter, call) = (server.hub().clone(), server.meter(), Arc::clone(&called));
    let server = server.on_error(move |_| {
        everything(&hub, &meter);
        call.store(true, Ordering::Relaxed);
        panic!("in on_error");
    });
    helper_process::serve(server, Duration::from_secs(2), move |client| {
        client.send(Message::from(called.load(Ordering::Relaxed).to_string()))?;
        echo(client)
    })
}

fn on_error_ends_it() {
    static HANDLE: OnceLock<ServerHandle> = OnceLock::new();
    let (tx, rx) = mpsc::channel();
    let server = Server::bind("127.0.0.1:0").expect("a port");
    let (hub, meter) = (server.hub().clone(), server.meter());
    let server = server.on_error(move |_| {
        everything(&hub, &meter);
        the_end(&hub, &HANDLE);
        everything(&hub, &meter);
        tx.send(()).unwrap_or(());
    });
    let handle = HANDLE.get_or_init(|| spawn(server, echo).expect("the settings work"));
    announce(handle);
    rx.recv().expect("the callback returns");
    eventually("all are gone", || handle.hub().count() == 0);
    std::process::exit(0)
}

/// Opens a connection as soon as there is a place.
#[track_caller]
fn enter(addr: SocketAddr) -> RawPeer {
    asks(addr, &[], 101)
}

/// Requests a WebSocket until there is a place, and expects this status.
#[track_caller]
fn asks(addr: SocketAddr, headers: &[(&str, &str)], status: u16) -> RawPeer {
    let mut answered = None;
    eventually("there is a place", || {
        let mut peer = RawPeer::connect(addr);
        peer.ask("/", headers);
        match peer.try_answer() {
            Ok(Some(answer)) if answer.status != 503 => {
                assert_eq!(answer.status, status, "{}", answer.head);
                answered = Some(peer);
            }
            _ => {}
        }
        answered.is_some()
    });
    answered.expect("it was answered")
}

/// Returns the server's answer to a plain GET, which is a number.
#[track_caller]
fn number(addr: SocketAddr) -> usize {
    let mut number = None;
    eventually("it answers a number", || {
        let mut peer = RawPeer::connect(addr);
        peer.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = peer.answer();
        number = (answer.status == 200).then(|| answer.text().parse().expect("a number"));
        number.is_some()
    });
    number.expect("it was called")
}

#[test]
fn a_panicking_logger_ends_no_thread() {
    let _dog = watchdog(60);
    let server = helper_process::start(module_path!(), "bad logger", &[]);
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
        // A handshake that fails, one that vanishes, and more clients than there are places.
        asks(addr, &[("Sec-WebSocket-Version", "8")], 426).expect_eof();
        RawPeer::connect(addr).reset();
        let _four: Vec<_> = (0..4).map(|_| enter(addr)).collect();
        let mut fifth = RawPeer::connect(addr);
        fifth.ask("/", &[]);
        fifth.expect_refusal(503);
    }
    let panics = number(addr);
    assert!(panics > 50, "the logger panicked {panics} times only");
    server.stop();
}

#[test]
fn a_logger_may_call_everything_and_stop_the_server() {
    let _dog = watchdog(60);
    let mut server = helper_process::start(module_path!(), "busy logger", &[]);
    let addr = server.addr();
    let mut stays = enter(addr);
    for _ in 0..3 {
        let mut peer = enter(addr);
        peer.send_text("fail");
        peer.expect_close_at_last(&[1011]);
        peer.send(&Frame::close(1011, ""));
        peer.expect_eof();
        asks(addr, &[("Sec-WebSocket-Version", "8")], 426).expect_eof();
        RawPeer::connect(addr).reset();
        // The client that stays receives it.
        while stays.message().as_text() != "to all" {}
    }
    let calls = number(addr);
    assert!(calls > 10, "the logger was called {calls} times only");
    stays.send_text("enough");
    stays.expect_gone();
    server.wait_for_success(PATIENCE * 2);
}

/// Starts the server with this role. Its accept fails at the second client.
fn out_of_descriptors(part: &str) -> Option<Process> {
    let strace = program("strace")?;
    let inject = "inject=accept4:error=EMFILE:when=2..4";
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
    Some(helper_process::start(module_path!(), part, &wrapper.each_ref().map(String::as_str)))
}

#[test]
fn on_error_may_call_everything_and_panic() {
    let _dog = watchdog(60);
    let Some(server) = out_of_descriptors("on_error") else { return };
    let mut first = RawPeer::open(server.addr());
    first.message();
    let mut others = Vec::new();
    eventually("the callback is called", || {
        let mut peer = RawPeer::open(server.addr());
        let was_called = peer.message().as_text() == "true";
        others.push(peer);
        was_called
    });
    first.expect_text("to all");
    server.signal(rustix::process::Signal::TERM);
    first.expect_close_at_last(&[1001]);
}

#[test]
fn on_error_may_close_all_clients_and_stop_the_server() {
    let _dog = watchdog(60);
    let Some(mut server) = out_of_descriptors("on_error ends it") else { return };
    let mut first = RawPeer::open(server.addr());
    first.send_text("in");
    first.expect_text("in");
    let _second = RawPeer::connect(server.addr());
    first.expect_gone();
    server.wait_for_success(PATIENCE * 2);
}
