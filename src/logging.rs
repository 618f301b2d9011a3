//! What is logged: through `log`, and contained. The logger is the program's, and so is what it shows; a panic there costs
//! the line, and no thread of ours.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Logs a line. The first word is one of [`log::Level`].
macro_rules! log_line {
    ($level:ident, $target:expr, $($line:tt)+) => {{
        let line = || ::log::log!(target: $target, ::log::Level::$level, $($line)+);
        // The panic hook has told of it, and there is no logger to tell.
        drop(::std::panic::catch_unwind(::std::panic::AssertUnwindSafe(line)));
    }};
}

pub(crate) use log_line;

/// Calls a callback of the program. If it panics, the panic is logged and goes no further, and `None` is returned.
///
/// `what` names the callback in the log line: `the callback on_error`.
pub(crate) fn contain<T>(
    target: &'static str,
    what: impl fmt::Display,
    callback: impl FnOnce() -> T,
) -> Option<T> {
    // Unwind safe, because the library's own state is not in use during a callback.
    let result = catch_unwind(AssertUnwindSafe(callback));
    if result.is_err() {
        log_panic(target, &what);
    }
    result.ok()
}

/// The panic hook has printed the panic and its place.
fn log_panic(target: &'static str, what: &dyn fmt::Display) {
    log_line!(Error, target, "{what} panicked");
}

/// How often one thing is told of.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line a second pass, and counts what it holds back. Each kind of line has one of its own, so that a frequent one
/// hides no other.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    passed: Option<Instant>,
    held: u64,
}

impl Throttle {
    /// Whether a line may pass: then how many were held back since the last one.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.passed.is_some_and(|passed| now < passed + INTERVAL) {
            self.held += 1;
            return None;
        }
        self.passed = Some(now);
        Some(std::mem::take(&mut self.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes_and_tells_how_many_did_not() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.pass(start), Some(0));
        for ms in [0, 1, 999] {
            assert_eq!(throttle.pass(start + Duration::from_millis(ms)), None);
        }
        assert_eq!(throttle.pass(start + INTERVAL), Some(3));
        assert_eq!(throttle.pass(start + INTERVAL), None);
        assert_eq!(throttle.pass(start + INTERVAL * 10), Some(1));
    }
}
