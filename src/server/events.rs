//! Serving with events: a client has a thread only while it has something to do.
//!
//! [`Events`] are the callbacks of one client. A few worker threads wait for the sockets of all clients, and call the callbacks
//! of those whose messages have arrived. `set.rs` has the sets and their threads, `watcher.rs` the thread that finds blocked
//! workers, `client.rs` the life of a client.

mod client;
#[cfg(all(test, model))]
#[path = "../verify/models/events.rs"]
mod models;
mod seats;
mod set;
mod watcher;

use self::client::EventClient;
use self::set::{Crew, Duty, Set, Threads};
use self::watcher::Watcher;
use super::builder::Server;
use super::client_thread::Accepted;
use super::handle::ServerHandle;
use super::settings::Settings;
use super::thread_pool::{Job, ThreadPool};
use super::{Task, Way};
use crate::connection::{Arrival, Arrived, Connection};
use crate::error::{BoxError, Closed, Result};
use crate::message::Message;
use crate::net::Deadline;
use crate::sync::{Arc, AtomicUsize, JoinHandle, Ordering, processors};
use std::io;
use std::time::Instant;

/// The callbacks of one client, for [`Server::run_events`]. A closure that takes messages is one.
///
/// The calls for one client never overlap, and keep the order of its messages. They can run on different threads. An error or a
/// panic closes the connection with 1011, as in a handler of [`Server::run`].
///
/// ```
/// use threadws::server::Events;
/// use threadws::{BoxError, Closed, Connection, Message};
///
/// struct Counter(u32);
///
/// impl Events for Counter {
///     fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError> {
///         self.0 += 1;
///         Ok(client.send(format!("{}: {message}", self.0))?)
///     }
///
///     fn closed(&mut self, client: &mut Connection, closed: &Closed) {
///         println!("client {} left after {} messages: {closed}", client.id(), self.0);
///     }
/// }
///
/// # fn main() -> threadws::Result<()> {
/// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn_events(|_| Ok(Counter(0)))?;
/// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
/// connection.send("hello")?;
/// assert_eq!(connection.recv()?, Some("1: hello".into()));
/// # Ok(())
/// # }
/// ```
pub trait Events: Send + 'static {
    /// Called for each message.
    ///
    /// # Errors
    ///
    /// An error closes the connection with 1011. An error that only reports the end of this connection counts as `Ok`.
    fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError>;

    /// Called for each message instead of [`message`](Self::message), which it calls by default.
    ///
    /// A program that implements it can borrow the message, which saves an allocation:
    ///
    /// ```
    /// use threadws::connection::Arrival;
    /// use threadws::server::Events;
    /// use threadws::{BoxError, Connection, Message};
    ///
    /// struct Echo;
    ///
    /// impl Events for Echo {
    ///     fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError> {
    ///         Ok(client.write(message)?)
    ///     }
    ///
    ///     fn received(&mut self, arrival: Arrival<'_>) -> Result<(), BoxError> {
    ///         let mut received = arrival.lend()?;
    ///         Ok(received.write(received.message)?)
    ///     }
    /// }
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn_events(|_| Ok(Echo))?;
    /// # let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// # connection.send("hello")?;
    /// # assert_eq!(connection.recv()?, Some("hello".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`message`](Self::message).
    #[inline]
    fn received(&mut self, arrival: Arrival<'_>) -> Result<(), BoxError> {
        let (client, message) = arrival.take()?;
        self.message(client, message)
    }

    /// Called for each ping, after it was answered. Does nothing by default.
    ///
    /// # Errors
    ///
    /// As for [`message`](Self::message).
    fn ping(&mut self, client: &mut Connection, payload: &[u8]) -> Result<(), BoxError> {
        _ = (client, payload);
        Ok(())
    }

    /// Called for each pong. Does nothing by default.
    ///
    /// # Errors
    ///
    /// As for [`message`](Self::message).
    fn pong(&mut self, client: &mut Connection, payload: &[u8]) -> Result<(), BoxError> {
        _ = (client, payload);
        Ok(())
    }

    /// Called once, when the connection has ended: after the client's Close, an error, or a failed callback. `closed` has the
    /// close code, the reason and the error. Does nothing by default.
    ///
    /// The client is still in the hub, and nothing can be sent to it any more. After a panic of another callback this one is not
    /// called.
    fn closed(&mut self, client: &mut Connection, closed: &Closed) {
        _ = (client, closed);
    }
}

impl<F> Events for F
where
    F: FnMut(&mut Connection, Message) -> Result<(), BoxError> + Send + 'static,
{
    #[inline]
    fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError> {
        self(client, message)
    }
}

/// # Run with events
///
/// A client has a thread only while it has something to do.
impl Server {
    /// Serves with events in this thread and in threads of its own, forever. `open` is called once for each client that has
    /// opened. It returns the [`Events`] of this client: a closure that is called for each message, or a value of the program.
    ///
    /// [`run`](Self::run) gives each client a thread, and is simpler. Here an idle client takes no thread and less memory, so a
    /// server can have more of them, and a message costs less processor time, because no thread has to be woken for it.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use threadws::{Connection, Message};
    ///
    /// fn main() -> threadws::Result<()> {
    ///     threadws::Server::bind("127.0.0.1:8005")?.run_events(|client| {
    ///         client.every(Duration::from_secs(3), "a message from the server");
    ///         Ok(|client: &mut Connection, message: Message| {
    ///             println!("{}: {message:?}", client.client_addr());
    ///             Ok(())
    ///         })
    ///     })
    /// }
    /// ```
    ///
    /// # Blocking
    ///
    /// Does not return, except for the errors of the start. `open` and the callbacks may wait: for a file, for a database, in
    /// [`Connection::send`] or in [`Connection::close`]. A callback that runs for more than a millisecond delays other clients by
    /// up to two milliseconds. Then another thread serves them.
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn).
    pub fn run_events<E: Events>(
        self,
        open: impl Fn(&mut Connection) -> Result<E, BoxError> + Send + Sync + 'static,
    ) -> Result<()> {
        self.run_way(Way::events(open))
    }

    /// Like [`run_events`](Self::run_events), but returns a handle, as [`spawn`](Self::spawn) does.
    ///
    /// ```
    /// use threadws::{BoxError, Connection, Message};
    ///
    /// fn echo(client: &mut Connection, message: Message) -> Result<(), BoxError> {
    ///     Ok(client.send(message)?)
    /// }
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn_events(|_| Ok(echo))?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// connection.send("hello")?;
    /// assert_eq!(connection.recv()?, Some("hello".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A value that the closure owns is the state of its client:
    ///
    /// ```
    /// use threadws::{Connection, Message};
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn_events(|client| {
    ///     client.send("your name?")?;
    ///     let mut name = None;
    ///     Ok(move |client: &mut Connection, message: Message| {
    ///         match &name {
    ///             None => name = Some(message.to_string()),
    ///             Some(name) => client.send(format!("{name} says {message}"))?,
    ///         }
    ///         Ok(())
    ///     })
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// connection.send("Ada")?;
    /// connection.send("hello")?;
    /// assert_eq!(connection.recv()?, Some("your name?".into()));
    /// assert_eq!(connection.recv()?, Some("Ada says hello".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn).
    pub fn spawn_events<E: Events>(
        self,
        open: impl Fn(&mut Connection) -> Result<E, BoxError> + Send + Sync + 'static,
    ) -> Result<ServerHandle> {
        self.spawn_way(Way::events(open))
    }

    /// Sets how many threads wait for clients with [`run_events`](Self::run_events), each for its share of them. Defaults to the
    /// number of processors.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = Some(workers);
        self.require(workers > 0, "workers is 0");
        self
    }

    /// Sets how many callbacks of [`run_events`](Self::run_events) can wait at the same time, each in a thread of its own.
    /// Defaults to 2048.
    ///
    /// Messages of further clients wait until a callback returns. Each worker has its share of the threads, and at least one.
    /// One more callback for each worker can wait, if the worker calls it itself while the last of these threads starts.
    pub fn max_callback_threads(mut self, threads: usize) -> Self {
        self.settings.max_callback_threads = threads;
        self.require(threads > 0, "max_callback_threads is 0");
        self
    }

    /// Sets how many handshakes and plain HTTP requests a server with [`run_events`](Self::run_events) reads and answers at the
    /// same time, each in a thread of its own. Defaults to 1024.
    ///
    /// A connection that has sent nothing takes no thread. Further requests wait. Each worker has its share of the threads, and
    /// at least one.
    pub fn max_handshake_threads(mut self, threads: usize) -> Self {
        self.settings.max_handshake_threads = threads;
        self.require(threads > 0, "max_handshake_threads is 0");
        self
    }
}

/// The opening callback of the program.
pub(super) type OpenCallback = dyn Fn(&mut Connection) -> Result<Box<dyn Callbacks>, BoxError> + Send + Sync;

/// [`Events`], for any type of the program.
pub(super) trait Callbacks: Send {
    /// Calls the callbacks for everything that has arrived. Reads once, if `reads` has the time.
    fn receive(&mut self, client: &mut Connection, reads: Option<Instant>) -> Result<Turn, BoxError>;

    fn closed(&mut self, client: &mut Connection, closed: &Closed);
}

impl<E: Events> Callbacks for E {
    fn receive(&mut self, client: &mut Connection, mut reads: Option<Instant>) -> Result<Turn, BoxError> {
        loop {
            match client.next_arrived(&mut reads) {
                Arrived::Message(item) => self.received(Arrival::new(client, item))?,
                Arrived::Nothing(deadline) => return Ok(Turn::Rest(deadline)),
                Arrived::End => return Ok(Turn::End),
                Arrived::Ping(span) => {
                    let payload = client.payload(span);
                    self.ping(client, &payload)?;
                }
                Arrived::Pong(span) => {
                    let payload = client.payload(span);
                    self.pong(client, &payload)?;
                }
            }
        }
    }

    fn closed(&mut self, client: &mut Connection, closed: &Closed) {
        Events::closed(self, client, closed);
    }
}

/// The result of the callbacks of one turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing more has arrived. `None` if an earlier deadline holds.
    Rest(Option<Deadline>),
    /// The connection has ended, or its end was deferred.
    End,
}

/// The sets of a server, one for each worker.
pub(super) struct Workers {
    sets: Vec<Arc<Set<Box<EventClient>>>>,
    watcher: Arc<Watcher>,
    /// Counts the clients, to share them out. Relaxed, because it guards nothing.
    next: AtomicUsize,
}

/// A task of a thread that serves a set.
pub(super) struct SetTask {
    set: Arc<Set<Box<EventClient>>>,
    duty: Duty,
}

impl Threads<Box<EventClient>> for Arc<ThreadPool<Task>> {
    fn start(&self, set: Arc<Set<Box<EventClient>>>, duty: Duty) -> io::Result<()> {
        self.run(Task::Set(SetTask { set, duty }))
    }
}

impl Job for SetTask {
    fn run(self) -> bool {
        self.set.work(self.duty);
        true
    }
}

impl Workers {
    /// Starts the workers and the watcher. Returns the watcher's thread.
    pub(super) fn start(
        pool: &Arc<ThreadPool<Task>>,
        settings: &Settings,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let Settings { max_callback_threads, max_handshake_threads, .. } = *settings;
        let workers = settings.workers.unwrap_or_else(processors);
        let watcher = Arc::new(Watcher::default());
        let share = |threads: usize| threads.div_ceil(workers);
        let (callbacks, handshakes) = (share(max_callback_threads), share(max_handshake_threads));
        let set = |_| Set::new(&watcher, Arc::new(Arc::clone(pool)), callbacks, handshakes);
        let sets = (0..workers).map(set).collect::<io::Result<Vec<_>>>()?;
        let thread = watcher.start(sets.clone())?;
        let workers = Self { sets, watcher, next: AtomicUsize::new(0) };
        for set in &workers.sets {
            set.start().inspect_err(|_| {
                workers.stop();
                workers.stop_watcher();
            })?;
        }
        Ok((workers, thread))
    }

    /// Takes a new client.
    pub(super) fn admit(&self, accepted: Box<Accepted>) {
        let deadline = Deadline::after(accepted.shared().settings.config.handshake_timeout());
        let reads_request = accepted.reads_request();
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(set) = self.sets.get(next % self.sets.len()) else { return };
        let client = EventClient::new(accepted, deadline);
        let stream = Arc::clone(client.stream());
        let refused = if reads_request {
            set.insert(client, stream, deadline)
        } else {
            set.insert_busy(client, stream, Crew::Handshakes)
        };
        // The server has stopped.
        drop(refused);
    }

    /// Ends the workers when their clients have ended.
    pub(super) fn stop(&self) {
        for set in &self.sets {
            set.stop();
        }
    }

    pub(super) fn stop_watcher(&self) {
        self.watcher.stop();
    }
}
