//! The helpers that every suite uses: a watchdog, servers on free ports, and peers that write any bytes.

pub mod bystander;
pub mod cgroup;
pub mod chromium;
pub mod clients;
pub mod example;
pub mod faulty_proxy;
pub mod folder;
pub mod frame;
pub mod haproxy;
pub mod helper_process;
pub mod lateness;
pub mod library_panics;
pub mod machine;
pub mod network;
pub mod nginx;
pub mod own_process;
pub mod process;
pub mod process_usage;
pub mod programs;
pub mod pty;
pub mod raw_peer;
pub mod raw_server;
pub mod reporting_echo;
pub mod sockets;
pub mod test_server;
pub mod threadless_client;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls_relay;

pub use bystander::Bystander;
pub use cgroup::Cgroup;
pub use clients::{clients_that_read, expect_all_stayed};
pub use faulty_proxy::{Fault, FaultyProxy};
pub use folder::Folder;
pub use frame::{Frame, header};
pub use haproxy::Haproxy;
pub use machine::{can_open_sockets, take_turn};
pub use network::Network;
pub use nginx::Nginx;
pub use own_process::in_own_process;
pub use process::Process;
pub use process_usage::{ProcessUsage, ThreadTimes};
pub use programs::{certificate, program, skip};
pub use pty::Pty;
pub use raw_peer::{Answer, RawPeer, upgrade_request};
pub use raw_server::{RawServer, RawServerPeer};
pub use reporting_echo::{reported_end, reporting_echo};
pub use sockets::{reset_when_dropped, unsent_bytes_of};
pub use test_server::{TestServer, echo, expect_echo, has_events, is_behind_relay, reached, spawn};
pub use threadless_client::{ThreadlessClient, poll_clients};
pub use time::{PATIENCE, eventually, eventually_within, ms, watchdog};
#[cfg(feature = "tls")]
pub use tls_relay::rustls_client;

/// Returns the next value, or fails with a description of what was awaited.
#[track_caller]
pub fn next<T>(receiver: &std::sync::mpsc::Receiver<T>, what: &str) -> T {
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(error) => panic!("waited for {what}: {error}"),
    }
}
