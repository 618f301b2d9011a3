//! `threadws`: a WebSocket server on plain threads, to try, to test against and to run; a client for terminals and
//! scripts; and a load for echo servers.

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
mod systemd;

use args::Command;
use log_filter::LogFilter;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signals::StopSignal;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};

/// It could not run.
const FAILURE: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// What `connect --expect` waited for did not come.
const UNMET: u8 = 3;

/// Why it could not do what it was told to, in one line.
#[derive(Debug)]
enum CommandError {
    /// An option's value that looked well and is not.
    Usage(String),
    Failed(String),
    Unmet(String),
}

fn main() -> ExitCode {
    match args::parse(std::env::args_os().skip(1), std::env::var_os("THREADWS_LOG")) {
        Ok(Command::Help) => print(args::serve::HELP),
        Ok(Command::Version) => print(args::VERSION),
        Ok(Command::Serve(options)) => {
            // While there is one thread.
            let handed = systemd::listener();
            run(options.log.clone(), |stop| {
                raise_descriptor_limit();
                serve::serve(&options, handed.map_err(CommandError::Failed)?, stop)
            })
        }
        Ok(Command::ConnectHelp) => print(args::connect::HELP),
        Ok(Command::Connect(options)) => run(options.log.clone(), |stop| connect::connect(&options, stop)),
        Ok(Command::BenchHelp) => print(args::bench::HELP),
        Ok(Command::Bench(options)) => run(options.log.clone(), |stop| {
            raise_descriptor_limit();
            bench::bench(&options, stop)
        }),
        Err(error) => misunderstood(&error),
    }
}

fn run(log: LogFilter, body: impl FnOnce(StopSignal) -> Result<(), CommandError>) -> ExitCode {
    // The signals first: whoever stops the process while it starts is to see exit code 0 as well.
    let registered = StopSignal::register().and_then(|stop| signals::outlive_file_limits().map(|()| stop));
    let stop = match registered {
        Ok(stop) => stop,
        Err(error) => return fail(FAILURE, &format!("cannot handle signals: {error}")),
    };
    let logger = match logger::start(log) {
        Ok(logger) => logger,
        Err(error) => return fail(FAILURE, &format!("cannot start the logger: {error}")),
    };
    let done = body(stop);
    logger.drain();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Usage(error)) => misunderstood(&error),
        Err(CommandError::Failed(error)) => fail(FAILURE, &error),
        Err(CommandError::Unmet(error)) => fail(UNMET, &error),
    }
}

/// A client costs one descriptor, and the usual soft limit of 1024 is made for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!("cannot raise the limit of open files: {error}");
        }
    }
}

/// Data that was asked for. Whoever has read enough of it may close the pipe.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(FAILURE, &format!("cannot write to stdout: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

fn misunderstood(error: &str) -> ExitCode {
    let command = match std::env::args_os().nth(1) {
        Some(word) if word == "connect" => "threadws connect",
        Some(word) if word == "bench" => "threadws bench",
        _ => "threadws",
    };
    fail(USAGE, &format!("{error}\ntry '{command} --help'"))
}

/// Says why the process ends, whatever the log level is. A stderr that is closed changes nothing, where `eprintln!` would
/// panic, and one that is never read holds up the end for a moment only.
fn fail(code: u8, text: &str) -> ExitCode {
    let line = format!("threadws: {text}\n");
    let (done, written) = mpsc::channel();
    let write = move || {
        drop(io::stderr().write_all(line.as_bytes()));
        // Nobody waits any more if it took too long.
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        stderr::wait_for(|timeout| written.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout));
    }
    ExitCode::from(code)
}
