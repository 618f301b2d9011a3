//! The client of the library talks to other servers: npm's `ws`, Python's `websockets`, and tungstenite.
#![cfg(feature = "cli")]

use std::net::TcpListener;
use support::{PATIENCE, Process, programs, watchdog};
use threadws::{Closed, Connect, Connection, Error, Event, Message};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;

#[track_caller]
fn expect_echo(connection: &mut Connection, message: impl Into<Message>) {
    let message = message.into();
    connection.send(&message).expect("sent");
    let back = connection.recv_timeout(PATIENCE).expect("open").expect("open");
    assert!(back == message, "{} bytes came back as {}", message.as_bytes().len(), back.as_bytes().len());
}

#[track_caller]
fn expect_end(connection: &mut Connection) -> Closed {
    // The code decides whether it is an error.
    drop(connection.recv_timeout(PATIENCE));
    connection.closed().expect("it is over").clone()
}

/// Text, binary, 1 MiB, fragments, pings in both directions, and the end from both sides.
fn talks(to: impl Fn() -> Connect, ended: impl Fn(&str)) {
    let connect = || to().connect();
    let mut connection = to()
        .subprotocols(["v2", "chat"])
        .header("Authorization", "Bearer me")
        .connect()
        .expect("a connection");
    assert_eq!(connection.subprotocol(), Some("chat"));
    assert_eq!(connection.response().expect("a client's").headers()["x-server"], "the other one");
    for text in ["hello", "", "h\u{e9}llo \u{c548}\u{b155} \u{1f438}"] {
        expect_echo(&mut connection, text);
    }
    for size in [125, 126, 65_535, 65_536, 1 << 20] {
        expect_echo(&mut connection, "x".repeat(size));
        expect_echo(&mut connection, vec![0xa5; size]);
    }
    connection.send("who am I").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some(Message::from("Bearer me")));
    connection.send("in fragments").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some(Message::from("one two three")));
    connection.send("ping me").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some(Message::from("ponged from the server")));
    for payload in [&b""[..], b"ping", &[b'x'; 125]] {
        connection.ping(payload).expect("sent");
        assert_eq!(connection.next_event().expect("open"), Some(Event::Pong(payload.to_vec())));
    }
    // Many in flight, in both directions at once.
    let sender = connection.sender();
    let thread = std::thread::spawn(move || (0..1000).try_for_each(|number| sender.send(number.to_string())));
    for number in 0..1000 {
        assert_eq!(connection.recv().expect("open"), Some(Message::from(number.to_string())));
    }
    thread.join().expect("no panic").expect("all sent");
    connection.close(4001, "done").expect("clean");
    let closed = connection.closed().expect("it is over");
    assert!(closed.is_clean() && !closed.by_peer() && u16::from(closed.code()) == 4001, "{closed}");
    ended("closed 4001 done");

    let mut connection = connect().expect("a connection");
    assert_eq!(connection.subprotocol(), None);
    connection.send("close 4002 that is all").expect("sent");
    let closed = expect_end(&mut connection);
    assert_eq!((u16::from(closed.code()), closed.reason()), (4002, "that is all"));
    assert!(closed.is_clean() && closed.by_peer(), "{closed}");

    let mut connection = connect().expect("a connection");
    connection.send("close 1000 ").expect("sent");
    assert_eq!(connection.recv().expect("a clean end"), None);

    let mut connection = connect().expect("a connection");
    connection.send("terminate").expect("sent");
    assert!(matches!(connection.recv_timeout(PATIENCE), Err(Error::Closed(_))));
    assert_eq!(u16::from(connection.closed().expect("it is over").code()), 1006);

    drop(connect().expect("a connection"));
    ended("closed 1001");
}

fn talks_to(command: Option<std::process::Command>) {
    let _dog = watchdog(120);
    let Some(command) = command else { return };
    let server = Process::spawn(command);
    let url = format!("ws://127.0.0.1:{}/", server.wait_for_stdout("").trim());
    talks(
        || Connect::new(&url),
        |how| {
            server.wait_for_stdout(how);
        },
    );
}

/// The same over TLS.
#[cfg(feature = "tls")]
fn talks_over_tls_to(command: Option<std::process::Command>) {
    use support::certificate;
    use threadws::tls::ClientTls;
    let _dog = watchdog(120);
    let Some(mut command) = command else { return };
    command.env("THREADWS_CERT", certificate("server.pem")).env("THREADWS_KEY", certificate("server.key"));
    let server = Process::spawn(command);
    let url = format!("wss://localhost:{}/", server.wait_for_stdout("").trim());
    talks(
        || Connect::new(&url).tls(ClientTls::new().ca_file(certificate("ca.pem"))),
        |how| {
            server.wait_for_stdout(how);
        },
    );
}

#[test]
#[ignore = "installs packages from the internet"]
fn ws() {
    talks_to(programs::node("server.mjs", &[]));
}

#[test]
#[ignore = "installs packages from the internet"]
fn websockets() {
    talks_to(programs::python("server.py", &[]));
}

#[test]
#[cfg(feature = "tls")]
#[ignore = "installs packages from the internet"]
fn ws_over_tls() {
    talks_over_tls_to(programs::node("server.mjs", &[]));
}

#[test]
#[cfg(feature = "tls")]
#[ignore = "installs packages from the internet"]
fn websockets_over_tls() {
    talks_over_tls_to(programs::python("server.py", &[]));
}

#[test]
fn tungstenite_accept() {
    let _dog = watchdog(60);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let (report, reports) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let ended = serve(stream.expect("a client"));
            if report.send(ended).is_err() {
                return;
            }
        }
    });
    talks(
        || Connect::new(&url),
        |how| {
            let ended = reports
                .iter()
                .find(|ended| ended.starts_with("closed 4001") || ended.starts_with("closed 1001"));
            assert!(ended.as_ref().is_some_and(|ended| ended.starts_with(how)), "{ended:?} is not {how}");
        },
    );
}

/// Does the same as `tests/interop/server.*`.
fn serve(stream: std::net::TcpStream) -> String {
    use tungstenite::Message as Theirs;
    let mut authorization = String::new();
    #[expect(clippy::result_large_err, reason = "tungstenite's own signature")]
    let callback = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let header = |name: &str| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        authorization = header("authorization").to_owned();
        response.headers_mut().insert("x-server", "the other one".parse().expect("a value"));
        if header("sec-websocket-protocol").contains("chat") {
            response.headers_mut().insert("sec-websocket-protocol", "chat".parse().expect("a value"));
        }
        Ok(response)
    };
    let mut socket = tungstenite::accept_hdr(stream, callback).expect("a handshake");
    let mut ended = String::from("closed 1006");
    loop {
        let answer = match socket.read() {
            Ok(Theirs::Text(text)) => match text.split(' ').collect::<Vec<_>>()[..] {
                ["ping", "me"] => Theirs::Ping("from the server".into()),
                ["who", "am", "I"] => Theirs::text(&authorization),
                ["in", "fragments"] => {
                    use tungstenite::protocol::frame::{
                        Frame,
                        coding::{Data, OpCode},
                    };
                    for (part, code) in
                        [("one ", Data::Text), ("two ", Data::Continue), ("three", Data::Continue)]
                    {
                        let frame = Frame::message(part, OpCode::Data(code), part == "three");
                        socket.write(Theirs::Frame(frame)).expect("queued");
                    }
                    socket.flush().expect("sent");
                    continue;
                }
                ["terminate"] => return ended,
                ["close", code, ..] => {
                    let reason = text.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
                    let code: u16 = code.parse().expect("a code");
                    Theirs::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
                }
                _ => Theirs::Text(text),
            },
            Ok(Theirs::Pong(payload)) => {
                Theirs::text(format!("ponged {}", String::from_utf8_lossy(&payload)))
            }
            Ok(Theirs::Binary(bytes)) => Theirs::Binary(bytes),
            Ok(Theirs::Close(frame)) => {
                let frame = frame.expect("with a code");
                ended = format!("closed {} {}", u16::from(frame.code), frame.reason);
                continue;
            }
            Ok(_) => continue,
            Err(_) => return ended,
        };
        drop(socket.send(answer));
    }
}
