//! The protocols, without I/O: frames (RFC 6455 §5), opening handshakes (§4), HTTP heads, and the headers of proxies.
//!
//! Everything here takes bytes and returns values, errors and bytes. There are no sockets, threads, clocks or locks, so each
//! rule is tested as a table. Limits and sets of trusted addresses are arguments. Sockets are in `net/`; the loops that read
//! and write are in `connection/`, `outbox/`, `handshake.rs` and `client.rs`.

pub(crate) mod client_handshake;
pub(crate) mod decoder;
pub(crate) mod deflate;
pub(crate) mod encoder;
pub(crate) mod forwarded;
pub(crate) mod gate;
pub(crate) mod head;
mod http_syntax;
pub(crate) mod origin;
pub(crate) mod proxy_header;
mod refusal;
pub(crate) mod response_body;
pub(crate) mod server_handshake;
pub(crate) mod url;
mod utf8;

use http_syntax::{is_field_content, is_reg_name, is_tchar, is_token, list, lists_token, trim_ows};
pub(crate) use refusal::Refusal;

/// Which end of the connection this is. Only a client masks its frames (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// The number of bytes that [`mask`] processes in one step: two vector registers of SSE2. Compared with steps of 8 bytes, this
/// saves a sixth of the instructions of a long payload (`.ci/instructions`).
const BLOCK: usize = 32;

/// Masks or unmasks bytes (RFC 6455 §5.3) that start at `offset` in the payload.
pub(crate) fn mask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    // Little-endian on every machine: the first byte of the key is the lowest, and a rotation to the right moves to the next.
    #[expect(clippy::cast_possible_truncation, reason = "it is below four")]
    let turn = (offset % 4) as u32;
    let key = u32::from_le_bytes(key).rotate_right(8 * turn);
    let word = u64::from(key) << 32 | u64::from(key);
    let mut blocks = bytes.chunks_exact_mut(BLOCK);
    for block in &mut blocks {
        // The fixed size lets the compiler use vector instructions without a loop.
        if let Ok(block) = <&mut [u8; BLOCK]>::try_from(block) {
            for bytes in block.chunks_exact_mut(size_of::<u64>()) {
                xor(bytes, word);
            }
        }
    }
    let mut words = blocks.into_remainder().chunks_exact_mut(size_of::<u64>());
    for bytes in &mut words {
        xor(bytes, word);
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(word.to_le_bytes()) {
        *byte ^= key;
    }
}

#[inline]
fn xor(bytes: &mut [u8], word: u64) {
    if let Ok(bytes) = <&mut [u8; size_of::<u64>()]>::try_from(bytes) {
        *bytes = (u64::from_le_bytes(*bytes) ^ word).to_le_bytes();
    }
}

/// Random input for the tests of parsers, the same at every run.
#[cfg(test)]
pub(crate) mod noise {
    /// A xorshift64 generator. A failing seed can be repeated.
    pub(crate) struct Noise(u64);

    impl Noise {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
        }

        pub(crate) fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        pub(crate) fn below(&mut self, bound: usize) -> usize {
            usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
        }

        /// Returns words of a grammar in random order, with a few random bytes. This gets deeper into a parser than random
        /// bytes alone.
        pub(crate) fn text(&mut self, words: &[&str], length: usize) -> Vec<u8> {
            let mut text = Vec::new();
            for _ in 0..self.below(length) {
                match self.below(8) {
                    0 => text.push(self.next().to_le_bytes()[3]),
                    _ => text.extend_from_slice(words[self.below(words.len())].as_bytes()),
                }
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn masking_in_pieces_equals_masking_the_whole() {
        let key = [1, 20, 77, 255];
        let plain: Vec<u8> = (0..100).collect();
        let mut whole = plain.clone();
        mask(&mut whole, key, 0);
        assert!(whole.iter().enumerate().all(|(at, byte)| *byte == plain[at] ^ key[at % 4]));
        for cut in 0..=plain.len() {
            let mut pieces = plain.clone();
            let (left, right) = pieces.split_at_mut(cut);
            mask(left, key, 0);
            mask(right, key, cut);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
