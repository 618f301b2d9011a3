//! The server beside its connections: callbacks, numbers, plain HTTP, Unix sockets, connections accepted elsewhere.

mod callbacks;
mod detached;
mod failures;
mod http_answers;
mod settings;
mod stats;
mod unix_sockets;
