//! Wakes a thread that waits in `poll`: the flush thread, the acceptor thread. Threads that wait for a lock or a condition
//! variable are in `sync.rs`.

use super::stream::poll_until;
use super::{Deadline, Transport};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// A socket pair: a byte written to one end makes the other end readable. Unlike an event descriptor, it exists on every
/// Unix system.
#[derive(Debug)]
pub(crate) struct Wake {
    /// Polled by the thread that waits.
    receiver: UnixStream,
    sender: UnixStream,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        Ok(Self { receiver, sender })
    }

    /// Makes the `poll` of the waiting thread return, now or when it is called next.
    pub(crate) fn wake(&self) {
        // Ignored: the write fails only if the pair is full, and then the thread wakes anyway.
        drop((&self.sender).write(&[1]));
    }

    /// Waits for a wake, for the deadline, or until one of `blocked` accepts bytes or has failed. Returns for each of them
    /// whether it accepts bytes or has failed.
    #[cfg_attr(all(test, model), expect(dead_code, reason = "a model waits for scripted sockets"))]
    pub(crate) fn wait(&self, blocked: &[&dyn Transport], deadline: Deadline) -> io::Result<Vec<bool>> {
        let mut fds = vec![PollFd::new(self, PollFlags::IN)];
        fds.extend(blocked.iter().map(|stream| PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)));
        poll_until(&mut fds, deadline)?;
        Ok(fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Discards all wakes so far.
    pub(crate) fn clear(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.receiver).read(&mut bytes), Ok(count) if count == bytes.len()) {}
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
