//! The settings for other servers, and their start.

use super::Shared;
use super::builder::Server;
use crate::backplane::{Backplane, Gap, GapHook};
use crate::error::Result;
use crate::sync::Arc;

/// # Other servers
impl Server {
    /// Passes broadcast and published messages on to the clients of other servers, by an engine such as
    /// [`Memory`](crate::backplane::Memory). Defaults to none. See [`backplane`](crate::backplane).
    pub fn backplane(mut self, backplane: impl Into<Backplane>) -> Self {
        self.others.backplane = Some(backplane.into());
        self
    }

    /// Sets a callback for messages of other servers that this server missed. It can tell its clients to load again what
    /// they show.
    ///
    /// It is called in the thread that receives for all clients, so it must not wait.
    pub fn on_gap(mut self, callback: impl Fn(&Gap) + Send + Sync + 'static) -> Self {
        self.others.on_gap = Some(Box::new(callback));
        self
    }
}

/// The other servers of a builder.
#[derive(Default)]
pub(super) struct OtherServers {
    backplane: Option<Backplane>,
    on_gap: Option<Box<GapHook>>,
}

impl OtherServers {
    pub(super) fn check(&self) -> Result<()> {
        self.backplane.as_ref().map_or(Ok(()), Backplane::check)
    }

    pub(super) fn start(self, server: &Shared) -> Result<()> {
        let Some(backplane) = self.backplane else { return Ok(()) };
        let bus = backplane.into_bus(server.settings.config.max_message_size());
        let clients = server.hub.set_backplane(Arc::clone(&bus));
        Ok(bus.start(clients, self.on_gap)?)
    }
}
