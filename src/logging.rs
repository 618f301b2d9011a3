//! Logging through `log`, and calling the program's callbacks. A panic in the logger, in the `Display` of a logged value or in
//! a callback does not end a thread of the library.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Logs a line. The first word is one of [`log::Level`].
macro_rules! log_line {
    ($level:ident, $target:expr, $($line:tt)+) => {{
        let line = || ::log::log!(target: $target, ::log::Level::$level, $($line)+);
        // The panic is not logged, because the logger panicked. The panic hook has printed it.
        drop(::std::panic::catch_unwind(::std::panic::AssertUnwindSafe(line)));
    }};
}

pub(crate) use log_line;

/// Calls code of the program. If it panics, returns the text of the panic.
pub(crate) fn catch<T>(callback: impl FnOnce() -> T) -> Result<T, String> {
    // Unwind safe, because the library's own state is not in use meanwhile.
    catch_unwind(AssertUnwindSafe(callback)).map_err(|payload| {
        let text = panic_text(&*payload);
        // The payload can be a value whose `Drop` panics, with another such value.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(payload);
        }
        text
    })
}

/// Returns the text that the panic hook has printed.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text").to_owned()
}

/// Calls a callback of the program. If it panics, the panic is logged and goes no further, and `None` is returned.
///
/// `what` names the callback in the log line: `the callback on_error`.
pub(crate) fn contain<T>(
    target: &'static str,
    what: impl fmt::Display,
    callback: impl FnOnce() -> T,
) -> Option<T> {
    let result = catch(callback);
    if result.is_err() {
        log_panic(target, &what);
    }
    result.ok()
}

/// Logs that a callback panicked. The panic hook has printed the panic and its place.
fn log_panic(target: &'static str, what: &dyn fmt::Display) {
    log_line!(Error, target, "{what} panicked");
}

/// The shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits log lines to one a second, and counts those it drops.
///
/// Each kind of line has a throttle of its own, so that a frequent line does not suppress another.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    passed: Option<Instant>,
    dropped: u64,
}

impl Throttle {
    /// Returns how many lines were dropped since the last one that passed, or `None` if this one is to be dropped.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.passed.is_some_and(|passed| now < passed + INTERVAL) {
            self.dropped += 1;
            return None;
        }
        self.passed = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes_and_the_others_are_counted() {
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
