//! Thousands of clients in one thread.

use super::frame::{self, PING};
use super::{Frame, PATIENCE, upgrade_request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// A client without a thread of its own.
pub struct ThreadlessClient {
    pub stream: TcpStream,
    input: Vec<u8>,
    taken: usize,
    pub over: bool,
}

impl ThreadlessClient {
    /// Opens a WebSocket, with a small receive buffer if one is given. With a small buffer the server has to wait.
    pub fn open(addr: SocketAddr, target: &str, receive_buffer: Option<usize>) -> Self {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        if let Some(bytes) = receive_buffer {
            sockopt::set_socket_recv_buffer_size(&socket, bytes).expect("SO_RCVBUF");
        }
        connect(&socket, &addr).expect("the server accepts");
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(upgrade_request(addr, target, &[]).as_bytes()).expect("it reads");
        let mut input = Vec::new();
        let end = loop {
            let mut bytes = [0; 2048];
            let count = stream.read(&mut bytes).expect("an answer");
            assert!(count > 0, "no 101");
            input.extend_from_slice(&bytes[..count]);
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        assert!(input.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&input));
        input.drain(..end);
        stream.set_nonblocking(true).expect("a mode");
        Self { stream, input, taken: 0, over: false }
    }

    /// Reads at most `most` available bytes, and calls `frame` with each complete frame. Answers pings.
    pub fn read(&mut self, most: usize, mut frame: impl FnMut(Frame)) {
        let mut bytes = [0; 16 << 10];
        let most = most.min(bytes.len());
        match self.stream.read(&mut bytes[..most]) {
            Ok(0) => self.over = true,
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.over = true,
        }
        while let Some((whole, bytes)) =
            frame::parse(&self.input[self.taken..]).expect("what a server may send")
        {
            self.taken += bytes;
            if whole.opcode == PING {
                // A pong is small and rare, so the socket has room for it. A server that has gone is noticed by the
                // next read.
                drop(self.stream.write_all(&Frame::pong(whole.payload).encode()));
            } else {
                frame(whole);
            }
        }
        self.input.drain(..std::mem::take(&mut self.taken));
    }
}

/// Reads from all clients until `enough` returns true.
pub fn poll_clients(
    clients: &mut [ThreadlessClient],
    mut enough: impl FnMut() -> bool,
    mut frame: impl FnMut(usize, Frame),
) {
    while !enough() {
        let open: Vec<usize> = (0..clients.len()).filter(|client| !clients[*client].over).collect();
        let mut fds: Vec<_> =
            open.iter().map(|client| PollFd::new(&clients[*client].stream, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        if !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) {
            continue;
        }
        let ready: Vec<usize> = fds
            .iter()
            .zip(&open)
            .filter(|(fd, _)| !fd.revents().is_empty())
            .map(|(_, client)| *client)
            .collect();
        drop(fds);
        for client in ready {
            clients[client].read(usize::MAX, |one| frame(client, one));
        }
    }
}
