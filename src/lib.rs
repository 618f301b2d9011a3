//! Blocking WebSockets on plain threads.

pub mod config;
pub mod error;
pub mod message;
mod sync;
pub use config::Config;
pub use error::*;
pub use message::*;
/// x
pub type Response = http::Response<Vec<u8>>;
