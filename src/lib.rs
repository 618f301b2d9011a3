//! Blocking WebSockets on plain threads.

mod client;
mod config;
mod connection;
mod error;
mod flush;
mod handshake;
mod hub;
mod message;
#[cfg(all(test, model))]
mod models;
mod net;
mod outbox;
mod protocol;
mod request;
mod sender;
mod server;
mod sync;
mod timer;

pub use client::{Connect, connect};
pub use config::Config;
pub use connection::{Connection, Received};
pub use error::{BoxError, Closed, Error, Result, Timeout, Violation};
pub use hub::{Client, Hub};
pub use message::{CloseCode, CloseFrame, Event, IntoMessage, Message, MessageRef, State};
pub use protocol::forwarded::ForwardedHeader;
pub use request::{HandshakeError, Reject, Request, Response};
pub use sender::Sender;
pub use server::{Capacity, Report, Server, ServerHandle};
pub use timer::Tick;
