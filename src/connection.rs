//! The types that the methods of a [`Connection`] return.

// The type `Connection` is in `connection.rs`. Receiving is in `recv.rs`, on the buffer of `reader.rs`. Sending is in
// `send.rs`, and `cork.rs` holds answers while more input is here. `decompression.rs` lends decompressors. `close.rs` has the closing handshake; `keepalive.rs` and
// `limits.rs` decide when a connection ends by itself. There is no lock here, because only the thread of the connection runs
// all of this. Other threads use the connection's outbox, which has a lock.

// In this order, with empty lines that rustfmt keeps, because rustdoc lists the methods in the order of the modules.
mod recv;

mod send;

mod close;
mod events;

pub(crate) mod connection;
mod cork;
mod decompression;
mod keepalive;
mod limits;
mod reader;

pub use crate::message::State;
pub use crate::tick::Tick;
pub(crate) use close::DRAIN_TIME;
pub(crate) use connection::{Connection, Early, Parts};
pub use events::Arrival;
pub(crate) use events::{Arrived, Buffers};
pub use recv::Received;
