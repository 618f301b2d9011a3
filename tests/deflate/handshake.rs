//! `Sec-WebSocket-Extensions` on the wire, and how a program sees and changes the agreement. All rows of the negotiation are in
//! `src/protocol/deflate/negotiation/tests.rs`.

use super::{connect, echo_server, takeover, with};
use support::frame::RSV1;
use support::{Frame, RawPeer, RawServer, TestServer, echo, watchdog};
use threadws::{Config, Connect, Error, deflate::Deflate};

const EXTENSIONS: &str = "sec-websocket-extensions";

#[test]
fn a_server_without_settings_agrees_to_nothing() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::connect(server.addr());
    let answer = peer.upgrade("/", &[("Sec-WebSocket-Extensions", "permessage-deflate")]);
    assert_eq!(answer.header(EXTENSIONS), None);
    peer.send(&Frame::text("x").rsv(RSV1));
    peer.expect_close(1002);
    let connection = connect(&server, with(Deflate::new()));
    assert_eq!(connection.extensions(), None);
}

#[test]
fn an_answer_has_the_header_only_with_an_agreement() {
    let _dog = watchdog(20);
    let server = echo_server(with(Deflate::new()));
    for (offer, expected) in [
        ("-", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; server_max_window_bits=7", None),
        (
            "permessage-deflate",
            Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ),
    ] {
        let mut peer = RawPeer::connect(server.addr());
        let answer = peer.upgrade("/", &[("Sec-WebSocket-Extensions", offer)]);
        assert_eq!(answer.header(EXTENSIONS), expected, "{offer}");
        peer.send_text("plain");
        peer.expect_text("plain");
        peer.close(1000);
    }
}

#[test]
fn both_ends_of_a_connection_show_what_was_agreed_on() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| server.config(with(takeover())),
        |client| {
            let extensions = client.extensions().map(str::to_owned);
            client.send(extensions.unwrap_or_default())?;
            Ok(client.ignore()?)
        },
    );
    for (deflate, expected) in [
        (takeover(), "permessage-deflate; client_max_window_bits=12"),
        (
            Deflate::new().peer_context_takeover(false),
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=12",
        ),
    ] {
        let mut connection = connect(&server, with(deflate));
        assert_eq!(connection.extensions(), Some(expected));
        assert_eq!(connection.recv().expect("it sends"), Some(expected.into()));
    }
    assert_eq!(connect(&server, Config::new()).extensions(), None);
}

/// Safari 15.0 to 15.3 agreed to what they could not do.
#[test]
fn a_callback_turns_compression_off_for_one_client() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| {
            server.config(with(takeover())).check_request(|request, response| {
                assert!(response.headers().contains_key(EXTENSIONS));
                if request.header("user-agent") == Some("Safari/15.1") {
                    response.headers_mut().remove(EXTENSIONS);
                } else {
                    response.headers_mut().insert(EXTENSIONS, "x-of-my-own".parse().expect("a value"));
                }
                Ok(())
            })
        },
        echo,
    );
    let text = "to both kinds of clients, to both kinds of clients";
    let offer = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits");
    let mut safari = RawPeer::connect(server.addr());
    let answer = safari.upgrade("/", &[offer, ("User-Agent", "Safari/15.1")]);
    assert_eq!(answer.header(EXTENSIONS), None);
    let mut other = RawPeer::connect(server.addr());
    let answer = other.upgrade("/", &[offer]);
    assert_eq!(answer.header(EXTENSIONS), Some("permessage-deflate; client_max_window_bits=12"));
    server.hub().broadcast(text);
    safari.expect_text(text);
    let frame = other.message();
    assert!(frame.rsv == RSV1 && frame.payload.len() < text.len(), "{frame:?}");
    safari.send(&Frame::text("x").rsv(RSV1));
    safari.expect_close(1002);
    other.close(1000);
}

#[test]
fn a_client_refuses_an_answer_to_another_offer() {
    let _dog = watchdog(30);
    for (answer, settings) in [
        ("permessage-deflate", None),
        ("permessage-deflate; client_max_window_bits", Some(Deflate::new())),
        ("permessage-deflate; server_max_window_bits=16", Some(Deflate::new())),
        ("permessage-deflate", Some(Deflate::new().peer_context_takeover(false))),
        ("permessage-deflate, permessage-deflate", Some(Deflate::new())),
    ] {
        let server = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.accept_handshake(&format!("Sec-WebSocket-Extensions: {answer}\r\n"));
        });
        let config = Config::new().with_deflate(settings);
        let error = Connect::new(server.url()).config(config).connect().expect_err("invalid");
        assert!(
            matches!(&error, Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData),
            "{error}"
        );
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let _dog = watchdog(10);
    for (deflate, expected) in [
        (Deflate::new().level(0), "the level of deflate is not 1 to 9"),
        (Deflate::new().level(10), "the level of deflate is not 1 to 9"),
        (Deflate::new().window_bits(8), "the window_bits of deflate are not 9 to 15"),
        (Deflate::new().window_bits(16), "the window_bits of deflate are not 9 to 15"),
    ] {
        let error = Connect::new("ws://127.0.0.1:1/").config(with(deflate)).connect().expect_err("refused");
        assert_eq!(error.to_string(), format!("invalid input: {expected}"));
    }
}
