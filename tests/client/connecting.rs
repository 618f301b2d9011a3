//! Opening a connection: success and failure, with servers that send any answer.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{PATIENCE, RawServer, RawServerPeer, TestServer, echo, ms, watchdog};
use threadws::{Config, Connect, Error, Message, Timeout, connect, handshake::Response};

#[track_caller]
fn expect_broken(result: threadws::Result<threadws::Connection>, why: &str) {
    match result {
        Err(Error::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            assert!(error.to_string().contains(why), "{error} does not say: {why}");
        }
        other => panic!("expected an answer that breaks the protocol ({why}), got {other:?}"),
    }
}

#[track_caller]
fn expect_refused(result: threadws::Result<threadws::Connection>, status: u16) -> Response {
    match result {
        Err(Error::Refused(response)) => {
            assert_eq!(response.status(), status);
            *response
        }
        other => panic!("expected a refusal with {status}, got {other:?}"),
    }
}

#[test]
fn a_101_that_breaks_a_rule_is_not_a_connection() {
    let _dog = watchdog(30);
    let cases: [(&str, &str, &str); 8] = [
        ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x", "Sec-WebSocket-Accept"),
        ("Upgrade: websocket", "Upgrade: h2c", "Upgrade: websocket"),
        ("Connection: Upgrade", "Connection: close", "Connection: Upgrade"),
        ("HTTP/1.1 101", "HTTP/1.0 101", "HTTP/1.1 101"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "extension"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", "subprotocol"),
        ("\r\nUpgrade", "\r\n folded: x\r\nUpgrade", ""),
        ("HTTP/1.1 101", "SSH-2.0-OpenSSH", ""),
    ];
    for (part, replaced, why) in cases {
        println!("{replaced:?}");
        let host = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            let head = peer.handshake_answer("").replacen(part, replaced, 1);
            peer.write(head);
            peer.expect_gone();
        });
        expect_broken(connect(host.url()), why);
        host.join();
    }
}

#[test]
fn an_endless_answer_fails_at_its_limit() {
    let _dog = watchdog(60);
    let line = format!("x-header: {}\r\n", "y".repeat(60));
    let endless = [
        ("HTTP/1.1 101 Switching Protocols\r\n", line),
        ("HTTP/1.1 101 Switching Protocols\r\n", "a: b\r\n".to_owned()),
        ("HTTP/1.1 101 Switching Protocols\r\nx: ", "y".repeat(100)),
        ("", "z".repeat(100)),
        ("", "HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
    ];
    for (start, repeated) in endless {
        println!("{start:?} {repeated:?} ...");
        let host = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.write(start);
            // Several megabytes, unless the client has gone.
            let burst = repeated.repeat(1000);
            while peer.try_write(burst.as_bytes()).is_ok() {}
        });
        // The timeout must not end it, so it is longer than the watchdog's.
        let config = Config::new().with_handshake_timeout(ms(300_000));
        expect_broken(Connect::new(host.url()).config(config).connect(), "");
    }
}

#[test]
fn the_size_of_an_answer_is_limited_by_the_setting() {
    let _dog = watchdog(20);
    for limit in [1 << 10, 64 << 10] {
        for size in [limit, limit + 1] {
            let host = RawServer::new(move |listener| {
                let mut peer = listener.accept();
                let bare = peer.handshake_answer("x: \r\n").len();
                peer.accept_handshake(&format!("x: {}\r\n", "y".repeat(size - bare)));
                peer.expect_gone();
            });
            let config = Config::new().with_max_head_size(limit);
            let result = Connect::new(host.url()).config(config).connect();
            if size == limit {
                drop(result.expect("it is as large as it may be"));
            } else {
                expect_broken(result, &format!("the head of the response has more than {limit} bytes"));
            }
            host.join();
        }
    }
}

#[test]
fn interim_answers_before_the_101_are_skipped() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.write("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
        peer.accept_handshake("X-Node: 7\r\n");
        peer.finish(1000);
    });
    let mut connection = connect(host.url()).expect("a connection");
    assert_eq!(connection.response().expect("a client's").headers()["x-node"], "7");
    connection.close(1000, "").expect("clean");
}

#[test]
fn a_refusal_has_its_status_headers_and_body() {
    let _dog = watchdog(30);
    let host = RawServer::answering(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 11\r\n\r\nwho are you, and what follows",
    );
    let response = expect_refused(connect(host.url()), 401);
    assert_eq!(response.headers()["www-authenticate"], "Basic");
    assert_eq!(response.body(), b"who are you");
    let error = Error::Refused(Box::new(response));
    assert_eq!(error.to_string(), "handshake refused with 401 Unauthorized: who are you");
    assert_eq!(format!("{error:?}"), error.to_string());
    // Chunks are joined, and their end is recognised on a connection that stays open.
    let host = RawServer::answering(
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno,\r\n4;x=y\r\n no!\r\n0\r\n\r\n",
    );
    let begin = Instant::now();
    assert_eq!(expect_refused(connect(host.url()), 403).body(), b"no, no!");
    assert!(begin.elapsed() < PATIENCE, "it waited for more");
    // A 200 is not a success, and neither is a 204, which has no body.
    assert_eq!(
        expect_refused(connect(RawServer::answering("HTTP/1.1 204 x\r\n\r\n").url()), 204).body(),
        b""
    );
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.write("HTTP/1.1 200 OK\r\n\r\n<!doctype html>");
        peer.fin();
        peer.expect_gone();
    });
    assert_eq!(expect_refused(connect(host.url()), 200).body(), b"<!doctype html>");
}

#[test]
fn at_most_64_kib_of_a_refusals_body_are_read() {
    let _dog = watchdog(30);
    for head in ["Content-Length: 1073741824\r\n", "", "Transfer-Encoding: chunked\r\n"] {
        let chunked = head.contains("chunked");
        let host = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.write(format!("HTTP/1.1 503 x\r\n{head}\r\n"));
            let burst = if chunked { "1\r\nx\r\n".repeat(10_000) } else { "x".repeat(60_000) };
            while peer.try_write(burst.as_bytes()).is_ok() {}
        });
        let body = expect_refused(connect(host.url()), 503).into_body();
        assert!(body.iter().all(|&byte| byte == b'x'));
        // With chunks of one byte, the limit applies to the bytes that are read, not to the body.
        assert!(
            if chunked { body.len() <= 64 * 1024 } else { body.len() == 64 * 1024 },
            "{} bytes",
            body.len()
        );
    }
    // A body that is too short is returned as far as it came, after the timeout.
    let host = RawServer::answering("HTTP/1.1 500 x\r\nContent-Length: 10\r\n\r\nshort");
    let config = Config::new().with_handshake_timeout(ms(1000));
    assert_eq!(expect_refused(Connect::new(host.url()).config(config).connect(), 500).body(), b"short");
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_redirect_is_a_refusal_unless_following_is_on() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        listener.accept().write(redirect("/elsewhere"));
        listener.expect_no_client();
    });
    let response = expect_refused(connect(host.url()), 302);
    assert_eq!(response.headers()["location"], "/elsewhere");
    host.join();
}

#[test]
fn redirects_keep_credentials_only_within_an_origin() {
    let _dog = watchdog(20);
    let credentials = ["authorization", "cookie", "proxy-authorization"];
    let last = RawServer::new(move |listener| {
        let mut peer = listener.accept();
        for name in credentials {
            assert_eq!(peer.header(name), None, "{}", peer.head);
        }
        assert_eq!(peer.header("x-kept"), Some("yes"));
        assert!(peer.head.starts_with("GET /last?x HTTP/1.1"), "{}", peer.head);
        peer.accept_handshake("");
        peer.finish(1000);
    });
    let to = format!("http://{}/last?x#part", last.addr());
    let first = RawServer::new(move |listener| {
        for (path, location) in [("/a/first", "second"), ("/a/second", &to)] {
            let mut peer = listener.accept();
            assert!(peer.head.starts_with(&format!("GET {path} HTTP/1.1")), "{}", peer.head);
            for name in credentials {
                assert!(peer.header(name).is_some(), "{}", peer.head);
            }
            peer.write(redirect(location));
        }
        listener.expect_no_client();
    });
    let mut connection = Connect::new(format!("{}a/first", first.url()))
        .header("Authorization", "Bearer secret")
        .header("Cookie", "session=secret")
        .header("Proxy-Authorization", "Basic secret")
        .header("X-Kept", "yes")
        .max_redirects(2)
        .connect()
        .expect("a connection");
    assert_eq!(connection.peer_addr(), last.addr().into());
    connection.close(1000, "").expect("clean");
}

#[test]
fn dropped_credentials_do_not_come_back() {
    let _dog = watchdog(20);
    let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = first.local_addr().expect("it is bound");
    let second = RawServer::answering(redirect(&format!("ws://{addr}/back")));
    let to = second.url();
    let script = std::thread::spawn(move || {
        let mut peer = RawServerPeer::of(first.accept().expect("a client").0);
        assert!(peer.header("authorization").is_some());
        peer.write(redirect(&to));
        let mut peer = RawServerPeer::of(first.accept().expect("a client").0);
        assert_eq!(peer.header("authorization"), None);
        peer.accept_handshake("");
        peer.expect_close(1001);
    });
    drop(Connect::new(format!("ws://user:secret@{addr}/")).max_redirects(5).connect().expect("a connection"));
    script.join().expect("the script went well");
}

#[test]
fn redirects_end_at_their_limit() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        for _ in 0..4 {
            listener.accept().write(redirect("/again"));
        }
        listener.expect_no_client();
    });
    expect_refused(Connect::new(host.url()).max_redirects(3).connect(), 302);
    host.join();
    // The location has to be a URL that the client supports, without credentials of the server's choice.
    for location in ["ftp://x/", "http://", "ws://user:secret@127.0.0.1/", "ws+unix:/run/x.sock:/"] {
        let host = RawServer::answering(redirect(location));
        let error = Connect::new(host.url()).max_redirects(3).connect().expect_err("nowhere to go");
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_password_in_the_url_is_sent_and_never_shown() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        for expected in ["Basic dXNlcjpwQHNzIHdvcmQ=", "Bearer token"] {
            let mut peer = listener.accept();
            assert_eq!(peer.header("authorization"), Some(expected), "{}", peer.head);
            assert!(!peer.head.contains('@') && peer.header("host").is_some(), "{}", peer.head);
            peer.accept_handshake("");
            peer.expect_close(1001);
        }
        listener.accept().write("HTTP/1.1 401 no\r\nContent-Length: 0\r\n\r\n");
    });
    let settings = Connect::new(format!("ws://user:p%40ss%20word@{}/?token=p%40ss", host.addr()));
    let mut shown = format!("{settings:?}");
    let connection = settings.clone().connect().expect("a connection");
    shown += &format!("{connection:?} {:?} {:?}", connection.request(), connection.request().headers());
    drop(connection);
    // A header that is set has priority, as in curl and npm's ws.
    let bearer = settings.clone().header("Authorization", "Bearer token");
    shown += &format!("{bearer:?}");
    drop(bearer.connect().expect("a connection"));
    let error = settings.connect().expect_err("refused");
    shown += &format!("{error} {error:?}");
    let closed_port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    for url in [format!("ws://user:p%40ss@{closed_port}/"), "ws://user:p%40ss@nowhere.invalid/".to_owned()] {
        let error = connect(url).expect_err("the port is closed");
        shown += &format!("{error} {error:?}");
    }
    for secret in ["ss word", "p%40ss", "dXNlcjpwQHNzIHdvcmQ", "token=", "Bearer token"] {
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
}

#[test]
fn an_invalid_request_is_refused_and_nothing_is_sent() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| listener.expect_no_client());
    let url = host.url();
    let settings = [
        Connect::new("http//example.com"),
        Connect::new(&url).header("x y", "secret"),
        Connect::new(&url).header("x", "secret\r\ny: z"),
        Connect::new(&url).header("Host", "secret"),
        Connect::new(&url).header("Sec-WebSocket-Extensions", "secret"),
        Connect::new(&url).header("origin", "secret\n"),
        Connect::new(&url).subprotocols(["a", "a"]),
        Connect::new(&url).config(Config::new().with_handshake_timeout(Duration::ZERO)),
    ];
    for settings in settings {
        let error = settings.clone().connect().expect_err("invalid");
        assert!(matches!(error, Error::Invalid(_)), "{settings:?}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_refused_connection_keeps_its_io_error() {
    let _dog = watchdog(20);
    let closed_port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    match connect(format!("ws://{closed_port}/")) {
        Err(Error::Io(error)) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert!(error.to_string().starts_with(&format!("cannot connect to {closed_port}: ")), "{error}");
        }
        other => panic!("expected an io error, got {other:?}"),
    }
    let error = connect("ws://nowhere.invalid/").expect_err("no such name").to_string();
    assert!(error.starts_with("cannot resolve nowhere.invalid: "), "{error}");
    // A server that closes the connection without an answer, or in the middle of a head.
    for answer in ["", "HTTP/1.1 101 Swit"] {
        let host = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.write(answer);
            peer.fin();
            peer.expect_gone();
        });
        match connect(host.url()) {
            Err(Error::Io(error)) => {
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
                assert!(error.to_string().contains(&host.addr().to_string()), "{error}");
            }
            other => panic!("expected an io error, got {other:?}"),
        }
    }
}

#[test]
fn one_deadline_covers_connecting_and_the_handshake() {
    let _dog = watchdog(60);
    let config = Config::new().with_handshake_timeout(ms(400));
    let expect_timeout = |addr: SocketAddr| {
        let begin = Instant::now();
        let result = Connect::new(format!("ws://{addr}/")).config(config.clone()).connect();
        let elapsed = begin.elapsed();
        assert!(matches!(result, Err(Error::Timeout(Timeout::Handshake))), "{result:?}");
        assert!(elapsed >= ms(400) && elapsed < PATIENCE / 2, "after {elapsed:?}");
    };
    // The kernel accepts the connection, and no program does.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    expect_timeout(silent.local_addr().expect("it is bound"));
    // The kernel does not accept it either, because the queue is full.
    let full = TcpListener::bind("127.0.0.1:0").expect("a free port");
    rustix::net::listen(&full, 0).expect("a queue of one");
    let addr = full.local_addr().expect("it is bound");
    let waiting: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&addr, ms(100))).collect();
    assert!(waiting.iter().any(Result::is_err), "the queue never was full");
    expect_timeout(addr);
    // A byte now and then is not progress.
    let trickle = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.write("HTTP/1.1 101 Switching Protocols\r\nx: ");
        while peer.try_write(b"y").is_ok() {
            std::thread::sleep(ms(20));
        }
    });
    expect_timeout(trickle.addr());
    // Redirects are not progress either. With a deadline for each, every one of them would be in time.
    let came = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let (count, done) = (Arc::clone(&came), Arc::clone(&over));
    let round = RawServer::new(move |listener| {
        for _ in 0..12 {
            let mut peer = listener.accept();
            if done.load(Ordering::SeqCst) {
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(ms(100));
            drop(peer.try_write(redirect("/round").as_bytes()));
        }
    });
    let result = Connect::new(round.url()).config(config).max_redirects(1000).connect();
    over.store(true, Ordering::SeqCst);
    assert!(matches!(result, Err(Error::Timeout(Timeout::Handshake))), "{result:?}");
    assert!(came.load(Ordering::SeqCst) < 8, "{came:?} redirects of 100 ms each in 400 ms");
    // This is the script's last client.
    support::RawPeer::connect(round.addr()).write("\r\n\r\n");
}

#[test]
fn the_result_of_the_handshake_can_be_read() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| {
            server
                .subprotocols(["chat"])
                .check_request(|request, response| {
                    assert_eq!(request.header("origin"), Some("http://page.example"));
                    assert_eq!(request.header("sec-websocket-protocol"), Some("v2, chat"));
                    assert_eq!(request.header("x-twice"), Some("1"));
                    assert_eq!(request.headers().get_all("x-twice").iter().count(), 2);
                    response.headers_mut().insert("x-node", "7".parse().expect("a value"));
                    Ok(())
                })
                .allow_origin("http://page.example")
        },
        echo,
    );
    let mut connection = Connect::new(format!("ws://{}/path?query", server.addr()))
        .header("origin", "http://page.example")
        .subprotocols(["v2", "chat"])
        .header("X-Twice", "1")
        .header("X-Twice", "2")
        .connect()
        .expect("a connection");
    assert_eq!(connection.subprotocol(), Some("chat"));
    assert_eq!(connection.peer_addr(), server.addr().into());
    let response = connection.response().expect("a client's");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-node"]),
        (101, &"7".parse().expect("a value"))
    );
    assert_eq!((connection.request().path(), connection.request().uri().query()), ("/path", Some("query")));
    connection.send("hello").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some(Message::from("hello")));
    connection.close(1000, "").expect("clean");
}
