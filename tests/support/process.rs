//! The real binary, and other programs that run beside a test.

use super::process_usage::{ProcessUsage, ThreadTimes};
use super::programs::{built, certificate};
use super::raw_peer::RawPeer;
use super::test_server::{before, has_events, is_over_tls};
use super::time::{PATIENCE, eventually, eventually_within, ms};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use threadws::Addr;

/// A running program. It is killed and reaped when this is dropped, and its output is shown when the test fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    addr: Option<SocketAddr>,
}

/// The lines of an output, as they come.
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

    /// Returns the first result of `find`, which is called with all lines so far whenever there are more. Returns
    /// `None` at the timeout or at the end of the output.
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
    /// Starts `threadws` on a free port, and returns when it listens.
    #[track_caller]
    pub fn threadws(options: &[&str]) -> Self {
        Self::threadws_under(&[], options)
    }

    /// The same. With `THREADWS_TEST_TLS=1` it has TLS, and the relay is before it.
    #[track_caller]
    pub fn threadws_over_tls_if_asked(options: &[&str]) -> Self {
        if !is_over_tls() {
            return Self::threadws(options);
        }
        let [certificate, key] = ["server.pem", "server.key"].map(certificate);
        let mut process = Self::threadws(&[options, &["--cert", &certificate, "--key", &key]].concat());
        process.addr = process.addr.map(|addr| before(Addr::Tcp(addr)));
        process
    }

    /// The same, started by a program that replaces itself with it: `prlimit`, `env`, `strace -D`.
    #[track_caller]
    pub fn threadws_under(wrapper: &[&str], options: &[&str]) -> Self {
        Self::threadws_at("127.0.0.1:0", wrapper, options)
    }

    /// The same, on any address.
    #[track_caller]
    pub fn threadws_at(listen: &str, wrapper: &[&str], options: &[&str]) -> Self {
        Self::server(threadws_command(listen, wrapper, options))
    }

    /// Starts a program that prints its address as `threadws` does, and returns when it listens.
    #[track_caller]
    pub fn server(mut command: Command) -> Self {
        // Large buffers and the stacks of ended threads go back to the system at once. Otherwise the memory that glibc
        // keeps for later use differs from run to run (one small block above it is enough), and hides what the library
        // keeps.
        command.env("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536:glibc.pthread.stack_cache_size=0");
        Self::spawn(command).listening()
    }

    /// Waits until it prints its address.
    #[track_caller]
    pub fn listening(self) -> Self {
        let mut process = self;
        let addr = process.stdout.wait(PATIENCE, |lines, _| lines.iter().find_map(|line| address_in(line)));
        match addr {
            Some(addr) => process.addr = Some(addr),
            None => panic!("expected the line with the address, got {:?}", process.stdout()),
        }
        process
    }

    /// Starts any program.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        for name in ["THREADWS_LOG", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        Self::spawn_with_stdin(command)
    }

    /// Starts any program, with the standard input that the command was given.
    #[track_caller]
    pub fn spawn_with_stdin(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Lines::collect(child.stdout.take().expect("a pipe"));
        let stderr = Lines::collect(child.stderr.take().expect("a pipe"));
        Self { stdin: child.stdin.take(), child, stdout, stderr, addr: None }
    }

    /// Starts any program, with a pipe as its standard input.
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

    /// Returns the address where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("a server")
    }

    pub fn url(&self) -> String {
        format!("ws://{}/", self.addr())
    }

    /// Waits for the first line of stderr that has all these parts in this order.
    #[track_caller]
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        self.wait_for_lines(parts, 1).remove(0)
    }

    /// Waits for the first `count` such lines.
    #[track_caller]
    pub fn wait_for_lines(&self, parts: &[&str], count: usize) -> Vec<String> {
        let found = self.stderr.wait(PATIENCE, |lines, _| {
            let found: Vec<_> =
                lines.iter().filter(|line| has_parts(line, parts)).take(count).cloned().collect();
            (found.len() == count).then_some(found)
        });
        found.unwrap_or_else(|| panic!("never logged {count} times: {parts:?}"))
    }

    /// Waits for a line of stdout that contains this text.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str) -> String {
        let found =
            self.stdout.wait(PATIENCE, |lines, _| lines.iter().find(|line| line.contains(text)).cloned());
        found.unwrap_or_else(|| panic!("never said on stdout: {text:?}"))
    }

    /// Returns all lines of stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// Returns all lines of stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.all()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the memory, threads, descriptors and processor time that it uses now.
    #[track_caller]
    pub fn usage(&self) -> ProcessUsage {
        ProcessUsage::of(self.pid())
    }

    /// Returns the processor time of each of its threads so far.
    #[track_caller]
    pub fn thread_times(&self) -> ThreadTimes {
        ThreadTimes::of(self.pid())
    }

    /// Waits until there are no more threads and descriptors than before: at most `timeout`, and the time for which
    /// idle threads wait for another client. Then the memory must be as before, except for a tenth of it and for what
    /// the C library keeps after this number of clients at once.
    #[track_caller]
    pub fn expect_settled(&self, before: &ProcessUsage, timeout: Duration, clients: usize) {
        // Twice the IDLE_TIMEOUT of src/server/thread_pool.rs.
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

    /// Returns how each client ended that was logged as opened, with `threadws::connection` at debug. Waits until at
    /// least `least` clients were opened and all have ended. Each must have ended once.
    #[track_caller]
    pub fn ends(&self, least: usize) -> Vec<String> {
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        eventually("all clients have ended", || {
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
        assert_eq!(ids(&came), ids(&gone), "not every client ended once: {gone:?}");
        gone.into_iter().map(|(_, end)| end).collect()
    }

    /// Checks that this number of clients ended in this way.
    #[track_caller]
    pub fn expect_ends(&self, count: usize, how: &str) {
        let ends = self.ends(count);
        let found = ends.iter().filter(|end| end.contains(how)).count();
        assert_eq!(found, count, "{how:?} in {ends:#?}");
    }

    /// The same for resets, which are reported as a broken pipe if a write failed first.
    #[track_caller]
    pub fn expect_resets(&self, count: usize) {
        let ends = self.ends(count);
        let is_reset = |end: &&String| end.contains("connection reset") || end.contains("broken pipe");
        assert_eq!(ends.iter().filter(is_reset).count(), count, "resets in {ends:#?}");
    }

    /// Returns a number of `/metrics`, summed over all labels.
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

    /// Checks that the log has no error and no panic.
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

    /// Returns whether the program's outputs are closed within this time.
    pub fn ended(&self, timeout: Duration) -> bool {
        [&self.stdout, &self.stderr]
            .iter()
            .all(|lines| lines.wait(timeout, |_, ended| ended.then_some(())).is_some())
    }

    /// Waits for its end, at most for this time.
    #[track_caller]
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        assert!(self.ended(timeout), "not ended after {timeout:?}");
        self.child.wait().expect("a child")
    }

    /// Waits until it ends with status 0.
    #[track_caller]
    pub fn wait_for_success(&mut self, timeout: Duration) {
        let status = self.wait(timeout);
        assert!(status.success(), "ended with {status}");
    }

    /// Sends SIGTERM, and expects an end with status 0 and without errors in the log.
    #[track_caller]
    pub fn stop(mut self) {
        self.expect_no_panic();
        self.signal(Signal::TERM);
        let status = self.wait(PATIENCE + ms(2000));
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}");
        self.expect_no_panic();
    }
}

/// Returns the command that starts `threadws` as the argument of other programs. It has `--events` if the tests run so.
pub fn threadws_command(listen: &str, wrapper: &[&str], options: &[&str]) -> Command {
    let threadws = built("threadws");
    let threadws = threadws.to_str().expect("a path in UTF-8");
    let events: &[&str] = if has_events() && !options.contains(&"--events") { &["--events"] } else { &[] };
    let words = [wrapper, &[threadws, "--listen", listen], events, options].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// The whole line has to have the promised form.
fn address_in(line: &str) -> Option<SocketAddr> {
    let rest = line.strip_prefix("threadws listening on http")?;
    let (scheme_end, addr) = rest.split_once("://")?;
    let (addr, rest) = addr.split_once('/')?;
    (rest == format!(" (ws{scheme_end}://{addr}/)")).then(|| addr.parse().ok())?
}

/// Returns the lines that contain this text after the id of a client: the id, and the rest of the line.
fn clients_in(log: &[String], what: &str) -> Vec<(u64, String)> {
    let client = |line: &String| {
        let (before, after) = line.split_once(what)?;
        let (_, id) = before.rsplit_once("client ")?;
        Some((id.parse().ok()?, after.to_owned()))
    };
    log.iter().filter_map(client).collect()
}

/// The memory that glibc does not return, as measured. It keeps the touched part of the 160 stacks of 256 KiB that fit
/// into its 40 MiB, the rest of each arena (at most 8 for a processor), and the gaps between the small allocations of
/// the clients.
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
                // The rest of its output may arrive after its death.
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
