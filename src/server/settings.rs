//! The settings of a server. `Server` sets them, and all of its threads read them.

use crate::config::{Config, SlowPeer};
use crate::error::{Error, Result};
use crate::handshake::Rules;

/// The stack of a client's thread, in bytes: enough for the handshake, the read path and an ordinary handler. Only the pages
/// that are used take memory.
const STACK: usize = 256 * 1024;

pub(super) type OnError = dyn Fn(&Error) + Send + Sync;

pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) max_clients: Option<usize>,
    pub(super) stack_size: usize,
    pub(super) slow_peer: SlowPeer,
    pub(super) handshake: Rules,
    pub(super) on_error: Option<Box<OnError>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config::default(),
            max_clients: None,
            stack_size: STACK,
            slow_peer: SlowPeer::default(),
            handshake: Rules::default(),
            on_error: None,
        }
    }
}

impl Settings {
    /// Refuses settings that cannot work together. Each setting alone is checked when it is set.
    pub(super) fn check(&self) -> Result<()> {
        self.config.check()?;
        if self.handshake.proxy_protocol && self.handshake.trust.is_empty() {
            return Err(Error::invalid("proxy_protocol is on, and no proxy is trusted"));
        }
        Ok(())
    }
}
