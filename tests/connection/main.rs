//! One connection from the handshake to its end.

#[path = "../support/mod.rs"]
mod support;

mod closing;
mod debug_output;
mod lifetimes;
mod messages;
mod ticks;
mod timed_calls;
mod vanished_peers;
