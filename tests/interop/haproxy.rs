//! A real HAProxy between client and server, and curl as the client.
#![cfg(feature = "cli")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Output};
use support::{Frame, Haproxy, PATIENCE, Process, RawPeer, eventually, program, watchdog};

/// The setting for HAProxy from the guide on deploying.
const SETTINGS: &str = "    option forwardfor";

#[track_caller]
fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn behind_haproxy_the_log_has_the_clients_address() {
    let _dog = watchdog(30);
    let Some(haproxy) = program("haproxy") else { return };
    let server = Process::threadws(&["--echo", "--every", "0"]);
    let proxy = Haproxy::before(&haproxy, server.addr(), SETTINGS);
    // A header as another proxy before it would send it. HAProxy adds its own header line behind it.
    let mut peer = RawPeer::open_at(proxy.addr(), "/", &[("X-Forwarded-For", "203.0.113.7")]);
    server.wait_for_line(&["connected from 203.0.113.7 via 127.0.0.1"]);
    for size in [0, 125, 126, 65_536, 1 << 20] {
        let text = "x".repeat(size);
        peer.send_text(&text);
        assert!(peer.message().as_text() == text, "{size} bytes");
        peer.send(&Frame::binary(vec![7; size]));
        assert!(peer.message().payload == vec![7; size], "{size} bytes");
    }
    peer.send(&Frame::ping("through it"));
    peer.expect_pong(b"through it");
    peer.close(1000);
    server.wait_for_line(&["disconnected", "1000"]);
    server.stop();
}

#[test]
fn a_client_cannot_forge_its_address_behind_haproxy() {
    let _dog = watchdog(30);
    let Some(haproxy) = program("haproxy") else { return };
    let server = Process::threadws(&["--every", "0", "--trust-proxy", "127.0.0.1"]);
    let proxy = Haproxy::before(&haproxy, server.addr(), SETTINGS);
    let mut stranger = RawPeer::connect_from(ip("127.0.0.2"), proxy.addr());
    stranger.upgrade("/", &[("X-Forwarded-For", "198.51.100.1, 127.0.0.1")]);
    server.wait_for_line(&["connected from 127.0.0.2 via 127.0.0.1"]);
    assert!(!server.log().concat().contains("from 198.51.100.1"), "{:#?}", server.log());
    stranger.close(1000);
    // Without the option HAProxy adds nothing, and the header of the client is believed as the proxy's. So the option
    // is needed.
    let without = Haproxy::before(&haproxy, server.addr(), "");
    let mut stranger = RawPeer::connect_from(ip("127.0.0.2"), without.addr());
    stranger.upgrade("/", &[]);
    let line = server.wait_for_line(&["connected from 127.0.0.1"]);
    assert!(!line.contains("via"), "{line}");
    stranger.close(1000);
    server.stop();
}

#[test]
fn behind_haproxy_the_same_origin_passes() {
    let _dog = watchdog(30);
    let Some(haproxy) = program("haproxy") else { return };
    let server = Process::threadws(&["--every", "0"]);
    let proxy = Haproxy::before(&haproxy, server.addr(), SETTINGS);
    // It passes Host on, which nginx does only with a setting.
    let origin = format!("http://{}", proxy.addr());
    RawPeer::open_at(proxy.addr(), "/", &[("Origin", &origin)]).close(1000);
    let mut evil = RawPeer::connect(proxy.addr());
    evil.ask("/", &[("Origin", "http://evil.example")]);
    assert_eq!(evil.answer().status, 403);
    server.stop();
}

#[test]
fn a_close_passes_haproxy_in_both_directions() {
    let _dog = watchdog(30);
    let Some(haproxy) = program("haproxy") else { return };
    let mut server = Process::threadws(&["--every", "0"]);
    let proxy = Haproxy::before(&haproxy, server.addr(), SETTINGS);
    RawPeer::open(proxy.addr()).close(4001);
    server.wait_for_line(&["disconnected", "4001"]);
    let mut peer = RawPeer::open(proxy.addr());
    server.signal(rustix::process::Signal::TERM);
    peer.expect_close(1001);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
    server.wait_for_success(PATIENCE);
}

#[test]
fn our_own_client_connects_through_haproxy() {
    let _dog = watchdog(30);
    let Some(haproxy) = program("haproxy") else { return };
    let server = Process::threadws(&["--echo", "--every", "0"]);
    let proxy = Haproxy::before(&haproxy, server.addr(), SETTINGS);
    let mut connection = threadws::connect(format!("ws://{}/", proxy.addr())).expect("a connection");
    connection.send("through haproxy").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some("through haproxy".into()));
    connection.close(1000, "").expect("clean");
    server.stop();
}

/// Without a method and a path, HAProxy asks by OPTIONS.
#[test]
fn the_bare_health_check_of_haproxy_passes() {
    let _dog = watchdog(60);
    let Some(haproxy) = program("haproxy") else { return };
    let server = Process::threadws(&["--every", "0"]);
    let config = format!(
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n\
         frontend outside\n    bind fd@0\n    stats enable\n    stats uri /stats\n    default_backend inside\n\
         backend inside\n    option httpchk\n    server one {} check inter 100ms rise 1 fall 1\n",
        server.addr()
    );
    let proxy = Haproxy::with(&haproxy, &config);
    let mut row = String::new();
    eventually("HAProxy has checked", || {
        let mut stream = TcpStream::connect(proxy.addr()).expect("it listens");
        stream.write_all(b"GET /stats;csv HTTP/1.0\r\n\r\n").expect("sent");
        let mut table = String::new();
        stream.read_to_string(&mut table).expect("a table");
        row = table.lines().find(|line| line.starts_with("inside,one,")).expect("a row").to_owned();
        row.contains(",L7")
    });
    assert!(row.contains(",UP,") && row.contains(",L7OK,204,"), "{row}");
    RawPeer::open(proxy.addr()).close(1000);
    server.stop();
}

/// curl without the user's settings, which prints only errors.
#[track_caller]
fn curl(curl: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(curl);
    command.args(["-q", "-sS", "--noproxy", "*", "--http1.1", "--max-time", "10"]).args(arguments);
    command.output().expect("curl starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn curl_gets_pages_and_upgrades_with_and_without_haproxy() {
    let _dog = watchdog(60);
    let Some(program_curl) = program("curl") else { return };
    let server = Process::threadws(&["--every", "100ms", "--message", "tick"]);
    let proxy = program("haproxy").map(|haproxy| Haproxy::before(&haproxy, server.addr(), SETTINGS));
    let addrs: Vec<SocketAddr> = [server.addr()].into_iter().chain(proxy.iter().map(Haproxy::addr)).collect();
    for addr in addrs {
        println!("{addr}");
        let url = format!("http://{addr}/");
        let page = curl(&program_curl, &["-i", "--compressed", &url]);
        let answer = text(&page.stdout);
        assert!(
            page.status.success() && answer.starts_with("HTTP/1.1 200"),
            "{answer}{}",
            text(&page.stderr)
        );
        assert!(answer.contains("</script>"), "no page: {}", &answer[..answer.len().min(500)]);
        let health = curl(&program_curl, &["--fail", &format!("{url}healthz")]);
        assert_eq!((health.status.code(), text(&health.stdout).trim()), (Some(0), "ok"));
        let head = curl(&program_curl, &["-I", &url]);
        assert!(
            head.status.success() && text(&head.stdout).starts_with("HTTP/1.1 200"),
            "{}",
            text(&head.stderr)
        );
        let post = curl(&program_curl, &["-i", "-d", "a=b", &url]);
        assert!(text(&post.stdout).starts_with("HTTP/1.1 405"), "{}", text(&post.stdout));

        let mut arguments = vec!["-i", "-N", "--max-time", "1"];
        let upgrade = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        arguments.extend(upgrade.iter().flat_map(|header| ["-H", header]));
        arguments.push(&url);
        let opened = curl(&program_curl, &arguments);
        let answer = text(&opened.stdout);
        assert!(
            answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{answer}{}",
            text(&opened.stderr)
        );
        assert!(
            answer.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{answer}"
        );
        // It shows the frames as they are: a final text frame of four bytes.
        assert!(opened.stdout.windows(6).any(|bytes| bytes == b"\x81\x04tick"), "{answer}");
        // With one header changed, the answer says what is wrong.
        for (header, instead, status) in [
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", "426"),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: short", "400"),
        ] {
            let changed: Vec<_> = arguments
                .iter()
                .map(|argument| if *argument == header { instead } else { argument })
                .collect();
            let refused = curl(&program_curl, &changed);
            let answer = text(&refused.stdout);
            assert!(refused.status.success(), "curl waited for more: {answer}{}", text(&refused.stderr));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    }
    server.stop();
}

/// HAProxy passes TLS on as it is, and says before it for whom.
#[test]
#[cfg(feature = "tls")]
fn haproxy_passes_tls_on_behind_a_proxy_header() {
    use support::certificate;
    use threadws::tls::ClientTls;
    let _dog = watchdog(30);
    let Some(haproxy) = program("haproxy") else { return };
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    for version in ["send-proxy", "send-proxy-v2"] {
        let options = ["--echo", "--every", "0", "--proxy-protocol", "--cert", &cert, "--key", &key];
        let server = Process::threadws(&options);
        let proxy = Haproxy::tcp_before(&haproxy, server.addr(), version);
        let url = format!("wss://{}/", proxy.addr());
        let mut connection = threadws::Connect::new(url)
            .tls(ClientTls::new().ca_file(certificate("ca.pem")))
            .connect()
            .expect("a connection");
        server.wait_for_line(&["connected from 127.0.0.1"]);
        connection.send("x".repeat(1 << 20)).expect("sent");
        assert_eq!(connection.recv().expect("open").map(|message| message.as_bytes().len()), Some(1 << 20));
        connection.close(1000, "").expect("a clean end");
        server.stop();
    }
}
