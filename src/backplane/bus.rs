//! One server's part of a backplane: the state that its hub and its two threads share.
//!
//! One lock guards the state. It is held neither for I/O nor for a delivery or callback. [`publish`](Bus::publish) queues and
//! returns. The sending thread (`send.rs`) takes from the queue, the receiving thread (`receive.rs`) delivers to the hub.

use super::engine::{Engine, LinkReader};
use super::envelope::{EnvelopeHead, EnvelopeKind};
use super::ledger::{NodeId, Position};
use super::queue::{Envelope, PublishQueue, QueueLimits};
use super::wanted::{Changes, Wanted};
use super::{Backplane, Gap, GapHook, LinkState, Status};
use crate::logging::{contain, log_line};
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, MutexGuard, OnceLock, ThreadId, Weak, now, this_thread};
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

pub(super) const LOG: &str = "threadws::backplane";

/// How often the engine is asked for an answer, and how often this server says that it lives.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long the engine may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest pause between two attempts to connect.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How much is sent at most between two flushes.
const MAX_BATCH: usize = 256 << 10;

/// The clients of this server, as the receiving thread sees them: a hub.
pub(crate) trait LocalClients: Send + Sync {
    /// Sends whole frames to the subscribers of a topic, or to all clients. Does not wait.
    fn deliver(&self, topic: Option<&str>, frames: Arc<[u8]>, messages: u64);

    /// Returns how many clients are connected.
    fn count(&self) -> usize;
}

/// One server's part of a backplane.
pub(crate) struct Bus {
    pub(super) engine: Box<dyn Engine>,
    pub(super) node: NodeId,
    pub(super) settings: BusSettings,
    /// The longest message that is accepted from another server, in bytes.
    pub(super) max_message: usize,
    everyone: Arc<str>,
    alive: Arc<str>,
    local: OnceLock<Weak<dyn LocalClients>>,
    on_gap: OnceLock<Box<GapHook>>,
    state: Mutex<BusState>,
    /// Notified after every change that a thread waits for.
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Clone)]
pub(super) struct BusSettings {
    pub(super) prefix: String,
    pub(super) limits: QueueLimits,
    pub(super) linger: Duration,
    pub(super) confirm_timeout: Duration,
}

pub(super) struct BusState {
    pub(super) queue: PublishQueue,
    pub(super) wanted: Wanted,
    pub(super) state: LinkState,
    pub(super) since: Instant,
    pub(super) cause: Option<String>,
    pub(super) link: BusLink,
    pub(super) counters: BusCounters,
    /// Until when the queue may be sent. `None` until the server stops.
    pub(super) stop: Option<Instant>,
    pub(super) nodes: usize,
    receiver: Option<ThreadId>,
    /// The sending thread waits for the engine to accept a connection.
    pub(super) is_connecting: bool,
}

/// The link that the two threads use.
#[derive(Default)]
pub(super) struct BusLink {
    /// For the receiving thread to take.
    pub(super) reader: Option<Box<dyn LinkReader>>,
    /// The receiving thread has the reader.
    pub(super) is_read: bool,
    /// Set by the thread that finds the link broken.
    pub(super) error: Option<io::Error>,
    /// The oldest ping without an answer.
    pub(super) pinged: Option<Instant>,
    next_ping: Option<Instant>,
    /// Until then, other servers may not have subscribed again, so nothing is published.
    settles: Option<Instant>,
    /// The receiving thread reports that messages may have been missed.
    pub(super) report_loss: bool,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BusCounters {
    pub(super) connects: u64,
    pub(super) received: u64,
    pub(super) missed: u64,
    pub(super) repeated: u64,
    pub(super) foreign: u64,
    pub(super) refused: u64,
}

/// The next step of the sending thread.
pub(super) enum Work {
    Send {
        changes: Changes,
        envelopes: Vec<Envelope>,
        ping: bool,
        /// Tell the other servers that this one lives.
        alive: bool,
    },
    /// The link is broken, or the server stops and everything is sent.
    End,
}

impl Bus {
    pub(super) fn new(backplane: Backplane, max_message: usize) -> Arc<Self> {
        let Backplane { engine, settings } = backplane;
        let node = rand::random();
        let name = |rest| Arc::from(format!("{}:{rest}", settings.prefix));
        let (everyone, alive): (Arc<str>, Arc<str>) = (name("a"), name("c"));
        let mut wanted = Wanted::new(settings.linger);
        wanted.add(&everyone);
        wanted.add(&alive);
        let state = BusState {
            queue: PublishQueue::new(node, settings.limits),
            wanted,
            state: LinkState::Connecting,
            since: now(),
            cause: None,
            link: BusLink::default(),
            counters: BusCounters::default(),
            stop: None,
            nodes: 0,
            receiver: None,
            is_connecting: false,
        };
        Arc::new(Self {
            engine,
            node,
            settings,
            max_message,
            everyone,
            alive,
            local: OnceLock::new(),
            on_gap: OnceLock::new(),
            state: Mutex::new(state),
            changed: Condvar::default(),
            threads: Mutex::default(),
        })
    }

    /// Starts the two threads. They end after [`stop`](Self::stop).
    pub(crate) fn start(
        self: &Arc<Self>,
        local: Weak<dyn LocalClients>,
        on_gap: Option<Box<GapHook>>,
    ) -> io::Result<()> {
        // A bus is started once.
        drop(self.local.set(local));
        if let Some(hook) = on_gap {
            drop(self.on_gap.set(hook));
        }
        let sender = super::send::start(Arc::clone(self))?;
        self.threads.lock().push(sender);
        let receiver = super::receive::start(Arc::clone(self)).inspect_err(|_| self.stop(now()))?;
        self.threads.lock().push(receiver);
        Ok(())
    }

    /// Passes messages on. Returns false if they are longer than the queue, or the server has stopped.
    pub(crate) fn publish(&self, topic: Option<&str>, frames: Arc<[u8]>, messages: u64) -> bool {
        let channel = self.channel(topic);
        let Ok(messages) = u32::try_from(messages) else { return false };
        let mut state = self.lock();
        if state.stop.is_some() {
            state.counters.refused += u64::from(messages);
            return false;
        }
        let passed_on = state.queue.push(&channel, frames, messages, now());
        drop(state);
        self.changed.notify_all();
        passed_on
    }

    /// Counts a subscriber of a topic. Waits until the engine has confirmed the subscription, at most for the configured time.
    pub(crate) fn subscribe(&self, topic: &str) {
        let channel = self.channel(Some(topic));
        let mut state = self.lock();
        let is_heard = state.wanted.add(&channel);
        self.changed.notify_all();
        // The receiving thread would wait for itself.
        if is_heard || state.receiver == Some(this_thread()) {
            return;
        }
        let deadline = now() + self.settings.confirm_timeout;
        while state.state == LinkState::Up && !state.wanted.is_confirmed(&channel) && now() < deadline {
            state = self.changed.wait_until(state, Some(deadline));
        }
    }

    /// Counts a subscriber less.
    pub(crate) fn unsubscribe(&self, topic: &str) {
        let channel = self.channel(Some(topic));
        self.lock().wanted.remove(&channel, now());
        self.changed.notify_all();
    }

    /// Ends the threads, after the queue has been sent or at `deadline`.
    ///
    /// A thread that connects just then is not waited for. It ends when that has succeeded or failed.
    pub(crate) fn stop(&self, deadline: Instant) {
        let mut state = self.lock();
        state.stop.get_or_insert(deadline);
        self.changed.notify_all();
        while state.state != LinkState::Stopped && !state.is_connecting && now() < deadline {
            state = self.changed.wait_until(state, Some(deadline));
        }
        let has_stopped = state.state == LinkState::Stopped;
        drop(state);
        let threads = std::mem::take(&mut *self.threads.lock());
        if has_stopped {
            // `on_gap` may have called this.
            for thread in threads.into_iter().filter(|thread| thread.thread().id() != this_thread()) {
                // A panic there is a bug of this crate. The panic hook has printed it.
                drop(thread.join());
            }
        }
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.lock();
        Status {
            state: state.state,
            since: state.since,
            cause: state.cause.clone(),
            nodes: state.nodes,
            channels: state.wanted.heard(),
            waiting_bytes: state.queue.bytes(),
            passed_on: state.queue.taken,
            received: state.counters.received,
            missed: state.counters.missed,
            repeated: state.counters.repeated,
            foreign: state.counters.foreign,
            dropped: state.queue.dropped.full + state.queue.dropped.old + state.counters.refused,
            connects: state.counters.connects,
        }
    }

    fn channel(&self, topic: Option<&str>) -> Arc<str> {
        topic.map_or_else(
            || Arc::clone(&self.everyone),
            |topic| format!("{}:t:{topic}", self.settings.prefix).into(),
        )
    }
}

/// A channel, as the receiving thread sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination<'a> {
    /// A topic, or all clients.
    Clients(Option<&'a str>),
    /// The servers.
    Servers,
}

/// # For the two threads
impl Bus {
    pub(super) fn lock(&self) -> MutexGuard<'_, BusState> {
        self.state.lock()
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change, at most until the deadline.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, BusState>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, BusState> {
        self.changed.wait_until(state, deadline)
    }

    pub(super) fn local(&self) -> Option<Arc<dyn LocalClients>> {
        self.local.get()?.upgrade()
    }

    pub(super) fn destination<'a>(&self, channel: &'a str) -> Option<Destination<'a>> {
        let rest = channel.strip_prefix(&self.settings.prefix)?.strip_prefix(':')?;
        match rest {
            "a" => Some(Destination::Clients(None)),
            "c" => Some(Destination::Servers),
            _ => rest.strip_prefix("t:").map(|topic| Destination::Clients(Some(topic))),
        }
    }

    /// Tells the program that messages were missed.
    pub(super) fn report(&self, gap: &Gap) {
        if let Some(hook) = self.on_gap.get() {
            contain(LOG, "the callback on_gap", || hook(gap));
        }
    }

    pub(super) fn set_receiver(&self) {
        self.lock().receiver = Some(this_thread());
    }

    /// Returns false if the server has stopped.
    pub(super) fn begin_connect(&self) -> bool {
        let mut state = self.lock();
        state.is_connecting = state.stop.is_none();
        state.is_connecting
    }

    /// Waits for something to send on a link.
    pub(super) fn next_work(&self) -> Work {
        let mut state = self.lock();
        loop {
            let now = now();
            if state.link.error.is_some() {
                return Work::End;
            }
            let changes = state.wanted.next(now);
            state.settle(now, self);
            let ping = state.link.next_ping.is_none_or(|moment| moment <= now);
            if ping {
                state.link.next_ping = Some(now + PING_INTERVAL);
                state.link.pinged.get_or_insert(now);
            }
            let is_up = state.state == LinkState::Up;
            let envelopes = if is_up { state.take_batch(now) } else { Vec::new() };
            if !changes.is_empty() || ping || !envelopes.is_empty() {
                return Work::Send { changes, envelopes, ping, alive: ping && is_up };
            }
            if let Some(deadline) = state.stop {
                if state.queue.is_empty() || state.state != LinkState::Up || deadline <= now {
                    return Work::End;
                }
            }
            let deadlines =
                [state.link.next_ping, state.wanted.next_deadline(), state.link.settles, state.stop];
            let deadline = deadlines.into_iter().flatten().min();
            state = self.changed.wait_until(state, deadline);
        }
    }

    /// Returns an envelope about this server.
    pub(super) fn about_myself(&self, kind: EnvelopeKind) -> Envelope {
        let count = self.local().map_or(0, |local| local.count());
        let head = EnvelopeHead {
            kind,
            node: self.node,
            position: Position { stream: 0, first: 0 },
            count: count.try_into().unwrap_or(u32::MAX),
        };
        let envelope = Envelope::new(Arc::clone(&self.alive), head, Arc::from([]), now());
        self.lock().queue.sent(envelope.clone());
        envelope
    }
}

impl BusState {
    pub(super) fn enter(&mut self, state: LinkState, cause: Option<String>) {
        if self.state != state {
            self.since = now();
        }
        self.state = state;
        self.cause = cause;
    }

    /// Becomes ready to publish once everything wanted is heard.
    fn settle(&mut self, now: Instant, bus: &Bus) {
        if self.state == LinkState::Up
            || !self.wanted.is_settled()
            || self.link.settles.is_some_and(|moment| now < moment)
        {
            return;
        }
        let away = now.saturating_duration_since(self.since);
        self.enter(LinkState::Up, None);
        bus.notify();
        // The other servers hear at once that this one lives.
        self.link.next_ping = None;
        if self.counters.connects > 1 {
            self.link.report_loss = true;
            log_line!(Info, LOG, "{} is back after {:.1} s", bus.engine, away.as_secs_f64());
        } else {
            log_line!(Info, LOG, "connected to {}", bus.engine);
        }
    }

    fn take_batch(&mut self, now: Instant) -> Vec<Envelope> {
        let (mut envelopes, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_BATCH {
            let Some(envelope) = self.queue.take(now) else { break };
            bytes += envelope.body.len();
            envelopes.push(envelope);
        }
        envelopes
    }

    /// Begins to use a link.
    pub(super) fn begin_link(&mut self, reader: Box<dyn LinkReader>, was_away: bool) {
        self.counters.connects += 1;
        self.link = BusLink {
            reader: Some(reader),
            settles: was_away.then(|| now() + MAX_PAUSE),
            ..BusLink::default()
        };
    }

    /// Ends the use of a link. The others will miss nothing that waits.
    pub(super) fn end_link(&mut self) {
        self.link = BusLink::default();
        self.queue.link_lost();
        self.wanted.link_lost();
    }

    /// Returns whether the engine has not answered for too long. Asked only after a read that found nothing.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.link.pinged.is_some_and(|moment| now.saturating_duration_since(moment) > PING_TIMEOUT)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("status", &self.status()).finish_non_exhaustive()
    }
}
