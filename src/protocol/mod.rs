//! The pure room: octets in, verdicts and octets out.
//!
//! Nothing here reads a socket, a clock or a lock, so that every rule can be tested as a table. Limits and trusted sets
//! come as arguments.

pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod offer;
pub(crate) mod origin;
pub(crate) mod upgrade;

use http::{HeaderMap, HeaderName, StatusCode};
use std::fmt;

/// Why a head or a handshake is refused: the status to answer with, and a reason that quotes nothing from the wire, so
/// that it can be sent as the body as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    /// Headers that the status calls for, such as `Allow`: names in lower case.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

impl Refusal {
    pub(crate) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason, headers: &[] }
    }

    pub(crate) const fn bad_request(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    pub(crate) const fn with(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.reason)
    }
}

/// RFC 9110 §5.6.2: the characters of a token.
pub(crate) const fn is_tchar(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(
            octet,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

pub(crate) fn is_token(octets: &[u8]) -> bool {
    !octets.is_empty() && octets.iter().copied().all(is_tchar)
}

/// Without the optional whitespace of RFC 9110 §5.6.3 around it.
pub(crate) fn trim_ows(mut octets: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = octets {
        octets = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = octets {
        octets = rest;
    }
    octets
}

/// The elements of a list header, over all its lines in order. RFC 9110 §5.6.1.2: empty elements are ignored.
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&octet| octet == b','))
        .map(trim_ows)
        .filter(|element| !element.is_empty())
}

/// Whether a list header contains a token, in any case, on any of its lines.
pub(crate) fn lists_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list(headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
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
