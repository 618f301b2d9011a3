//! How a server stops, and how the binary starts and restarts.

mod orderly;
mod restart;
mod stuck;
