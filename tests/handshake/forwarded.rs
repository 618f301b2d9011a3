//! A client's address behind a proxy is read from X-Forwarded-For, but only as far as the header can be trusted.
#![cfg(feature = "cli")]

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::mpsc;
use support::{Nginx, Process, RawPeer, TestServer, echo, eventually, ms, next, program, spawn, watchdog};
use threadws::{Addr, Server, handshake::ForwardedHeader};

/// The settings for nginx from the guide on deploying.
const SETTINGS: &str = "
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection \"upgrade\";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
";

#[track_caller]
fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn behind_nginx_the_log_has_the_clients_address() {
    let _dog = watchdog(30);
    let Some(nginx) = program("nginx") else { return };
    let server = Process::threadws(&["--echo", "--every", "0"]);
    let nginx = Nginx::before(&nginx, server.addr(), SETTINGS);
    // A header as another proxy before nginx would send it.
    let mut peer = RawPeer::open_at(nginx.addr(), "/", &[("X-Forwarded-For", "203.0.113.7")]);
    server.wait_for_line(&["connected from 203.0.113.7 via 127.0.0.1"]);
    peer.send_text("through nginx");
    peer.expect_text("through nginx");
    server.wait_for_line(&["through nginx"]);
    let large = "x".repeat(1 << 20);
    peer.send_text(&large);
    assert!(peer.message().as_text() == large);
    peer.close(1000);
    server.wait_for_line(&["disconnected", "1000"]);
    server.stop();
}

#[test]
fn a_client_cannot_forge_its_address_behind_a_named_proxy() {
    let _dog = watchdog(30);
    let Some(nginx) = program("nginx") else { return };
    // Only a part of loopback is trusted, so that 127.0.0.2 is a stranger that only nginx has seen.
    let server = Process::threadws(&["--every", "0", "--trust-proxy", "127.0.0.1"]);
    let nginx = Nginx::before(&nginx, server.addr(), SETTINGS);
    let mut stranger = RawPeer::connect_from(ip("127.0.0.2"), nginx.addr());
    stranger.upgrade("/", &[("X-Forwarded-For", "198.51.100.1, 127.0.0.1")]);
    server.wait_for_line(&["connected from 127.0.0.2 via 127.0.0.1"]);
    assert!(!server.log().concat().contains("from 198.51.100.1"), "{:#?}", server.log());
    stranger.close(1000);
    // The headers of a stranger that bypasses nginx are not believed.
    let mut direct = RawPeer::connect_from(ip("127.0.0.3"), server.addr());
    direct.upgrade("/", &[("X-Forwarded-For", "198.51.100.1")]);
    let line = server.wait_for_line(&["connected from 127.0.0.3"]);
    assert!(!line.contains("via"), "{line}");
    direct.close(1000);
    server.stop();
}

#[test]
fn behind_nginx_the_same_origin_needs_the_host_line() {
    let _dog = watchdog(30);
    let Some(nginx) = program("nginx") else { return };
    let server = Process::threadws(&["--every", "0"]);
    let with = Nginx::before(&nginx, server.addr(), SETTINGS);
    let origin = format!("http://{}", with.addr());
    RawPeer::open_at(with.addr(), "/", &[("Origin", &origin)]).close(1000);
    let mut evil = RawPeer::connect(with.addr());
    evil.ask("/", &[("Origin", "http://evil.example"), ("Connection", "Upgrade")]);
    assert_eq!(evil.answer().status, 403);
    // Without the line nginx sends the backend's name as the host, and no page has that origin.
    let without =
        Nginx::before(&nginx, server.addr(), &SETTINGS.replace("proxy_set_header Host $http_host;", ""));
    let origin = format!("http://{}", without.addr());
    let mut peer = RawPeer::connect(without.addr());
    peer.ask("/", &[("Origin", &origin)]);
    assert_eq!(peer.answer().status, 403);
    // In this case the origin has to be allowed by name.
    let server = Process::threadws(&["--every", "0", "--allow-origin", "http://app.example"]);
    let without =
        Nginx::before(&nginx, server.addr(), &SETTINGS.replace("proxy_set_header Host $http_host;", ""));
    RawPeer::open_at(without.addr(), "/", &[("Origin", "http://app.example")]).close(1000);
    server.stop();
}

#[test]
fn a_close_passes_nginx_in_both_directions() {
    let _dog = watchdog(30);
    let Some(nginx) = program("nginx") else { return };
    let mut server = Process::threadws(&["--every", "0"]);
    let nginx = Nginx::before(&nginx, server.addr(), SETTINGS);
    RawPeer::open(nginx.addr()).close(4001);
    server.wait_for_line(&["disconnected", "4001"]);
    let mut peer = RawPeer::open(nginx.addr());
    server.signal(rustix::process::Signal::TERM);
    peer.expect_close(1001);
    peer.send(&support::Frame::close(1001, ""));
    peer.expect_eof();
    server.wait_for_success(ms(8000));
}

#[test]
fn trust_decides_which_address_is_logged() {
    let _dog = watchdog(60);
    // Options, the socket's address, x-forwarded-for, and the logged address.
    let cases: [(&[&str], &str, &[&str], &str); 14] = [
        (&[], "127.0.0.1", &[], "from 127.0.0.1"),
        (&[], "127.0.0.1", &["203.0.113.7"], "from 203.0.113.7 via 127.0.0.1"),
        (&["--trust-proxy", "loopback"], "127.0.0.1", &["203.0.113.7"], "from 203.0.113.7 via 127.0.0.1"),
        (&[], "127.0.0.1", &["198.51.100.1, 203.0.113.7"], "from 203.0.113.7 via 127.0.0.1"),
        (&[], "127.0.0.1", &["198.51.100.1", "203.0.113.7"], "from 203.0.113.7 via 127.0.0.1"),
        (&[], "127.0.0.1", &["203.0.113.7, 127.0.0.2"], "from 203.0.113.7 via 127.0.0.1"),
        (&[], "127.0.0.1", &["2001:db8::7"], "from 2001:db8::7 via 127.0.0.1"),
        (&[], "127.0.0.1", &["203.0.113.7, unknown"], "from 127.0.0.1"),
        (&["--trust-proxy", "none"], "127.0.0.1", &["203.0.113.7"], "from 127.0.0.1"),
        (
            &["--trust-proxy", "any"],
            "127.0.0.1",
            &["198.51.100.1, 203.0.113.7"],
            "from 198.51.100.1 via 127.0.0.1",
        ),
        (&["--trust-proxy", "127.0.0.9"], "127.0.0.1", &["203.0.113.7"], "from 127.0.0.1"),
        (&["--trust-proxy", "127.0.0.9"], "127.0.0.9", &["203.0.113.7"], "from 203.0.113.7 via 127.0.0.9"),
        (
            &["--trust-proxy", "127.0.0.0/30", "--trust-proxy", "203.0.113.0/24"],
            "127.0.0.2",
            &["198.51.100.1, 203.0.113.7"],
            "from 198.51.100.1 via 127.0.0.2",
        ),
        (&["--trust-proxy", "127.0.0.0/30"], "127.0.0.5", &["203.0.113.7"], "from 127.0.0.5"),
    ];
    for (options, from, headers, logged) in cases {
        println!("{options:?}, {from}, {headers:?}");
        let server = Process::threadws(&[&["--every", "0"], options].concat());
        let headers: Vec<_> = headers.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        let mut peer = RawPeer::connect_from(ip(from), server.addr());
        peer.upgrade("/", &headers);
        let line = server.wait_for_line(&["connected"]);
        assert!(line.contains(&format!("connected {logged}")), "{line}");
        assert_eq!(line.contains("via"), logged.contains("via"), "{line}");
        peer.close(1000);
    }
}

/// An IPv4 client of a socket for both families has the address `::ffff:127.0.0.1` there (firezone#15013).
#[test]
fn a_socket_for_ipv4_and_ipv6_invents_no_proxy() {
    let _dog = watchdog(60);
    if TcpListener::bind("[::]:0").is_err() {
        println!("skipped: there is no IPv6");
        return;
    }
    // Options, x-forwarded-for, and what the log says.
    let cases: [(&[&str], Option<&str>, &str); 7] = [
        (&[], None, "from 127.0.0.1"),
        (&["--trust-proxy", "none"], None, "from 127.0.0.1"),
        (&[], Some("127.0.0.1"), "from 127.0.0.1"),
        (&[], Some("::ffff:203.0.113.7"), "from 203.0.113.7 via 127.0.0.1"),
        (&["--trust-proxy", "127.0.0.1"], Some("203.0.113.7"), "from 203.0.113.7 via 127.0.0.1"),
        (&["--trust-proxy", "::ffff:127.0.0.1"], Some("203.0.113.7"), "from 203.0.113.7 via 127.0.0.1"),
        (&["--trust-proxy", "::ffff:127.0.0.0/104"], Some("203.0.113.7"), "from 203.0.113.7 via 127.0.0.1"),
    ];
    for (options, forwarded, logged) in cases {
        println!("{options:?}, {forwarded:?}");
        let options = [&["--every", "0", "--log", "debug"], options].concat();
        let server = Process::threadws_at("[::]:0", &[], &options);
        let mut peer = RawPeer::connect((Ipv4Addr::LOCALHOST, server.addr().port()).into());
        let port = peer.local_addr().port();
        let headers: Vec<_> = forwarded.map(|value| ("X-Forwarded-For", value)).into_iter().collect();
        peer.upgrade("/", &headers);
        let line = server.wait_for_line(&[" connected "]);
        assert!(line.ends_with(&format!(" connected {logged}")), "{line}");
        let line = server.wait_for_line(&[" opened "]);
        assert!(line.ends_with(&format!(" opened {logged}:{port}")), "{line}");
        peer.close(1000);
    }
}

#[test]
fn every_address_of_an_ipv4_client_is_ipv4() {
    let _dog = watchdog(30);
    let Ok(listener) = TcpListener::bind("[::]:0") else {
        println!("skipped: there is no IPv6");
        return;
    };
    let addr = (Ipv4Addr::LOCALHOST, listener.local_addr().expect("it is bound").port()).into();
    let (tx, rx) = mpsc::channel();
    let server = Server::from_listener(listener)
        .trust_proxy("none")
        .max_clients_per_address(1)
        .on_handshake_error(move |error| tx.send((error.peer_addr, error.client_addr)).unwrap_or(()));
    let server = spawn(server, |client| {
        client.send(format!("{} {}", client.client_addr(), client.peer_addr()))?;
        echo(client)
    })
    .expect("the settings work");
    let mut peer = RawPeer::connect(addr);
    peer.upgrade("/", &[]);
    peer.expect_text(&format!("127.0.0.1 {}", peer.local_addr()));
    assert_eq!(server.hub().clients()[0].peer_addr(), peer.local_addr().into());
    // The quota counts the same address.
    RawPeer::connect(addr).expect_refusal(429);
    peer.close(1000);
    let mut refused = RawPeer::connect(addr);
    eventually("the place is free", || {
        refused = RawPeer::connect(addr);
        refused.ask("/", &[("Sec-WebSocket-Version", "8")]);
        refused.answer().status == 426
    });
    let local = Addr::from(refused.local_addr());
    assert_eq!(next(&rx, "the callback"), (local, Addr::Ip(Ipv4Addr::LOCALHOST.into())));
}

#[test]
fn a_hostile_forwarded_address_stays_one_log_line() {
    let _dog = watchdog(30);
    let server = Process::threadws(&["--every", "0", "--trust-proxy", "any"]);
    let mut escape = RawPeer::connect(server.addr());
    escape.ask("/", &[("X-Forwarded-For", "\u{1b}[31mred")]);
    escape.expect_refusal(400);
    let bad = ["203.0.113.7\tconnected from 1.2.3.4", "%0aconnected", "\u{c548}\u{b155}", &"9".repeat(4000)];
    for value in bad {
        RawPeer::open_at(server.addr(), "/", &[("X-Forwarded-For", value)]).close(1000);
    }
    // A part that is not an address ends the search, and is not logged in place of an address.
    server.wait_for_lines(&["connected from 127.0.0.1"], bad.len());
    let mut shouts = RawPeer::open(server.addr());
    shouts.send_text("\u{1b}[31mred\nforged line \u{202e}");
    shouts.send(&support::Frame::close(4000, "\u{1b}[31mred\nforged line"));
    shouts.expect_close_at_last(&[4000]);
    shouts.expect_eof();
    server.wait_for_line(&["disconnected", "4000"]);
    for line in server.log() {
        assert!(!line.contains('\u{1b}') && !line.starts_with("forged") && line.len() < 1000, "{line:?}");
    }
}

#[test]
fn the_library_believes_only_one_header() {
    let _dog = watchdog(30);
    let plain: fn(Server) -> Server = |server| server;
    let forwarded: fn(Server) -> Server = |server| server.forwarded_header(ForwardedHeader::Forwarded);
    let none: fn(Server) -> Server = |server| server.trust_proxy("none");
    let xff = ("X-Forwarded-For", "203.0.113.7");
    let standard = ("Forwarded", "for=198.51.100.1;proto=https, for=\"[2001:db8::7]:4711\"");
    let cases = [
        (plain, &[xff, standard][..], "203.0.113.7"),
        (plain, &[standard][..], "127.0.0.1"),
        (forwarded, &[xff, standard][..], "2001:db8::7"),
        (forwarded, &[xff][..], "127.0.0.1"),
        (none, &[xff, standard][..], "127.0.0.1"),
    ];
    for (settings, headers, found) in cases {
        let server = TestServer::with(settings, |client| {
            let peer = client.peer_addr().ip().expect("it came by TCP");
            client.send(format!("{} {}", client.client_addr(), peer))?;
            assert_eq!(client.request().client_addr(), client.client_addr());
            echo(client)
        });
        let mut peer = RawPeer::open_at(server.addr(), "/", headers);
        peer.expect_text(&format!("{found} 127.0.0.1"));
        assert_eq!(server.hub().clients()[0].client_addr(), Addr::Ip(ip(found)));
        peer.close(1000);
    }
}
