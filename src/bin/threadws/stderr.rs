//! Stderr, a whole line at a time, and whether it took the last one: the disk below it may be full.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the end of the process waits for a stderr that takes nothing.
const STUCK: Duration = Duration::from_millis(200);
/// How long it waits where stderr would take more, and only the thread that writes is late: the machine is busy.
const BUSY: Duration = Duration::from_secs(5);

/// Collects what belongs to one line and writes it in one call, so lines of several processes do not tear.
#[derive(Debug)]
pub(crate) struct LineWriter<W> {
    to: W,
    line: Vec<u8>,
    /// Half a line was taken: the next one does not stand behind it.
    torn: bool,
    refused: Arc<AtomicBool>,
}

impl<W: Write> LineWriter<W> {
    /// `refused` is set by each line that is not taken whole. Relaxed will do: it is asked by the thread that writes.
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

/// Waits for what is being written: for `done`, which waits itself, at most so long as it is told each time.
pub(crate) fn wait_for(mut done: impl FnMut(Duration) -> bool) {
    let start = Instant::now();
    while !done(STUCK) && start.elapsed() < BUSY && takes_more() {}
}

fn takes_more() -> bool {
    let stderr = io::stderr();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1.saturating_sub(self.0.len()).min(bytes.len());
            self.0.extend_from_slice(&bytes[..room]);
            if room == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(room) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_a_full_disk_refuses_is_told_and_the_next_begins_anew() {
        let refused = Arc::new(AtomicBool::new(false));
        let mut lines = LineWriter::new(Disk(Vec::new(), 10), Arc::clone(&refused));
        let write = |lines: &mut LineWriter<Disk>, text: &str| {
            for piece in text.split_inclusive(' ') {
                lines.write_all(piece.as_bytes()).expect("it never fails");
            }
            refused.swap(false, Ordering::Relaxed)
        };
        assert!(!write(&mut lines, "a line\n"));
        assert!(write(&mut lines, "torn here\n"));
        assert!(write(&mut lines, "lost\n"));
        lines.to.1 = 100;
        assert!(!write(&mut lines, "room again\n"));
        assert_eq!(String::from_utf8_lossy(&lines.to.0), "a line\ntor\nroom again\n");
    }
}
