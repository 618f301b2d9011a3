//! A listening socket, TCP or Unix, and the file of a Unix socket. Accepting in a loop is in `server/accept.rs`.

use super::Deadline;
use super::connect::connect_unix;
use super::stream::{sleep_until, stream_family};
use crate::addr::Addr;
use crate::error::context;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a server waits for others that start in the same folder. Each has the lock for a few system calls.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// A listening stream socket. It displays as its address: `127.0.0.1:8005`, `unix:/run/ws.sock`.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// With the file, if this process has created it. The file comes first, so that it is removed before the socket closes.
    Unix {
        _file: Option<SocketFile>,
        socket: UnixListener,
    },
}

impl Listener {
    /// Binds to the first address that is free. Each error names the address.
    pub(crate) fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let addresses = addr.to_socket_addrs().map_err(|error| context("no address to listen on", error))?;
        let mut failure = io::Error::new(ErrorKind::InvalidInput, "no address to listen on");
        for address in addresses {
            match TcpListener::bind(address) {
                Ok(listener) => return Ok(Self::Tcp(listener)),
                Err(error) => failure = context(format_args!("cannot listen on {address}"), error),
            }
        }
        Err(failure)
    }

    /// Binds to a path. Replaces a socket on which no program listens, and nothing else.
    pub(crate) fn bind_unix(path: &Path) -> io::Result<Self> {
        let bind = || {
            // Held until the socket listens. Otherwise a server that starts at the same time could remove its file.
            let _lock = lock_folder(path)?;
            let socket = match UnixListener::bind(path) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_behind(path) => {
                    fs::remove_file(path)?;
                    UnixListener::bind(path)?
                }
                result => result?,
            };
            Ok(Self::Unix { _file: Some(SocketFile::new(path)?), socket })
        };
        bind().map_err(|error| context(format_args!("cannot listen on unix:{}", path.display()), error))
    }

    /// Takes over a stream socket that another program, or another part of this one, has bound.
    pub(crate) fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        Ok(match stream_family(&socket)? {
            AddressFamily::UNIX => Self::Unix { _file: None, socket: socket.into() },
            _ => Self::Tcp(socket.into()),
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Addr::from),
            Self::Unix { .. } => Ok(Addr::Unix),
        }
    }

    /// Accepts a connection. Returns its socket, in blocking mode on Linux, and the address of the other end.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, Addr)> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(socket, peer)| (socket.into(), peer.into())),
            Self::Unix { socket, .. } => socket.accept().map(|(socket, _)| (socket.into(), Addr::Unix)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix { socket, .. } => socket.as_fd(),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(addr) => addr.fmt(f),
                Err(error) => error.fmt(f),
            },
            Self::Unix { socket, .. } => {
                let addr = socket.local_addr().ok();
                match addr.as_ref().and_then(|addr| addr.as_pathname()) {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => Addr::Unix.fmt(f),
                }
            }
        }
    }
}

/// The file of a Unix socket. It is removed when this is dropped, unless another program has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode, which a file of another program does not have.
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        // Absolute, because the program may change its folder before the file is removed.
        Ok(Self { path: std::path::absolute(path)?, inode: (file.dev(), file.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours =
            fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.inode);
        if is_ours {
            // Ignored: a file that cannot be removed is replaced by the next server at this path.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Locks the folder of a path against other servers that start there. Returns `None` if the folder cannot be locked.
fn lock_folder(path: &Path) -> io::Result<Option<File>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = File::open(folder) else { return Ok(None) };
    let deadline = Deadline::after(LOCK_TIMEOUT);
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(folder)),
            Err(Errno::WOULDBLOCK) if deadline.has_passed(Instant::now()) => {
                return Err(io::Error::new(ErrorKind::ResourceBusy, "another program has locked its folder"));
            }
            Err(Errno::WOULDBLOCK) => sleep_until(Deadline::after(LOCK_INTERVAL))?,
            Err(Errno::INTR) => {}
            Err(_) => return Ok(None),
        }
    }
}

/// Returns whether a file is a socket on which no program listens, because its server was killed.
fn is_left_behind(path: &Path) -> bool {
    // Only sockets are removed: connecting to any other file is refused, too.
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && connect_unix(path, Deadline::at(Instant::now()))
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
