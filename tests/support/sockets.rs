//! The TCP sockets of the machine, from /proc, and sockets with a certain address.

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;
use std::{fs, io};

/// Returns how many bytes the kernel holds for the peers of a server's connections. Connections that no process owns
/// any more count too.
#[track_caller]
pub fn unsent_bytes_of(server: SocketAddr) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = format!(":{:04X}", server.port());
    let queues = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let (unsent, _) = fields.nth(2)?.split_once(':')?;
        local.ends_with(&port).then(|| usize::from_str_radix(unsent, 16).expect("hexadecimal digits"))
    });
    queues.sum()
}

/// Connects from a certain address. On Linux all of 127.0.0.0/8 can be used.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// Makes the end of a connection an RST instead of a FIN.
#[track_caller]
pub fn reset_when_dropped(stream: &TcpStream) {
    set_socket_linger(stream, Some(Duration::ZERO)).expect("SO_LINGER");
}
