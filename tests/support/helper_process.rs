//! A server of the library, with its own settings, in a process of its own: the test binary, started once more with a
//! role. A module that needs it has one function `run_as_helper_process`, marked as a test.

use super::process::Process;
use super::test_server::spawn;
use log::{Level, LevelFilter, Log, Metadata, Record};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use threadws::{BoxError, Connection, Server, ServerHandle};

const PART: &str = "THREADWS_TEST_PART";

/// Starts this test binary as a server with this role, as the argument of the commands in `wrapper`. `module` is the
/// caller's `module_path!()`, and selects the `run_as_helper_process` of that module.
#[track_caller]
pub fn start(module: &str, part: &str, wrapper: &[&str]) -> Process {
    let (_suite, module) = module.split_once("::").expect("a module of a suite");
    let test = format!("{module}::run_as_helper_process");
    let this = std::env::current_exe().expect("a test binary");
    let words = wrapper.iter().map(std::ffi::OsStr::new).chain([this.as_os_str()]);
    let words: Vec<_> = words.collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["--exact", &test, "--nocapture"]).env(PART, part);
    Process::server(command)
}

/// Returns the role of this process, or `None` in the run of the test harness itself.
pub fn role() -> Option<String> {
    std::env::var(PART).ok()
}

/// Serves until SIGTERM or SIGINT, shuts down within `timeout`, prints the report and exits, as the binary does.
pub fn serve(
    server: Server,
    timeout: Duration,
    handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
) -> ! {
    run(timeout, || spawn(server, handler).expect("the settings work"))
}

/// The same for a server that `spawn` starts.
pub fn run(timeout: Duration, spawn: impl FnOnce() -> ServerHandle) -> ! {
    let (wake, mut sleep) = UnixStream::pair().expect("a socket pair");
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stopping)).expect("a signal handler");
        flag::register(signal, Arc::clone(&stopping)).expect("a signal handler");
        pipe::register(signal, wake.try_clone().expect("a descriptor")).expect("a signal handler");
    }
    let handle = spawn();
    let address = handle.local_addr().expect("it listens");
    // No other code in this process sets a logger.
    drop(log::set_logger(&Stderr).map(|()| log::set_max_level(LevelFilter::Debug)));
    // The harness has begun a line of its own.
    println!("\nthreadws listening on http://{address}/ (ws://{address}/)");
    std::io::stdout().flush().expect("stdout");
    sleep.read_exact(&mut [0]).expect("a signal");
    let report = handle.shutdown(timeout);
    eprintln!("report: {report}");
    std::process::exit(0)
}

/// Logs as the binary does with `--log warn,threadws::connection=debug`.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || metadata.target() == "threadws::connection"
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("now [{}] {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}
