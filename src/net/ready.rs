//! A set of sockets, and waiting for those that have input: `epoll` on Linux, `poll` on other systems.
//!
//! One thread waits. Any thread adds and removes sockets meanwhile, and wakes the waiting thread. A socket is reported by each
//! wait as long as it has input.

use super::Deadline;
use crate::sync::Arc;
use std::io;

/// Sockets that are watched for input, each with a token. The models implement it with scripted sockets.
pub(crate) trait Ready: Sized + Send + Sync + 'static {
    type Socket: Send + Sync;
    /// The sockets that a wait has found.
    type Batch: Default;

    fn new() -> io::Result<Self>;

    /// Watches a socket.
    fn add(&self, socket: &Arc<Self::Socket>, token: u64) -> io::Result<()>;

    /// Stops watching a socket. Called before the socket is closed, because a copy of its descriptor in a child process would
    /// keep it in the set.
    fn remove(&self, socket: &Arc<Self::Socket>, token: u64);

    /// Ends the present wait, or the next one.
    fn wake(&self);

    /// Waits until a socket is ready, until [`wake`](Self::wake) is called, or for the deadline.
    fn wait(&self, batch: &mut Self::Batch, deadline: Deadline) -> io::Result<()>;

    /// Returns the tokens of the sockets that are ready.
    fn tokens(batch: &Self::Batch) -> impl Iterator<Item = u64> + '_;
}

#[cfg(target_os = "linux")]
pub(crate) type ReadySet = self::epoll::EpollSet;
#[cfg(not(target_os = "linux"))]
pub(crate) type ReadySet = self::poll::PollSet;

/// The token of the wake socket. No other socket has it.
const WAKE: u64 = u64::MAX;

#[cfg(target_os = "linux")]
mod epoll {
    use super::{Ready, WAKE};
    use crate::net::stream::time_left;
    use crate::net::wake::Wake;
    use crate::net::{Deadline, Stream};
    use crate::sync::Arc;
    use rustix::buffer::spare_capacity;
    use rustix::event::epoll;
    use rustix::fd::OwnedFd;
    use rustix::io::Errno;
    use std::io;
    use std::time::Duration;

    /// How many sockets one wait reports at most. The next wait reports the others.
    const MAX_READY: usize = 1024;
    /// The longest wait, because old kernels count it in an `int` of milliseconds.
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

    /// Sockets that are watched for input, each with a token.
    #[derive(Debug)]
    pub(crate) struct EpollSet {
        epoll: OwnedFd,
        wake: Wake,
    }

    impl Ready for EpollSet {
        type Socket = Stream;
        type Batch = Vec<epoll::Event>;

        fn new() -> io::Result<Self> {
            let (epoll, wake) = (epoll::create(epoll::CreateFlags::CLOEXEC)?, Wake::new()?);
            epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
            Ok(Self { epoll, wake })
        }

        fn add(&self, socket: &Arc<Stream>, token: u64) -> io::Result<()> {
            let data = epoll::EventData::new_u64(token);
            Ok(epoll::add(&self.epoll, &**socket, data, epoll::EventFlags::IN)?)
        }

        fn remove(&self, socket: &Arc<Stream>, _token: u64) {
            // Ignored: it fails only for a socket that is not in the set.
            _ = epoll::delete(&self.epoll, &**socket);
        }

        fn wake(&self) {
            self.wake.wake();
        }

        fn wait(&self, events: &mut Vec<epoll::Event>, deadline: Deadline) -> io::Result<()> {
            events.clear();
            events.reserve(MAX_READY);
            let timeout = time_left(deadline, LONGEST);
            match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if events.iter().any(|event| event.data.u64() == WAKE) {
                self.wake.clear();
            }
            Ok(())
        }

        fn tokens(events: &Vec<epoll::Event>) -> impl Iterator<Item = u64> + '_ {
            events.iter().map(|event| event.data.u64()).filter(|token| *token != WAKE)
        }
    }
}

#[cfg(any(not(target_os = "linux"), all(test, not(model))))]
mod poll {
    use super::{Ready, WAKE};
    use crate::net::stream::poll_until;
    use crate::net::wake::Wake;
    use crate::net::{Deadline, Stream};
    use crate::sync::{Arc, Mutex};
    use rustix::event::{PollFd, PollFlags};
    use std::collections::BTreeMap;
    use std::io;

    /// Sockets that are watched for input, each with a token.
    #[derive(Debug)]
    pub(crate) struct PollSet {
        /// Locked to change or copy it, not while a thread waits.
        sockets: Mutex<BTreeMap<u64, Arc<Stream>>>,
        wake: Wake,
    }

    impl Ready for PollSet {
        type Socket = Stream;
        type Batch = Vec<u64>;

        fn new() -> io::Result<Self> {
            Ok(Self { sockets: Mutex::default(), wake: Wake::new()? })
        }

        fn add(&self, socket: &Arc<Stream>, token: u64) -> io::Result<()> {
            debug_assert_ne!(token, WAKE);
            self.sockets.lock().insert(token, Arc::clone(socket));
            self.wake();
            Ok(())
        }

        fn remove(&self, _socket: &Arc<Stream>, token: u64) {
            let removed = self.sockets.lock().remove(&token);
            // The waiting thread holds the socket until it wakes.
            self.wake();
            drop(removed);
        }

        fn wake(&self) {
            self.wake.wake();
        }

        fn wait(&self, batch: &mut Vec<u64>, deadline: Deadline) -> io::Result<()> {
            batch.clear();
            let sockets: Vec<_> =
                self.sockets.lock().iter().map(|(token, socket)| (*token, Arc::clone(socket))).collect();
            let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
            fds.extend(sockets.iter().map(|(_, socket)| PollFd::new(&**socket, PollFlags::IN)));
            poll_until(&mut fds, deadline)?;
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            if ready.next() == Some(true) {
                self.wake.clear();
            }
            batch.extend(sockets.iter().zip(ready).filter(|(_, ready)| *ready).map(|((token, _), _)| *token));
            Ok(())
        }

        fn tokens(batch: &Vec<u64>) -> impl Iterator<Item = u64> + '_ {
            batch.iter().copied()
        }
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::poll;
    use super::*;
    use crate::net::{Deadline, Stream};
    use crate::sync::Arc;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    fn report_until_read<S: Ready<Socket = Stream>>() {
        let (ours, mut peers) = UnixStream::pair().expect("a pair");
        let stream = Arc::new(Stream::new(ours).expect("a stream"));
        let (set, mut batch) = (S::new().expect("descriptors"), S::Batch::default());
        let soon = || Deadline::at(Instant::now() + Duration::from_millis(5));
        let mut found = |deadline| {
            set.wait(&mut batch, deadline).expect("it waits");
            S::tokens(&batch).collect::<Vec<_>>()
        };
        set.add(&stream, 7).expect("it is watched");
        assert_eq!(found(soon()), []);
        peers.write_all(b"x").expect("it is open");
        assert_eq!(found(Deadline::NEVER), [7]);
        assert_eq!(found(Deadline::NEVER), [7]);
        stream.read(&mut [0; 9], false).expect("it is there");
        set.wake();
        assert_eq!(found(Deadline::NEVER), []);
        assert_eq!(found(soon()), []);
        drop(peers);
        assert_eq!(found(Deadline::NEVER), [7]);
        set.remove(&stream, 7);
        set.wake();
        assert_eq!(found(Deadline::NEVER), []);
    }

    #[test]
    fn a_socket_is_reported_until_it_is_read() {
        report_until_read::<ReadySet>();
        report_until_read::<poll::PollSet>();
    }
}
