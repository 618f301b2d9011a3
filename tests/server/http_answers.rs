//! Plain HTTP: requests of any method with a bounded body, and answers that have the time that their size needs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{RawPeer, TestServer, echo, ms, watchdog};
use threadws::handshake::{Request, Response};
use threadws::{Config, Server};

const MIB: usize = 1 << 20;

/// Answers with the method, the path and the body.
fn rest(request: &Request) -> Response {
    let mut answer = format!("{} {} ", request.method(), request.path()).into_bytes();
    answer.extend_from_slice(request.body());
    Response::new(answer)
}

fn with_bodies(server: Server) -> Server {
    server.config(Config::new().with_max_message_size(100_000).with_message_timeout(ms(500))).serve_http(rest)
}

fn with_large_bodies(server: Server, message_timeout: Duration) -> Server {
    let config = Config::new().with_max_message_size(64 * MIB).with_message_timeout(message_timeout);
    server.config(config).serve_http(rest)
}

#[track_caller]
fn ask(server: &TestServer, pieces: &[&[u8]]) -> RawPeer {
    let mut peer = RawPeer::connect(server.addr());
    for piece in pieces {
        peer.write(piece);
        std::thread::sleep(ms(20));
    }
    peer
}

#[test]
fn a_callback_answers_any_method_with_its_body() {
    let _dog = watchdog(30);
    let server = TestServer::with(with_bodies, echo);
    let large = vec![b'x'; 100_000];
    let cases: [(&[&[u8]], Vec<u8>); 6] = [
        (&[b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"], b"PUT /a body".to_vec()),
        // In pieces, and with a request behind it, which is not read.
        (
            &[b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nb", b"o", b"dyGET / HTTP/1.1\r\n"],
            b"POST /a body".to_vec(),
        ),
        (&[b"DELETE /a/7 HTTP/1.1\r\nHost: x\r\n\r\n"], b"DELETE /a/7 ".to_vec()),
        (&[b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nmore"], b"GET /a ".to_vec()),
        (&[b"POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\n", b"ok"], b"POST /a ok".to_vec()),
        (
            &[b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", &large],
            [b"POST / ".as_slice(), &large].concat(),
        ),
    ];
    for (pieces, expected) in cases {
        let answer = ask(&server, pieces).expect_refusal(200);
        assert!(answer.body == expected, "{}", answer.head);
    }
}

#[test]
fn a_body_that_is_too_large_or_incomplete_is_refused() {
    let _dog = watchdog(30);
    let server = TestServer::with(with_bodies, echo);
    let cases: [(&[&[u8]], u16); 5] = [
        (&[b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n"], 413),
        (&[b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n", &[b'x'; 100_001]], 413),
        (&[b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 411),
        (&[b"POST / HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n\r\n"], 403),
        (&[b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nbody"], 408),
    ];
    for (pieces, status) in cases {
        let begin = Instant::now();
        ask(&server, pieces).expect_refusal(status);
        let at_deadline = status == 408;
        assert_eq!(begin.elapsed() >= ms(500), at_deadline, "{status} after {:?}", begin.elapsed());
    }
    let mut peer = ask(&server, &[b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nbody"]);
    peer.fin();
    peer.expect_refusal(400);
}

#[test]
fn an_announced_body_has_no_time_before_it_arrives() {
    let _dog = watchdog(30);
    let server = TestServer::with(|server| with_large_bodies(server, ms(1000)), echo);
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 64 * MIB);
    for (arrives, granted) in [(0, ms(1000)), (MIB + MIB / 2, ms(2000))] {
        let begin = Instant::now();
        let mut peer = RawPeer::connect(server.addr());
        peer.write(&head);
        peer.write(vec![b'x'; arrives]);
        peer.expect_refusal(408);
        let time = begin.elapsed();
        assert!((granted..granted + ms(1000)).contains(&time), "{arrives} bytes: after {time:?}");
    }
}

#[test]
fn a_slow_body_has_the_timeout_for_each_mib() {
    let _dog = watchdog(30);
    let server = TestServer::with(|server| with_large_bodies(server, ms(1500)), echo);
    let begin = Instant::now();
    let mut peer = RawPeer::connect(server.addr());
    peer.write(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 5 * MIB));
    for _ in 0..4 {
        peer.write(vec![b'x'; MIB]);
        std::thread::sleep(ms(500));
    }
    peer.write(vec![b'x'; MIB]);
    assert_eq!(peer.expect_refusal(200).body.len(), "POST / ".len() + 5 * MIB);
    assert!(begin.elapsed() > ms(1500), "it was not slow");
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let _dog = watchdog(30);
    let server = TestServer::with(with_bodies, echo);
    let head = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: ";
    let mut stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.write_all(format!("{head}4\r\n\r\n").as_bytes()).expect("a new socket takes it");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nPOST / body"), "{answer}");
    // A body that is refused is not asked for.
    ask(&server, &[format!("{head}100001\r\n\r\n").as_bytes()]).expect_refusal(413);
}

#[test]
fn an_http_1_0_client_gets_no_100_continue() {
    let _dog = watchdog(30);
    let server = TestServer::with(with_bodies, echo);
    let head = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    ask(&server, &[head, b"body"]).expect_refusal(200);
}

#[test]
fn a_large_answer_may_take_longer_than_the_handshake_timeout() {
    const SIZE: usize = 16 << 20; // more than the buffers of any socket take
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| {
            let server = server.config(Config::new().with_handshake_timeout(ms(200)));
            server.serve_http(|_| Response::new(vec![b'x'; SIZE]))
        },
        echo,
    );
    let mut peer = TcpStream::connect(server.addr()).expect("it listens");
    peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("a new socket takes it");
    // Reads nothing for a while, as over a slow network.
    std::thread::sleep(ms(1500));
    let mut answer = Vec::new();
    let end = peer.read_to_end(&mut answer);
    assert!(answer.len() > SIZE, "only {} bytes came: {end:?}", answer.len());
}
