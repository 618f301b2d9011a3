//! The binary `threadws`: server, `bench`, `connect`, its log and its page.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod bench;
mod connect;
mod log_contents;
mod log_output;
mod page;
mod server;
mod settings;
mod systemd;
mod tls;
mod topics;
mod unix_sockets;
