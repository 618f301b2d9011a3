//! Values that a running server reports: its [`Capacity`], the [`ShutdownReport`], and how a handler ended. The server
//! itself is [`Server`](crate::Server).

// `builder.rs` has the settings' methods and the start, `callbacks.rs` the callbacks, `handle.rs` the shutdown. `accept.rs`
// accepts, `client_thread.rs` serves one client in a thread of `thread_pool.rs`. `registry.rs` knows every connection.
// `capacity.rs` counts the threads of the process, `failures.rs` keeps the failures of handlers.
mod accept;
pub(crate) mod builder;
mod callbacks;
mod capacity;
mod client_thread;
mod failures;
pub(crate) mod handle;
#[cfg(all(test, model))]
#[path = "verify/models/server.rs"]
mod models;
mod registry;
mod settings;
mod thread_pool;

pub use capacity::Capacity;
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
use crate::sync::{Arc, JoinHandle, Mutex};
use crate::timer::Timer;
use capacity::Place;
use client_thread::{Accepted, Start};
use failures::Failures;
use registry::Registry;
use settings::Settings;
use std::io;
use thread_pool::ThreadPool;

/// The target of this module's log lines.
const LOG: &str = "threadws::server";

/// Called for each client, in its own thread.
type Handler = dyn Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync;

/// Everything that the threads of a server share.
struct Shared {
    address: Option<Addr>,
    /// How many clients all servers of the process can have.
    process: Capacity,
    capacity: Capacity,
    settings: Settings,
    handler: Box<Handler>,
    hub: Hub,
    hooks: Arc<Hooks>,
    meter: Meter,
    registry: Registry,
    failures: Failures,
    pool: Arc<ThreadPool<Box<Accepted>>>,
    flush: Arc<FlushThread>,
    timer: Arc<Timer>,
    deflate: Arc<DeflatePool>,
    /// The flush thread, the timer and the acceptor, until they are joined.
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
    /// Starts the flush thread and the timer.
    fn start(
        address: Option<Addr>,
        settings: Settings,
        hub: Hub,
        hooks: Hooks,
        meter: Meter,
        handler: Box<Handler>,
    ) -> Result<Arc<Self>> {
        let (flush, flush_thread) = FlushThread::start()?;
        let (timer, timer_thread) = Timer::start().inspect_err(|_| flush.stop())?;
        let process = Capacity::of_process(settings.stack_size);
        Ok(Arc::new(Self {
            address,
            process,
            capacity: process.at_most(settings.max_clients.unwrap_or(usize::MAX)),
            pool: Arc::new(ThreadPool::new(settings.stack_size, Arc::clone(meter.counters()))),
            settings,
            handler,
            hub,
            hooks: Arc::new(hooks),
            meter,
            registry: Registry::default(),
            failures: Failures::default(),
            flush,
            timer,
            deflate: Arc::new(DeflatePool::new()),
            own_threads: Mutex::new(vec![flush_thread, timer_thread]),
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
        self.pool.run(client).map_err(NotAdmitted::NoThread)
    }

    /// Takes a place for one more client, if this server and the process have one.
    fn place(&self) -> Option<Place> {
        if self.registry.count() < self.capacity.clients { Place::take(self.process) } else { None }
    }

    fn stop_threads(&self) {
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
