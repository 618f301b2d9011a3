//! Connecting sockets before a deadline: to one of several addresses, or to the path of a Unix socket.

use super::Deadline;
use super::stream::{poll_until, sleep_until};
use crate::error::context;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an address is tried alone before the next one is tried beside it. RFC 8305 §5 recommends 250 ms.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How many addresses are tried at once. Otherwise a name with many addresses could take all descriptors of the process.
const MAX_ATTEMPTS: usize = 16;
/// How often a Unix socket is tried whose queue is full.
const QUEUE_DELAY: Duration = Duration::from_millis(10);

/// Connects to the first address that accepts ("Happy Eyeballs", RFC 8305 §5). Returns `TimedOut` at the deadline.
///
/// The addresses are tried in turn, each as soon as the one before has failed, or has not answered for [`ATTEMPT_DELAY`].
/// Earlier attempts go on meanwhile, at most [`MAX_ATTEMPTS`]: then the oldest is dropped. The others are dropped when one succeeds.
pub(crate) fn connect_any(addresses: &[SocketAddr], deadline: Deadline) -> io::Result<OwnedFd> {
    let mut order = interleaved(addresses).into_iter();
    let mut attempts: Vec<(SocketAddr, OwnedFd)> = Vec::new();
    let mut failure = io::Error::new(ErrorKind::NotFound, "the host has no address");
    loop {
        let mut next = Deadline::NEVER;
        if let Some(address) = order.next() {
            if attempts.len() == MAX_ATTEMPTS {
                attempts.remove(0);
            }
            match start(&address) {
                Ok(socket) => attempts.push((address, socket)),
                Err(error) => {
                    failure = cannot_connect(&address, error);
                    continue;
                }
            }
            if order.len() > 0 {
                // With little time left, each address still gets its share of it.
                let shares = u32::try_from(order.len()).unwrap_or(u32::MAX).saturating_add(1);
                let left = deadline.left(Instant::now()).unwrap_or(Duration::MAX);
                next = Deadline::after(ATTEMPT_DELAY.min(left / shares));
            }
        } else if attempts.is_empty() {
            return Err(failure);
        }
        if let Some(socket) = first_connected(&mut attempts, deadline.or(next), &mut failure)? {
            return Ok(socket);
        }
        if deadline.has_passed(Instant::now()) {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// Waits until an attempt succeeds or fails, or for the deadline. Removes the attempts that have failed.
fn first_connected(
    attempts: &mut Vec<(SocketAddr, OwnedFd)>,
    deadline: Deadline,
    failure: &mut io::Error,
) -> io::Result<Option<OwnedFd>> {
    if attempts.is_empty() {
        return Ok(None);
    }
    let mut fds: Vec<_> = attempts.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::OUT)).collect();
    poll_until(&mut fds, deadline)?;
    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    let mut connected = None;
    for ((address, socket), is_ready) in std::mem::take(attempts).into_iter().zip(ready) {
        if !is_ready {
            attempts.push((address, socket));
            continue;
        }
        match socket_error(&socket)? {
            Ok(()) => connected = connected.or(Some(socket)),
            Err(error) => *failure = cannot_connect(&address, error.into()),
        }
    }
    Ok(connected)
}

/// Starts to connect. The socket becomes writable when that has succeeded or failed.
fn start(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = stream_socket(family)?;
    match connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn cannot_connect(address: &SocketAddr, error: io::Error) -> io::Error {
    context(format_args!("cannot connect to {address}"), error)
}

/// Alternates between the two families, and begins with the first address (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first =
        |address: &&SocketAddr| Some(address.is_ipv6()) == addresses.first().map(SocketAddr::is_ipv6);
    let mut first = addresses.iter().filter(is_first);
    let mut second = addresses.iter().filter(|address| !is_first(address));
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(first.next());
        order.extend(second.next());
    }
    order
}

/// Connects to a Unix socket. Returns `TimedOut` at the deadline.
pub(crate) fn connect_unix(path: &Path, deadline: Deadline) -> io::Result<OwnedFd> {
    let socket = stream_socket(AddressFamily::UNIX)?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // The queue of the listener is full, and `poll` cannot wait for that.
            Err(Errno::AGAIN) if deadline.has_passed(Instant::now()) => {
                return Err(ErrorKind::TimedOut.into());
            }
            Err(Errno::AGAIN) => sleep_until(Deadline::after(QUEUE_DELAY).or(deadline))?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Creates a socket in non-blocking mode that child processes do not inherit.
fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    {
        use rustix::net::{SocketFlags, socket_with};
        Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
    }
    // Apple's systems have no such flags, and no MSG_NOSIGNAL either (see `stream.rs`).
    #[cfg(target_vendor = "apple")]
    {
        let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
        rustix::io::ioctl_fioclex(&socket)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        rustix::net::sockopt::set_socket_nosigpipe(&socket, true)?;
        Ok(socket)
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Listens with a full queue, so that the kernel drops the packets of further connections: an address that is dead.
    fn dead() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        rustix::net::listen(&listener, 0).expect("a queue of one");
        let address = listener.local_addr().expect("bound");
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100));
        let waiting = std::iter::from_fn(|| connect().ok()).collect();
        (listener, waiting, address)
    }

    fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    fn closed() -> SocketAddr {
        listening().1
    }

    #[test]
    fn addresses_alternate_between_the_families() {
        let parse = |list: &str| -> Vec<SocketAddr> {
            list.split(' ').map(|address| address.parse().expect("an address")).collect()
        };
        let rows = [
            ("[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1", "[::1]:1 1.1.1.1:1 [::2]:1 [::3]:1"),
            ("1.1.1.1:1 1.1.1.2:1 [::1]:1 [::2]:1", "1.1.1.1:1 [::1]:1 1.1.1.2:1 [::2]:1"),
            ("1.1.1.1:1", "1.1.1.1:1"),
        ];
        for (given, expected) in rows {
            assert_eq!(interleaved(&parse(given)), parse(expected));
        }
        assert_eq!(interleaved(&[]), []);
    }

    #[test]
    fn a_dead_address_costs_a_quarter_of_a_second() {
        let (dead, (_listener, good)) = (dead(), listening());
        let begin = Instant::now();
        let deadline = Deadline::after(Duration::from_secs(10));
        connect_any(&[dead.2, good], deadline).expect("the second accepts");
        let elapsed = begin.elapsed();
        assert!(elapsed >= ATTEMPT_DELAY && elapsed < Duration::from_secs(3), "after {elapsed:?}");
        // An address that refuses costs nothing, and a short deadline is shared.
        let begin = Instant::now();
        connect_any(&[closed(), good], deadline).expect("the second accepts");
        assert!(begin.elapsed() < ATTEMPT_DELAY);
        let deadline = Deadline::after(Duration::from_millis(240));
        connect_any(&[dead.2, dead.2, good], deadline).expect("the third accepts");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn many_dead_addresses_have_few_attempts_at_once() {
        let (dead, (_listener, good)) = (dead(), listening());
        let mut addresses = vec![dead.2; 60];
        addresses.push(good);
        // Its columns: the number, this end, the other end in hexadecimal digits, and the state. 02 is SYN-SENT.
        let column = format!(":{:04X} 02 ", dead.2.port());
        let attempts = || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of sockets");
            table.matches(&column).count()
        };
        let deadline = Deadline::after(Duration::from_secs(4));
        let thread = std::thread::spawn(move || connect_any(&addresses, deadline));
        let mut most = 0;
        while !thread.is_finished() {
            most = most.max(attempts());
            std::thread::sleep(Duration::from_millis(2));
        }
        thread.join().expect("no panic").expect("the last accepts");
        // The table is not read at one moment, so it can show an attempt that was just dropped beside the next one.
        assert!(most > 1 && most <= MAX_ATTEMPTS + 1, "{most} at once");
    }

    #[test]
    fn failures_name_the_address_and_timeouts_are_kept() {
        let (dead, closed) = (dead(), closed());
        let deadline = Deadline::after(Duration::from_secs(10));
        let error = connect_any(&[closed], deadline).expect_err("nothing listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().starts_with(&format!("cannot connect to {closed}: ")), "{error}");
        let begin = Instant::now();
        let deadline = Deadline::after(Duration::from_millis(400));
        let error = connect_any(&[dead.2, closed], deadline).expect_err("neither accepts");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() >= Duration::from_millis(400));
        assert_eq!(connect_any(&[], deadline).expect_err("no address").kind(), ErrorKind::NotFound);
    }
}
