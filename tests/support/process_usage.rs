//! The resources that a process uses, from /proc.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct ProcessUsage {
    /// Resident memory, in bytes.
    pub memory: usize,
    pub threads: usize,
    pub descriptors: usize,
    /// Processor time since its start, in user and kernel mode.
    pub cpu: Duration,
    at: Instant,
}

impl ProcessUsage {
    /// Measures a running process.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let number = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of /proc");
            value.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // The name in parentheses may contain anything. utime and stime are the 12th and 13th fields after it.
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

    /// Returns the share of one processor that was used since `before`. All of it is 1.0.
    pub fn load_since(&self, before: &Self) -> f64 {
        let real = self.at.duration_since(before.at).as_secs_f64();
        self.cpu.saturating_sub(before.cpu).as_secs_f64() / real.max(0.001)
    }

    /// Returns by how many bytes the memory has grown since `before`.
    pub fn growth_since(&self, before: &Self) -> usize {
        self.memory.saturating_sub(before.memory)
    }
}

/// The processor time of each thread of a process, in nanoseconds.
#[derive(Debug)]
pub struct ThreadTimes {
    threads: HashMap<OsString, Duration>,
    /// How often its threads have begun to wait, so far.
    pub waits: usize,
    at: Instant,
}

impl ThreadTimes {
    /// Measures a running process.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let time_of = |thread: fs::DirEntry| {
            // The thread may have ended meanwhile.
            let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let time = stat.split_whitespace().next()?.parse().expect("nanoseconds");
            Some((thread.file_name(), Duration::from_nanos(time)))
        };
        Self { threads: threads.filter_map(time_of).collect(), waits: waits(pid), at: Instant::now() }
    }

    /// Returns the processor time of each thread since `before`, the busiest first. Threads that have ended are
    /// missing.
    pub fn since(&self, before: &Self) -> Vec<Duration> {
        let done = |(thread, time): (&OsString, &Duration)| {
            time.saturating_sub(before.threads.get(thread).copied().unwrap_or_default())
        };
        let mut all: Vec<_> = self.threads.iter().map(done).collect();
        all.sort_by(|one, other| other.cmp(one));
        all
    }

    /// Returns the share of one processor that they used since `before`. All of it is 1.0.
    pub fn load_since(&self, before: &Self) -> f64 {
        let real = self.at.duration_since(before.at).as_secs_f64();
        self.since(before).iter().sum::<Duration>().as_secs_f64() / real.max(0.001)
    }
}

/// Returns how often the threads of a process have begun to wait. Threads that have ended are missing.
fn waits(pid: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let waits_of = |thread: fs::DirEntry| {
        // The thread may have ended meanwhile.
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some(value.trim().parse::<usize>().expect("a number"))
    };
    threads.filter_map(waits_of).sum()
}
