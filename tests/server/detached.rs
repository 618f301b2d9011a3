//! Connections that another HTTP server has accepted, and passes on with `upgrade`.

#[cfg(target_os = "linux")]
use rustix::net::{AddressFamily, SocketType, socket};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::mpsc;
use support::{Frame, RawPeer, echo, eventually, ms, next, spawn, watchdog};
use threadws::handshake::{accept_key, parse_head};
use threadws::{Error, Server, ServerHandle};

fn head() -> http::Request<()> {
    let request = http::Request::get("/")
        .header("host", "a")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", support::raw_peer::KEY);
    request.body(()).expect("a request")
}

/// Returns a client of the other server, and its socket there.
fn accepted() -> (RawPeer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let peer = RawPeer::connect(listener.local_addr().expect("it is bound"));
    (peer, listener.accept().expect("it has connected").0)
}

fn hand_over(handle: &ServerHandle) -> (RawPeer, threadws::Result<()>) {
    let (peer, stream) = accepted();
    (peer, handle.upgrade(stream, &head(), b""))
}

#[test]
fn the_handler_finds_the_extensions_of_the_other_server() {
    #[derive(Debug, Clone, PartialEq)]
    struct User(&'static str);
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let handle = spawn(Server::detached(), move |client| {
        tx.send(client.request().extensions().get::<User>().cloned()).unwrap_or(());
        Ok(())
    });
    let handle = handle.expect("the settings work");
    let mut head = head();
    head.extensions_mut().insert(User("frog"));
    let (peer, stream) = accepted();
    handle.upgrade(stream, &head, b"").expect("a thread");
    assert_eq!(next(&rx, "the handler"), Some(User("frog")));
    drop(peer);
}

#[test]
fn upgrade_returns_unavailable_when_full_or_stopping() {
    let _dog = watchdog(20);
    let handle = spawn(Server::detached().max_clients(1), echo).expect("the settings work");
    let (mut first, result) = hand_over(&handle);
    result.expect("a thread");
    first.expect_101();
    let expect_unavailable = || {
        let (mut peer, result) = hand_over(&handle);
        let error = result.expect_err("no place");
        assert!(matches!(error, Error::Unavailable), "{error:?}");
        assert_eq!(error.to_string(), "server is full or shutting down");
        peer.expect_refusal(503);
    };
    expect_unavailable();
    first.close(1000);
    eventually("it is empty", || handle.hub().count() == 0);
    handle.shutdown(ms(1000));
    expect_unavailable();
}

/// Answers a request with a 101, as another server does, and hands its WebSocket over.
fn adopt(handle: &ServerHandle, frames: &[u8]) -> (RawPeer, threadws::Result<()>) {
    let (mut peer, mut stream) = accepted();
    peer.ask("/chat", &[("sec-websocket-protocol", "v2, chat")]);
    peer.write(frames);
    let mut bytes = vec![0; 4096];
    let mut count = 0;
    let (head, length) = loop {
        count += stream.read(&mut bytes[count..]).expect("the request comes");
        match parse_head(&bytes[..count]).expect("a good head") {
            // The frames are in the same packet, or come later.
            Some((head, length)) if count >= length => break (head, length),
            _ => {}
        }
    };
    let accept = accept_key(head.headers()["sec-websocket-key"].as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).expect("a new socket takes it");
    peer.expect_101();
    (peer, handle.adopt(stream, &head, Some("chat"), &bytes[length..count]))
}

#[test]
fn a_websocket_that_another_server_has_answered_is_adopted() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    // The other server has decided about the path and the origin.
    let server = Server::detached().path("/elsewhere").max_clients(1);
    let handle = spawn(server, move |client| {
        let subprotocol = client.subprotocol().map(str::to_owned);
        tx.send((client.request().path().to_owned(), subprotocol)).unwrap_or(());
        echo(client)
    });
    let handle = handle.expect("the settings work");
    let (mut peer, adopted) = adopt(&handle, &Frame::text("early").encode());
    adopted.expect("a thread");
    assert_eq!(next(&rx, "the handler"), ("/chat".to_owned(), Some("chat".to_owned())));
    peer.expect_text("early");
    peer.send_text("later");
    peer.expect_text("later");
    let expect_unavailable = || {
        let (mut peer, adopted) = adopt(&handle, b"");
        assert!(matches!(adopted, Err(Error::Unavailable)), "{adopted:?}");
        peer.expect_close(1013);
        peer.expect_eof();
    };
    expect_unavailable();
    peer.close(1000);
    eventually("it is empty", || handle.hub().count() == 0);
    handle.shutdown(ms(1000));
    expect_unavailable();
}

#[test]
fn an_adopted_websocket_counts_against_its_address() {
    let _dog = watchdog(20);
    let server = Server::detached().max_clients_per_address(1);
    let handle = spawn(server, echo).expect("the settings work");
    let (first, adopted) = adopt(&handle, b"");
    adopted.expect("a thread");
    eventually("it is in the hub", || handle.hub().count() == 1);
    let (mut second, adopted) = adopt(&handle, b"");
    adopted.expect("a thread");
    second.expect_close(1013);
    second.expect_eof();
    first.close(1000);
}

/// Passes on a client that another server has accepted on a Unix socket.
fn hand_over_unix(handle: &ServerHandle, headers: &[(&'static str, &'static str)]) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut head = head();
    for (name, value) in headers {
        head.headers_mut().insert(*name, http::HeaderValue::from_static(value));
    }
    handle.upgrade(theirs, &head, b"").expect("a thread");
    ours
}

#[test]
fn a_unix_peer_names_its_client_if_unix_is_trusted() {
    let _dog = watchdog(20);
    let forwarded = [("x-forwarded-for", "198.51.100.1, 203.0.113.7")];
    let cases = [
        (&["unix"][..], &forwarded[..], "203.0.113.7 via unix socket"),
        (&["unix"], &[], "unix socket via unix socket"),
        (&["loopback"], &forwarded, "unix socket via unix socket"),
        (&[], &forwarded, "unix socket via unix socket"),
    ];
    for (trusted, headers, expected) in cases {
        let (tx, rx) = mpsc::channel();
        // The quota is one client per address. Clients without an address are not counted.
        let server = trusted.iter().fold(Server::detached(), |server, who| server.trust_proxy(who));
        let handle = spawn(server.max_clients_per_address(1), move |client| {
            tx.send(format!("{} via {}", client.client_addr(), client.peer_addr())).unwrap_or(());
            client.ignore()?;
            Ok(())
        });
        let handle = handle.expect("the settings work");
        let client = hand_over_unix(&handle, headers);
        assert_eq!(next(&rx, "the handler"), expected, "{trusted:?} {headers:?}");
        if expected.starts_with("unix") {
            let another = hand_over_unix(&handle, headers);
            assert_eq!(next(&rx, "the handler"), expected, "{trusted:?} {headers:?}");
            drop(another);
        }
        drop(client);
    }
}

#[test]
fn a_socket_of_another_type_or_family_is_refused() {
    let _dog = watchdog(20);
    let handle = spawn(Server::detached(), echo).expect("the settings work");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    udp.connect(udp.local_addr().expect("it is bound")).expect("it has a peer");
    let file = std::fs::File::open("/dev/null").expect("it exists");
    let (unix, _other_end) = UnixDatagram::pair().expect("a pair");
    let mut sockets: Vec<OwnedFd> = vec![udp.into(), unix.into(), file.into()];
    // Sockets to virtual machines, which not every kernel has.
    #[cfg(target_os = "linux")]
    sockets.extend(socket(AddressFamily::VSOCK, SocketType::STREAM, None).ok());
    for socket in sockets {
        let another: OwnedFd = socket.try_clone().expect("a descriptor");
        for refused in [handle.upgrade(socket, &head(), b""), handle.adopt(another, &head(), None, b"")] {
            let error = refused.expect_err("it is no connection of a client");
            assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        }
    }
    assert_eq!(handle.hub().count(), 0);
}

#[test]
fn a_subprotocol_that_is_no_token_is_not_adopted() {
    let _dog = watchdog(20);
    let handle = spawn(Server::detached(), echo).expect("the settings work");
    for name in ["", "two words", "a,b", "a\r\nb"] {
        let (peer, stream) = accepted();
        let error = handle.adopt(stream, &head(), Some(name), b"").expect_err("it is no token");
        assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("not a token"), "{error:?}");
        drop(peer);
    }
}
