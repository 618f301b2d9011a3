//! Standard streams that may be in non-blocking mode. The mode belongs to the open file and not to the process: another
//! process that shares a terminal or a pipe can have set it, and may set it at any time (Node.js and ssh do).

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::time::Duration;

/// How long to wait if the system cannot poll the stream, such as a terminal on macOS.
const PAUSE: Duration = Duration::from_millis(10);

/// A stream whose reads and writes wait, in both modes.
#[derive(Debug)]
pub(crate) struct Blocking<T>(pub(crate) T);

impl<T: AsFd> Blocking<T> {
    /// Repeats a call until it does not fail because it would have to wait.
    fn repeat(
        &self,
        flags: PollFlags,
        mut call: impl FnMut(&T) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match call(&self.0) {
                Err(Errno::AGAIN) => wait(&self.0, flags),
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl<T: AsFd> Read for Blocking<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.repeat(PollFlags::IN, |stream| rustix::io::read(stream, &mut *bytes))
    }
}

impl<T: AsFd> Write for Blocking<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.repeat(PollFlags::OUT, |stream| rustix::io::write(stream, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until a read or write of this kind may not have to wait. It can return early.
pub(crate) fn wait(stream: impl AsFd, flags: PollFlags) {
    let mut stream = [PollFd::new(&stream, flags)];
    let polled = poll(&mut stream, None);
    if stream[0].revents().contains(PollFlags::NVAL) || polled.is_err_and(|error| error != Errno::INTR) {
        std::thread::sleep(PAUSE);
    }
}

/// Returns whether a read or write of this kind would not wait now.
pub(crate) fn is_ready(stream: impl AsFd, flags: PollFlags) -> bool {
    poll(&mut [PollFd::new(&stream, flags)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
