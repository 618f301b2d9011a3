//! A chat room for a crowd: each message goes to all clients in the same room, which is the path. A few threads serve all of
//! them.
//!
//! Run it with `cargo run --example crowd [ADDRESS]`, and connect several times with
//! `cargo run -- connect ws://127.0.0.1:8005/room/1`.
//!
//! You see: in each client the messages of its room, with the number of the client that sent them.

use threadws::{Connection, Message, Server};

fn main() -> threadws::Result<()> {
    let server = Server::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into()))?;
    println!("listening on ws://{}/", server.local_addr()?);
    server.run_events(|client| {
        let room = client.request().path().to_owned();
        client.subscribe(&room)?; // until the connection ends
        client.send("welcome")?;
        Ok(move |client: &mut Connection, message: Message| {
            let text = format!("{}: {message}", client.id());
            client.hub()?.publish(&room, text); // never waits for a slow client
            Ok(())
        })
    })
}
