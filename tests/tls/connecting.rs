//! The client: which servers it trusts, what its errors say, and redirects.

use crate::{client_tls, connect, rustls_server, server_tls};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use support::{RawServer, TestServer, certificate, echo, ms, rustls_client, skip, watchdog};
use threadws::tls::rustls::crypto::ring;
use threadws::tls::{ClientTls, rustls};
use threadws::{Config, Connect, Connection, Error, Server, Timeout};

fn server(name: &str) -> TestServer {
    TestServer::with(|server| server.tls(server_tls(name)), echo)
}

#[track_caller]
fn expect_echo(mut connection: Connection) {
    connection.send("over TLS").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some("over TLS".into()));
    connection.close(1000, "").expect("a clean end");
}

/// Connects in vain, and returns the text of the error.
#[track_caller]
fn failure(addr: SocketAddr, tls: ClientTls) -> String {
    match connect(addr, tls).expect_err("it cannot be trusted") {
        Error::Tls(text) => {
            assert!(text.starts_with(&format!("the handshake with {addr} failed: ")), "{text}");
            text.into_owned()
        }
        other => panic!("another error: {other}"),
    }
}

#[test]
fn a_client_and_a_server_echo_over_tls() {
    let _dog = watchdog(20);
    let server = server("server");
    expect_echo(connect(server.addr(), client_tls()).expect("a connection"));
    let pem = std::fs::read(certificate("ca.pem")).expect("a file");
    expect_echo(connect(server.addr(), ClientTls::new().ca_pem(pem)).expect("a connection"));
    let url = format!("wss://localhost:{}/", server.addr().port());
    expect_echo(Connect::new(url).tls(client_tls()).connect().expect("a connection"));
}

/// See `tests/support/Cargo.toml`. Such a program had no TLS with tokio-tungstenite (tokio-tungstenite#336).
#[test]
fn a_program_with_two_providers_has_to_install_none() {
    let _dog = watchdog(20);
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
    std::panic::catch_unwind(rustls::ClientConfig::builder).expect_err("rustls does not know which");
    let server = server("server");
    expect_echo(connect(server.addr(), client_tls()).expect("a connection"));
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}

#[test]
fn an_unknown_issuer_is_refused_with_the_cure() {
    let _dog = watchdog(20);
    let server = server("server");
    for tls in [ClientTls::new(), ClientTls::new().ca_file(certificate("other_ca.pem"))] {
        let text = failure(server.addr(), tls);
        assert!(text.contains("no CA that is trusted here") && text.contains("--cacert"), "{text}");
    }
}

#[test]
fn each_bad_certificate_is_refused_with_the_cure() {
    let _dog = watchdog(20);
    let rows = [
        ("expired", "has expired"),
        ("not_yet", "is the clock right?"),
        ("other_name", "is for other.example and not for \"127.0.0.1\""),
        ("own_ca", "CA:FALSE"),
    ];
    for (name, expected) in rows {
        let server = server(name);
        let tls = client_tls().ca_file(certificate("own_ca.pem"));
        let text = failure(server.addr(), tls);
        assert!(text.contains(expected), "{name}: {text}");
        let any = ClientTls::new().dangerous_accept_any_certificate();
        expect_echo(connect(server.addr(), any).expect("any certificate is accepted"));
    }
}

#[test]
fn another_server_name_can_be_demanded() {
    let _dog = watchdog(20);
    let server = server("server");
    expect_echo(connect(server.addr(), client_tls().server_name("a.threadws.test.")).expect("a wildcard"));
    let text = failure(server.addr(), client_tls().server_name("a.b.threadws.test"));
    assert!(text.contains("a.b.threadws.test"), "{text}");
}

#[test]
fn an_ipv6_address_has_to_be_in_the_certificate() {
    let _dog = watchdog(20);
    for (name, works) in [("server", true), ("other_name", false)] {
        let Ok(server) = Server::bind("[::1]:0") else { return skip("there is no IPv6") };
        let server = server.tls(server_tls(name)).spawn(echo).expect("the settings work");
        let url = format!("wss://{}/", server.local_addr().expect("it listens"));
        match Connect::new(url).tls(client_tls()).connect() {
            Ok(connection) if works => expect_echo(connection),
            Err(Error::Tls(text)) if !works => assert!(text.contains("not for \"::1\""), "{text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_plain_server_is_recognised() {
    let _dog = watchdog(20);
    let plain = TestServer::new(echo);
    let text = failure(plain.addr(), client_tls());
    assert!(text.contains("ws:// instead of wss://"), "{text}");
}

#[test]
fn a_server_that_hangs_up_is_an_io_error() {
    let _dog = watchdog(20);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.read_exact(&mut [0; 64]).expect("a ClientHello");
    });
    let error = connect(addr, client_tls()).expect_err("it hangs up");
    assert!(matches!(error, Error::Io(_)), "{error}");
    thread.join().expect("no panic");
}

#[test]
fn one_deadline_covers_tls_and_the_upgrade() {
    let _dog = watchdog(20);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    // A byte of a record every 10 ms, which never ends.
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(&[22, 3, 3, 64, 0]).expect("sent");
        while stream.write_all(&[2]).is_ok() {
            std::thread::sleep(ms(10));
        }
    });
    let config = Config::new().with_handshake_timeout(ms(300));
    let start = std::time::Instant::now();
    let connect = Connect::new(format!("wss://{addr}/")).tls(client_tls()).config(config);
    let error = connect.connect().expect_err("it never ends");
    assert!(matches!(error, Error::Timeout(Timeout::Handshake)), "{error}");
    assert!(start.elapsed() < ms(3000), "{:?}", start.elapsed());
    thread.join().expect("no panic");
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let _dog = watchdog(20);
    let text = |tls: ClientTls| {
        // Nothing listens there: the files are read first.
        Connect::new("wss://127.0.0.1:1/").tls(tls).connect().expect_err("it cannot be used").to_string()
    };
    let with = |pem: &str, key: &str| ClientTls::new().certificate_files(certificate(pem), certificate(key));
    let rows = [
        (ClientTls::new().ca_file("/no/such.pem"), "cannot read /no/such.pem: No such file"),
        (ClientTls::new().ca_file(certificate("server.key")), "server.key has no certificate"),
        (ClientTls::new().ca_pem("no PEM"), "the PEM text has no certificate"),
        (with("client.pem", "server.key"), "server.key does not belong to the certificate in"),
        (with("client.pem", "encrypted.key"), "openssl pkey"),
        (with("client.pem", "ca.pem"), "ca.pem has no private key"),
    ];
    for (tls, expected) in rows {
        let text = text(tls);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_redirect_to_wss_is_followed_and_never_back() {
    let _dog = watchdog(20);
    let secure = server("server");
    let to = |url: String| format!("HTTP/1.1 307 no\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n");
    let plain = RawServer::answering(to(format!("wss://{}/", secure.addr())));
    let connection = Connect::new(plain.url()).max_redirects(1).tls(client_tls()).connect();
    expect_echo(connection.expect("it follows"));

    let target = TestServer::new(echo);
    let location = format!("ws://{}/", target.addr());
    let redirecting = TestServer::with(
        |server| {
            server.tls(server_tls("server")).check_request(move |_, _| {
                Err(threadws::handshake::Reject::new(307, "no").header("location", &location))
            })
        },
        echo,
    );
    let url = format!("wss://{}/", redirecting.addr());
    let error =
        Connect::new(url).max_redirects(1).tls(client_tls()).connect().expect_err("it is not followed");
    assert!(matches!(&error, Error::Refused(response) if response.status() == 307), "{error}");
}

#[test]
fn the_client_certificate_is_not_for_another_host() {
    use rustls::pki_types::pem::PemObject as _;
    let _dog = watchdog(20);
    // Sends "yes" if the client has a certificate.
    let target = TestServer::with(
        |server| {
            let tls = server_tls("server").client_ca_file(certificate("ca.pem"));
            server.tls(tls.client_certificate_optional(true))
        },
        |client| {
            client.send(if client.request().peer_certificate().is_some() { "yes" } else { "no" })?;
            Ok(client.ignore()?)
        },
    );
    let files = || client_tls().certificate_files(certificate("client.pem"), certificate("client.key"));
    let given = || {
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(certificate("client.key")).expect("a key");
        let chain = rustls::pki_types::CertificateDer::from_pem_file(certificate("client.pem"));
        let chain = vec![chain.expect("a certificate")];
        let key = rustls::sign::CertifiedKey::from_der(chain, key, &ring::default_provider());
        let mut config = rustls_client(rustls::DEFAULT_VERSIONS);
        config.client_auth_cert_resolver =
            Arc::new(rustls::sign::SingleCertAndKey::from(key.expect("they fit")));
        ClientTls::from(Arc::new(config))
    };
    for (host, expected, tls) in [
        ("localhost", "yes", files()),
        ("127.0.0.1", "no", files()),
        ("localhost", "yes", given()),
        ("127.0.0.1", "no", given()),
    ] {
        let location = format!("wss://{host}:{}/", target.addr().port());
        let first = TestServer::with(
            |server| {
                server.tls(server_tls("server")).check_request(move |_, _| {
                    Err(threadws::handshake::Reject::new(307, "there").header("location", &location))
                })
            },
            echo,
        );
        let url = format!("wss://localhost:{}/", first.addr().port());
        let mut connection = Connect::new(url).max_redirects(1).tls(tls).connect().expect("it follows");
        assert_eq!(connection.recv().expect("open"), Some(expected.into()), "{host}");
        connection.close(1000, "").expect("a clean end");
    }
}

#[test]
fn a_given_configuration_is_used_if_it_speaks_http() {
    let _dog = watchdog(20);
    let server = server("server");
    let config = |protocols: &[&str]| {
        let mut config = rustls_client(rustls::DEFAULT_VERSIONS);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    for protocols in [&[][..], &["http/1.1"]] {
        expect_echo(connect(server.addr(), config(protocols)).expect("a connection"));
    }
    for protocols in [&["h2"][..], &["h2", "http/1.1"], &["spdy/1"]] {
        let error = connect(server.addr(), config(protocols)).expect_err("it would speak something else");
        assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("alpn"), "{error}");
    }
    let error = connect(server.addr(), ClientTls::from(config(&[])).ca_file("x")).expect_err("two roots");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[test]
fn a_close_notify_ends_a_refusal_without_a_fin() {
    let _dog = watchdog(20);
    let (addr, server) = raw_server(|tls, stream| {
        let mut tls = rustls::Stream::new(tls, stream);
        let mut head = [0; 4096];
        let count = tls.read(&mut head).expect("a request");
        assert!(head[..count].starts_with(b"GET / HTTP/1.1\r\n"));
        // Both leave in one write.
        tls.conn.writer().write_all(b"HTTP/1.1 403 no\r\n\r\nwithout a length").expect("queued");
        tls.conn.send_close_notify();
        let mut wire = Vec::new();
        while tls.conn.wants_write() {
            tls.conn.write_tls(&mut wire).expect("memory");
        }
        tls.sock.write_all(&wire).expect("sent");
        // Until the client has gone.
        while !matches!(tls.sock.read(&mut head), Ok(0) | Err(_)) {}
    });
    let start = std::time::Instant::now();
    match connect(addr, client_tls()).expect_err("it is refused") {
        Error::Refused(response) => assert_eq!(response.body(), b"without a length"),
        other => panic!("another error: {other}"),
    }
    assert!(start.elapsed() < ms(5000), "{:?}", start.elapsed());
    server.join().expect("no panic");
}

#[test]
fn frames_behind_the_101_are_received_in_any_pieces() {
    let _dog = watchdog(60);
    for pieces in [1, 7, 1000] {
        let (addr, server) = raw_server(move |tls, stream| {
            let mut stream = stream;
            let mut request = Vec::new();
            let mut tls_stream = rustls::Stream::new(tls, &mut stream);
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                tls_stream.read_exact(&mut byte).expect("a request");
                request.push(byte[0]);
            }
            let text = String::from_utf8(request).expect("UTF-8");
            let key = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
            let accept = threadws::handshake::accept_key(key);
            let head = format!(
                "HTTP/1.1 101 ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            let mut wire = Vec::new();
            for part in [head.as_bytes(), b"\x81\x05first\x81\x06sec", b"ond", b"\x88\x02\x03\xe8"] {
                tls.writer().write_all(part).expect("queued");
                while tls.wants_write() {
                    tls.write_tls(&mut wire).expect("memory");
                }
            }
            for piece in wire.chunks(pieces) {
                stream.write_all(piece).expect("sent");
                if pieces < 100 {
                    // So that the pieces are not read together.
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            }
            // The client's Close. The server ends the connection then.
            assert!(stream.read(&mut [0; 4096]).expect("bytes") > 0);
        });
        let mut connection = connect(addr, client_tls()).expect("a connection");
        assert_eq!(connection.recv().expect("open"), Some("first".into()));
        assert_eq!(connection.recv().expect("open"), Some("second".into()));
        assert_eq!(connection.recv().expect("a clean end"), None);
        server.join().expect("no panic");
    }
}

/// Starts a server for one client, which speaks TLS by rustls itself.
fn raw_server(
    serve: impl FnOnce(&mut rustls::ServerConnection, &mut TcpStream) + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let config = rustls_server(ring::default_provider(), rustls::DEFAULT_VERSIONS);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).expect("a connection");
        tls.complete_io(&mut stream).expect("a handshake");
        serve(&mut tls, &mut stream);
    });
    (addr, thread)
}

#[test]
fn no_debug_shows_a_private_key() {
    let key = std::fs::read_to_string(certificate("client.key")).expect("a file");
    let secret = key.lines().nth(1).expect("a line of the key").to_owned();
    let shown = format!(
        "{:?} {:?} {:?}",
        ClientTls::new().certificate_pem(key.clone(), key.clone()),
        threadws::tls::ServerTls::pem(key.clone(), key.clone()),
        Connect::new("wss://a/").tls(ClientTls::new().certificate_pem(key.clone(), key.clone())),
    );
    assert!(!shown.contains(&secret), "{shown}");
    let bytes = format!("{:?}", key.as_bytes());
    assert!(!shown.contains(&bytes[1..40]), "{shown}");
    let error = Connect::new("wss://127.0.0.1:1/")
        .tls(ClientTls::new().certificate_pem(key.clone(), key))
        .connect()
        .expect_err("no certificate");
    assert!(!error.to_string().contains(&secret), "{error}");
}
