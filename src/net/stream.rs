//! A connected stream socket: one thread reads from it while others write to it.
//!
//! [`Stream`] is the socket, with the reading side. [`Transport`] is the writing side, which the outbox uses. Waking a
//! thread that waits for sockets is in `wake.rs`.

use super::Deadline;
use crate::addr::Addr;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{ioctl_fionbio, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout, set_tcp_nodelay, socket_type};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketType, getpeername, getsockname,
    recv, send, sendmsg, shutdown,
};
use std::cell::LazyCell;
use std::fmt::Debug;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::slice;
use std::time::{Duration, Instant};

/// The writing side of a connection. The models implement it with a scripted socket.
///
/// It is shared as `Arc<dyn Transport>`, so that one server can serve several kinds of socket. The cost of the indirect
/// call is negligible beside a system call.
pub(crate) trait Transport: AsFd + Debug + Send + Sync {
    /// Writes as many bytes as the socket accepts without waiting. Returns `WouldBlock` if it accepts none.
    fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Waits until the socket accepts bytes or has failed. Returns false if the deadline came first.
    fn wait_writable(&self, deadline: Deadline) -> io::Result<bool>;

    /// Ends reading: a thread that waits in a read returns with the end of the stream. Writing goes on.
    fn shutdown_read(&self);

    /// Sends FIN. The peer can still read everything that was written. A thread that waits to write wakes up.
    fn shutdown_write(&self);

    /// Ends both directions. Every thread that waits for the socket wakes up.
    fn shutdown_both(&self);

    /// Makes the final close of the socket drop the bytes that the peer has not acknowledged. For a peer that does not
    /// read, because otherwise the kernel keeps megabytes and retransmits them for minutes.
    fn forget_unsent(&self);
}

/// A socket with one descriptor that threads share by reference. `TcpStream::try_clone` would need a second descriptor.
///
/// The socket stays in blocking mode. A call that must not wait passes `MSG_DONTWAIT`. Every call is repeated after a
/// signal: on a socket with a receive timeout, even stopping and continuing the process interrupts a read (signal(7)).
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    inherited_read_timeout: Option<Duration>,
}

/// A peer that is refused and sends at least this number of bytes in a period is in the middle of a message or an upload. A
/// peer that sends less gains nothing by it.
pub(crate) const FULL_FLOW: usize = 16 * 1024;
/// Size of the buffer on the stack into which [`Stream::drain`] reads.
const DRAIN_BUFFER: usize = 4096;

// On Apple's systems std sets SO_NOSIGPIPE on every socket instead.
#[cfg(target_vendor = "apple")]
const NO_WAIT: SendFlags = SendFlags::DONTWAIT;
#[cfg(not(target_vendor = "apple"))]
const NO_WAIT: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Sets the socket options that Linux copies from a listener to each accepted socket. Returns the read timeout that
/// accepted sockets then have.
///
/// This saves three system calls for each client: TCP_NODELAY, the first read timeout, and the return to blocking mode,
/// because O_NONBLOCK is not inherited. From a Unix socket nothing is inherited.
pub(crate) fn prepare_listener(listener: impl AsFd, read_timeout: Duration) -> Option<Duration> {
    let set = set_tcp_nodelay(&listener, true)
        .and_then(|()| set_socket_timeout(&listener, Timeout::Recv, Some(read_timeout)))
        .is_ok();
    (cfg!(target_os = "linux") && set).then_some(read_timeout)
}

/// Returns the family of a TCP or Unix stream socket, which is `INET`, `INET6` or `UNIX`. Fails for any other descriptor.
pub(crate) fn stream_family(socket: &OwnedFd) -> io::Result<AddressFamily> {
    let family = getsockname(socket)?.address_family();
    match (socket_type(socket)?, family) {
        (SocketType::STREAM, AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX) => Ok(family),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "neither a TCP nor a Unix stream socket")),
    }
}

impl Stream {
    /// Takes over a connected stream socket, in blocking mode and, if it is TCP, without Nagle's algorithm.
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let socket = socket.into();
        ioctl_fionbio(&socket, false)?;
        // Ignored: a Unix socket has no such option, and a socket that was reset fails at its next read.
        _ = set_tcp_nodelay(&socket, true);
        Ok(Self { socket, inherited_read_timeout: None })
    }

    /// Takes over a socket from a listener that was [prepared](prepare_listener).
    pub(crate) fn from_accepted(
        socket: impl Into<OwnedFd>,
        inherited_read_timeout: Option<Duration>,
    ) -> io::Result<Self> {
        if cfg!(target_os = "linux") {
            Ok(Self { socket: socket.into(), inherited_read_timeout })
        } else {
            Self::new(socket)
        }
    }

    /// Returns the address of the other end. It fails if the connection is gone.
    pub(crate) fn peer_addr(&self) -> io::Result<Addr> {
        let addr = getpeername(&self.socket)?.and_then(|addr| SocketAddr::try_from(addr).ok());
        Ok(addr.map_or(Addr::Unix, Addr::from))
    }

    /// The read timeout that the socket inherited from its listener. It is valid until the first
    /// [`set_read_timeout`](Self::set_read_timeout).
    pub(crate) fn inherited_read_timeout(&self) -> Option<Duration> {
        self.inherited_read_timeout
    }

    /// Sets how long a [`read`](Self::read) waits.
    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.socket, Timeout::Recv, Some(timeout))?)
    }

    /// Reads the bytes that are available. Zero is the end of the stream.
    ///
    /// If there are none, it returns `WouldBlock`, with `wait` only after the read timeout.
    #[inline]
    pub(crate) fn read(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        Ok(retry_on_intr(|| recv(&self.socket, &mut *buffer, recv_flags(wait)))?.1)
    }

    /// Like [`read`](Self::read), but appends to `buffer`, which must have spare capacity. The capacity is not zeroed
    /// before the read.
    pub(crate) fn read_append(&self, buffer: &mut Vec<u8>, wait: bool) -> io::Result<usize> {
        Ok(retry_on_intr(|| recv(&self.socket, spare_capacity(buffer), recv_flags(wait)))?.1)
    }

    /// Writes all of `bytes`, or returns `TimedOut` at the deadline. `deadline` is only called if a write has to wait.
    pub(crate) fn write_all(&self, mut bytes: &[u8], deadline: impl FnOnce() -> Deadline) -> io::Result<()> {
        let deadline = LazyCell::new(deadline);
        while !bytes.is_empty() {
            match self.try_write(&[IoSlice::new(bytes)]) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait_writable(*deadline)? {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads and discards input until the end of the stream, the deadline, or a period in which less than [`FULL_FLOW`]
    /// arrived. Returns true after such a period: more input may arrive.
    ///
    /// Called before the socket is closed. Closing a socket with unread input sends RST, and the peer can then lose
    /// bytes that it has not read yet. A peer that writes a large message reads only when it has written all of it, so the
    /// number of bytes is not limited.
    pub(crate) fn drain(&self, period: Duration, deadline: Deadline) -> bool {
        let mut bytes = [0; DRAIN_BUFFER];
        let (mut end, mut count) = (Deadline::after(period), 0);
        loop {
            match self.read(&mut bytes, false) {
                Ok(0) => return false,
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.wait_readable(end.or(deadline)).is_err() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
            let now = Instant::now();
            if deadline.has_passed(now) {
                return false;
            }
            if end.has_passed(now) {
                if count < FULL_FLOW {
                    return true;
                }
                (end, count) = (Deadline::after(period), 0);
            }
        }
    }

    /// Reads and discards input until the socket accepts bytes. Returns false at the end of the stream, after an error, and
    /// at the deadline.
    pub(crate) fn drain_until_writable(&self, deadline: Deadline) -> bool {
        let mut bytes = [0; DRAIN_BUFFER];
        while !deadline.has_passed(Instant::now()) {
            let mut socket = PollFd::new(self, PollFlags::IN | PollFlags::OUT);
            if poll_until(slice::from_mut(&mut socket), deadline).is_err() {
                return false;
            }
            if socket.revents().contains(PollFlags::OUT) {
                return true;
            }
            match self.read(&mut bytes, false) {
                Ok(0) => return false,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return false,
                _ => {}
            }
        }
        false
    }

    /// Waits for input, the end of the stream or an error. Returns false if the deadline came first.
    pub(crate) fn wait_readable(&self, deadline: Deadline) -> io::Result<bool> {
        poll_until(&mut [PollFd::new(self, PollFlags::IN)], deadline)
    }

    /// Returns whether there is input, the end of the stream or an error now.
    pub(crate) fn has_input(&self) -> bool {
        self.wait_readable(Deadline::at(Instant::now())).unwrap_or(true)
    }
}

impl Transport for Stream {
    fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match bytes {
            [one, rest @ ..] if rest.iter().all(|more| more.is_empty()) => {
                retry_on_intr(|| send(&self.socket, one, NO_WAIT))
            }
            _ => retry_on_intr(|| sendmsg(&self.socket, bytes, &mut SendAncillaryBuffer::default(), NO_WAIT)),
        };
        Ok(written?)
    }

    fn wait_writable(&self, deadline: Deadline) -> io::Result<bool> {
        poll_until(&mut [PollFd::new(self, PollFlags::OUT)], deadline)
    }

    fn shutdown_read(&self) {
        // Ignored: it fails only if the connection has ended already.
        _ = shutdown(&self.socket, Shutdown::Read);
    }

    fn shutdown_write(&self) {
        // Ignored: it fails only if the connection has ended already.
        _ = shutdown(&self.socket, Shutdown::Write);
    }

    fn shutdown_both(&self) {
        // Ignored: it fails only if the connection has ended already.
        _ = shutdown(&self.socket, Shutdown::Both);
    }

    fn forget_unsent(&self) {
        // With a linger time of zero, close(2) sends RST. Ignored: it fails only for sockets without such a queue.
        _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn recv_flags(wait: bool) -> RecvFlags {
    if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT }
}

/// Waits until one of `fds` is ready. Returns false if the deadline came first.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<bool> {
    loop {
        match poll(fds, time_left(deadline, Duration::MAX).as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns the time until the deadline, but at most `longest`. Without a deadline, the clock is not read.
pub(super) fn time_left(deadline: Deadline, longest: Duration) -> Option<Timespec> {
    deadline.instant().map(|moment| {
        let left = moment.saturating_duration_since(Instant::now()).min(longest);
        // In nanoseconds: a timeout rounded down would return before the deadline and poll again.
        Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        }
    })
}

/// Sleeps until the deadline.
pub(super) fn sleep_until(deadline: Deadline) -> io::Result<()> {
    poll_until(&mut [], deadline).map(drop)
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use rustix::net::sockopt::{socket_timeout, tcp_nodelay};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_accepted_socket_has_the_options_of_its_listener() {
        const TIMEOUT: Duration = Duration::from_secs(7);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let inherited = prepare_listener(&listener, TIMEOUT);
        let _peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let socket = listener.accept().expect("a client").0;
        let stream = Stream::from_accepted(socket, inherited).expect("a stream");
        assert_eq!(stream.inherited_read_timeout(), cfg!(target_os = "linux").then_some(TIMEOUT));
        assert_eq!(socket_timeout(&stream, Timeout::Recv), Ok(Some(TIMEOUT)));
        assert_eq!(tcp_nodelay(&stream), Ok(true));
        stream.set_read_timeout(TIMEOUT / 7).expect("another timeout");
        assert_eq!(socket_timeout(&stream, Timeout::Recv), Ok(Some(TIMEOUT / 7)));
    }
}
