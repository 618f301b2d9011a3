//! TLS by rustls. Only this file and those below it name rustls.

mod client;
mod failure;
mod handshake;
mod pem;
mod server;

pub use self::client::ClientTls;
pub use self::server::ServerTls;
pub use ::rustls;

pub(crate) use self::handshake::{accept, connect};
pub(crate) use self::server::TlsServer;

use self::failure::{explain, short};
use super::Transport;
use super::session::{Content, Session};
use crate::error::{self, Cause};
use crate::sync::Arc;
use rustls::crypto::CryptoProvider;
use rustls::{Connection, Error};
use std::io::{self, IoSlice, Read, Write};

/// The session has failed before, so its connection is broken.
const FAILED_BEFORE: &str = "the session has failed";

/// The target of this module's log lines.
const LOG: &str = "threadws::tls";
/// The only protocol inside TLS that a WebSocket can begin with here (RFC 7301).
const HTTP_1_1: &[u8] = b"http/1.1";

/// Returns the provider that the process has installed, otherwise ring's. `ClientConfig::builder` would panic if a program
/// has two providers and has installed none.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| rustls::crypto::ring::default_provider().into())
}

/// Refuses a list of protocols with which the peer could choose another one than HTTP/1.1.
fn check_alpn(protocols: &[Vec<u8>]) -> error::Result<()> {
    let has = |name: &[u8]| protocols.iter().any(|protocol| protocol == name);
    if protocols.is_empty() || (has(HTTP_1_1) && !has(b"h2")) {
        return Ok(());
    }
    Err(error::Error::invalid("tls: alpn_protocols have to contain http/1.1, and not h2"))
}

/// A TLS connection of either role.
#[derive(Debug)]
pub(crate) struct TlsSession(Connection);

impl TlsSession {
    pub(crate) fn new(connection: impl Into<Connection>) -> Self {
        Self(connection.into())
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Feeds one whole record. After an error the alert for the peer is sealed.
    pub(crate) fn feed(&mut self, mut record: &[u8]) -> Result<(), Error> {
        while !record.is_empty() {
            // It takes about 4 KiB at a time, and nothing after close_notify.
            match self.0.read_tls(&mut record) {
                Ok(1..) => {}
                Ok(0) => return Ok(()),
                Err(error) => return Err(Error::General(error.to_string())),
            }
        }
        self.0.process_new_packets().map(drop)
    }
}

impl Session for TlsSession {
    fn seal(&mut self, plain: &[IoSlice<'_>]) -> Result<usize, Cause> {
        self.0.writer().write_vectored(plain).map_err(|_| Cause::Tls(FAILED_BEFORE))
    }

    fn has_sealed(&self) -> bool {
        self.0.wants_write()
    }

    fn write(&mut self, stream: &dyn Transport) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(&mut Socket(stream))?;
        }
        Ok(())
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Content, Cause> {
        self.feed(record).map_err(|error| Cause::Tls(short(&error)))?;
        match self.0.reader().read(record) {
            Ok(0) => Ok(Content::End),
            Ok(count) => Ok(Content::Data(count)),
            // No plaintext: the record was TLS's own.
            Err(_) => Ok(Content::Data(0)),
        }
    }

    fn close_notify(&mut self) {
        self.0.send_close_notify();
    }
}

/// The socket, as rustls writes to it.
struct Socket<'a>(&'a dyn Transport);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
