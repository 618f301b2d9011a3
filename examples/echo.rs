//! An echo server: each message goes back to its sender, as the same kind.
//!
//! Shows the fastest way to answer: `recv_ref` lends the message instead of copying it, and `write` holds answers back
//! while more input is already here, so that the answers to a burst leave in one system call.
//!
//! Run it with `cargo run --release --example echo [ADDRESS]`, and talk to it with `npx wscat -c ws://127.0.0.1:8005/`.
//!
//! To see: whatever you send comes back, up to 20 MiB a message; a larger one ends the connection with 1009.

use threadws::{Config, Server};

fn main() -> threadws::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    // The default, 1 MiB, is too small for the Autobahn testsuite, which sends 16.
    let server = Server::bind(address)?.config(Config::new().with_max_message_size(20 << 20));
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(|client| {
        while let Some(mut received) = client.recv_ref()? {
            received.write(received.message)?;
        }
        Ok(())
    })
}
