//! Faults of the network, of the system and of the program around the server.

mod idle;
mod loggers;
mod networks;
mod resources;
mod system;
mod tls;
