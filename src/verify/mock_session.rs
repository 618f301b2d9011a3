//! A record layer without cryptography, for the models and the tests of the outbox. It checks how it is used, and the peer's
//! side checks the records.

use crate::error::Cause;
use crate::net::session::{Content, record_len};
use crate::net::{Session, Transport};
use std::io::{self, IoSlice};

/// After this number of records a connection is closed.
pub(crate) const WORN: u8 = 200;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// A record of the peer that [`MockSession`] answers with a record of its own, as a key update is answered.
pub(crate) fn key_update() -> Vec<u8> {
    record(HANDSHAKE, 0, b"please answer")
}

fn record(kind: u8, number: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(body.len() + 1).expect("it is short").to_be_bytes();
    let mut record = vec![kind, 3, 3, high, low, number];
    record.extend(body.iter().map(|byte| byte ^ 0x5a));
    record
}

/// Each record has a number and masked bytes.
#[derive(Debug)]
pub(crate) struct MockSession {
    /// The most plaintext that is sealed at once.
    piece: usize,
    sealed: Vec<u8>,
    has_sealed_data: bool,
    number: u8,
    has_ended: bool,
}

impl MockSession {
    pub(crate) fn new(piece: usize) -> Self {
        Self { piece, sealed: Vec::new(), has_sealed_data: false, number: 0, has_ended: false }
    }

    fn append(&mut self, kind: u8, body: &[u8]) {
        assert!(!self.has_ended, "I14: a record after close_notify");
        self.sealed.extend(record(kind, self.number, body));
        self.number = self.number.wrapping_add(1);
    }
}

impl Session for MockSession {
    fn seal(&mut self, plain: &[IoSlice<'_>]) -> Result<usize, Cause> {
        assert!(!self.has_sealed_data, "I14: sealed before the socket has taken the last data");
        let bytes: Vec<u8> = plain.iter().flat_map(|slice| slice.iter().copied()).take(self.piece).collect();
        assert!(!bytes.is_empty(), "a record of nothing");
        self.append(DATA, &bytes);
        self.has_sealed_data = true;
        Ok(bytes.len())
    }

    fn is_worn(&self) -> bool {
        self.number >= WORN
    }

    fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    fn write(&mut self, stream: &dyn Transport) -> io::Result<()> {
        while !self.sealed.is_empty() {
            let count = stream.try_write(&[IoSlice::new(&self.sealed)])?;
            self.sealed.drain(..count);
        }
        self.has_sealed_data = false;
        Ok(())
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Content, Cause> {
        match record.split_at_checked(6) {
            Some(([DATA, ..], body)) => {
                let body: Vec<u8> = body.iter().map(|byte| byte ^ 0x5a).collect();
                record[..body.len()].copy_from_slice(&body);
                Ok(Content::Data(body.len()))
            }
            Some(([HANDSHAKE, ..], _)) if self.has_ended => Ok(Content::Data(0)),
            Some(([HANDSHAKE, ..], _)) => {
                self.append(HANDSHAKE, b"the answer");
                Ok(Content::Data(0))
            }
            Some(([ALERT, ..], _)) => Ok(Content::End),
            _ => Err(Cause::Tls("a bad record")),
        }
    }

    fn close_notify(&mut self) {
        self.append(ALERT, b"");
        self.has_ended = true;
    }
}

/// The content of the records that the peer has opened.
#[derive(Debug, Default)]
pub(crate) struct Unsealed {
    pub(crate) plain: Vec<u8>,
    /// How many key updates were answered.
    pub(crate) answers: usize,
    pub(crate) has_ended: bool,
}

/// Opens all whole records, and checks that none is missing, repeated or cut.
pub(crate) fn unseal(mut wire: &[u8]) -> Unsealed {
    let (mut unsealed, mut number) = (Unsealed::default(), 0_u8);
    while let Some(len) = record_len(wire) {
        let (record, rest) = wire.split_at(len);
        assert!(!unsealed.has_ended, "I14: {wire:?} after close_notify");
        assert_eq!(record[5], number, "I14: records in another order");
        let body = record[6..].iter().map(|byte| byte ^ 0x5a);
        match record[0] {
            DATA => unsealed.plain.extend(body),
            HANDSHAKE => unsealed.answers += 1,
            ALERT => unsealed.has_ended = true,
            kind => panic!("a record of type {kind}"),
        }
        number = number.wrapping_add(1);
        wire = rest;
    }
    unsealed
}
