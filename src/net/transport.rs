//! What everybody but the reader needs of a connected socket.

use super::{Deadline, Stream};
use rustix::fd::{AsFd, BorrowedFd};
use std::fmt::Debug;
use std::io::{self, IoSlice};

/// The sending side of a connection, whatever it runs over. The models run it over a script.
///
/// It is shared as `Arc<dyn Transport>`: one server serves plain and encrypted sockets side by side, and beside a system
/// call the indirect call is not seen.
pub(crate) trait Transport: Send + Sync + Debug {
    /// Writes what is taken without waiting: `WouldBlock` if that is nothing.
    fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Waits until bytes are taken, or it has failed; false if the deadline came first.
    fn wait_writable(&self, deadline: Deadline) -> io::Result<bool>;

    /// Ends reading: whoever waits in a read finds the end of the stream. What was written is not touched.
    fn shutdown_read(&self);

    /// Ends both directions. Whoever waits for it, in any thread, wakes up.
    fn shutdown_both(&self);

    /// For a peer that does not read: what it has not taken is dropped when the socket is closed.
    fn forget_unsent(&self);

    /// What is polled for room.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

impl Transport for Stream {
    #[inline]
    fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(bytes)
    }

    fn wait_writable(&self, deadline: Deadline) -> io::Result<bool> {
        self.wait_writable(deadline)
    }

    fn shutdown_read(&self) {
        self.shutdown_read();
    }

    fn shutdown_both(&self) {
        self.shutdown_both();
    }

    fn forget_unsent(&self) {
        self.forget_unsent();
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        AsFd::as_fd(self)
    }
}
