//! What every test file stands on: a watchdog, servers on free ports, and peers that write what they like.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test file compiles this module and uses its own part of it"
)]

pub mod frame;
pub mod host;
pub mod peer;
pub mod server;
pub mod time;
pub mod tools;

#[cfg(feature = "cli")]
pub mod haproxy;
#[cfg(feature = "cli")]
pub mod nginx;
#[cfg(feature = "cli")]
pub mod process;

pub use frame::{Frame, header};
pub use host::{Guest, Host};
pub use peer::{Answer, RawPeer, upgrade_request};
pub use server::{TestServer, echo};
pub use time::{PATIENCE, eventually, eventually_within, ms, watchdog};
pub use tools::program;

#[cfg(feature = "cli")]
pub use {haproxy::Haproxy, nginx::Nginx, process::Process};

/// The next value, or a failure with what was awaited.
#[track_caller]
pub fn next<T>(receiver: &std::sync::mpsc::Receiver<T>, what: &str) -> T {
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(error) => panic!("waited for {what}: {error}"),
    }
}
