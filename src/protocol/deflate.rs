//! permessage-deflate (RFC 7692): the agreement on it, and the compression of messages. Sections below are of that RFC.
//!
//! A compressor or decompressor keeps nothing from one message to the next. With context takeover (§7.1.1) the last bytes of
//! the messages before, the [`Window`], are given to it at the start of each message. So a connection needs no compressor of
//! its own, and a message that is not sent in the end changes nothing.
//!
//! The frames around the compressed bytes are in `decoder.rs` and `encoder.rs`, the pool of compressors in `deflate_pool.rs`.

#[cfg(all(feature = "deflate", not(all(test, model))))]
mod codec;
/// Replaces the compression in a model: it shows which window each message was compressed with.
#[cfg(all(test, model))]
#[path = "../verify/models/toy_codec.rs"]
pub(crate) mod codec;
#[cfg(not(any(feature = "deflate", all(test, model))))]
#[path = "deflate/off.rs"]
mod codec;
mod incoming;
mod negotiation;
mod outgoing;
mod window;

pub(crate) use codec::{Compressor, Decompressor};
pub(crate) use incoming::{Decompressed, Incoming};
pub(crate) use negotiation::{Agreed, Direction, agree, answer, offer};
pub(crate) use outgoing::{append_compressed, compress_frames, compressor_bits};
pub(crate) use window::Window;

#[cfg(all(test, feature = "deflate", not(model)))]
mod tests;
