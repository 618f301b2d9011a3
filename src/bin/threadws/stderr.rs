//! Writes whole lines to stderr, and reports the lines that it refuses, because the disk may be full.

use crate::stdio::is_ready;
use rustix::event::PollFlags;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the end of the process waits for a stderr that accepts nothing.
const STUCK: Duration = Duration::from_millis(200);
/// How long it waits while stderr accepts more, and only the writing thread is late, because the machine is busy.
const BUSY: Duration = Duration::from_secs(5);

/// Collects the parts of a line and writes them in one call, so that lines of several processes do not mix.
#[derive(Debug)]
pub(crate) struct LineWriter<W> {
    to: W,
    line: Vec<u8>,
    /// Only part of the last line was written, so the next one must begin with a line break.
    torn: bool,
    refused: Arc<AtomicBool>,
}

impl<W: Write> LineWriter<W> {
    /// Sets `refused` for each line that is not written whole. `Relaxed` is enough, because the writing thread reads it.
    pub(crate) fn new(to: W, refused: Arc<AtomicBool>) -> Self {
        Self { to, line: Vec::new(), torn: false, refused }
    }

    fn end_line(&mut self) {
        let mut written = 0;
        while written < self.line.len() {
            match self.to.write(&self.line[written..]) {
                Ok(bytes @ 1..) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.refused.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        if let Some(last) = self.line[..written].last() {
            self.torn = *last != b'\n';
        }
        self.line.clear();
    }
}

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.line.is_empty() && self.torn {
            self.line.push(b'\n');
        }
        self.line.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") {
            self.end_line();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        let refused = Arc::new(AtomicBool::new(false));
        let disk = Disk { content: Vec::new(), capacity: 10 };
        let mut lines = LineWriter::new(disk, Arc::clone(&refused));
        let write = |lines: &mut LineWriter<Disk>, text: &str| {
            for piece in text.split_inclusive(' ') {
                lines.write_all(piece.as_bytes()).expect("it never fails");
            }
            refused.swap(false, Ordering::Relaxed)
        };
        assert!(!write(&mut lines, "a line\n"));
        assert!(write(&mut lines, "torn here\n"));
        assert!(write(&mut lines, "lost\n"));
        lines.to.capacity = 100;
        assert!(!write(&mut lines, "room again\n"));
        assert_eq!(String::from_utf8_lossy(&lines.to.content), "a line\ntor\nroom again\n");
    }
}
