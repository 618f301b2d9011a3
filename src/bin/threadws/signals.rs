//! SIGINT and SIGTERM: the first one asks the process to stop, the second one ends it on the spot. SIGXFSZ is taken, so
//! that a file which may grow no further ends nothing.

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// As shells report a process ended by Ctrl-C: 128 and SIGINT.
const CUT_SHORT: i32 = 130;

/// Makes a write beyond the largest size of a file (`RLIMIT_FSIZE`) an error like that of a full disk: unhandled, the
/// signal that goes before the error would end the process. Programs that are started begin without the handler.
pub(crate) fn outlive_file_limits() -> io::Result<()> {
    // Nobody asks the flag: there is no safe way to ignore a signal, and the error tells all there is.
    flag::register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// A wait for the signal that ends the process in good order.
#[derive(Debug)]
pub(crate) struct StopSignal(UnixStream);

impl StopSignal {
    /// Takes over both signals.
    pub(crate) fn register() -> io::Result<Self> {
        let (wake, sleep) = UnixStream::pair()?;
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: one that comes between these lines is heard as well, and the first one finds the flag unset,
            // and sets it for the second one.
            pipe::register(signal, wake.try_clone()?)?;
            flag::register_conditional_shutdown(signal, CUT_SHORT, Arc::clone(&stopping))?;
            flag::register(signal, Arc::clone(&stopping))?;
        }
        Ok(Self(sleep))
    }

    /// Waits for the first signal.
    pub(crate) fn wait(mut self) -> io::Result<()> {
        // Retried by std when a signal interrupts it: the handler's byte is then already there.
        self.0.read_exact(&mut [0])
    }

    /// Waits for the first signal, at most so long, which is not zero. Whether it has come.
    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> io::Result<bool> {
        self.0.set_read_timeout(Some(timeout))?;
        match self.0.read_exact(&mut [0]) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
