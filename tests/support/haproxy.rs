//! A real HAProxy in front of a server.

use super::process::Process;
use super::programs::target_tmp;
use super::time::PATIENCE;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// HAProxy on a free port, in the foreground, with its own configuration. It ends when this is dropped.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    addr: SocketAddr,
    file: PathBuf,
}

impl Haproxy {
    /// Passes everything on to `backend`. `settings` are further lines of the section of the backend.
    #[track_caller]
    pub fn before(haproxy: &Path, backend: SocketAddr, settings: &str) -> Self {
        Self::start(haproxy, "http", settings, &format!("{backend}"))
    }

    /// The same in TCP mode, which does not parse what it passes on. `options` follow the address of the server.
    #[track_caller]
    pub fn tcp_before(haproxy: &Path, backend: SocketAddr, options: &str) -> Self {
        Self::start(haproxy, "tcp", "", &format!("{backend} {options}"))
    }

    #[track_caller]
    fn start(haproxy: &Path, mode: &str, settings: &str, server: &str) -> Self {
        Self::with(
            haproxy,
            &format!(
                "defaults\n    mode {mode}\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n    \
                 timeout tunnel 1h\nfrontend outside\n    bind fd@0\n    default_backend inside\nbackend inside\n\
                 {settings}\n    server one {server}\n"
            ),
        )
    }

    /// Starts HAProxy with this configuration, which has to contain `bind fd@0`.
    #[track_caller]
    pub fn with(haproxy: &Path, config: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = target_tmp().join(format!("haproxy-{}-{count}.cfg", std::process::id()));
        // As nginx, it inherits a listener as its standard input. So the port is free for certain, and there is nothing
        // to wait for.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        std::fs::write(&file, config).expect("a configuration");
        let mut command = Command::new(haproxy);
        command.arg("-db").arg("-f").arg(&file).stdin(OwnedFd::from(listener));
        Self { process: Process::spawn_with_stdin(command), addr, file }
    }

    /// Returns the address where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.ended(PATIENCE);
        drop(std::fs::remove_file(&self.file));
    }
}
