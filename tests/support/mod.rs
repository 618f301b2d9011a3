//! The helpers that every suite uses: a watchdog, servers on free ports, and peers that write any bytes.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every suite compiles this module and uses its own part of it"
)]

pub mod bystander;
#[cfg(feature = "tls")]
pub mod certificates;
pub mod cgroup;
pub mod chromium;
pub mod example;
pub mod faulty_proxy;
pub mod folder;
pub mod frame;
pub mod lateness;
pub mod library_panics;
pub mod machine;
pub mod network;
pub mod own_process;
pub mod process_usage;
pub mod programs;
pub mod raw_peer;
pub mod raw_server;
pub mod reporting_echo;
pub mod sockets;
pub mod test_server;
pub mod threadless_client;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls_peer;
#[cfg(feature = "tls")]
pub mod tls_relay;

#[cfg(feature = "cli")]
pub mod clients;
#[cfg(feature = "cli")]
pub mod haproxy;
#[cfg(feature = "cli")]
pub mod helper_process;
#[cfg(feature = "cli")]
pub mod nginx;
#[cfg(feature = "cli")]
pub mod process;

pub use bystander::Bystander;
pub use cgroup::Cgroup;
pub use faulty_proxy::{Fault, FaultyProxy};
pub use folder::Folder;
pub use frame::{Frame, header};
pub use machine::{can_open_sockets, take_turn};
pub use network::Network;
pub use own_process::in_own_process;
pub use process_usage::{ProcessUsage, ThreadTimes};
pub use programs::{program, skip};
pub use raw_peer::{Answer, RawPeer, upgrade_request};
pub use raw_server::{RawServer, RawServerPeer};
pub use reporting_echo::{reported_end, reporting_echo};
pub use sockets::unsent_bytes_of;
pub use test_server::{TestServer, echo, expect_echo, is_behind_relay, reached};
pub use threadless_client::{ThreadlessClient, poll_clients};
pub use time::{PATIENCE, eventually, eventually_within, ms, watchdog};

#[cfg(feature = "tls")]
pub use certificates::{certificate, client_tls, server_tls};
#[cfg(feature = "cli")]
pub use {
    clients::{clients_that_read, expect_all_stayed},
    haproxy::Haproxy,
    nginx::Nginx,
    process::Process,
};

/// Returns the next value, or fails with a description of what was awaited.
#[track_caller]
pub fn next<T>(receiver: &std::sync::mpsc::Receiver<T>, what: &str) -> T {
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(error) => panic!("waited for {what}: {error}"),
    }
}
