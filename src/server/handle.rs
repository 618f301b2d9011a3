//! A running server in the hands of the program: who is connected, and how it stops.

use super::accept::{Acceptor, Stop};
use super::capacity::Capacity;
use super::client_thread::{Accepted, Head};
use super::{Shared, no_address};
use crate::config::MAX_TIMEOUT;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::logging::log_line;
use crate::message::{CloseCode, CloseFrame};
use crate::net::Stream;
use crate::stats::{Stats, TurnedAway};
use crate::sync::{Arc, Mutex, is_finished, now, spawn, this_thread};
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The acceptor calls a handful of small functions, and the `on_error` callback.
const ACCEPTOR_STACK: usize = 256 * 1024;

/// A running server. Dropping it is [`shutdown`](Self::shutdown) with the close timeout, 5 s by default.
///
/// On one of the server's own threads, in a handler say, dropping it only signals: a thread cannot wait for its own end.
#[must_use = "the server stops when its handle is dropped"]
pub struct ServerHandle {
    shared: Arc<Shared>,
    stop: Mutex<Option<Arc<Stop>>>,
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
    /// Whether the closure of a tick, or [`on_error`](super::Server::on_error), still ran at the end of the timeout.
    pub is_busy: bool,
}

impl ShutdownReport {
    /// Returns whether everything ended in time: `abandoned` is empty, and `is_busy` is false.
    pub fn is_complete(&self) -> bool {
        self.abandoned.is_empty() && !self.is_busy
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections closed", self.closed)?;
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
        Ok(())
    }
}

impl ServerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, stop: Mutex::new(None) }
    }

    pub(super) fn start_acceptor(&self, acceptor: Acceptor) -> Result<()> {
        *self.stop.lock() = Some(acceptor.stop());
        let thread = spawn("threadws-accept", ACCEPTOR_STACK, move || acceptor.run())?;
        self.shared.own.lock().push(thread);
        Ok(())
    }

    /// Returns the address that the server listens on.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a [`detached`](super::Server::detached) server, which has no address.
    pub fn local_addr(&self) -> Result<SocketAddr> {
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

    /// Takes over a connection that another HTTP server accepted, after it has read a request's head: what `ws` calls
    /// `handleUpgrade`.
    ///
    /// The handshake is checked and answered, and the handler runs, in a client thread of this server's; who asked is
    /// free at once. `leftover` is what was read behind the head. What was attached to the head's extensions is found in
    /// those of [`Connection::request`](crate::Connection::request).
    ///
    /// # Blocking
    ///
    /// Never waits for the peer.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if no place is left, or the server stops; [`Error::Io`] if no thread can be started, or the
    /// peer is gone. A peer that is there was answered 503, as far as that went without waiting.
    pub fn upgrade(&self, stream: TcpStream, head: &http::Request<()>, leftover: &[u8]) -> Result<()> {
        let stream = Arc::new(Stream::new(stream)?);
        let peer_addr = stream.peer_addr()?;
        let counters = &self.shared.rules.counters;
        counters.accepted();
        let Some(place) = self.shared.place() else {
            counters.refused(TurnedAway::Full);
            crate::handshake::answer_unavailable(&stream);
            return Err(Error::Unavailable);
        };
        let head = Box::new(Head { request: head.clone(), early: leftover.to_vec() });
        let Some(client) = Accepted::new(&self.shared, &stream, peer_addr, place, None, Some(head)) else {
            counters.refused(TurnedAway::Stopping);
            crate::handshake::answer_unavailable(&stream);
            return Err(Error::Unavailable);
        };
        if let Err(error) = self.shared.pool.run(client) {
            counters.refused(TurnedAway::NoThread);
            crate::handshake::answer_unavailable(&stream);
            return Err(Error::Io(error));
        }
        Ok(())
    }

    /// Stops: accepts nobody any more, sends Close 1001 to everyone, answers 503 to handshakes under way, and waits for
    /// the handlers to end.
    ///
    /// After `timeout` the connections that are left are cut, those in a handshake or an HTTP answer as well. A handler
    /// that goes on all the same is abandoned, and named in the report; its thread ends when it does. So does that of a
    /// tick's closure, or an `on_error`, that is still running. A second call finds nothing to do.
    ///
    /// # Blocking
    ///
    /// At most `timeout`, and up to 800 ms for the handlers of connections that were cut. On one of the server's own
    /// threads it does not wait: everything is signalled, and whatever still runs counts as abandoned. Nor does a
    /// second call, even while the first one does: its report is empty.
    pub fn shutdown(&self, timeout: Duration) -> ShutdownReport {
        // A year is as good as for ever, and overflows no `Instant`.
        let deadline = now() + timeout.min(MAX_TIMEOUT);
        let stop = self.stop.lock().take();
        if let Some(stop) = stop {
            stop.stop();
        }
        let frame = CloseFrame::new(CloseCode::GOING_AWAY, "");
        let Some(count) = self.shared.live.stop(&frame) else {
            return ShutdownReport::default();
        };
        let waits = !self.is_own_thread();
        let mut left = self.shared.live.wait_empty(if waits { deadline } else { now() });
        if waits && !left.is_empty() {
            self.shared.live.cut();
            left = self.shared.live.wait_empty(deadline + CUT);
        }
        self.shared.pool.stop();
        if waits {
            self.shared.pool.join(deadline + CUT);
        }
        // Abandoned handlers need timer and flush.
        let is_busy = left.is_empty() && !self.join_own_threads(if waits { deadline + CUT } else { now() });
        let report = ShutdownReport { closed: count.saturating_sub(left.len()), abandoned: left, is_busy };
        if report.is_complete() {
            log_line!(Info, "threadws::server", "stopped: {report}");
        } else {
            log_line!(Warn, "threadws::server", "stopped: {report}");
        }
        report
    }

    /// Ends timer, flush and acceptor, which nobody needs any more, and joins those that end before `deadline`; false if one
    /// does not. They end at once, unless the timer is in a tick's closure or the acceptor in `on_error`: who calls us may
    /// hold what those wait for. They end behind it, by themselves.
    fn join_own_threads(&self, deadline: Instant) -> bool {
        self.shared.stop_threads();
        let own = std::mem::take(&mut *self.shared.own.lock());
        while !own.iter().all(is_finished) && now() < deadline {
            // Nobody tells of a thread's very end; these come within a moment, or late.
            std::thread::sleep(Duration::from_millis(1));
        }
        let (ended, busy): (Vec<_>, Vec<_>) = own.into_iter().partition(is_finished);
        for thread in ended {
            // Their panics are our bugs, and the panic hook has told of them.
            drop(thread.join());
        }
        busy.is_empty()
    }

    fn is_own_thread(&self) -> bool {
        let this = this_thread();
        self.shared.pool.is_current()
            || self.shared.own.lock().iter().any(|thread| thread.thread().id() == this)
    }
}

/// How long handlers whose connections were cut may take to notice: thousands of threads end in that time, even on a small
/// machine.
const CUT: Duration = Duration::from_millis(800);
/// How many of the abandoned a report's text names.
const MAX_SHOWN: usize = 20;

impl Drop for ServerHandle {
    fn drop(&mut self) {
        drop(self.shutdown(self.shared.config.close_timeout()));
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
    use crate::server::Server;

    #[test]
    fn a_shutdown_may_have_all_the_time_there_is_and_a_second_one_needs_none() {
        let handle = Server::bind("127.0.0.1:0").expect("a port").spawn(|_| Ok(())).expect("it starts");
        for _ in 0..2 {
            let report = handle.shutdown(Duration::MAX);
            assert!(report.is_complete() && report.closed == 0, "{report}");
        }
    }
}
