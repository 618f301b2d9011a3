//! An engine that fails when the test says so.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use threadws::backplane::{Engine, LinkEvent, LinkReader, LinkWriter, Memory};

/// The engine `Memory`, with faults. Clones are the same engine.
#[derive(Clone, Default)]
pub(crate) struct FaultyEngine {
    memory: Memory,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct Faults {
    /// No connection succeeds.
    is_away: bool,
    /// Each connection is refused.
    is_refusing: bool,
    /// Nothing is answered, and no message arrives.
    is_silent: bool,
    /// Messages are carried, and their publisher gets no answer.
    loses_answers: bool,
    /// How long a connection takes to fail.
    delay: Duration,
    /// Links with a smaller number are broken.
    broken_below: u64,
    links: u64,
}

impl FaultyEngine {
    /// Returns the same engine for another server, with faults of its own.
    pub(crate) fn for_another(&self) -> Self {
        Self { memory: self.memory.clone(), faults: Arc::default() }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no panic")
    }

    /// Breaks all links, and accepts no more.
    pub(crate) fn leave(&self) {
        self.faults().is_away = true;
        self.break_links();
    }

    pub(crate) fn come_back(&self) {
        let mut faults = self.faults();
        (faults.is_away, faults.is_refusing) = (false, false);
        (faults.is_silent, faults.loses_answers) = (false, false);
    }

    pub(crate) fn break_links(&self) {
        let mut faults = self.faults();
        faults.broken_below = faults.links + 1;
    }

    pub(crate) fn refuse(&self) {
        self.faults().is_refusing = true;
        self.break_links();
    }

    pub(crate) fn fall_silent(&self) {
        self.faults().is_silent = true;
    }

    pub(crate) fn lose_answers(&self) {
        self.faults().loses_answers = true;
    }

    /// Lets each attempt to connect take this long, and fail.
    pub(crate) fn hang(&self, time: Duration) {
        self.faults().delay = time;
        self.leave();
    }

    /// How many links there were.
    pub(crate) fn links(&self) -> u64 {
        self.faults().links
    }
}

impl fmt::Display for FaultyEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the faulty engine")
    }
}

impl Engine for FaultyEngine {
    fn connect(
        &self,
        name: &str,
        timeout: Duration,
    ) -> io::Result<(Box<dyn LinkWriter>, Box<dyn LinkReader>)> {
        let (is_away, is_refusing, delay) = {
            let faults = self.faults();
            (faults.is_away, faults.is_refusing, faults.delay)
        };
        std::thread::sleep(delay.min(timeout));
        if is_refusing {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "wrong password"));
        }
        if is_away {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (writer, reader) = self.memory.connect(name, timeout)?;
        let mut faults = self.faults();
        faults.links += 1;
        let link = FaultyLink { faults: Arc::clone(&self.faults), number: faults.links };
        Ok((Box::new(FaultyWriter(link.clone(), writer)), Box::new(FaultyReader(link, reader))))
    }
}

#[derive(Clone)]
struct FaultyLink {
    faults: Arc<Mutex<Faults>>,
    number: u64,
}

impl FaultyLink {
    /// A link that was broken meanwhile has answered nothing, either.
    fn loses_answers(&self) -> bool {
        let faults = self.faults.lock().expect("no panic");
        faults.loses_answers || self.number < faults.broken_below
    }

    fn check(&self) -> io::Result<()> {
        let is_broken = self.number < self.faults.lock().expect("no panic").broken_below;
        if is_broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

struct FaultyWriter(FaultyLink, Box<dyn LinkWriter>);

impl LinkWriter for FaultyWriter {
    fn subscribe(&mut self, channels: &[&str]) -> io::Result<()> {
        self.0.check().and_then(|()| self.1.subscribe(channels))
    }

    fn unsubscribe(&mut self, channels: &[&str]) -> io::Result<()> {
        self.0.check().and_then(|()| self.1.unsubscribe(channels))
    }

    fn publish(&mut self, channel: &str, head: &[u8], body: &[u8]) -> io::Result<()> {
        self.0.check().and_then(|()| self.1.publish(channel, head, body))
    }

    fn ping(&mut self) -> io::Result<()> {
        self.0.check().and_then(|()| self.1.ping())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.check().and_then(|()| self.1.flush())
    }

    fn end(&mut self) {
        self.1.end();
    }
}

struct FaultyReader(FaultyLink, Box<dyn LinkReader>);

impl LinkReader for FaultyReader {
    fn read(&mut self, timeout: Duration, receive: &mut dyn FnMut(LinkEvent<'_>)) -> io::Result<()> {
        // In steps, because a fault does not wake it.
        let (mut left, step) = (timeout, Duration::from_millis(2));
        let mut is_over = false;
        while !is_over && !left.is_zero() {
            self.0.check()?;
            left = left.saturating_sub(step);
            if self.0.faults.lock().expect("no panic").is_silent {
                std::thread::sleep(step);
                continue;
            }
            self.1.read(step, &mut |event| {
                is_over = true;
                let is_lost = event == LinkEvent::Published && self.0.loses_answers();
                if !is_lost {
                    receive(event);
                }
            })?;
        }
        Ok(())
    }
}
