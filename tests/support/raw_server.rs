//! A scripted server on a raw socket, for tests of clients. It answers with any bytes, expects masked frames, and
//! records the wire.

use super::frame::{self, Frame, excerpt};
use super::raw_peer::Wire;
use super::time::PATIENCE;
use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::handshake::derive_accept_key;

/// A server that runs a script in its own thread.
#[derive(Debug)]
pub struct RawServer {
    addr: SocketAddr,
    script: Option<std::thread::JoinHandle<()>>,
}

/// The script accepts clients here.
#[derive(Debug)]
pub struct RawListener(TcpListener);

impl RawServer {
    #[track_caller]
    pub fn new(script: impl FnOnce(&RawListener) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        // The name makes the records of the script belong to this test.
        let thread = std::thread::Builder::new().name(super::time::test_name());
        let script = thread.spawn(move || script(&RawListener(listener))).expect("a thread for the script");
        Self { addr, script: Some(script) }
    }

    /// Accepts one client, answers with these bytes, and waits until the client has gone.
    #[track_caller]
    pub fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(move |listener| {
            let mut peer = listener.accept();
            peer.write(bytes);
            peer.expect_gone();
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("ws://{}/", self.addr)
    }

    /// Waits for the end of the script.
    #[track_caller]
    pub fn join(mut self) {
        let script = self.script.take().expect("not joined before");
        assert!(script.join().is_ok(), "the script failed");
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        if let Some(script) = self.script.take() {
            assert!(script.join().is_ok() || std::thread::panicking(), "the script failed");
        }
    }
}

impl RawListener {
    /// Returns the next client, after the head of its request was read.
    #[track_caller]
    pub fn accept(&self) -> RawServerPeer {
        RawServerPeer::of(self.stream())
    }

    /// Returns the socket of the next client, from which nothing was read yet.
    #[track_caller]
    pub fn stream(&self) -> TcpStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).expect("blocking");
                    return stream;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("no client came: {error}"),
            }
        }
    }

    /// Expects that no further client connects within a moment.
    #[track_caller]
    pub fn expect_no_client(&self) {
        std::thread::sleep(super::time::ms(50));
        if let Ok((_, addr)) = self.0.accept() {
            panic!("no client was expected, {addr} connected");
        }
    }
}

/// One accepted client. On a panic it prints the bytes of the connection.
#[derive(Debug)]
pub struct RawServerPeer {
    stream: TcpStream,
    /// The first line and all header lines of its request.
    pub head: String,
    input: Vec<u8>,
    wire: Arc<Wire>,
}

impl RawServerPeer {
    /// Uses any connected stream socket that has a client at its other end.
    #[track_caller]
    pub fn of(stream: impl Into<OwnedFd>) -> Self {
        // Reading, writing and timeouts are the same for all stream sockets.
        let stream = TcpStream::from(stream.into());
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        let mut peer = Self { stream, head: String::new(), input: Vec::new(), wire: Wire::new() };
        let end = peer.until(|input| input.windows(4).position(|bytes| bytes == b"\r\n\r\n"));
        peer.head = String::from_utf8(peer.input.drain(..end + 4).collect()).expect("a head in ASCII");
        peer
    }

    /// Answers the request with a 101 and these additional headers.
    #[track_caller]
    pub fn accept_handshake(&mut self, headers: &str) {
        let head = self.handshake_answer(headers);
        self.write(head);
    }

    /// Returns what [`accept_handshake`](Self::accept_handshake) writes. Each header line ends in "\r\n".
    #[track_caller]
    pub fn handshake_answer(&self, headers: &str) -> String {
        let accept = derive_accept_key(self.header("sec-websocket-key").expect("a key").as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{headers}\r\n"
        )
    }

    /// Returns the value of a header that may occur only once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = values.next();
        assert!(values.next().is_none(), "{name} comes more than once in\n{}", self.head);
        value
    }

    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.try_write(bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", excerpt(bytes)));
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.note(&format!("> {} bytes {}", bytes.len(), excerpt(bytes)));
        (&self.stream).write_all(bytes)
    }

    /// Sends a frame as a server does, without a mask, unless the test asked for one.
    #[track_caller]
    pub fn send(&mut self, frame: Frame) {
        self.write(frame.unmasked().encode());
    }

    #[track_caller]
    fn until<T>(&mut self, find: impl Fn(&[u8]) -> Option<T>) -> T {
        loop {
            if let Some(found) = find(&self.input) {
                return found;
            }
            let more = self.fill();
            assert!(more.as_ref().is_ok_and(|more| *more), "the client ended too early: {more:?}");
        }
    }

    /// Reads more bytes. Returns `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = vec![0; 64 * 1024];
        let bytes = (&self.stream).read(&mut buffer)?;
        self.wire.note(&format!("< {bytes} bytes {}", excerpt(&buffer[..bytes])));
        self.input.extend_from_slice(&buffer[..bytes]);
        Ok(bytes > 0)
    }

    /// Returns the next frame, unmasked; `mask` has its key. Panics on a frame that a client must not send.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        let (frame, bytes) = self.until(|input| match frame::parse_masked(input) {
            Ok(found) => found,
            Err(fault) => panic!("the client sent a bad frame: {fault}"),
        });
        self.input.drain(..bytes);
        frame
    }

    #[track_caller]
    pub fn expect_text(&mut self, text: &str) {
        let frame = self.frame();
        assert_eq!(frame.as_text(), text);
    }

    /// Expects a Close with this code, and returns its reason.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        let frame = self.frame();
        match frame.close_content() {
            Some((found, reason)) if frame.opcode == frame::CLOSE && found == code => reason,
            _ => panic!("expected Close {code}, got {frame:?}"),
        }
    }

    /// Answers the client's Close, and ends the connection first, as a server does.
    #[track_caller]
    pub fn finish(mut self, code: u16) {
        self.expect_close(code);
        self.send(Frame::close(code, ""));
        self.fin();
        self.expect_eof();
    }

    pub fn fin(&mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Waits until input has arrived, and reads none of it.
    #[track_caller]
    pub fn expect_input(&mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let count = self.stream.peek(&mut [0]).expect("the client writes");
        assert_eq!(count, 1, "the client ended too early");
    }

    /// Expects the end of the stream by a FIN, with nothing before it.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        match self.fill() {
            Ok(false) if self.input.is_empty() => {}
            other => panic!("expected the end of the stream, got {other:?} {}", excerpt(&self.input)),
        }
    }

    /// Expects the end of the stream by FIN or RST, and skips everything before it.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        loop {
            match self.fill() {
                Ok(true) => self.input.clear(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("the client did not close the connection")
                }
                Ok(false) | Err(_) => return,
            }
        }
    }
}

impl Drop for RawServerPeer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("as a server: {}", self.wire.show());
        }
    }
}
