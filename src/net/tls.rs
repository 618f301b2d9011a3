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
use super::session::{Content, RECORD, Session};
use crate::error::{self, Cause};
use crate::logging::catch;
use crate::sync::Arc;
use rustls::crypto::CryptoProvider;
use rustls::{Connection, Error, SupportedCipherSuite};
use std::io::{self, IoSlice, Read, Write};

/// A session store, a key log, a verifier or a resolver of a given configuration panicked.
const PANICKED: &str = "a callback of the TLS configuration panicked";
/// The session has failed before, so its connection is broken.
const FAILED_BEFORE: &str = "the session has failed";
/// The peer sends record after record, and no data.
const WITHOUT_DATA: &str = "too many records without data";
/// The keys of TLS 1.2 cannot be renewed.
const USED_UP: &str = "the keys are used up";
/// A connection with keys for fewer records is closed. AES-GCM may seal 2^24.
const WORN: u64 = 1 << 16;
/// The most records without data in a row. A peer could otherwise keep a thread busy with empty records.
const MAX_WITHOUT_DATA: u32 = 32;
/// Records kept in reserve: for those that one `seal` makes, and for alerts and handshake records, which rustls counts and
/// `records` does not.
const RESERVE: u64 = 64;

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
pub(crate) struct TlsSession {
    connection: Connection,
    /// How many records with data were sealed.
    records: u64,
    /// How many records without data were opened since the last one with data.
    without_data: u32,
}

impl TlsSession {
    pub(crate) fn new(connection: impl Into<Connection>) -> Self {
        let mut connection: Connection = connection.into();
        // The outbox limits what is sealed ahead. The limit of rustls, 64 KiB, is less than a message of 64 KiB with its header.
        connection.set_buffer_limit(None);
        Self { connection, records: 0, without_data: 0 }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Feeds one whole record. After an error the alert for the peer is sealed.
    pub(crate) fn feed(&mut self, record: &[u8]) -> Result<(), Error> {
        let fed = catch(|| feed(&mut self.connection, record));
        let fed = fed.unwrap_or_else(|_| Err(Error::General(PANICKED.into())));
        // RFC 8446 §6.2: a fatal alert is not answered.
        if fed.as_ref().is_err_and(|error| !matches!(error, Error::AlertReceived(_))) {
            self.alert();
        }
        fed
    }

    /// Seals a close_notify, unless rustls has sealed a fatal alert. For some errors it seals none, and has no function that
    /// seals a chosen alert.
    fn alert(&mut self) {
        self.connection.send_close_notify();
    }

    /// Returns how many records the keys may still seal. The last ones are for alerts.
    fn records_left(&self) -> u64 {
        match self.connection.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => {
                suite.common.confidentiality_limit.saturating_sub(self.records + RESERVE)
            }
            _ => u64::MAX,
        }
    }
}

impl Session for TlsSession {
    fn seal(&mut self, plain: &[IoSlice<'_>]) -> Result<usize, Cause> {
        // rustls would drop the data at the limit. It renews the keys of TLS 1.3 before.
        if self.records_left() == 0 {
            return Err(Cause::Tls(USED_UP));
        }
        let count = self.connection.writer().write_vectored(plain).map_err(|_| Cause::Tls(FAILED_BEFORE))?;
        self.records += count.div_ceil(RECORD) as u64;
        Ok(count)
    }

    fn is_worn(&self) -> bool {
        self.records_left() < WORN
    }

    fn has_sealed(&self) -> bool {
        self.connection.wants_write()
    }

    fn write(&mut self, stream: &dyn Transport) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut SocketWriter(stream))?;
        }
        Ok(())
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Content, Cause> {
        self.feed(record).map_err(|error| Cause::Tls(short(&error)))?;
        match self.connection.reader().read(record) {
            Ok(0) => Ok(Content::End),
            Ok(count) => {
                self.without_data = 0;
                Ok(Content::Data(count))
            }
            // No plaintext: the record was TLS's own, or empty.
            Err(_) if self.without_data < MAX_WITHOUT_DATA => {
                self.without_data += 1;
                Ok(Content::Data(0))
            }
            Err(_) => {
                self.alert();
                Err(Cause::Tls(WITHOUT_DATA))
            }
        }
    }

    fn close_notify(&mut self) {
        self.connection.send_close_notify();
    }
}

fn feed(connection: &mut Connection, mut record: &[u8]) -> Result<(), Error> {
    while !record.is_empty() {
        // It takes about 4 KiB at a time, and nothing after close_notify.
        match connection.read_tls(&mut record) {
            Ok(1..) => {}
            Ok(0) => return Ok(()),
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
    connection.process_new_packets().map(drop)
}

/// The socket, as rustls writes to it.
struct SocketWriter<'a>(&'a dyn Transport);

impl Write for SocketWriter<'_> {
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
