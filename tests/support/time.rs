//! Clocks of the tests: one scaled unit, one patience, and a watchdog behind every test.

use super::library_panics::LibraryPanics;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long a test waits for what must happen at once. Long, because a loaded machine is no failure; a failing test alone
/// ever waits so long.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// So many milliseconds, times `THREADWS_TEST_SCALE`: on a slow machine all the tests' clocks run slower together.
pub fn ms(milliseconds: u64) -> Duration {
    static SCALE: OnceLock<f64> = OnceLock::new();
    let scale = SCALE.get_or_init(|| {
        std::env::var("THREADWS_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1.0)
    });
    Duration::from_millis(milliseconds).mul_f64(*scale)
}

/// Waits until `condition` holds, and fails with `what` if it never does.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, condition);
}

/// The same for what takes its time.
#[track_caller]
pub fn eventually_within(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends the whole process with the test's name if the test is not over in so many seconds: a hang is a failure with a
/// message, not a build that times out. A panic in the library is a failure, too, whoever contained it.
#[must_use = "the watchdog sleeps as soon as this is dropped"]
pub fn watchdog(seconds: u64) -> Watchdog {
    let test = test_name();
    let (alive, watch) = mpsc::channel::<()>();
    let name = test.clone();
    let dog = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        if watch.recv_timeout(ms(seconds * 1000)) == Err(RecvTimeoutError::Timeout) {
            // Not eprintln: that would go to the captured output, which an abort throws away.
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

/// Awake until it is dropped.
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

/// The test's name: the harness names its threads so.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("?").to_owned()
}
