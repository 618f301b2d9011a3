//! The output of `{:?}` has the identity and the state of a value. It never has sent or received messages, or a cookie.

use std::fmt::{self, Write};
use std::sync::mpsc;
use support::{PATIENCE, RawPeer, RawServer, TestServer, next, watchdog};
use threadws::Sender;

/// The secret as text, and as a list of bytes.
const SECRET: [&str; 2] = ["hunter2", "104, 117, 110, 116, 101, 114, 50"];

#[track_caller]
fn hides_the_secret(shown: &str) {
    assert!(SECRET.iter().all(|secret| !shown.contains(secret)), "{shown:.2000}");
    assert!(shown.len() < 2000, "{} bytes: {shown:.2000}", shown.len());
}

#[test]
fn debug_shows_no_message() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        client.recv()?;
        let tick = client.every(PATIENCE, SECRET[0]);
        // The peer reads nothing, so some of these messages wait.
        while client.sender().try_send(SECRET[0].repeat(1000)).is_ok() {}
        // Another message is in its read buffer.
        tx.send(format!("{client:?} {tick:?} {:?} {:?}", client.sender(), client.hub()?)).unwrap_or(());
        client.sender().terminate();
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text(SECRET[0]);
    peer.send_text(SECRET[0]);
    let shown = next(&rx, "what is shown");
    hides_the_secret(&shown);
    assert!(shown.contains("state: Open"), "{shown}");
    hides_the_secret(&format!("{:?} {:?} {:?}", *server, server.hub(), server.hub().clients()));
}

#[test]
fn debug_shows_no_cookie_of_a_server() {
    let _dog = watchdog(30);
    let cookie = "Set-Cookie: session=hunter2\r\nX-Shown: yes\r\n";
    let host = RawServer::new(move |listener| {
        let mut guest = listener.accept();
        guest.accept_handshake(cookie);
        guest.expect_close(1001);
        listener.accept().write(format!("HTTP/1.1 401 no\r\n{cookie}Content-Length: 0\r\n\r\n"));
    });
    let connection = threadws::connect(host.url()).expect("a connection");
    let response = connection.response().expect("a client has one");
    assert_eq!(response.headers()["set-cookie"], "session=hunter2");
    hides_the_secret(&format!("{connection:?} {response:?}"));
    drop(connection);
    match threadws::connect(host.url()).expect_err("refused") {
        threadws::Error::Refused(response) => hides_the_secret(&format!("{response:?}")),
        error => panic!("{error}"),
    }
    host.join();
}

/// Uses a sender in another thread while it is printed.
struct Slow<'a>(&'a Sender);

impl Write for Slow<'_> {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        let (tx, rx) = mpsc::channel();
        let sender = self.0.clone();
        std::thread::spawn(move || tx.send((sender.try_send("x").is_ok(), sender.stats().backlog)));
        rx.recv_timeout(PATIENCE).map(drop).map_err(|_| fmt::Error)
    }
}

#[test]
fn printing_a_sender_holds_no_lock() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let sender = client.sender();
        let mut slow = Slow(&sender);
        let results =
            [write!(slow, "{sender:?}"), write!(slow, "{client:?}"), write!(slow, "{:?}", client.hub()?)];
        tx.send(results).unwrap_or(());
        client.ignore()?;
        Ok(())
    });
    let peer = RawPeer::open(server.addr());
    assert_eq!(next(&rx, "the printing"), [Ok(()); 3], "a thread waited");
    drop(peer);
}
