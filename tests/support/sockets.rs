//! The TCP sockets of the machine, from /proc.

use std::fs;
use std::net::SocketAddr;

/// Returns how many bytes the kernel holds for the peers of a server's connections. Connections that no process owns
/// any more count too.
#[track_caller]
pub fn unsent_bytes_of(server: SocketAddr) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = format!(":{:04X}", server.port());
    let queues = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let (unsent, _) = fields.nth(2)?.split_once(':')?;
        local.ends_with(&port).then(|| usize::from_str_radix(unsent, 16).expect("hexadecimal digits"))
    });
    queues.sum()
}
