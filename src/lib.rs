//! A blocking WebSocket server and client: one thread reads while any other thread sends, without an async runtime.
//!
//! ```
//! # fn main() -> threadws::Result<()> {
//! let server = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
//!     let sender = client.sender();
//!     std::thread::spawn(move || sender.send("from another thread"));
//!     while let Some(message) = client.recv()? {
//!         client.send(message)?; // an echo
//!     }
//!     Ok(())
//! })?;
//!
//! let mut connection = threadws::connect(format!("ws://{}/", server.local_addr()?))?;
//! assert_eq!(connection.recv()?, Some("from another thread".into()));
//! connection.send("hello")?;
//! assert_eq!(connection.recv()?, Some("hello".into()));
//! connection.close(1000, "")
//! # }
//! ```
//!
//! # The model
//!
//! A server has one thread for each client. The thread answers the handshake, then calls the handler, and closes the
//! connection when the handler returns. A handler is ordinary blocking code: if it waits or panics, only its own client is
//! affected.
//!
//! * The handler's thread reads. Pings, pongs and the peer's Close are handled while it waits in
//!   [`recv`](Connection::recv), so a handler that only sends calls [`ignore`](Connection::ignore) to keep reading.
//! * Any thread sends, through a [`Sender`] or the [`Hub`]. No lock is held while a thread waits for the network, so a
//!   reader does not delay senders, and a slow peer delays no other client.
//! * [`Connection::send`] and [`Sender::send`] wait until the operating system has taken the message. `try_send`, ticks,
//!   and the hub's `broadcast` and `publish` never wait: they queue, up to [`max_backlog`](Config::max_backlog).
//! * If a client vanishes, [`recv`](Connection::recv) returns an error. A handler that has to do something after its loop
//!   writes `while let Ok(Some(message)) = client.recv()`, because with `?` it would end before.
//!   [`Server::on_close`] is called after every handler, with the end of the connection and of the handler.
//! * Every wait has a deadline, or ends when keepalive pings find the peer dead. The section `# Blocking` of each method has its length and what ends it.
//!
//! # The types to know
//!
//! * [`Server`] listens and calls the handler; [`ServerHandle`] is a running server.
//! * [`connect`] opens a connection to a server; [`Connect`] has the options.
//! * [`Connection`] is either end of one connection. One thread has it, and receives.
//! * [`Sender`] sends on a connection from any thread.
//! * [`Hub`] sends to all clients of a server, or to the subscribers of a topic.
//! * [`Config`] holds the limits and timeouts of a connection. The guide [`defaults`](guide::defaults) explains each.
//! * [`Error`] has [`is_fatal`](Error::is_fatal) and the close code; [`Closed`] describes how a connection ended.
//!
//! Types that fewer programs need are in modules: [`handshake`] has requests and refusals, [`stats`] the counters,
//! [`backplane`] the messages to other servers, and [`connection`], [`hub`], [`server`] and [`error`] the types that their
//! methods take and return. [`http`] is the crate whose types are in some signatures.
//!
//! # Features
//!
//! * `cli` (default): the command `threadws`, described in [`guide::command_line`]. Programs that use only the library
//!   take `default-features = false`.
//! * `tls` (default): `wss://` for clients and servers, in the module `tls`. It adds 12 crates, of which ring needs a C
//!   compiler.
//! * `systemd`: the command can take its listening socket from systemd.
//!
//! # Log
//!
//! The library logs through the crate `log`, never the contents of a message, a cookie or a credential. `log` prints
//! nothing until the program sets up a logger, such as `env_logger` or `simplelog`. Without one the failure of a handler is
//! only seen by [`Server::on_close`] and in the [`ShutdownReport`](server::ShutdownReport).
//!
//! | target | lines |
//! | --- | --- |
//! | `threadws::server` | listening and stopped (`info`), clients turned away, failures of `accept` and an incomplete shutdown (`warn`), panics of callbacks (`error`) |
//! | `threadws::connection` | opened and closed, with the reason (`debug`), handlers that failed or panicked (`error`) |
//! | `threadws::handshake` | refused handshakes (`debug`), connections without a request (`trace`), panics of callbacks (`error`) |
//! | `threadws::tls` | the roots that a client trusts (`debug`) |
//! | `threadws::hub`, `threadws::timer` | panics of callbacks and ticks (`error`) |
//! | `threadws::flush` | failures of `poll` (`warn`) |
//!
//! # Stability
//!
//! Before version 1.0, a change of the second number may break programs; the changelog lists what to change. Enums and
//! structs with public fields are `non_exhaustive` where they may grow. A newer required Rust version, 1.85 at present,
//! counts as such a change. The feature names, the log targets and the metrics are part of the interface; the texts of
//! log lines and errors are not.
// Bytes from a peer must not cause a panic, so they are read with `get`, or a comment says why they cannot be missing.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::indexing_slicing, clippy::string_slice))]

#[cfg(not(unix))]
compile_error!("threadws needs a Unix system: it is built on poll(2), MSG_DONTWAIT and socket pairs");

mod addr;
pub mod backplane;
mod client;
mod config;
pub mod connection;
pub mod deflate;
mod deflate_pool;
pub mod error;
mod flush_thread;
pub mod guide;
pub mod handshake;
pub mod hub;
mod logging;
mod message;
mod net;
mod outbox;
mod protocol;
mod quota;
mod request;
mod sender;
pub mod server;
pub mod stats;
mod sync;
mod tick;
mod timer;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(any(test, fuzzing, bench_internals))]
#[doc(hidden)]
pub mod verify;

pub use addr::Addr;
pub use client::{Connect, connect};
pub use config::Config;
pub use connection::connection::Connection;
pub use error::closed::Closed;
pub use error::error::{BoxError, Error, Result, Timeout};
pub use http;
pub use hub::hub::Hub;
pub use message::{CloseCode, CloseFrame, Event, IntoMessage, Message, MessageRef};
pub use sender::Sender;
pub use server::builder::Server;
pub use server::handle::ServerHandle;

// `cargo test` compiles the programs in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
