//! A message that is lent to the handler together with the way to answer it.

use super::cork::{Cork, To};
use crate::error::Result;
use crate::message::{IntoMessage, MessageRef};
use std::fmt;

/// A message that is lent, and a way to answer it: what [`Connection::recv_ref`](crate::Connection::recv_ref) returns.
pub struct Received<'a> {
    /// The message.
    pub message: MessageRef<'a>,
    pub(super) to: To<'a>,
    pub(super) cork: &'a mut Cork,
    pub(super) hold: bool,
}

impl Received<'_> {
    /// Answers, as [`Connection::write`](crate::Connection::write) does.
    ///
    /// # Blocking
    ///
    /// As for [`Connection::write`](crate::Connection::write).
    ///
    /// # Errors
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    #[inline(always)]
    pub fn write(&mut self, message: impl IntoMessage) -> Result<()> {
        self.cork.write(self.to, message, self.hold)
    }
}

/// The message, and nothing of the answers that are held.
impl fmt::Debug for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("message", &self.message).finish_non_exhaustive()
    }
}
