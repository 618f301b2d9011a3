//! The server: its certificate, those of its clients, plain HTTP on its port, and clients that do not shake hands.

use crate::tls_peer::{DATA, TlsPeer};
use crate::{client_tls, connect, rustls_server, serve, server_tls};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use support::{RawPeer, TestServer, certificate, echo, eventually, ms, rustls_client, take_turn, watchdog};
use threadws::tls::rustls::pki_types::CertificateDer;
use threadws::tls::rustls::pki_types::pem::PemObject as _;
use threadws::tls::{ClientTls, ServerTls, rustls};
use threadws::{Config, Connect, Connection, Error, Hub, Result};

fn with_certificate(name: &str) -> ClientTls {
    client_tls().certificate_files(certificate(&format!("{name}.pem")), certificate(&format!("{name}.key")))
}

/// Sends the subject of the client's certificate, or "none".
fn who(client: &mut Connection) -> std::result::Result<(), threadws::BoxError> {
    let certificate = client.request().peer_certificate().map(<[u8]>::to_vec);
    let text = certificate.map(|der| String::from_utf8_lossy(&der).into_owned());
    let name = text.map_or("none", |text| if text.contains("threadws test client") { "client" } else { "?" });
    client.send(name)?;
    Ok(client.ignore()?)
}

#[track_caller]
fn name_of(connection: Result<Connection>) -> String {
    let mut connection = connection.expect("a connection");
    let name = connection.recv().expect("open").expect("open");
    connection.close(1000, "").expect("a clean end");
    name.to_string()
}

#[test]
fn a_required_client_certificate_is_in_the_request() {
    let _dog = watchdog(20);
    let tls = server_tls("server").client_ca_file(certificate("ca.pem"));
    let server = TestServer::with(|server| server.tls(tls), who);
    assert_eq!(name_of(connect(server.addr(), with_certificate("client"))), "client");
    for (tls, expected) in [(client_tls(), "demands a certificate"), (with_certificate("stranger"), "issuer")]
    {
        match connect(server.addr(), tls).expect_err("it is refused") {
            Error::Tls(text) => assert!(text.contains(expected), "{text}"),
            other => panic!("another error: {other}"),
        }
    }
    eventually("two refusals", || server.stats().refused["tls"] == 2);
}

#[test]
fn an_optional_client_certificate_may_be_missing_but_not_wrong() {
    let _dog = watchdog(20);
    let tls = server_tls("server").client_ca_file(certificate("ca.pem")).client_certificate_optional(true);
    let server = TestServer::with(|server| server.tls(tls), who);
    assert_eq!(name_of(connect(server.addr(), client_tls())), "none");
    assert_eq!(name_of(connect(server.addr(), with_certificate("client"))), "client");
    drop(connect(server.addr(), with_certificate("stranger")).expect_err("it is refused"));
}

#[test]
fn a_renewed_certificate_is_for_new_clients_only() {
    let _dog = watchdog(20);
    let server = serve(echo);
    let mut old = connect(server.addr(), client_tls()).expect("a connection");
    // For this name only the next one is valid.
    let next = client_tls().server_name("other.example");
    drop(connect(server.addr(), next.clone()).expect_err("another name"));
    server.set_tls(server_tls("other_name")).expect("it is replaced");
    let error = server.set_tls(server_tls("no such")).expect_err("no file");
    assert!(error.to_string().contains("no such.pem"), "{error}");
    drop(connect(server.addr(), next).expect("the renewed certificate"));
    old.send("still here").expect("sent");
    assert_eq!(old.recv().expect("open"), Some("still here".into()));

    let plain = TestServer::new(echo);
    let error = plain.set_tls(server_tls("server")).expect_err("it has no TLS");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

/// Returns the PEM texts of a certificate, with copies of the CA's behind it, and of its key. `spare` bytes are left of the
/// 64 KiB that rustls takes of one handshake message.
fn long_chain(name: &str, spare: isize) -> (Vec<u8>, Vec<u8>) {
    let read = |file: String| std::fs::read(certificate(&file)).expect("a file");
    let length = |file: &str| CertificateDer::from_pem_file(certificate(file)).expect("a certificate").len();
    // The lists have a length of 3 and 1 bytes. Each certificate has one, and the length of its extensions (RFC 8446 §4.4.2).
    let (own, ca) = (length(&format!("{name}.pem")) + 5, length("ca.pem") + 5);
    let copies = (0xffff - 4 - own).checked_add_signed(-spare).expect("a length") / ca;
    let chain = [read(format!("{name}.pem")), read("ca.pem".into()).repeat(copies)].concat();
    (chain, read(format!("{name}.key")))
}

#[test]
fn a_chain_may_have_64_kib_and_not_more() {
    let _dog = watchdog(30);
    for (spare, works) in [(0, true), (-2000, false)] {
        let (chain, key) = long_chain("server", spare);
        let tls = ServerTls::pem(chain, key)
            .client_ca_file(certificate("ca.pem"))
            .client_certificate_optional(true);
        let server = TestServer::with(|server| server.tls(tls), who);
        assert_eq!(connect(server.addr(), client_tls()).is_ok(), works, "the server's, {spare} left");
        let server = TestServer::with(
            |server| server.tls(server_tls("server").client_ca_file(certificate("ca.pem"))),
            who,
        );
        let (chain, key) = long_chain("client", spare);
        let result = connect(server.addr(), client_tls().certificate_pem(chain, key))
            .and_then(|mut client| client.recv());
        assert_eq!(
            result.is_ok_and(|message| message == Some("client".into())),
            works,
            "the client's, {spare} left"
        );
        assert_eq!(name_of(connect(server.addr(), with_certificate("client"))), "client");
    }
}

/// A handler sends to the clients of both servers.
#[test]
fn two_servers_reach_each_others_clients_with_and_without_tls() {
    let _dog = watchdog(20);
    let hubs: Arc<OnceLock<[Hub; 2]>> = Arc::default();
    let forward = |hubs: &Arc<OnceLock<[Hub; 2]>>| {
        let hubs = Arc::clone(hubs);
        move |client: &mut Connection| {
            while let Some(message) = client.recv()? {
                for hub in hubs.get().expect("both servers run") {
                    hub.broadcast(&message);
                }
            }
            Ok(())
        }
    };
    let (plain, secure) = (TestServer::new(forward(&hubs)), serve(forward(&hubs)));
    hubs.set([plain.hub().clone(), secure.hub().clone()]).expect("once");
    let url = format!("ws://{}/", plain.addr());
    let mut clients = [Connect::new(url).connect(), connect(secure.addr(), client_tls())]
        .map(|client| client.expect("a connection"));
    for round in 0..100 {
        let text = format!("message {round}");
        clients[round % 2].send(text.as_str()).expect("it is open");
        for client in &mut clients {
            assert_eq!(client.recv().expect("open"), Some(text.as_str().into()));
        }
    }
}

#[test]
fn plain_http_on_the_port_is_answered_or_redirected() {
    let _dog = watchdog(20);
    let server = serve(echo);
    let request = "GET /chat?x=1 HTTP/1.1\r\nHost: example.com:8443\r\n\r\n";
    let mut peer = RawPeer::connect(server.addr());
    peer.write(request);
    let answer = peer.answer();
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8_lossy(&answer.body).contains("speaks TLS"), "{answer:?}");

    let server = TestServer::with(|server| server.tls(server_tls("server").redirect_http(true)), echo);
    let mut peer = RawPeer::connect(server.addr());
    peer.write(request);
    let answer = peer.answer();
    assert_eq!((answer.status, answer.all("location")), (308, vec!["https://example.com:8443/chat?x=1"]));
    // The client follows it.
    let url = format!("ws://{}/", server.addr());
    let connection = Connect::new(url).max_redirects(1).tls(client_tls()).connect();
    connection.expect("it follows").close(1000, "").expect("a clean end");
}

#[test]
fn tls_on_a_plain_port_is_refused_as_such() {
    let _dog = watchdog(20);
    let (report, reports) = std::sync::mpsc::channel();
    let server = TestServer::with(
        |server| server.on_handshake_error(move |error| report.send(error.to_string()).unwrap_or(())),
        echo,
    );
    drop(connect(server.addr(), client_tls()).expect_err("no TLS there"));
    let text = support::next(&reports, "a report");
    assert!(text.contains("a TLS handshake on a port without TLS"), "{text}");
}

#[test]
fn a_full_server_sends_an_alert() {
    let _dog = watchdog(20);
    let server = TestServer::with(|server| server.tls(server_tls("server")).max_clients(1), echo);
    let _first = connect(server.addr(), client_tls()).expect("a place");
    match connect(server.addr(), client_tls()).expect_err("it is full") {
        Error::Tls(text) => assert!(text.contains("is full"), "{text}"),
        other => panic!("another error: {other}"),
    }
}

#[test]
fn an_address_with_too_many_connections_gets_an_alert() {
    let _dog = watchdog(20);
    // Loopback is a trusted proxy by default, whose clients are known only after their request.
    let settings = |server: threadws::Server| server.max_clients_per_address(1).trust_proxy("none");
    let server = TestServer::with(|server| settings(server).tls(server_tls("server")), echo);
    let _first = connect(server.addr(), client_tls()).expect("a place");
    match connect(server.addr(), client_tls()).expect_err("it has one") {
        Error::Tls(text) => assert!(text.contains("too many connections"), "{text}"),
        other => panic!("another error: {other}"),
    }
}

#[test]
fn a_proxy_header_precedes_tls() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| server.tls(server_tls("server")).proxy_protocol(true),
        |client| {
            client.send(client.client_addr().to_string())?;
            Ok(client.ignore()?)
        },
    );
    let mut stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n").expect("sent");
    let connection = Connect::new("wss://localhost/").tls(client_tls()).connect_over(stream);
    assert_eq!(name_of(connection), "192.0.2.7");
}

#[test]
fn two_hundred_silent_or_dripping_handshakes_delay_no_other() {
    let (_turn, _dog) = (take_turn(), watchdog(60));
    let config = Config::new().with_handshake_timeout(ms(3000));
    let server = TestServer::with(|server| server.tls(server_tls("server")).config(config), echo);
    let mut peers: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(server.addr()).expect("it listens")).collect();
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for byte in hello {
        for peer in peers.iter_mut().step_by(2) {
            peer.write_all(&[byte]).expect("sent");
        }
        slowest = slowest.max(time_of_an_echo(server.addr()));
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    for mut peer in peers {
        peer.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        // The end, perhaps after an alert.
        while !matches!(peer.read(&mut [0; 64]), Ok(0) | Err(_)) {}
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    eventually("all are gone", || server.stats().threads <= 32 && server.stats().open == 0);
}

/// Returns how long a client needs to connect, to get an echo and to close.
fn time_of_an_echo(addr: SocketAddr) -> Duration {
    let before = Instant::now();
    let mut connection = connect(addr, client_tls()).expect("a connection");
    connection.send("x").expect("sent");
    connection.recv().expect("open");
    connection.close(1000, "").expect("a clean end");
    before.elapsed()
}

/// Sends more records without data than the server accepts, and waits until it disconnects.
fn flood_session(addr: SocketAddr, send: impl Fn(&mut TlsPeer)) {
    let mut peer = TlsPeer::open(addr);
    for _ in 0..33 {
        send(&mut peer);
    }
    while peer.read_record().is_ok() {}
}

/// Sends a handshake message that announces 16 MiB, and waits until the server disconnects.
fn flood_handshake(addr: SocketAddr) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    let record = [&[22, 3, 3, 64, 0, 1, 255, 255, 255][..], &[0; 16_380]].concat();
    for _ in 0..100 {
        if stream.write_all(&record).is_err() {
            break;
        }
    }
    while !matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)) {}
}

#[test]
fn two_hundred_floods_of_records_delay_no_other() {
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let server = serve(echo);
    let addr = server.addr();
    let floods: Vec<_> = (0..200)
        .map(|number| {
            std::thread::spawn(move || match number % 3 {
                0 => flood_session(addr, |peer| peer.send(DATA, &[])),
                1 => flood_session(addr, |peer| peer.update_keys(true)),
                _ => flood_handshake(addr),
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while !floods.iter().all(std::thread::JoinHandle::is_finished) {
        slowest = slowest.max(time_of_an_echo(addr));
    }
    for flood in floods {
        flood.join().expect("no panic");
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    eventually("all are gone", || server.stats().open == 0);
}

#[test]
fn clients_that_leave_right_after_the_handshake_harm_nothing() {
    let _dog = watchdog(60);
    let server = serve(echo);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for is_reset in [false, true] {
            let mut stream = TcpStream::connect(server.addr()).expect("it listens");
            let mut tls = raw_client(version);
            tls.complete_io(&mut stream).expect("a handshake");
            if is_reset {
                support::reset_when_dropped(&stream);
            }
        }
    }
    let mut connection = connect(server.addr(), client_tls()).expect("it lives");
    connection.close(1000, "").expect("a clean end");
}

#[test]
fn a_client_may_write_a_megabyte_before_it_reads() {
    let _dog = watchdog(60);
    let server = serve(echo);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        let mut tls = raw_client(version);
        tls.complete_io(&mut stream).expect("a handshake");
        let frame = support::Frame::binary(vec![7; 1 << 20]).encode();
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        tls.write_all(support::upgrade_request(server.addr(), "/", &[]).as_bytes()).expect("sent");
        tls.write_all(&frame).expect("sent");
        let mut answer = vec![0; 1 << 20];
        // The 101, and the start of the echo.
        tls.read_exact(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(&[7; 1000]));
    }
}

/// With keys against quantum computers it is larger than a packet.
#[test]
fn a_large_client_hello_in_single_bytes_is_accepted() {
    let _dog = watchdog(60);
    let server = serve(echo);
    let mut config = rustls_client(rustls::DEFAULT_VERSIONS);
    config.alpn_protocols = (0..40).map(|number| vec![b'a' + number; 100]).collect();
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let mut tls = rustls::ClientConnection::new(config.into(), "localhost".try_into().expect("a name"));
    let tls = tls.as_mut().expect("a connection");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("memory");
    assert!(hello.len() > 4096, "{}", hello.len());
    let mut stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.set_nodelay(true).expect("an option");
    for byte in hello {
        stream.write_all(&[byte]).expect("sent");
    }
    tls.complete_io(&mut stream).expect("a handshake");
    assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_shutdown_waits_for_no_tls_handshake() {
    let _dog = watchdog(60);
    let server = serve(echo);
    let mut peers: Vec<_> = (0..20).map(|_| TcpStream::connect(server.addr()).expect("it listens")).collect();
    for peer in peers.iter_mut().step_by(2) {
        peer.write_all(&[22, 3, 1, 2, 0, 1]).expect("sent");
    }
    let _open = connect(server.addr(), client_tls()).expect("a connection");
    let start = Instant::now();
    drop(server.into_handle().shutdown(Duration::from_millis(500)));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn a_detached_server_refuses_tls() {
    let error = threadws::Server::detached().tls(server_tls("server")).spawn(echo).expect_err("no listener");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

/// A request and a message behind the last bytes of the handshake, in pieces of each size.
#[test]
fn a_request_behind_the_handshake_is_read_in_any_pieces() {
    let _dog = watchdog(60);
    let server = serve(echo);
    for (pieces, versions) in [1, 5, 100, 10_000].into_iter().flat_map(|pieces| {
        [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| (pieces, version))
    }) {
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        stream.set_nodelay(true).expect("an option");
        let mut tls = raw_client(versions);
        let mut sent_request = false;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\x81\x02hi") {
            if !tls.is_handshaking() && !sent_request {
                sent_request = true;
                let request = support::upgrade_request(server.addr(), "/", &[]);
                tls.writer().write_all(request.as_bytes()).expect("queued");
                tls.writer().write_all(b"\x81\x82\0\0\0\0hi").expect("queued");
            }
            let mut wire = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut wire).expect("memory");
            }
            for piece in wire.chunks(pieces) {
                stream.write_all(piece).expect("sent");
            }
            if wire.is_empty() {
                assert!(tls.read_tls(&mut stream).expect("bytes") > 0, "it ended");
                tls.process_new_packets().expect("TLS");
                let mut plain = [0; 4096];
                while let Ok(count @ 1..) = tls.reader().read(&mut plain) {
                    answer.extend(&plain[..count]);
                }
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    }
}

fn raw_client(version: &'static rustls::SupportedProtocolVersion) -> rustls::ClientConnection {
    let name = "localhost".try_into().expect("a name");
    rustls::ClientConnection::new(rustls_client(&[version]).into(), name).expect("a connection")
}

#[test]
fn plain_http_over_tls_ends_by_close_notify() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| {
            let answer = |request: &threadws::handshake::Request| {
                threadws::handshake::Response::new(request.body().to_ascii_uppercase())
            };
            server.tls(server_tls("server")).serve_http(answer)
        },
        echo,
    );
    let body = "x".repeat(100_000);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        let mut tls = raw_client(version);
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
        tls.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).expect("sent");
        let mut interim = [0; 25];
        tls.read_exact(&mut interim).expect("an interim response");
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        tls.write_all(body.as_bytes()).expect("sent");
        let mut answer = String::new();
        // It fails without a close_notify.
        tls.read_to_string(&mut answer).expect("an answer that is not cut off");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&"X".repeat(100_000)));
    }
}

#[test]
fn a_configuration_with_early_data_is_refused() {
    let mut config = rustls_server(rustls::crypto::ring::default_provider(), rustls::DEFAULT_VERSIONS);
    let spawn = |config: rustls::ServerConfig| {
        threadws::Server::bind("127.0.0.1:0").expect("a port").tls(std::sync::Arc::new(config)).spawn(echo)
    };
    drop(spawn(config.clone()).expect("it works"));
    config.max_early_data_size = 1000;
    let error = spawn(config.clone()).expect_err("early data");
    assert!(error.to_string().contains("max_early_data_size"), "{error}");
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let error = spawn(config).expect_err("another protocol");
    assert!(error.to_string().contains("alpn_protocols"), "{error}");
}

#[test]
fn arbitrary_bytes_end_a_handshake_without_a_panic() {
    let _dog = watchdog(60);
    let config = Config::new().with_handshake_timeout(ms(500));
    let server = TestServer::with(|server| server.tls(server_tls("server")).config(config), echo);
    let hello = {
        let mut wire = Vec::new();
        raw_client(&rustls::version::TLS13).write_tls(&mut wire).expect("memory");
        wire
    };
    // Numbers that repeat in each run (Knuth's generator).
    let mut random = 1_u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize
    };
    for _ in 0..300 {
        let mut bytes = hello.clone();
        for _ in 0..=next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = next().to_le_bytes()[0];
        }
        if next() % 2 == 0 {
            bytes.truncate(next() % bytes.len());
        }
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        // It may be gone before all is written.
        drop(stream.write_all(&bytes));
        drop(stream.shutdown(std::net::Shutdown::Write));
        while !matches!(stream.read(&mut [0; 4096]), Ok(0) | Err(_)) {}
    }
    let mut connection = connect(server.addr(), client_tls()).expect("it lives");
    connection.close(1000, "").expect("a clean end");
}
