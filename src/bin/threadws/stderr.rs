//! Writes whole lines to stderr, and reports the lines that it refuses, because the disk may be full.

use crate::stdio::is_ready;
use rustix::event::PollFlags;
use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

/// How long the end of the process waits for a stderr that accepts nothing.
const STUCK: Duration = Duration::from_millis(200);
/// How long it waits while stderr accepts more, and only the writing thread is late, because the machine is busy.
const BUSY: Duration = Duration::from_secs(5);

/// Writes each line in one call, so that lines of several processes do not mix.
#[derive(Debug)]
pub(crate) struct LineWriter<W> {
    to: W,
    /// Only part of the last line was written, so the next one must begin with a line break.
    torn: bool,
}

impl<W: Write> LineWriter<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, torn: false }
    }

    /// Writes a line, which ends in a line break. Returns whether the whole line was written.
    pub(crate) fn write(&mut self, line: &str) -> bool {
        let line = if self.torn { format!("\n{line}") } else { line.to_owned() };
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(bytes @ 1..) => rest = rest.get(bytes..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        let is_whole = rest.is_empty();
        if let Some(last) = line.as_bytes()[..line.len() - rest.len()].last() {
            self.torn = *last != b'\n';
        }
        is_whole
    }
}

/// Waits until a write to stderr is done. `done` waits for it, for the given time at most, and returns whether it is.
pub(crate) fn wait_for(mut done: impl FnMut(Duration) -> bool) {
    let start = Instant::now();
    while !done(STUCK) && start.elapsed() < BUSY && is_ready(io::stderr(), PollFlags::OUT) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Disk {
        content: Vec<u8>,
        capacity: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.capacity.saturating_sub(self.content.len()).min(bytes.len());
            self.content.extend_from_slice(&bytes[..room]);
            if room == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(room) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_a_full_disk_refuses_is_reported() {
        let mut lines = LineWriter::new(Disk { content: Vec::new(), capacity: 10 });
        assert!(lines.write("a line\n"));
        assert!(!lines.write("torn here\n"));
        assert!(!lines.write("lost\n"));
        lines.to.capacity = 100;
        assert!(lines.write("room again\n"));
        assert_eq!(String::from_utf8_lossy(&lines.to.content), "a line\ntor\nroom again\n");
    }
}
