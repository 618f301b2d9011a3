//! System calls on sockets that read, write and wait.
//!
//! No protocol (see `protocol/`), and no threads: every call runs on the thread of its caller, which may be the reader,
//! a sender or the flush thread. No call holds a lock.

pub(crate) mod connect;
pub(crate) mod deadline;
pub(crate) mod line;
pub(crate) mod listener;
pub(crate) mod ready;
pub(crate) mod session;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod wake;

pub(crate) use deadline::Deadline;
pub(crate) use line::{Established, Line};
pub(crate) use listener::Listener;
pub(crate) use ready::{Ready, ReadySet};
pub(crate) use session::Session;
pub(crate) use stream::{Stream, Transport};
#[cfg(not(all(test, model)))]
pub(crate) use wake::Wake;

/// Replaces `wake::Wake` in a model: it waits for the sockets of the model.
#[cfg(all(test, model))]
pub(crate) type Wake = crate::verify::models::transport::ModelWake;
