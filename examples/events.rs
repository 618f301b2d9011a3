//! The job of `hello`, for many clients with a few threads: prints each client and each message, and sends every client a
//! message every 3 seconds. A client takes no thread while it says nothing.
//!
//! Run it with `cargo run --example events [ADDRESS]`, and connect with `cargo run -- connect ws://127.0.0.1:8005/`.
//!
//! You see: here a line for each message, and for each client that connects or leaves; in the client a message every 3
//! seconds.

use std::time::Duration;
use threadws::server::Events;
use threadws::{BoxError, Closed, Connection, Message, Server};

/// The callbacks of one client.
struct Printer;

impl Events for Printer {
    fn message(&mut self, _: &mut Connection, message: Message) -> Result<(), BoxError> {
        println!("{message:?}"); // It may also wait, for a file or a database.
        Ok(())
    }

    fn closed(&mut self, _: &mut Connection, closed: &Closed) {
        println!("client left: {closed}");
    }
}

fn main() -> threadws::Result<()> {
    let server = Server::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into()))?;
    println!("listening on ws://{}/", server.local_addr()?);
    server.run_events(|client| {
        println!("client connected from {}", client.client_addr());
        client.every(Duration::from_secs(3), "a message from the server");
        Ok(Printer)
    })
}
