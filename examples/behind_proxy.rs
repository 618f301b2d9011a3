//! The address of a client behind a proxy, and a callback that checks the request before the connection opens.
//!
//! A proxy appends the address of its client to `X-Forwarded-For`. The server believes this header only if the proxy is
//! trusted: here on this machine, or in a private network. The client's address is the rightmost one that does not belong
//! to a trusted proxy. The addresses to the left of it may be forged by the client.
//!
//! Run it with `cargo run --example behind_proxy [ADDRESS]`, and connect as a proxy on this machine would:
//!
//! ```text
//! cargo run -- connect -H 'X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.1.2.3' ws://127.0.0.1:8005/
//! ```
//!
//! You see: your address is 203.0.113.9, because `10.1.2.3` is a trusted proxy, and `198.51.100.1` may be forged. Without
//! the header, your address is 127.0.0.1. With `-H 'Via: 1.1 loop'` the server refuses the request with 508.
//!
//! `threadws::guide::deploying` has the configuration of nginx.

use threadws::{
    Connection, Server,
    handshake::{Reject, Request, Response},
};

/// The user agent of a client. Passed from the request callback to the handler.
#[derive(Clone)]
struct UserAgent(String);

fn main() -> threadws::Result<()> {
    // Prints the failures of handlers, which the library logs.
    simplelog::SimpleLogger::init(simplelog::LevelFilter::Warn, simplelog::Config::default())
        .expect("the only logger");
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let server = Server::bind(address)?
        .trust_proxy("loopback")
        .trust_proxy("10.0.0.0/8")
        .check_request(check)
        .on_handshake_error(|error| println!("{error}"));
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(|client| Ok(describe(client)?))
}

/// Called in the client's thread, after all other checks and just before the 101.
fn check(request: &mut Request, response: &mut Response) -> Result<(), Reject> {
    // `{:?}` escapes the bytes that the client has chosen.
    println!(
        "{} asks for {:?}, x-forwarded-for {:?}",
        request.client_addr(),
        request.path(),
        request.headers().get_all("x-forwarded-for").iter().collect::<Vec<_>>()
    );
    if request.header("via").is_some_and(|via| via.contains("loop")) {
        return Err(Reject::new(508, "this proxy calls itself"));
    }
    if let Ok(address) = request.client_addr().to_string().parse() {
        response.headers_mut().insert("x-your-address", address);
    }
    let user_agent = request.header("user-agent").unwrap_or("an unknown program").to_owned();
    request.extensions_mut().insert(UserAgent(user_agent));
    Ok(())
}

fn describe(client: &mut Connection) -> threadws::Result<()> {
    let user_agent = client.request().extensions().get().map_or("", |UserAgent(name)| name);
    let text = format!("you are {}, via {}, with {user_agent:?}", client.client_addr(), client.peer_addr());
    client.send(text)?;
    client.ignore()
}
