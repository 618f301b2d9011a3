//! Passes messages on to the clients of other servers.
//!
//! With a [`Backplane`], [`Hub::broadcast`](crate::hub::Hub::broadcast) and [`Hub::publish`](crate::hub::Hub::publish) reach the
//! clients of every server that uses the same engine and prefix. The engine carries the messages: [`Memory`] within a process,
//! or another one that implements [`Engine`].
//!
//! ```
//! use threadws::{Server, backplane::Memory};
//!
//! # fn main() -> threadws::Result<()> {
//! let memory = Memory::new();
//! let serve = || {
//!     Server::bind("127.0.0.1:0")?.backplane(memory.clone()).spawn(|client| {
//!         client.subscribe("room")?;
//!         Ok(client.ignore()?)
//!     })
//! };
//! let (one, other) = (serve()?, serve()?);
//! let mut client = threadws::connect(format!("ws://{}/", one.local_addr()?))?;
//! one.hub().wait_count(1.., std::time::Duration::from_secs(5))?;
//! # while one.hub().topics().is_empty() || one.hub().backplane().is_some_and(|status| status.channels < 3) {
//! #     std::thread::sleep(std::time::Duration::from_millis(1));
//! # }
//! # while other.hub().backplane().is_some_and(|status| status.channels < 2) {
//! #     std::thread::sleep(std::time::Duration::from_millis(1));
//! # }
//! other.hub().publish("room", "from the other server");
//! assert_eq!(client.recv()?, Some("from the other server".into()));
//! # Ok(())
//! # }
//! ```
//!
//! # Delivery
//!
//! The clients of the own server get a message at once, whatever the state of the engine. To other servers a message is
//! delivered at most once, and in the order of its publisher. If the engine is away, messages wait for it, up to
//! [`max_waiting`](Backplane::max_waiting) and [`max_age`](Backplane::max_age). A server counts what it missed, and calls
//! [`Server::on_gap`](crate::Server::on_gap).

mod bus;
mod engine;
mod envelope;
mod ledger;
mod memory;
mod queue;
mod receive;
mod send;
mod wanted;

pub(crate) use bus::{Bus, LocalClients};
pub use engine::{Engine, LinkEvent, LinkReader, LinkWriter};
pub use memory::Memory;

use crate::error::{Error, Result};
use crate::sync::Arc;
use bus::BusSettings;
use queue::QueueLimits;
use std::fmt;
use std::time::{Duration, Instant};

/// An engine, and how a server uses it. An engine alone is a backplane with the defaults.
pub struct Backplane {
    engine: Box<dyn Engine>,
    settings: BusSettings,
}

impl Backplane {
    /// Uses an engine with the defaults. Connects only when the server starts.
    pub fn new(engine: impl Engine) -> Self {
        let limits = QueueLimits { max_waiting: 8 << 20, max_age: Duration::from_secs(30) };
        let settings = BusSettings {
            prefix: "threadws".to_owned(),
            limits,
            linger: Duration::from_secs(10),
            confirm_timeout: Duration::from_millis(250),
        };
        Self { engine: Box::new(engine), settings }
    }

    /// Sets the beginning of the names of all channels. Defaults to `threadws`.
    ///
    /// It has 1 to 64 bytes. Servers with different prefixes hear nothing of each other, though they use the same engine.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.prefix = prefix.into();
        self
    }

    /// Sets how many bytes wait for the engine at most. Defaults to 8 MiB.
    ///
    /// If more would wait, the oldest messages are dropped. The other servers count them as missed.
    pub fn max_waiting(mut self, bytes: usize) -> Self {
        self.settings.limits.max_waiting = bytes;
        self
    }

    /// Sets how long a message waits for the engine at most. Defaults to 30 seconds.
    ///
    /// An older message is dropped. The other servers count it as missed.
    pub fn max_age(mut self, time: Duration) -> Self {
        self.settings.limits.max_age = time;
        self
    }

    /// Sets how long a topic without subscribers on this server stays subscribed at the engine. Defaults to 10 seconds.
    pub fn linger(mut self, time: Duration) -> Self {
        self.settings.linger = time.min(MAX_TIME);
        self
    }

    /// Sets how long the first [`subscribe`](crate::Connection::subscribe) to a topic waits until the engine has confirmed it.
    /// Defaults to 250 milliseconds. Zero does not wait.
    ///
    /// A message that any server publishes after the confirmation is received. While the engine is away, `subscribe` does not wait.
    pub fn confirm_timeout(mut self, time: Duration) -> Self {
        self.settings.confirm_timeout = time.min(MAX_TIME);
        self
    }

    /// # Errors
    ///
    /// [`Error::Invalid`]: a setting cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        let BusSettings { prefix, limits, .. } = &self.settings;
        if !(1..=MAX_PREFIX).contains(&prefix.len()) {
            return Err(Error::invalid("the prefix of a backplane has 1 to 64 bytes"));
        }
        if limits.max_waiting == 0 {
            return Err(Error::invalid("max_waiting is 0"));
        }
        if limits.max_age.is_zero() {
            return Err(Error::invalid("max_age is 0"));
        }
        Ok(())
    }

    /// Returns the part of one server, which accepts messages of at most `max_message` bytes from the others.
    pub(crate) fn into_bus(self, max_message: usize) -> Arc<Bus> {
        Bus::new(self, max_message)
    }
}

/// The longest prefix in bytes.
const MAX_PREFIX: usize = 64;

/// The type of `on_gap`.
pub(crate) type GapHook = dyn Fn(&Gap) + Send + Sync;

/// A longer time would overflow an `Instant`.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

impl<E: Engine> From<E> for Backplane {
    fn from(engine: E) -> Self {
        Self::new(engine)
    }
}

impl fmt::Debug for Backplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, settings } = self;
        let engine = engine.to_string();
        f.debug_struct("Backplane").field("engine", &engine).field("settings", settings).finish()
    }
}

/// The state of a server's link to its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkState {
    /// The server has not yet connected, or it subscribes to what its clients want.
    Connecting,
    /// Messages reach the other servers, and theirs reach this one.
    Up,
    /// The engine cannot be reached. Messages wait.
    Away,
    /// The engine refuses this server. Messages wait.
    Refused,
    /// The server has ended.
    Stopped,
}

/// The state and the counters of a backplane. BusCounters begin at zero when the server starts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The state of the link.
    pub state: LinkState,
    /// Since when it has this state.
    pub since: Instant,
    /// Why the link is not up.
    pub cause: Option<String>,
    /// How many other servers were heard of within the last 6 seconds.
    pub nodes: usize,
    /// How many channels are subscribed: the topics, and two more.
    pub channels: usize,
    /// How many bytes wait for the engine.
    pub waiting_bytes: usize,
    /// How many messages the engine has taken.
    pub passed_on: u64,
    /// How many messages of other servers arrived.
    pub received: u64,
    /// How many messages of other servers did not arrive.
    pub missed: u64,
    /// How many messages arrived again, and were ignored.
    pub repeated: u64,
    /// How many messages on the engine's channels were no messages of a server, and were ignored.
    pub foreign: u64,
    /// How many messages were dropped, because they were too large, too old, or too many waited.
    pub dropped: u64,
    /// How often the server connected.
    pub connects: u64,
}

/// Messages of other servers that this server missed, so its clients did not get them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    topic: Option<String>,
    missed: Option<u64>,
}

impl Gap {
    /// Returns the topic. `None` if the messages were for all clients, or the topics are not known.
    pub fn topic(&self) -> Option<&str> {
        self.topic.as_deref()
    }

    /// Returns how many messages were missed. `None` after a loss of the link: there may be some, and the next message of
    /// their publisher shows how many.
    pub fn missed(&self) -> Option<u64> {
        self.missed
    }
}

/// Returns the number of messages and the frames of an envelope, for a fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn decoded(envelope: &[u8]) -> Option<(u32, &[u8])> {
    envelope::EnvelopeHead::decode(envelope).map(|(head, body)| (head.count, body))
}
