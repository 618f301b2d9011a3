//! A client that has gone, in whatever way, or that does nothing takes no processor time: no thread polls a descriptor
//! that stays ready.

#![cfg(feature = "cli")]

use std::time::Duration;
use support::frame::BINARY;
use support::{Frame, Process, RawPeer, header, helper_process, ms, watchdog};
use threadws::{Config, Server};

/// The number of clients of each kind. A thread that spins for each of them shows clearly.
const CLIENTS: usize = 4;
/// More than the kernel takes, which is some 4 MB.
const LARGE: usize = 6 << 20;
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn run_as_helper_process() {
    if helper_process::role().is_none() {
        return;
    }
    let config = Config::new().with_write_timeout(WRITE_TIMEOUT).with_close_timeout(Duration::from_secs(3));
    let server = Server::bind("127.0.0.1:0").expect("a port").config(config);
    helper_process::serve(server, Duration::from_secs(1), |client| {
        let (id, sender) = (client.id(), client.sender());
        while let Some(message) = client.recv()? {
            match message.as_text() {
                Some("fill") => {
                    while sender.try_send(vec![7; 64 << 10]).is_ok() {}
                    eprintln!("full: {id}");
                }
                Some("send") => {
                    eprintln!("sending: {id}");
                    client.send(vec![7; LARGE])?;
                }
                Some("leave") => {
                    eprintln!("leaving: {id}");
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    });
}

/// Opens some clients, sends each of them `text`, and waits for a log line of each.
fn clients(server: &Process, text: &str, line: &str) -> Vec<RawPeer> {
    let open = |_| {
        let mut peer = RawPeer::open(server.addr());
        if !text.is_empty() {
            peer.send_text(text);
        }
        peer
    };
    let peers = (0..CLIENTS).map(open).collect();
    server.wait_for_lines(&[line], CLIENTS);
    peers
}

/// Checks that a server without work takes no processor time, and that its threads do not wake up at short intervals.
#[track_caller]
fn rests(server: &Process) {
    // The earlier work is done.
    std::thread::sleep(ms(100));
    let before = server.thread_times();
    std::thread::sleep(ms(500));
    let now = server.thread_times();
    let load = now.load_since(&before);
    assert!(load < 0.02, "it takes {load:.3} of a processor: {:?}", now.since(&before));
    let waits = now.waits.saturating_sub(before.waits);
    assert!(waits < 5 * CLIENTS, "its threads woke up {waits} times");
}

/// The same, after all of these clients have ended in this way.
#[track_caller]
fn rests_when_they_ended(server: Process, how: &str) {
    server.expect_ends(CLIENTS, how);
    rests(&server);
    server.stop();
}

/// The same, before and after all of these clients have ended in any way.
#[track_caller]
fn rests_before_and_after_the_end(server: Process) {
    rests(&server);
    server.ends(CLIENTS);
    rests(&server);
    server.stop();
}

#[test]
fn no_load_after_a_fin_from_the_client() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "", " opened from ");
    peers.iter_mut().for_each(RawPeer::fin);
    rests_when_they_ended(server, "no Close either way: end of stream");
    drop(peers);
}

#[test]
fn no_load_after_a_reset() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    clients(&server, "", " opened from ").into_iter().for_each(RawPeer::reset);
    rests_when_they_ended(server, "no Close either way: connection reset");
}

#[test]
fn no_load_with_a_backlog_and_a_fin() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "fill", "full: ");
    rests(&server);
    peers.iter_mut().for_each(RawPeer::fin);
    rests_when_they_ended(server, "no Close either way: end of stream");
    drop(peers);
}

#[test]
fn no_load_after_a_reset_with_a_backlog() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    clients(&server, "fill", "full: ").into_iter().for_each(RawPeer::reset);
    server.expect_resets(CLIENTS);
    rests(&server);
    server.stop();
}

#[test]
fn no_load_while_a_writer_is_stuck() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let peers = clients(&server, "send", "sending: ");
    rests(&server);
    rests_when_they_ended(server, "write timed out");
    drop(peers);
}

#[test]
fn no_load_after_a_fin_with_a_stuck_writer() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "send", "sending: ");
    peers.iter_mut().for_each(RawPeer::fin);
    rests_before_and_after_the_end(server);
    drop(peers);
}

#[test]
fn no_load_inside_an_unfinished_frame() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "", " opened from ");
    let torn = [&header(0x80 | BINARY, Some([1, 2, 3, 4]), 1 << 20, 64)[..], &[7; 1000]].concat();
    peers.iter_mut().for_each(|peer| peer.write(&torn));
    rests(&server);
    peers.iter_mut().for_each(RawPeer::fin);
    rests_when_they_ended(server, "no Close either way: end of stream");
    drop(peers);
}

#[test]
fn no_load_while_a_close_is_unanswered() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let peers = clients(&server, "leave", "leaving: ");
    rests(&server);
    rests_when_they_ended(server, "sent 1000 (normal closure); no Close received");
    drop(peers);
}

#[test]
fn no_load_while_a_close_waits_behind_a_backlog() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "fill", "full: ");
    peers.iter_mut().for_each(|peer| peer.send_text("leave"));
    server.wait_for_lines(&["leaving: "], CLIENTS);
    rests_before_and_after_the_end(server);
    drop(peers);
}

#[test]
fn no_load_while_a_close_for_an_error_waits() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "fill", "full: ");
    // A fragmented control frame.
    peers.iter_mut().for_each(|peer| peer.write(header(0x08, Some([1, 2, 3, 4]), 0, 7)));
    rests_before_and_after_the_end(server);
    drop(peers);
}

#[test]
fn no_load_while_an_answer_waits_behind_a_backlog() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "fill", "full: ");
    peers.iter_mut().for_each(|peer| peer.send(&Frame::close(1000, "")));
    rests_before_and_after_the_end(server);
    drop(peers);
}

#[test]
fn no_load_while_the_fin_is_missing() {
    let _dog = watchdog(30);
    let server = helper_process::start(module_path!(), "server", &[]);
    let mut peers = clients(&server, "", " opened from ");
    for peer in &mut peers {
        peer.send(&Frame::close(1000, ""));
        peer.expect_close(1000);
    }
    rests(&server);
    rests_when_they_ended(server, "received 1000 (normal closure); then sent 1000");
    drop(peers);
}
