//! Limits that end a connection although its peer is alive: its lifetime, its idle time, and the client's message rate.

use super::Connection;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::message::{CloseCode, CloseFrame, State};
use crate::net::Deadline;
use crate::outbox::Outbox;
use crate::stats::PolicyClose;
use crate::sync::now;
use std::time::{Duration, Instant};

/// The limits that a peer cannot extend with pings and pongs: lifetime and idle timeout.
#[derive(Debug)]
pub(super) struct AgeLimits {
    lifetime: Deadline,
    idle: Option<Idle>,
}

#[derive(Debug)]
struct Idle {
    timeout: Duration,
    /// When the last data message was sent or received, as far as the reader knows.
    last: Instant,
    /// The number of messages that had been received then.
    messages: u64,
    /// The reader has looked for a message since the timeout passed, and found none.
    has_looked: bool,
}

impl AgeLimits {
    /// Returns `None` if neither limit is set.
    pub(super) fn new(config: &Config, opened: Instant) -> Option<Self> {
        let lifetime = config.max_lifetime().and_then(|time| opened.checked_add(time));
        let idle = config.idle_timeout().map(|timeout| Idle {
            timeout,
            last: opened,
            messages: 0,
            has_looked: false,
        });
        (lifetime.is_some() || idle.is_some()).then(|| Self { lifetime: lifetime.into(), idle })
    }

    /// Returns when [`due`](Self::due) must be called again. `message` is the deadline of the message that is arriving.
    pub(super) fn deadline(&self, message: Deadline) -> Deadline {
        match &self.idle {
            Some(idle) if message == Deadline::NEVER => {
                self.lifetime.or(idle.last.checked_add(idle.timeout).into())
            }
            _ => self.lifetime,
        }
    }

    /// Called before each read. If a limit ends the connection now, returns it, and the reason for the Close.
    pub(super) fn due(
        &mut self,
        now: Instant,
        messages: u64,
        message: Deadline,
        outbox: &Outbox,
    ) -> Option<(PolicyClose, &'static str)> {
        if self.lifetime.has_passed(now) {
            return Some((PolicyClose::Lifetime, "maximum lifetime"));
        }
        let idle = self.idle.as_mut()?;
        idle.is_over(now, messages, message, outbox).then_some((PolicyClose::Idle, "idle timeout"))
    }
}

impl Idle {
    fn is_over(&mut self, now: Instant, messages: u64, message: Deadline, outbox: &Outbox) -> bool {
        if messages != self.messages {
            // The message arrived with the last read or before. The latest possible time counts.
            self.messages = messages;
            self.last = now;
        }
        let is_up = |last: Instant| now.saturating_duration_since(last) >= self.timeout;
        if message != Deadline::NEVER || !is_up(self.last) {
            self.has_looked = false;
            return false;
        }
        // Other threads send without the reader. Their time is looked up only now.
        self.last = outbox.last_sent(now).map_or(self.last, |sent| sent.max(self.last));
        // The handler may have been busy, and a message may wait in the socket. The reader looks once, because a peer that
        // sends only pings could otherwise keep the connection open forever.
        let up = is_up(self.last);
        std::mem::replace(&mut self.has_looked, up) && up
    }
}

impl Connection {
    /// Closes the connection because of a limit. Messages that arrive before the peer's Close are still received.
    pub(super) fn retire(&mut self, policy: PolicyClose, reason: &'static str) {
        self.queue_held();
        let outbox = self.sender.outbox();
        if outbox.close(Some(CloseFrame::new(CloseCode::GOING_AWAY, reason))) {
            // The flush thread keeps the close deadline, because the handler may not read until the peer's Close arrives.
            outbox.watch_close();
            self.counters.closed_by(policy);
        }
    }

    /// Counts one message for the client's address, or ends the connection if that exceeds the message rate.
    pub(super) fn count_message(&mut self) -> Result<()> {
        let Some(rate) = &self.message_rate else { return Ok(()) };
        if rate.take(now).is_ok() {
            return Ok(());
        }
        if self.sender.state() != State::Open {
            // Messages that were on the wire when the server closed break no limit. They do not restart the close deadline
            // either.
            self.last_close_deadline();
            return Ok(());
        }
        let rate = rate.rate();
        self.counters.closed_by(PolicyClose::MessageRate);
        Err(self.fail(Error::TooManyMessages { limit: rate.limit, per: rate.per }))
    }
}
