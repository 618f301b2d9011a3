//! DEFLATE (RFC 1951) by zlib-rs. No other file names it.

use super::Decompressed;
use crate::error::Violation;
use std::fmt;
use zlib_rs::{DeflateConfig, DeflateFlush, Inflate, InflateFlush, Method, Status, Strategy};

/// The end of a block that is flushed: an empty block without compression, after its header. It is not sent (§7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];
/// zlib's memory level for each window from 9 to 15 bits, as uWebSockets has it. More memory takes longer to reset, and gains
/// nothing.
const MEM_LEVELS: [i32; 7] = [1, 3, 4, 5, 6, 7, 8];
/// The decompressed bytes that are made in one step.
const PIECE: usize = 8 * 1024;

/// A compressor, which starts anew with each message.
pub(crate) struct Compressor {
    state: Box<zlib_rs::Deflate>,
    config: DeflateConfig,
    level: u8,
    bits: u8,
    /// It has compressed a message, so that the next one needs a reset.
    is_used: bool,
}

impl Compressor {
    /// `level` is 1 to 9. `bits` is 9 to 15: there is no compressor for a window of 8 bits.
    pub(crate) fn new(level: u8, bits: u8) -> Option<Self> {
        let mem_level = *MEM_LEVELS.get(usize::from(bits.checked_sub(9)?))?;
        let config = DeflateConfig {
            level: level.into(),
            method: Method::Deflated,
            // Negative: DEFLATE alone, without the header of zlib.
            window_bits: -i32::from(bits),
            mem_level,
            strategy: Strategy::Default,
        };
        let state = zlib_rs::Deflate::new_with_config(config);
        Some(Self { state: Box::new(state), config, level, bits, is_used: false })
    }

    /// Returns whether it compresses with these settings.
    pub(crate) fn has(&self, level: u8, bits: u8) -> bool {
        (self.level, self.bits) == (level, bits)
    }

    /// Compresses a message that follows those in `window`. Returns `None` if the result would not be smaller.
    pub(crate) fn compress(&mut self, window: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        if self.is_used {
            self.state.reset();
            if !window.is_empty() && self.wipe().is_none() {
                self.renew();
            }
        }
        self.is_used = true;
        let compressed = self.try_compress(window, plain);
        if compressed.is_none() {
            // After a reset in the middle of a message, the next result could differ from that of a new state.
            self.renew();
        }
        compressed
    }

    /// Overwrites zlib's buffer, which has twice the size of the window, with zeros as in a new state.
    ///
    /// Otherwise the length of the result could show bytes of another connection: zlib-rs 0.6 hashes one byte behind the
    /// dictionary. A new state for each message would be slower. With glibc, each thread would also keep the memory of seven.
    fn wipe(&mut self) -> Option<()> {
        let (zeros, mut out) = ([0; 1 << 10], [0; 1 << 10]);
        for _ in 0..(2_usize << self.bits) / zeros.len() {
            self.state.compress(&zeros, &mut out, DeflateFlush::SyncFlush).ok()?;
        }
        self.state.reset();
        Some(())
    }

    fn renew(&mut self) {
        *self.state = zlib_rs::Deflate::new_with_config(self.config);
        self.is_used = false;
    }

    fn try_compress(&mut self, window: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        if !window.is_empty() {
            self.state.set_dictionary(window).ok()?;
        }
        // One call with room for everything that is worth it. With little room, each further call would write one more empty
        // block.
        let mut out = vec![0; plain.len()];
        let (read, written) = (self.state.total_in(), self.state.total_out());
        self.state.compress(plain, &mut out, DeflateFlush::SyncFlush).ok()?;
        let (read, written) = (self.state.total_in() - read, self.state.total_out() - written);
        let written = usize::try_from(written).ok()?;
        if read != plain.len() as u64 || written >= out.len() {
            return None;
        }
        out.truncate(written);
        let payload = out.strip_suffix(&FLUSHED)?.len();
        out.truncate(payload);
        Some(out)
    }
}

/// A decompressor, which starts anew with each message.
pub(crate) struct Decompressor {
    state: Box<Inflate>,
    /// The bytes that the last step has made.
    piece: Box<[u8]>,
}

impl Decompressor {
    pub(crate) fn new() -> Option<Self> {
        // The window of any peer fits into 15 bits.
        Some(Self { state: Box::new(Inflate::new(false, 15)), piece: vec![0; PIECE].into() })
    }

    /// Starts a stream that follows the messages in `window`.
    pub(crate) fn start(&mut self, window: &[u8]) -> Result<(), Violation> {
        self.state.reset(false);
        if !window.is_empty() {
            self.state.set_dictionary(window).map_err(|_| Violation::InvalidDeflate)?;
        }
        Ok(())
    }

    /// Decompresses the start of `input`, to at most `most` bytes. `most` must not be 0.
    pub(crate) fn step(&mut self, input: &[u8], most: usize) -> Result<Decompressed<'_>, Violation> {
        let most = most.min(self.piece.len());
        let room = self.piece.get_mut(..most).unwrap_or_default();
        let (read, written) = (self.state.total_in(), self.state.total_out());
        let status = self
            .state
            .decompress(input, room, InflateFlush::SyncFlush)
            .map_err(|_| Violation::InvalidDeflate)?;
        let count = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let used = count(self.state.total_in(), read);
        let made = count(self.state.total_out(), written);
        let plain = self.piece.get(..made).unwrap_or_default();
        Ok(Decompressed { used, plain, is_final: status == Status::StreamEnd, is_full: made == most })
    }
}

/// Shows nothing of what was compressed.
impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor")
            .field("level", &self.level)
            .field("bits", &self.bits)
            .finish_non_exhaustive()
    }
}

/// Shows nothing of what was decompressed.
impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::decoder::{Decoder, Item};
    use crate::protocol::deflate::Direction;
    use crate::protocol::noise::Noise;
    use crate::protocol::{Role, encoder};

    /// Every level makes noise longer, a small window by 4 %.
    #[test]
    fn noise_of_the_limit_passes_from_a_compressor_with_any_settings() {
        let mut noise = Noise::new(11);
        let mut longest = 0;
        for len in [1, 70, 5000, 20_000] {
            let plain: Vec<u8> = (0..len).map(|_| noise.next().to_le_bytes()[3]).collect();
            for (level, mem_level, window_bits) in (0..=9)
                .flat_map(|level| (1..=9).flat_map(move |mem| [-9, -15].map(|bits| (level, mem, bits))))
            {
                let config = DeflateConfig {
                    level,
                    method: Method::Deflated,
                    window_bits,
                    mem_level,
                    strategy: Strategy::Default,
                };
                let mut out = vec![0; 2 * len + 100];
                let mut state = zlib_rs::Deflate::new_with_config(config);
                state.compress(&plain, &mut out, DeflateFlush::SyncFlush).expect("there is room");
                assert_eq!(state.total_in(), len as u64);
                out.truncate(usize::try_from(state.total_out()).expect("a length"));
                let payload = out.strip_suffix(&FLUSHED).expect("a flush");
                longest = longest.max(payload.len() - len);
                let mut frame = Vec::new();
                encoder::append(Role::Server, encoder::Opcode::Binary, payload, &mut frame);
                frame[0] |= 0x40;
                let mut decoder = Decoder::new(Role::Client, len);
                decoder.accept_compressed(Direction { bits: 15, takeover: false });
                let used = decoder.next(&mut frame).expect("not too big").used;
                decoder.lend(Decompressor::new().expect("the feature is on")).expect("no window");
                let step = decoder.next(&mut frame[used..]);
                let what = format!("{len} bytes, level {level}, {mem_level}, {window_bits} bits");
                assert_eq!(step.expect(&what).item, Some(Item::Assembled), "{what}");
                assert!(decoder.assembled().as_bytes() == plain, "{what}");
            }
        }
        assert!(longest > 20_000 / 50, "{longest} bytes are less than expected");
    }
}
