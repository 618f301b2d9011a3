//! Quotas of one client address: connections at a time, handshakes and messages in a time.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{
    Frame, PATIENCE, RawPeer, TestServer, echo, eventually, is_behind_relay, ms, next, spawn, watchdog,
};
use threadws::{BoxError, Config, Connection, Error, Server, Timeout};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3));

/// Requests a WebSocket from a local address.
#[track_caller]
fn asking(from: IpAddr, addr: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::connect_from(from, addr);
    peer.ask("/", &[]);
    peer
}

/// Requests a WebSocket as the proxy of a client.
#[track_caller]
fn asking_for(client: &str, addr: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::connect(addr);
    peer.ask("/", &[("X-Forwarded-For", client)]);
    peer
}

#[track_caller]
fn open(mut peer: RawPeer) -> RawPeer {
    peer.expect_101();
    peer
}

/// Expects a 429, and returns the seconds of its Retry-After.
#[track_caller]
fn expect_too_many(mut peer: RawPeer, what: &str) -> u64 {
    let answer = peer.expect_refusal(429);
    assert_eq!(answer.text(), format!("too many {what} from this address"));
    answer.header("retry-after").expect("a Retry-After").parse().expect("seconds")
}

/// Opens a connection as soon as there is a place.
#[track_caller]
fn open_eventually(ask: impl Fn() -> RawPeer) -> RawPeer {
    let mut opened = None;
    eventually("there is a place again", || {
        let mut peer = ask();
        let answer = peer.answer();
        assert!(matches!(answer.status, 101 | 429), "{}", answer.head);
        opened = (answer.status == 101).then_some(peer);
        opened.is_some()
    });
    opened.expect("just opened")
}

#[test]
fn an_address_has_at_most_n_connections() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 429") {
        return;
    }
    let server = TestServer::with(|server| server.trust_proxy("none").max_clients_per_address(2), echo);
    let first = open(asking(HERE, server.addr()));
    let mut second = open(asking(HERE, server.addr()));
    assert_eq!(expect_too_many(asking(HERE, server.addr()), "connections"), 5);
    // Its own header changes nothing, because no proxy is trusted.
    let mut third = RawPeer::connect_from(HERE, server.addr());
    third.ask("/", &[("X-Forwarded-For", "203.0.113.1")]);
    expect_too_many(third, "connections");
    let mut other = open(asking(ELSEWHERE, server.addr()));
    for peer in [&mut second, &mut other] {
        peer.send_text("on and on");
        peer.expect_text("on and on");
    }
    assert_eq!(server.stats().refused["address"], 2);
    first.close(1000);
    drop(open_eventually(|| asking(HERE, server.addr())));
}

#[test]
fn a_connection_without_a_handshake_counts() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 429") {
        return;
    }
    let server = TestServer::with(|server| server.trust_proxy("none").max_clients_per_address(1), echo);
    let silent = RawPeer::connect_from(HERE, server.addr());
    eventually("it is accepted", || server.stats().accepted == 1);
    expect_too_many(asking(HERE, server.addr()), "connections");
    drop(silent);
    open_eventually(|| asking(HERE, server.addr())).close(1000);
}

#[test]
fn clients_of_a_proxy_have_separate_connection_quotas() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.max_clients_per_address(2), echo);
    let first = open(asking_for("203.0.113.1", server.addr()));
    let _second = open(asking_for("203.0.113.1", server.addr()));
    assert_eq!(expect_too_many(asking_for("203.0.113.1", server.addr()), "connections"), 5);
    expect_too_many(asking_for("::ffff:203.0.113.1", server.addr()), "connections");
    let _other = open(asking_for("203.0.113.2", server.addr()));
    eventually("both are counted", || server.stats().handshake_failures.get(&429) == Some(&2));
    let stats = server.stats();
    assert_eq!(stats.refused["address"], 0);
    let mut metrics = Vec::new();
    stats.write_prometheus(&mut metrics).expect("a Vec takes all");
    let metrics = String::from_utf8(metrics).expect("UTF-8");
    assert!(metrics.contains("threadws_handshake_failures_total{status=\"429\"} 2\n"), "{metrics}");
    first.close(1000);
    drop(open_eventually(|| asking_for("203.0.113.1", server.addr())));
}

#[test]
fn an_ipv6_network_has_one_quota() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.max_clients_per_address(1), echo);
    let _first = open(asking_for("2001:db8::1", server.addr()));
    expect_too_many(asking_for("2001:db8::ffff:1", server.addr()), "connections");
    let _other = open(asking_for("2001:db8:0:1::1", server.addr()));
}

/// Clients of other addresses do not notice it.
#[test]
fn a_flood_from_one_address_takes_no_threads() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.trust_proxy("none").max_clients_per_address(1), echo);
    let _one = open(asking(HERE, server.addr()));
    eventually("it is in", || server.hub().count() == 1);
    let threads = server.stats().threads;
    let flood: Vec<RawPeer> = (0..200).map(|_| RawPeer::connect_from(HERE, server.addr())).collect();
    let mut other = open(asking(ELSEWHERE, server.addr()));
    other.send_text("still served");
    other.expect_text("still served");
    // They were accepted before the other one.
    let stats = server.stats();
    assert_eq!((stats.refused["address"], stats.accepted, stats.open), (200, 202, 2));
    assert!(stats.threads <= threads + 1, "{} threads", stats.threads);
    drop(flood);
}

/// The next handshake is allowed when its share of the time has passed.
#[test]
fn an_address_begins_n_handshakes_and_more_with_time() {
    let _dog = watchdog(120);
    if is_behind_relay("TLS is refused with an alert, and not with 429") {
        return;
    }
    // The first quota refills once a minute, which is not within this test. The second refills in a moment.
    let slow = TestServer::with(|server| server.trust_proxy("none").handshake_rate(3, ms(180_000)), echo);
    for _ in 0..3 {
        open(asking(HERE, slow.addr())).close(1000);
    }
    let wait = expect_too_many(asking(HERE, slow.addr()), "handshakes");
    assert!((1..=ms(60_000).as_secs() + 1).contains(&wait), "{wait}");
    open(asking(ELSEWHERE, slow.addr())).close(1000);
    assert_eq!(slow.stats().refused["rate"], 1);

    let quick = TestServer::with(|server| server.trust_proxy("none").handshake_rate(1, ms(700)), echo);
    let start = Instant::now();
    open(asking(HERE, quick.addr())).close(1000);
    open_eventually(|| asking(HERE, quick.addr())).close(1000);
    assert!(start.elapsed() >= ms(700), "it came back after {:?}", start.elapsed());
}

#[test]
fn clients_of_a_proxy_have_separate_handshake_quotas() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.handshake_rate(2, ms(120_000)), echo);
    for _ in 0..2 {
        open(asking_for("203.0.113.1", server.addr())).close(1000);
    }
    let wait = expect_too_many(asking_for("203.0.113.1", server.addr()), "handshakes");
    assert!((1..=ms(60_000).as_secs() + 1).contains(&wait), "{wait}");
    open(asking_for("203.0.113.2", server.addr())).close(1000);
    eventually("it is counted", || server.stats().handshake_failures.get(&429) == Some(&1));
}

#[test]
fn a_handshake_refused_for_room_is_not_counted() {
    let _dog = watchdog(60);
    if is_behind_relay("TLS is refused with an alert, and not with 503") {
        return;
    }
    let rate = |server: Server| server.max_clients(1).handshake_rate(2, Duration::from_secs(3600));
    let server = TestServer::with(|server| rate(server.trust_proxy("none")), echo);
    let first = open(asking(ELSEWHERE, server.addr()));
    for _ in 0..5 {
        asking(HERE, server.addr()).expect_refusal(503);
    }
    first.close(1000);
    eventually("there is room", || {
        let answer = asking(HERE, server.addr()).answer();
        assert!(matches!(answer.status, 101 | 503), "{}", answer.head);
        answer.status == 101
    });
}

#[test]
fn check_request_is_not_called_above_the_quota() {
    let _dog = watchdog(60);
    let (asked, questions) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            server.handshake_rate(1, Duration::from_secs(600)).check_request(move |_, _| {
                asked.send(()).expect("the test listens");
                Ok(())
            })
        },
        echo,
    );
    open(asking_for("203.0.113.1", server.addr())).close(1000);
    next(&questions, "the question about the first");
    expect_too_many(asking_for("203.0.113.1", server.addr()), "handshakes");
    // The callback runs before the answer. So it was called before the 429, or never will be.
    assert!(questions.try_recv().is_err(), "it was asked about the second");
}

/// Starts an echo server that reports how each connection ended.
fn reporting_echo(
    settings: impl FnOnce(Server) -> Server,
) -> (TestServer, mpsc::Receiver<Result<(), Error>>) {
    let (ends, ended) = mpsc::channel();
    let server = TestServer::with(settings, move |client: &mut Connection| -> Result<(), BoxError> {
        let end = loop {
            match client.recv() {
                Ok(Some(message)) => client.send(message)?,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        ends.send(end)?;
        Ok(())
    });
    (server, ended)
}

#[track_caller]
fn expect_echo(peer: &mut RawPeer, text: &str) {
    peer.send_text(text);
    peer.expect_text(text);
}

/// The quota counts the messages on all connections of the address.
#[test]
fn message_n_plus_one_of_an_address_ends_its_connection() {
    let _dog = watchdog(60);
    let per = ms(600_000);
    let (server, ended) = reporting_echo(|server| server.trust_proxy("none").message_rate(4, per));
    let mut one = open(asking(HERE, server.addr()));
    let mut two = open(asking(HERE, server.addr()));
    let mut other = open(asking(ELSEWHERE, server.addr()));
    for _ in 0..2 {
        expect_echo(&mut one, "one");
        expect_echo(&mut two, "two");
    }
    // A ping is not a message of the application.
    two.send(&Frame::ping("still there"));
    two.expect_pong(b"still there");
    two.send_text("too many");
    assert_eq!(two.expect_close(1008), "too many messages");
    two.send(&Frame::close(1008, ""));
    two.expect_eof();
    let error = next(&ended, "the end of the second").expect_err("it was closed");
    assert!(matches!(error, Error::TooManyMessages { limit: 4, per: p } if p == per), "{error}");
    assert!(error.to_string().starts_with("more than 4 messages in "), "{error}");
    for n in 0..4 {
        expect_echo(&mut other, &format!("unaffected {n}"));
    }
    // The first connection goes on, but its quota is used up. A new connection does not help.
    one.send(&Frame::ping("me too"));
    one.expect_pong(b"me too");
    one.send_text("too many");
    assert_eq!(one.expect_close(1008), "too many messages");
    let mut again = open(asking(HERE, server.addr()));
    again.send_text("too many");
    assert_eq!(again.expect_close(1008), "too many messages");
    eventually("all three are counted", || server.stats().policy_closes["message_rate"] == 3);
    other.close(1000);
}

#[test]
fn too_many_messages_after_a_close_delay_nothing() {
    let _dog = watchdog(60);
    let close_timeout = ms(400);
    let config = Config::new().with_close_timeout(close_timeout);
    let (tx, ended) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config).message_rate(4, ms(600_000)),
        move |client| {
            let start = Instant::now();
            client.sender().close(1000, "")?;
            let result = client.ignore();
            tx.send((result, start.elapsed()))?;
            Ok(())
        },
    );
    let mut peer = open(asking(HERE, server.addr()));
    peer.expect_close(1000);
    let message = Frame::text("more").encode();
    while peer.try_write(&message).is_ok() {
        std::thread::sleep(close_timeout / 8);
    }
    let (result, took) = next(&ended, "the end");
    let error = result.expect_err("no Close came");
    assert!(matches!(error, Error::Timeout(Timeout::Close)), "{error}");
    assert!(took < close_timeout + PATIENCE / 2, "after {took:?}");
}

#[test]
fn clients_of_a_proxy_have_separate_message_quotas() {
    let _dog = watchdog(60);
    let (server, _ended) = reporting_echo(|server| server.message_rate(2, ms(600_000)));
    let mut first = open(asking_for("203.0.113.1", server.addr()));
    let mut again = open(asking_for("203.0.113.1", server.addr()));
    let mut other = open(asking_for("203.0.113.2", server.addr()));
    expect_echo(&mut first, "one");
    expect_echo(&mut again, "two");
    again.send_text("three");
    assert_eq!(again.expect_close(1008), "too many messages");
    for text in ["one", "two"] {
        expect_echo(&mut other, text);
    }
    other.send_text("three");
    assert_eq!(other.expect_close(1008), "too many messages");
}

#[test]
fn without_a_setting_there_is_no_quota() {
    // More than any other test here allows.
    const MANY: usize = 300;
    let _dog = watchdog(60);
    let (server, _ended) = reporting_echo(|server| server);
    let mut peers: Vec<_> = (0..MANY).map(|_| open(asking(HERE, server.addr()))).collect();
    for number in 0..10 * MANY {
        expect_echo(&mut peers[number % MANY], "another one");
    }
    let stats = server.stats();
    assert_eq!((stats.refused["address"], stats.refused["rate"]), (0, 0));
    assert!(stats.handshake_failures.is_empty());
}

#[test]
fn the_message_quota_refills_with_time() {
    let _dog = watchdog(60);
    let (server, _ended) = reporting_echo(|server| server.trust_proxy("none").message_rate(2, ms(2000)));
    let mut peer = open(asking(HERE, server.addr()));
    let start = Instant::now();
    expect_echo(&mut peer, "one");
    expect_echo(&mut peer, "two");
    // By then the quota that the first and the second used has refilled.
    std::thread::sleep((start + ms(2100)).saturating_duration_since(Instant::now()));
    expect_echo(&mut peer, "three");
    expect_echo(&mut peer, "four");
    peer.close(1000);
}

#[test]
fn lent_messages_are_counted_and_fragments_are_not() {
    let _dog = watchdog(60);
    let server = TestServer::with(
        |server| server.message_rate(2, Duration::from_secs(600)),
        |client| {
            while let Some(mut received) = client.recv_ref()? {
                received.write(received.message)?;
            }
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::text("a").more());
    peer.send(&Frame::continuation("b").more());
    peer.send(&Frame::continuation("c"));
    peer.expect_text("abc");
    expect_echo(&mut peer, "second");
    peer.send_text("third");
    assert_eq!(peer.expect_close(1008), "too many messages");
}

#[test]
fn an_invalid_quota_is_refused_by_name() {
    type Setting = fn(Server) -> Server;
    let settings: [(&str, Setting); 4] = [
        ("max_clients_per_address", |server| server.max_clients_per_address(0)),
        ("handshake_rate", |server| server.handshake_rate(0, Duration::from_secs(1))),
        ("handshake_rate", |server| server.handshake_rate(1, Duration::ZERO)),
        ("message_rate", |server| server.message_rate(u32::MAX, Duration::from_secs(1))),
    ];
    for (name, setting) in settings {
        let server = setting(Server::bind("127.0.0.1:0").expect("a free port"));
        let error = spawn(server, |_| Ok(())).expect_err(name);
        assert!(matches!(&error, Error::Invalid(_)) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn upgraded_connections_have_the_same_quotas() {
    let _dog = watchdog(60);
    let server = Server::detached().trust_proxy("none").max_clients_per_address(1);
    let handle = spawn(server, echo).expect("the settings work");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let head = http::Request::get("/")
        .header("host", "a")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", support::raw_peer::KEY)
        .body(())
        .expect("a request");
    let handed_over = |from: IpAddr| {
        let peer = RawPeer::connect_from(from, addr);
        let (stream, _) = listener.accept().expect("it has connected");
        handle.upgrade(stream, &head, b"").expect("a thread");
        peer
    };
    let _first = open(handed_over(HERE));
    expect_too_many(handed_over(HERE), "connections");
    let _other = open(handed_over(ELSEWHERE));
}

#[cfg(feature = "cli")]
#[test]
fn the_binary_has_an_option_for_each_quota() {
    use support::Process;

    let _dog = watchdog(60);
    let start = |options: &str| {
        let arguments: Vec<&str> =
            "--every 0 --echo --trust-proxy none".split(' ').chain(options.split(' ')).collect();
        Process::threadws(&arguments)
    };
    let server = start("--max-per-address 1 --message-rate 2/10m");
    let mut peer = open(asking(HERE, server.addr()));
    expect_too_many(asking(HERE, server.addr()), "connections");
    expect_echo(&mut peer, "one");
    expect_echo(&mut peer, "two");
    peer.send_text("three");
    assert_eq!(peer.expect_close(1008), "too many messages");
    server.stop();

    let server = start("--handshake-rate 1/10m --max-lifetime 200ms");
    assert_eq!(open(asking(HERE, server.addr())).expect_close(1001), "maximum lifetime");
    expect_too_many(asking(HERE, server.addr()), "handshakes");
    // Each check takes a handshake, so it comes from its own address.
    let mut others = (0..=u16::MAX).map(|n| IpAddr::from([127, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
    eventually("the metrics count both", || {
        let mut metrics = RawPeer::connect_from(others.next().expect("enough"), server.addr());
        metrics.write("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        let metrics = metrics.answer().text();
        metrics.contains("connections_refused_total{reason=\"rate\"} 1\n")
            && metrics.contains("policy_closes_total{policy=\"max_lifetime\"} 1\n")
    });
    server.stop();

    let server = start("--idle-timeout 200ms");
    assert_eq!(open(asking(HERE, server.addr())).expect_close(1001), "idle timeout");
    server.stop();
}
