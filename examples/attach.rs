//! A blocking HTTP server of its own that hands WebSockets over: what `ws` calls `handleUpgrade`.
//!
//! The HTTP server accepts and reads the request's head. A page it answers itself; an upgrade goes to
//! [`ServerHandle::upgrade`] together with the bytes that were read behind the head. The server that takes it was made
//! by [`Server::detached`], listens nowhere, checks the handshake, and runs the handler in a thread of its own.
//!
//! Run it with `cargo run --example attach [ADDRESS]`, then
//!
//! ```text
//! curl http://127.0.0.1:8005/
//! npx wscat -c ws://127.0.0.1:8005/ws
//! npx wscat -c ws://127.0.0.1:8005/elsewhere
//! ```
//!
//! To see: a page that counts the WebSockets that are open; an echo; and a 404, because only `/ws` is upgraded.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use threadws::{Server, ServerHandle};

/// How long a client may take for its request, and how large its head may be.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEAD: usize = 16 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let websockets = Server::detached().path("/ws").spawn(|client| {
        while let Some(message) = client.recv()? {
            client.write(message)?;
        }
        Ok(())
    })?;
    let websockets = Arc::new(websockets);

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on http://{}/", listener.local_addr()?);
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, say: that may pass.
                println!("accepting failed: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let websockets = Arc::clone(&websockets);
        // Without a thread the closure is dropped, and the connection with it.
        let started = std::thread::Builder::new().spawn(move || {
            if let Err(error) = serve(stream, &websockets) {
                println!("a request failed: {error}");
            }
        });
        if let Err(error) = started {
            println!("no thread for a client: {error}");
        }
    }
}

/// One request: a WebSocket is handed over, all else is answered here.
fn serve(mut stream: TcpStream, websockets: &ServerHandle) -> Result<(), Box<dyn std::error::Error>> {
    let (head, leftover) = read_head(&mut stream)?;
    if head.headers().contains_key("upgrade") {
        websockets.upgrade(stream, &head, &leftover)?;
        return Ok(());
    }
    let (status, text) = match head.uri().path() {
        "/" => ("200 OK", format!("{} WebSockets are open\n", websockets.hub().len())),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )?;
    Ok(())
}

/// Reads the head of a request, and whatever came with it.
fn read_head(stream: &mut TcpStream) -> Result<(http::Request<()>, Vec<u8>), Box<dyn std::error::Error>> {
    let deadline = Instant::now() + TIMEOUT;
    let mut bytes = Vec::new();
    let mut piece = [0; 2048];
    loop {
        // One deadline for all reads: a client that sends a byte now and then does not get 10 s for each.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || bytes.len() > MAX_HEAD {
            return Err("the head is too slow or too large".into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(end) = parsed.parse(&bytes)? {
            let mut head = http::Request::builder()
                .method(parsed.method.unwrap_or_default())
                .uri(parsed.path.unwrap_or_default())
                .version(if parsed.version == Some(0) {
                    http::Version::HTTP_10
                } else {
                    http::Version::HTTP_11
                });
            for header in parsed.headers {
                head = head.header(header.name, header.value);
            }
            return Ok((head.body(())?, bytes[end..].to_vec()));
        }
    }
}

// What this server does not do, and one that is meant to last would: requests with a body, keep-alive, and reading on
// for a moment after an answer, so that a client that still sends is not cut off by an RST.
