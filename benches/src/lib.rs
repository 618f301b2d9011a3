//! Shared by the benchmarks: the frames of a client, and a minimal opening handshake.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};

/// Opcodes of RFC 6455 §5.2.
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to `KEY`, from the example in RFC 6455 §1.3.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Returns a masked frame.
pub fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked_frame(opcode, payload, [0x1f, 0xa2, 0x5c, 0x93])
}

/// Returns a frame that is masked with this key. With a key of zeros, the payload does not change, however often it is
/// unmasked in place.
pub fn masked_frame(opcode: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = header(opcode, payload.len());
    frame[1] |= 0x80;
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    frame
}

/// Returns the header of an unmasked frame.
pub fn header(opcode: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0x80 | opcode];
    if payload < 126 {
        header.push(payload as u8);
    } else if payload <= usize::from(u16::MAX) {
        header.push(126);
        header.extend_from_slice(&(payload as u16).to_be_bytes());
    } else {
        header.push(127);
        header.extend_from_slice(&(payload as u64).to_be_bytes());
    }
    header
}

/// Returns the request that opens a WebSocket.
pub fn request(to: impl Display) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Returns the length of the head of a response, or `None` if it is not complete. Fails if it is not the right 101.
pub fn head_end(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if head.starts_with("HTTP/1.1 101") && head.contains(ACCEPT) {
        return Ok(Some(end + 4));
    }
    Err(io::Error::other(format!("no upgrade: {head}")))
}

/// Returns the length of the head of a request, or `None` if it is not complete.
pub fn head_end_of_request(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|end| end + 4)
}

/// Returns the answer to a [`request`] of this module, and `None` to any other request.
pub fn response(request: &[u8]) -> Option<Vec<u8>> {
    String::from_utf8_lossy(request).contains(KEY).then(|| {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
        .into_bytes()
    })
}

/// Connects, and waits for the opening handshake.
pub fn open(to: impl ToSocketAddrs + Display + Copy) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    open_over(&mut stream, to)?;
    Ok(stream)
}

/// Waits for the opening handshake on a connection.
pub fn open_over(mut stream: impl Read + Write, to: impl Display) -> io::Result<()> {
    stream.write_all(&request(to))?;
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&bytes[..count]);
        match head_end(&head)? {
            Some(end) if end == head.len() => return Ok(()),
            Some(_) => return Err(io::Error::other("the server sent bytes after the 101")),
            None => {}
        }
    }
}
