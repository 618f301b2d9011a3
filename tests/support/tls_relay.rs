//! With `THREADWS_TEST_TLS=1` every server of the tests has TLS, and a relay before it. The peers of the tests speak without
//! TLS to the relay. So each test of a server is a test of TLS, too.

use super::certificate;
use super::sockets::connect_from;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use threadws::tls::rustls::pki_types::pem::PemObject;
use threadws::tls::rustls::pki_types::{CertificateDer, ServerName};
use threadws::tls::rustls::{
    self, ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, crypto,
};

/// The most bytes that the relay holds in each direction, so that a slow end slows the other.
const HELD: usize = 16 * 1024;

/// Returns a configuration that trusts `ca.pem`.
pub fn rustls_client(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate("ca.pem")).expect("a certificate")).expect("valid");
    ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Starts a relay before a server, and returns its address.
pub fn start(server: SocketAddr) -> SocketAddr {
    let config = Arc::new(rustls_client(rustls::DEFAULT_VERSIONS));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            // From the address of the peer, because a server can have quotas for each address.
            let Ok(peer) = peer else { return };
            let from = peer.peer_addr();
            let Ok(server) = from.and_then(|from| connect_from(from.ip(), server)) else { return };
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let name = ServerName::try_from("localhost").expect("a name");
                let tls = ClientConnection::new(config, name).expect("a valid configuration");
                let relay =
                    Relay { peer, server, tls, to_peer: Vec::new(), peer_ended: false, server_ended: false };
                relay.run();
            });
        }
    });
    addr
}

struct Relay {
    peer: TcpStream,
    server: TcpStream,
    tls: ClientConnection,
    /// Plaintext that the peer has not taken.
    to_peer: Vec<u8>,
    peer_ended: bool,
    server_ended: bool,
}

impl Relay {
    /// Relays until both directions have ended. An error at one end is a reset at the other.
    fn run(mut self) {
        for stream in [&self.peer, &self.server] {
            stream.set_nonblocking(true).expect("a socket");
            stream.set_nodelay(true).expect("TCP");
        }
        while !(self.peer_ended && self.server_ended && self.to_peer.is_empty() && !self.tls.wants_write()) {
            if self.step().is_err() {
                // Bytes that arrived before the error still reach the peer.
                drop(self.peer.set_nonblocking(false));
                drop(self.peer.write_all(&self.to_peer));
                for stream in [&self.peer, &self.server] {
                    _ = rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO));
                }
                return;
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let can_hold = !self.tls.wants_write() && !self.tls.is_handshaking();
        let flag = |condition, flag| if condition { flag } else { PollFlags::empty() };
        let of_peer = flag(!self.peer_ended && can_hold, PollFlags::IN)
            | flag(!self.to_peer.is_empty(), PollFlags::OUT);
        let of_server = flag(!self.server_ended && self.to_peer.len() < HELD, PollFlags::IN)
            | flag(self.tls.wants_write(), PollFlags::OUT);
        let mut fds = Vec::new();
        // A socket that nothing is wanted of would report its end again and again.
        for (stream, flags) in [(&self.peer, of_peer), (&self.server, of_server)] {
            if !flags.is_empty() {
                fds.push(PollFd::new(stream, flags));
            }
        }
        poll(&mut fds, None)?;
        drop(fds);
        if !self.server_ended && self.to_peer.len() < HELD {
            self.read_server()?;
        }
        if !self.to_peer.is_empty() {
            if let Some(count) = again(self.peer.write(&self.to_peer))? {
                self.to_peer.drain(..count);
            }
        }
        if self.server_ended && self.to_peer.is_empty() {
            // Ignored: the peer may have gone.
            drop(self.peer.shutdown(Shutdown::Write));
        }
        if !self.peer_ended && can_hold {
            let mut bytes = [0; HELD];
            match again(self.peer.read(&mut bytes))? {
                Some(0) => {
                    self.peer_ended = true;
                    self.tls.send_close_notify();
                }
                Some(count) => self.tls.writer().write_all(&bytes[..count])?,
                None => {}
            }
        }
        while self.tls.wants_write() && again(self.tls.write_tls(&mut self.server))?.is_some() {}
        if self.peer_ended && !self.tls.wants_write() {
            drop(self.server.shutdown(Shutdown::Write));
        }
        Ok(())
    }

    fn read_server(&mut self) -> io::Result<()> {
        let Some(count) = again(self.tls.read_tls(&mut self.server))? else { return Ok(()) };
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        let start = self.to_peer.len();
        self.to_peer.resize(start + state.plaintext_bytes_to_read(), 0);
        self.tls.reader().read_exact(&mut self.to_peer[start..])?;
        self.server_ended = count == 0;
        Ok(())
    }
}

/// Returns `None` if the socket is not ready.
fn again(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
