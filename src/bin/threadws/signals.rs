//! Handles SIGINT and SIGTERM: the first signal stops the process in good order, the second one ends it at once. Handles
//! SIGXFSZ, so that a log file that reaches its size limit does not end the process. SIGHUP reads the certificate again.

#[cfg(feature = "tls")]
use signal_hook::consts::SIGHUP;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Exit status after a second signal: 128 + SIGINT, as shells report a process that Ctrl-C ended.
pub(crate) const INTERRUPTED: i32 = 130;

/// Makes a write beyond the size limit of a file (`RLIMIT_FSIZE`) fail as on a full disk. Without a handler, SIGXFSZ
/// would end the process before `write` returns the error.
pub(crate) fn handle_sigxfsz() -> io::Result<()> {
    // The flag is never read. It is there because signal-hook has no safe way to ignore a signal.
    flag::register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// Calls `reload` in a thread of its own after each SIGHUP. Of several signals at once, it may be called for one only.
#[cfg(feature = "tls")]
pub(crate) fn at_sighup(reload: impl Fn() + Send + 'static) -> io::Result<()> {
    let (wake, mut sleep) = UnixStream::pair()?;
    pipe::register(SIGHUP, wake)?;
    std::thread::Builder::new().name("threadws-reload".to_owned()).spawn(move || {
        while sleep.read(&mut [0; 64]).is_ok_and(|count| count > 0) {
            reload();
        }
    })?;
    Ok(())
}

/// The first SIGINT or SIGTERM, which can be waited for.
#[derive(Debug)]
pub(crate) struct StopSignal(UnixStream);

impl StopSignal {
    /// Installs the handlers of both signals.
    pub(crate) fn register() -> io::Result<Self> {
        let (wake, sleep) = UnixStream::pair()?;
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters. A signal between two of these lines is noticed, too. The first signal finds the flag
            // unset and sets it; the second one finds it set and ends the process.
            pipe::register(signal, wake.try_clone()?)?;
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stopping))?;
            flag::register(signal, Arc::clone(&stopping))?;
        }
        Ok(Self(sleep))
    }

    /// Waits for the first signal.
    pub(crate) fn wait(mut self) -> io::Result<()> {
        // std retries an interrupted read. The byte that the handler wrote is then already there.
        self.0.read_exact(&mut [0])
    }

    /// Waits for the first signal, for `timeout` at most, which must not be zero. Returns false if there was none.
    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> io::Result<bool> {
        self.0.set_read_timeout(Some(timeout))?;
        match self.0.read_exact(&mut [0]) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
