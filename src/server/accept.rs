//! The acceptor: accepts connections and gives each to a thread. It never waits for a client and parses no byte, so no
//! client can stop it.

use super::{LOG, NotAdmitted, Shared};
use crate::addr::Addr;
use crate::error::{Error, Result, context};
use crate::handshake::{self, LINGER};
use crate::logging::{Throttle, contain, log_line};
use crate::net::stream::{FULL_FLOW, poll_until, prepare_listener};
use crate::net::{Deadline, Listener, Stream, Transport, Wake};
use crate::quota::Excess;
use crate::sync::{Arc, AtomicBool, Ordering};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, ioctl_fionbio};
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// The length of the listener's queue. With the 128 of std, connections are lost when many clients reconnect at once.
const LISTEN_BACKLOG: i32 = 4096;
/// The first and the longest wait after an error of `accept`. Each wait is twice as long as the one before.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];
/// How many clients that were turned away are read from at a time (see [`LINGER`]). Further ones get no answer.
const MAX_LINGERING: usize = 16;

/// How many bytes are read from such a client in one turn.
const LINGER_READ: usize = 16 * 1024;

/// A client that was turned away, and is read from until it has read the answer. A client in the middle of an upload reads
/// the answer only after it.
struct Lingering {
    stream: Arc<Stream>,
    start: Instant,
    /// The end of this period, and the bytes that arrived in it.
    until: Instant,
    bytes: usize,
}

/// The listening side of a server.
pub(super) struct Acceptor {
    listener: Option<Listener>,
    /// The read timeout that accepted sockets inherit.
    read_timeout: Option<Duration>,
    shared: Arc<Shared>,
    stop: Arc<AcceptorStop>,
    lingering: Vec<Lingering>,
    back_off: Duration,
    /// Limits the log lines about clients that were turned away, because any client can cause them.
    refusals: Throttle,
    /// Limits the log lines about the server's own errors, and the calls of `on_error`.
    errors: Throttle,
}

/// Stops an acceptor, from another thread.
#[derive(Debug)]
pub(super) struct AcceptorStop {
    /// Relaxed, because the wake after it is a system call.
    stopped: AtomicBool,
    wake: Wake,
}

impl AcceptorStop {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.wake.wake();
    }
}

impl Acceptor {
    pub(super) fn new(listener: Option<Listener>, shared: Arc<Shared>) -> Result<Self> {
        let mut read_timeout = None;
        if let Some(listener) = &listener {
            ioctl_fionbio(listener, true)
                .and_then(|()| rustix::net::listen(listener, LISTEN_BACKLOG))
                .map_err(|error| context(format_args!("cannot listen on {listener}"), error.into()))?;
            read_timeout = prepare_listener(listener, shared.settings.config.first_read_timeout());
        }
        let stop = Arc::new(AcceptorStop { stopped: AtomicBool::new(false), wake: Wake::new()? });
        Ok(Self {
            listener,
            read_timeout,
            shared,
            stop,
            lingering: Vec::new(),
            back_off: BACK_OFF[0],
            refusals: Throttle::default(),
            errors: Throttle::default(),
        })
    }

    pub(super) fn stop(&self) -> Arc<AcceptorStop> {
        Arc::clone(&self.stop)
    }

    /// Accepts until it is stopped. No error ends it.
    pub(super) fn run(mut self) {
        let Some(listener) = self.listener.take() else {
            // Detached: it only waits for the stop.
            wait(&mut [PollFd::new(&self.stop.wake, PollFlags::IN)], Deadline::NEVER);
            return;
        };
        loop {
            // Polled before each accept: an accept that finds no connection costs several times as much as a poll, because
            // the system allocates a descriptor first.
            self.sleep(Some(&listener), None);
            if self.stop.stopped.load(Ordering::Relaxed) {
                return;
            }
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.back_off = BACK_OFF[0];
                    self.admit(stream, peer);
                }
                // A lingering client woke the poll, or the connection has been reset.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.failed(error),
            }
        }
    }

    /// Waits for a connection, the stop or a lingering client. Without a listener, waits for `pause`.
    fn sleep(&mut self, listener: Option<&Listener>, pause: Option<Duration>) {
        let wake = PollFd::new(&self.stop.wake, PollFlags::IN);
        if let (Some(listener), true) = (listener, self.lingering.is_empty()) {
            // The usual case. The listener comes first: if it is ready, the system does not look at the other.
            wait(&mut [PollFd::new(listener, PollFlags::IN), wake], Deadline::NEVER);
            return;
        }
        let first = self.lingering.iter().map(|client| client.until).min();
        let deadline = Deadline::from(first).or(pause.map_or(Deadline::NEVER, Deadline::after));
        let mut fds = vec![wake];
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let clients = self.lingering.iter();
        fds.extend(clients.map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::IN)));
        wait(&mut fds, deadline);
        let now = Instant::now();
        let mut bytes = [0; LINGER_READ];
        let close_timeout = self.shared.settings.config.close_timeout();
        self.lingering.retain_mut(|client| {
            match client.stream.read(&mut bytes, false) {
                Ok(count @ 1..) => client.bytes += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return false,
            }
            if client.until <= now && client.bytes >= FULL_FLOW && now - client.start < close_timeout {
                (client.until, client.bytes) = (now + LINGER, 0);
            }
            client.until > now
        });
    }

    /// Gives a connection to a thread, or turns it away.
    fn admit(&mut self, stream: OwnedFd, peer_addr: Addr) {
        let Ok(stream) = Stream::from_accepted(stream, self.read_timeout).map(Arc::new) else { return };
        let has_tls = self.shared.settings.handshake.has_tls();
        match self.shared.admit(&stream, peer_addr, None) {
            Ok(()) | Err(NotAdmitted::Stopping) => {}
            Err(NotAdmitted::Full) => {
                let capacity = self.shared.capacity;
                self.log_refusal(format_args!("full: {capacity}"));
                self.turn_away(stream, |stream| handshake::answer_unavailable(stream, has_tls));
            }
            Err(NotAdmitted::Excess(excess)) => {
                let what = match excess {
                    Excess::Connections => "connections",
                    Excess::Handshakes(_) => "handshakes",
                };
                self.log_refusal(format_args!("too many {what} from {}", peer_addr.without_port()));
                self.turn_away(stream, |stream| handshake::answer_excess(stream, has_tls, excess));
            }
            Err(NotAdmitted::NoThread(error)) => {
                self.report_error("no thread for a client", error);
                self.turn_away(stream, |stream| handshake::answer_unavailable(stream, has_tls));
            }
        }
    }

    /// Answers without a thread and without waiting.
    fn turn_away(&mut self, stream: Arc<Stream>, answer: impl FnOnce(&Stream)) {
        let now = Instant::now();
        if self.lingering.len() >= MAX_LINGERING {
            // A client in full flow makes room for the next.
            let Some(place) = self.lingering.iter().position(|client| client.start + LINGER < now) else {
                return;
            };
            self.lingering.swap_remove(place);
        }
        answer(&stream);
        stream.shutdown_write();
        self.lingering.push(Lingering { stream, start: now, until: now + LINGER, bytes: 0 });
    }

    /// Handles an error of `accept`. A connection that was reset is skipped. After any other error the acceptor waits,
    /// because the missing resource may become free.
    fn failed(&mut self, error: io::Error) {
        if is_about_connection(Errno::from_io_error(&error)) {
            return;
        }
        self.report_error("accepting failed", error);
        let pause = self.back_off;
        self.back_off = (pause * 2).min(BACK_OFF[1]);
        self.sleep(None, Some(pause));
    }

    /// Logs at most once a second. The line counts those that were left out.
    fn log_refusal(&mut self, what: fmt::Arguments<'_>) {
        if let Some(more) = self.refusals.pass(Instant::now()) {
            log_line!(Warn, LOG, "{what} ({more} more since the last line)");
        }
    }

    /// Logs an error and calls `on_error`, both at most once a second.
    fn report_error(&mut self, what: &str, error: io::Error) {
        let Some(more) = self.errors.pass(Instant::now()) else { return };
        log_line!(Warn, LOG, "{what}: {error} ({more} more since the last line)");
        if let Some(callback) = &self.shared.settings.on_error {
            contain(LOG, "the callback on_error", || callback(&Error::Io(error)));
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], deadline: Deadline) {
    if poll_until(fds, deadline).is_err() {
        // ENOMEM. The next `accept` reports it.
        std::thread::sleep(BACK_OFF[0]);
    }
}

/// Returns whether an error is about the connection that was to be accepted, and not about the listener (accept(2):
/// "treat them like EAGAIN").
fn is_about_connection(errno: Option<Errno>) -> bool {
    matches!(
        errno,
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM
        )
    )
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::server::Way;
    use crate::server::builder::Server;
    use crate::server::handle::ServerHandle;
    use crate::sync::mpsc;

    #[test]
    fn a_flood_of_refusals_hides_no_error_from_the_callback() {
        let (calls, called) = mpsc::channel();
        let server = Server::bind("127.0.0.1:0").expect("a free port");
        let server = server.on_error(move |error| calls.send(error.to_string()).unwrap_or(()));
        let (shared, mut acceptor) = server.start(Way::Thread(Box::new(|_| Ok(())))).expect("it starts");
        let handle = ServerHandle::new(shared);
        acceptor.log_refusal(format_args!("full"));
        acceptor.failed(Errno::MFILE.into());
        assert!(called.try_recv().is_ok(), "not called");
        acceptor.failed(Errno::MFILE.into());
        assert!(called.try_recv().is_err(), "called twice in a second");
        drop((acceptor, handle));
    }
}
