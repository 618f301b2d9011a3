//! `threadws connect` from the outside: stdin, stdout, stderr, exit codes, signals.
#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;
use support::{Frame, PATIENCE, Process, RawPeer, RawServer, TestServer, echo, header, ms, watchdog};

pub(crate) fn client(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
    command.arg("connect").args(args).env_remove("THREADWS_LOG").env_remove("RUST_LOG");
    command
}

/// The output and the status of a client that got all of its stdin.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

#[track_caller]
pub(crate) fn run(args: &[&str], stdin: impl AsRef<[u8]>) -> Ended {
    let mut command = client(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    let bytes = stdin.as_ref().to_vec();
    // A client that ends early does not read all of it.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    println!("{args:?}: {}\n{stderr}", output.status);
    Ended { code: output.status.code(), stdout: output.stdout, stderr }
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect(self, code: i32, stdout: impl AsRef<[u8]>) -> String {
        let shown = String::from_utf8_lossy(&self.stdout);
        assert!(self.stdout == stdout.as_ref(), "printed {shown:?}");
        assert_eq!(self.code, Some(code));
        self.stderr
    }
}

/// Starts a client for a dialogue.
pub(crate) fn talk(args: &[&str]) -> Process {
    Process::with_pipe(client(args))
}

pub(crate) fn echo_server() -> Process {
    Process::threadws(&["--echo", "--every", "0"])
}

#[test]
fn each_line_is_a_message_and_each_message_a_line() {
    let _dog = watchdog(30);
    let server = echo_server();
    let mut client = talk(&[&server.url()]);
    client.wait_for_line(&["connected to 127.0.0.1:"]);
    for line in ["hello", "\u{c548}\u{b155} \u{1f438}"] {
        client.write(format!("{line}\n"));
        client.wait_for_stdout(line);
        server.wait_for_line(&[&format!("text: {line}")]);
    }
    client.end_input();
    client.wait_for_success(PATIENCE);
    client.wait_for_line(&["disconnected after", "sent 1000 (normal closure); then received 1000"]);
    server.wait_for_line(&["disconnected", "received 1000 (normal closure)"]);
    // All lines at once. Messages that come between the end of stdin and the server's Close are printed. No line feed
    // is sent, and the last line needs none.
    let stderr =
        run(&["-q", &server.url()], b"one\r\n\ntwo\n\xff\xfe\nlast").expect(0, "one\n\ntwo\nfffe\nlast\n");
    assert_eq!(stderr, "");
    let many: String = (0..5000).map(|number| format!("{number}\n")).collect();
    run(&["-q", &server.url()], &many).expect(0, &many);
    run(&["-q", &server.url()], "").expect(0, "");
    server.stop();
}

#[test]
fn messages_are_printed_until_the_server_closes() {
    let _dog = watchdog(30);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.expect_text("a");
        peer.expect_close(1000);
        peer.send(Frame::text("still on its way"));
        peer.send(Frame::close(1000, ""));
        peer.fin();
        peer.expect_eof();
    });
    run(&["-q", &host.url()], "a\n").expect(0, "still on its way\n");
}

#[test]
fn binary_messages_are_printed_in_hexadecimal_or_raw() {
    let _dog = watchdog(30);
    let host = || {
        RawServer::new(|listener| {
            let mut peer = listener.accept();
            peer.accept_handshake("");
            peer.send(Frame::binary([0x00, 0x0a, 0xff]));
            peer.send(Frame::text("text"));
            peer.send(Frame::binary([]));
            peer.send(Frame::binary("raw\n"));
            peer.send(Frame::close(1000, ""));
            peer.fin();
            peer.expect_gone();
        })
    };
    for (args, stdout) in
        [(&["-q"][..], &b"000aff\ntext\n\n7261770a\n"[..]), (&["-q", "--binary"], b"\x00\x0a\xfftext\nraw\n")]
    {
        let host = host();
        // The server closes. An end of stdin before that makes no difference.
        run(&[args, &[&host.url()]].concat(), "").expect(0, stdout);
    }
}

#[cfg(feature = "deflate")]
#[test]
fn with_deflate_both_sides_compress() {
    let _dog = watchdog(60);
    let server = Process::threadws(&["--echo", "--every", "0", "--deflate"]);
    let line = "compress me ".repeat(200);
    let sent = format!("{line}\n");
    for (option, messages) in [("--quiet", 0), ("--deflate", 2)] {
        run(&["-q", option, "--once", &server.url()], &sent).expect(0, sent.as_str());
        support::eventually("it is counted", || {
            server.metric("threadws_connections_open") == 0
                && server.metric("threadws_deflate_messages_total") == messages
        });
    }
    // Both directions together.
    assert_eq!(server.metric("threadws_deflate_plain_bytes_total"), 2 * line.len() as u64);
    assert!(server.metric("threadws_deflate_compressed_bytes_total") < 200);
    // A server without compression refuses nothing.
    let plain = echo_server();
    run(&["-q", "--deflate", "--once", &plain.url()], &sent).expect(0, sent.as_str());
}

#[test]
fn once_sends_all_of_stdin_and_prints_one_reply() {
    let _dog = watchdog(30);
    let server = echo_server();
    let url = server.url();
    run(&["-q", "--once", &url], "one\ntwo\n").expect(0, "one\ntwo\n");
    run(&["-q", "--once", &url], b"\xff\x00").expect(0, "ff00\n");
    run(&["-q", "--once", "--binary", &url], "text\n").expect(0, "text\n");
    server.wait_for_line(&["binary, 5 bytes: 74 65 78 74 0a"]);
    run(&["-q", "--once", &url], "").expect(0, "\n");
    let large = "x".repeat(1 << 20);
    run(&["-q", "--once", &url], &large).expect(0, format!("{large}\n"));
    server.wait_for_lines(&["disconnected", "received 1000"], 5);
    // A message that is too large for the server is reported.
    let stderr = run(&["-q", "--once", &url], format!("{large}x")).expect(1, "");
    assert!(stderr.contains("1009 (message too big)"), "{stderr}");
    // No reply in time, and no reply at all.
    let silent = Process::threadws(&["--every", "0"]);
    let begin = Instant::now();
    let stderr = run(&["-q", "--once", "--timeout", "2s", &silent.url()], "x").expect(1, "");
    assert!(begin.elapsed() < PATIENCE && stderr.contains("no reply within 2s"), "{stderr}");
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.expect_text("x");
        peer.send(Frame::close(1000, ""));
        peer.fin();
        peer.expect_gone();
    });
    let stderr = run(&["-q", "--once", &host.url()], "x").expect(1, "");
    assert!(stderr.contains("no reply: the server closed"), "{stderr}");
    // One reply, even if there are more.
    let chatty = Process::threadws(&["--every", "10ms", "--message", "tick"]);
    run(&["-q", "--once", &chatty.url()], "x").expect(0, "tick\n");
}

#[test]
fn expect_waits_for_a_text_and_reports_the_result() {
    let _dog = watchdog(30);
    let server = Process::threadws(&["--every", "50ms", "--message", "it is ready now"]);
    let url = server.url();
    // The end of stdin does not end the wait.
    run(&["-q", "--expect", "ready", &url], "").expect(0, "it is ready now\n");
    server.wait_for_line(&["disconnected", "received 1000"]);
    let ended = run(&["-q", "--expect", "never", "--timeout", "2s", &url], "");
    assert_eq!(ended.code, Some(3));
    assert!(ended.stdout.starts_with(b"it is ready now\nit is ready now\n"));
    assert!(ended.stderr.contains("no message with the expected text within 2s"), "{}", ended.stderr);
    // Lines are sent meanwhile, or with --once all of stdin. Other messages are printed too.
    let echo = echo_server();
    run(&["-q", "--expect", "b", &echo.url()], "a\n\u{ff}\nb\nc\n").expect(0, "a\n\u{ff}\nb\n");
    run(&["-q", "--once", "--expect", "b\nc", &echo.url()], "a\nb\nc\n").expect(0, "a\nb\nc\n");
    // A server that closes before, normally or not.
    for (frames, code) in
        [(vec![Frame::text("x"), Frame::close(1000, "")], 3), (vec![Frame::close(1011, "")], 1)]
    {
        let printed = if code == 3 { "x\n" } else { "" };
        let host = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.accept_handshake("");
            for frame in frames {
                peer.send(frame);
            }
            peer.fin();
            peer.expect_gone();
        });
        run(&["-q", "--expect", "y", &host.url()], "").expect(code, printed);
    }
    // A server that sends without a pause does not delay it beyond the timeout.
    let flood = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        let burst = Frame::text("x").unmasked().encode().repeat(1000);
        while peer.try_write(&burst).is_ok() {}
    });
    let begin = Instant::now();
    assert_eq!(run(&["-q", "--expect", "y", "--timeout", "2s", &flood.url()], "").code, Some(3));
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn options_set_the_headers_of_the_handshake() {
    let _dog = watchdog(30);
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("headers-{}", std::process::id()));
    std::fs::write(&file, "\u{feff}Authorization: Bearer from-a-file\n\n  X-C:  d:e \r\n").expect("a file");
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        assert!(peer.head.starts_with("GET /chat?a=b HTTP/1.1\r\n"), "{}", peer.head);
        for (name, value) in [
            ("x-a", "b"),
            ("x-b", ""),
            ("x-c", "d:e"),
            ("authorization", "Bearer from-a-file"),
            ("origin", "https://page.example"),
            ("sec-websocket-protocol", "v2, chat"),
        ] {
            assert_eq!(peer.header(name).map(str::trim), Some(value), "{}", peer.head);
        }
        peer.accept_handshake("Sec-WebSocket-Protocol: chat\r\n");
        assert_eq!(peer.frame().opcode, support::frame::PING);
        peer.send(Frame::close(1000, ""));
        peer.fin();
        peer.expect_gone();
    });
    let url = format!("{}chat?a=b", host.url());
    let file = file.to_str().expect("UTF-8");
    let mut client = talk(&[
        "--header",
        "X-A: b",
        "--header=x-b:",
        "--header-file",
        file,
        "--origin",
        "https://page.example",
        "--subprotocol",
        "v2",
        "--subprotocol",
        "chat",
        "--ping",
        "200ms",
        &url,
    ]);
    client.wait_for_line(&["connected to 127.0.0.1:", ", subprotocol chat"]);
    client.wait_for_success(PATIENCE);
    assert!(!client.log().concat().contains("from-a-file"), "{:?}", client.log());
    host.join();
    let named = format!("--header-file {file:?}: ");
    let set_by_the_handshake = b"Host: secret";
    for bad in [
        &b"secret"[..],
        b": secret",
        b"a b: secret",
        b"x: secret\x01",
        b"x: secret\xff",
        set_by_the_handshake,
    ] {
        std::fs::write(file, [&b"\xef\xbb\xbfX: y\r\n\r\n"[..], bad, b"\n"].concat()).expect("a file");
        let stderr = run(&["--header-file", file, "ws://127.0.0.1:1/"], "").expect(2, "");
        assert!(stderr.contains(&format!("{named}line 3: ")) && !stderr.contains("secret"), "{stderr}");
    }
    std::fs::remove_file(file).expect("it was there");
    let stderr = run(&["--header-file", file, "ws://127.0.0.1:1/"], "").expect(1, "");
    assert!(stderr.contains(&format!("cannot read the {named}")), "{stderr}");
    let stderr = run(&["--header-file", "/dev/zero", "ws://127.0.0.1:1/"], "").expect(2, "");
    assert!(stderr.contains("larger than 65536 bytes"), "{stderr}");
}

#[test]
fn a_refusal_is_printed_with_status_and_body() {
    let _dog = watchdog(30);
    let long = format!("not you\r\n\x1b[31m{}", "x".repeat(100_000));
    let host = RawServer::answering(format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nSet-Cookie: secret\r\n\r\n{long}",
        long.len()
    ));
    let stderr = run(&[&host.url()], "").expect(1, "");
    assert!(
        stderr.starts_with("threadws: handshake refused with 403 Forbidden: not you\\r\\n\\u{1b}[31mxxx"),
        "{stderr}"
    );
    assert!(stderr.len() < 400 && stderr.lines().count() == 1 && !stderr.contains("secret"), "{stderr}");
    let server = Process::threadws(&["--path", "/ws"]);
    let stderr = run(&[&server.url()], "").expect(1, "");
    assert!(stderr.contains("refused with 404 Not Found"), "{stderr}");
}

#[test]
fn a_failure_exits_with_1_and_prints_why() {
    let _dog = watchdog(30);
    let closed_port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let closed_port = closed_port.expect("a port");
    let stderr = run(&[&format!("ws://{closed_port}/")], "").expect(1, "");
    let named = stderr.starts_with(&format!("threadws: cannot connect to {closed_port}: "));
    assert!(named && stderr.contains("refused"), "{stderr}");
    let stderr = run(&["ws://nowhere.invalid/"], "").expect(1, "");
    assert!(stderr.starts_with("threadws: cannot resolve nowhere.invalid: "), "{stderr}");
    let silent = RawServer::new(|listener| listener.accept().expect_gone());
    let stderr = run(&["--timeout", "300ms", &silent.url()], "").expect(1, "");
    assert_eq!(stderr, "threadws: cannot connect: handshake timed out\n");
    let liar = RawServer::answering(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    );
    let stderr = run(&[&liar.url()], "").expect(1, "");
    assert!(stderr.contains("wrong Sec-WebSocket-Accept"), "{stderr}");
    let endless = RawServer::answering(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000)));
    let stderr = run(&[&endless.url()], "").expect(1, "");
    let named = stderr.contains("the head of the response has more than ") && stderr.ends_with(" bytes\n");
    assert!(named, "{stderr}");
    // Ends that are failures, after messages.
    for (bytes, why) in [
        (
            Frame::close(1008, "go\u{1b}[2J\naway").unmasked().encode(),
            "received 1008 (policy violation) \"go\\u{1b}[2J\\naway\"",
        ),
        (Frame::text("masked").encode(), "masked frame"),
        (Frame::binary([0; 101]).unmasked().encode(), "message larger than 100 bytes"),
        (Vec::new(), "end of stream"),
    ] {
        let host = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.accept_handshake("");
            peer.send(Frame::text("x"));
            peer.write(bytes);
            peer.fin();
            peer.expect_gone();
        });
        let mut client = talk(&["--max-message", "100", &host.url()]);
        client.wait_for_stdout("x");
        assert_eq!(client.wait(PATIENCE).code(), Some(1));
        client.wait_for_line(&["threadws: ", why]);
        assert!(client.log().iter().all(|line| !line.contains('\u{1b}')), "{:?}", client.log());
    }
}

#[test]
fn a_usage_error_exits_with_2_and_prints_no_secret() {
    let _dog = watchdog(30);
    let lines: [&[&str]; 11] = [
        &[],
        &["--nonsense", "ws://127.0.0.1:1/"],
        &["ws://user:secret@127.0.0.1:1/", "ws://user:secret@127.0.0.1:1/"],
        &["ws://user:secret@127.0.0.1:x/"],
        &["user:secret@127.0.0.1"],
        &["ws://user:secret@127.0.0.1:1/#secret"],
        &["--header", "Host: secret", "ws://127.0.0.1:1/"],
        &["--header", "X: secret\n", "--header", "a b: secret", "ws://127.0.0.1:1/"],
        &["--header", "secret", "ws://127.0.0.1:1/"],
        &["--subprotocol", "a b", "ws://127.0.0.1:1/"],
        &["--timeout", "0", "ws://127.0.0.1:1/"],
    ];
    for line in lines {
        let stderr = run(line, "").expect(2, "");
        assert!(
            stderr.ends_with("\ntry 'threadws connect --help'\n") && stderr.lines().count() == 2,
            "{stderr}"
        );
        assert!(!stderr.contains("secret"), "{stderr}");
    }
    let help = run(&["--help"], "");
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.starts_with(b"Usage: threadws connect [OPTIONS] URL\n"));
    let main = Command::new(env!("CARGO_BIN_EXE_threadws")).arg("--help").output().expect("it runs");
    assert!(String::from_utf8_lossy(&main.stdout).contains("threadws connect [OPTIONS] URL"));
    let main =
        Command::new(env!("CARGO_BIN_EXE_threadws")).arg("ws://user:secret@a/").output().expect("it runs");
    let stderr = String::from_utf8_lossy(&main.stderr).into_owned();
    assert_eq!(main.status.code(), Some(2));
    assert!(stderr.contains("'threadws connect'") && !stderr.contains("secret"), "{stderr}");
}

#[test]
fn no_failure_prints_the_password() {
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| {
            server.check_request(|request, _| match request.header("authorization") {
                Some("Basic dXNlcjpzZWNyZXQ=") => Ok(()),
                _ => Err(threadws::handshake::Reject::new(401, "who are you?")),
            })
        },
        echo,
    );
    let url = format!("ws://user:secret@{}/?token=secret", server.addr());
    let stderr = run(&["-vv", "--once", &url], "hello").expect(0, "hello\n");
    assert!(stderr.contains("connected to") && !stderr.contains("secret"), "{stderr}");
    let url = format!("ws://user:othersecret@{}/?token=secret", server.addr());
    let stderr = run(&["-vv", "--header", "Cookie: secret", &url], "").expect(1, "");
    assert!(stderr.contains("refused with 401 Unauthorized: who are you?"), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
    for url in ["ws://user:secret@127.0.0.1:1/secret", "ws://user:secret@nowhere.invalid/secret"] {
        let stderr = run(&["-vv", url], "").expect(1, "");
        assert!(!stderr.contains("secret"), "{stderr}");
    }
}

/// Returns whether a process has a handler for a signal, from /proc. 15 is SIGTERM, the last that the binary sets up.
#[track_caller]
fn handles(pid: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line of /proc");
    u64::from_str_radix(caught.trim(), 16).expect("hexadecimal digits") >> (signal - 1) & 1 == 1
}

#[test]
fn ctrl_c_closes_with_1000() {
    let _dog = watchdog(30);
    for signal in [Signal::INT, Signal::TERM] {
        let server = Process::threadws(&["--every", "50ms", "--message", "tick"]);
        let mut client = talk(&[&server.url()]);
        client.wait_for_stdout("tick");
        client.signal(signal);
        client.wait_for_success(PATIENCE);
        server.wait_for_line(&["disconnected", "received 1000 (normal closure); then sent 1000"]);
    }
    // The expected text did not come.
    let server = Process::threadws(&["--every", "50ms", "--message", "tick"]);
    let mut client = talk(&["--expect", "tock", &server.url()]);
    client.wait_for_stdout("tick");
    client.signal(Signal::INT);
    assert_eq!(client.wait(PATIENCE).code(), Some(3));
    // The server does not answer, so the second signal ends it at once.
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.send(Frame::text("open"));
        peer.expect_close(1000);
        peer.send(Frame::text("not yet"));
        peer.expect_gone();
    });
    let mut client = talk(&[&host.url()]);
    client.wait_for_stdout("open");
    client.signal(Signal::INT);
    client.wait_for_stdout("not yet");
    client.signal(Signal::INT);
    // At the end of a closing handshake it would be another code.
    assert_eq!(client.wait(PATIENCE).code(), Some(130));
    // Before there is a connection, the first signal ends it at once.
    let (came, comes) = std::sync::mpsc::channel();
    let silent = RawServer::new(move |listener| {
        let mut peer = listener.accept();
        came.send(()).expect("the test waits");
        peer.expect_gone();
    });
    let mut client = talk(&[&silent.url()]);
    support::next(&comes, "a client");
    client.signal(Signal::INT);
    assert_eq!(client.wait(PATIENCE).code(), Some(130));
    // The same while it reads its stdin.
    let mut client = talk(&["--once", &silent.url()]);
    client.write("half a message");
    support::eventually("it handles both signals", || handles(client.pid(), 15));
    client.signal(Signal::INT);
    assert_eq!(client.wait(PATIENCE).code(), Some(130));
}

#[test]
fn a_server_that_does_not_read_delays_only_sending() {
    let _dog = watchdog(60);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        // More than the buffers of both ends hold. Messages in the other direction still come.
        std::thread::sleep(ms(300));
        peer.send(Frame::text("said while it waits"));
        let mut total = 0;
        while total < 16 << 20 {
            total += peer.frame().payload.len();
        }
        peer.finish(1000);
    });
    let mut client = talk(&["-q", &host.url()]);
    let line = "x".repeat((1 << 20) - 1) + "\n";
    let writer = std::thread::spawn(move || {
        for _ in 0..17 {
            client.write(&line);
        }
        client
    });
    let mut client = writer.join().expect("no panic");
    client.wait_for_stdout("said while it waits");
    client.end_input();
    client.wait_for_success(PATIENCE);
}

#[test]
fn a_message_that_stops_ends_at_the_message_timeout() {
    let _dog = watchdog(30);
    let half = b"\x81\x05hel";
    let host = RawServer::new(move |listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.write(half);
        peer.expect_close(1008);
        peer.expect_gone();
    });
    let stderr = run(&["--message-timeout", "300ms", "--expect", "x", &host.url()], "").expect(1, "");
    assert!(stderr.contains("message timed out"), "{stderr}");
    let server = Process::threadws(&["--every", "0", "--message-timeout", "300ms"]);
    let mut peer = RawPeer::open(server.addr());
    peer.write(header(0x81, Some([0; 4]), 5, 7));
    peer.expect_close(1008);
    server.stop();
}

#[test]
fn a_message_that_is_too_big_is_reported_as_1009() {
    let _dog = watchdog(60);
    let server = echo_server();
    let stderr = run(&["--once", &server.url()], "x".repeat(16 << 20)).expect(1, "");
    assert!(stderr.contains("1009 (message too big)"), "{stderr}");
    server.stop();
}
