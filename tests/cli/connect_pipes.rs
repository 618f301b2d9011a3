//! `threadws connect` between other programs: replies that take long, pipes in non-blocking mode, and input or output that
//! is lost.
#![cfg(feature = "cli")]

use crate::connect::{client, echo_server, run, talk};
use rustix::process::Signal;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use std::time::Instant;
use support::{Frame, PATIENCE, Process, RawServer, ms, watchdog};

/// Runs a client with this file as its stdin.
fn run_from(args: &[&str], stdin: impl Into<Stdio>) -> Output {
    let output = client(args).stdin(stdin).output().expect("the binary runs");
    println!("{args:?}: {output:?}");
    output
}

/// Checks the exit status and the whole of stderr.
#[track_caller]
fn expect_failure(output: &Output, code: i32, reason: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(code), &*format!("threadws: {reason}\n")));
}

#[test]
fn replies_are_printed_as_long_as_they_arrive() {
    let _dog = watchdog(60);
    const REPLIES: usize = 60;
    // Together they take longer than the 5 s of a closing handshake.
    let pace = ms(100);
    let host = RawServer::new(move |listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.expect_text("go");
        peer.expect_close(1000);
        for number in 0..REPLIES {
            std::thread::sleep(pace);
            peer.send(Frame::text(&number.to_string()));
        }
        // One message that takes longer than the timeout, and arrives all the time.
        let bytes = Frame::binary(b"x".repeat(100_000)).unmasked().encode();
        for part in bytes.chunks(5_000) {
            std::thread::sleep(pace);
            peer.write(part);
        }
        peer.send(Frame::close(1000, ""));
        peer.fin();
        peer.expect_gone();
    });
    let replies: String = (0..REPLIES).map(|number| format!("{number}\n")).collect();
    let printed = replies + &"x".repeat(100_000);
    run(&["-q", "--binary", "--timeout", "1s", &host.url()], "go\n").expect(0, printed);
}

#[test]
fn a_server_that_does_not_answer_the_close_is_reported() {
    let _dog = watchdog(60);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.expect_close(1000);
        // Pings are no reply.
        let ping = Frame::ping("x").unmasked().encode();
        while peer.try_write(&ping).is_ok() {
            std::thread::sleep(ms(50));
        }
    });
    let start = Instant::now();
    let stderr = run(&["-q", "--timeout", "500ms", &host.url()], "").expect(1, "");
    assert_eq!(stderr, "threadws: closing handshake timed out\n");
    assert!(start.elapsed() < PATIENCE);
    // After a signal, not even messages delay the end.
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        let message = Frame::text("more").unmasked().encode();
        while peer.try_write(&message).is_ok() {
            std::thread::sleep(ms(50));
        }
    });
    let mut client = talk(&["-q", "--timeout", "1h", &host.url()]);
    client.wait_for_stdout("more");
    client.signal(Signal::INT);
    assert_eq!(client.wait(PATIENCE + ms(5000)).code(), Some(1));
    client.wait_for_line(&["threadws: closing handshake timed out"]);
}

#[test]
fn a_connection_stays_open_after_stdin_with_no_close() {
    let _dog = watchdog(30);
    let server = Process::threadws(&["--every", "50ms", "--message", "tick", "--echo"]);
    let mut client = talk(&["--no-close", &server.url()]);
    client.write("subscribe\n");
    client.end_input();
    client.wait_for_stdout("subscribe");
    for _ in 0..3 {
        let before = client.stdout().len();
        support::eventually("another tick", || client.stdout().len() > before);
    }
    client.signal(Signal::INT);
    client.wait_for_success(PATIENCE);
    server.wait_for_line(&["disconnected", "received 1000 (normal closure); then sent 1000"]);
    // Until the server closes.
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.expect_text("a");
        peer.send(Frame::text("b"));
        peer.send(Frame::close(1000, ""));
        peer.expect_close(1000);
        peer.fin();
        peer.expect_gone();
    });
    run(&["-q", "--no-close", &host.url()], "a\n").expect(0, "b\n");
}

#[test]
fn nonblocking_pipes_lose_nothing() {
    let _dog = watchdog(60);
    let server = echo_server();
    let url = server.url();
    for args in [&["-q", &url][..], &["-q", "--once", &url]] {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        theirs.set_nonblocking(true).expect("a mode");
        let mut command = client(args);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("the binary runs");
        drop(command);
        // It reads now, and finds nothing.
        std::thread::sleep(ms(300));
        ours.write_all(b"hello\n").expect("it reads");
        drop(ours);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"hello\n"[..]), "{output:?}");
    }
    // More than a pipe holds, to a reader that starts late.
    let lines: String = (0..2000).map(|number| format!("{number:07}{}\n", "x".repeat(992))).collect();
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    theirs.set_nonblocking(true).expect("a mode");
    let mut command = client(&["-q", &url]);
    command.stdin(Stdio::piped()).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    drop(command);
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = lines.clone();
    let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()).expect("it reads"));
    std::thread::sleep(ms(500));
    let mut printed = String::new();
    ours.read_to_string(&mut printed).expect("text");
    writer.join().expect("no panic");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    assert!(printed == lines, "{} of {} bytes", printed.len(), lines.len());
    server.stop();
}

#[test]
fn input_that_cannot_be_read_is_a_failure() {
    let _dog = watchdog(30);
    let server = echo_server();
    let url = server.url();
    let folder = || File::open("/").expect("a folder");
    let reason = "cannot read stdin: Is a directory (os error 21)";
    for args in [&["-q", &url][..], &["-q", "--once", &url]] {
        expect_failure(&run_from(args, folder()), 1, reason);
    }
    // Although the expected text arrives.
    let ticking = Process::threadws(&["--every", "50ms", "--message", "tick"]);
    let output = run_from(&["-q", "--expect", "tick", &ticking.url()], folder());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains(reason), "{output:?}");
    // A line without an end is not kept in memory forever.
    if cfg!(target_os = "linux") {
        let output = run_from(&["-q", &url], File::open("/dev/zero").expect("a device"));
        expect_failure(&output, 1, "cannot read stdin: a message of more than 256 MiB");
    }
}

#[test]
fn input_that_the_server_did_not_take_is_a_failure() {
    let _dog = watchdog(30);
    let closing = || {
        RawServer::new(|listener| {
            let mut peer = listener.accept();
            peer.accept_handshake("");
            peer.expect_text("first");
            peer.send(Frame::text("enough"));
            peer.send(Frame::close(1000, ""));
            while peer.frame().opcode != support::frame::CLOSE {}
            peer.fin();
            peer.expect_gone();
        })
    };
    let reason = "the server closed the connection before all of stdin was sent";
    let host = closing();
    let mut client = talk(&["-q", &host.url()]);
    client.write("first\n");
    client.wait_for_stdout("enough");
    // Nothing more was to be sent, although the pipe is open.
    client.wait_for_success(PATIENCE);
    let host = closing();
    let stderr =
        run(&["-q", &host.url()], "first\n".to_owned() + &"more\n".repeat(1 << 20)).expect(1, "enough\n");
    assert_eq!(stderr, format!("threadws: {reason}\n"));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let _dog = watchdog(30);
    let server = Process::threadws(&["--every", "20ms", "--message", "tick"]);
    let mut outputs: Vec<(OwnedFd, &str)> = Vec::new();
    if cfg!(target_os = "linux") {
        let full = File::options().write(true).open("/dev/full").expect("a device");
        outputs.push((full.into(), "cannot write to stdout: No space left on device (os error 28)"));
    }
    // The reader has ended, as `head` does.
    let (reader, writer) = UnixStream::pair().expect("a pair");
    drop(reader);
    outputs.push((writer.into(), "cannot write to stdout: Broken pipe (os error 32)"));
    for (stdout, reason) in outputs {
        let mut command = client(&["-q", &server.url()]);
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let stdin = child.stdin.take();
        expect_failure(&child.wait_with_output().expect("it ends"), 1, reason);
        drop(stdin);
        server.wait_for_line(&["disconnected", "received 1001 (going away)"]);
    }
}

#[test]
fn redirects_are_followed_up_to_a_number() {
    let _dog = watchdog(30);
    let server = echo_server();
    let redirect = |to: &str| {
        let head = "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n";
        RawServer::answering(format!("{head}Location: {to}\r\n\r\n"))
    };
    let second = redirect(&server.url());
    let first = redirect(&second.url());
    run(&["-q", "--max-redirects", "2", &first.url()], "a\n").expect(0, "a\n");
    let third = redirect("ws://127.0.0.1:1/next");
    let stderr = run(&["--max-redirects", "0", &third.url()], "").expect(1, "");
    let expected =
        "threadws: handshake refused with 307 Temporary Redirect; Location: ws://127.0.0.1:1/next\n";
    assert_eq!(stderr, expected);
}

#[test]
fn a_refusal_shows_the_headers_that_help() {
    let _dog = watchdog(30);
    let long = "x".repeat(1000);
    let host = RawServer::answering(format!(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"\u{202e}a\"\r\nRetry-After: 5\r\n\
         WWW-Authenticate: Bearer {long}\r\nContent-Length: 2\r\nSet-Cookie: secret\r\n\r\nno"
    ));
    let stderr = run(&[&host.url()], "").expect(1, "");
    let start = "threadws: handshake refused with 401 Unauthorized: no; Retry-After: 5; \
                 WWW-Authenticate: Basic realm=\"\\u{202e}a\"; WWW-Authenticate: Bearer xxx";
    assert!(stderr.starts_with(start) && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.len() < 600 && !stderr.contains("secret"), "{stderr}");
}
