//! A process of its own: sets the logger of its process.
//!
//! A `Display` of the program that panics while it is logged ends only its own client.

use log::{LevelFilter, Log, Metadata, Record};
use std::error::Error;
use std::fmt;
use std::sync::Mutex;
use support::{Frame, RawPeer, TestServer, echo, eventually, expect_echo, in_own_process, watchdog};

/// As most loggers do, it formats its record under its lock, which a panic poisons.
struct Lines(Mutex<Vec<String>>);

impl Lines {
    fn have(&self, part: &str) -> bool {
        let lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.iter().any(|line| line.contains(part))
    }
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.push(record.args().to_string());
    }

    fn flush(&self) {}
}

static LINES: Lines = Lines(Mutex::new(Vec::new()));

#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("a Display that panics, on purpose")
    }
}

impl Error for Broken {}

/// The client gets 1011, and the other clients notice nothing.
#[test]
fn an_error_whose_display_panics_closes_its_own_client() {
    in_own_process(|| {
        const PLACES: usize = 3;
        let _dog = watchdog(60);
        log::set_logger(&LINES).expect("the first");
        log::set_max_level(LevelFilter::Trace);
        let server = TestServer::with(
            |server| server.max_clients(PLACES),
            |client| if client.request().path() == "/broken" { Err(Broken.into()) } else { echo(client) },
        );
        let mut other = RawPeer::open(server.addr());
        // More than there are places, and than threads that wait for another client.
        for _ in 0..20 * PLACES {
            let mut peer = RawPeer::open_at(server.addr(), "/broken", &[]);
            peer.expect_close(1011);
            peer.send(&Frame::close(1011, ""));
            peer.expect_eof();
            eventually("its place is free", || server.hub().count() == 1);
            other.send_text("unaffected");
            other.expect_text("unaffected");
        }
        eventually("the log goes on", || LINES.have("closed after"));
        expect_echo(&server);
        other.close(1000);
        let report = server.shutdown(support::PATIENCE);
        assert!(report.is_complete(), "{report}");
    });
}
