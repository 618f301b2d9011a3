//! The floor of servers with a thread for each client: it does the least work for a WebSocket.

use crate::peers::{Done, STACK, listen};
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use threadws_benches::{head_end_of_request, header, response};

/// Echoes or broadcasts, without checks, limits, timeouts or queues.
pub fn serve(broadcast: bool) -> Done {
    let clients = Arc::new(Mutex::new(Vec::new()));
    for stream in listen()?.incoming() {
        let stream = Arc::new(stream?);
        stream.set_nodelay(true)?;
        let clients = Arc::clone(&clients);
        thread::Builder::new().stack_size(STACK).spawn(move || {
            // An error ends this client only.
            _ = serve_one(&stream, broadcast.then_some(&clients));
        })?;
    }
    Ok(())
}

fn serve_one(
    stream: &Arc<TcpStream>,
    clients: Option<&Mutex<Vec<Arc<TcpStream>>>>,
) -> Result<(), Box<dyn Error>> {
    let mut socket = &**stream;
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    while head_end_of_request(&buffer[..filled]).is_none() {
        match socket.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            count => filled += count,
        }
    }
    socket.write_all(&response(&buffer[..filled]).ok_or("no key")?)?;
    if let Some(clients) = clients {
        clients.lock().map_err(|_| "poisoned")?.push(Arc::clone(stream));
    }
    filled = 0;
    let mut out = Vec::new();
    loop {
        let count = socket.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let used = turn_around(&mut buffer[..filled], &mut out)?;
        match clients {
            _ if out.is_empty() => {}
            None => socket.write_all(&out)?,
            Some(clients) => {
                for stream in clients.lock().map_err(|_| "poisoned")?.iter() {
                    (&**stream).write_all(&out)?;
                }
            }
        }
        out.clear();
        buffer.copy_within(used..filled, 0);
        filled -= used;
        if filled == buffer.len() {
            buffer.resize(filled * 2, 0);
        }
    }
}

/// Turns complete frames of a client into frames of a server. Returns the length of the complete frames.
pub fn turn_around(bytes: &mut [u8], out: &mut Vec<u8>) -> Result<usize, &'static str> {
    let mut used = 0;
    loop {
        let rest = &mut bytes[used..];
        let (at, payload) = match rest {
            [_, 0xfe, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            [_, 0xff, length @ ..] => match length.first_chunk() {
                Some(length) => (10, u64::from_be_bytes(*length) as usize),
                None => return Ok(used),
            },
            [_, short, ..] if *short < 0x80 => return Err("not masked"),
            [_, short, ..] if *short < 0xfe => (2, usize::from(*short & 0x7f)),
            _ => return Ok(used),
        };
        if rest.len() < at + 4 + payload {
            return Ok(used);
        }
        let first = rest[0];
        if first & 0x0f == 8 {
            return Err("closed");
        }
        let mut key = [0; 4];
        key.copy_from_slice(&rest[at..at + 4]);
        let bytes = &mut rest[at + 4..at + 4 + payload];
        unmask(bytes, key);
        match payload {
            0..126 => out.extend_from_slice(&[first, payload as u8]),
            _ => out.extend_from_slice(&header(first & 0x0f, payload)),
        }
        out.extend_from_slice(bytes);
        used += at + 4 + payload;
    }
}

fn unmask(bytes: &mut [u8], key: [u8; 4]) {
    let word = u64::from(u32::from_ne_bytes(key));
    let word = word << 32 | word;
    let mut words = bytes.chunks_exact_mut(8);
    for bytes in &mut words {
        if let Ok(bytes) = <&mut [u8; 8]>::try_from(bytes) {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}
