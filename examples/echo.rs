//! An echo server: sends each message back to its sender, text as text and binary as binary.
//!
//! It uses the fastest calls for this. `recv_ref` lends the message instead of copying it. `write` holds answers back
//! while more input is already here, so that the answers to a burst leave in one system call.
//!
//! Run it with `cargo run --release --example echo [ADDRESS]`. Connect with
//! `cargo run --release -- connect ws://127.0.0.1:8005/`, or measure it with `cargo run --release -- bench ws://127.0.0.1:8005/`.
//!
//! You see: each message that you send comes back. A message of more than 20 MiB closes the connection with 1009.

use threadws::{Config, Server};

fn main() -> threadws::Result<()> {
    // Prints the failures of handlers, which the library logs.
    simplelog::SimpleLogger::init(simplelog::LevelFilter::Warn, simplelog::Config::default())
        .expect("the only logger");
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    // The default of 1 MiB is too small for the Autobahn testsuite, which sends 16 MiB.
    let server = Server::bind(address)?.config(Config::new().with_max_message_size(20 << 20));
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(|client| {
        while let Some(mut received) = client.recv_ref()? {
            received.write(received.message)?;
        }
        Ok(())
    })
}
