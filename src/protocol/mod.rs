//! The pure room: octets in, events and octets out. No sockets, no threads, no clock, no locks.

pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod gate;
mod text;

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
    let word = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let mut chunks = octets.chunks_exact_mut(size_of::<u64>());
    for chunk in &mut chunks {
        if let Ok(octets) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(octets) ^ word).to_ne_bytes());
        }
    }
    for (octet, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *octet ^= key;
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
