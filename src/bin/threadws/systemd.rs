//! Takes the listening socket from the service manager, and notifies it of the server's state. Without the feature
//! `systemd`, neither is done.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often the status is sent, unless the watchdog needs it more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Takes the socket that the service manager passed (`sd_listen_fds(3)`), if there is one.
///
/// Removes variables from the environment, so it must be called before a second thread is started.
///
/// # Errors
///
/// One line that says why the socket cannot be used.
pub(crate) fn listener() -> Result<Option<OwnedFd>, String> {
    // The variables may have been inherited from a parent process that the sockets are for.
    let is_ours = number("LISTEN_PID") == Some(u64::from(std::process::id()));
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        _ if !is_ours => Ok(None),
        Some(1) => take(),
        Some(sockets) => Err(format!("the service manager passed {sockets} sockets, expected 1")),
    }
}

#[cfg(feature = "systemd")]
fn take() -> Result<Option<OwnedFd>, String> {
    let bad = |error: io::Error| format!("cannot use the socket from the service manager: {error}");
    let mut passed = listenfd::ListenFd::from_env();
    let listener: Option<OwnedFd> = match passed.take_unix_listener(0) {
        Ok(listener) => listener.map(Into::into),
        Err(_) => passed.take_tcp_listener(0).map_err(bad)?.map(Into::into),
    };
    // Apple's systems have no systemd, and do not answer this question.
    #[cfg(not(target_vendor = "apple"))]
    if let Some(listener) = &listener {
        let listens = rustix::net::sockopt::socket_acceptconn(listener).map_err(|error| bad(error.into()))?;
        if !listens {
            return Err("the socket from the service manager is not listening: is Accept=yes set?".to_owned());
        }
    }
    Ok(listener)
}

#[cfg(not(feature = "systemd"))]
fn take() -> Result<Option<OwnedFd>, String> {
    Err("the service manager passed a socket, but this binary was built without the feature systemd"
        .to_owned())
}

/// The service manager that waits for notifications (`sd_notify(3)`).
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Returns `None` if no service manager waits for notifications.
    pub(crate) fn from_env() -> Option<Self> {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|_| cfg!(feature = "systemd"))?;
        match connect(&address) {
            Ok(socket) => Some(Self { socket, watchdog: watchdog() }),
            Err(error) => {
                log::warn!("cannot reach the service manager at {address:?}: {error}");
                None
            }
        }
    }

    /// Sends that the server is listening.
    pub(crate) fn ready(&self, status: &str) {
        self.notify(&format!("READY=1\nSTATUS={status}"));
    }

    /// Sends that the server is still running.
    pub(crate) fn alive(&self, status: &str) {
        let watchdog = if self.watchdog.is_some() { "WATCHDOG=1\n" } else { "" };
        self.notify(&format!("{watchdog}STATUS={status}"));
    }

    /// Sends that the server is shutting down.
    pub(crate) fn stopping(&self, status: &str) {
        self.notify(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// How long to wait between two notifications: at most half of the watchdog's limit, as `sd_watchdog_enabled(3)`
    /// advises.
    pub(crate) fn interval(&self) -> Duration {
        let interval = self.watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 2).min(STATUS_INTERVAL));
        interval.max(Duration::from_millis(1))
    }

    fn notify(&self, state: &str) {
        // The socket is non-blocking: a service manager that does not read must not stop the server.
        if let Err(error) = self.socket.send(state.as_bytes()) {
            log::debug!("cannot notify the service manager of {state:?}: {error}");
        }
    }
}

fn connect(address: &OsString) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes().split_first() {
        #[cfg(target_os = "linux")]
        Some((b'@', name)) => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)?
        }
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

fn watchdog() -> Option<Duration> {
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
