//! The server beside its connections: callbacks, numbers, plain HTTP, connections accepted elsewhere.

#[path = "../support/mod.rs"]
mod support;

mod callbacks;
mod detached;
mod http_answers;
mod settings;
mod stats;
