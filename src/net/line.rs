//! A connected socket during the opening handshake: plain, or with TLS.

use super::session::{Content, Session, record_len};
use super::{Deadline, Stream, Transport};
use crate::error::{Cause, Error};
use crate::sync::Arc;
use std::cell::LazyCell;
use std::io::{self, ErrorKind, IoSlice};

/// How many bytes of ciphertext are read at least in one call. Most requests and responses are smaller.
const READ: usize = 4096;

/// A socket, and the TLS session over it if there is one.
#[derive(Debug)]
pub(crate) struct Line {
    pub(super) stream: Arc<Stream>,
    pub(super) session: Option<Box<dyn Session>>,
    /// Bytes that were read and not opened yet. After a read, less than a record.
    pub(super) sealed: Vec<u8>,
    /// The peer has sent a close_notify: nothing follows (RFC 8446 §6.1).
    has_ended: bool,
    /// The certificate of a server's client, as DER.
    pub(super) peer_certificate: Option<Box<[u8]>>,
}

/// A TLS session, and the start of a record that was read with the handshake.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) session: Box<dyn Session>,
    pub(crate) sealed: Vec<u8>,
}

impl Line {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        Self { stream, session: None, sealed: Vec::new(), has_ended: false, peer_certificate: None }
    }

    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Takes the certificate that a server's client has presented, as DER.
    pub(crate) fn take_peer_certificate(&mut self) -> Option<Box<[u8]>> {
        self.peer_certificate.take()
    }

    /// Takes the TLS session out, for the connection that follows the handshake.
    pub(crate) fn take_session(&mut self) -> Option<Established> {
        let sealed = std::mem::take(&mut self.sealed);
        self.session.take().map(|session| Established { session, sealed })
    }

    /// Waits for input, the end of the stream or an error. Returns false if the deadline came first.
    pub(crate) fn wait_readable(&self, deadline: Deadline) -> io::Result<bool> {
        if self.has_ended { Ok(true) } else { self.stream.wait_readable(deadline) }
    }

    /// Reads once and appends the bytes to `buffer`, which must have spare capacity. Zero is the end of the stream.
    ///
    /// If nothing arrived it returns `WouldBlock`, with `wait` only after the socket's read timeout. With TLS, also if a part
    /// of a record arrived.
    pub(crate) fn read_append(&mut self, buffer: &mut Vec<u8>, wait: bool) -> io::Result<usize> {
        if self.session.is_none() {
            return self.stream.read_append(buffer, wait);
        }
        if self.has_ended || self.read_sealed(wait)? == 0 {
            return Ok(0);
        }
        self.open(buffer)
    }

    /// Reads sealed bytes once. Zero is the end of the stream.
    pub(super) fn read_sealed(&mut self, wait: bool) -> io::Result<usize> {
        self.sealed.reserve(READ);
        self.stream.read_append(&mut self.sealed, wait)
    }

    /// Opens all whole records, and appends their plaintext to `buffer`. Returns as [`read_append`](Self::read_append) does.
    pub(super) fn open(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let Some(session) = &mut self.session else { return Err(ErrorKind::WouldBlock.into()) };
        let (mut used, mut count) = (0, 0);
        while let Some(record) = record_at(&mut self.sealed, used) {
            used += record.len();
            match session.open(record) {
                Ok(Content::Data(length)) => {
                    buffer.extend(record.iter().take(length));
                    count += length;
                }
                Ok(Content::End) => self.has_ended = true,
                Err(cause) => {
                    // The alert for the peer. Ignored: the connection is over.
                    drop(session.write(&*self.stream));
                    return Err(failed(cause));
                }
            }
        }
        self.sealed.drain(..used);
        if count > 0 || self.has_ended { Ok(count) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    /// Writes all of `bytes`, or returns `TimedOut` at the deadline. `deadline` is only called if a write has to wait.
    pub(crate) fn write_all(
        &mut self,
        mut bytes: &[u8],
        deadline: impl FnOnce() -> Deadline,
    ) -> io::Result<()> {
        let Some(session) = &mut self.session else { return self.stream.write_all(bytes, deadline) };
        let deadline = LazyCell::new(deadline);
        while !bytes.is_empty() {
            let count = session.seal(&[IoSlice::new(bytes)]).map_err(failed)?;
            bytes = bytes.get(count..).unwrap_or_default();
            write_sealed(&mut **session, &self.stream, || *deadline)?;
        }
        Ok(())
    }

    /// Sends FIN, with TLS after a close_notify, without waiting. The peer can still read everything that was written.
    pub(crate) fn shutdown_write(&mut self) {
        if let Some(session) = &mut self.session {
            session.close_notify();
            // Ignored: a peer that has not read the answer misses the notice, too.
            drop(session.write(&*self.stream));
        }
        self.stream.shutdown_write();
    }
}

/// Writes everything that the session has sealed, or returns `TimedOut` at the deadline.
pub(super) fn write_sealed(
    session: &mut dyn Session,
    stream: &Stream,
    deadline: impl Fn() -> Deadline,
) -> io::Result<()> {
    while session.has_sealed() {
        match session.write(stream) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !stream.wait_writable(deadline())? {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the whole record that begins at `start`.
fn record_at(bytes: &mut [u8], start: usize) -> Option<&mut [u8]> {
    let bytes = bytes.get_mut(start..)?;
    let len = record_len(bytes)?;
    bytes.get_mut(..len)
}

/// Returns the error of a session that has failed. `Error::from` finds the `Error::Tls` in it.
fn failed(cause: Cause) -> io::Error {
    let what = match cause {
        Cause::Tls(what) => what.into(),
        cause => cause.to_string().into(),
    };
    io::Error::new(ErrorKind::InvalidData, Error::Tls(what))
}
