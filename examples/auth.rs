//! Authentication in the handshake: a client without a valid token is refused with 401.
//!
//! The request callback looks up the token. It is in the header `Authorization`, or in the query, because a browser cannot
//! set headers for a WebSocket. The callback puts the user in the extensions of the request, where the handler finds it.
//!
//! Run it with `cargo run --example auth [ADDRESS]`, and connect with
//!
//! ```text
//! cargo run -- connect -H 'Authorization: Bearer apple' ws://127.0.0.1:8005/
//! cargo run -- connect 'ws://127.0.0.1:8005/?token=cherry'
//! cargo run -- connect ws://127.0.0.1:8005/
//! ```
//!
//! You see: "hello, alice", then "hello, carol", then a refusal with 401. No line that is printed here has a token.
//!
//! A server that announces users who leave keeps their names by the client's number, as the example `chat` does, because
//! `Server::on_close` has no request.

use std::collections::HashMap;
use threadws::{
    BoxError, Connection, Server,
    handshake::{Reject, Request},
};

/// The user of a connection. Passed from the request callback to the handler.
#[derive(Debug, Clone, PartialEq)]
struct User {
    name: &'static str,
}

fn main() -> threadws::Result<()> {
    // Prints the failures of handlers, which the library logs.
    simplelog::SimpleLogger::init(simplelog::LevelFilter::Warn, simplelog::Config::default())
        .expect("the only logger");
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    // A real server should store hashes of random tokens, because the time that a lookup takes can reveal a token.
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
    let query = || request.uri().query()?.split('&').find_map(|pair| pair.strip_prefix("token="));
    header.or_else(query)
}

fn greet(client: &mut Connection) -> Result<(), BoxError> {
    // There is always a user, because the callback refuses every other request.
    let user = client.request().extensions().get::<User>().cloned().ok_or("no user")?;
    println!("{} connected from {}", user.name, client.client_addr());
    client.send(format!("hello, {}", user.name))?;
    client.ignore()?;
    Ok(())
}
