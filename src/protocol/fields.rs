//! What heads are made of, and the refusal that any of them may meet.

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
#[inline]
pub(crate) const fn is_tchar(octet: u8) -> bool {
    octet < 128 && TCHARS >> octet & 1 == 1
}

/// A bit for each: half a head is names, and a look at each kind of character would be what its scan costs.
const TCHARS: u128 = {
    let mut set = 0;
    let mut octet = 0_u8;
    while octet < 128 {
        if octet.is_ascii_alphanumeric()
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
        {
            set |= 1 << octet;
        }
        octet += 1;
    }
    set
};

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
