//! Where log records go: filtered, formatted and escaped by the thread that logs, then through a bounded queue to the one
//! thread that writes to stderr. Whatever becomes of stderr, nobody who logs ever waits for it.
//!
//! One lock, the queue's: held to push or pop a line, never over formatting or I/O.

use crate::escape;
use crate::log_filter::LogFilter;
use crate::stderr;
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ColorChoice, ConfigBuilder, TermLogger, TerminalMode, WriteLogger};
use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may wait for stderr: a burst of connects fits, a stderr that is never read costs little.
const MAX_LINES: usize = 1024;
/// Bytes that may wait for stderr, in all.
const MAX_BYTES: usize = 256 * 1024;
/// One record's text. With its time, level and target it stays below the 8 KiB that simplelog's stream writes in one
/// call, so lines of several processes do not tear.
const MAX_TEXT: usize = 4 * 1024;
/// A line that waited longer for stderr says so: its time is the one of writing.
const LATE: Duration = Duration::from_secs(1);

/// The running logger.
#[derive(Debug)]
pub(crate) struct Logger(Arc<LineQueue>);

/// Starts the writer thread and takes over `log` and the panic messages.
pub(crate) fn start(filter: LogFilter) -> io::Result<Logger> {
    let queue = Arc::new(LineQueue::default());
    let refused = Arc::new(AtomicBool::new(false));
    let sink = stderr_sink(&refused);
    let lines = Arc::clone(&queue);
    let write = move || lines.write_to(&*sink, &refused);
    std::thread::Builder::new().name("threadws-log".to_owned()).spawn(write)?;
    let max = filter.max();
    let front = QueueLog { filter, queue: Arc::clone(&queue) };
    log::set_boxed_logger(Box::new(front)).map_err(io::Error::other)?;
    log::set_max_level(max);
    // The usual hook writes to stderr by itself, so a panicking handler could wait for a reader there for ever.
    panic::set_hook(Box::new(log_panic));
    Ok(Logger(queue))
}

impl Logger {
    /// Waits until everything logged so far is written, but not for a stderr that nobody reads.
    pub(crate) fn drain(&self) {
        stderr::wait_for(|timeout| self.0.drain(timeout));
    }
}

/// Where lines are written; `refused` is set when one cannot be.
fn stderr_sink(refused: &Arc<AtomicBool>) -> Box<dyn Log> {
    let config = ConfigBuilder::new()
        .set_time_format_rfc3339() // with the date, in UTC
        .set_thread_level(LevelFilter::Off) // it would name the writer thread
        .set_location_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Debug)
        .build();
    let env = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    match color(io::stderr().is_terminal(), env) {
        ColorChoice::Never => {
            let stderr = stderr::LineWriter::new(io::stderr(), Arc::clone(refused));
            WriteLogger::new(LevelFilter::Trace, config, stderr)
        }
        // It does not tell of errors, so what a terminal refuses is not counted; it seldom refuses for a time only.
        color => TermLogger::new(LevelFilter::Trace, config, TerminalMode::Stderr, color),
    }
}

/// Colours are for people: never into files and pipes, unless they are forced (<https://no-color.org>,
/// <https://bixense.com/clicolors>). simplelog's `Auto` does not ask whether stderr is a terminal.
fn color(terminal: bool, env: impl Fn(&str) -> Option<String>) -> ColorChoice {
    let set = |name| env(name).filter(|value| !value.is_empty());
    let able = terminal && set("TERM").is_some_and(|term| term != "dumb");
    if set("NO_COLOR").is_some() {
        ColorChoice::Never
    } else if able || set("CLICOLOR_FORCE").is_some_and(|force| force != "0") {
        ColorChoice::Always
    } else {
        ColorChoice::Never
    }
}

/// What `log` calls.
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
        // Foreign code runs here, so no lock is held. A panic in a `Display` costs its line, not the thread that logs.
        let text = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut line = escape::EscapedLine::new(MAX_TEXT);
            // Nor does a `Display` that reports an error: what it wrote up to then is the line.
            let _ = line.write_fmt(*record.args());
            line.finish()
        }));
        self.queue.push(LogLine {
            level: record.level(),
            target: record.target().to_owned(),
            text: text.unwrap_or_else(|_| "(formatting this line panicked)".to_owned()),
            since: Instant::now(),
            dropped: 0,
        });
    }

    fn flush(&self) {
        stderr::wait_for(|timeout| self.queue.drain(timeout));
    }
}

/// One record, ready to be written.
#[derive(Debug)]
struct LogLine {
    level: Level,
    target: String,
    text: String,
    since: Instant,
    /// How many lines were dropped just before this one.
    dropped: u64,
}

impl LogLine {
    fn lost(dropped: u64) -> Self {
        Self {
            level: Level::Warn,
            target: module_path!().to_owned(),
            text: format!("… {dropped} {} dropped", if dropped == 1 { "line" } else { "lines" }),
            since: Instant::now(),
            dropped: 0,
        }
    }

    fn size(&self) -> usize {
        self.target.len() + self.text.len()
    }

    fn write_to(&self, sink: &dyn Log) {
        let waited = self.since.elapsed();
        let late = if waited > LATE { format!("({} s ago) ", waited.as_secs()) } else { String::new() };
        let metadata = Metadata::builder().level(self.level).target(&self.target).build();
        // `log` offers no way from one record to a changed one. simplelog shows none of the fields left out.
        sink.log(
            &Record::builder()
                .metadata(metadata)
                .args(format_args!("{late}{text}", text = self.text))
                .build(),
        );
    }
}

/// The lines that wait for stderr.
#[derive(Debug, Default)]
struct LineQueue {
    waiting: Mutex<QueuedLines>,
    /// A line was pushed: for the writer.
    pushed: Condvar,
    /// Nothing is left to write: for `drain`.
    empty: Condvar,
}

#[derive(Debug, Default)]
struct QueuedLines {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// Dropped since the last line that found room.
    dropped: u64,
    /// The writer holds a line that is not written yet.
    writing: bool,
}

impl LineQueue {
    /// Appends a line, or counts it as dropped. NeverFormatted waits for the writer.
    fn push(&self, mut line: LogLine) {
        let mut waiting = self.lock();
        if waiting.lines.len() >= MAX_LINES || waiting.bytes + line.size() > MAX_BYTES {
            waiting.dropped += 1;
            return;
        }
        line.dropped = std::mem::take(&mut waiting.dropped);
        waiting.bytes += line.size();
        waiting.lines.push_back(line);
        drop(waiting);
        self.pushed.notify_one();
    }

    /// What is next for the writer: how many lines were dropped, and the line behind them, if there is one. Waits for it.
    fn pop(&self) -> (u64, Option<LogLine>) {
        let mut waiting = self.lock();
        waiting.writing = false;
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.bytes -= line.size();
                waiting.writing = true;
                return (line.dropped, Some(line));
            }
            // Nothing came after what was dropped.
            if waiting.dropped > 0 {
                waiting.writing = true;
                return (std::mem::take(&mut waiting.dropped), None);
            }
            self.empty.notify_all();
            waiting = self.pushed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The writer thread's whole life. `refused` is set when the sink could not write a line.
    fn write_to(&self, sink: &dyn Log, refused: &AtomicBool) {
        let taken = |line: &LogLine| {
            line.write_to(sink);
            !refused.swap(false, Ordering::Relaxed)
        };
        let mut lost = 0;
        loop {
            let (dropped, line) = self.pop();
            lost += dropped;
            if lost > 0 && taken(&LogLine::lost(lost)) {
                lost = 0;
            }
            // What a full disk refuses is told with the next line that it takes.
            if line.is_some_and(|line| !taken(&line)) {
                lost += 1;
            }
        }
    }

    /// Waits until everything is written; false if it takes longer.
    fn drain(&self, timeout: Duration) -> bool {
        let busy =
            |waiting: &mut QueuedLines| waiting.writing || waiting.dropped > 0 || !waiting.lines.is_empty();
        let waited = self.empty.wait_timeout_while(self.lock(), timeout, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Nothing panics under this lock, and if something ever did, the lines would still be lines.
    fn lock(&self) -> MutexGuard<'_, QueuedLines> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let payload = info.payload();
    let what = payload.downcast_ref::<&str>().copied();
    let what = what.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    match info.location() {
        Some(at) => log::error!("thread {name} panicked at {at}: {what}"),
        None => log::error!("thread {name} panicked: {what}"),
    }
    let backtrace = std::backtrace::Backtrace::capture(); // empty unless RUST_BACKTRACE asks for it
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
    use std::sync::mpsc;

    /// A stderr in memory. It takes a line when `gate` lets it.
    struct MemorySink {
        lines: Mutex<mpsc::Sender<String>>,
        gate: Mutex<mpsc::Receiver<()>>,
    }

    impl Log for MemorySink {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            let _ = self.gate.lock().expect("gate").recv();
            drop(self.lines.lock().expect("lines").send(record.args().to_string()));
        }

        fn flush(&self) {}
    }

    struct TestStderr {
        front: QueueLog,
        lines: mpsc::Receiver<String>,
        gate: Option<mpsc::Sender<()>>,
    }

    impl TestStderr {
        /// A logger whose stderr takes nothing until it is opened.
        fn stuck(filter: &str) -> Self {
            let (to_lines, lines) = mpsc::channel();
            let (gate, from_gate) = mpsc::channel();
            let sink = MemorySink { lines: Mutex::new(to_lines), gate: Mutex::new(from_gate) };
            let queue = Arc::new(LineQueue::default());
            let front =
                QueueLog { filter: LogFilter::parse(filter).expect(filter), queue: Arc::clone(&queue) };
            std::thread::spawn(move || queue.write_to(&sink, &AtomicBool::new(false)));
            Self { front, lines, gate: Some(gate) }
        }

        fn open(filter: &str) -> Self {
            let mut stderr = Self::stuck(filter);
            stderr.gate = None; // a gate without a keeper lets everything through
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
    fn one_record_is_one_line_whatever_is_in_it() {
        let stderr = TestStderr::open("info");
        let header = "x\r\n[INFO] forged\u{1b}[2J";
        stderr.log(format_args!("header {header}"));
        assert_eq!(stderr.next(), r"header x\r\n[INFO] forged\u{1b}[2J");
    }

    #[test]
    fn what_the_filter_does_not_want_is_not_even_formatted() {
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
    fn a_stderr_nobody_reads_stalls_nobody_and_what_overflows_is_counted() {
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
    fn dropped_lines_are_counted_even_if_nothing_is_logged_after_them() {
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
    fn large_lines_are_bounded_in_bytes_too() {
        let stderr = TestStderr::stuck("info");
        let large = "x".repeat(1 << 20);
        for _ in 0..MAX_LINES {
            stderr.log(format_args!("{large}"));
        }
        let waiting = stderr.front.queue.lock();
        assert!(waiting.bytes <= MAX_BYTES && waiting.dropped > 0, "{} bytes", waiting.bytes);
        let line = waiting.lines.front().expect("some fit");
        assert!(line.text.ends_with("bytes more)") && line.text.len() < MAX_TEXT + 64);
    }

    #[test]
    fn a_display_that_panics_costs_its_line_and_nothing_else() {
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
    fn colour_goes_to_terminals_unless_told_otherwise() {
        type Env = &'static [(&'static str, &'static str)];
        let cases: [(bool, Env, ColorChoice); 8] = [
            (true, &[("TERM", "xterm")], ColorChoice::Always),
            (true, &[], ColorChoice::Never),
            (true, &[("TERM", "dumb")], ColorChoice::Never),
            (true, &[("TERM", "xterm"), ("NO_COLOR", "1")], ColorChoice::Never),
            (true, &[("TERM", "xterm"), ("NO_COLOR", "")], ColorChoice::Always),
            (false, &[("TERM", "xterm")], ColorChoice::Never),
            (false, &[("CLICOLOR_FORCE", "1")], ColorChoice::Always),
            (false, &[("CLICOLOR_FORCE", "0")], ColorChoice::Never),
        ];
        for (terminal, env, expected) in cases {
            let lookup =
                |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(color(terminal, lookup), expected, "{terminal} {env:?}");
        }
    }
}
