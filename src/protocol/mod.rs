//! The pure room: octets in, events, verdicts and octets out. No sockets, no threads, no clock, no locks, so that every
//! rule can be tested as a table. Limits and trusted sets come as arguments.

pub(crate) mod body;
pub(crate) mod decoder;
pub(crate) mod encoder;
mod fields;
pub(crate) mod forwarded;
pub(crate) mod gate;
pub(crate) mod head;
pub(crate) mod offer;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracle;
pub(crate) mod origin;
pub(crate) mod target;
mod text;
pub(crate) mod upgrade;

pub(crate) use fields::Refusal;
use fields::{is_tchar, is_token, list, lists_token, trim_ows};

/// Which end of the connection we are. It decides who masks (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// Applies a mask (RFC 6455 §5.3) to octets that start `offset` octets into the payload. Masking twice unmasks.
pub(crate) fn mask(octets: &mut [u8], key: [u8; 4], offset: usize) {
    let mut key = key;
    key.rotate_left(offset % 4);
    let key = [key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]];
    let word = u64::from_ne_bytes(key);
    let mut chunks = octets.chunks_exact_mut(size_of::<u64>());
    for chunk in &mut chunks {
        if let Ok(octets) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(octets) ^ word).to_ne_bytes());
        }
    }
    for (octet, key) in chunks.into_remainder().iter_mut().zip(key) {
        *octet ^= key;
    }
}

/// Octets like a client's, but the same at every run: what the tests feed to everything that reads from the wire.
#[cfg(test)]
pub(crate) mod noise {
    /// xorshift64: no dependency, and a failing seed can be repeated.
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

        /// Words of the grammar glued together, with raw octets strewn in: gets deeper into a parser than noise alone.
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
    fn a_payload_masked_in_pieces_is_masked_as_a_whole() {
        let key = [1, 20, 77, 255];
        let plain: Vec<u8> = (0..100).collect();
        let mut whole = plain.clone();
        mask(&mut whole, key, 0);
        assert!(whole.iter().enumerate().all(|(at, octet)| *octet == plain[at] ^ key[at % 4]));
        for cut in 0..=plain.len() {
            let mut pieces = plain.clone();
            let (left, right) = pieces.split_at_mut(cut);
            mask(left, key, 0);
            mask(right, key, cut);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
