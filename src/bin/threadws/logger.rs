//! Logs to stderr. The thread that logs filters, formats and escapes the record, and puts it in a bounded queue. One
//! other thread writes the lines to stderr, so that a thread that logs never waits for stderr.
//!
//! The queue has the only lock. It is held to push or pop a line, never while a record is formatted or written.

use crate::escape;
use crate::log_filter::LogFilter;
use crate::stderr::{self, LineWriter};
use crate::stdio::{self, Blocking};
use crate::terminal;
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::PollFlags;
use simplelog::{ColorChoice, Config, ConfigBuilder, TermLogger, TerminalMode, WriteLogger};
use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

/// The longest queue, in lines. A burst of connections fits, and a stderr that is never read costs little memory.
const MAX_LINES: usize = 1024;
/// The longest queue, in bytes of text.
const MAX_BYTES: usize = 256 * 1024;
/// The longest text of a record, in bytes. With time, level and target it stays below the 8 KiB that simplelog writes to a
/// terminal in one call, so that lines of several processes do not mix.
const MAX_TEXT: usize = 4 * 1024;
/// A line that was queued for longer shows its age, because simplelog shows the time when it is written.
const LATE: Duration = Duration::from_secs(1);
/// RFC 3339. The width is fixed, so that lines can be sorted as text.
const TIME_FORMAT: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Starts the writer thread, and installs the logger and the panic hook.
pub(crate) fn start(filter: LogFilter) -> io::Result<()> {
    let queue = Arc::new(LineQueue::default());
    let lines = Arc::clone(&queue);
    let env = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let is_coloured = is_coloured(io::stderr().is_terminal(), env);
    let refused = Arc::new(AtomicBool::new(false));
    let sink = stderr_sink(is_coloured, &refused);
    let write = move || {
        lines.write_to(|line| {
            let _hidden = terminal::hide_typed_line();
            line.log_to(&*sink);
            // In non-blocking mode a terminal may have taken only a part. `TermLogger` keeps the rest, and does not report
            // it. A rest for which there is room again already is written with the next line.
            while is_coloured && !stdio::is_ready(io::stderr(), PollFlags::OUT) {
                stdio::wait(io::stderr(), PollFlags::OUT);
                sink.flush();
            }
            !refused.swap(false, Ordering::Relaxed)
        });
    };
    std::thread::Builder::new().name("threadws-log".to_owned()).spawn(write)?;
    let max = filter.max();
    let front = QueueLog { filter, queue };
    log::set_boxed_logger(Box::new(front)).map_err(io::Error::other)?;
    log::set_max_level(max);
    // The default hook writes to stderr itself, so a panicking handler could wait forever for a reader of stderr.
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Returns the logger that formats and writes lines. It sets `refused` if a line cannot be written.
fn stderr_sink(is_coloured: bool, refused: &Arc<AtomicBool>) -> Box<dyn Log> {
    if is_coloured {
        // It hides errors, so lines that a terminal refuses are not counted. Terminals seldom refuse a line.
        TermLogger::new(LevelFilter::Trace, config(), TerminalMode::Stderr, ColorChoice::Always)
    } else {
        let stderr = LineWriter::new(Blocking(io::stderr()), Arc::clone(refused));
        WriteLogger::new(LevelFilter::Trace, config(), stderr)
    }
}

/// Returns the form of the lines: the time in UTC, the level, the target of `debug` and `trace`, and the text.
fn config() -> Config {
    ConfigBuilder::new()
        .set_time_format_custom(TIME_FORMAT)
        .set_thread_level(LevelFilter::Off) // it would name the writer thread
        .set_location_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Debug)
        .build()
}

/// Returns a time as the log shows it.
pub(crate) fn timestamp(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(TIME_FORMAT).expect("a time with a date has all components")
}

/// Chooses colours for terminals, and not for files and pipes, unless the environment forces them
/// (<https://no-color.org>, <https://bixense.com/clicolors>). simplelog's `Auto` does not check for a terminal.
fn is_coloured(terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| env(name).filter(|value| !value.is_empty());
    let able = terminal && set("TERM").is_some_and(|term| term != "dumb");
    let forced = set("CLICOLOR_FORCE").is_some_and(|force| force != "0");
    set("NO_COLOR").is_none() && (able || forced)
}

/// The logger that the macros of `log` call.
struct QueueLog {
    filter: LogFilter,
    queue: Arc<LineQueue>,
}

impl Log for QueueLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.filter.level_of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Other code's `Display` runs here, so no lock is held. If it panics, only this line is lost.
        let text = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut line = escape::EscapedLine::new(MAX_TEXT);
            // If a `Display` returns an error, the line is the text that it wrote before.
            let _ = line.write_fmt(*record.args());
            line.finish()
        }));
        self.queue.push(LogLine {
            level: record.level(),
            target: record.target().to_owned(),
            text: text.unwrap_or_else(|_| "(formatting this line panicked)".to_owned()),
            logged_at: Instant::now(),
            dropped: 0,
        });
    }

    /// Waits until all lines are written. Gives up after a moment if nothing reads stderr.
    fn flush(&self) {
        stderr::wait_for(|timeout| self.queue.drain(timeout));
    }
}

/// A record that is ready to be written.
#[derive(Debug)]
struct LogLine {
    level: Level,
    target: String,
    text: String,
    logged_at: Instant,
    /// How many lines were dropped directly before this one.
    dropped: u64,
}

impl LogLine {
    /// The line that reports dropped lines.
    fn of_dropped(dropped: u64) -> Self {
        Self {
            level: Level::Warn,
            target: module_path!().to_owned(),
            text: format!("… {dropped} {} dropped", if dropped == 1 { "line" } else { "lines" }),
            logged_at: Instant::now(),
            dropped: 0,
        }
    }

    fn log_to(&self, sink: &dyn Log) {
        let age = self.logged_at.elapsed();
        let late = if age > LATE { format!("({} s ago) ", age.as_secs()) } else { String::new() };
        let metadata = Metadata::builder().level(self.level).target(&self.target).build();
        // `log` cannot change a record, so a new one is built. simplelog shows none of the fields that it lacks.
        sink.log(
            &Record::builder()
                .metadata(metadata)
                .args(format_args!("{late}{text}", text = self.text))
                .build(),
        );
    }

    fn size(&self) -> usize {
        self.target.len() + self.text.len()
    }
}

/// The queue of lines between the threads that log and the writer thread.
#[derive(Debug, Default)]
struct LineQueue {
    queued: Mutex<QueuedLines>,
    /// Wakes the writer: a line was pushed.
    pushed: Condvar,
    /// Wakes `drain`: all lines are written.
    empty: Condvar,
}

#[derive(Debug, Default)]
struct QueuedLines {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// Lines dropped since the last one that was queued.
    dropped: u64,
    /// The writer has popped a line and not written it yet.
    writing: bool,
}

impl LineQueue {
    /// Queues a line, or drops it if the queue is full. Never waits for the writer.
    fn push(&self, mut line: LogLine) {
        let mut queued = self.lock();
        if queued.lines.len() >= MAX_LINES || queued.bytes + line.size() > MAX_BYTES {
            queued.dropped += 1;
            return;
        }
        line.dropped = std::mem::take(&mut queued.dropped);
        queued.bytes += line.size();
        queued.lines.push_back(line);
        drop(queued);
        self.pushed.notify_one();
    }

    /// Waits for the next line. Returns how many lines were dropped before it, and the line. If lines were dropped and
    /// none followed, returns their number alone.
    fn pop(&self) -> (u64, Option<LogLine>) {
        let mut queued = self.lock();
        queued.writing = false;
        loop {
            if let Some(line) = queued.lines.pop_front() {
                queued.bytes -= line.size();
                queued.writing = true;
                return (line.dropped, Some(line));
            }
            if queued.dropped > 0 {
                queued.writing = true;
                return (std::mem::take(&mut queued.dropped), None);
            }
            self.empty.notify_all();
            queued = self.pushed.wait(queued).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes lines forever: the body of the writer thread. `write` returns whether it wrote the whole line.
    fn write_to(&self, mut write: impl FnMut(&LogLine) -> bool) {
        let mut dropped = 0;
        loop {
            let (dropped_before, line) = self.pop();
            dropped += dropped_before;
            if dropped > 0 && write(&LogLine::of_dropped(dropped)) {
                dropped = 0;
            }
            // A line that a full disk refuses is reported before the next line that it accepts.
            if line.is_some_and(|line| !write(&line)) {
                dropped += 1;
            }
        }
    }

    /// Waits until all lines are written, for `timeout` at most. Returns whether they are.
    fn drain(&self, timeout: Duration) -> bool {
        let busy =
            |queued: &mut QueuedLines| queued.writing || queued.dropped > 0 || !queued.lines.is_empty();
        let waited = self.empty.wait_timeout_while(self.lock(), timeout, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, QueuedLines> {
        // Poisoning is ignored: no code under this lock panics, and the lines would be valid if it did.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    match info.location() {
        Some(place) => log::error!("thread {name} panicked at {place}: {text}"),
        None => log::error!("thread {name} panicked: {text}"),
    }
    let backtrace = std::backtrace::Backtrace::capture(); // empty unless RUST_BACKTRACE is set
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        for line in backtrace.to_string().lines() {
            log::error!("{line}");
        }
    }
    if name == "main" {
        log::logger().flush(); // the process is about to end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    /// A stderr in memory. It accepts a line for each message from `gate`, and all lines when the gate is dropped.
    struct TestStderr {
        front: QueueLog,
        lines: mpsc::Receiver<String>,
        gate: Option<mpsc::Sender<()>>,
    }

    impl TestStderr {
        /// A logger whose stderr accepts nothing until `gate` is used or dropped.
        fn stuck(filter: &str) -> Self {
            let (to_lines, lines) = mpsc::channel();
            let (gate, from_gate) = mpsc::channel();
            let write = move |line: &LogLine| {
                let _ = from_gate.recv();
                to_lines.send(line.text.clone()).is_ok()
            };
            let queue = Arc::new(LineQueue::default());
            let front =
                QueueLog { filter: LogFilter::parse(filter).expect(filter), queue: Arc::clone(&queue) };
            std::thread::spawn(move || queue.write_to(write));
            Self { front, lines, gate: Some(gate) }
        }

        fn open(filter: &str) -> Self {
            let mut stderr = Self::stuck(filter);
            stderr.gate = None;
            stderr
        }

        fn log(&self, args: fmt::Arguments<'_>) {
            self.front.log(&Record::builder().level(Level::Info).target("threadws").args(args).build());
        }

        fn next(&self) -> String {
            self.lines.recv_timeout(Duration::from_secs(5)).expect("a line within 5 s")
        }
    }

    #[test]
    fn each_record_is_one_line() {
        let stderr = TestStderr::open("info");
        let header = "x\r\n[INFO] forged\u{1b}[2J";
        stderr.log(format_args!("header {header}"));
        assert_eq!(stderr.next(), r"header x\r\n[INFO] forged\u{1b}[2J");
    }

    #[test]
    fn a_filtered_record_is_not_formatted() {
        struct NeverFormatted;
        impl fmt::Display for NeverFormatted {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                unreachable!("formatted")
            }
        }
        let stderr = TestStderr::open("warn");
        stderr.log(format_args!("{NeverFormatted}"));
        assert!(stderr.lines.try_recv().is_err());
    }

    #[test]
    fn logging_never_waits_for_stderr_and_counts_dropped_lines() {
        let mut stderr = TestStderr::stuck("info");
        stderr.log(format_args!("line 0"));
        while !stderr.front.queue.lock().lines.is_empty() {
            std::thread::yield_now(); // until the writer is stuck with the first line
        }
        for number in 1..=MAX_LINES + 12 {
            stderr.log(format_args!("line {number}"));
        }
        let start = Instant::now();
        stderr.front.queue.drain(Duration::from_millis(20));
        assert!(start.elapsed() < Duration::from_secs(5), "an exit must not wait for stderr");

        stderr.gate.as_ref().expect("stuck").send(()).expect("the writer lives");
        assert_eq!(stderr.next(), "line 0");
        while stderr.front.queue.lock().lines.len() == MAX_LINES {
            std::thread::yield_now();
        }
        stderr.log(format_args!("after"));
        stderr.gate = None;
        for number in 1..=MAX_LINES {
            assert_eq!(stderr.next(), format!("line {number}"));
        }
        assert_eq!(stderr.next(), "… 12 lines dropped");
        assert_eq!(stderr.next(), "after");
    }

    #[test]
    fn dropped_lines_are_counted_even_if_no_line_follows() {
        let mut stderr = TestStderr::stuck("info");
        for number in 0..MAX_LINES + 3 {
            stderr.log(format_args!("line {number}"));
        }
        stderr.gate = None;
        let last = (0..).map(|_| stderr.next()).find(|line| !line.starts_with("line "));
        let last = last.expect("endless");
        assert!(last.starts_with("… ") && last.ends_with(" dropped"), "{last}");
    }

    #[test]
    fn the_queue_is_limited_in_bytes_too() {
        let stderr = TestStderr::stuck("info");
        let large = "x".repeat(1 << 20);
        for _ in 0..MAX_LINES {
            stderr.log(format_args!("{large}"));
        }
        let queued = stderr.front.queue.lock();
        assert!(queued.bytes <= MAX_BYTES && queued.dropped > 0, "{} bytes", queued.bytes);
        let line = queued.lines.front().expect("some fit");
        assert!(line.text.ends_with("bytes more)") && line.text.len() < MAX_TEXT + 64);
    }

    #[test]
    fn a_display_that_panics_loses_only_its_own_line() {
        struct PanickingDisplay;
        impl fmt::Display for PanickingDisplay {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("a panic in a Display, on purpose")
            }
        }
        let stderr = TestStderr::open("info");
        stderr.log(format_args!("{PanickingDisplay}"));
        stderr.log(format_args!("and on"));
        assert_eq!(stderr.next(), "(formatting this line panicked)");
        assert_eq!(stderr.next(), "and on");
    }

    #[test]
    fn drain_waits_for_the_line_that_is_being_written() {
        let stderr = TestStderr::open("info");
        stderr.log(format_args!("last words"));
        assert!(stderr.front.queue.drain(Duration::from_secs(5)));
        assert_eq!(stderr.lines.try_recv().as_deref(), Ok("last words"));
    }

    #[test]
    fn colours_are_for_terminals_unless_the_environment_says_otherwise() {
        type Env = &'static [(&'static str, &'static str)];
        let cases: [(bool, Env, bool); 8] = [
            (true, &[("TERM", "xterm")], true),
            (true, &[], false),
            (true, &[("TERM", "dumb")], false),
            (true, &[("TERM", "xterm"), ("NO_COLOR", "1")], false),
            (true, &[("TERM", "xterm"), ("NO_COLOR", "")], true),
            (false, &[("TERM", "xterm")], false),
            (false, &[("CLICOLOR_FORCE", "1")], true),
            (false, &[("CLICOLOR_FORCE", "0")], false),
        ];
        for (terminal, env, expected) in cases {
            let lookup =
                |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(is_coloured(terminal, lookup), expected, "{terminal} {env:?}");
        }
    }

    #[test]
    fn a_time_is_in_utc_and_has_one_width() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 120_000_000, "2000-02-29T00:00:00.120000Z"),
        ];
        for (seconds, nanos, expected) in cases {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)), expected);
        }
    }

    /// Returns a line as a file shows it, after the time.
    fn written(level: Level, age: u64) -> String {
        let (mut file, writer) = UnixStream::pair().expect("a pair");
        let sink = WriteLogger::new(LevelFilter::Trace, config(), writer);
        let logged_at =
            Instant::now().checked_sub(Duration::from_secs(age)).expect("the system runs for longer");
        let (target, text) = ("threadws::hub".to_owned(), "hi".to_owned());
        LogLine { level, target, text, logged_at, dropped: 0 }.log_to(&*sink);
        drop(sink);
        let mut line = String::new();
        file.read_to_string(&mut line).expect("UTF-8");
        line.split_off(timestamp(SystemTime::now()).len())
    }

    #[test]
    fn a_line_has_level_and_text_and_target_only_at_debug() {
        assert_eq!(written(Level::Info, 0), " [INFO] hi\n");
        assert_eq!(written(Level::Debug, 0), " [DEBUG] threadws::hub: hi\n");
    }

    #[test]
    fn a_line_that_waited_shows_its_age() {
        assert_eq!(written(Level::Info, 3), " [INFO] (3 s ago) hi\n");
    }
}
