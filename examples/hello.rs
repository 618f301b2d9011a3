//! The smallest server: it says who comes and what they send, and sends each of them a message every 3 seconds.
//!
//! Run it with `cargo run --example hello [ADDRESS]`, and talk to it with `npx wscat -c ws://127.0.0.1:8005/`.
//!
//! To see: a line for each client and for each message here, and there a message every 3 seconds until you leave.

fn main() -> threadws::Result<()> {
    let server = threadws::Server::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into()))?;
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(|client| {
        println!("client connected from {}", client.client_addr());
        client.every(std::time::Duration::from_secs(3), "a message from the server");
        while let Some(message) = client.recv()? {
            println!("{message:?}");
        }
        Ok(()) // the tick stops by itself; a panic here closes this client with 1011 and nobody else
    })
}
