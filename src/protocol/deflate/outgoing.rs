//! Messages to compressed frames.

use super::{Compressor, Window};
use crate::deflate::Saved;
use crate::protocol::Role;
use crate::protocol::encoder::{self, Opcode};

/// The smallest window that a peer can demand, in bits. There is no compressor for it.
const FEWEST_BITS: u8 = 8;
/// The smallest window that a compressor has, in bits.
const FEWEST_COMPRESSOR_BITS: u8 = 9;

/// Returns the bits of the compressor for a peer with a window of `bits`.
pub(crate) fn compressor_bits(bits: u8) -> u8 {
    bits.max(FEWEST_COMPRESSOR_BITS)
}

/// Appends one message as a compressed frame, and to the window, if it follows those in the window. Returns false, and
/// changes nothing, if the frame would not be smaller.
///
/// `bits` is the window of the peer.
pub(crate) fn append_compressed(
    role: Role,
    opcode: Opcode,
    plain: &[u8],
    compressor: &mut Compressor,
    bits: u8,
    window: Option<&mut Window>,
    out: &mut Vec<u8>,
) -> bool {
    // A message that fits into the peer's window has no distance that is too long for it.
    if bits == FEWEST_BITS && plain.len() > 1 << FEWEST_BITS {
        return false;
    }
    let before = window.as_ref().map_or(&[][..], |window| window.bytes());
    let Some(payload) = compressor.compress(before, plain) else { return false };
    encoder::append(role, opcode.compressed(), &payload, out);
    if let Some(window) = window {
        window.push(plain);
    }
    true
}

/// Returns whole unmasked frames of ours, of which the messages of at least `shortest` bytes are compressed. Returns `None` if no
/// frame is smaller.
pub(crate) fn compress_frames(
    frames: &[u8],
    shortest: usize,
    compressor: &mut Compressor,
    bits: u8,
    mut window: Option<&mut Window>,
) -> Option<(Vec<u8>, Saved)> {
    let mut out = Vec::new();
    let mut saved = Saved::default();
    for frame in encoder::frames(frames) {
        let start = out.len();
        let window = window.as_deref_mut();
        let is_compressed = frame.payload.len() >= shortest
            && append_compressed(
                Role::Server,
                frame.opcode,
                frame.payload,
                compressor,
                bits,
                window,
                &mut out,
            );
        if is_compressed {
            saved.count(frame.payload.len(), out.len() - start);
        } else {
            out.extend_from_slice(frame.whole);
        }
    }
    (saved.messages > 0).then_some((out, saved))
}
