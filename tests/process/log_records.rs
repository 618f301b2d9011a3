//! A process of its own: sets the logger of its process, and its limit of descriptors.
//!
//! Which events are logged, at which level, and which are not.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{RawPeer, TestServer, echo, eventually, in_own_process, ms, watchdog};

use std::sync::{Mutex, Once, PoisonError};
use threadws::{Config, handshake::Response};

/// Keeps all lines, each after its level.
struct Kept(Mutex<Vec<String>>);

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

/// Keeps lines from now on, and forgets the earlier ones.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&KEPT).expect("the first");
        log::set_max_level(log::LevelFilter::Debug);
    });
    KEPT.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn lines(what: &str) -> Vec<String> {
    let kept = KEPT.0.lock().unwrap_or_else(PoisonError::into_inner);
    kept.iter().filter(|line| line.contains(what)).cloned().collect()
}

/// An error of the program that wraps an error of the library.
#[derive(Debug)]
struct Own(threadws::Error);

impl std::fmt::Display for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the chat failed")
    }
}

impl std::error::Error for Own {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn a_vanished_peer_is_not_logged_as_a_handlers_failure() {
    in_own_process(|| {
        let _dog = watchdog(30);
        listen();
        let server = TestServer::new(|client| {
            let path = client.request().path().to_owned();
            loop {
                match client.recv() {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(error) if path == "/own" => return Err(Own(error).into()),
                    Err(error) if path == "/io" => return Err(std::io::Error::other(Own(error)).into()),
                    Err(_) => return Err("something else".into()),
                }
            }
        });
        for path in ["/own", "/io", "/other"] {
            drop(RawPeer::open_at(server.addr(), path, &[]));
        }
        eventually("all have ended", || lines("closed after").len() == 3);
        let failures = lines("ERROR");
        assert!(matches!(&failures[..], [one] if one.contains("something else")), "{failures:#?}");
    });
}

#[test]
fn a_handlers_failure_is_one_short_line() {
    in_own_process(|| {
        let _dog = watchdog(30);
        listen();
        let server = TestServer::new(|client| {
            let text = client.recv()?.map(|message| message.to_string()).unwrap_or_default();
            if text.starts_with('p') { panic!("{text}") } else { Err(text.into()) }
        });
        for first in ["p", "e"] {
            let mut peer = RawPeer::open(server.addr());
            peer.send_text(&format!("{first}: no\nERROR a line of the client {}", "x".repeat(100_000)));
            peer.expect_close(1011);
        }
        eventually("both are logged", || lines("ERROR the handler of client").len() == 2);
        for line in lines("ERROR the handler of client") {
            assert!(line.len() < 300 && line.contains(r"no\nERROR") && !line.contains('\n'), "{line}");
        }
    });
}

#[test]
fn an_unfinished_answer_is_logged_at_debug() {
    in_own_process(|| {
        let _dog = watchdog(30);
        listen();
        let config = Config::new().with_handshake_timeout(ms(50)).with_write_timeout(ms(50));
        let server = TestServer::with(
            |server| server.config(config).serve_http(|_| Response::new(vec![b'x'; 8 << 20])),
            echo,
        );
        let mut peer = RawPeer::connect(server.addr());
        peer.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        eventually("it is logged", || lines("did not take all of its 200").len() == 1);
        assert!(lines("did not take")[0].starts_with("DEBUG"));
        drop(peer);
    });
}

#[test]
fn a_failing_poll_is_logged_once_a_second() {
    in_own_process(|| {
        let _dog = watchdog(30);
        listen();
        let server = TestServer::new(echo);
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("in");
        peer.expect_text("in");
        let limit = getrlimit(Resource::Nofile);
        // poll(2): EINVAL, "the nfds value exceeds the RLIMIT_NOFILE value".
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: limit.maximum })
            .expect("a lower one");
        // Its close deadline makes the flush thread poll.
        server.hub().clients()[0].sender().close(1001, "").expect("a code");
        std::thread::sleep(ms(1500));
        setrlimit(Resource::Nofile, limit).expect("the old one");
        let logged = lines("poll failed");
        assert!((1..=3).contains(&logged.len()), "{logged:#?}");
        drop(peer);
    });
}
