//! `ServerHandle`: a running server, and its shutdown.

use super::accept::{Acceptor, AcceptorStop};
use super::capacity::Capacity;
use super::client_thread::{Head, Start};
use super::failures::HandlerFailure;
use super::{LOG, NotAdmitted, Shared, no_address};
use crate::addr::Addr;
use crate::config::MAX_TIMEOUT;
use crate::error::{Error, Result};
use crate::handshake::{answer_unavailable, close_unserved};
use crate::hub::Hub;
use crate::logging::log_line;
use crate::message::{CloseCode, CloseFrame};
use crate::net::Stream;
use crate::net::stream::stream_family;
#[cfg(feature = "tls")]
use crate::net::tls::ServerTls;
use crate::protocol::server_handshake::check_subprotocols;
use crate::stats::Stats;
use crate::sync::{Arc, JoinHandle, Mutex, STACK, is_finished, now, spawn, this_thread};
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the handlers of disconnected clients have to return. Thousands of threads can end in that time, even on a small
/// machine.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// How many abandoned connections the text of a report names.
const MAX_SHOWN: usize = 20;

/// A running server. Dropping the handle is a [`shutdown`](Self::shutdown) with the
/// [`close_timeout`](crate::Config::close_timeout), 5 s by default.
///
/// On one of the server's own threads, for example in a handler, the drop does not wait, because a thread cannot wait for
/// its own end. With [`Server::raise_panics`](crate::Server::raise_panics) it then panics if a handler has panicked.
#[must_use = "the server stops when its handle is dropped"]
pub struct ServerHandle {
    shared: Arc<Shared>,
    acceptor: Mutex<Option<Arc<AcceptorStop>>>,
}

/// The result of a [shutdown](ServerHandle::shutdown).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How many connections ended in time.
    pub closed: usize,
    /// The ids of the connections whose handlers still run. Their sockets are closed; their threads end when the handlers
    /// return.
    pub abandoned: Vec<u64>,
    /// Whether the closure of a tick, or [`on_error`](crate::Server::on_error), still ran at the end of the timeout.
    pub is_busy: bool,
    /// The handlers that returned an error or panicked since the server's start: the first 16, and the first that panicked.
    /// An error that only reports the end of its connection is not a failure.
    pub failures: Vec<HandlerFailure>,
    /// How many handlers failed in all.
    pub failed: usize,
}

impl ShutdownReport {
    /// Returns whether everything ended in time: `abandoned` is empty, and `is_busy` is false.
    pub fn is_complete(&self) -> bool {
        self.abandoned.is_empty() && !self.is_busy
    }

    /// Panics if a handler failed. For tests: `handle.shutdown(timeout).raise()` fails the test in which an assertion of a
    /// handler failed.
    ///
    /// # Panics
    ///
    /// If there are [`failures`](Self::failures), with the text of the first.
    #[track_caller]
    pub fn raise(&self) {
        if let Some(failure) = self.failures.first() {
            panic!("{failure}");
        }
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        write!(f, "{} connection{} closed", self.closed, plural(self.closed))?;
        if !self.abandoned.is_empty() {
            let shown = self.abandoned.get(..MAX_SHOWN).unwrap_or(&self.abandoned);
            write!(f, ", {} abandoned: {shown:?}", self.abandoned.len())?;
            if shown.len() < self.abandoned.len() {
                f.write_str(" and others")?;
            }
        }
        if self.is_busy {
            f.write_str(", a tick or callback still runs")?;
        }
        if self.failed > 0 {
            write!(f, ", {} handler{} failed", self.failed, plural(self.failed))?;
        }
        Ok(())
    }
}

impl ServerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, acceptor: Mutex::new(None) }
    }

    pub(super) fn start_acceptor(&self, acceptor: Acceptor) -> Result<()> {
        *self.acceptor.lock() = Some(acceptor.stop());
        let thread = spawn("threadws-accept", STACK, move || acceptor.run())?;
        self.shared.own_threads.lock().push(thread);
        Ok(())
    }

    /// Returns the address that the server listens on: [`Addr::Tcp`], or [`Addr::Unix`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a [`detached`](crate::Server::detached) server, which has no address.
    pub fn local_addr(&self) -> Result<Addr> {
        self.shared.address.ok_or_else(no_address)
    }

    /// Returns the hub, which has the list of clients and sends to all of them.
    pub fn hub(&self) -> &Hub {
        &self.shared.hub
    }

    /// Returns the server's numbers at this moment.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer. Visits each client, so call it for monitoring and not a thousand times a second.
    pub fn stats(&self) -> Stats {
        self.shared.meter.stats()
    }

    /// Returns how many clients the server can have at the same time, and what limits them.
    pub fn capacity(&self) -> Capacity {
        self.shared.capacity
    }

    /// Replaces the TLS settings, for example by a renewed certificate. Connections that exist are not affected.
    ///
    /// # Errors
    ///
    /// The old settings stay in force.
    ///
    /// * [`Error::Tls`], [`Error::Io`]: a certificate, a key or a file cannot be used. The text names it.
    /// * [`Error::Invalid`]: the server was started without TLS.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, tls: impl Into<ServerTls>) -> Result<()> {
        let Some(current) = &self.shared.settings.handshake.tls else {
            return Err(Error::invalid("the server was started without TLS"));
        };
        let new = Arc::new(tls.into().build()?);
        let old = std::mem::replace(&mut *current.lock(), new);
        // After the lock, because the old settings can hold values of the program.
        drop(old);
        Ok(())
    }

    /// Stops the server: accepts no more clients, sends Close 1001 to every client, answers 503 to handshakes in progress,
    /// and waits for the handlers to return.
    ///
    /// After `timeout` the remaining clients are disconnected, also those in a handshake or an HTTP answer. A handler that
    /// does not return then is abandoned, and its connection is named in the report. Its thread ends when it returns. A
    /// closure of a tick, or `on_error`, that still runs is abandoned, too. A second call does nothing.
    ///
    /// A client that does not receive does not answer the Close, so this waits for the whole `timeout`. In a test, close or
    /// drop the clients first.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| Ok(client.ignore()?))?;
    /// let report = handle.shutdown(Duration::from_secs(5));
    /// assert_eq!(report.to_string(), "0 connections closed");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Waits at most `timeout`, and then up to 800 ms for the handlers of disconnected clients. Does not wait on one of the
    /// server's own threads: it signals everything to end, and counts handlers that still run as abandoned. A second call does
    /// not wait either, even during the first one, and returns an empty report.
    pub fn shutdown(&self, timeout: Duration) -> ShutdownReport {
        let waits = !self.is_own_thread();
        let start = now();
        // A year is as good as any longer time, and does not overflow an `Instant`.
        let deadline = if waits { start + timeout.min(MAX_TIMEOUT) } else { start };
        let last_deadline = if waits { deadline + DISCONNECT_TIMEOUT } else { start };

        let acceptor = self.acceptor.lock().take();
        if let Some(acceptor) = acceptor {
            acceptor.stop();
        }
        let Some(count) = self.shared.registry.stop(&CloseFrame::new(CloseCode::GOING_AWAY, "")) else {
            return ShutdownReport::default();
        };
        let mut abandoned = self.shared.registry.wait_empty(deadline);
        if waits && !abandoned.is_empty() {
            self.shared.registry.terminate_all();
            abandoned = self.shared.registry.wait_empty(last_deadline);
        }
        if let Some(workers) = &self.shared.workers {
            workers.stop();
        }
        self.shared.pool.stop();
        if waits {
            self.shared.pool.join(last_deadline);
        }
        self.shared.hub.stop_backplane(deadline);
        // Handlers that were abandoned need the timer and the flush thread.
        let is_busy = abandoned.is_empty() && !self.join_own_threads(last_deadline);
        if waits {
            // The watcher, which has ended now, may have started a leader meanwhile.
            self.shared.pool.join(last_deadline);
        }
        let (failures, failed) = self.shared.failures.kept();
        let closed = count.saturating_sub(abandoned.len());
        let report = ShutdownReport { closed, abandoned, is_busy, failures, failed };
        if report.is_complete() {
            log_line!(Info, LOG, "stopped: {report}");
        } else {
            log_line!(Warn, LOG, "stopped: {report}");
        }
        report
    }

    /// Takes over a connection from another HTTP server, which has accepted it and read the request: `handleUpgrade` in
    /// `ws`.
    ///
    /// The connection is a TCP or Unix stream socket: a `TcpStream`, a `UnixStream`, or the descriptor of either. It is put
    /// into blocking mode. So are its clones, because the mode belongs to the socket and not to the descriptor.
    ///
    /// The handshake and the handler run in a client thread of this server, so the call returns at once. `leftover` is what
    /// was read after the head. Values in the extensions of `head` are in those of
    /// [`Connection::request`](crate::Connection::request).
    ///
    /// # Blocking
    ///
    /// Never waits for the peer.
    ///
    /// # Errors
    ///
    /// * [`Error::Unavailable`]: the server is full or shutting down.
    /// * [`Error::Io`]: no thread could be started, or the peer has disconnected.
    /// * [`Error::Invalid`]: `stream` is neither a TCP nor a Unix stream socket. Nothing was sent on it.
    ///
    /// With [`Error::Unavailable`], or if no thread could be started, the peer was answered 503, with the bytes that its
    /// socket accepted without waiting.
    pub fn upgrade(
        &self,
        stream: impl Into<OwnedFd>,
        head: &http::Request<()>,
        leftover: &[u8],
    ) -> Result<()> {
        let start = Start::Head(Head::new(head, leftover));
        self.take_over(stream.into(), start, |stream| answer_unavailable(stream, false))
    }

    /// Takes over a WebSocket from another server, which has also answered its request with a 101 (with
    /// [`accept_key`](crate::handshake::accept_key)).
    ///
    /// `subprotocol` is the one in the 101. The other arguments are as for [`upgrade`](Self::upgrade). The path, the origin
    /// and [`check_request`](crate::Server::check_request) are the business of the other server. The limits for the client's
    /// address apply.
    ///
    /// # Blocking
    ///
    /// Never waits for the peer.
    ///
    /// # Errors
    ///
    /// As for [`upgrade`](Self::upgrade), but the peer is sent a Close with 1013, try again later, instead of the 503. If
    /// `subprotocol` is not a token, returns [`Error::Invalid`] and sends nothing.
    pub fn adopt(
        &self,
        stream: impl Into<OwnedFd>,
        head: &http::Request<()>,
        subprotocol: Option<&str>,
        leftover: &[u8],
    ) -> Result<()> {
        let subprotocol = subprotocol.map(str::to_owned);
        check_subprotocols(subprotocol.as_slice())?;
        let start = Start::Answered(Head::new(head, leftover), subprotocol);
        self.take_over(stream.into(), start, close_unserved)
    }

    /// Gives a connection of another server a thread, or refuses it.
    fn take_over(&self, stream: OwnedFd, start: Start, refuse: fn(&Stream)) -> Result<()> {
        // Checked first, because a socket that is refused stays as it is.
        stream_family(&stream).map_err(|error| Error::invalid(format!("stream: {error}")))?;
        let stream = Arc::new(Stream::new(stream)?);
        let peer_addr = stream.peer_addr()?;
        self.shared.admit(&stream, peer_addr, Some(start)).map_err(|refused| {
            refuse(&stream);
            match refused {
                NotAdmitted::NoThread(error) => Error::Io(error),
                _ => Error::Unavailable,
            }
        })
    }

    /// Ends the timer, the flush thread and the acceptor, and joins those that end before `deadline`. Returns false if one
    /// does not.
    ///
    /// They end at once, unless the timer is in the closure of a tick or the acceptor in `on_error`. Such a callback may
    /// wait for the caller, so it is not waited for any longer. Its thread ends when it returns.
    fn join_own_threads(&self, deadline: Instant) -> bool {
        self.shared.stop_threads();
        let own = std::mem::take(&mut *self.shared.own_threads.lock());
        while !own.iter().all(is_finished) && now() < deadline {
            // Polled, because std has no join with a timeout. Usually they end within a millisecond.
            std::thread::sleep(Duration::from_millis(1));
        }
        let (ended, busy): (Vec<_>, Vec<_>) = own.into_iter().partition(is_finished);
        for thread in ended {
            // A panic there is a bug of this crate. The panic hook has printed it.
            drop(thread.join());
        }
        busy.is_empty()
    }

    fn is_own_thread(&self) -> bool {
        let this = this_thread();
        let is_own = |threads: &[JoinHandle<()>]| threads.iter().any(|thread| thread.thread().id() == this);
        self.shared.pool.is_current() || is_own(&self.shared.own_threads.lock())
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        drop(self.shutdown(self.shared.settings.config.close_timeout()));
        // A panic while the thread unwinds would abort the process.
        if self.shared.settings.raise_panics && !std::thread::panicking() {
            if let Some(failure) = self.shared.failures.first_panic() {
                panic!("{failure}");
            }
        }
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::builder::Server;

    #[test]
    fn a_shutdown_takes_any_timeout_and_a_second_one_does_not_wait() {
        let handle = Server::bind("127.0.0.1:0").expect("a port").spawn(|_| Ok(())).expect("it starts");
        for _ in 0..2 {
            let report = handle.shutdown(Duration::MAX);
            assert!(report.is_complete() && report.closed == 0, "{report}");
        }
    }
}
