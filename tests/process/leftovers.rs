//! A process of its own: counts the threads and the sockets of its process.
//!
//! A server that has ended, or could not start, leaves nothing behind.

use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use support::{RawPeer, TestServer, eventually, in_own_process, ms, next, watchdog};
use threadws::{Error, Server};

/// The names of this process's threads that the library has started.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("threadws")).collect()
}

/// The number of sockets of this process.
fn sockets() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("Linux").flatten();
    let targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_server_that_cannot_start_leaves_no_thread() {
    in_own_process(|| {
        let _dog = watchdog(30);
        let (connected, _peer) = UnixStream::pair().expect("a pair");
        let error = Server::from_listener(connected).spawn(|_| Ok(())).expect_err("it cannot listen");
        assert!(matches!(error, Error::Io(_)), "{error}");
        // A thread gets its name when it has begun.
        std::thread::sleep(ms(100));
        eventually("no thread is left", || threads().is_empty());
    });
}

#[test]
fn a_sender_that_outlives_its_server_holds_no_descriptor() {
    in_own_process(|| {
        let _dog = watchdog(30);
        let before = sockets();
        let (tx, rx) = mpsc::channel();
        let server = TestServer::new(move |client| {
            tx.send(client.sender()).unwrap_or(());
            client.ignore()?;
            Ok(())
        });
        drop(RawPeer::open(server.addr()));
        let sender = next(&rx, "a sender");
        drop(server);
        eventually("all sockets are closed", || sockets() == before);
        assert!(matches!(sender.send("too late"), Err(Error::Closed(_))));
    });
}
