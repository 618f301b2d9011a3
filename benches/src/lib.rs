//! Shared by the benchmarks: the frames of a client, messages, and a minimal opening handshake.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};

/// Opcodes of RFC 6455 §5.2.
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
/// The bit of a compressed message (RFC 7692 §6).
pub const RSV1: u8 = 0x40;

/// Offers compression in which each message is compressed by itself.
pub const FORGETTING: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; \
                              server_no_context_takeover; client_no_context_takeover\r\n";
/// Offers compression in which messages may refer to those before them, as Chrome does.
pub const REMEMBERING: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

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

/// Returns a JSON message of this length, such as a chat sends.
pub fn json(size: usize) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "price", "gold", "silver", "hello", "world", "from", "room", "left", "user", "trade", "late", "open",
    ];
    let mut text = "{\"seq\":81726,\"items\":[".to_owned();
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    while text.len() < size {
        let (id, word, other) = (next(), WORDS[next() as usize % 12], WORDS[next() as usize % 12]);
        text += &format!("{{\"id\":\"{id:08x}\",\"text\":\"{word} {other}\"}},");
    }
    text.truncate(size);
    text.into_bytes()
}

/// Returns the payload of a compressed message (RFC 7692 §7.2.1).
#[cfg(feature = "deflate")]
pub fn compress(plain: &[u8]) -> Vec<u8> {
    let mut state = zlib_rs::Deflate::new(6, false, 12);
    let mut out = vec![0; plain.len() + 100];
    _ = state.compress(plain, &mut out, zlib_rs::DeflateFlush::SyncFlush);
    out.truncate(state.total_out() as usize - 4);
    out
}

/// Returns the request that opens a WebSocket, with additional header lines.
pub fn request(to: impl Display, headers: &str) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
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
pub fn open(to: impl ToSocketAddrs + Display + Copy, headers: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    open_over(&mut stream, to, headers)?;
    Ok(stream)
}

/// Waits for the opening handshake on a connection. With an offer the server must accept it.
pub fn open_over(mut stream: impl Read + Write, to: impl Display, headers: &str) -> io::Result<()> {
    stream.write_all(&request(to, headers))?;
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&bytes[..count]);
        match head_end(&head)? {
            Some(end) if end == head.len() => {
                let is_accepted = |head: &[u8]| {
                    let head = String::from_utf8_lossy(head).to_lowercase();
                    head.contains("sec-websocket-extensions: permessage-deflate")
                };
                if headers.is_empty() || is_accepted(&head) {
                    return Ok(());
                }
                return Err(io::Error::other("the server does not compress"));
            }
            Some(_) => return Err(io::Error::other("the server sent bytes after the 101")),
            None => {}
        }
    }
}
