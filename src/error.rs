//! The errors of the library. [`Error`] holds all of them, and knows the close code of each.

pub(crate) mod closed;
pub(crate) mod error;

pub(crate) use closed::{Cause, Closed, Ending};
pub(crate) use error::{BoxError, Error, Result, Timeout, context};

use std::fmt;

/// The rule of RFC 6455 that the peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Violation {
    /// A frame from a client without a mask (§5.1).
    UnmaskedFrame,
    /// A frame from a server with a mask (§5.1).
    MaskedFrame,
    /// A reserved bit that no extension has given a meaning (§5.2).
    ReservedBit,
    /// A reserved opcode (§5.2).
    ReservedOpcode(u8),
    /// A length in more bytes than it needs (§5.2).
    NonMinimalLength,
    /// A 64-bit length with the top bit set (§5.2).
    LengthOverflow,
    /// A continuation frame without a message to continue (§5.4).
    UnexpectedContinuation,
    /// A new message inside a fragmented one (§5.4).
    ExpectedContinuation,
    /// More fragments in a message than 4096 and one for each 16 bytes received.
    TooManyFragments,
    /// A control frame in fragments (§5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (§5.5).
    OversizeControl,
    /// A Close frame of one byte (§5.5.1).
    TruncatedClose,
    /// A close code that is not allowed on the wire (§7.4).
    InvalidCloseCode(u16),
    /// Text, or a close reason, that is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A compressed message that is not valid DEFLATE (RFC 7692 §6.2).
    InvalidDeflate,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnmaskedFrame => "unmasked frame from a client",
            Self::MaskedFrame => "masked frame from a server",
            Self::ReservedBit => "reserved bit set",
            Self::ReservedOpcode(opcode) => return write!(f, "reserved opcode {opcode}"),
            Self::NonMinimalLength => "length not encoded in the fewest bytes",
            Self::LengthOverflow => "length with the top bit set",
            Self::UnexpectedContinuation => "continuation frame without a message",
            Self::ExpectedContinuation => "new message inside a fragmented one",
            Self::TooManyFragments => "too many fragments in a message",
            Self::FragmentedControl => "fragmented control frame",
            Self::OversizeControl => "control frame larger than 125 bytes",
            Self::TruncatedClose => "close frame of one byte",
            Self::InvalidCloseCode(code) => return write!(f, "invalid close code {code}"),
            Self::InvalidUtf8 => "text is not valid UTF-8",
            Self::InvalidDeflate => "compressed message is not valid DEFLATE",
        })
    }
}

impl std::error::Error for Violation {}
