//! Who may connect, decided in the handshake: 401, or a user whom the handler finds with its type.
//!
//! The header callback looks a token up, which is in `Authorization`, or in the query, because a browser cannot set
//! headers for a WebSocket. What it puts into the request's extensions the handler takes out again.
//!
//! Run it with `cargo run --example auth [ADDRESS]`, and connect with
//!
//! ```text
//! npx wscat -c ws://127.0.0.1:8005/ -H 'Authorization: Bearer apple'
//! npx wscat -c 'ws://127.0.0.1:8005/?token=cherry'
//! npx wscat -c ws://127.0.0.1:8005/
//! ```
//!
//! To see: "hello, alice", then "hello, carol", then a refusal with 401. The tokens appear in no line that is printed
//! here.

use std::collections::HashMap;
use threadws::{BoxError, Connection, Reject, Request, Server};

/// What the handler wants to know of its client.
#[derive(Debug, Clone, PartialEq)]
struct User {
    name: &'static str,
}

fn main() -> threadws::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    // For real, keep hashes of random tokens: looking up a hash tells nothing by the time it takes.
    let users = HashMap::from([("apple", User { name: "alice" }), ("cherry", User { name: "carol" })]);
    let server = Server::bind(address)?
        .check_request(move |request, _response| {
            let user = token(request).and_then(|token| users.get(token)).cloned();
            let user =
                user.ok_or_else(|| Reject::new(401, "who are you?").header("www-authenticate", "Bearer"))?;
            request.extensions_mut().insert(user);
            Ok(())
        })
        .on_handshake_error(|error| println!("{error}"));
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(greet)
}

fn token(request: &Request) -> Option<&str> {
    let header = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let query = || request.query()?.split('&').find_map(|pair| pair.strip_prefix("token="));
    header.or_else(query)
}

fn greet(client: &mut Connection) -> Result<(), BoxError> {
    // Nobody gets here without one.
    let user = client.request().extensions().get::<User>().cloned().ok_or("no user")?;
    println!("{} connected from {}", user.name, client.client_addr());
    client.send(format!("hello, {}", user.name))?;
    client.ignore()?;
    Ok(())
}
