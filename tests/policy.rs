//! What one client may take of a server: connections at a time, handshakes and messages in a time, and for how long.

mod common;

use common::{Frame, RawPeer, TestServer, echo, eventually, ms, next, watchdog};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use threadws::{BoxError, Config, Connection, Error, Server};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3));

/// Asks for a WebSocket from a local address.
#[track_caller]
fn asking(from: IpAddr, addr: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::connect_from(from, addr);
    peer.ask("/", &[]);
    peer
}

/// Asks for a WebSocket as the proxy of a client.
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

/// A 429, and the seconds after which it says to come back.
#[track_caller]
fn expect_too_many(mut peer: RawPeer, what: &str) -> u64 {
    let answer = peer.expect_refusal(429);
    assert_eq!(answer.text(), format!("too many {what} from this address"));
    answer.header("retry-after").expect("a Retry-After").parse().expect("seconds")
}

/// Opens one as soon as there is a place again.
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
fn an_address_has_n_connections_at_a_time_and_no_more() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.trust_no_proxy().max_clients_per_address(2), echo);
    let first = open(asking(HERE, server.addr()));
    let mut second = open(asking(HERE, server.addr()));
    assert_eq!(expect_too_many(asking(HERE, server.addr()), "connections"), 5);
    // What it says of itself changes nothing: nobody vouches for it.
    let mut third = RawPeer::connect_from(HERE, server.addr());
    third.ask("/", &[("X-Forwarded-For", "203.0.113.1")]);
    expect_too_many(third, "connections");
    let mut other = open(asking(ELSEWHERE, server.addr()));
    for peer in [&mut second, &mut other] {
        peer.send_text("on and on");
        peer.expect_text("on and on");
    }
    assert_eq!(server.hub().stats().refused()["address"], 2);
    first.close(1000);
    drop(open_eventually(|| asking(HERE, server.addr())));
}

#[test]
fn a_connection_without_a_handshake_counts_too() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.trust_no_proxy().max_clients_per_address(1), echo);
    let silent = RawPeer::connect_from(HERE, server.addr());
    eventually("it is accepted", || server.hub().stats().accepted() == 1);
    expect_too_many(asking(HERE, server.addr()), "connections");
    drop(silent);
    open_eventually(|| asking(HERE, server.addr())).close(1000);
}

#[test]
fn the_clients_of_a_proxy_do_not_share_one_budget_of_connections() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.max_clients_per_address(2), echo);
    let first = open(asking_for("203.0.113.1", server.addr()));
    let _second = open(asking_for("203.0.113.1", server.addr()));
    assert_eq!(expect_too_many(asking_for("203.0.113.1", server.addr()), "connections"), 5);
    expect_too_many(asking_for("::ffff:203.0.113.1", server.addr()), "connections");
    let _other = open(asking_for("203.0.113.2", server.addr()));
    eventually("both are counted", || server.hub().stats().handshake_failures().get(&429) == Some(&2));
    let stats = server.hub().stats();
    assert_eq!(stats.refused()["address"], 0);
    let mut metrics = Vec::new();
    stats.write_prometheus(&mut metrics).expect("a Vec takes all");
    let metrics = String::from_utf8(metrics).expect("UTF-8");
    assert!(metrics.contains("threadws_handshake_failures_total{status=\"429\"} 2\n"), "{metrics}");
    first.close(1000);
    drop(open_eventually(|| asking_for("203.0.113.1", server.addr())));
}

#[test]
fn an_ipv6_client_has_one_budget_for_its_whole_network() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.max_clients_per_address(1), echo);
    let _first = open(asking_for("2001:db8::1", server.addr()));
    expect_too_many(asking_for("2001:db8::ffff:1", server.addr()), "connections");
    let _other = open(asking_for("2001:db8:0:1::1", server.addr()));
}

#[test]
fn a_flood_from_one_address_takes_no_threads_and_leaves_others_alone() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.trust_no_proxy().max_clients_per_address(1), echo);
    let _one = open(asking(HERE, server.addr()));
    let flood: Vec<RawPeer> = (0..200).map(|_| RawPeer::connect_from(HERE, server.addr())).collect();
    let mut other = open(asking(ELSEWHERE, server.addr()));
    other.send_text("still served");
    other.expect_text("still served");
    // They were accepted before the other one.
    let stats = server.hub().stats();
    assert_eq!((stats.refused()["address"], stats.accepted(), stats.open()), (200, 202, 2));
    assert_eq!(stats.threads(), 2);
    drop(flood);
}

#[test]
fn an_address_begins_n_handshakes_at_once_and_the_next_when_its_share_of_the_time_has_passed() {
    let _dog = watchdog(120);
    // One in a minute comes back: not within this test. Then one in a moment.
    let slow = TestServer::with(|server| server.trust_no_proxy().handshake_rate(3, ms(180_000)), echo);
    for _ in 0..3 {
        open(asking(HERE, slow.addr())).close(1000);
    }
    let wait = expect_too_many(asking(HERE, slow.addr()), "handshakes");
    assert!((1..=ms(60_000).as_secs() + 1).contains(&wait), "{wait}");
    open(asking(ELSEWHERE, slow.addr())).close(1000);
    assert_eq!(slow.hub().stats().refused()["rate"], 1);

    let quick = TestServer::with(|server| server.trust_no_proxy().handshake_rate(1, ms(700)), echo);
    let start = Instant::now();
    open(asking(HERE, quick.addr())).close(1000);
    open_eventually(|| asking(HERE, quick.addr())).close(1000);
    assert!(start.elapsed() >= ms(700), "it came back after {:?}", start.elapsed());
}

#[test]
fn the_clients_of_a_proxy_do_not_share_one_budget_of_handshakes() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.handshake_rate(2, ms(120_000)), echo);
    for _ in 0..2 {
        open(asking_for("203.0.113.1", server.addr())).close(1000);
    }
    let wait = expect_too_many(asking_for("203.0.113.1", server.addr()), "handshakes");
    assert!((1..=ms(60_000).as_secs() + 1).contains(&wait), "{wait}");
    open(asking_for("203.0.113.2", server.addr())).close(1000);
    eventually("it is counted", || server.hub().stats().handshake_failures().get(&429) == Some(&1));
}

#[test]
fn the_header_callback_is_not_asked_about_a_handshake_too_many() {
    let _dog = watchdog(60);
    let (asked, questions) = mpsc::channel();
    let server = TestServer::with(
        |server| {
            server.handshake_rate(1, Duration::from_secs(600)).on_request(move |_, _| {
                asked.send(()).expect("the test listens");
                Ok(())
            })
        },
        echo,
    );
    open(asking_for("203.0.113.1", server.addr())).close(1000);
    next(&questions, "the question about the first");
    expect_too_many(asking_for("203.0.113.1", server.addr()), "handshakes");
    // The callback runs before the answer: with the 429 here, it has been asked or never will be.
    assert!(questions.try_recv().is_err(), "it was asked about the second");
}

/// An echo that tells how each connection ended.
fn telling(settings: impl FnOnce(Server) -> Server) -> (TestServer, mpsc::Receiver<Result<(), Error>>) {
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

#[test]
fn an_address_sends_n_messages_on_all_its_connections_and_the_next_ends_its_connection() {
    let _dog = watchdog(60);
    let per = ms(600_000);
    let (server, ended) = telling(|server| server.trust_no_proxy().message_rate(4, per));
    let mut one = open(asking(HERE, server.addr()));
    let mut two = open(asking(HERE, server.addr()));
    let mut other = open(asking(ELSEWHERE, server.addr()));
    for _ in 0..2 {
        expect_echo(&mut one, "one");
        expect_echo(&mut two, "two");
    }
    // Not a message of the application.
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
    // The first goes on, but has no more to send; and a new connection does not help.
    one.send(&Frame::ping("me too"));
    one.expect_pong(b"me too");
    one.send_text("too many");
    assert_eq!(one.expect_close(1008), "too many messages");
    let mut again = open(asking(HERE, server.addr()));
    again.send_text("too many");
    assert_eq!(again.expect_close(1008), "too many messages");
    eventually("all three are counted", || server.hub().stats().policy_closes()["message_rate"] == 3);
    other.close(1000);
}

#[test]
fn messages_come_back_with_time() {
    let _dog = watchdog(60);
    let (server, _ended) = telling(|server| server.trust_no_proxy().message_rate(2, ms(2000)));
    let mut peer = open(asking(HERE, server.addr()));
    let start = Instant::now();
    expect_echo(&mut peer, "one");
    expect_echo(&mut peer, "two");
    // All that the first one and the second took has come back by then.
    std::thread::sleep((start + ms(2100)).saturating_duration_since(Instant::now()));
    expect_echo(&mut peer, "three");
    expect_echo(&mut peer, "four");
    peer.close(1000);
}

#[test]
fn messages_that_are_lent_are_counted_and_fragments_are_not() {
    let _dog = watchdog(60);
    let server = TestServer::with(
        |server| server.message_rate(2, Duration::from_secs(600)),
        |client| {
            while let Some(mut received) = client.recv_ref()? {
                received.write(received.message())?;
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
fn a_quota_that_cannot_work_is_refused_by_its_name() {
    type Setting = fn(Server) -> Server;
    let settings: [(&str, Setting); 4] = [
        ("max_clients_per_address", |server| server.max_clients_per_address(0)),
        ("handshake_rate", |server| server.handshake_rate(0, Duration::from_secs(1))),
        ("handshake_rate", |server| server.handshake_rate(1, Duration::ZERO)),
        ("message_rate", |server| server.message_rate(u32::MAX, Duration::from_secs(1))),
    ];
    for (name, setting) in settings {
        let server = setting(Server::bind("127.0.0.1:0").expect("a free port"));
        let error = server.spawn(|_| Ok(())).expect_err(name);
        assert!(matches!(&error, Error::Invalid(_)) && error.to_string().contains(name), "{error}");
    }
}

/// What `Config` says of time, and an echo that tells how each connection ended.
fn echo_for(config: Config) -> (TestServer, mpsc::Receiver<String>) {
    let (ends, ended) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config),
        move |client: &mut Connection| -> Result<(), BoxError> {
            echo(client)?;
            ends.send(client.closed().ok_or("it is not over")?.to_string())?;
            Ok(())
        },
    );
    (server, ended)
}

/// The Close of a policy, answered; and how the handler saw it.
#[track_caller]
fn expect_retired(mut peer: RawPeer, reason: &str, ended: &mpsc::Receiver<String>) {
    assert_eq!(peer.expect_close(1001), reason);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
    let told = format!("sent 1001 (going away) {reason:?}; then received 1001 (going away)");
    assert_eq!(next(ended, "the handler's end"), told);
}

#[test]
fn a_connection_lasts_as_long_as_its_lifetime_whatever_is_said_on_it() {
    let _dog = watchdog(60);
    let lifetime = ms(1500);
    let (server, ended) = echo_for(Config::new().max_lifetime(lifetime));
    let start = Instant::now();
    let mut talker = RawPeer::open(server.addr());
    let silent = RawPeer::open(server.addr());
    // Until the Close comes in the place of an answer.
    let close = loop {
        talker.send_text("still here");
        let frame = talker.frame();
        if frame.opcode == common::frame::CLOSE {
            break frame;
        }
        assert_eq!(frame.as_text(), "still here");
        std::thread::sleep(ms(5));
    };
    assert!(start.elapsed() >= lifetime, "after {:?}", start.elapsed());
    assert_eq!(close.close_content(), Some((1001, "maximum lifetime".to_owned())));
    talker.send(&Frame::close(1001, ""));
    talker.expect_eof();
    expect_retired(silent, "maximum lifetime", &ended);
    eventually("both are counted", || server.hub().stats().policy_closes()["max_lifetime"] == 2);
}

#[test]
fn what_a_peer_says_before_it_answers_the_close_of_a_lifetime_is_received() {
    let _dog = watchdog(60);
    let (heard, words) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().max_lifetime(ms(200))),
        move |client| {
            while let Some(message) = client.recv()? {
                heard.send(message.as_text().map(str::to_owned))?;
            }
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    assert_eq!(peer.expect_close(1001), "maximum lifetime");
    peer.send_text("last words");
    peer.send(&Frame::close(1001, ""));
    assert_eq!(next(&words, "the last words").as_deref(), Some("last words"));
    peer.expect_eof();
}

#[test]
fn a_handler_that_only_sends_is_ended_by_the_lifetime_too() {
    let _dog = watchdog(60);
    let server = TestServer::with(
        |server| server.config(Config::new().max_lifetime(ms(500))),
        |client| {
            client.every(ms(20), "tick");
            Ok(client.ignore()?)
        },
    );
    let mut peer = RawPeer::open(server.addr());
    peer.expect_close_at_last(&[1001]);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
}

#[test]
fn a_busy_handler_finds_its_lifetime_over_when_it_next_receives() {
    let _dog = watchdog(60);
    let lifetime = ms(200);
    let (end, ends) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().max_lifetime(lifetime)),
        move |client| {
            std::thread::sleep(lifetime * 2);
            client.send("not over yet")?;
            while client
                .recv_timeout(ms(100))
                .map_or_else(|error| !error.is_fatal(), |message| message.is_some())
            {}
            end.send(client.closed().is_some_and(|closed| closed.is_clean()))?;
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("not over yet");
    assert_eq!(peer.expect_close(1001), "maximum lifetime");
    peer.send(&Frame::close(1001, ""));
    assert!(next(&ends, "the end"), "a clean one");
}

#[test]
fn pings_and_pongs_do_not_keep_an_idle_connection_open() {
    let _dog = watchdog(60);
    let idle = ms(1000);
    let (server, ended) = echo_for(Config::new().idle_timeout(idle).ping_interval(ms(50)));
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    // It answers each ping, and sends its own without a pause.
    let mut pongs = 0;
    let close = loop {
        drop(peer.try_write(&Frame::ping("alive").encode()));
        let frame = peer.frame();
        match frame.opcode {
            common::frame::CLOSE => break frame.close_content(),
            common::frame::PING => drop(peer.try_write(&Frame::pong(frame.payload).encode())),
            common::frame::PONG => pongs += 1,
            _ => panic!("unexpected {frame:?}"),
        }
    };
    assert_eq!(close, Some((1001, "idle timeout".to_owned())));
    assert!(start.elapsed() >= idle && pongs > 0, "after {:?} and {pongs} pongs", start.elapsed());
    peer.send(&Frame::close(1001, ""));
    assert!(next(&ended, "the handler's end").starts_with("sent 1001 (going away) \"idle timeout\""));
    assert_eq!(server.hub().stats().policy_closes()["idle_timeout"], 1);
}

#[test]
fn messages_in_either_direction_keep_a_connection_open() {
    let _dog = watchdog(90);
    let idle = ms(2000);
    let until = Instant::now() + idle * 2;
    // Received alone: nothing is sent back.
    let config = Config::new().idle_timeout(idle);
    let sink = TestServer::with(|server| server.config(config.clone()), |client| Ok(client.ignore()?));
    let source = TestServer::with(
        |server| server.config(config.clone()),
        |client| {
            let tick = client.every(ms(20), "tick");
            drop(client.recv()?);
            tick.cancel();
            Ok(client.ignore()?)
        },
    );
    let mut talker = RawPeer::open(sink.addr());
    let mut listener = RawPeer::open(source.addr());
    while Instant::now() < until {
        talker.send_text("something");
        listener.expect_text("tick");
    }
    talker.send(&Frame::ping("open"));
    talker.expect_pong(b"open");
    let stopped = Instant::now();
    listener.send_text("stop");
    listener.expect_close_at_last(&[1001]);
    assert!(stopped.elapsed() >= idle, "after {:?}", stopped.elapsed());
    talker.expect_close_at_last(&[1001]);
}

#[test]
fn whatever_is_sent_and_however_begins_the_idle_time_anew() {
    let _dog = watchdog(60);
    // Sent at a third of the time: what is not counted is closed for a third too early.
    let (idle, delay) = (ms(1500), ms(500));
    type Send = fn(&mut Connection) -> threadws::Result<()>;
    let cases: [(&str, Send); 5] = [
        ("send", |client| client.send("small")),
        ("a large send", |client| client.send(vec![7; 100_000])),
        ("try_send", |client| client.try_send("tried")),
        ("write", |client| client.write("answered")),
        ("a broadcast", |client| {
            client.hub().broadcast("to all");
            Ok(())
        }),
    ];
    std::thread::scope(|scope| {
        for (what, send) in cases {
            // Each in a thread, to see its Close when it comes.
            scope.spawn(move || {
                let config = Config::new().idle_timeout(idle);
                let server = TestServer::with(
                    |server| server.config(config),
                    move |client| {
                        std::thread::sleep(delay);
                        send(client)?;
                        Ok(client.ignore()?)
                    },
                );
                let start = Instant::now();
                let mut peer = RawPeer::open(server.addr());
                assert!(!peer.message().payload.is_empty(), "{what}");
                peer.expect_close_at_last(&[1001]);
                assert!(start.elapsed() >= idle + delay, "{what}: after {:?}", start.elapsed());
            });
        }
    });
}

#[test]
fn a_message_that_waits_for_a_slow_peer_is_not_idle() {
    const SIZE: usize = 16 << 20;
    let _dog = watchdog(60);
    let idle = ms(300);
    // Whoever closes meanwhile cuts the message.
    let config = Config::new().idle_timeout(idle).close_timeout(ms(200));
    let server = TestServer::with(
        |server| server.config(config),
        |client| {
            client.sender().try_send(vec![7; SIZE])?;
            Ok(client.ignore()?)
        },
    );
    let mut peer = RawPeer::open(server.addr());
    std::thread::sleep(idle * 5);
    let start = Instant::now();
    assert!(peer.message().payload == vec![7; SIZE], "it came whole");
    assert_eq!(peer.expect_close(1001), "idle timeout");
    assert!(start.elapsed() >= idle, "after {:?}", start.elapsed());
}

#[test]
fn a_message_that_is_arriving_is_not_idle() {
    let _dog = watchdog(60);
    let idle = ms(300);
    let (server, ended) = echo_for(Config::new().idle_timeout(idle));
    let mut peer = RawPeer::open(server.addr());
    for part in ["sl", "ow", "ly"] {
        peer.send(&if part == "sl" { Frame::text(part) } else { Frame::continuation(part) }.more());
        std::thread::sleep(idle);
    }
    peer.send(&Frame::continuation(""));
    peer.expect_text("slowly");
    expect_retired(peer, "idle timeout", &ended);
}

#[test]
fn what_waits_for_a_busy_handler_is_received_before_silence_is_held_against_it() {
    let _dog = watchdog(60);
    let idle = ms(300);
    let (go, gone) = mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let server = TestServer::with(
        |server| server.config(Config::new().idle_timeout(idle)),
        move |client| {
            gone.lock().expect("nobody panics under it").recv()?;
            echo(client)
        },
    );
    let mut peer = RawPeer::open(server.addr());
    std::thread::sleep(idle * 2);
    peer.send_text("in time");
    std::thread::sleep(idle * 2);
    go.send(()).expect("the handler waits");
    peer.expect_text("in time");
    assert_eq!(peer.expect_close(1001), "idle timeout");
}

#[test]
fn a_client_may_have_a_lifetime_too() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    let config = Config::new().max_lifetime(ms(100));
    let connect = threadws::Connect::new(format!("ws://{}/", server.addr())).config(config);
    let mut connection = connect.connect().expect("a connection");
    assert_eq!(connection.recv().expect("a clean end"), None);
    let sent = connection.closed().and_then(|closed| closed.sent().cloned()).expect("our Close");
    assert_eq!((sent.code.into(), sent.reason.as_str()), (1001_u16, "maximum lifetime"));
}

#[test]
fn who_is_handed_over_by_another_http_server_has_the_same_budget() {
    let _dog = watchdog(60);
    let server = Server::detached().trust_no_proxy().max_clients_per_address(1);
    let handle = server.spawn(echo).expect("the settings work");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let head = http::Request::get("/")
        .header("host", "a")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", common::peer::KEY)
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
fn the_binary_has_an_option_for_each_policy() {
    use common::Process;

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
    // Each look takes a handshake, so it comes from an address of its own.
    let mut others = (0..=u16::MAX).map(|n| IpAddr::from([127, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
    eventually("the metrics tell of both", || {
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
