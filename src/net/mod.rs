//! The socket room: system calls that read, write and wait. No threads of its own, no protocol.

pub(crate) mod deadline;
pub(crate) mod stream;
mod transport;
pub(crate) mod wake;

pub(crate) use deadline::Deadline;
pub(crate) use stream::Stream;
pub(crate) use transport::Transport;
pub(crate) use wake::Wake;
