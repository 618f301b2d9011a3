//! The floor of event loops: one thread with epoll that does the least work for a WebSocket.

use crate::floor::turn_around;
use crate::peers::{Done, listen};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use threadws_benches::{head_end_of_request, response};

/// The data of the listener in the set. The data of a client is its place in the list plus one.
const LISTENER: u64 = 0;

#[derive(Default)]
struct Client {
    stream: Option<TcpStream>,
    is_open: bool,
    /// The part of a frame that has arrived.
    input: Vec<u8>,
    /// What the socket did not take.
    output: Vec<u8>,
}

/// The buffers of the loop, which all clients share.
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Echoes each message, without checks, limits, timeouts or locks.
pub fn serve() -> Done {
    let listener = listen()?;
    listener.set_nonblocking(true)?;
    let set = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&set, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut clients: Vec<Client> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
    let mut buffers = Buffers { input: vec![0; 256 << 10], output: Vec::new() };
    loop {
        events.clear();
        epoll::wait(&set, spare_capacity(&mut events), None)?;
        for event in &events {
            let data = event.data.u64();
            if data == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    let place = free.pop().unwrap_or_else(|| {
                        clients.push(Client::default());
                        clients.len() - 1
                    });
                    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                    epoll::add(&set, &stream, EventData::new_u64(place as u64 + 1), flags)?;
                    clients[place].stream = Some(stream);
                }
                continue;
            }
            let place = data as usize - 1;
            if !serve_one(&mut clients[place], &mut buffers) {
                clients[place] = Client::default();
                free.push(place);
            }
        }
    }
}

/// Serves a client that is ready. Returns false if it has left.
fn serve_one(client: &mut Client, buffers: &mut Buffers) -> bool {
    let Client { stream: Some(stream), is_open, input, output } = client else { return true };
    let mut socket = &*stream;
    loop {
        if !write(socket, output) {
            return false;
        }
        let kept = input.len();
        if buffers.input.len() < kept * 2 {
            buffers.input.resize(kept * 2, 0);
        }
        buffers.input[..kept].copy_from_slice(input);
        let filled = match socket.read(&mut buffers.input[kept..]) {
            Ok(0) => return false,
            Ok(count) => kept + count,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        let may_have_more = filled == buffers.input.len();
        let bytes = &mut buffers.input[..filled];
        let used = if *is_open {
            turn_around(bytes, &mut buffers.output)
        } else {
            let end = head_end_of_request(bytes).unwrap_or(0);
            buffers.output.extend(response(bytes).filter(|_| end > 0).unwrap_or_default());
            *is_open = end > 0;
            Ok(end)
        };
        let Ok(used) = used else { return false };
        input.clear();
        input.extend_from_slice(&bytes[used..]);
        if output.is_empty() {
            let written = match socket.write(&buffers.output) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            };
            output.extend_from_slice(&buffers.output[written..]);
        } else {
            output.extend_from_slice(&buffers.output);
        }
        buffers.output.clear();
        if !may_have_more {
            return true;
        }
    }
}

/// Writes as much as the socket takes. Returns false if the client has left.
fn write(mut socket: &TcpStream, output: &mut Vec<u8>) -> bool {
    while !output.is_empty() {
        match socket.write(output) {
            Ok(count) => drop(output.drain(..count)),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
    true
}
