//! The PROXY protocol: a proxy that passes bytes on names the client, and only a trusted proxy is believed.
#![cfg(feature = "cli")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;
use support::{
    Haproxy, Process, RawPeer, TestServer, echo, eventually, ms, program, upgrade_request, watchdog,
};
use threadws::{Config, Server};

const V1: &[u8] = b"PROXY TCP4 203.0.113.1 127.0.0.1 56324 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xcb\0\x71\x01\x7f\0\0\x01\xdc\x04\0\x50\x04\0\x00";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Starts a server that sends each client the client address and the peer address that it sees.
fn server(settings: impl FnOnce(Server) -> Server) -> TestServer {
    TestServer::with(
        |server| settings(server.trust_proxy("127.0.0.1").proxy_protocol(true)),
        |client| {
            let peer = client.peer_addr().ip().expect("it came by TCP");
            client.send(format!("{} via {}", client.client_addr(), peer))?;
            Ok(client.ignore()?)
        },
    )
}

/// Returns these addresses for a client from `from` that sends `header` and requests a WebSocket.
#[track_caller]
fn addresses_for(server: &TestServer, from: IpAddr, header: &[u8], headers: &[(&str, &str)]) -> String {
    let mut peer = RawPeer::connect_from(from, server.addr());
    peer.write([header, upgrade_request(server.addr(), "/", headers).as_bytes()].concat());
    peer.expect_101();
    let addresses = peer.message().as_text().to_owned();
    peer.close(1000);
    addresses
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let _dog = watchdog(60);
    let server = server(|server| server);
    assert_eq!(addresses_for(&server, PROXY, V1, &[]), "203.0.113.1 via 127.0.0.1");
    assert_eq!(addresses_for(&server, PROXY, V2, &[]), "203.0.113.1 via 127.0.0.1");
    // The header names the proxy itself, or a peer without an address.
    assert_eq!(addresses_for(&server, PROXY, V2_LOCAL, &[]), "127.0.0.1 via 127.0.0.1");
    assert_eq!(addresses_for(&server, PROXY, b"PROXY UNKNOWN\r\n", &[]), "127.0.0.1 via 127.0.0.1");
    // The client that the header names is a stranger, so its own headers are not believed.
    let invented = [("X-Forwarded-For", "198.51.100.1")];
    assert_eq!(addresses_for(&server, PROXY, V1, &invented), "203.0.113.1 via 127.0.0.1");
    // The same applies if the proxy does not name the client.
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[b'/'; 216]].concat();
    for without_client in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN 203.0.113.1\r\n", V2_LOCAL, &unix] {
        let addresses = addresses_for(&server, PROXY, without_client, &invented);
        assert_eq!(addresses, "127.0.0.1 via 127.0.0.1", "{}", without_client.escape_ascii());
    }
    // Another trusted proxy, named by the first one, is believed in turn.
    let proxy = b"PROXY TCP4 127.0.0.1 127.0.0.1 56324 80\r\n";
    assert_eq!(addresses_for(&server, PROXY, proxy, &invented), "198.51.100.1 via 127.0.0.1");
}

#[test]
fn it_needs_a_trusted_proxy_in_the_settings() {
    let server = Server::bind("127.0.0.1:0").expect("a port").trust_proxy("none").proxy_protocol(true);
    let refused = server.spawn(|_| Ok(())).expect_err("it may not be sent");
    assert_eq!(refused.to_string(), "invalid input: proxy_protocol is on, and no proxy is trusted");
}

#[test]
fn a_trusted_proxy_has_to_send_it() {
    let _dog = watchdog(60);
    let server = server(|server| server);
    let mut peer = RawPeer::connect_from(PROXY, server.addr());
    peer.ask("/", &[]);
    assert_eq!(peer.expect_refusal(400).text(), "a PROXY header is expected first");
    for (header, why) in [
        (&b"PROXY TCP4 203.0.113.256 127.0.0.1 56324 80\r\n"[..], "malformed PROXY header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "PROXY header too long"),
        (&[b'P', b'R', b'O', b'X', b'Y', b' '].repeat(20), "PROXY header too long"),
    ] {
        let mut peer = RawPeer::connect_from(PROXY, server.addr());
        peer.write(header);
        assert_eq!(peer.expect_refusal(400).text(), why);
    }
    eventually("all are counted", || server.stats().handshake_failures.get(&400) == Some(&4));
}

#[test]
fn from_a_stranger_it_is_not_http() {
    let _dog = watchdog(60);
    let server = server(|server| server);
    for header in [V1, V2, V2_LOCAL] {
        let mut peer = RawPeer::connect_from(STRANGER, server.addr());
        peer.write([header, upgrade_request(server.addr(), "/", &[]).as_bytes()].concat());
        peer.expect_refusal(400);
    }
    assert_eq!(addresses_for(&server, STRANGER, b"", &[]), "127.0.0.2 via 127.0.0.2");
}

#[test]
fn without_the_setting_it_is_refused() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    for header in [V1, V2] {
        let mut peer = RawPeer::connect(server.addr());
        peer.write([header, upgrade_request(server.addr(), "/", &[]).as_bytes()].concat());
        peer.expect_refusal(400);
    }
}

#[test]
fn it_may_come_byte_by_byte_within_the_deadline() {
    let _dog = watchdog(60);
    let patient = server(|server| server);
    for header in [V1, V2] {
        let mut peer = RawPeer::connect_from(PROXY, patient.addr());
        let request = upgrade_request(patient.addr(), "/", &[]);
        for byte in header.iter().chain(request.as_bytes()) {
            peer.write([*byte]);
        }
        peer.expect_101();
        assert_eq!(peer.message().as_text(), "203.0.113.1 via 127.0.0.1");
    }
    let timeout = ms(500);
    let server = server(|server| server.config(Config::new().with_handshake_timeout(timeout)));
    let start = Instant::now();
    let mut peer = RawPeer::connect_from(PROXY, server.addr());
    peer.write(&V2[..20]);
    peer.expect_refusal(408);
    assert!(start.elapsed() >= timeout, "after {:?}", start.elapsed());
}

#[test]
fn a_health_check_of_a_proxy_is_not_a_failure() {
    let _dog = watchdog(60);
    let server = server(|server| server);
    for header in [&b""[..], V2_LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut peer = RawPeer::connect_from(PROXY, server.addr());
        peer.write(header);
        peer.fin();
        peer.expect_eof();
    }
    assert!(server.stats().handshake_failures.is_empty());
    // Half a header is not enough.
    let mut peer = RawPeer::connect_from(PROXY, server.addr());
    peer.write(&V1[..20]);
    peer.fin();
    peer.expect_refusal(400);
}

/// A client that the proxy names requests a WebSocket.
#[track_caller]
fn asking(server: &TestServer, header: &[u8]) -> RawPeer {
    let mut peer = RawPeer::connect_from(PROXY, server.addr());
    peer.write([header, upgrade_request(server.addr(), "/", &[]).as_bytes()].concat());
    peer
}

/// Names another client than `V1` and `V2`, which both name the same one.
const OTHER: &[u8] = b"PROXY TCP4 203.0.113.2 127.0.0.1 56324 80\r\n";

#[test]
fn each_client_behind_it_has_its_own_budget() {
    let _dog = watchdog(60);
    let server = server(|server| server.max_clients_per_address(1));
    let mut first = asking(&server, V1);
    first.expect_101();
    asking(&server, V2).expect_refusal(429);
    asking(&server, OTHER).expect_101();
    eventually("it is counted", || server.stats().handshake_failures.get(&429) == Some(&1));
}

#[test]
fn each_client_behind_it_has_its_own_rates() {
    let _dog = watchdog(60);
    let long = ms(600_000);
    let rates = |server: Server| {
        let server = server.trust_proxy("127.0.0.1").proxy_protocol(true);
        server.handshake_rate(2, long).message_rate(3, long)
    };
    let server = TestServer::with(rates, echo);
    for header in [V1, OTHER] {
        let mut opened = [asking(&server, header), asking(&server, header)];
        for peer in &mut opened {
            peer.expect_101();
        }
        let answer = asking(&server, header).expect_refusal(429);
        assert_eq!(answer.text(), "too many handshakes from this address");
        for (peer, text) in [(0, "one"), (1, "two"), (0, "three")] {
            opened[peer].send_text(text);
            opened[peer].expect_text(text);
        }
        opened[1].send_text("four");
        assert_eq!(opened[1].expect_close(1008), "too many messages");
    }
}

#[test]
fn behind_haproxy_in_tcp_mode_the_log_has_the_client() {
    let _dog = watchdog(60);
    let Some(haproxy) = program("haproxy") else { return };
    for options in ["send-proxy", "send-proxy-v2"] {
        let arguments = ["--echo", "--every", "0", "--trust-proxy", "127.0.0.1", "--proxy-protocol"];
        let server = Process::threadws(&arguments);
        let proxy = Haproxy::tcp_before(&haproxy, server.addr(), options);
        let mut stranger = RawPeer::connect_from(STRANGER, proxy.addr());
        stranger.upgrade("/", &[("X-Forwarded-For", "198.51.100.1")]);
        server.wait_for_line(&["connected from 127.0.0.2 via 127.0.0.1"]);
        stranger.send_text("through it");
        stranger.expect_text("through it");
        stranger.close(1000);
        // A client that bypasses the proxy is a client like any other.
        let mut direct = RawPeer::connect_from(STRANGER, server.addr());
        direct.upgrade("/", &[]);
        let line = server.wait_for_line(&["client 2 connected from 127.0.0.2"]);
        assert!(!line.contains("via"), "{line}");
        direct.close(1000);
        // A proxy that sends no header gets an answer that says so.
        let without = Haproxy::tcp_before(&haproxy, server.addr(), "");
        let mut peer = RawPeer::connect(without.addr());
        peer.ask("/", &[]);
        peer.expect_refusal(400);
        server.stop();
    }
}
