//! Time in tests: one scaled unit, one long timeout, and a watchdog for every test.

use super::library_panics::LibraryPanics;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The time that a test waits for something that happens at once. It is long because a loaded machine must not fail a
/// test, and only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// This number of milliseconds, times `THREADWS_TEST_SCALE`. On a slow machine all times of the tests become longer
/// together.
pub fn ms(milliseconds: u64) -> Duration {
    static SCALE: OnceLock<f64> = OnceLock::new();
    let scale = SCALE.get_or_init(|| {
        std::env::var("THREADWS_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1.0)
    });
    Duration::from_millis(milliseconds).mul_f64(*scale)
}

/// Waits until `condition` is true. Fails with `what` otherwise.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, condition);
}

/// The same with a longer or shorter time limit.
#[track_caller]
pub fn eventually_within(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Aborts the whole process with the test's name if the test takes longer than this number of seconds. So a hang fails
/// with a message, instead of a timeout of the whole build. A panic in the library is a failure too, even if it was
/// contained.
#[must_use = "the watchdog sleeps as soon as this is dropped"]
pub fn watchdog(seconds: u64) -> Watchdog {
    let test = test_name();
    let (alive, watch) = mpsc::channel::<()>();
    let name = test.clone();
    let dog = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        if watch.recv_timeout(ms(seconds * 1000)) == Err(RecvTimeoutError::Timeout) {
            // `eprintln` would write to the captured output, which an abort throws away.
            let mut stderr = std::io::stderr().lock();
            drop(writeln!(stderr, "\nwatchdog: test `{name}` is not over after {seconds} s"));
            for wire in super::raw_peer::wires_of(&name) {
                drop(writeln!(stderr, "{wire}"));
            }
            std::process::abort();
        }
    });
    let dog = Some(dog.expect("a thread for the watchdog"));
    Watchdog { alive: Some(alive), dog, panics: LibraryPanics::from_now_on() }
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    alive: Option<mpsc::Sender<()>>,
    dog: Option<std::thread::JoinHandle<()>>,
    panics: LibraryPanics,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(dog) = self.dog.take() {
            drop(dog.join());
        }
        self.panics.expect_none();
    }
}

/// Returns the name of the test, which the harness gives to the thread.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("?").to_owned()
}
