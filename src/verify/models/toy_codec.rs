//! Replaces zlib in a model: a compressed message is the length and a checksum of the window that it refers to, and the message.
//! So the model's peer finds every message that refers to other bytes than the peer has.

use super::Decompressed;
use crate::error::Violation;

#[derive(Debug)]
pub(crate) struct Compressor;

#[derive(Debug)]
pub(crate) struct Decompressor;

/// Two bytes of length and two of checksum.
pub(crate) const HEADER: usize = 4;

/// Returns the bytes before the message, for this window.
pub(crate) fn header(window: &[u8]) -> [u8; HEADER] {
    let len = u16::try_from(window.len()).expect("a model's windows are small").to_be_bytes();
    let sum = window.iter().fold(1_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(u16::from(*byte)));
    let sum = sum.to_be_bytes();
    [len[0], len[1], sum[0], sum[1]]
}

impl Compressor {
    #[expect(clippy::unnecessary_wraps, reason = "the real one fails without the feature")]
    pub(crate) fn new(_: u8, _: u8) -> Option<Self> {
        Some(Self)
    }

    pub(crate) fn has(&self, _: u8, _: u8) -> bool {
        true
    }

    #[expect(clippy::unnecessary_wraps, reason = "the real one fails for noise")]
    pub(crate) fn compress(&mut self, window: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        // Compression takes long: the other threads go on meanwhile.
        shuttle::thread::yield_now();
        Some([&header(window)[..], plain].concat())
    }
}

/// No model reads compressed messages.
impl Decompressor {
    pub(crate) fn new() -> Option<Self> {
        None
    }

    pub(crate) fn start(&mut self, _: &[u8]) -> Result<(), Violation> {
        Err(Violation::InvalidDeflate)
    }

    pub(crate) fn step(&mut self, _: &[u8], _: usize) -> Result<Decompressed<'_>, Violation> {
        Err(Violation::InvalidDeflate)
    }
}
