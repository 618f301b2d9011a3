//! Names to addresses, within a deadline: the system's resolver has none.

use crate::error::{Error, Result, Timeout};
use crate::net::Deadline;
use crate::sync::mpsc::{RecvTimeoutError, sync_channel};
use crate::sync::spawn;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Instant;

/// The system's resolver reads files and asks services, and has its buffers on the stack.
const STACK: usize = 512 * 1024;

/// The addresses of a host. A name is looked up in a thread of its own, which a resolver that hangs keeps until it gives
/// up.
pub(super) fn resolve(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, receiver) = sync_channel(1);
    let name = host.to_owned();
    drop(spawn("threadws-resolve", STACK, move || {
        // Nobody waits any more if it comes too late.
        drop(sender.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect)));
    })?);
    let Some(left) = deadline.left(Instant::now()) else {
        return receiver.recv().map_err(|_| Error::Timeout(Timeout::Handshake))?.map_err(Error::Io);
    };
    match receiver.recv_timeout(left) {
        Ok(addresses) => addresses.map_err(Error::Io),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(Error::Timeout(Timeout::Handshake))
        }
    }
}
