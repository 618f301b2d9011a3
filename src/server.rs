//! Values that a running server reports: its [`Capacity`], the [`ShutdownReport`], and how a handler ended. The server
//! itself is [`Server`](crate::Server).

// `builder.rs` has the settings' methods and the start, `callbacks.rs` the callbacks, `handle.rs` the shutdown. `accept.rs`
// accepts, `client_thread.rs` serves one client in a thread of `thread_pool.rs`, and `events.rs` many clients in a few threads.
// `registry.rs` knows every connection.
// `capacity.rs` counts the threads of the process, `failures.rs` keeps the failures of handlers.
mod accept;
mod backplane;
pub(crate) mod builder;
mod callbacks;
mod capacity;
mod client_thread;
mod events;
mod failures;
pub(crate) mod handle;
#[cfg(all(test, model))]
#[path = "verify/models/server.rs"]
mod models;
mod registry;
mod settings;
mod thread_pool;

pub use capacity::Capacity;
pub use events::Events;
pub use failures::{HandlerFailure, HandlerResult};
pub use handle::ShutdownReport;

use crate::addr::Addr;
use crate::connection::Connection;
use crate::deflate_pool::DeflatePool;
use crate::error::{BoxError, Error, Result};
use crate::flush_thread::FlushThread;
use crate::hub::{Hooks, Hub};
use crate::logging::log_line;
use crate::net::Stream;
use crate::quota::Excess;
use crate::stats::{Meter, TurnedAway};
use crate::sync::{Arc, JoinHandle, Mutex, now};
use crate::timer::Timer;
use capacity::Place;
use client_thread::{Accepted, Start};
use events::{Callbacks, OpenCallback, SetTask, Workers};
use failures::Failures;
use registry::Registry;
use settings::Settings;
use std::io;
use thread_pool::{Job, ThreadPool};

/// The target of this module's log lines.
const LOG: &str = "threadws::server";

/// Called for each client, in its own thread.
type Handler = dyn Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync;

/// How a server serves its clients.
enum Way {
    /// Each in a thread of its own.
    Thread(Box<Handler>),
    /// All in a few threads.
    Events(Box<OpenCallback>),
}

impl Way {
    fn events<E: Events>(
        open: impl Fn(&mut Connection) -> Result<E, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self::Events(Box::new(move |client| Ok(Box::new(open(client)?))))
    }

    /// Calls the opening callback.
    fn open(&self, client: &mut Connection) -> Result<Box<dyn Callbacks>, BoxError> {
        match self {
            Self::Thread(_) => Err("the server has no events".into()),
            Self::Events(open) => open(client),
        }
    }
}

/// A task of a thread of the pool.
enum Task {
    Client(Box<Accepted>),
    Set(SetTask),
}

impl Job for Task {
    fn run(self) -> bool {
        match self {
            Self::Client(client) => client.run(),
            Self::Set(task) => task.run(),
        }
    }
}

/// Everything that the threads of a server share.
struct Shared {
    address: Option<Addr>,
    /// How many clients all servers of the process can have.
    process: Capacity,
    capacity: Capacity,
    settings: Settings,
    way: Way,
    /// `None` if each client has a thread.
    workers: Option<Workers>,
    hub: Hub,
    hooks: Arc<Hooks>,
    meter: Meter,
    registry: Registry,
    failures: Failures,
    pool: Arc<ThreadPool<Task>>,
    flush: Arc<FlushThread>,
    timer: Arc<Timer>,
    deflate: Arc<DeflatePool>,
    /// The flush thread, the timer, the watcher and the acceptor, until they are joined.
    own_threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a connection gets no thread.
enum NotAdmitted {
    Full,
    Excess(Excess),
    Stopping,
    NoThread(io::Error),
}

impl NotAdmitted {
    /// The reason in the statistics.
    fn reason(&self) -> TurnedAway {
        match self {
            Self::Full => TurnedAway::Full,
            Self::Excess(Excess::Connections) => TurnedAway::Address,
            Self::Excess(Excess::Handshakes(_)) => TurnedAway::Rate,
            Self::Stopping => TurnedAway::Stopping,
            Self::NoThread(_) => TurnedAway::NoThread,
        }
    }
}

impl Shared {
    /// Starts the flush thread and the timer, and the workers.
    fn start(
        address: Option<Addr>,
        settings: Settings,
        hub: Hub,
        hooks: Hooks,
        meter: Meter,
        way: Way,
    ) -> Result<Arc<Self>> {
        let (flush, flush_thread) = FlushThread::start()?;
        let (timer, timer_thread) = Timer::start().inspect_err(|_| flush.stop())?;
        let mut own_threads = vec![flush_thread, timer_thread];
        let process = match way {
            Way::Thread(_) => Capacity::of_process(settings.stack_size),
            Way::Events(_) => Capacity::without_threads(),
        };
        let pool = Arc::new(ThreadPool::new(settings.stack_size, Arc::clone(meter.counters())));
        let workers = match &way {
            Way::Thread(_) => None,
            Way::Events(_) => {
                let (workers, watcher) = Workers::start(&pool, &settings).inspect_err(|_| {
                    flush.stop();
                    timer.stop();
                    pool.stop();
                })?;
                own_threads.push(watcher);
                Some(workers)
            }
        };
        Ok(Arc::new(Self {
            address,
            process,
            capacity: process.at_most(settings.max_clients.unwrap_or(usize::MAX)),
            pool,
            settings,
            way,
            workers,
            hub,
            hooks: Arc::new(hooks),
            meter,
            registry: Registry::default(),
            failures: Failures::default(),
            flush,
            timer,
            deflate: Arc::new(DeflatePool::new()),
            own_threads: Mutex::new(own_threads),
        }))
    }

    /// Logs the start. `place` is the address or path that the server listens on.
    fn log_start(&self, place: Option<&str>) {
        let (process, capacity) = (self.process, self.capacity);
        if let Some(clients) = self.settings.max_clients.filter(|clients| *clients > process.clients) {
            log_line!(Warn, LOG, "max_clients {clients} is above the limit: {process}");
        }
        if let Some(place) = place {
            log_line!(Info, LOG, "listening on {place}, {capacity}");
        }
    }

    /// Gives a new connection a thread, and counts it. With a `start`, another HTTP server has read the request.
    fn admit(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        peer_addr: Addr,
        start: Option<Start>,
    ) -> std::result::Result<(), NotAdmitted> {
        self.meter.counters().accepted();
        let result = self.try_admit(stream, peer_addr, start);
        result.inspect_err(|refused| self.meter.counters().refused(refused.reason()))
    }

    fn try_admit(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        peer_addr: Addr,
        start: Option<Start>,
    ) -> std::result::Result<(), NotAdmitted> {
        let place = self.place().ok_or(NotAdmitted::Full)?;
        // After the place was found: a client that is turned away by a full server takes no handshake from its address.
        let start = match start {
            Some(start) => start,
            None => Start::Socket(self.settings.handshake.source(peer_addr).map_err(NotAdmitted::Excess)?),
        };
        let client = Accepted::new(self, stream, peer_addr, place, start).ok_or(NotAdmitted::Stopping)?;
        match &self.workers {
            None => self.pool.run(Task::Client(client)).map_err(NotAdmitted::NoThread),
            Some(workers) => {
                workers.admit(client);
                Ok(())
            }
        }
    }

    /// Takes a place for one more client, if this server and the process have one.
    fn place(&self) -> Option<Place> {
        if self.registry.count() < self.capacity.clients { Place::take(self.process) } else { None }
    }

    fn stop_threads(&self) {
        self.hub.stop_backplane(now());
        if let Some(workers) = &self.workers {
            workers.stop();
            workers.stop_watcher();
        }
        self.timer.stop();
        self.flush.stop();
    }
}

/// Ends the timer and the flush thread here and not in the shutdown, because handlers that were abandoned need them.
impl Drop for Shared {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

fn no_address() -> Error {
    Error::invalid("a detached server has no address")
}
