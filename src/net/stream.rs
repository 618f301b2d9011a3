//! A connected stream socket that is read by one thread while others write.

use super::Deadline;
use crate::addr::Addr;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{ioctl_fionbio, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout, set_tcp_nodelay};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, getpeername, recv, send, sendmsg, shutdown,
};
use std::cell::LazyCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One descriptor, shared by reference: `TcpStream::try_clone` would cost a second one.
///
/// The socket stays in blocking mode; what must not wait asks so call by call (`MSG_DONTWAIT`). Every call goes on after
/// a signal: with a receive timeout set, even stopping and continuing the process interrupts a read (signal(7)).
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    /// The read timeout that it came with.
    came_with: Option<Duration>,
}

/// What is discarded at a time: on the stack, so not more than a page or two.
const DISCARDED: usize = 4096;

// On Apple's systems std sets SO_NOSIGPIPE on every socket instead.
#[cfg(target_vendor = "apple")]
const NO_WAIT: SendFlags = SendFlags::DONTWAIT;
#[cfg(not(target_vendor = "apple"))]
const NO_WAIT: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Sets what Linux hands on from a listener to what it accepts, and returns the read timeout that each accepted socket then
/// has. O_NONBLOCK is not handed on: in all, three system calls a client less.
pub(crate) fn prepare(listener: impl AsFd, read_timeout: Duration) -> Option<Duration> {
    _ = set_tcp_nodelay(&listener, true);
    let set = set_socket_timeout(&listener, Timeout::Recv, Some(read_timeout)).is_ok();
    (cfg!(target_os = "linux") && set).then_some(read_timeout)
}

impl Stream {
    /// Takes a connected stream socket over, in blocking mode and, if it is TCP, without Nagle's delay.
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let socket = socket.into();
        ioctl_fionbio(&socket, false)?;
        // A socket of another family has no such option, and one that is gone refuses it: its next read tells.
        _ = set_tcp_nodelay(&socket, true);
        Ok(Self { socket, came_with: None })
    }

    /// Takes over what a listener has accepted that was [prepared](prepare), with the read timeout that it came with.
    pub(crate) fn accepted(socket: impl Into<OwnedFd>, came_with: Option<Duration>) -> io::Result<Self> {
        if cfg!(target_os = "linux") {
            Ok(Self { socket: socket.into(), came_with })
        } else {
            Self::new(socket)
        }
    }

    /// Returns the address of the other end. It fails if the connection is gone.
    pub(crate) fn peer_addr(&self) -> io::Result<Addr> {
        let addr = getpeername(&self.socket)?.and_then(|addr| SocketAddr::try_from(addr).ok());
        Ok(addr.map_or(Addr::Unix, Addr::Tcp))
    }

    /// The read timeout that it came with: what it has until another one is set.
    pub(crate) fn came_with(&self) -> Option<Duration> {
        self.came_with
    }

    /// How long [`read`](Self::read) waits.
    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.socket, Timeout::Recv, Some(timeout))?)
    }

    /// Reads what is there. With `wait`, waits for it at most the read timeout; `WouldBlock` if nothing came. Zero is the
    /// end of the stream.
    #[inline]
    pub(crate) fn read(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        Ok(retry_on_intr(|| recv(&self.socket, &mut *buffer, flags(wait)))?.1)
    }

    /// Like [`read`](Self::read), into the spare capacity of `buffer`, of which there must be some. Nothing is zeroed for
    /// it.
    pub(crate) fn read_to_end_of(&self, buffer: &mut Vec<u8>, wait: bool) -> io::Result<usize> {
        Ok(retry_on_intr(|| recv(&self.socket, spare_capacity(buffer), flags(wait)))?.1)
    }

    /// Writes what the socket takes without waiting: `WouldBlock` if that is nothing.
    pub(crate) fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match bytes {
            [one, rest @ ..] if rest.iter().all(|more| more.is_empty()) => {
                retry_on_intr(|| send(&self.socket, one, NO_WAIT))
            }
            _ => retry_on_intr(|| sendmsg(&self.socket, bytes, &mut SendAncillaryBuffer::default(), NO_WAIT)),
        };
        Ok(written?)
    }

    /// Writes all of `bytes`: `TimedOut` if the deadline came first, which is asked for when there is something to wait for.
    pub(crate) fn write_all(&self, mut bytes: &[u8], deadline: impl FnOnce() -> Deadline) -> io::Result<()> {
        let deadline = LazyCell::new(deadline);
        while !bytes.is_empty() {
            match self.try_write(&[IoSlice::new(bytes)]) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait_writable(*deadline)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads and discards until the end of the stream, `most` bytes or the deadline: a socket that is closed over
    /// unread input answers with RST, which takes away what the peer has not read yet.
    pub(crate) fn drain(&self, most: usize, deadline: Deadline) {
        let mut bytes = [0; DISCARDED];
        let mut discarded = 0;
        while discarded < most && !deadline.has_passed(Instant::now()) {
            match self.wait_readable(deadline).and_then(|_| self.read(&mut bytes, false)) {
                Ok(0) | Err(_) => return,
                Ok(count) => discarded += count,
            }
        }
    }

    /// Waits until there is something to read, an end or an error; false if the deadline came first.
    pub(crate) fn wait_readable(&self, deadline: Deadline) -> io::Result<bool> {
        wait(self.as_fd(), PollFlags::IN, deadline)
    }

    /// Whether there is something to read, an end or an error, at this moment.
    pub(crate) fn has_input(&self) -> bool {
        self.wait_readable(Deadline::at(Instant::now())).unwrap_or(true)
    }

    /// Waits until the socket takes bytes, or has failed; false if the deadline came first.
    pub(crate) fn wait_writable(&self, deadline: Deadline) -> io::Result<bool> {
        wait(self.as_fd(), PollFlags::OUT, deadline)
    }

    /// Sends FIN: the peer reads to the end of what was written.
    pub(crate) fn shutdown_write(&self) {
        // It fails only where the connection is gone already.
        _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Ends reading: whoever waits in a read finds the end of the stream. What was written is not touched.
    pub(crate) fn shutdown_read(&self) {
        // It fails only where the connection is gone already.
        _ = shutdown(&self.socket, Shutdown::Read);
    }

    /// Ends both directions. Whoever waits in a read, a write or a poll of it, in any thread, wakes up.
    pub(crate) fn shutdown_both(&self) {
        // It fails only where the connection is gone already.
        _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Has the close send RST and drop what the peer has not taken: the kernel would keep some MB for it, and go on trying
    /// for minutes.
    pub(crate) fn forget_unsent(&self) {
        // Refused only by sockets that have no such option, nor such a queue.
        _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

fn flags(wait: bool) -> RecvFlags {
    if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits for one descriptor; false if the deadline came first.
pub(crate) fn wait(fd: BorrowedFd<'_>, what: PollFlags, deadline: Deadline) -> io::Result<bool> {
    poll_until(&mut [PollFd::from_borrowed_fd(fd, what)], deadline)
}

/// Waits for any of `fds`; false if the deadline came first.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<bool> {
    loop {
        // A wait without an end need not know the time.
        let timeout = deadline.instant().map(|moment| {
            let left = moment.saturating_duration_since(Instant::now());
            // poll(2) rounds nothing up: a fraction of a nanosecond less would make us spin once more.
            Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(fds, timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use rustix::net::sockopt::{socket_timeout, tcp_nodelay};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_accepted_socket_has_what_its_listener_was_given() {
        const TIMEOUT: Duration = Duration::from_secs(7);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let came_with = prepare(&listener, TIMEOUT);
        let _peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let stream =
            Stream::accepted(listener.accept().expect("somebody came").0, came_with).expect("a stream");
        assert_eq!(stream.came_with(), cfg!(target_os = "linux").then_some(TIMEOUT));
        assert_eq!(socket_timeout(&stream, Timeout::Recv), Ok(Some(TIMEOUT)));
        assert_eq!(tcp_nodelay(&stream), Ok(true));
        stream.set_read_timeout(TIMEOUT / 7).expect("another");
        assert_eq!(socket_timeout(&stream, Timeout::Recv), Ok(Some(TIMEOUT / 7)));
    }
}
