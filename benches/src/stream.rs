//! A connection of the load generator, with TLS or without.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// A certificate for 127.0.0.1 (ECDSA, P-256), its key, and the CA that issued it.
pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/certificates/server.pem");
pub const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/certificates/server.key");
const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/certificates/ca.pem");

/// rustls counts these bytes of a record in addition to its plaintext.
const RECORD_HEADER: usize = 5;

/// Returns the settings of the load generator. Each of its handshakes is a full one. A record has at most `record` bytes, if
/// that is not `None`.
pub fn client_config(record: Option<usize>) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(CA)?)?;
    let mut config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.max_fragment_size = record.map(|record| record + RECORD_HEADER);
    Ok(Arc::new(config))
}

/// Like a `TcpStream`. With TLS, `write` can leave bytes behind that [`flush`](Write::flush) writes when the socket takes
/// them.
pub struct Stream {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    pub fn connect(address: SocketAddr, config: Option<&Arc<ClientConfig>>) -> Result<Self, Box<dyn Error>> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
        let tls = config.map(|config| ClientConnection::new(Arc::clone(config), name)).transpose()?;
        Ok(Self { socket, tls: tls.map(Box::new) })
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.socket.read(bytes);
        }
        let mut sealed = [0; 16 * 1024];
        let mut filled = 0;
        loop {
            filled += self.opened(&mut bytes[filled..])?;
            if filled > 0 {
                return Ok(filled);
            }
            let count = self.socket.read(&mut sealed)?;
            if count == 0 {
                return Ok(0);
            }
            let mut sealed = &sealed[..count];
            while !sealed.is_empty() {
                let Some(tls) = &mut self.tls else { break };
                tls.read_tls(&mut sealed)?;
                tls.process_new_packets().map_err(io::Error::other)?;
                filled += self.opened(&mut bytes[filled..])?;
            }
            self.flush()?;
        }
    }
}

impl Stream {
    /// Copies the plaintext that has arrived.
    fn opened(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return Ok(0) };
        match tls.reader().read(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        let count = tls.writer().write(bytes)?;
        self.flush()?;
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                result => result?,
            };
        }
        Ok(())
    }
}
