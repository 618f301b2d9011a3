//! Panics of the library itself. The library contains them where it can, so a peer would not notice them. A test has
//! to.

use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, Once, PoisonError};

/// All panics of this process so far.
static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The panics from now on.
#[derive(Debug)]
pub struct LibraryPanics(usize);

impl LibraryPanics {
    pub fn from_now_on() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if is_the_librarys(info) {
                    SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
                }
                before(info);
            }));
        });
        Self(SEEN.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    /// Each of several tests that run at once sees the panics of all. Two failures are better than none.
    #[track_caller]
    pub fn expect_none(&self) {
        let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner)[self.0..].join("\n");
        assert!(seen.is_empty() || std::thread::panicking(), "the library panicked: {seen}");
    }
}

/// A handler or callback panics in the source file of a test, so it does not count.
fn is_the_librarys(info: &PanicHookInfo<'_>) -> bool {
    let file = info.location().map_or("", |location| location.file());
    let thread = std::thread::current();
    let own_thread = thread.name().is_some_and(|name| name.starts_with("threadws-"));
    file.starts_with("src/") || own_thread && !file.starts_with("tests/")
}
