//! The settings of a server. `Server` sets them, and all of its threads read them.

use super::failures::HandlerResult;
use crate::config::{Config, SlowPeer};
use crate::connection::Connection;
use crate::error::{Closed, Error, Result};
use crate::handshake::Rules;
use crate::hub::Client;
use crate::sync::{STACK, spawn};

/// The smallest stack of a client's thread, in bytes. The handshake and the read path need it, in a debug build, too.
const MIN_STACK: usize = 64 * 1024;

pub(super) type OnOpen = dyn Fn(&Connection) + Send + Sync;
pub(super) type OnClose = dyn Fn(&Client, &Closed, HandlerResult<'_>) + Send + Sync;
pub(super) type OnError = dyn Fn(&Error) + Send + Sync;

pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) max_clients: Option<usize>,
    pub(super) stack_size: usize,
    pub(super) slow_peer: SlowPeer,
    pub(super) handshake: Rules,
    pub(super) on_open: Option<Box<OnOpen>>,
    pub(super) on_close: Option<Box<OnClose>>,
    pub(super) on_error: Option<Box<OnError>>,
    pub(super) raise_panics: bool,
    /// `None` for the number of processors.
    pub(super) workers: Option<usize>,
    pub(super) max_callback_threads: usize,
    pub(super) max_handshake_threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config::default(),
            max_clients: None,
            stack_size: STACK,
            slow_peer: SlowPeer::default(),
            handshake: Rules::default(),
            on_open: None,
            on_close: None,
            on_error: None,
            raise_panics: false,
            workers: None,
            max_callback_threads: 2048,
            max_handshake_threads: 1024,
        }
    }
}

impl Settings {
    /// Refuses settings that cannot work, alone or together. The others are checked when they are set.
    pub(super) fn check(&self, is_detached: bool) -> Result<()> {
        self.config.check()?;
        if self.handshake.proxy_protocol && self.handshake.trust.is_empty() {
            return Err(Error::invalid("proxy_protocol is on, and no proxy is trusted"));
        }
        if self.handshake.proxy_protocol && is_detached {
            return Err(Error::invalid("proxy_protocol is on, and a detached server reads no PROXY header"));
        }
        if self.handshake.has_tls() && is_detached {
            return Err(Error::invalid(
                "tls is set, and a detached server gets connections that are read already",
            ));
        }
        self.check_stack_size()
    }

    /// Starts a thread with a stack size that is not the default, because only the system knows which sizes it has room for.
    fn check_stack_size(&self) -> Result<()> {
        let size = self.stack_size;
        if size < MIN_STACK {
            return Err(Error::invalid(format!("stack_size {size} is less than {MIN_STACK} bytes")));
        }
        if size == STACK {
            return Ok(());
        }
        let thread = spawn("threadws-client", size, || {})
            .map_err(|error| Error::invalid(format!("stack_size {size}: no thread can have it: {error}")))?;
        // Ignored: the thread does nothing that could panic.
        drop(thread.join());
        Ok(())
    }
}
