#![doc = include_str!("../README.md")]
// A panic is for our own bugs: what comes from a peer is taken with `get`, or says why it cannot be missing.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::indexing_slicing, clippy::string_slice))]

#[cfg(not(unix))]
compile_error!("threadws needs a Unix system: it is built on poll(2), MSG_DONTWAIT and socket pairs");

mod addr;
mod client;
mod config;
mod connection;
mod error;
mod flush_thread;
pub mod guide;
mod handshake;
mod hub;
mod logging;
mod message;
mod net;
mod outbox;
mod protocol;
mod quota;
mod request;
mod sender;
pub mod server;
mod stats;
mod sync;
mod tick;
mod timer;
#[cfg(any(test, fuzzing, bench_internals))]
#[doc(hidden)]
pub mod verify;

pub use addr::Addr;
pub use client::{Connect, connect};
pub use config::{Config, SlowPeer};
pub use connection::{Connection, Received};
pub use error::{BoxError, Closed, Error, Result, Timeout, Violation};
pub use hub::{Client, Delivery, Hub};
pub use message::{CloseCode, CloseFrame, Event, IntoMessage, Message, MessageRef, State};
pub use protocol::forwarded::ForwardedHeader;
pub use request::{HandshakeError, Reject, Request, Response};
pub use sender::Sender;
pub use server::{Server, ServerHandle};
pub use stats::{ClientStats, Stats};
pub use tick::Tick;
