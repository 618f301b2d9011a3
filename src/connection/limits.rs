//! What ends a connection although nothing is wrong with it: its age, silence, and its client's share of messages.

use super::Connection;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::message::{CloseCode, CloseFrame, State};
use crate::net::Deadline;
use crate::outbox::Outbox;
use crate::stats::PolicyClose;
use crate::sync::now;
use std::time::{Duration, Instant};

/// The clocks of a connection that its peer cannot wind up by being alive.
#[derive(Debug)]
pub(super) struct AgeLimits {
    lifetime: Deadline,
    idle: Option<Idle>,
}

#[derive(Debug)]
struct Idle {
    timeout: Duration,
    /// The last data message, as far as is known.
    last: Instant,
    /// How many had been received by then.
    messages: u64,
    /// Since the time was up, the reader has looked for more, and found no message.
    looked: bool,
}

impl AgeLimits {
    /// `None` if neither is set.
    pub(super) fn new(config: &Config, opened: Instant) -> Option<Self> {
        let lifetime = config.max_lifetime().and_then(|time| opened.checked_add(time));
        let idle =
            config.idle_timeout().map(|timeout| Idle { timeout, last: opened, messages: 0, looked: false });
        (lifetime.is_some() || idle.is_some()).then(|| Self { lifetime: lifetime.into(), idle })
    }

    /// When to look again, given the deadline of a message that is arriving.
    pub(super) fn deadline(&self, message: Deadline) -> Deadline {
        match &self.idle {
            Some(idle) if message == Deadline::NEVER => {
                self.lifetime.or(idle.last.checked_add(idle.timeout).into())
            }
            _ => self.lifetime,
        }
    }

    /// Which policy ends the connection now, before the next read, if one does; and what the peer is told.
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
            // It came with the last read, or one before: as late as may be.
            self.messages = messages;
            self.last = now;
        }
        let is_up = |last: Instant| now.saturating_duration_since(last) >= self.timeout;
        if message != Deadline::NEVER || !is_up(self.last) {
            self.looked = false;
            return false;
        }
        // Others send without a word to the reader: asked for only now.
        self.last = outbox.last_sent(now).map_or(self.last, |sent| sent.max(self.last));
        // The handler may have been busy for long: something may wait in the socket. It is looked for once, or a peer
        // that sends nothing but pings would be looked at for ever.
        let up = is_up(self.last);
        std::mem::replace(&mut self.looked, up) && up
    }
}

impl Connection {
    /// Closes for a policy's sake; what comes before the peer's Close is still received.
    pub(super) fn retire(&mut self, policy: PolicyClose, reason: &'static str) {
        self.let_go();
        let outbox = self.sender.outbox();
        if outbox.close(Some(CloseFrame::new(CloseCode::GOING_AWAY, reason))) {
            // The caller may have to do something else before the peer's Close is here.
            outbox.watch_close();
            self.counters.closed_by(policy);
        }
    }

    /// Takes one message from what the client's address may send, or ends the connection.
    pub(super) fn count_message(&mut self) -> Result<()> {
        let Some(messages) = &self.messages else { return Ok(()) };
        // What was on its way when we closed is nobody's fault.
        if self.sender.state() != State::Open || messages.take(now).is_ok() {
            return Ok(());
        }
        let rate = messages.rate();
        self.counters.closed_by(PolicyClose::MessageRate);
        Err(self.fail(Error::TooManyMessages { limit: rate.limit, per: rate.per }))
    }
}
