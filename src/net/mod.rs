//! The socket room: system calls that read, write and wait. No threads of its own, no protocol.

pub(crate) mod deadline;
pub(crate) mod stream;
mod transport;
pub(crate) mod wake;

#[cfg(all(test, model))]
pub(crate) use crate::verify::models::transport::Wake;
pub(crate) use deadline::Deadline;
pub(crate) use stream::Stream;
pub(crate) use transport::Transport;
#[cfg(not(all(test, model)))]
pub(crate) use wake::Wake;
