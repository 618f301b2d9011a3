//! Handlers that fail: the result that `on_close` observes, and the failures that a shutdown reports.

use crate::error::BoxError;
use crate::logging::catch;
use crate::sync::Mutex;
use std::fmt;

/// How many failures are kept. The first ones usually show the cause, and each takes up to 4 KB.
const MAX_KEPT: usize = 16;
/// How many characters of a failure's text are kept. A panic of `assert_eq!` can show a whole message of a client.
const MAX_TEXT: usize = 1000;

/// How the handler of a connection ended, as [`Server::on_close`](crate::Server::on_close) observes it.
///
/// Displays as `ended`, `failed: the disk is full` or `panicked: index out of bounds`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum HandlerResult<'a> {
    /// The handler returned `Ok`, or an error that only reports the end of this connection.
    Ok,
    /// The handler returned another error.
    Err(&'a BoxError),
    /// The handler panicked, with this text.
    Panicked(&'a str),
}

impl fmt::Display for HandlerResult<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ended"),
            Self::Err(error) => write!(f, "failed: {error}"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
        }
    }
}

/// A handler that returned an error or panicked.
///
/// Displays as `the handler of client 7 failed: the disk is full`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerFailure {
    /// The number of the connection.
    pub id: u64,
    /// Whether the handler panicked. Otherwise it returned an error.
    pub is_panic: bool,
    /// The text of the error or the panic, at most its first 1000 characters.
    pub text: String,
}

impl fmt::Display for HandlerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, is_panic, text } = self;
        write!(f, "the handler of client {id} {}: {text}", if *is_panic { "panicked" } else { "failed" })
    }
}

/// The failures since the start of a server.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<FailureList>);

#[derive(Debug, Default)]
struct FailureList {
    /// The first [`MAX_KEPT`], and the first panic if it came later.
    kept: Vec<HandlerFailure>,
    count: usize,
}

impl Failures {
    /// Adds a failed handler.
    pub(super) fn add(&self, id: u64, result: HandlerResult<'_>) {
        let (is_panic, text) = match result {
            HandlerResult::Ok => return,
            // The error is the program's, so its `Display` can panic.
            HandlerResult::Err(error) => (false, catch(|| error.to_string()).unwrap_or_else(|panic| panic)),
            HandlerResult::Panicked(text) => (true, text.to_owned()),
        };
        let text = text.chars().take(MAX_TEXT).collect();
        let mut list = self.0.lock();
        list.count += 1;
        let is_first_panic = is_panic && !list.kept.iter().any(|failure| failure.is_panic);
        if list.kept.len() < MAX_KEPT || is_first_panic {
            list.kept.push(HandlerFailure { id, is_panic, text });
        }
    }

    /// Returns the failures that are kept, and the number of all.
    pub(super) fn kept(&self) -> (Vec<HandlerFailure>, usize) {
        let list = self.0.lock();
        (list.kept.clone(), list.count)
    }

    /// Returns the first panic.
    pub(super) fn first_panic(&self) -> Option<HandlerFailure> {
        self.0.lock().kept.iter().find(|failure| failure.is_panic).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_are_kept_and_the_first_panic() {
        let failures = Failures::default();
        let error: BoxError = "é".repeat(2 * MAX_TEXT).into();
        for id in 0..MAX_KEPT as u64 + 3 {
            failures.add(id, HandlerResult::Err(&error));
        }
        assert_eq!(failures.first_panic(), None);
        for id in 100..103 {
            failures.add(id, HandlerResult::Panicked("at last"));
        }
        let (kept, count) = failures.kept();
        assert_eq!((kept.len(), count), (MAX_KEPT + 1, MAX_KEPT + 6));
        assert_eq!((kept[0].id, kept[0].text.chars().count()), (0, MAX_TEXT));
        assert_eq!(kept[MAX_KEPT].to_string(), "the handler of client 100 panicked: at last");
        assert_eq!(failures.first_panic().as_ref(), kept.last());
    }
}
