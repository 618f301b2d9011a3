//! The command `threadws`: a WebSocket server, a client for terminals and scripts, and a load generator for echo servers.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod connect;
mod escape;
mod http;
mod log_filter;
mod logger;
mod preview;
mod serve;
mod signals;
mod stderr;
mod stdio;
mod systemd;
mod terminal;
mod tls;

use args::Command;
use log_filter::LogFilter;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signals::StopSignal;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use stdio::Blocking;

/// Exit status: the command failed.
const FAILED: u8 = 1;
/// Exit status: the command line is wrong.
const USAGE: u8 = 2;
/// Exit status: `connect --expect` did not receive the expected text.
const UNMET: u8 = 3;

/// Why a command ended without success, in one line of text.
#[derive(Debug)]
enum CommandError {
    /// An option has a wrong value that the parser could not find.
    Usage(String),
    Failed(String),
    Unmet(String),
}

fn main() -> ExitCode {
    match args::parse(std::env::args_os().skip(1), std::env::var_os("THREADWS_LOG")) {
        Ok(Command::Print(text)) => match print(text) {
            Ok(()) => ExitCode::SUCCESS,
            // The reader has seen enough of the help.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => fail(FAILED, &format!("cannot write to stdout: {error}")),
        },
        Ok(Command::Serve(options)) => {
            // Called here because it changes the environment, so that there must be only one thread.
            let passed = systemd::listener();
            run(options.log.clone(), |stop| {
                raise_descriptor_limit();
                serve::serve(&options, passed.map_err(CommandError::Failed)?, stop)
            })
        }
        Ok(Command::Connect(options)) => run(options.log.clone(), |stop| connect::connect(&options, stop)),
        Ok(Command::Bench(options)) => run(options.log.clone(), |stop| {
            raise_descriptor_limit();
            bench::bench(&options, stop)
        }),
        Err(error) => fail_with_hint(&error),
    }
}

/// Runs a command with signal handlers and a logger.
fn run(log: LogFilter, command: impl FnOnce(StopSignal) -> Result<(), CommandError>) -> ExitCode {
    // The signal handlers come first, so that a SIGTERM during the start ends the process with exit status 0, too.
    let registered = StopSignal::register().and_then(|stop| signals::handle_sigxfsz().map(|()| stop));
    let stop = match registered {
        Ok(stop) => stop,
        Err(error) => return fail(FAILED, &format!("cannot handle signals: {error}")),
    };
    if let Err(error) = logger::start(log) {
        return fail(FAILED, &format!("cannot start the logger: {error}"));
    }
    let result = command(stop);
    log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Usage(error)) => fail_with_hint(&error),
        Err(CommandError::Failed(error)) => fail(FAILED, &error),
        Err(CommandError::Unmet(error)) => fail(UNMET, &error),
    }
}

/// Raises the soft limit of open files to the hard limit, because each client needs a descriptor. The usual soft limit of
/// 1024 exists for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!("cannot raise the limit on open files: {error}");
        }
    }
}

/// Writes text to stdout.
fn print(text: &str) -> io::Result<()> {
    Blocking(io::stdout()).write_all(text.as_bytes())
}

/// Reports a wrong command line, and the command that prints the help.
fn fail_with_hint(error: &str) -> ExitCode {
    let command = match std::env::args_os().nth(1) {
        Some(word) if word == "connect" => "threadws connect",
        Some(word) if word == "bench" => "threadws bench",
        _ => "threadws",
    };
    fail(USAGE, &format!("{error}\ntry '{command} --help'"))
}

/// Writes the reason for the exit to stderr, at every log level. A closed stderr is ignored (`eprintln!` would panic). If
/// nothing reads stderr, the exit is delayed for a moment only.
fn fail(code: u8, text: &str) -> ExitCode {
    let line = format!("threadws: {text}\n");
    let (done, written) = mpsc::channel();
    let write = move || {
        drop(Blocking(io::stderr()).write_all(line.as_bytes()));
        // Fails if the receiver has stopped waiting.
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        stderr::wait_for(|timeout| written.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout));
    }
    ExitCode::from(code)
}
