//! `threadws --events`: each kind of answer, the ticks, the page, and what its log says. With `THREADWS_TEST_EVENTS=1` the
//! other tests of the binary run with it, too.

#![cfg(feature = "cli")]

use support::{Frame, Process, RawPeer, eventually, watchdog};

/// Starts `threadws --events` with further options.
#[track_caller]
fn start(options: &[&str]) -> Process {
    Process::threadws(&[&["--events"], options].concat())
}

#[test]
fn events_echo_each_message_as_the_same_kind() {
    let _dog = watchdog(30);
    // Without the log of messages they are echoed from where they were received.
    for quiet in [&["--echo", "--every", "0"][..], &["--echo", "--every", "0", "-q"]] {
        let server = start(quiet);
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("안녕");
        peer.send(&Frame::binary([0, 255]));
        peer.send_text("");
        peer.expect_text("안녕");
        peer.expect_binary(&[0, 255]);
        peer.expect_text("");
        peer.close(1000);
        server.stop();
    }
}

#[test]
fn events_broadcast_to_all_clients() {
    let _dog = watchdog(30);
    // Clients of other workers, too.
    let server = start(&["--broadcast", "--every", "0", "--workers", "2"]);
    let mut peers: Vec<_> = (0..4).map(|_| RawPeer::open(server.addr())).collect();
    eventually("all are in", || server.metric("threadws_connections_open") == 4);
    peers[0].send(&Frame::binary([1, 2, 3]));
    peers.iter_mut().for_each(|peer| peer.expect_binary(&[1, 2, 3]));
    server.stop();
}

#[test]
fn events_publish_to_the_room_of_the_client() {
    let _dog = watchdog(30);
    let server = start(&["--topics", "--every", "0", "--workers", "2"]);
    let mut peers =
        ["/room/7", "/room/7?a=b", "/room/8"].map(|path| RawPeer::open_at(server.addr(), path, &[]));
    eventually("all are in", || server.metric("threadws_connections_open") == 3);
    peers[0].send_text("seven");
    peers[2].send_text("eight");
    for (peer, text) in peers.iter_mut().zip(["seven", "seven", "eight"]) {
        peer.expect_text(text);
    }
    server.stop();
}

#[test]
fn events_answer_nothing_but_ticks_by_default() {
    let _dog = watchdog(30);
    let server = start(&["--every", "20ms", "--message", "tick"]);
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("hello");
    for _ in 0..5 {
        peer.expect_text("tick");
    }
    peer.close(1000);
    server.wait_for_line(&["client 1 sent text: hello"]);
    server.wait_for_line(&["client 1 disconnected after 0.", "s: received 1000"]);
    server.stop();
}

#[test]
fn events_serve_the_page_the_health_check_and_metrics() {
    let _dog = watchdog(30);
    let server = start(&["--every", "0", "-q"]);
    for (path, expected) in [("/", "<!doctype html>"), ("/healthz", "ok"), ("/metrics", "threadws_threads ")]
    {
        let mut peer = RawPeer::connect(server.addr());
        peer.write(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr()));
        let answer = peer.answer();
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.text().contains(expected), "{path}: {}", answer.text());
    }
    server.stop();
}

/// Returns the capacity that is logged, and its limit.
fn capacity(options: &[&str]) -> (usize, String) {
    // Root may have more threads than that.
    let server = Process::threadws_under(&["prlimit", "--nproc=5000:5000"], options);
    let line = server.wait_for_line(&["listening on", ", capacity "]);
    let (_, capacity) = line.split_once(", capacity ").expect("a capacity");
    let (clients, limit) = capacity.split_once(" clients (limited by ").expect("a number and a limit");
    (clients.parse().expect("a number"), limit.trim_end_matches(')').to_owned())
}

#[test]
fn the_capacity_with_events_counts_no_threads() {
    let _dog = watchdog(30);
    let (clients, limit) = capacity(&["--events"]);
    let of_threads = ["max_map_count", "threads-max", "pid_max", "NPROC", "pids.max"];
    assert!(!of_threads.iter().any(|name| limit.contains(name)), "{clients} clients, limited by {limit}");
    if !support::has_events() {
        assert!(clients >= capacity(&[]).0, "{clients} clients, limited by {limit}");
    }
    assert_eq!(capacity(&["--events", "--max-clients", "7"]), (7, "max_clients".to_owned()));
}

#[test]
fn each_worker_is_a_thread() {
    let _dog = watchdog(30);
    let [one, five] = ["1", "5"].map(|workers| {
        let server = start(&["--every", "0", "--workers", workers]);
        let threads = server.usage().threads;
        server.stop();
        threads
    });
    assert_eq!(five, one + 4);
}
