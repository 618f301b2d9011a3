//! Name resolution with a deadline, which the system's resolver does not have.

use crate::error::{Error, Result, Timeout, context};
use crate::net::Deadline;
use crate::sync::mpsc::{RecvTimeoutError, sync_channel};
use crate::sync::spawn;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Instant;

/// The system's resolver reads files and queries services, and has its buffers on the stack.
const STACK: usize = 512 * 1024;

/// Returns the addresses of a host. A name is looked up in a thread of its own. If the resolver hangs, this function
/// returns at the deadline, and the thread ends when the resolver returns.
pub(super) fn resolve(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |error| Error::Io(context(format_args!("cannot resolve {host}"), error));
    let (sender, receiver) = sync_channel(1);
    let name = host.to_owned();
    drop(
        spawn("threadws-resolve", STACK, move || {
            // Fails if the deadline has passed.
            drop(sender.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect)));
        })
        .map_err(failed)?,
    );
    let Some(left) = deadline.left(Instant::now()) else {
        return receiver.recv().map_err(|_| Error::Timeout(Timeout::Handshake))?.map_err(failed);
    };
    match receiver.recv_timeout(left) {
        Ok(addresses) => addresses.map_err(failed),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(Error::Timeout(Timeout::Handshake))
        }
    }
}
