//! Connections that `connect` opens.

#[path = "../support/mod.rs"]
mod support;

mod connecting;
mod connection;
mod redirects;
