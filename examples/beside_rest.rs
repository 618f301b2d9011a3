//! WebSockets and the pages of another HTTP server, tiny_http, on one port.
//!
//! Run it with `cargo run --example beside_rest [ADDRESS]`. Try `curl -d 'buy milk' http://127.0.0.1:8005/notes`,
//! `curl http://127.0.0.1:8005/notes` and `cargo run -- connect ws://127.0.0.1:8005/ws`.
//!
//! You see: curl gets the notes, and the client gets each note when it is posted.
//!
//! tiny_http cannot pass a socket on, so this program accepts the connections. It reads the first head of each. A WebSocket
//! goes to threadws, and the bytes of any other connection are copied to and from tiny_http, which listens on loopback.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use threadws::handshake::{Response, parse_head};
use threadws::{BoxError, Server, ServerHandle, http};

/// How long a client may take to send the head of its request.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<(), BoxError> {
    let websockets = Arc::new(Server::detached().path("/ws").spawn(|client| Ok(client.ignore()?))?);
    let pages = tiny_http::Server::http("127.0.0.1:0")?;
    let backend = pages.server_addr().to_ip().ok_or("tiny_http listens on TCP")?;
    let hub = websockets.hub().clone();
    thread::spawn(move || {
        let mut notes = Vec::new();
        for mut request in pages.incoming_requests() {
            let (status, text) = match (request.method(), request.url()) {
                (tiny_http::Method::Get, "/notes") => (200, notes.concat()),
                (tiny_http::Method::Post, "/notes") => {
                    let mut note = String::new();
                    match request.as_reader().take(10_000).read_to_string(&mut note) {
                        Ok(_) => {
                            hub.broadcast(note.as_str());
                            notes.push(note + "\n");
                            (201, String::new())
                        }
                        Err(error) => (400, format!("{error}\n")),
                    }
                }
                _ => (404, "not found\n".to_owned()),
            };
            // Fails if the client has disconnected.
            drop(request.respond(tiny_http::Response::from_string(text).with_status_code(status)));
        }
    });
    let listener = TcpListener::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into()))?;
    println!("listening on http://{}/", listener.local_addr()?);
    for stream in listener.incoming() {
        let websockets = Arc::clone(&websockets);
        let started = stream.and_then(|stream| {
            thread::Builder::new().spawn(move || {
                if let Err(error) = serve(stream, &websockets, backend) {
                    println!("a connection failed: {error}");
                }
            })
        });
        if let Err(error) = started {
            // For example, too many files are open. The next client may have more luck.
            println!("cannot serve a client: {error}");
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// Passes a WebSocket on to threadws, and copies the bytes of any other connection to and from tiny_http.
fn serve(mut stream: TcpStream, websockets: &ServerHandle, backend: SocketAddr) -> Result<(), BoxError> {
    let mut bytes = Vec::new();
    let Some((head, length)) = read_head(&mut stream, &mut bytes)? else { return Ok(()) };
    // Others are possible: curl offers `h2c`.
    if head.headers().get("upgrade").is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        websockets.upgrade(stream, &head, &bytes[length..])?;
        return Ok(());
    }
    let mut pages = TcpStream::connect(backend)?;
    pages.write_all(&bytes)?;
    let (mut from, mut to) = (stream.try_clone()?, pages.try_clone()?);
    thread::spawn(move || {
        // Ends with an error if the client is silent for too long, or disconnects.
        drop(io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Write));
    });
    io::copy(&mut pages, &mut stream)?;
    stream.shutdown(Shutdown::Both)?;
    Ok(())
}

/// Reads the head of a request. Returns it and its length in `bytes`, or `None` if a bad head was answered.
fn read_head(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
) -> Result<Option<(http::Request<()>, usize)>, BoxError> {
    let deadline = Instant::now() + TIMEOUT;
    let mut piece = [0; 2048];
    loop {
        // One deadline for all reads, so that a client that sends one byte at a time does not get 10 s for each.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the head is too slow".into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Err("the client closed the connection".into()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
        match parse_head(bytes) {
            Ok(None) => {}
            Ok(head) => return Ok(head),
            Err(reject) => {
                let (parts, body) = Response::from(reject).into_parts();
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
                    parts.status
                )?;
                stream.write_all(&body)?;
                return Ok(None);
            }
        }
    }
}
