//! Wakes a thread out of `poll`.

use rustix::fd::{AsFd, BorrowedFd};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// A socket pair: octets in one end make the other readable. Portable, where an event descriptor is not.
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
        // Only a full pair refuses an octet, and then the sleeper wakes anyway.
        drop((&self.waker).write(&[1]));
    }

    /// Forgets all wakes so far.
    pub(crate) fn clear(&self) {
        let mut octets = [0; 64];
        while matches!((&self.sleeper).read(&mut octets), Ok(count) if count == octets.len()) {}
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sleeper.as_fd()
    }
}
