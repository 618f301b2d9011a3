//! A graceful stop: at SIGTERM or Ctrl-C the server closes every connection with 1001, and the program ends.
//!
//! [`Server::spawn`] returns a handle. The main thread waits for a signal and calls [`ServerHandle::shutdown`], which accepts
//! no more clients and waits until all handlers have returned, here for at most 10 seconds. The time that systemd or
//! Kubernetes waits before it kills the program has to be longer: 90 and 30 seconds are their defaults.
//!
//! Run it with `cargo run --example shutdown [ADDRESS]`, connect with `cargo run -- connect ws://127.0.0.1:8005/`, and press
//! Ctrl-C here.
//!
//! You see: the client ends with 1001, going away. Here "1 connection closed" is printed, and the exit status is 0. It is 1
//! if a handler has not returned in time. A second Ctrl-C ends the program at once.
//!
//! [`ServerHandle::shutdown`]: threadws::ServerHandle::shutdown

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, iterator::Signals};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use threadws::{BoxError, Server};

fn main() -> Result<ExitCode, BoxError> {
    // Prints the failures of handlers, which the library logs.
    simplelog::SimpleLogger::init(simplelog::LevelFilter::Warn, simplelog::Config::default())?;
    // Before the server runs, so that no signal ends the program without a shutdown.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let is_stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&is_stopping))?;
    }
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let server = Server::bind(address)?;
    println!("listening on ws://{}/", server.local_addr()?);
    let handle = server.spawn(|client| {
        while let Some(message) = client.recv()? {
            client.send(message)?; // returns an error after the shutdown has sent the Close
        }
        Ok(())
    })?;

    signals.forever().next();
    is_stopping.store(true, Ordering::Relaxed); // the next signal ends the program
    let report = handle.shutdown(Duration::from_secs(10));
    println!("{report}");
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
