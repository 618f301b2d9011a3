//! An HTTP server of your own that passes WebSockets to threadws, as `handleUpgrade` of npm's `ws` does.
//!
//! The HTTP server accepts connections and reads the head of each request. It answers pages itself. It passes an upgrade
//! to [`ServerHandle::upgrade`], with the bytes that it has read after the head. That server was made by
//! [`Server::detached`], so it does not listen. It checks the handshake, and runs the handler in a thread of its own.
//!
//! Run it with `cargo run --example attach [ADDRESS]`, then
//!
//! ```text
//! curl http://127.0.0.1:8005/
//! cargo run -- connect ws://127.0.0.1:8005/ws
//! cargo run -- connect ws://127.0.0.1:8005/elsewhere
//! ```
//!
//! You see: a page with the number of open WebSockets; an echo; and a 404, because only `/ws` accepts WebSockets.
//!
//! A complete HTTP server would also read requests with a body and keep connections alive. After an answer it would read
//! on for a moment, because otherwise a client that is still sending gets a reset instead of the answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use threadws::handshake::parse_head;
use threadws::{BoxError, Connection, Server, ServerHandle, http};

/// How long a client may take to send the head of its request.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<(), BoxError> {
    // Prints the failures of handlers, which the library logs.
    simplelog::SimpleLogger::init(simplelog::LevelFilter::Warn, simplelog::Config::default())?;
    let websockets = Arc::new(Server::detached().path("/ws").spawn(|client| Ok(echo(client)?))?);
    let listener = TcpListener::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into()))?;
    println!("listening on http://{}/", listener.local_addr()?);
    for stream in listener.incoming() {
        let websockets = Arc::clone(&websockets);
        let started = stream.and_then(|stream| {
            thread::Builder::new().spawn(move || {
                if let Err(error) = serve(stream, &websockets) {
                    println!("a request failed: {error}");
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

fn echo(client: &mut Connection) -> threadws::Result<()> {
    while let Some(message) = client.recv()? {
        client.write(message)?;
    }
    Ok(())
}

/// Serves one request: passes an upgrade on, and answers any other request.
fn serve(mut stream: TcpStream, websockets: &ServerHandle) -> Result<(), BoxError> {
    let (head, rest) = read_head(&mut stream)?;
    // Others are possible: curl offers `h2c`.
    if head.headers().get("upgrade").is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        websockets.upgrade(stream, &head, &rest)?;
        return Ok(());
    }
    let (status, text) = match head.uri().path() {
        "/" => ("200 OK", format!("{} WebSockets are open\n", websockets.hub().count())),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )?;
    Ok(())
}

/// Reads the head of a request, and returns it with the bytes after it.
fn read_head(stream: &mut TcpStream) -> Result<(http::Request<()>, Vec<u8>), BoxError> {
    let deadline = Instant::now() + TIMEOUT;
    let mut bytes = Vec::new();
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
        // Refuses a head that is too large, too.
        match parse_head(&bytes) {
            Ok(None) => {}
            Ok(Some((head, length))) => return Ok((head, bytes[length..].to_vec())),
            Err(reject) => return Err(format!("the head is bad: {reject:?}").into()),
        }
    }
}
