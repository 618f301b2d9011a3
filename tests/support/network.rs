//! A network of its own for a process: a namespace, and a link to it that can be cut. It needs root and iproute2.

use super::programs::{program, skip};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// A namespace and a pair of interfaces, which are removed when this is dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The interface on the test's side.
    cable: String,
    number: u8,
}

impl Network {
    /// Returns `None` if the test is to be skipped.
    #[track_caller]
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        program("ip")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tws{}-{number}", std::process::id());
        let cable = format!("tw{}x{number}", std::process::id() % 100_000);
        if !ip(&["netns", "add", &name]) {
            skip("no network namespace can be made");
            return None;
        }
        let network = Self { name, cable, number };
        let (ours, theirs) = (format!("{}/30", network.our_ip()), format!("{}/30", network.their_ip()));
        let (name, cable) = (&*network.name, &*network.cable);
        let made = [
            &["link", "add", cable, "type", "veth", "peer", "name", "v1", "netns", name][..],
            &["addr", "add", &ours, "dev", cable],
            &["link", "set", cable, "up"],
            &["-n", name, "addr", "add", &theirs, "dev", "v1"],
            &["-n", name, "link", "set", "v1", "up"],
            &["-n", name, "link", "set", "lo", "up"],
        ];
        if !made.into_iter().all(ip) {
            skip("no pair of interfaces can be made");
            return None;
        }
        Some(network)
    }

    /// A block of 198.18.0.0/15, which is reserved for tests (RFC 2544). The process id keeps two runs apart.
    fn block(&self) -> [u8; 3] {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        [198, 18 + (high & 1), low.wrapping_add(self.number)]
    }

    pub fn our_ip(&self) -> Ipv4Addr {
        let [a, b, c] = self.block();
        Ipv4Addr::new(a, b, c, 1)
    }

    pub fn their_ip(&self) -> Ipv4Addr {
        let [a, b, c] = self.block();
        Ipv4Addr::new(a, b, c, 2)
    }

    /// Returns the words that a command has to begin with to run in the namespace.
    pub fn wrapper(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// The same, with a script that prepares the namespace and ends with `exec "$@"`.
    pub fn wrapper_after<'a>(&'a self, script: &'a str) -> [&'a str; 8] {
        let [ip, netns, exec, name] = self.wrapper();
        [ip, netns, exec, name, "sh", "-c", script, "sh"]
    }

    /// Cuts the link, or restores it.
    #[track_caller]
    pub fn set_link(&self, up: bool) {
        let done = ip(&["-n", &self.name, "link", "set", "v1", if up { "up" } else { "down" }]);
        assert!(done, "the link cannot be set");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Both ends of the link are removed with either.
        ip(&["link", "del", &self.cable]);
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
