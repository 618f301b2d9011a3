//! The syntax that HTTP headers share (RFC 9110 §5): character classes, tokens, and lists.
//!
//! Heads as a whole are in `head.rs`, hosts and origins in `origin.rs`.

use http::{HeaderMap, HeaderName};

/// RFC 9110 §5.6.2: the characters of a token.
#[inline]
pub(crate) const fn is_tchar(byte: u8) -> bool {
    is_of(byte, TCHAR)
}

/// RFC 9110 §5.5: visible characters, space, tab and bytes beyond ASCII.
#[inline]
pub(crate) const fn is_field_content(byte: u8) -> bool {
    is_of(byte, FIELD_CONTENT)
}

/// RFC 3986 §3.2.2: unreserved, percent-encoded and sub-delims.
#[inline]
pub(crate) const fn is_reg_name(byte: u8) -> bool {
    is_of(byte, REG_NAME)
}

const TCHAR: u8 = 1;
const FIELD_CONTENT: u8 = 2;
const REG_NAME: u8 = 4;

#[inline]
#[expect(clippy::indexing_slicing, reason = "there is a class for every byte")]
const fn is_of(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// What each byte can be part of: all of a head is asked, and a look at each kind of character would be what its scan costs.
#[expect(clippy::indexing_slicing, reason = "there is a class for every byte")]
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = class(byte);
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};

const fn class(byte: u8) -> u8 {
    let mut class = 0;
    if byte.is_ascii_alphanumeric() || is_among(byte, b"!#$%&'*+-.^_`|~") {
        class |= TCHAR;
    }
    if byte.is_ascii_alphanumeric() || is_among(byte, b"-._~%!$&'()*+,;=") {
        class |= REG_NAME;
    }
    if matches!(byte, b'\t' | b' '..=b'~' | 0x80..) {
        class |= FIELD_CONTENT;
    }
    class
}

const fn is_among(byte: u8, mut bytes: &[u8]) -> bool {
    while let [first, rest @ ..] = bytes {
        if *first == byte {
            return true;
        }
        bytes = rest;
    }
    false
}

pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_tchar)
}

/// Without the optional whitespace of RFC 9110 §5.6.3 around it.
pub(crate) fn trim_ows(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a list header, over all its lines in order. RFC 9110 §5.6.1.2: empty elements are ignored.
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(trim_ows)
        .filter(|element| !element.is_empty())
}

/// Whether a list header contains a token, in any case, on any of its lines.
pub(crate) fn lists_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let is = |element: &[u8]| element.eq_ignore_ascii_case(token.as_bytes());
    // Mostly it is all there is.
    headers.get(name).is_some_and(|value| is(value.as_bytes())) || list(headers, name).any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the RFCs say it the other way round: everything visible but the delimiters.
    #[test]
    fn every_byte_is_of_its_classes() {
        for byte in 0..=u8::MAX {
            let is_delimiter = br#"(),/:;<=>?@[\]{}""#.contains(&byte);
            assert_eq!(is_tchar(byte), byte.is_ascii_graphic() && !is_delimiter, "{byte}");
            let is_control = byte.is_ascii_control() && byte != b'\t';
            assert_eq!(is_field_content(byte), !is_control, "{byte}");
            // RFC 3986 §2.2: gen-delims, and what RFC 3986 does not allow anywhere. "%" begins an escape.
            let is_excluded = b":/?#[]@\"<>\\^`{|}".contains(&byte);
            assert_eq!(is_reg_name(byte), byte.is_ascii_graphic() && !is_excluded, "{byte}");
        }
    }
}
