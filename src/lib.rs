//! Blocking WebSockets on plain threads.

#![allow(dead_code, reason = "the handshake driver that calls these rooms is not here yet")]

pub mod config;
pub mod error;
pub mod message;
mod protocol;
mod request;
mod sync;
pub use config::Config;
pub use error::*;
pub use message::*;
pub use protocol::forwarded::ForwardedHeader;
pub use request::{HandshakeError, Reject, Request, Response};
