//! One connection from the handshake to its end.

mod closing;
mod debug_output;
mod lifetimes;
mod messages;
mod ticks;
mod timed_calls;
mod vanished_peers;
