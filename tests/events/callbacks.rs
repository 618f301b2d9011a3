//! The callbacks of one client: when each is called, and how each can end the connection.

use std::sync::mpsc::{self, Receiver, Sender};
use support::{Frame, RawPeer, TestServer, eventually, ms, next, watchdog};
use threadws::server::Events;
use threadws::{BoxError, CloseCode, Closed, Connection, Error, Message, Server};

type Echo = fn(&mut Connection, Message) -> Result<(), BoxError>;

fn echo(client: &mut Connection, message: Message) -> Result<(), BoxError> {
    Ok(client.send(message)?)
}

/// Reports each call.
struct Reporting(Sender<String>);

impl Events for Reporting {
    fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError> {
        self.0.send(format!("message {message}"))?;
        match message.as_text() {
            Some("fail") => return Err("no luck".into()),
            Some("panic") => panic!("a bug"),
            Some("close") => client.close(4000, "enough")?,
            Some("start to close") => client.sender().close(4001, "")?,
            Some("recv") => {
                let more = client.recv()?;
                self.0.send(format!("received {}", more.ok_or("the end")?))?;
            }
            _ => client.write(message)?,
        }
        Ok(())
    }

    fn ping(&mut self, _: &mut Connection, payload: &[u8]) -> Result<(), BoxError> {
        Ok(self.0.send(format!("ping {payload:?}"))?)
    }

    fn pong(&mut self, _: &mut Connection, payload: &[u8]) -> Result<(), BoxError> {
        Ok(self.0.send(format!("pong {payload:?}"))?)
    }

    fn closed(&mut self, client: &mut Connection, closed: &Closed) {
        assert!(matches!(client.send("too late"), Err(Error::Closed(_))));
        self.0.send(format!("closed {closed}")).unwrap_or(());
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.0.send("dropped".to_owned()).unwrap_or(());
    }
}

fn reporting() -> (TestServer, Receiver<String>) {
    reporting_with(|server| server)
}

fn reporting_with(settings: impl FnOnce(Server) -> Server) -> (TestServer, Receiver<String>) {
    let (tx, rx) = mpsc::channel();
    (TestServer::with_events(settings, move |_| Ok(Reporting(tx.clone()))), rx)
}

#[track_caller]
fn expect(rx: &Receiver<String>, expected: &str) {
    let call = next(rx, expected);
    assert!(call.starts_with(expected), "{call} instead of {expected}");
}

#[test]
fn each_event_has_its_callback_in_order() {
    let _dog = watchdog(30);
    let (server, rx) = reporting();
    let mut peer = RawPeer::open(server.addr());
    let frames = [
        Frame::text("one"),
        Frame::ping(*b"p"),
        Frame::pong(*b"q"),
        Frame::binary(*b"two"),
        Frame::close(1000, "bye"),
    ];
    // In one segment.
    peer.write(frames.iter().flat_map(Frame::encode).collect::<Vec<_>>());
    for call in ["message one", "ping [112]", "pong [113]", "message", "closed received 1000", "dropped"] {
        expect(&rx, call);
    }
    peer.expect_pong(b"p");
    peer.expect_text("one");
    peer.expect_binary(b"two");
    peer.expect_close(1000);
    peer.expect_eof();
}

#[test]
fn a_message_in_many_segments_is_one_call() {
    let _dog = watchdog(30);
    let (server, rx) = reporting();
    let mut peer = RawPeer::open(server.addr());
    let text = "x".repeat(300);
    for byte in Frame::text(&text).encode() {
        peer.write([byte]);
        std::thread::yield_now();
    }
    expect(&rx, &format!("message {text}"));
    peer.expect_text(&text);
    // Fragments, with a message of many reads behind them.
    peer.send(&Frame::text("a").more());
    peer.send(&Frame::continuation(*b"b"));
    expect(&rx, "message ab");
    let large = "y".repeat(700_000);
    peer.send_text(&large);
    peer.expect_text("ab");
    peer.expect_text(&large);
}

#[test]
fn messages_behind_the_request_are_received() {
    let _dog = watchdog(30);
    let (server, rx) = reporting();
    let mut peer = RawPeer::connect(server.addr());
    let mut bytes = support::upgrade_request(server.addr(), "/", &[]).into_bytes();
    bytes.extend(Frame::text("early").encode());
    bytes.extend(&Frame::text("torn").encode()[..3]);
    peer.write(bytes);
    peer.expect_101();
    peer.expect_text("early");
    expect(&rx, "message early");
    peer.write(&Frame::text("torn").encode()[3..]);
    peer.expect_text("torn");
}

#[test]
fn a_failed_callback_closes_its_client_alone() {
    let _dog = watchdog(30);
    let (results, ends) = mpsc::channel();
    let (server, rx) = reporting_with(|server| {
        server.on_close(move |client, closed, result| {
            results.send((client.id(), closed.clone(), result.to_string())).unwrap_or(());
        })
    });
    let mut other = RawPeer::open(server.addr());
    for (text, result) in [("fail", "failed: no luck"), ("panic", "panicked: a bug")] {
        let mut peer = RawPeer::open(server.addr());
        peer.send_text(text);
        peer.send_text("never received");
        assert_eq!(peer.expect_close(1011), "");
        peer.send(&Frame::close(1011, ""));
        peer.expect_eof();
        expect(&rx, &format!("message {text}"));
        if text == "fail" {
            expect(&rx, "closed");
        }
        expect(&rx, "dropped");
        let (_, closed, end) = next(&ends, "on_close");
        assert_eq!(end, result);
        assert!(closed.is_clean() && !closed.by_peer(), "{closed}");
    }
    other.send_text("still there?");
    other.expect_text("still there?");
    other.close(1000);
    assert_eq!(server.shutdown(ms(5000)).failed, 2);
}

#[test]
fn a_callback_may_close() {
    let _dog = watchdog(30);
    let (server, rx) = reporting();
    for (text, code) in [("close", 4000), ("start to close", 4001)] {
        let mut peer = RawPeer::open(server.addr());
        peer.send_text(text);
        peer.expect_close(code);
        expect(&rx, &format!("message {text}"));
        if text == "start to close" {
            // RFC 6455 §5.5.1 forbids sending after a Close, and not receiving.
            peer.send_text("on the way");
            expect(&rx, "message on the way");
        }
        peer.send(&Frame::close(code, ""));
        peer.expect_eof();
        expect(&rx, "closed");
        expect(&rx, "dropped");
    }
    // The `write` for "on the way" has failed after the Close. That is not a failure of the callback.
    assert_eq!(server.shutdown(ms(5000)).failed, 0);
}

#[test]
fn a_callback_may_receive_the_next_message_itself() {
    let _dog = watchdog(30);
    let (server, rx) = reporting();
    let mut peer = RawPeer::open(server.addr());
    for wait in [ms(0), ms(50)] {
        peer.send_text("recv");
        std::thread::sleep(wait);
        peer.send_text("more");
        expect(&rx, "message recv");
        expect(&rx, "received more");
        peer.send_text("again");
        expect(&rx, "message again");
        peer.expect_text("again");
    }
    peer.close(1000);
    expect(&rx, "closed");
}

#[test]
fn text_that_is_not_utf_8_ends_the_connection() {
    let _dog = watchdog(30);
    let (server, rx) = reporting();
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::new(1, vec![0xff]));
    peer.expect_close(1007);
    peer.send_text("never received");
    peer.fin();
    expect(&rx, "closed");
    expect(&rx, "dropped");
    assert_eq!(server.shutdown(ms(5000)).failed, 0);
}

#[test]
fn an_opening_callback_may_refuse_a_client() {
    let _dog = watchdog(30);
    let server = TestServer::with_events(
        |server| server,
        |client| -> Result<Echo, BoxError> {
            match client.request().path() {
                "/panic" => panic!("a bug"),
                "/fail" => Err("no luck".into()),
                "/wait" => {
                    assert_eq!(client.recv()?, Some("the password".into()));
                    Ok(echo)
                }
                _ => Ok(echo),
            }
        },
    );
    for path in ["/panic", "/fail"] {
        let mut peer = RawPeer::open_at(server.addr(), path, &[]);
        peer.expect_close(1011);
        peer.send(&Frame::close(1011, ""));
        peer.expect_eof();
    }
    let mut peer = RawPeer::open_at(server.addr(), "/wait", &[]);
    peer.send_text("the password");
    peer.send_text("hello");
    peer.expect_text("hello");
    peer.close(1000);
    eventually("no client", || server.stats().open == 0);
}

#[test]
fn a_reset_ends_the_connection() {
    let _dog = watchdog(30);
    let (server, rx) = reporting();
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("hello");
    expect(&rx, "message hello");
    peer.expect_text("hello");
    peer.reset();
    expect(&rx, "closed");
    expect(&rx, "dropped");
    eventually("no client", || server.hub().count() == 0);
}

#[test]
fn a_close_of_another_thread_ends_at_its_timeout() {
    let _dog = watchdog(30);
    let (server, rx) =
        reporting_with(|server| server.config(threadws::Config::new().with_close_timeout(ms(200))));
    let mut peer = RawPeer::open(server.addr());
    eventually("a client", || server.hub().count() == 1);
    for client in server.hub().clients() {
        client.sender().close(CloseCode::GOING_AWAY, "enough").expect("valid");
    }
    assert_eq!(peer.expect_close(1001), "enough");
    // The peer does not answer.
    expect(&rx, "closed");
    peer.expect_eof_alone();
}
