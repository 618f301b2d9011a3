//! Other implementations: clients, servers and proxies.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod haproxy;
mod servers;
