//! TLS by rustls. No other file names rustls.

use super::Transport;
use super::session::{Opened, Session};
use crate::error::Cause;
use rustls::{Connection, Error};
use std::io::{self, IoSlice, Read, Write};

/// The session has failed before, so its connection is broken.
const FAILED_BEFORE: &str = "the session has failed";

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

    /// Feeds one whole record, and appends nothing: [`take`](Self::take) returns its plaintext.
    ///
    /// After an error the alert for the peer is sealed.
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

    /// Moves opened plaintext into `plain`, and returns how many bytes. Zero if there is none.
    pub(crate) fn take(&mut self, plain: &mut [u8]) -> usize {
        self.0.reader().read(plain).unwrap_or(0)
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

    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Cause> {
        self.feed(record).map_err(|error| Cause::Tls(text(&error)))?;
        match self.0.reader().read(record) {
            Ok(0) => Ok(Opened::End),
            Ok(count) => Ok(Opened::Data(count)),
            // No plaintext: the record was TLS's own.
            Err(_) => Ok(Opened::Data(0)),
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

/// Returns a short text for the end of a connection after its handshake.
fn text(error: &Error) -> &'static str {
    match error {
        Error::DecryptError => "a record that cannot be decrypted",
        Error::AlertReceived(alert) => alert.as_str().unwrap_or("an unknown alert"),
        Error::PeerSentOversizedRecord => "an oversize record",
        Error::InvalidMessage(_) => "a malformed record",
        _ => "the peer broke a rule of TLS",
    }
}
