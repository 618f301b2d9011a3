//! The client's address behind a proxy, and the header callback that sees it before the connection opens.
//!
//! A proxy appends the address it was called from to `X-Forwarded-For`. It is believed only if the proxy itself is
//! trusted: here on this machine, or in a private network. The client's address is the rightmost that is not a trusted
//! proxy's: what stands left of it may have been made up by the client.
//!
//! Run it with `cargo run --example behind_proxy [ADDRESS]`, and play the proxy on this machine yourself:
//!
//! ```text
//! npx wscat -c ws://127.0.0.1:8005/ -H 'X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.1.2.3'
//! ```
//!
//! To see: you are told that you are 203.0.113.9. `10.1.2.3` is skipped as a trusted proxy, `198.51.100.1` is not
//! believed. Without the header you are 127.0.0.1. With `-H 'Via: 1.1 loop'` you are refused: 508.
//!
//! The guide to deploying (src/guide/deploying.md) has the settings of a real nginx.

use threadws::{Reject, Request, Response, Server};

/// What the header callback leaves for the handler.
#[derive(Clone)]
struct Seen {
    user_agent: String,
}

fn main() -> threadws::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let server = Server::bind(address)?
        .trust_proxy("loopback")
        .trust_proxy("10.0.0.0/8")
        .check_request(look)
        .on_handshake_error(|error| println!("{error}"));
    println!("listening on ws://{}/", server.local_addr()?);
    server.run(|client| {
        let agent =
            client.request().extensions().get::<Seen>().map_or("", |seen| &seen.user_agent).to_owned();
        client.send(format!(
            "you are {}, by way of {}, with {agent:?}",
            client.client_addr(),
            client.peer_addr()
        ))?;
        client.ignore()?;
        Ok(())
    })
}

/// Runs in the client's thread, after all checks and just before the 101.
fn look(request: &mut Request, response: &mut Response) -> Result<(), Reject> {
    // Whatever a client sent is escaped before it is printed.
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
    let user_agent = request.header("user-agent").unwrap_or("no program in particular").to_owned();
    request.extensions_mut().insert(Seen { user_agent });
    Ok(())
}
