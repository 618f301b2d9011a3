//! Requests that are well formed: the effect of the settings and of the callbacks of a server.

use http::StatusCode;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;
use support::{
    Frame, PATIENCE, RawPeer, TestServer, echo, expect_echo, ms, next, spawn, upgrade_request, watchdog,
};
use threadws::{
    Config, Server,
    handshake::{Reject, Response},
};

#[test]
fn a_plain_get_learns_that_this_is_a_websocket() {
    let _dog = watchdog(20);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = peer.expect_refusal(426);
    assert!(!answer.body.is_empty(), "a person reads this");
    assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{}", answer.head);
    // A port scan: there is nothing to answer, and nothing breaks.
    let mut scan = RawPeer::connect(server.addr());
    scan.fin();
    scan.expect_gone();
    RawPeer::connect(server.addr()).reset();
    expect_echo(&server);
}

#[test]
fn serve_http_answers_plain_get_and_head() {
    let _dog = watchdog(20);
    let page = |request: &threadws::handshake::Request| match request.path() {
        "/page" => http::Response::builder()
            .header("Content-Type", "text/plain")
            .body(format!("hello, {:?}", request.uri().query()).into_bytes())
            .expect("a response"),
        _ => Response::new(Vec::new()),
    };
    let server = TestServer::with(|server| server.serve_http(page), echo);
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET /page?a=b HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = peer.expect_refusal(200);
    assert_eq!(answer.text(), r#"hello, Some("a=b")"#);
    assert_eq!(answer.header("content-type"), Some("text/plain"));

    let mut peer = RawPeer::connect(server.addr());
    peer.write("HEAD /page?a=b HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = peer.head_answer();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("18")), "{}", answer.head);
    peer.expect_eof(); // and no body

    let mut peer = RawPeer::connect(server.addr());
    peer.write("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = peer.expect_refusal(405);
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("HEAD")));
    expect_echo(&server);
}

#[test]
fn only_the_configured_path_upgrades() {
    let _dog = watchdog(20);
    let server = TestServer::with(|server| server.path("/ws"), echo);
    for target in ["/ws", "/ws?token=1"] {
        RawPeer::open_at(server.addr(), target, &[]).close(1000);
    }
    for target in ["/", "/ws/", "/wsx", "/WS", "/x/ws"] {
        println!("{target}");
        let mut peer = RawPeer::connect(server.addr());
        peer.ask(target, &[]);
        peer.expect_refusal(404);
    }
}

#[test]
fn check_request_reads_and_adds_headers_and_passes_values() {
    #[derive(Clone, Debug, PartialEq)]
    struct User(String);

    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| {
            server.check_request(|request, response| {
                assert_eq!((request.path(), request.uri().query()), ("/room", Some("id=7")));
                assert_eq!(request.method(), http::Method::GET);
                assert!(request.peer_addr().ip().is_some_and(|ip| ip.is_loopback()));
                let user = User(request.header("X-User").unwrap_or("anonymous").to_owned());
                request.extensions_mut().insert(user);
                response.headers_mut().insert("X-Served-By", http::HeaderValue::from_static("thread 7"));
                response.headers_mut().append("Set-Cookie", http::HeaderValue::from_static("a=1"));
                response.headers_mut().append("Set-Cookie", http::HeaderValue::from_static("b=2"));
                Ok(())
            })
        },
        |client| {
            let user = client.request().extensions().get::<User>().cloned();
            let addr = client.client_addr();
            client.send(format!("{user:?} from {addr}, header {:?}", client.request().header("x-user")))?;
            echo(client)
        },
    );
    let mut peer = RawPeer::connect(server.addr());
    let answer =
        peer.upgrade("/room?id=7", &[("X-User", "frog"), ("X-Forwarded-For", "198.51.100.1, 203.0.113.7")]);
    assert_eq!(answer.header("x-served-by"), Some("thread 7"));
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    peer.expect_text(r#"Some(User("frog")) from 203.0.113.7, header Some("frog")"#);
    peer.close(1000);
}

#[test]
fn check_request_refuses_with_any_status() {
    let _dog = watchdog(20);
    let started = Arc::new(AtomicUsize::new(0));
    let handlers = Arc::clone(&started);
    let server = TestServer::with(
        |server| {
            server.check_request(|request, _| {
                let status = request.path().trim_start_matches('/').parse().unwrap_or(StatusCode::OK);
                match status {
                    StatusCode::OK => Ok(()),
                    StatusCode::UNAUTHORIZED => Err(Reject::new(status, "who are you?")
                        .header("WWW-Authenticate", "Basic realm=\"frogs\"")),
                    StatusCode::NO_CONTENT => Err(Reject::from(StatusCode::TOO_MANY_REQUESTS)),
                    status => Err(Reject::new(status, "no")),
                }
            })
        },
        move |client| {
            handlers.fetch_add(1, Ordering::Relaxed);
            echo(client)
        },
    );
    for (path, status, body) in
        [("/401", 401, "who are you?"), ("/403", 403, "no"), ("/503", 503, "no"), ("/418", 418, "no")]
    {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask(path, &[]);
        let answer = peer.expect_refusal(status);
        assert_eq!(answer.text(), body);
        if status == 401 {
            assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"frogs\""));
        }
    }
    let mut peer = RawPeer::connect(server.addr());
    peer.ask("/204", &[]);
    peer.expect_refusal(429);
    assert_eq!(started.load(Ordering::Relaxed), 0, "a refused client has no handler");
    expect_echo(&server);
}

#[test]
fn a_panic_in_check_request_answers_500() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| {
            server.check_request(|request, _| {
                assert!(request.path() != "/panic", "the callback's own fault, with a secret in it");
                Ok(())
            })
        },
        echo,
    );
    for _ in 0..3 {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/panic", &[]);
        let answer = peer.expect_refusal(500);
        assert!(!answer.text().contains("secret"), "the inside shows: {}", answer.text());
    }
    expect_echo(&server);
}

/// Starts a server whose `check_request` waits on `/slow` until the sender is dropped, and reports that it was called.
fn with_a_callback_that_blocks(config: Config) -> (TestServer, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (entered, enters) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let server = TestServer::with(
        |server| {
            server.config(config).check_request(move |request, _| {
                if request.path() == "/slow" {
                    entered.send(()).expect("the test waits");
                    released.lock().expect("one waits").recv().unwrap_or_default();
                }
                Ok(())
            })
        },
        echo,
    );
    (server, enters, release)
}

#[test]
fn a_blocking_check_request_delays_no_other_client() {
    let _dog = watchdog(20);
    let (server, enters, release) = with_a_callback_that_blocks(Config::new());
    let mut slow = RawPeer::connect(server.addr());
    slow.ask("/slow", &[]);
    next(&enters, "the callback");
    for _ in 0..5 {
        expect_echo(&server);
    }
    drop(release);
    slow.expect_101();
    slow.close(1000);
}

#[test]
fn a_blocking_check_request_leaves_other_deadlines_alone() {
    let _dog = watchdog(30);
    let timeout = ms(300);
    let (server, enters, release) =
        with_a_callback_that_blocks(Config::new().with_handshake_timeout(timeout));
    let mut slow = RawPeer::connect(server.addr());
    slow.ask("/slow", &[]);
    next(&enters, "the callback");
    let start = Instant::now();
    let mut silent = RawPeer::connect(server.addr());
    let mut half = RawPeer::connect(server.addr());
    half.write("GET / HTTP/1.1\r\nHost: x\r\n");
    for peer in [&mut silent, &mut half] {
        peer.expect_refusal(408);
        let took = start.elapsed();
        assert!(took >= timeout && took < timeout + PATIENCE / 2, "disconnected after {took:?}");
    }
    expect_echo(&server);
    drop(release);
    drop(slow);
}

/// The report names the connection.
#[test]
fn a_shutdown_does_not_wait_for_check_request() {
    let _dog = watchdog(30);
    let (server, enters, release) = with_a_callback_that_blocks(Config::new());
    let mut slow = RawPeer::connect(server.addr());
    slow.ask("/slow", &[]);
    next(&enters, "the callback");
    let mut other = RawPeer::open(server.addr());
    other.send_text("in");
    other.expect_text("in");
    let handle = server.into_handle();
    let stop = std::thread::spawn(move || {
        let start = Instant::now();
        let report = handle.shutdown(ms(300));
        (report, start.elapsed(), handle)
    });
    other.expect_close(1001);
    other.send(&Frame::close(1001, ""));
    other.expect_eof();
    let (report, took, handle) = stop.join().expect("the shutdown");
    assert!(took >= ms(300) && took < ms(300) + PATIENCE / 2, "took {took:?}");
    assert_eq!((report.closed, report.abandoned.len()), (1, 1), "{report}");
    let named = report.abandoned[0].to_string();
    assert!(report.to_string().ends_with(&format!(", 1 abandoned: [{named}]")), "{report}");
    drop(handle);
    // The handshake is refused when the callback returns at last.
    drop(release);
    if let Ok(Some(answer)) = slow.try_answer() {
        assert_eq!(answer.status, 503, "{}", answer.head);
    }
    slow.expect_gone();
}

#[test]
fn another_site_is_refused_unless_it_is_allowed() {
    let _dog = watchdog(30);
    let same: fn(Server) -> Server = |server| server;
    let named: fn(Server) -> Server =
        |server| server.allow_origin("https://app.example").allow_origin("https://*.wild.example");
    let any: fn(Server) -> Server = |server| server.allow_any_origin();
    let apps: fn(Server) -> Server = |server| {
        server
            .allow_origin("file://")
            .allow_origin("*://localhost:*")
            .allow_origin("https://a.example/device")
    };
    let cases = [
        (same, "chat.example", None, true),
        (same, "chat.example", Some("http://chat.example"), true),
        (same, "chat.example", Some("https://chat.example"), true), // TLS ends at the proxy
        (same, "chat.example", Some("HTTPS://CHAT.Example"), true),
        (same, "chat.example:8005", Some("http://chat.example:8005"), true),
        (same, "127.0.0.1:8005", Some("http://127.0.0.1:8005"), true),
        (same, "[::1]:8005", Some("http://[::1]:8005"), true),
        (same, "chat.example", Some("http://evil.example"), false),
        (same, "chat.example", Some("http://chat.example.evil.example"), false),
        (same, "chat.example", Some("http://evilchat.example"), false),
        (same, "chat.example:8005", Some("http://chat.example:9000"), false),
        (same, "chat.example:8005", Some("http://chat.example"), false),
        (same, "chat.example", Some("http://127.0.0.1"), false),
        (same, "chat.example", Some("null"), false),
        (same, "chat.example", Some("none"), false),
        (same, "chat.example", Some(""), false),
        (same, "chat.example", Some("http://chat.example@evil.example"), false),
        (same, "chat.example", Some("chat.example"), false),
        (named, "chat.example", Some("https://app.example"), true),
        (named, "chat.example", Some("https://a.wild.example"), true),
        (named, "chat.example", Some("https://evil-wild.example"), false),
        (named, "chat.example", Some("http://app.example"), false),
        (named, "chat.example", Some("https://app.example.evil.example"), false),
        (named, "chat.example", Some("null"), false),
        (any, "chat.example", Some("http://evil.example"), true),
        (any, "chat.example", Some("null"), true),
        // Arduino's client, Cordova and Electron (arduinoWebSockets#182), and an origin with a path (ocpp#442).
        (apps, "chat.example", Some("file://"), true),
        (apps, "chat.example", Some("https://a.example/device"), true),
        (apps, "chat.example", Some("capacitor://localhost"), true),
        (apps, "chat.example", Some("http://localhost:5173"), true),
        (apps, "chat.example", Some("file:///etc"), false),
        (apps, "chat.example", Some("https://a.example"), false),
        (apps, "chat.example", Some("http://localhost.evil.example:5173"), false),
        (same, "chat.example", Some("file://"), false),
        (same, "chat.example", Some("http://chat.example/device"), false),
    ];
    for (settings, host, origin, passes) in cases {
        println!("Host {host}, Origin {origin:?}");
        let server = TestServer::with(settings, echo);
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[("Host", host), ("Origin", origin.unwrap_or("-"))]);
        if passes {
            peer.expect_101();
            peer.close(1000);
        } else {
            peer.expect_refusal(403);
        }
    }
    // Two origins can only be an attack.
    let server = TestServer::new(echo);
    let mut peer = RawPeer::connect(server.addr());
    peer.ask(
        "/",
        &[("Host", "a.example"), ("Origin", "http://a.example"), ("Origin", "http://evil.example")],
    );
    peer.expect_refusal_in(&[400, 403]);
}

#[test]
fn every_failed_handshake_is_reported() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            server.path("/ws").on_handshake_error(move |error| {
                let path = error.request.as_ref().map(|request| request.path().to_owned());
                let facts = (error.status.as_u16(), error.peer_addr, error.client_addr, path);
                assert!(!error.reason.is_empty() && !error.to_string().is_empty());
                tx.send(facts).unwrap_or(());
            })
        },
        echo,
    );
    let mut peer = RawPeer::connect(server.addr());
    let addr = peer.local_addr();
    peer.ask("/ws", &[("Sec-WebSocket-Version", "8"), ("X-Forwarded-For", "203.0.113.7")]);
    peer.expect_refusal(426);
    let (status, peer_addr, client_addr, path) = next(&rx, "the callback");
    assert_eq!((status, peer_addr, path.as_deref()), (426, addr.into(), Some("/ws")));
    assert_eq!(client_addr.to_string(), "203.0.113.7");

    for (target, headers, status) in [
        ("/", &[][..], 404),
        ("/ws", &[("Origin", "http://evil.example")][..], 403),
        ("/ws", &[("Host", "-")][..], 400),
    ] {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask(target, headers);
        peer.expect_refusal(status);
        assert_eq!(next(&rx, "the callback").0, status);
    }
    let mut garbage = RawPeer::connect(server.addr());
    garbage.write("garbage\r\n\r\n");
    garbage.expect_gone();
    assert_eq!(next(&rx, "the callback").0, 400);

    RawPeer::open_at(server.addr(), "/ws", &[]).close(1000);
    assert!(rx.try_recv().is_err(), "a success is not an error");
}

#[test]
fn a_panic_in_on_handshake_error_harms_no_client() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| {
            server.on_handshake_error(|_| panic!("in on_handshake_error")).serve_http(|request| {
                assert!(request.path() != "/panic", "in serve_http");
                Response::new(b"ok".to_vec())
            })
        },
        echo,
    );
    let mut peer = RawPeer::connect(server.addr());
    peer.ask("/", &[("Sec-WebSocket-Version", "8")]);
    peer.expect_refusal(426);
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET /panic HTTP/1.1\r\nHost: x\r\n\r\n");
    peer.expect_refusal(500);
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(peer.expect_refusal(200).text(), "ok");
    expect_echo(&server);
}

#[test]
fn the_size_of_a_head_is_limited_by_the_setting() {
    let _dog = watchdog(20);
    for limit in [2 << 10, 64 << 10] {
        let config = Config::new().with_max_head_size(limit);
        let server = TestServer::with(|server| server.config(config), echo);
        for (size, status) in [(limit, 101), (limit + 1, 431)] {
            let bare = upgrade_request(server.addr(), "/", &[("Cookie", "")]).len();
            let mut peer = RawPeer::connect(server.addr());
            peer.ask("/", &[("Cookie", &"x".repeat(size - bare))]);
            let answer = peer.answer();
            assert_eq!(answer.status, status, "{size} bytes: {}", answer.head);
            if status == 431 {
                assert_eq!(answer.text(), format!("the head of the request has more than {limit} bytes"));
            }
        }
    }
}

#[test]
fn one_subprotocol_is_agreed_or_none() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| server.subprotocols(["chat", "v2"]),
        |client| {
            client.send(format!("{:?}", client.subprotocol()))?;
            echo(client)
        },
    );
    let cases = [
        (&[][..], None),
        (&[("Sec-WebSocket-Protocol", "v2")], Some("v2")),
        (&[("Sec-WebSocket-Protocol", "x, v2")], Some("v2")),
        (&[("Sec-WebSocket-Protocol", "x"), ("Sec-WebSocket-Protocol", "chat")], Some("chat")),
        (&[("Sec-WebSocket-Protocol", "CHAT, V2")], None), // §11.3.4: compared exactly
        (&[("Sec-WebSocket-Protocol", "x, y")], None),
    ];
    for (headers, agreed) in cases {
        println!("{headers:?}");
        let mut peer = RawPeer::connect(server.addr());
        let answer = peer.upgrade("/", headers);
        assert_eq!(answer.header("sec-websocket-protocol"), agreed);
        peer.expect_text(&format!("{agreed:?}"));
        peer.close(1000);
    }
}

#[test]
fn another_http_server_passes_a_connection_on() {
    let _dog = watchdog(20);
    let attached = spawn(Server::detached().path("/ws"), echo).expect("a server without a port");
    let attached = Arc::new(attached);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let handle = Arc::clone(&attached);
    let other = std::thread::spawn(move || {
        for stream in listener.incoming().take(3) {
            hand_over(&handle, stream.expect("a connection"));
        }
    });
    // The first frame is in the same segment, so that it is passed on with the connection.
    let mut peer = RawPeer::connect(addr);
    peer.write([upgrade_request(addr, "/ws", &[]).as_bytes(), &Frame::text("early").encode()].concat());
    peer.expect_101();
    peer.expect_text("early");
    peer.send_text("hello");
    peer.expect_text("hello");
    assert_eq!(attached.hub().count(), 1);
    peer.close(1000);
    // The checks are the same.
    for (target, headers, status) in
        [("/elsewhere", &[][..], 404), ("/ws", &[("Sec-WebSocket-Version", "8")][..], 426)]
    {
        let mut peer = RawPeer::connect(addr);
        peer.ask(target, headers);
        peer.expect_refusal(status);
    }
    other.join().expect("the other server's thread");
}

/// Passes a connection on, as a blocking HTTP server does with a request for an upgrade.
fn hand_over(handle: &threadws::ServerHandle, mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).expect("a request");
        assert!(read > 0, "half a request");
        bytes.extend_from_slice(&buffer[..read]);
    };
    let head = std::str::from_utf8(&bytes[..end]).expect("ASCII");
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a request line");
    let mut request = http::Request::builder().method("GET").uri(target);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    stream.flush().expect("a socket has no buffer of its own");
    let request = request.body(()).expect("a request");
    // A refusal may be an error here. The client has its answer in either case.
    drop(handle.upgrade(stream, &request, &bytes[end..]));
}
