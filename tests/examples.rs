//! Each example does what its comment promises. It is run as it was built, on a free port, by a client of its own.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// Much longer than anything here takes, and yet an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running example; it is killed when this is dropped.
struct Example {
    child: Child,
    lines: Receiver<String>,
    addr: SocketAddr,
}

impl Example {
    #[track_caller]
    fn run(name: &str) -> Self {
        let file = built(name);
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

    /// The next line that it prints.
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// The next line with this in it.
    #[track_caller]
    fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.addr).expect("the example listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    #[track_caller]
    fn connect(&self) -> Client {
        self.ask("/", &[]).unwrap_or_else(|status| panic!("refused with {status}"))
    }

    /// Asks for a WebSocket; the status if it is refused.
    #[track_caller]
    fn ask(&self, target: &str, headers: &[(&'static str, &'static str)]) -> Result<Client, u16> {
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

    /// The whole answer to a plain GET.
    #[track_caller]
    fn get(&self, path: &str) -> String {
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

/// Cargo builds examples for `cargo test`, beside the folder of the tests.
fn built(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("this test's path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join("examples").join(name)
}

struct Client(WebSocket<TcpStream>);

impl Client {
    #[track_caller]
    fn send(&mut self, message: impl Into<Message>) {
        self.0.send(message.into()).expect("sent");
    }

    #[track_caller]
    fn recv(&mut self) -> Message {
        self.0.read().expect("a message")
    }

    #[track_caller]
    fn expect(&mut self, text: &str) {
        assert_eq!(self.recv(), Message::text(text));
    }

    /// The closing handshake, begun by us; the code of the answer.
    #[track_caller]
    fn close(mut self) -> Option<u16> {
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

#[test]
fn hello_prints_what_comes_and_sends_every_3_seconds() {
    let example = Example::run("hello");
    let mut client = example.connect();
    assert_eq!(example.line(), "client connected from 127.0.0.1");
    client.send("good day");
    assert_eq!(example.line(), r#"Text("good day")"#);
    client.expect("a message from the server");
    assert_eq!(client.close(), None);
}

#[test]
fn hello_is_12_lines() {
    let text = include_str!("../examples/hello.rs");
    let code = text.lines().skip_while(|line| line.is_empty() || line.starts_with("//!"));
    assert_eq!(code.count(), 12);
}

#[test]
fn echo_gives_back_text_and_binary_up_to_20_mib() {
    let example = Example::run("echo");
    let mut client = example.connect();
    for message in
        [Message::text("grüß dich"), Message::binary(vec![0, 255]), Message::binary(vec![7; 3 << 20])]
    {
        client.send(message.clone());
        assert_eq!(client.recv(), message);
    }
    let large = vec![7; (20 << 20) + 1];
    // It may be cut off by the refusal before it is out.
    drop(client.0.send(Message::binary(large)));
    let Ok(Message::Close(Some(frame))) = client.0.read() else { panic!("expected a Close") };
    assert_eq!(u16::from(frame.code), 1009);
}

#[test]
fn push_sends_from_another_thread_while_the_handler_waits() {
    let example = Example::run("push");
    let mut client = example.connect();
    client.expect("push 1");
    client.send("still here");
    assert!(example.line().ends_with(r#": Text("still here")"#));
    client.expect("push 2");
    client.close();
    assert!(example.line().contains("is gone: connection closed"));
}

#[test]
fn chat_passes_on_to_everyone_and_tells_who_comes_and_goes() {
    let example = Example::run("chat");
    let page = example.get("/");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("</script>\n"), "{page}");
    assert!(example.get("/other").starts_with("HTTP/1.1 404 "));

    let mut first = example.connect();
    let Message::Text(welcome) = first.recv() else { panic!("expected text") };
    let name = welcome.as_str().strip_suffix(" is here, 1 in all").expect("a welcome").to_owned();
    let mut second = example.connect();
    let Message::Text(welcome) = second.recv() else { panic!("expected text") };
    assert!(welcome.as_str().ends_with(" is here, 2 in all"), "{welcome}");
    assert_eq!(first.recv(), Message::Text(welcome));

    first.send("hello, all");
    for client in [&mut first, &mut second] {
        client.expect(&format!("{name}: hello, all"));
    }
    first.send(vec![1, 2]);
    first.expect("only text, please");
    // Without a Close: whoever breaks off is missed, too.
    drop(first);
    second.expect(&format!("{name} is gone"));
}

#[test]
fn behind_proxy_believes_proxies_and_nobody_else() {
    let example = Example::run("behind_proxy");
    let told = |headers: &[(&'static str, &'static str)]| {
        let mut client = example.ask("/", headers).expect("let in");
        let Message::Text(text) = client.recv() else { panic!("expected text") };
        text.to_string()
    };
    let forwarded =
        [("x-forwarded-for", "198.51.100.1, 203.0.113.9, 10.1.2.3"), ("user-agent", "a \"test\"")];
    assert_eq!(told(&forwarded), r#"you are 203.0.113.9, by way of 127.0.0.1, with "a \"test\"""#);
    example.line_with("203.0.113.9 asks for \"/\"");
    assert!(told(&[]).starts_with("you are 127.0.0.1, by way of 127.0.0.1,"));

    assert_eq!(example.ask("/", &[("via", "1.1 loop")]).err(), Some(508));
    example.line_with("failed with 508: this proxy calls itself");
}

#[test]
fn auth_lets_nobody_in_without_a_token_and_knows_the_others() {
    let example = Example::run("auth");
    for (target, headers, name) in
        [("/", &[("authorization", "Bearer apple")][..], "alice"), ("/?a=b&token=cherry", &[], "carol")]
    {
        example.ask(target, headers).expect("let in").expect(&format!("hello, {name}"));
        assert_eq!(example.line(), format!("{name} connected from 127.0.0.1"));
    }
    for (target, headers) in [("/", &[][..]), ("/?token=pear", &[("authorization", "Bearer secret")])] {
        assert_eq!(example.ask(target, headers).err(), Some(401));
        let line = example.line();
        assert!(line.contains("failed with 401: who are you?"), "{line}");
        assert!(!line.contains("pear") && !line.contains("secret"), "{line}");
    }
}

#[test]
fn attach_hands_upgrades_over_and_answers_pages_itself() {
    let example = Example::run("attach");
    assert!(example.get("/").ends_with("\r\n\r\n0 WebSockets are open\n"));
    assert!(example.get("/other").starts_with("HTTP/1.1 404 "));
    assert_eq!(example.ask("/elsewhere", &[]).err(), Some(404));

    let mut client = example.ask("/ws", &[]).expect("let in");
    client.send("through two servers");
    client.expect("through two servers");
    assert!(example.get("/").ends_with("\r\n\r\n1 WebSockets are open\n"));
    assert_eq!(client.close(), None);
}

#[test]
fn attach_keeps_what_came_behind_the_head() {
    let example = Example::run("attach");
    let mut socket = example.socket();
    let request = "GET /ws HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // "hi", masked with zeros.
    let frame = b"\x81\x82\0\0\0\0hi";
    socket.write_all(&[request.as_bytes(), frame].concat()).expect("written");
    let mut answer = Vec::new();
    let mut octet = [0];
    while !answer.ends_with(b"\r\n\r\n\x81\x02hi") {
        match socket.read(&mut octet) {
            Ok(0) => panic!("the end after {:?}", String::from_utf8_lossy(&answer)),
            Ok(_) => answer.push(octet[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&answer)),
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
}
