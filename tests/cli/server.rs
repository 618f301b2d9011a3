//! The binary from the outside: exit codes, the one line on stdout, logs on stderr, signals.

#![cfg(feature = "cli")]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::nginx::below_app;
use support::{Nginx, PATIENCE, RawPeer, has_events, ms, program, watchdog};

fn threadws(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
    command.args(args).env_remove("THREADWS_LOG").env_remove("CLICOLOR_FORCE").stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    threadws(args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// A running server, killed when the test ends.
struct Running {
    child: Child,
    line: String,
    address: SocketAddr,
}

impl Running {
    /// Starts a server on a free port and waits for its line. A test may read the log from `child.stderr`.
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, Stdio::piped())
    }

    fn start_with(args: &[&str], stderr: Stdio) -> Self {
        let mut command = threadws(&["--listen", "127.0.0.1:0"]);
        if has_events() {
            command.arg("--events");
        }
        let mut child =
            command.args(args).stdout(Stdio::piped()).stderr(stderr).spawn().expect("the binary runs");
        let stdout = child.stdout.take().expect("piped");
        let (send, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            stdout.read_line(&mut line).expect("UTF-8");
            send.send(line).expect("the test waits for it");
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).expect("UTF-8");
            assert_eq!(rest, "", "nothing else goes to stdout");
        });
        let line = line.recv_timeout(PATIENCE).expect("a line on stdout");
        let address =
            line.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).expect("an address").0;
        Self { address: address.parse().expect("an address"), child, line }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the server and returns its log.
    fn log(mut self) -> String {
        let mut stderr = self.child.stderr.take().expect("piped and not taken");
        self.signal(Signal::TERM);
        let mut log = String::new();
        stderr.read_to_string(&mut log).expect("UTF-8");
        assert_eq!(self.wait().code(), Some(0), "{log}");
        log
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream
    }

    /// Returns the whole answer to a request after which the server closes.
    fn http(&self, request_line: &str, headers: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "{request_line} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address)
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, then the end");
        answer
    }

    fn websocket(&self, headers: &str) -> Peer {
        let mut stream = self.connect();
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
            self.address
        )
        .expect("it reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", text(&head));
        Peer(stream)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client of short frames. Its mask is zero, because RFC 6455 leaves the choice of the key to the client.
struct Peer(TcpStream);

impl Peer {
    fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).expect("short");
        let mut frame = vec![0x80 | opcode];
        if length < 126 {
            frame.push(0x80 | length);
        } else {
            frame.extend([0x80 | 126, 0, length]);
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write_all(&frame).expect("it reads");
    }

    fn recv(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        let mut payload = vec![0; usize::from(head[1])];
        self.0.read_exact(&mut payload).expect("its payload");
        (head[0] & 0x0f, payload)
    }

    /// Leaves as a browser tab does, and waits until the server has closed the connection.
    fn leave(mut self) {
        self.send(0x8, &1001u16.to_be_bytes());
        self.0.read_to_end(&mut Vec::new()).expect("the end");
    }
}

#[test]
fn help_and_version_go_to_stdout_and_exit_with_0() {
    let _dog = watchdog(60);
    let help = output(&["--help"]);
    assert_eq!((help.status.code(), text(&help.stderr)), (Some(0), ""));
    let options = "every message echo broadcast topics no-page listen path allow-origin trust-proxy max-clients \
                   max-message slow-peer ping log quiet verbose help version";
    for option in options.split_whitespace() {
        assert!(text(&help.stdout).contains(&format!("--{option}")), "{option}");
    }
    for line in text(&help.stdout).lines() {
        assert!(line.chars().count() < 80, "{line}");
    }
    let version = output(&["-V"]);
    assert_eq!((version.status.code(), text(&version.stdout)), (Some(0), "threadws 0.1.0\n"));
}

#[test]
fn help_into_a_closed_pipe_is_quiet() {
    let _dog = watchdog(60);
    let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
    drop(reader);
    let writer = std::os::fd::OwnedFd::from(writer);
    let child = threadws(&["--help"]).stdout(writer).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_usage_error_exits_with_2_and_suggests_help() {
    let _dog = watchdog(60);
    let cases: [(&[&str], &str); 9] = [
        (&["--ehco"], "did you mean '--echo'?"),
        (&["--echo", "--broadcast"], "--echo and --broadcast"),
        (&["--topics", "--echo"], "--echo and --topics"),
        (&["--topics", "--broadcast"], "--broadcast and --topics"),
        (&["--topics", "--path", "/ws"], "--topics and --path"),
        (&["--slow-peer", "wait"], "--slow-peer: expected close or skip"),
        (&["--every", "3"], "--every: \"3\" needs a unit"),
        (&["--listen"], "--listen"),
        (&["nonsense"], "nonsense"),
    ];
    for (args, expected) in cases {
        let output = output(args);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{args:?}");
        assert!(error.starts_with("threadws: ") && error.contains(expected), "{error}");
        assert!(error.ends_with("\ntry 'threadws --help'\n") && error.lines().count() == 2, "{error}");
    }
    let output = threadws(&[]).env("THREADWS_LOG", "inof").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("THREADWS_LOG"), "{}", text(&output.stderr));
}

#[test]
fn a_taken_port_exits_with_1_and_names_the_address() {
    let _dog = watchdog(60);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = output(&["--listen", &address, "--log", "off"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    let error = text(&output.stderr);
    assert!(error.starts_with(&format!("threadws: cannot listen on {address}: ")), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn stdout_gets_one_line_with_the_real_port() {
    let _dog = watchdog(60);
    let running = Running::start(&[]);
    let address = running.address;
    assert_ne!(address.port(), 0);
    assert_eq!(running.line, format!("threadws listening on http://{address}/ (ws://{address}/)\n"));
}

#[test]
fn a_signal_closes_all_connections_and_exits_with_0() {
    let _dog = watchdog(60);
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = Running::start(&["--every", "0"]);
        let mut peer = running.websocket("");
        running.signal(signal);
        assert_eq!(peer.recv(), (0x8, 1001u16.to_be_bytes().to_vec()));
        peer.send(0x8, &1001u16.to_be_bytes());
        drop(peer);
        assert_eq!(running.wait().code(), Some(0));
    }
}

#[test]
fn a_second_signal_exits_with_130_at_once() {
    let _dog = watchdog(60);
    let mut running = Running::start(&["--every", "0"]);
    let mut peer = running.websocket("");
    running.signal(Signal::TERM);
    // The Close shows that the first signal has arrived. It is not answered, so the server waits for an answer.
    assert_eq!(peer.recv().0, 0x8);
    let start = Instant::now();
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code(), Some(130));
    assert!(start.elapsed() < ms(3000), "it waited for the clients");
}

#[test]
fn the_log_has_each_client_its_messages_and_its_end() {
    let _dog = watchdog(60);
    let running = Running::start(&["--every", "0"]);
    let mut peer = running.websocket("X-Forwarded-For: 198.51.100.66, 203.0.113.9\r\n");
    peer.send(0x1, "안녕 \u{1b}[2J\r\nforged".as_bytes());
    peer.send(0x2, &[0xde, 0xad]);
    peer.send(0x1, "x".repeat(201).as_bytes());
    peer.leave();
    running.websocket("").leave();
    let address = running.address;
    let log = running.log();
    let lines: Vec<&str> = log.lines().collect();
    let find = |what: &str| {
        lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {log}"))
    };
    let listening = find(&format!("listening on {address}, capacity "));
    let came = find("client 1 connected from 203.0.113.9 via 127.0.0.1");
    let said = find(r"client 1 sent text: 안녕 \u{1b}[2J\r\nforged");
    let binary = find("client 1 sent binary, 2 bytes: de ad");
    let cut = find(&format!("client 1 sent text: {}… (201 bytes)", "x".repeat(200)));
    let left = find("client 1 disconnected after 0.");
    assert!(lines[left].contains("s: received 1001 (going away); then sent "), "{log}");
    let order = [listening, came, said, binary, cut, left, find("stopped")];
    assert!(order.is_sorted(), "{log}");
    assert!(lines[find("client 2 connected from 127.0.0.1")].ends_with("127.0.0.1"), "no via: {log}");
    for line in lines {
        // 2026-01-31T12:00:00.123456Z [INFO] …
        assert!(line.starts_with("20") && line.contains("Z [INFO] "), "{line}");
    }
}

/// Lines of several servers can be merged with `sort` (moby#38258).
#[test]
fn log_times_have_one_width_and_sort_as_text() {
    let _dog = watchdog(60);
    let running = Running::start(&["--every", "0"]);
    // Of 200 times with nine digits, about twenty end in a zero.
    let mut peer = running.websocket("");
    for _ in 0..200 {
        peer.send(0x1, b"another line");
    }
    peer.leave();
    let log = running.log();
    let times: Vec<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.len() > 200 && times.is_sorted(), "{log}");
    for time in times {
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "{log}");
    }
}

#[test]
fn the_log_is_silent_about_messages_below_info() {
    let _dog = watchdog(60);
    let running = Running::start(&["-q", "--every", "0"]);
    let mut peer = running.websocket("");
    peer.send(0x1, b"hello");
    peer.leave();
    assert_eq!(running.log(), "");
}

#[test]
fn clients_get_the_message_at_every_tick_until_they_leave() {
    let _dog = watchdog(60);
    let running = Running::start(&["--every", "20ms", "--message", "tick"]);
    let mut peer = running.websocket("");
    for _ in 0..5 {
        assert_eq!(peer.recv(), (0x1, b"tick".to_vec()));
    }
    peer.leave();
}

#[test]
fn without_echo_and_ticks_no_data_is_sent() {
    let _dog = watchdog(60);
    let running = Running::start(&["--every", "0"]);
    let mut peer = running.websocket("");
    peer.send(0x1, b"hello");
    peer.send(0x8, &1000u16.to_be_bytes());
    assert_eq!(peer.recv(), (0x8, 1000u16.to_be_bytes().to_vec()));
}

#[test]
fn echo_returns_each_message_as_the_same_kind() {
    let _dog = watchdog(60);
    let running = Running::start(&["--every", "0", "--echo"]);
    let mut peer = running.websocket("");
    for (opcode, payload) in [(0x1, "안녕".as_bytes()), (0x2, &[0, 255]), (0x1, b"")] {
        peer.send(opcode, payload);
        assert_eq!(peer.recv(), (opcode, payload.to_vec()));
    }
}

#[test]
fn broadcast_sends_each_message_to_all_as_the_same_kind() {
    let _dog = watchdog(60);
    let running = Running::start(&["--every", "0", "--broadcast"]);
    let mut one = running.websocket("");
    let mut other = running.websocket("");
    // The 101 is sent before the server adds the client to the hub. The client's own echo shows that it was added.
    other.send(0x1, b"here");
    while other.recv() != (0x1, b"here".to_vec()) {}
    one.send(0x2, &[1, 2, 3]);
    for peer in [&mut one, &mut other] {
        let message = std::iter::repeat_with(|| peer.recv()).find(|(opcode, _)| *opcode == 0x2);
        assert_eq!(message, Some((0x2, vec![1, 2, 3])));
    }
}

#[test]
fn plain_http_gets_the_page_health_check_or_error() {
    let _dog = watchdog(60);
    let running = Running::start(&["--path", "/ws"]);
    let elsewhere = running.http("GET /", "");
    assert!(elsewhere.starts_with("HTTP/1.1 302 "), "{elsewhere}");
    assert!(elsewhere.to_ascii_lowercase().contains("\r\nlocation: ./ws\r\n"), "{elsewhere}");
    // The page connects to the address that it came from.
    let page = running.http("GET /ws", "");
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<!doctype html>"), "{page}");
    let lower = page.to_ascii_lowercase();
    assert!(lower.contains("content-security-policy: default-src 'none';") && !page.contains("{{"), "{page}");
    assert!(lower.contains(&format!("connect-src 'self' ws://{0} wss://{0}", running.address)), "{page}");
    let head = running.http("HEAD /ws", "");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let health = running.http("GET /healthz", "");
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok"), "{health}");
    assert!(running.http("GET /nothing", "").starts_with("HTTP/1.1 404 "));
    for target in ["/", "/healthz", "/ws", "*"] {
        let options = running.http(&format!("OPTIONS {target}"), "");
        assert!(
            options.starts_with("HTTP/1.1 204 ") && options.contains("Allow: GET, HEAD, OPTIONS"),
            "{options}"
        );
    }
    assert!(running.http("DELETE /", "").starts_with("HTTP/1.1 405 "));

    let bare = Running::start(&["--no-page"]);
    let answer = bare.http("GET /", "");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"), "{answer}");
}

/// Clients that ask for a subprotocol fail without one: browsers, and npm's `ws`.
#[test]
fn the_option_agrees_to_a_subprotocol_of_the_client() {
    let _dog = watchdog(60);
    let running = Running::start(&["--subprotocol", "mqtt", "--subprotocol", "soap"]);
    for (offered, agreed) in [("soap", Some("soap")), ("x, mqtt, soap", Some("mqtt")), ("x", None)] {
        let mut peer = RawPeer::connect(running.address);
        let answer = peer.upgrade("/", &[("Sec-WebSocket-Protocol", offered)]);
        assert_eq!(answer.header("sec-websocket-protocol"), agreed, "{}", answer.head);
        peer.close(1000);
    }
    let log = running.log();
    for line in ["127.0.0.1, subprotocol soap\n", "127.0.0.1, subprotocol mqtt\n", "127.0.0.1\n"] {
        assert!(log.contains(&format!("connected from {line}")), "{line:?} is not in\n{log}");
    }
}

#[test]
fn the_option_limits_the_head_of_a_request() {
    let _dog = watchdog(60);
    let running = Running::start(&["--max-head", "32KiB"]);
    let cookie = |size: usize| format!("Cookie: {}\r\n", "x".repeat(size));
    assert!(running.http("GET /healthz", &cookie(32 * 1024 - 200)).starts_with("HTTP/1.1 200 "));
    let answer = running.http("GET /healthz", &cookie(32 * 1024));
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("more than 32768 bytes"), "{answer}");
}

/// A proxy that removes a prefix from the path (wg-access-server#251).
#[test]
fn the_redirect_and_the_socket_stay_below_a_prefix() {
    let _dog = watchdog(60);
    let Some(nginx) = program("nginx") else { return };
    for path in ["/ws", "//ws"] {
        let running = Running::start(&["--every", "0", "--path", path]);
        let nginx = Nginx::with(&nginx, |addr| below_app(addr, running.address));
        let answer = |target: &str| {
            let mut peer = RawPeer::connect(nginx.addr());
            peer.write(format!(
                "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                nginx.addr()
            ));
            peer.answer()
        };
        // A browser resolves the reference to `/app/ws`, because it is at `/app/`.
        let redirect = answer("/app/");
        assert_eq!((redirect.status, redirect.header("location")), (302, Some(format!(".{path}").as_str())));
        let page = answer(&format!("/app{path}"));
        assert_eq!(page.status, 200, "{}", page.head);
        let mut peer = RawPeer::connect(nginx.addr());
        let origin = format!("http://{}", nginx.addr());
        peer.upgrade(&format!("/app{path}"), &[("Origin", &origin)]);
        peer.close(1000);
    }
}

#[test]
fn a_closed_stderr_ends_nothing() {
    let _dog = watchdog(60);
    let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
    drop(reader);
    let mut running =
        Running::start_with(&["--every", "0", "--echo"], std::os::fd::OwnedFd::from(writer).into());
    let mut peer = running.websocket("");
    for _ in 0..100 {
        peer.send(0x1, b"hello");
        assert_eq!(peer.recv(), (0x1, b"hello".to_vec()));
    }
    peer.leave();
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn a_stderr_that_is_not_read_stalls_nothing() {
    let _dog = watchdog(60);
    // It is held and never read. A pipe takes 64 KiB, so some 300 of these lines fill it.
    let mut running = Running::start(&["--every", "0", "--echo"]);
    let mut peer = running.websocket("");
    let message = "x".repeat(200);
    for _ in 0..3000 {
        peer.send(0x1, message.as_bytes());
        let mut echo = [0; 4 + 200];
        peer.0.read_exact(&mut echo).expect("an echo");
        assert_eq!(&echo[4..], message.as_bytes());
    }
    peer.leave();
    running.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(running.wait().code(), Some(0));
    assert!(start.elapsed() < ms(3000), "the end waited for stderr");
}

#[test]
fn dropped_log_lines_are_counted_in_the_log() {
    let _dog = watchdog(60);
    let mut running = Running::start(&["--every", "0", "--echo"]);
    let mut peer = running.websocket("");
    let message = "x".repeat(200);
    for _ in 0..3000 {
        peer.send(0x1, message.as_bytes());
        peer.0.read_exact(&mut [0; 4 + 200]).expect("an echo");
    }
    // Now it is read, and a line says how many are missing.
    let mut stderr = BufReader::new(running.child.stderr.take().expect("piped"));
    peer.leave();
    let mut line = String::new();
    while !line.contains(" lines dropped") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("UTF-8"), 0, "the log ended");
    }
    assert!(line.contains("[WARN] … "), "{line}");
}
