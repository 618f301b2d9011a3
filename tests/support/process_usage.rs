//! What a process takes of the machine, as /proc tells it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

/// One reading.
#[derive(Debug, Clone, Copy)]
pub struct ProcessUsage {
    /// Resident memory, in bytes.
    pub memory: usize,
    pub threads: usize,
    pub descriptors: usize,
    /// Time on a processor since its start, in user and kernel mode.
    pub cpu: Duration,
    at: Instant,
}

impl ProcessUsage {
    /// Of a process that runs.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let number = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of /proc");
            value.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // The name in parentheses may hold anything; utime and stime are the 12th and 13th fields behind it.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap_or(0));
        Self {
            memory: number("VmRSS:") * 1024,
            threads: number("Threads:"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count(),
            // USER_HZ is 100 on every Linux that Rust runs on.
            cpu: Duration::from_millis(ticks.sum::<u64>() * 10),
            at: Instant::now(),
        }
    }

    /// Which part of one processor was used since `before`: 1.0 is all of it.
    pub fn load_since(&self, before: &Self) -> f64 {
        let real = self.at.duration_since(before.at).as_secs_f64();
        self.cpu.saturating_sub(before.cpu).as_secs_f64() / real.max(0.001)
    }

    /// By how many bytes the memory has grown since `before`.
    pub fn growth_since(&self, before: &Self) -> usize {
        self.memory.saturating_sub(before.memory)
    }
}

/// The time that each thread of a process was on a processor, to the nanosecond.
#[derive(Debug)]
pub struct ThreadTimes {
    threads: HashMap<OsString, Duration>,
    at: Instant,
}

impl ThreadTimes {
    /// Of a process that runs.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let time_of = |thread: fs::DirEntry| {
            // It may have ended meanwhile.
            let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let time = stat.split_whitespace().next()?.parse().expect("nanoseconds");
            Some((thread.file_name(), Duration::from_nanos(time)))
        };
        Self { threads: threads.filter_map(time_of).collect(), at: Instant::now() }
    }

    /// What each thread that is still there has done since `before`, the busiest first.
    pub fn since(&self, before: &Self) -> Vec<Duration> {
        let done = |(thread, time): (&OsString, &Duration)| {
            time.saturating_sub(before.threads.get(thread).copied().unwrap_or_default())
        };
        let mut all: Vec<_> = self.threads.iter().map(done).collect();
        all.sort_by(|one, other| other.cmp(one));
        all
    }

    /// Which part of one processor they used since `before`: 1.0 is all of it.
    pub fn load_since(&self, before: &Self) -> f64 {
        let real = self.at.duration_since(before.at).as_secs_f64();
        self.since(before).iter().sum::<Duration>().as_secs_f64() / real.max(0.001)
    }
}
