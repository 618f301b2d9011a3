//! Wakes a thread out of `poll`.

use super::stream::poll_until;
use super::{Deadline, Transport};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// A socket pair: bytes in one end make the other readable. Portable, where an event descriptor is not.
#[derive(Debug)]
pub(crate) struct Wake {
    sleeper: UnixStream,
    waker: UnixStream,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let (sleeper, waker) = UnixStream::pair()?;
        sleeper.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        Ok(Self { sleeper, waker })
    }

    /// Makes the sleeper's `poll` return, now or when it is next called.
    pub(crate) fn wake(&self) {
        // Only a full pair refuses a byte, and then the sleeper wakes anyway.
        drop((&self.waker).write(&[1]));
    }

    /// Waits for a wake, for room in one of `refused`, or for the deadline; says of each whether it takes bytes or has
    /// failed.
    #[cfg_attr(all(test, model), expect(dead_code, reason = "a model waits for its scripts"))]
    pub(crate) fn wait(&self, refused: &[&dyn Transport], deadline: Deadline) -> io::Result<Vec<bool>> {
        let mut fds = vec![PollFd::new(self, PollFlags::IN)];
        fds.extend(refused.iter().map(|stream| PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)));
        poll_until(&mut fds, deadline)?;
        Ok(fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Forgets all wakes so far.
    pub(crate) fn clear(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.sleeper).read(&mut bytes), Ok(count) if count == bytes.len()) {}
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sleeper.as_fd()
    }
}
