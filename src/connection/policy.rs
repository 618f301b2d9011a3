//! What a connection does not outlive although nothing is wrong with it: its client's share of messages.

use super::Connection;
use crate::error::{Error, Result};
use crate::message::State;
use crate::stats::Policy;
use crate::sync::now;

impl Connection {
    /// Takes one message from what the client's address may send, or ends the connection.
    pub(super) fn count_message(&mut self) -> Result<()> {
        let Some(messages) = &self.messages else { return Ok(()) };
        // What was on its way when we closed is nobody's fault.
        if self.sender.state() != State::Open || messages.take(now()).is_ok() {
            return Ok(());
        }
        let rate = messages.rate();
        self.hub.counters().closed_by(Policy::MessageRate);
        Err(self.fail(Error::TooManyMessages { limit: rate.limit, per: rate.per }))
    }
}
