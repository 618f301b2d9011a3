//! Programs of `examples/`, as cargo built them, on a free port.

use super::programs::built;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// Much longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running example. It is killed when this is dropped.
pub struct Example {
    child: Child,
    lines: Receiver<String>,
    pub addr: SocketAddr,
}

impl Example {
    #[track_caller]
    pub fn run(name: &str) -> Self {
        let file = built("examples").join(name);
        let mut child = Command::new(&file)
            .arg("127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; `cargo build --examples` builds it", file.display())
            });
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut example = Self { child, lines, addr: SocketAddr::from(([0; 4], 0)) };
        let line = example.line();
        let addr = line.strip_prefix("listening on ").and_then(|url| url.split("//").nth(1));
        example.addr = addr
            .and_then(|addr| addr.trim_end_matches('/').parse().ok())
            .unwrap_or_else(|| panic!("expected an address, got {line:?}"));
        example
    }

    /// Runs an example that cannot start at this address, and returns its exit status and its stderr.
    #[track_caller]
    pub fn fail(name: &str, addr: &str) -> (Option<i32>, String) {
        let output = Command::new(built("examples").join(name)).arg(addr).output().expect("it was built");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    }

    /// Returns the next line that it prints.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// Returns the next line that contains this text.
    #[track_caller]
    pub fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
    }

    /// Waits for its end, and returns its exit status.
    pub fn status(mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }

    pub fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.addr).expect("the example listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        self.ask("/", &[]).unwrap_or_else(|status| panic!("refused with {status}"))
    }

    /// Requests a WebSocket. Returns the status if the server refuses it.
    #[track_caller]
    pub fn ask(&self, target: &str, headers: &[(&'static str, &'static str)]) -> Result<Client, u16> {
        let mut request =
            format!("ws://{}{target}", self.addr).into_client_request().expect("a valid request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        match tungstenite::client(request, self.socket()) {
            Ok((socket, _)) => Ok(Client(socket)),
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    /// Returns the whole answer to a plain GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let mut socket = self.socket();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr).expect("written");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer, and its end");
        answer
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub struct Client(pub WebSocket<TcpStream>);

impl Client {
    #[track_caller]
    pub fn send(&mut self, message: impl Into<Message>) {
        self.0.send(message.into()).expect("sent");
    }

    #[track_caller]
    pub fn recv(&mut self) -> Message {
        self.0.read().expect("a message")
    }

    /// Returns the next message as JSON.
    #[track_caller]
    pub fn json(&mut self) -> serde_json::Value {
        let message = self.recv();
        let text = message.to_text().unwrap_or_else(|_| panic!("expected text, got {message:?}"));
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        assert_eq!(self.recv(), Message::text(text));
    }

    /// Closes the connection, and returns the code of the answer.
    #[track_caller]
    pub fn close(mut self) -> Option<u16> {
        self.0.close(None).expect("a Close is sent");
        loop {
            match self.0.read() {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(error) => panic!("no Close came: {error}"),
            }
        }
    }
}
