//! A scripted client on a raw socket. It writes any bytes, expects frames, heads and ends, and records the wire.

use super::frame::{self, Frame, excerpt};
use super::sockets::{connect_from, reset_when_dropped};
use super::time::{PATIENCE, test_name};
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The sample key of RFC 6455 §1.3, and its answer.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// All bytes of one connection, printed when its test fails.
#[derive(Debug)]
pub struct Wire {
    test: String,
    start: Instant,
    lines: Mutex<Vec<String>>,
}

static WIRES: Mutex<Vec<Weak<Wire>>> = Mutex::new(Vec::new());

impl Wire {
    pub fn new() -> Arc<Self> {
        let wire = Arc::new(Self { test: test_name(), start: Instant::now(), lines: Mutex::new(Vec::new()) });
        let mut wires = WIRES.lock().unwrap_or_else(PoisonError::into_inner);
        wires.retain(|wire| wire.strong_count() > 0);
        wires.push(Arc::downgrade(&wire));
        drop(wires);
        wire
    }

    pub fn note(&self, line: &str) {
        let at = self.start.elapsed().as_secs_f64() * 1000.0;
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{at:9.1} ms {line}"));
    }

    pub fn show(&self) -> String {
        const MOST: usize = 60;
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from("--- on the wire (> to the server, < from it)\n");
        let left_out = lines.len().saturating_sub(MOST);
        if left_out > 0 {
            writeln!(text, "    ({left_out} lines left out)").expect("a String takes all");
        }
        for line in &lines[left_out..] {
            writeln!(text, "{line}").expect("a String takes all");
        }
        text
    }
}

/// Returns the records of one test's connections.
pub fn wires_of(test: &str) -> Vec<String> {
    let wires = WIRES.lock().unwrap_or_else(PoisonError::into_inner);
    wires.iter().filter_map(Weak::upgrade).filter(|wire| wire.test == test).map(|wire| wire.show()).collect()
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// The first line and all header lines, as received.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns all values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// Returns the value of a header that may occur only once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} comes {} times in\n{}", values.len(), self.head);
        values.first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A scripted client. It checks strictly what it reads. On a panic it prints the bytes of the connection.
#[derive(Debug)]
pub struct RawPeer {
    stream: TcpStream,
    addr: SocketAddr,
    /// Bytes that were read and not yet parsed.
    input: Vec<u8>,
    taken: usize,
    ended: bool,
    closed: bool,
    /// Compression was agreed on.
    compresses: bool,
    wire: Arc<Wire>,
}

/// Returns an upgrade request. A header given here replaces the usual one of that name. The value "-" removes it.
pub fn upgrade_request(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> String {
    let host = addr.to_string();
    let usual = [
        ("Host", host.as_str()),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
    ];
    let mut request = format!("GET {target} HTTP/1.1\r\n");
    let given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let kept = usual.iter().filter(|(name, _)| !given(name));
    for (name, value) in kept.chain(headers).filter(|(_, value)| *value != "-") {
        write!(request, "{name}: {value}\r\n").expect("a String takes all");
    }
    request + "\r\n"
}

impl RawPeer {
    /// Connects, and sends nothing.
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("the server accepts");
        Self::from_stream(stream, addr)
    }

    /// The same, from a certain address. On Linux all of 127.0.0.0/8 can be used.
    #[track_caller]
    pub fn connect_from(from: IpAddr, addr: SocketAddr) -> Self {
        Self::from_stream(connect_from(from, addr).expect("the server accepts"), addr)
    }

    /// Uses a connection that was made elsewhere.
    #[track_caller]
    pub fn from_stream(stream: TcpStream, addr: SocketAddr) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Self {
            stream,
            addr,
            input: Vec::new(),
            taken: 0,
            ended: false,
            closed: false,
            compresses: false,
            wire: Wire::new(),
        }
    }

    /// Opens a WebSocket on `/`.
    #[track_caller]
    pub fn open(addr: SocketAddr) -> Self {
        Self::open_at(addr, "/", &[])
    }

    /// Opens a WebSocket.
    #[track_caller]
    pub fn open_at(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Self {
        let mut peer = Self::connect(addr);
        peer.upgrade(target, headers);
        peer
    }

    /// Requests a WebSocket and expects the 101.
    #[track_caller]
    pub fn upgrade(&mut self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(target, headers);
        self.expect_101()
    }

    /// Sends a request for a WebSocket; see [`upgrade_request`].
    #[track_caller]
    pub fn ask(&mut self, target: &str, headers: &[(&str, &str)]) {
        let request = upgrade_request(self.addr, target, headers);
        self.write(request);
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("it is connected")
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if let Err(error) = self.try_write(bytes) {
            panic!("cannot write {}: {error}", excerpt(bytes));
        }
    }

    /// Writes bytes to a peer that may have gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.note(&format!("> {} bytes {}", bytes.len(), excerpt(bytes)));
        let result = (&self.stream).write_all(bytes);
        if let Err(error) = &result {
            self.wire.note(&format!("> failed: {error}"));
        }
        result
    }

    /// Writes a frame.
    #[track_caller]
    pub fn send(&mut self, frame: &Frame) {
        self.write(frame.encode());
    }

    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.send(&Frame::text(text));
    }

    /// Ends this direction. The other one stays open.
    pub fn fin(&mut self) {
        self.wire.note("> FIN");
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Ends both directions at once, with an RST.
    pub fn reset(self) {
        self.wire.note("> RST");
        reset_when_dropped(&self.stream);
    }

    /// Returns the socket for another thread that reads or writes it.
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().expect("a second descriptor")
    }

    fn left(&self) -> &[u8] {
        &self.input[self.taken..]
    }

    /// Reads to the end of the stream, by FIN or RST, and expects no whole frame before it. Returns the bytes of an
    /// incomplete frame.
    #[track_caller]
    pub fn torn_frame(&mut self) -> &[u8] {
        match self.frame_until(Instant::now() + PATIENCE) {
            Ok(Some(frame)) => panic!("expected a torn frame, got {frame:?}"),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                panic!("the server did not close the connection")
            }
            Ok(None) | Err(_) => self.left(),
        }
    }

    /// Returns how many bytes of an incomplete frame were read.
    pub fn torn(&self) -> usize {
        self.left().len()
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let taken = self.left()[..bytes].to_vec();
        self.taken += bytes;
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        }
        taken
    }

    /// Reads more bytes. Returns `false` at the end of the stream.
    fn fill(&mut self, deadline: Instant) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 64 * 1024];
        match (&self.stream).read(&mut buffer) {
            Ok(0) => {
                self.wire.note("< FIN");
                self.ended = true;
                Ok(false)
            }
            Ok(bytes) => {
                self.wire.note(&format!("< {bytes} bytes {}", excerpt(&buffer[..bytes])));
                self.input.extend_from_slice(&buffer[..bytes]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(ErrorKind::TimedOut.into())
            }
            Err(error) => {
                self.wire.note(&format!("< failed: {error}"));
                self.ended = true;
                Err(error)
            }
        }
    }

    /// Returns the next frame before the deadline, or `None` at the end of the stream. Panics on a frame that a server
    /// must not send.
    #[track_caller]
    pub fn frame_until(&mut self, deadline: Instant) -> io::Result<Option<Frame>> {
        loop {
            match frame::parse_agreed(self.left(), self.compresses) {
                Err(fault) => panic!("the server sent a bad frame: {fault}"),
                Ok(Some((frame, bytes))) => {
                    assert!(!self.closed, "after its Close the server sent {frame:?}");
                    self.closed = frame.opcode == frame::CLOSE;
                    self.taken += bytes;
                    if self.taken == self.input.len() {
                        self.input.clear();
                        self.taken = 0;
                    }
                    return Ok(Some(frame));
                }
                Ok(None) => {}
            }
            // Otherwise the rest would be moved again for each of many small frames.
            if self.taken > 0 {
                self.input.drain(..self.taken);
                self.taken = 0;
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Returns the next frame.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.frame_until(Instant::now() + PATIENCE) {
            Ok(Some(frame)) => frame,
            Ok(None) => panic!("expected a frame, the stream has ended"),
            Err(error) => panic!("expected a frame: {error}"),
        }
    }

    /// Returns the next whole data message. Answers pings and skips pongs.
    #[track_caller]
    pub fn message(&mut self) -> Frame {
        loop {
            let frame = self.frame();
            match frame.opcode {
                frame::PING => self.send(&Frame::pong(frame.payload)),
                frame::PONG => {}
                frame::TEXT | frame::BINARY if frame.fin => return frame,
                _ => panic!("expected a whole data message, got {frame:?}"),
            }
        }
    }

    #[track_caller]
    pub fn expect_text(&mut self, text: &str) {
        let frame = self.frame();
        assert_eq!(frame.as_text(), text);
    }

    #[track_caller]
    pub fn expect_binary(&mut self, bytes: &[u8]) {
        let frame = self.frame();
        assert!(frame.opcode == frame::BINARY && frame.fin, "expected binary, got {frame:?}");
        assert!(frame.payload == bytes, "expected {}, got {frame:?}", excerpt(bytes));
    }

    #[track_caller]
    pub fn expect_pong(&mut self, payload: &[u8]) {
        let frame = self.frame();
        assert!(frame.opcode == frame::PONG && frame.payload == payload, "expected a pong, got {frame:?}");
    }

    /// Expects a Close with this code, and returns its reason.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        let frame = self.frame();
        assert!(frame.opcode == frame::CLOSE, "expected Close {code}, got {frame:?}");
        match frame.close_content() {
            Some((found, reason)) if found == code => reason,
            _ => panic!("expected Close {code}, got {frame:?}"),
        }
    }

    /// Skips data, expects a Close with one of these codes, and returns the code.
    #[track_caller]
    pub fn expect_close_at_last(&mut self, codes: &[u16]) -> u16 {
        loop {
            let frame = self.frame();
            if frame.opcode == frame::CLOSE {
                match frame.close_content() {
                    Some((code, _)) if codes.contains(&code) => return code,
                    _ => panic!("expected Close {codes:?}, got {frame:?}"),
                }
            }
        }
    }

    /// Expects a Close without a code.
    #[track_caller]
    pub fn expect_close_without_code(&mut self) {
        let frame = self.frame();
        assert!(
            frame.opcode == frame::CLOSE && frame.payload.is_empty(),
            "expected an empty Close, got {frame:?}"
        );
    }

    /// Expects the end of the stream by a FIN, without a byte before it. Then ends this direction, as a client does.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        self.expect_eof_alone();
        self.fin();
    }

    /// The same, but this direction stays open.
    #[track_caller]
    pub fn expect_eof_alone(&mut self) {
        match self.frame_until(Instant::now() + PATIENCE) {
            Ok(None) => {
                assert!(self.left().is_empty(), "a torn frame before the end: {}", excerpt(self.left()))
            }
            Ok(Some(frame)) => panic!("expected the end of the stream, got {frame:?}"),
            Err(error) => panic!("expected the end of the stream: {error}"),
        }
    }

    /// Expects the end of the stream by FIN or RST, and skips everything before it. Then ends this direction.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.fill(deadline) {
                Ok(true) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    panic!("the server did not close the connection")
                }
                Ok(false) | Err(_) => break,
            }
        }
        self.fin();
    }

    /// Expects no byte for this time.
    #[track_caller]
    pub fn expect_silence(&mut self, duration: Duration) {
        match self.frame_until(Instant::now() + duration) {
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            other => panic!("expected silence, got {other:?}"),
        }
    }

    /// Sends a Close, and expects the answer and the end of the stream.
    #[track_caller]
    pub fn close(mut self, code: u16) {
        self.send(&Frame::close(code, ""));
        self.expect_close_at_last(&[code]);
        self.expect_eof();
    }

    /// Returns the head and body of an HTTP answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        match self.try_answer() {
            Ok(Some(answer)) => answer,
            Ok(None) => panic!("expected an HTTP answer, the stream has ended"),
            Err(error) => panic!("expected an HTTP answer: {error}"),
        }
    }

    /// The same, from a server that may close the connection instead. Returns `None` if it did, cleanly and without a
    /// byte.
    #[track_caller]
    pub fn try_answer(&mut self) -> io::Result<Option<Answer>> {
        self.read_answer(true)
    }

    /// Returns the answer to a HEAD. It has the length of a body, and no body.
    #[track_caller]
    pub fn head_answer(&mut self) -> Answer {
        match self.read_answer(false) {
            Ok(Some(answer)) => answer,
            other => panic!("expected an HTTP answer, got {other:?}"),
        }
    }

    #[track_caller]
    fn read_answer(&mut self, with_body: bool) -> io::Result<Option<Answer>> {
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            if let Some(end) = self.left().windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.fill(deadline)? {
                assert!(self.left().is_empty(), "half an HTTP answer: {}", excerpt(self.left()));
                return Ok(None);
            }
        };
        let head = String::from_utf8(self.take(end)).expect("a head in ASCII");
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|line| line.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("not an HTTP/1.1 status line: {head:?}"));
        let mut answer = Answer { status, head, body: Vec::new() };
        if !with_body {
            return Ok(Some(answer));
        }
        let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        while self.left().len() < length {
            if !self.fill(deadline)? {
                break;
            }
        }
        let available = self.left().len().min(length);
        answer.body = self.take(available);
        Ok(Some(answer))
    }

    /// Expects the answer to a successful upgrade, word for word.
    #[track_caller]
    pub fn expect_101(&mut self) -> Answer {
        let answer = self.answer();
        assert_eq!(answer.status, 101, "{}\n{}", answer.head, answer.text());
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT), "{}", answer.head);
        self.compresses = answer.header("sec-websocket-extensions").is_some();
        answer
    }

    /// Expects a refusal with this status and a correct length, and the end of the connection after it.
    #[track_caller]
    pub fn expect_refusal(&mut self, status: u16) -> Answer {
        self.expect_refusal_in(&[status])
    }

    /// The same with one of several statuses.
    #[track_caller]
    pub fn expect_refusal_in(&mut self, statuses: &[u16]) -> Answer {
        let answer = self.answer();
        assert!(
            statuses.contains(&answer.status),
            "expected one of {statuses:?}:\n{}{}",
            answer.head,
            answer.text()
        );
        let length =
            answer.header("content-length").unwrap_or_else(|| panic!("no Content-Length in {}", answer.head));
        assert_eq!(length, answer.body.len().to_string(), "Content-Length and body differ");
        // A 426 has two options, "close" and "Upgrade".
        let mut options =
            answer.all("connection").into_iter().flat_map(|value| value.split(',')).map(str::trim);
        assert!(
            options.any(|option| option.eq_ignore_ascii_case("close")),
            "no Connection: close in {}",
            answer.head
        );
        self.expect_eof();
        answer
    }
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.wire.show());
        }
    }
}
