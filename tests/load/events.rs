//! Servers with events: an idle one never wakes up, and callbacks that wait delay no other client.

#![cfg(feature = "cli")]

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use support::{
    Frame, Process, RawPeer, ThreadlessClient, can_open_sockets, eventually, helper_process, ms,
    poll_clients, take_turn, watchdog,
};
use threadws::{Connection, Message};

#[test]
#[ignore = "takes 15 s: cargo test --test load events -- --ignored"]
fn an_idle_server_never_wakes_up() {
    let (_turn, _dog) = (take_turn(), watchdog(60));
    let server = Process::threadws(&["--events", "--echo", "--every", "0", "--log", "warn", "--ping", "0"]);
    let before = server.usage();
    let mut peers: Vec<_> = (0..100).map(|_| RawPeer::open(server.addr())).collect();
    for peer in &mut peers {
        peer.send_text("hello");
        peer.expect_text("hello");
    }
    // The threads of the handshakes end.
    eventually("as many threads as before", || server.usage().threads <= before.threads);
    std::thread::sleep(ms(100));
    let waits = server.thread_times().waits;
    std::thread::sleep(ms(10_000));
    assert_eq!(server.thread_times().waits, waits);
    server.stop();
}

/// A server with one worker. Its callback for "wait" waits until a client sends "open".
#[test]
fn run_as_helper_process() {
    if helper_process::role().is_none() {
        return;
    }
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let server = threadws::Server::bind("127.0.0.1:0").expect("a free port").workers(1);
    let open = move |_: &mut Connection| {
        let gate = Arc::clone(&gate);
        Ok(move |client: &mut Connection, message: Message| {
            let (is_open, opened) = &*gate;
            match message.as_text() {
                Some("wait") => {
                    client.send("waiting")?;
                    let is_open = is_open.lock().expect("no panic");
                    drop(opened.wait_while(is_open, |is_open| !*is_open).expect("no panic"));
                }
                Some("open") => {
                    *is_open.lock().expect("no panic") = true;
                    opened.notify_all();
                }
                _ => {}
            }
            Ok(client.send(message)?)
        })
    };
    helper_process::run(ms(5000), || server.spawn_events(open).expect("the settings work"));
}

/// All clients are ready while `blocked` callbacks wait.
fn all_are_served(blocked: usize, clients: usize, timeout: Duration) {
    let (_turn, _dog) = (take_turn(), watchdog(120));
    if !can_open_sockets(clients + blocked) {
        return;
    }
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut clients: Vec<_> =
        (0..clients).map(|_| ThreadlessClient::open(server.addr(), "/", None)).collect();
    let mut waiting: Vec<_> = (0..blocked).map(|_| RawPeer::open(server.addr())).collect();
    let start = Instant::now();
    for peer in &mut waiting {
        peer.send_text("wait");
    }
    for peer in &mut waiting {
        peer.expect_text("waiting");
    }
    for client in &mut clients {
        client.stream.write_all(&Frame::text("hello").encode()).expect("it has room");
    }
    let (all, echoes) = (clients.len(), AtomicUsize::new(0));
    let is_served = || echoes.load(Ordering::Relaxed) == all || start.elapsed() >= timeout;
    poll_clients(&mut clients, is_served, |_, _| {
        echoes.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(echoes.load(Ordering::Relaxed), all, "in {:?}", start.elapsed());
    clients[0].stream.write_all(&Frame::text("open").encode()).expect("it has room");
    for peer in &mut waiting {
        peer.expect_text("wait");
    }
    drop((clients, waiting));
    server.stop();
}

#[test]
fn a_thousand_blocked_callbacks_delay_no_other_client() {
    all_are_served(1000, 50, ms(10_000));
}

#[test]
#[ignore = "takes 10 s: cargo test --test load events -- --ignored"]
fn ten_thousand_are_ready_while_a_callback_waits() {
    all_are_served(1, 10_000, ms(10_000));
}
