//! A process of its own: replaces the panic hook, because a panic of the library fails a test otherwise.
//!
//! With `raise_panics` dropping the handle of a server raises the panic of a handler.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use support::{PATIENCE, RawPeer, TestServer, in_own_process, watchdog};
use threadws::ServerHandle;

/// A server whose only client has seen its handler fail.
fn failed(raise: bool, path: &str) -> ServerHandle {
    let server = TestServer::with(
        |server| server.raise_panics(raise),
        |client| match client.request().path() {
            "/panic" => panic!("on purpose"),
            _ => Err("an error".into()),
        },
    );
    RawPeer::open_at(server.addr(), path, &[]).expect_close(1011);
    server.hub().wait_count(..=0, PATIENCE).expect("it leaves");
    server.into_handle()
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).expect("a text")
}

#[test]
fn a_dropped_handle_raises_the_panic_of_a_handler() {
    in_own_process(|| {
        let _dog = watchdog(60);
        set_hook(Box::new(|_| {}));
        for (raise, path, raises) in
            [(true, "/panic", true), (true, "/error", false), (false, "/panic", false)]
        {
            let handle = failed(raise, path);
            let result = catch_unwind(AssertUnwindSafe(|| drop(handle)));
            assert_eq!(result.is_err(), raises, "{raise}, {path}");
            if let Err(panic) = result {
                let text = text(&*panic);
                assert!(text.starts_with("the handler of client ") && text.ends_with("on purpose"), "{text}");
            }
        }
        // A shutdown before does not change it.
        let handle = failed(true, "/panic");
        assert_eq!(handle.shutdown(PATIENCE).failed, 1);
        catch_unwind(AssertUnwindSafe(|| drop(handle))).expect_err("a handler has panicked");
        // A second panic would abort the process.
        let handle = failed(true, "/panic");
        let result = catch_unwind(AssertUnwindSafe(move || {
            let _handle = handle;
            panic!("the test's own");
        }));
        assert_eq!(text(&*result.expect_err("it panics")), "the test's own");
    });
}
