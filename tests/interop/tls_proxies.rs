//! nginx and HAProxy with TLS: before them, behind them, and on both sides.
#![cfg(all(feature = "cli", feature = "tls"))]

use std::net::SocketAddr;
use support::{Folder, Haproxy, Nginx, Process, certificate, program, watchdog};
use threadws::tls::ClientTls;
use threadws::{Connect, Error};

/// TLS before the proxy, and behind it.
const SIDES: [(bool, bool); 3] = [(true, false), (true, true), (false, true)];

fn server(has_tls: bool) -> Process {
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    let mut options = vec!["--echo", "--every", "0"];
    if has_tls {
        options.extend(["--cert", &cert, "--key", &key]);
    }
    Process::threadws(&options)
}

/// Talks through a proxy, and closes from either end.
#[track_caller]
fn check(server: Process, proxy: SocketAddr, has_tls: bool) {
    let url = format!("{}://{proxy}/", if has_tls { "wss" } else { "ws" });
    // The page of the same host may connect, the page of another may not.
    let connect = |origin: &str| {
        let tls = ClientTls::new().ca_file(certificate("ca.pem"));
        Connect::new(&url).tls(tls).header("Origin", origin).connect()
    };
    let origin = format!("{}://{proxy}", if has_tls { "https" } else { "http" });
    match connect("https://evil.example").expect_err("another origin") {
        Error::Refused(response) => assert_eq!(response.status(), 403),
        other => panic!("another error: {other}"),
    }
    let mut connection = connect(&origin).expect("a connection");
    for size in [0, 125, 16_384, 65_536, 1 << 20] {
        connection.send(vec![7; size]).expect("sent");
        let echo = connection.recv().expect("open").expect("open");
        assert!(echo.as_bytes() == vec![7; size], "{size} bytes");
    }
    for number in 0..100 {
        connection.write(number.to_string()).expect("sent");
    }
    for number in 0..100 {
        assert_eq!(connection.recv().expect("open"), Some(number.to_string().into()));
    }
    connection.close(4001, "done").expect("a clean end");
    server.wait_for_line(&["disconnected", "4001"]);
    let mut connection = connect(&origin).expect("a connection");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(connection.recv().expect("a normal end"), None);
    let closed = connection.closed().expect("it has ended");
    assert!(closed.is_clean() && closed.code() == 1001, "{closed}");
}

#[test]
fn nginx_passes_connections_on_with_tls_on_each_side() {
    let _dog = watchdog(90);
    let Some(nginx) = program("nginx") else { return };
    let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(certificate);
    for (before, behind) in SIDES {
        let server = server(behind);
        let proxy = Nginx::with(&nginx, |addr| {
            let (ssl, scheme) = (if before { " ssl" } else { "" }, if behind { "https" } else { "http" });
            format!(
                "server {{ listen {addr}{ssl}; ssl_certificate {cert}; ssl_certificate_key {key};
                 location / {{ proxy_pass {scheme}://{}; proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;
                 proxy_set_header Host $http_host; proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca};
                 proxy_ssl_server_name on; proxy_ssl_name localhost; }} }}",
                server.addr()
            )
        });
        check(server, proxy.addr(), before);
    }
}

#[test]
fn haproxy_passes_connections_on_with_tls_on_each_side() {
    let _dog = watchdog(90);
    let Some(haproxy) = program("haproxy") else { return };
    let folder = Folder::new();
    let both = folder.path("both.pem");
    let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(certificate);
    let [chain, secret] = [cert, key].map(|path| std::fs::read(path).expect("a file"));
    std::fs::write(&both, [chain, secret].concat()).expect("a file");
    for (before, behind) in SIDES {
        let server = server(behind);
        let bind = if before { format!(" ssl crt {}", both.display()) } else { String::new() };
        let tls = format!(" ssl verify required ca-file {ca} sni str(localhost)");
        let config = format!(
            "defaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n    \
             timeout tunnel 1h\nfrontend outside\n    bind fd@0{bind}\n    default_backend inside\nbackend inside\n    \
             server one {}{}\n",
            server.addr(),
            if behind { &tls } else { "" }
        );
        let proxy = Haproxy::with(&haproxy, &config);
        check(server, proxy.addr(), before);
    }
}
