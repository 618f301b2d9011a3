//! The acceptor: it accepts, admits and hands over. It parses no byte, so no client can stop it.

use super::Shared;
use super::client_thread::{Accepted, contained};
use crate::addr::Addr;
use crate::error::{Error, Result};
use crate::handshake::{self, LINGER, LINGER_BYTES};
use crate::logging::{Throttle, log_line};
use crate::net::stream::{poll_until, prepare_listener};
use crate::net::{Deadline, Stream, Wake};
use crate::quota::Excess;
use crate::stats::TurnedAway;
use crate::sync::{Arc, AtomicBool, Ordering};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Connections that wait for us to accept them. std's 128 lose a reconnect storm.
const LISTEN_BACKLOG: i32 = 4096;
/// How long to wait after an error that says that something has run out: doubled each time, up to the second.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];
/// Clients that are told "503" and then read from for a while, as after a refused handshake: a socket closed over unread
/// input answers with RST, which takes the 503 away. Beyond so many they get the RST.
const MAX_LINGERING: usize = 16;

/// A client that was turned away, and may still have something to say.
struct Lingering {
    stream: Arc<Stream>,
    until: Instant,
    /// So many bytes of it are still read.
    bytes: usize,
}

/// The listening side of a server.
pub(super) struct Acceptor {
    listener: Option<TcpListener>,
    /// What each socket has that it accepts.
    read_timeout: Option<Duration>,
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    lingering: Vec<Lingering>,
    back_off: Duration,
    /// Of lines about clients that were turned away: anybody can bring them about.
    refusals: Throttle,
    /// Of lines about our own errors, and of calls of `on_error`.
    errors: Throttle,
}

/// Ends an acceptor from outside.
#[derive(Debug)]
pub(super) struct Stop {
    /// Relaxed: the wake that follows is a system call.
    stopped: AtomicBool,
    wake: Wake,
}

impl Stop {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.wake.wake();
    }
}

impl Acceptor {
    pub(super) fn new(listener: Option<TcpListener>, shared: Arc<Shared>) -> Result<Self> {
        let mut read_timeout = None;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            read_timeout = prepare_listener(listener, shared.config.first_read_timeout());
            rustix::net::listen(listener, LISTEN_BACKLOG).map_err(io::Error::from)?;
        }
        let stop = Arc::new(Stop { stopped: AtomicBool::new(false), wake: Wake::new()? });
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

    pub(super) fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.stop)
    }

    /// Accepts until it is stopped; nothing else ends it.
    pub(super) fn run(mut self) {
        let Some(listener) = self.listener.take() else {
            // Detached: there is nothing to accept.
            drop(poll_until(&mut [PollFd::new(&self.stop.wake, PollFlags::IN)], Deadline::NEVER));
            return;
        };
        loop {
            // Before each accept: one that finds nobody costs several times as much as a poll, for it makes a descriptor first.
            self.sleep(Some(&listener), None);
            if self.stop.stopped.load(Ordering::Relaxed) {
                return;
            }
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.back_off = BACK_OFF[0];
                    self.admit(stream, peer.into());
                }
                // It was the wake, a lingering client, or one that has left again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.failed(error),
            }
        }
    }

    /// Waits for a connection, a wake or lingering clients; or, without a listener, for time to pass.
    fn sleep(&mut self, listener: Option<&TcpListener>, pause: Option<Duration>) {
        let wake = PollFd::new(&self.stop.wake, PollFlags::IN);
        if let (Some(listener), true) = (listener, self.lingering.is_empty()) {
            // Mostly. The listener first: where somebody waits, the system does not even look at the other.
            wait(&mut [PollFd::new(listener, PollFlags::IN), wake], Deadline::NEVER);
            return;
        }
        let oldest = self.lingering.first().map(|client| client.until);
        let deadline = Deadline::from(oldest).or(pause.map_or(Deadline::NEVER, Deadline::after));
        let mut fds = vec![wake];
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let clients = self.lingering.iter();
        fds.extend(clients.map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::IN)));
        wait(&mut fds, deadline);
        let now = Instant::now();
        let mut bytes = [0; 4096];
        self.lingering.retain_mut(|client| {
            let has_more = match client.stream.read(&mut bytes, false) {
                Ok(count) => {
                    client.bytes = client.bytes.saturating_sub(count);
                    count > 0 && client.bytes > 0
                }
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            };
            has_more && client.until > now
        });
    }

    /// Hands a connection to a thread, or turns it away.
    fn admit(&mut self, stream: TcpStream, peer: Addr) {
        let counters = Arc::clone(&self.shared.rules.counters);
        counters.accepted();
        let Some(place) = self.shared.place() else {
            counters.refused(TurnedAway::Full);
            self.tell_of_refusal(&format!("full: {}", self.shared.capacity));
            if let Ok(stream) = Stream::from_accepted(stream, self.read_timeout) {
                self.turn_away(Arc::new(stream), handshake::answer_unavailable);
            }
            return;
        };
        // Whose socket's address is the client's is judged before it costs a thread; but not when there is no room for it:
        // that is not its fault.
        let rules = &self.shared.rules;
        let admission = match (!rules.is_proxy(peer)).then(|| rules.quotas.admit(peer)).transpose() {
            Ok(admission) => admission,
            Err(excess) => return self.excess(stream, peer, excess),
        };
        let Ok(stream) = Stream::from_accepted(stream, self.read_timeout).map(Arc::new) else { return };
        let Some(client) = Accepted::new(&self.shared, &stream, peer, place, admission, None) else {
            counters.refused(TurnedAway::Stopping);
            return;
        };
        if let Err(error) = self.shared.pool.run(client) {
            counters.refused(TurnedAway::NoThread);
            self.tell_of_error("no thread for a client", error);
            self.turn_away(stream, handshake::answer_unavailable);
        }
    }

    /// Turns a client away whose address has had its share.
    fn excess(&mut self, stream: TcpStream, peer: Addr, excess: Excess) {
        let (reason, what) = match excess {
            Excess::Connections => (TurnedAway::Address, "too many connections from"),
            Excess::Handshakes(_) => (TurnedAway::Rate, "too many handshakes from"),
        };
        self.shared.rules.counters.refused(reason);
        self.tell_of_refusal(&format!("{what} {}", peer.without_port()));
        if let Ok(stream) = Stream::from_accepted(stream, self.read_timeout) {
            self.turn_away(Arc::new(stream), |stream| handshake::answer_excess(stream, excess));
        }
    }

    /// Answers without a thread, without waiting.
    fn turn_away(&mut self, stream: Arc<Stream>, answer: impl FnOnce(&Stream)) {
        if self.lingering.len() >= MAX_LINGERING {
            return;
        }
        answer(&stream);
        stream.shutdown_write();
        self.lingering.push(Lingering { stream, until: Instant::now() + LINGER, bytes: LINGER_BYTES });
    }

    /// What accept(2) says of errors: a connection that is gone is skipped, whatever has run out may come back. What it
    /// does not list is waited out too, rather than spun on.
    fn failed(&mut self, error: io::Error) {
        if is_about_connection(Errno::from_io_error(&error)) {
            return;
        }
        self.tell_of_error("accepting failed", error);
        let pause = self.back_off;
        self.back_off = (pause * 2).min(BACK_OFF[1]);
        self.sleep(None, Some(pause));
    }

    /// Tells the log, at most once a second, with a count of what was left out.
    fn tell_of_refusal(&mut self, what: &str) {
        if let Some(more) = self.refusals.pass(Instant::now()) {
            log_line!(Warn, "threadws::server", "{what} ({more} more since the last line)");
        }
    }

    /// Tells the log and the callback, likewise.
    fn tell_of_error(&mut self, what: &str, error: io::Error) {
        let Some(more) = self.errors.pass(Instant::now()) else { return };
        log_line!(Warn, "threadws::server", "{what}: {error} ({more} more since the last line)");
        if let Some(callback) = &self.shared.on_error {
            contained("on_error", || callback(&Error::Io(error)));
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], deadline: Deadline) {
    if poll_until(fds, deadline).is_err() {
        // ENOMEM: the next accept will tell.
        std::thread::sleep(BACK_OFF[0]);
    }
}

/// Errors of the connection that was to be accepted, not of the listener (accept(2): "treat them like EAGAIN").
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
    use crate::server::{Server, ServerHandle};
    use crate::sync::mpsc;

    #[test]
    fn a_flood_of_refusals_hides_no_error_from_the_callback() {
        let (tell, told) = mpsc::channel();
        let server = Server::bind("127.0.0.1:0").expect("a free port");
        let server = server.on_error(move |error| tell.send(error.to_string()).unwrap_or(()));
        let (shared, mut acceptor) = server.start(Box::new(|_| Ok(()))).expect("it starts");
        let handle = ServerHandle::new(shared);
        acceptor.tell_of_refusal("full");
        acceptor.failed(Errno::MFILE.into());
        assert!(told.try_recv().is_ok(), "nobody was told");
        acceptor.failed(Errno::MFILE.into());
        assert!(told.try_recv().is_err(), "told twice in a second");
        drop((acceptor, handle));
    }
}
