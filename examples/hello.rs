//! The smallest server: prints each client and each message, and sends every client a message every 3 seconds.
//!
//! Run it with `cargo run --example hello [ADDRESS]`, and connect with `cargo run -- connect ws://127.0.0.1:8005/`.
//!
//! You see: here a line for each message, and for each client that connects or leaves; in the client a message every 3
//! seconds.

fn main() -> threadws::Result<()> {
    let server = threadws::Server::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into()))?;
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(|client| {
        println!("client connected from {}", client.client_addr());
        client.every(std::time::Duration::from_secs(3), "a message from the server");
        while let Ok(Some(message)) = client.recv() {
            println!("{message:?}");
        }
        println!("client left"); // It also runs if the client has vanished. With `recv()?` it would not.
        Ok(()) // The messages stop with the connection. A panic here would disconnect only this client, with code 1011.
    })
}
