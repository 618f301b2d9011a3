//! The real binary, and other programs that run beside a test.

use super::process_usage::{ProcessUsage, ThreadTimes};
use super::raw_peer::RawPeer;
use super::time::{PATIENCE, eventually, eventually_within, ms};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running program; it is killed and reaped when this is dropped, and what it said is shown when the test fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    addr: Option<SocketAddr>,
}

/// Lines as they come.
#[derive(Debug, Default)]
struct Lines {
    said: Mutex<(Vec<String>, bool)>,
    news: Condvar,
}

impl Lines {
    fn collect(source: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let collector = Arc::clone(&lines);
        let body = move || {
            let mut source = BufReader::new(source);
            let mut bytes = Vec::new();
            while source.read_until(b'\n', &mut bytes).is_ok_and(|bytes| bytes > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                collector.said.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
                collector.news.notify_all();
                bytes.clear();
            }
            collector.said.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            collector.news.notify_all();
        };
        std::thread::Builder::new().name("lines".into()).spawn(body).expect("a thread for the lines");
        lines
    }

    /// What `find` makes of all that was said, as soon as it makes something; `None` if time or text run out before.
    fn wait<T>(&self, timeout: Duration, mut find: impl FnMut(&[String], bool) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&said.0, said.1) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.1 || left.is_zero() {
                return None;
            }
            said = self.news.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn all(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

impl Process {
    /// `threadws` on a free port, ready to be connected to.
    #[track_caller]
    pub fn threadws(options: &[&str]) -> Self {
        Self::threadws_under(&[], options)
    }

    /// The same, started by a program that ends as it: `prlimit`, `env`, `strace -D`.
    #[track_caller]
    pub fn threadws_under(wrapper: &[&str], options: &[&str]) -> Self {
        Self::threadws_at("127.0.0.1:0", wrapper, options)
    }

    /// The same, on any address.
    #[track_caller]
    pub fn threadws_at(listen: &str, wrapper: &[&str], options: &[&str]) -> Self {
        Self::server(threadws_command(listen, wrapper, options))
    }

    /// A program that tells where it listens as `threadws` does, ready to be connected to.
    #[track_caller]
    pub fn server(mut command: Command) -> Self {
        // Large buffers and the stacks of ended threads go back to the system at once. What glibc keeps of a crowd for the
        // next one differs from run to run (one small piece of memory above them is enough), and would hide what the
        // library keeps.
        command.env("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536:glibc.pthread.stack_cache_size=0");
        Self::spawn(command).listening()
    }

    /// With the address that it tells, once it does.
    #[track_caller]
    pub fn listening(self) -> Self {
        let mut process = self;
        let addr = process.stdout.wait(PATIENCE, |lines, _| lines.iter().find_map(|line| address_in(line)));
        match addr {
            Some(addr) => process.addr = Some(addr),
            None => panic!("expected the line that tells the address, got {:?}", process.stdout()),
        }
        process
    }

    /// Any program.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        for name in ["THREADWS_LOG", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        Self::spawn_with_stdin(command)
    }

    /// Any program, with the standard input that the command was given.
    #[track_caller]
    pub fn spawn_with_stdin(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Lines::collect(child.stdout.take().expect("a pipe"));
        let stderr = Lines::collect(child.stderr.take().expect("a pipe"));
        Self { stdin: child.stdin.take(), child, stdout, stderr, addr: None }
    }

    /// Any program, with a pipe for its standard input.
    #[track_caller]
    pub fn with_pipe(mut command: Command) -> Self {
        for name in ["THREADWS_LOG", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped());
        Self::spawn_with_stdin(command)
    }

    /// Writes to the pipe.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("a pipe that is open");
        stdin.write_all(bytes.as_ref()).and_then(|()| stdin.flush()).expect("the program reads");
    }

    /// Closes the pipe.
    pub fn end_input(&mut self) {
        drop(self.stdin.take());
    }

    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("a server")
    }

    pub fn url(&self) -> String {
        format!("ws://{}/", self.addr())
    }

    /// The first line of stderr with all these parts in this order.
    #[track_caller]
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        self.wait_for_lines(parts, 1).remove(0)
    }

    /// The first `count` such lines.
    #[track_caller]
    pub fn wait_for_lines(&self, parts: &[&str], count: usize) -> Vec<String> {
        let found = self.stderr.wait(PATIENCE, |lines, _| {
            let found: Vec<_> =
                lines.iter().filter(|line| has_parts(line, parts)).take(count).cloned().collect();
            (found.len() == count).then_some(found)
        });
        found.unwrap_or_else(|| panic!("never logged {count} times: {parts:?}"))
    }

    /// The next thing said on stdout that `find` makes something of.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str) -> String {
        let found =
            self.stdout.wait(PATIENCE, |lines, _| lines.iter().find(|line| line.contains(text)).cloned());
        found.unwrap_or_else(|| panic!("never said on stdout: {text:?}"))
    }

    /// All of stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// All of stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.all()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it takes of the machine now.
    #[track_caller]
    pub fn usage(&self) -> ProcessUsage {
        ProcessUsage::of(self.pid())
    }

    /// What its threads have done so far.
    #[track_caller]
    pub fn thread_times(&self) -> ThreadTimes {
        ThreadTimes::of(self.pid())
    }

    /// Waits until threads and descriptors are no more than they were: at most so long, and for as long as threads wait for
    /// a next client. Then the memory must be what it was, but for a tenth and what the C library keeps after so many
    /// clients at once.
    #[track_caller]
    pub fn expect_settled(&self, before: &ProcessUsage, timeout: Duration, clients: usize) {
        // As in src/server/pool.rs.
        let parked = Duration::from_secs(5);
        let what = format!("threads and descriptors as before: {before:?}");
        eventually_within(timeout + parked, &what, || {
            let now = self.usage();
            now.threads <= before.threads && now.descriptors <= before.descriptors
        });
        let now = self.usage();
        let most = before.memory / 10 * 11 + kept_by_the_c_library(clients);
        assert!(now.memory <= most, "memory was {}, and stays at {}", before.memory, now.memory);
    }

    /// How each client ended that the log says has come, with `threadws::connection` at debug. Waits until all have, of
    /// whom there must be so many at least; each must have ended once.
    #[track_caller]
    pub fn ends(&self, least: usize) -> Vec<String> {
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        eventually("all who came have ended", || {
            let log = self.log();
            came = clients_in(&log, " opened from ");
            gone = clients_in(&log, " closed after ");
            came.len() >= least && gone.len() >= came.len()
        });
        let ids = |clients: &[(u64, String)]| {
            let mut ids: Vec<_> = clients.iter().map(|(id, _)| *id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(&came), ids(&gone), "not everybody ended once: {gone:?}");
        gone.into_iter().map(|(_, end)| end).collect()
    }

    /// The same: so many ended in this way, and no more.
    #[track_caller]
    pub fn expect_ends(&self, count: usize, how: &str) {
        let ends = self.ends(count);
        let found = ends.iter().filter(|end| end.contains(how)).count();
        assert_eq!(found, count, "{how:?} in {ends:#?}");
    }

    /// The same of a reset, which is a broken pipe where a write met it first.
    #[track_caller]
    pub fn expect_resets(&self, count: usize) {
        let ends = self.ends(count);
        let is_reset = |end: &&String| end.contains("connection reset") || end.contains("broken pipe");
        assert_eq!(ends.iter().filter(is_reset).count(), count, "resets in {ends:#?}");
    }

    /// A number of `/metrics`, of all labels together.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let mut peer = RawPeer::connect(self.addr());
        peer.write(format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr()));
        let text = peer.answer().text();
        let samples = text.lines().filter_map(|line| {
            let (sample, value) = line.split_once(' ')?;
            let labels = sample.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then(|| value.parse::<u64>().expect("a number"))
        });
        samples.sum()
    }

    /// Nothing in the log that must never be there.
    #[track_caller]
    pub fn expect_no_panic(&self) {
        let log = self.log();
        let is_bad = |line: &&String| {
            line.split_whitespace().nth(1) == Some("[ERROR]") || line.contains("panicked at")
        };
        let bad = log.iter().find(is_bad);
        assert!(bad.is_none(), "{}", bad.map_or("", |line| line));
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Whether nobody holds the program's outputs any more, at most so long from now.
    pub fn ended(&self, timeout: Duration) -> bool {
        [&self.stdout, &self.stderr]
            .iter()
            .all(|lines| lines.wait(timeout, |_, ended| ended.then_some(())).is_some())
    }

    /// Waits for the end, at most so long.
    #[track_caller]
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        assert!(self.ended(timeout), "not ended after {timeout:?}");
        self.child.wait().expect("a child")
    }

    /// Waits for an end with status 0.
    #[track_caller]
    pub fn wait_for_success(&mut self, timeout: Duration) {
        let status = self.wait(timeout);
        assert!(status.success(), "ended with {status}");
    }

    /// SIGTERM, and a clean end, also in what it says on its way.
    #[track_caller]
    pub fn stop(mut self) {
        self.expect_no_panic();
        self.signal(Signal::TERM);
        let status = self.wait(PATIENCE + ms(2000));
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}");
        self.expect_no_panic();
    }
}

/// What starts `threadws` below other programs.
pub fn threadws_command(listen: &str, wrapper: &[&str], options: &[&str]) -> Command {
    let words = [wrapper, &[env!("CARGO_BIN_EXE_threadws"), "--listen", listen], options].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// The whole of the line has to be as it is promised.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (addr, _) = line.strip_prefix("threadws listening on http://")?.split_once('/')?;
    (line == format!("threadws listening on http://{addr}/ (ws://{addr}/)")).then(|| addr.parse().ok())?
}

/// The lines about clients with this in them: the client, and what follows.
fn clients_in(log: &[String], what: &str) -> Vec<(u64, String)> {
    let client = |line: &String| {
        let (before, after) = line.split_once(what)?;
        let (_, id) = before.rsplit_once("client ")?;
        Some((id.parse().ok()?, after.to_owned()))
    };
    log.iter().filter_map(client).collect()
}

/// What glibc does not give back, as measured: of the 160 stacks of 256 KiB that fit into the 40 MiB which it keeps, what
/// was touched; what is left over of each arena, of which there are at most 8 for a processor; and the holes that the
/// crowd's small allocations leave.
fn kept_by_the_c_library(clients: usize) -> usize {
    const STACK: usize = 24 << 10;
    const ARENA: usize = 384 << 10;
    const HOLES: usize = 2 << 10;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    clients.min(160) * STACK + clients.min(8 * processors) * ARENA + clients * HOLES
}

fn has_parts(line: &str, parts: &[&str]) -> bool {
    let mut rest = line;
    parts.iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            for (name, lines) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
                // After its death the rest of what it said is still on the way.
                lines.wait(ms(1000), |_, ended| ended.then_some(()));
                let lines = lines.all();
                let left_out = lines.len().saturating_sub(60);
                eprintln!(
                    "--- {name} of process {}, last lines\n{}",
                    self.child.id(),
                    lines[left_out..].join("\n")
                );
            }
        }
    }
}
