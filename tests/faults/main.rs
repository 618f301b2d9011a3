//! Faults of the network, of the system and of the program around the server.

#[path = "../support/mod.rs"]
mod support;

mod idle;
mod loggers;
mod networks;
mod resources;
mod system;
