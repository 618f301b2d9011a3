//! Clients of the library, each in a thread of its own.

use super::{Process, next};
use std::sync::mpsc::{self, Receiver};
use threadws::Closed;

/// Starts clients that read until their end, and report it.
pub fn clients_that_read(url: &str, count: usize) -> Receiver<(Option<Closed>, usize)> {
    let (tx, rx) = mpsc::channel();
    for _ in 0..count {
        let mut client = threadws::connect(url).expect("a connection");
        let tx = tx.clone();
        std::thread::spawn(move || {
            let mut messages = 0;
            while let Ok(Some(_)) = client.recv() {
                messages += 1;
            }
            // The test may have ended.
            drop(tx.send((client.closed().cloned(), messages)));
        });
    }
    rx
}

/// Sends SIGTERM to the server, and checks that each of these clients was connected until then.
#[track_caller]
pub fn expect_all_stayed(server: Process, rx: &Receiver<(Option<Closed>, usize)>, count: usize) {
    assert!(rx.try_recv().is_err(), "a client was closed");
    server.stop();
    for _ in 0..count {
        let (closed, _) = next(rx, "a client's end");
        let code = closed.map(|closed| u16::from(closed.code()));
        assert_eq!(code, Some(1001), "closed for another reason");
    }
}
