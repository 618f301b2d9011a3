//! Every setting of `Server`, `Config` and `Connect` refuses the values that can never work: by its name, and before
//! anything is started.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;
use support::{RawPeer, TestServer, echo, expect_echo, ms, watchdog};
use threadws::deflate::Deflate;
use threadws::{Config, Connect, Error, Server};

/// Less than a millisecond, which is the shortest time: no client could be served in it.
const TOO_SHORT: Duration = Duration::from_micros(999);
/// More than a year, which is the longest time.
const TOO_LONG: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A method, a word that the errors contain, and calls that must fail. A method without calls can be given no wrong value.
type Row<T> = (&'static str, &'static str, &'static [fn(T) -> T]);

const SERVER: &[Row<Server>] = &[
    ("config", "max_message_size", &[|server| server.config(Config::new().with_max_message_size(0))]),
    ("max_clients", "max_clients", &[|server| server.max_clients(0)]),
    (
        "stack_size",
        "stack_size",
        &[
            |server| server.stack_size(0),
            |server| server.stack_size(16 * 1024),
            |server| server.stack_size(usize::MAX),
            |server| server.stack_size(usize::MAX / 2),
            |server| server.stack_size(1 << 50),
        ],
    ),
    (
        "path",
        "path",
        &[
            |server| server.path(""),
            |server| server.path("ws"),
            |server| server.path("/a b"),
            |server| server.path("/a?b"),
            |server| server.path("/a#b"),
            |server| server.path("/a<b"),
            |server| server.path("/{room}"),
            |server| server.path("/../a"),
            |server| server.path("/%2E%2e/a"),
            |server| server.path("/\u{e9}"),
        ],
    ),
    (
        "subprotocols",
        "subprotocol",
        &[
            |server| server.subprotocols([""]),
            |server| server.subprotocols(["with space"]),
            |server| server.subprotocols(["a", "b", "a"]),
        ],
    ),
    (
        "allow_origin",
        "allowed origin",
        &[
            |server| server.allow_origin(""),
            |server| server.allow_origin("*"),
            |server| server.allow_origin("https://*"),
            |server| server.allow_origin("example.com"),
            |server| server.allow_origin("https://example.com:port"),
            |server| server.allow_origin("https://example.com/*"),
        ],
    ),
    ("allow_any_origin", "", &[]),
    (
        "trust_proxy",
        "trusted proxy",
        &[
            |server| server.trust_proxy(""),
            |server| server.trust_proxy("any"),
            |server| server.trust_proxy("localhost"),
            |server| server.trust_proxy("not an address"),
            |server| server.trust_proxy("10.0.0.0/33"),
        ],
    ),
    ("trust_any_proxy", "", &[]),
    ("forwarded_header", "", &[]),
    ("proxy_protocol", "proxy_protocol", &[|server| server.proxy_protocol(true).trust_proxy("none")]),
    ("max_clients_per_address", "max_clients_per_address", &[|server| server.max_clients_per_address(0)]),
    (
        "handshake_rate",
        "handshake_rate",
        &[
            |server| server.handshake_rate(0, ms(1000)),
            |server| server.handshake_rate(1, Duration::ZERO),
            |server| server.handshake_rate(u32::MAX, ms(1000)),
            |server| server.handshake_rate(1, TOO_LONG),
        ],
    ),
    (
        "message_rate",
        "message_rate",
        &[
            |server| server.message_rate(0, ms(1000)),
            |server| server.message_rate(1, Duration::ZERO),
            |server| server.message_rate(u32::MAX, ms(1000)),
            |server| server.message_rate(1, TOO_LONG),
        ],
    ),
    ("max_topics", "max_topics", &[|server| server.max_topics(0)]),
    ("slow_peer", "", &[]),
    ("check_request", "", &[]),
    ("serve_http", "", &[]),
    // Its wrong values are in `tests/tls`.
    ("tls", "", &[]),
    ("raise_panics", "", &[]),
    ("workers", "workers", &[|server| server.workers(0)]),
    ("max_callback_threads", "max_callback_threads", &[|server| server.max_callback_threads(0)]),
    ("max_handshake_threads", "max_handshake_threads", &[|server| server.max_handshake_threads(0)]),
];

/// The times that no setter takes.
macro_rules! bad_times {
    ($setter:ident) => {
        [
            |config| config.$setter(Duration::ZERO),
            |config| config.$setter(TOO_SHORT),
            |config| config.$setter(TOO_LONG),
        ]
    };
}

/// Of the times, each is refused if it is zero, too short or too long.
const CONFIG: &[Row<Config>] = &[
    ("max_message_size", "max_message_size", &[|config| config.with_max_message_size(0)]),
    // Zero is possible: an empty queue takes one message of any size.
    ("max_backlog", "", &[]),
    (
        "max_head_size",
        "max_head_size",
        &[|config| config.with_max_head_size(0), |config| config.with_max_head_size(1023)],
    ),
    (
        "deflate",
        "deflate",
        &[
            |config| config.with_deflate(Deflate::new().level(0)),
            |config| config.with_deflate(Deflate::new().level(10)),
            |config| config.with_deflate(Deflate::new().window_bits(8)),
            |config| config.with_deflate(Deflate::new().window_bits(16)),
        ],
    ),
    ("handshake_timeout", "handshake_timeout", &bad_times!(with_handshake_timeout)),
    ("message_timeout", "message_timeout", &bad_times!(with_message_timeout)),
    ("ping_interval", "ping_interval", &bad_times!(with_ping_interval)),
    ("ping_timeout", "ping_timeout", &bad_times!(with_ping_timeout)),
    ("write_timeout", "write_timeout", &bad_times!(with_write_timeout)),
    ("close_timeout", "close_timeout", &bad_times!(with_close_timeout)),
    ("max_close_time", "max_close_time", &bad_times!(with_max_close_time)),
    ("max_lifetime", "max_lifetime", &bad_times!(with_max_lifetime)),
    ("idle_timeout", "idle_timeout", &bad_times!(with_idle_timeout)),
];

const CONNECT: &[Row<Connect>] = &[
    (
        "new",
        "URL",
        &[
            |_| Connect::new(""),
            |_| Connect::new("localhost:8005"),
            |_| Connect::new("ftp://127.0.0.1/"),
            |_| Connect::new("ws:///"),
            |_| Connect::new("ws://127.0.0.1:0/"),
            |_| Connect::new("ws://127.0.0.1:65536/"),
            |_| Connect::new("ws://127.0.0.1/#fragment"),
        ],
    ),
    (
        "header",
        "header",
        &[
            |connect| connect.header("bad name", "x"),
            |connect| connect.header("x", "a\r\nb: c"),
            |connect| connect.header("Host", "x"),
            |connect| connect.header("Sec-WebSocket-Key", "x"),
            |connect| connect.header("Origin", "https://a.example").header("origin", "https://b.example"),
            |connect| (0..40_000).fold(connect, |connect, number| connect.header(format!("x-{number}"), "y")),
        ],
    ),
    (
        "subprotocols",
        "subprotocol",
        &[|connect| connect.subprotocols(["a b"]), |connect| connect.subprotocols(["a", "a"])],
    ),
    (
        "config",
        "close_timeout",
        &[|connect| connect.config(Config::new().with_close_timeout(Duration::ZERO))],
    ),
    ("max_redirects", "", &[]),
    // Its wrong values are in `tests/tls`.
    ("tls", "", &[]),
];

/// Returns the methods of a file that set something. Callbacks that only observe can be given no wrong value.
fn setters(source: &'static str) -> BTreeSet<&'static str> {
    let methods = source.split("    pub fn ").skip(1);
    let setters =
        methods.filter(|method| method.split('{').next().is_some_and(|head| head.contains("mut self")));
    let names = setters.map(|method| method.split(['(', '<']).next().expect("a name"));
    names.filter(|name| !name.starts_with("on_")).collect()
}

#[track_caller]
fn expect_rows<T>(table: &[Row<T>], setters: BTreeSet<&str>) {
    let rows: BTreeSet<_> = table.iter().map(|(name, ..)| *name).collect();
    let missing: Vec<_> = setters.difference(&rows).collect();
    assert!(missing.is_empty(), "which values of these can never work? {missing:?}");
}

#[track_caller]
fn expect_invalid<T: std::fmt::Debug>(result: Result<T, Error>, name: &str, number: usize) {
    match result {
        Err(Error::Invalid(what)) => assert!(what.contains(name), "{name}, call {number}: {what}"),
        other => panic!("{name}, call {number}: {other:?}"),
    }
}

#[test]
fn invalid_settings_are_refused_before_the_start() {
    let _dog = watchdog(60);
    expect_rows(SERVER, setters(include_str!("../../src/server/builder.rs")));
    expect_rows(SERVER, setters(include_str!("../../src/server/callbacks.rs")));
    expect_rows(SERVER, setters(include_str!("../../src/server/events.rs")));
    for (_, name, calls) in SERVER {
        for (number, call) in calls.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            expect_invalid(call(Server::from_listener(listener)).spawn(echo), name, number);
        }
    }
    let config = include_str!("../../src/config.rs");
    let names = setters(config).into_iter().map(|name| name.strip_prefix("with_").expect("a setter"));
    expect_rows(CONFIG, names.collect());
    for (_, name, calls) in CONFIG {
        for (number, call) in calls.iter().enumerate() {
            let server = Server::bind("127.0.0.1:0").expect("a free port").config(call(Config::new()));
            expect_invalid(server.spawn(echo), name, number);
            let connect = Connect::new("ws://127.0.0.1:1/").config(call(Config::new()));
            expect_invalid(connect.connect(), name, number);
        }
    }
    expect_rows(CONNECT, setters(include_str!("../../src/client.rs")));
    for (_, name, calls) in CONNECT {
        for (number, call) in calls.iter().enumerate() {
            expect_invalid(call(Connect::new("ws://127.0.0.1:1/")).connect(), name, number);
        }
    }
}

#[test]
fn a_detached_server_refuses_the_proxy_protocol() {
    let error = Server::detached().proxy_protocol(true).spawn(echo).expect_err("it reads no such header");
    assert_eq!(
        error.to_string(),
        "invalid input: proxy_protocol is on, and a detached server reads no PROXY header"
    );
}

#[test]
fn the_smallest_stack_serves_a_client() {
    let _dog = watchdog(20);
    let server = TestServer::with(|server| server.stack_size(64 * 1024), echo);
    let mut peer = RawPeer::connect(server.addr());
    peer.upgrade("/?with=query", &[("X-Filler", "y"); 90]);
    let text = "x".repeat(300_000);
    peer.send_text(&text);
    peer.expect_text(&text);
    peer.close(1000);
    expect_echo(&server);
}
