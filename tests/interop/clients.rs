//! Other clients talk to the real binary: npm's `ws` and Python's `websockets`.
#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::process::Command;
use support::{Frame, PATIENCE, Process, RawPeer, programs, watchdog};

/// Makes a command of a mode and its arguments. Returns `None` if the client is missing.
type Client = fn(&[&str]) -> Option<Command>;

fn ws(arguments: &[&str]) -> Option<Command> {
    programs::node("client.mjs", arguments)
}

fn websockets(arguments: &[&str]) -> Option<Command> {
    programs::python("client.py", arguments)
}

/// Text, binary, 1 MiB, pings, and a close code of the client's own.
fn talks(client: Client) {
    let _dog = watchdog(120);
    let server = Process::threadws(&["--echo", "--every", "0"]);
    let Some(command) = client(&["talk", &server.url()]) else { return };
    let mut client = Process::spawn(command);
    client.wait_for_success(PATIENCE * 2);
    server.wait_for_line(&["connected from 127.0.0.1"]);
    server.wait_for_line(&["hello from the client"]);
    server.wait_for_line(&["disconnected", "received 4001 (private use) \"done\""]);
    server.stop();
}

/// The same over TLS, and the close codes.
#[cfg(feature = "tls")]
fn talks_over_tls(client: Client) {
    use support::certificate;
    let _dog = watchdog(180);
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    let server = Process::threadws(&["--echo", "--every", "0", "--cert", &cert, "--key", &key]);
    let url = format!("wss://localhost:{}/", server.addr().port());
    for (mode, logged) in [
        ("talk", "received 4001 (private use) \"done\""),
        ("big", "1009 (message too big)"),
        ("close", "received 1000 (normal closure)"),
        ("bare", "without a code"),
    ] {
        let Some(mut command) = client(&[mode, &url]) else { return };
        command.env("THREADWS_CA", certificate("ca.pem"));
        Process::spawn(command).wait_for_success(PATIENCE * 2);
        server.wait_for_line(&["disconnected", logged]);
    }
    server.stop();
}

/// A tick every 300 ms, with the interval measured by the client.
fn is_sent_ticks(client: Client) {
    let _dog = watchdog(120);
    let server = Process::threadws(&["--every", "300ms", "--message", "\u{c11c}\u{bc84} tick"]);
    // One of three attempts has to succeed, because a machine may stall for a moment, and a faulty interval fails each
    // time.
    let in_time = (0..3).any(|_| {
        let Some(command) = client(&["ticks", &server.url(), "5", "300", "\u{c11c}\u{bc84} tick"]) else {
            return true;
        };
        let mut client = Process::spawn(command);
        let status = client.wait(PATIENCE * 2);
        println!("{status}: {:#?}", client.log());
        status.success()
    });
    assert!(in_time, "three times out of three");
    server.stop();
}

/// The address comes from the header of a proxy.
fn is_logged_with_its_address(client: Client) {
    let _dog = watchdog(120);
    let server = Process::threadws(&["--echo", "--every", "0"]);
    let Some(command) = client(&["talk", &server.url(), "203.0.113.9"]) else { return };
    let mut client = Process::spawn(command);
    client.wait_for_success(PATIENCE * 2);
    server.wait_for_line(&["connected from 203.0.113.9 via 127.0.0.1"]);
    server.stop();
}

/// 1001 from a server that stops, 1009 for a message that is too big, 1000 and no code from the client.
fn sees_close_codes(client: Client) {
    let _dog = watchdog(180);
    let mut server = Process::threadws(&["--echo", "--every", "0"]);
    for (mode, logged) in [
        ("big", "1009 (message too big)"),
        ("close", "received 1000 (normal closure)"),
        ("bare", "without a code"),
    ] {
        let Some(command) = client(&[mode, &server.url()]) else { return };
        Process::spawn(command).wait_for_success(PATIENCE * 2);
        server.wait_for_line(&["disconnected", logged]);
    }
    let Some(command) = client(&["wait", &server.url()]) else { return };
    let mut client = Process::spawn(command);
    client.wait_for_stdout("open");
    server.signal(Signal::TERM);
    client.wait_for_success(PATIENCE * 2);
    client.wait_for_stdout("closed 1001");
    server.wait_for_success(PATIENCE);
}

/// One client hears the message of the other, and a peer that breaks the rules disturbs neither.
fn receives_a_broadcast(client: Client) {
    let _dog = watchdog(120);
    let server = Process::threadws(&["--broadcast", "--every", "0"]);
    let Some(command) = client(&["hear", &server.url(), "from the other one"]) else { return };
    let mut client = Process::spawn(command);
    client.wait_for_stdout("open");
    let mut rude = RawPeer::open(server.addr());
    rude.send(&Frame::text("x").unmasked());
    rude.expect_close(1002);
    let mut other = RawPeer::open(server.addr());
    other.send_text("from the other one");
    client.wait_for_success(PATIENCE * 2);
    assert_eq!(other.message().as_text(), "from the other one");
    other.close(1000);
    server.stop();
}

macro_rules! with {
    ($client:ident) => {
        mod $client {
            #[test]
            #[ignore = "installs packages from the internet"]
            fn talks() {
                super::talks(super::$client);
            }
            #[test]
            #[cfg(feature = "tls")]
            #[ignore = "installs packages from the internet"]
            fn talks_over_tls() {
                super::talks_over_tls(super::$client);
            }
            #[test]
            #[ignore = "installs packages from the internet"]
            fn receives_ticks() {
                super::is_sent_ticks(super::$client);
            }
            #[test]
            #[ignore = "installs packages from the internet"]
            fn is_logged_with_its_address() {
                super::is_logged_with_its_address(super::$client);
            }
            #[test]
            #[ignore = "installs packages from the internet"]
            fn sees_close_codes_in_both_directions() {
                super::sees_close_codes(super::$client);
            }
            #[test]
            #[ignore = "installs packages from the internet"]
            fn receives_a_broadcast() {
                super::receives_a_broadcast(super::$client);
            }
        }
    };
}

with!(ws);
with!(websockets);
