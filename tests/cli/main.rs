//! The binary `threadws`: server, `bench`, `connect`, its log and its page.

mod addresses;
mod bench;
mod connect;
mod connect_pipes;
mod events;
mod log_contents;
mod log_output;
mod page;
mod server;
mod settings;
mod systemd;
mod terminal;
mod tls;
mod topics;
mod unix_sockets;
