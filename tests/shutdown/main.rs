//! How a server stops, and how the binary starts and restarts.

#[path = "../support/mod.rs"]
mod support;

mod orderly;
mod restart;
mod stuck;
