//! Another thread sends while the client's own thread waits in `recv`.
//!
//! A `Sender` can be cloned, and moved to any thread. It sends at once, because a thread that waits in `recv` holds no
//! lock.
//!
//! Run it with `cargo run --example push [ADDRESS]`, and connect with `cargo run -- connect ws://127.0.0.1:8005/`.
//!
//! You see: in the client `push 1`, `push 2`, ... once a second, although you send nothing. A message that you send is printed
//! here at once, between two pushes. When you disconnect, the thread that sends ends, and prints a line.

use std::time::Duration;
use threadws::{Sender, Server};

fn main() -> threadws::Result<()> {
    // Prints the failures of handlers, which the library logs.
    simplelog::SimpleLogger::init(simplelog::LevelFilter::Warn, simplelog::Config::default())
        .expect("the only logger");
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let server = Server::bind(address)?;
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(|client| {
        let sender = client.sender();
        std::thread::Builder::new().name("pusher".into()).spawn(move || push(&sender))?;
        while let Some(message) = client.recv()? {
            println!("client {}: {message:?}", client.id());
        }
        Ok(())
    })
}

/// Sends until the connection ends, which `send` reports as an error.
fn push(sender: &Sender) {
    for number in 1_u64.. {
        if let Err(error) = sender.send(format!("push {number}")) {
            println!("client {} is gone: {error}", sender.id());
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
