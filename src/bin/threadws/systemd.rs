//! The service manager: the listening socket it hands over, and what it is told in return. Descriptors are taken with
//! the feature `systemd` only, and nobody is told anything without it.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often the status is told anew, if no watchdog wants to hear more often.
const STATUS: Duration = Duration::from_secs(10);

/// The socket that was handed over (`sd_listen_fds(3)`), if one was.
///
/// It takes the variables out of the environment, and so has to be called before there is a second thread.
///
/// # Errors
///
/// One line that says what is wrong with what was handed over.
pub(crate) fn listener() -> Result<Option<TcpListener>, String> {
    // Whoever inherits the variables of its parent is not meant. Not being told at all is no permission either.
    let is_ours = number("LISTEN_PID") == Some(u64::from(std::process::id()));
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        _ if !is_ours => Ok(None),
        Some(1) => take(),
        Some(sockets) => Err(format!("the service manager handed over {sockets} sockets, expected 1")),
    }
}

#[cfg(feature = "systemd")]
fn take() -> Result<Option<TcpListener>, String> {
    let bad = |error: io::Error| format!("the socket that was handed over cannot be used: {error}");
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0).map_err(bad)?;
    if let Some(listener) = &listener {
        let listens = rustix::net::sockopt::socket_acceptconn(listener).map_err(|error| bad(error.into()))?;
        if !listens {
            return Err("the socket that was handed over does not listen: is there Accept=yes?".to_owned());
        }
    }
    Ok(listener)
}

#[cfg(not(feature = "systemd"))]
fn take() -> Result<Option<TcpListener>, String> {
    Err("a socket was handed over, and this binary is built without the feature systemd".to_owned())
}

/// Who started us and wants to know how we are (`sd_notify(3)`).
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// `None` if nobody wants to know.
    pub(crate) fn from_env() -> Option<Self> {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|_| cfg!(feature = "systemd"))?;
        match connected(&address) {
            Ok(socket) => Some(Self { socket, watchdog: watchdog() }),
            Err(error) => {
                log::warn!("cannot reach the service manager: {error}");
                None
            }
        }
    }

    /// Tells it that we serve.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Tells it that we still do.
    pub(crate) fn alive(&self, status: &str) {
        let watchdog = if self.watchdog.is_some() { "WATCHDOG=1\n" } else { "" };
        self.tell(&format!("{watchdog}STATUS={status}"));
    }

    /// Tells it that we end.
    pub(crate) fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// How long to wait before it is told again: half of what the watchdog allows, as `sd_watchdog_enabled(3)` advises.
    pub(crate) fn interval(&self) -> Duration {
        self.watchdog.map_or(STATUS, |watchdog| (watchdog / 2).min(STATUS)).max(Duration::from_millis(1))
    }

    fn tell(&self, state: &str) {
        // Never waited for: one who does not read is a reason for its watchdog, not for ours.
        if let Err(error) = self.socket.send(state.as_bytes()) {
            log::debug!("the service manager is not told {state:?}: {error}");
        }
    }
}

fn connected(address: &OsString) -> io::Result<UnixDatagram> {
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
