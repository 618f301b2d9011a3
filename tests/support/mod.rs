//! What every test file stands on: a watchdog, servers on free ports, and peers that write what they like.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every suite compiles this module and uses its own part of it"
)]

pub mod canary;
pub mod cgroup;
pub mod chaos;
pub mod chromium;
pub mod ends;
pub mod example;
pub mod frame;
pub mod host;
pub mod lateness;
pub mod light;
pub mod machine;
pub mod netns;
pub mod own_process;
pub mod panics;
pub mod peer;
pub mod server;
pub mod sockets;
pub mod time;
pub mod tools;
pub mod usage;

#[cfg(feature = "cli")]
pub mod child;
#[cfg(feature = "cli")]
pub mod clients;
#[cfg(feature = "cli")]
pub mod haproxy;
#[cfg(feature = "cli")]
pub mod nginx;
#[cfg(feature = "cli")]
pub mod process;

pub use canary::Canary;
pub use cgroup::Cgroup;
pub use chaos::{Chaos, Proxy};
pub use ends::{closed, telling};
pub use frame::{Frame, header};
pub use host::{Guest, Host};
pub use light::{Light, drive};
pub use machine::{alone, room_for};
pub use netns::Network;
pub use own_process::in_own_process;
pub use peer::{Answer, RawPeer, upgrade_request};
pub use server::{TestServer, echo, shows_that_it_works};
pub use sockets::unsent_by;
pub use time::{PATIENCE, eventually, ms, watchdog, within};
pub use tools::{program, skip};
pub use usage::{Usage, Work};

#[cfg(feature = "cli")]
pub use {
    clients::{clients_that_read, expect_all_stayed},
    haproxy::Haproxy,
    nginx::Nginx,
    process::Process,
};

/// The next value, or a failure with what was awaited.
#[track_caller]
pub fn next<T>(receiver: &std::sync::mpsc::Receiver<T>, what: &str) -> T {
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(error) => panic!("waited for {what}: {error}"),
    }
}
