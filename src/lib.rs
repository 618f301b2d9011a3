//! Blocking WebSockets on plain threads.
#![allow(dead_code, reason = "the house is being built")]
mod config;
mod error;
mod message;
mod protocol;
mod sync;
pub use config::Config;
pub use error::*;
pub use message::*;
/// x
pub type Response = http::Response<Vec<u8>>;
