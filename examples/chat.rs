//! A chat: every message goes to everyone, its sender included.
//!
//! The page is served on the same port by `on_http`. A client that reads too slowly delays nobody: it misses messages
//! once 1 MiB waits for it, and is dropped if it does not take within 10 s what waits.
//!
//! Run it with `cargo run --example chat [ADDRESS]`, and open <http://127.0.0.1:8005/> in two windows.
//!
//! To see: what is typed in one window appears in both, and so does who comes and who goes.

use threadws::{Connection, Request, Response, Result, Server};

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let server = Server::bind(address)?.on_http(page);
    println!("listening on http://{}/", server.local_addr()?);
    server.run(|client| {
        let name = format!("client {}", client.id());
        let hub = client.hub().clone();
        hub.broadcast(format!("{name} is here, {} in all", hub.len()));
        let end = talk(client, &name);
        // However it ended, and not by `?` above: the others are told.
        hub.broadcast(format!("{name} is gone"));
        Ok(end?)
    })
}

/// Passes on what one client says, until it says no more.
fn talk(client: &mut Connection, name: &str) -> Result<()> {
    while let Some(message) = client.recv()? {
        match message.as_text() {
            Some(text) => client.broadcast(format!("{name}: {text}")),
            None => client.send("only text, please")?,
        }
    }
    Ok(())
}

fn page(request: &Request) -> Response {
    let mut response = Response::new(PAGE.into());
    if request.path() != "/" {
        response = Response::new("not found\n".into());
        *response.status_mut() = http::StatusCode::NOT_FOUND;
    }
    let kind = if request.path() == "/" { "text/html; charset=utf-8" } else { "text/plain" };
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<title>chat</title>
<form><input aria-label="Message" autofocus autocomplete="off"> <button>Send</button></form>
<ul aria-live="polite"></ul>
<script>
  const [form, input, list] = ["form", "input", "ul"].map((name) => document.querySelector(name));
  const say = (text) => { list.prepend(Object.assign(document.createElement("li"), { textContent: text })); };
  const socket = new WebSocket(location.href.replace(/^http/, "ws"));
  socket.onmessage = (event) => say(event.data);
  socket.onclose = (event) => say(`closed with ${event.code}`);
  form.onsubmit = (event) => {
    event.preventDefault();
    if (socket.readyState !== WebSocket.OPEN) return say("not connected");
    socket.send(input.value);
    input.value = "";
  };
</script>
"#;
