//! How late a thread wakes up that only sleeps. This delay is caused by the machine, not by the code under test.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const NAP: Duration = Duration::from_millis(5);

/// A thread that sleeps beside the code that is measured.
#[derive(Debug)]
pub struct Lateness {
    stop: mpsc::Sender<()>,
    sleeper: JoinHandle<Duration>,
}

impl Lateness {
    pub fn from_now_on() -> Self {
        let (stop, stopped) = mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            loop {
                let start = Instant::now();
                if stopped.recv_timeout(NAP) != Err(RecvTimeoutError::Timeout) {
                    return worst;
                }
                worst = worst.max(start.elapsed().saturating_sub(NAP));
            }
        });
        Self { stop, sleeper }
    }

    /// Returns its longest delay.
    pub fn worst(self) -> Duration {
        drop(self.stop);
        self.sleeper.join().expect("it only sleeps")
    }
}
