//! The record layer of TLS, as the rest of the crate sees it: [`Session`]. The implementation is in `tls.rs`, and the models
//! have one of their own.
//!
//! A record is opened and sealed under the outbox's mutex, because both directions share one session. So no call here waits.

use super::Transport;
use crate::error::Cause;
use std::fmt::Debug;
use std::io::{self, IoSlice};

/// The most plaintext of one record (RFC 8446 §5.1).
pub(crate) const RECORD: usize = 1 << 14;
/// The most bytes behind the header of a record: TLS 1.2 allows 2048 more than the plaintext (RFC 5246 §6.2.3).
const MAX_BODY: usize = RECORD + 2048;
/// Type, version and length.
const HEADER: usize = 5;

/// One end of a TLS connection after its handshake.
pub(crate) trait Session: Debug + Send {
    /// Seals the start of `plain`, in records of at most [`RECORD`] bytes, and returns how much of it. The sealed bytes wait
    /// here for [`write`](Self::write).
    fn seal(&mut self, plain: &[IoSlice<'_>]) -> Result<usize, Cause>;

    /// Returns whether the keys have sealed nearly as many records as they may, so that the connection has to end.
    fn is_worn(&self) -> bool;

    /// Returns whether sealed bytes wait. They can also be an alert, a key update or a session ticket.
    fn has_sealed(&self) -> bool;

    /// Writes all sealed bytes. After an error, [`has_sealed`](Self::has_sealed) returns whether some still wait.
    fn write(&mut self, stream: &dyn Transport) -> io::Result<()>;

    /// Opens one whole record. Its plaintext replaces the start of `record`.
    ///
    /// After an error the alert for the peer is sealed, and no more record can be opened.
    fn open(&mut self, record: &mut [u8]) -> Result<Content, Cause>;

    /// Seals the alert that ends our direction. No data may be sealed, and no record opened, after it.
    fn close_notify(&mut self);
}

/// The content of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "no session exists without the feature"))]
pub(crate) enum Content {
    /// This number of bytes. None in a record that is TLS's own, such as a session ticket.
    Data(usize),
    /// The peer's close_notify: nothing follows (RFC 8446 §6.1).
    End,
}

/// Returns the length of the record at the start of `bytes`, or `None` if it is not complete.
///
/// A header that no record can have counts as a record of its own: opening it fails.
pub(crate) fn record_len(bytes: &[u8]) -> Option<usize> {
    let &[kind, major, _, high, low] = bytes.first_chunk::<HEADER>()?;
    let body = usize::from(u16::from_be_bytes([high, low]));
    if !(20..=23).contains(&kind) || major != 3 || body > MAX_BODY {
        return Some(HEADER);
    }
    (HEADER + body <= bytes.len()).then_some(HEADER + body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_cut_by_its_header() {
        assert_eq!(record_len(&[]), None);
        assert_eq!(record_len(&[23, 3, 3, 0]), None);
        assert_eq!(record_len(&[23, 3, 3, 0, 2, 1]), None);
        assert_eq!(record_len(&[23, 3, 3, 0, 2, 1, 2, 23]), Some(7));
        assert_eq!(record_len(&[22, 3, 1, 0, 0]), Some(5));
    }

    #[test]
    fn a_header_that_no_record_has_is_not_waited_for() {
        for header in [[19, 3, 3, 0, 9], [24, 3, 3, 0, 9], [23, 2, 0, 0, 9], *b"GET /", *b"HTTP/"] {
            assert_eq!(record_len(&header), Some(5), "{header:?}");
        }
        let [high, low] = 18432_u16.to_be_bytes();
        assert_eq!(record_len(&[23, 3, 3, high, low]), None);
        let [high, low] = 18433_u16.to_be_bytes();
        assert_eq!(record_len(&[23, 3, 3, high, low]), Some(5));
    }
}
