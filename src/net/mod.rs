//! The socket room: system calls that read, write and wait. No threads of its own, no protocol.

pub(crate) mod deadline;
pub(crate) mod stream;
mod transport;
pub(crate) mod wake;

pub(crate) use deadline::Deadline;
pub(crate) use stream::Stream;
pub(crate) use transport::Transport;
#[cfg(not(all(test, model)))]
pub(crate) use wake::Wake;

/// Wakes a thread that waits for sockets of a model.
#[cfg(all(test, model))]
pub(crate) type Wake = crate::verify::models::transport::ModelWake;
