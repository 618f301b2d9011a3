//! The syntax that HTTP headers share (RFC 9110 §5): character classes, tokens, and lists.
//!
//! Heads as a whole are in `head.rs`, hosts and origins in `origin.rs`.

use http::{HeaderMap, HeaderName};

/// RFC 9110 §5.6.2: the characters of a token.
#[inline]
pub(crate) const fn is_tchar(byte: u8) -> bool {
    is_of(byte, TCHAR)
}

/// RFC 9110 §5.5: the characters of a field value, which are visible characters, space, tab and bytes beyond ASCII.
#[inline]
pub(crate) const fn is_field_content(byte: u8) -> bool {
    is_of(byte, FIELD_CONTENT)
}

/// RFC 3986 §3.2.2: the characters of a registered name, which are unreserved, percent-encoded and sub-delims.
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

/// The classes of each byte. A table, because the scan of a head looks up every byte: to compare each with ranges would cost
/// 9 % of the instructions of a handshake (`.ci/instructions`).
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

/// Removes the optional whitespace (RFC 9110 §5.6.3) around `bytes`.
pub(crate) fn trim_ows(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Returns the elements of a list header, from all its lines in order. RFC 9110 §5.6.1.2: empty elements are ignored.
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(trim_ows)
        .filter(|element| !element.is_empty())
}

/// Returns whether a list header contains a token, in any case, on any of its lines.
pub(crate) fn lists_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let is = |element: &[u8]| element.eq_ignore_ascii_case(token.as_bytes());
    // The first comparison is a fast path: most requests have one line with one element.
    headers.get(name).is_some_and(|value| is(value.as_bytes())) || list(headers, name).any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The RFCs also define the classes the other way round: every visible character except the delimiters.
    #[test]
    fn every_byte_is_in_its_classes() {
        for byte in 0..=u8::MAX {
            let is_delimiter = br#"(),/:;<=>?@[\]{}""#.contains(&byte);
            assert_eq!(is_tchar(byte), byte.is_ascii_graphic() && !is_delimiter, "{byte}");
            let is_control = byte.is_ascii_control() && byte != b'\t';
            assert_eq!(is_field_content(byte), !is_control, "{byte}");
            // RFC 3986 §2.2: gen-delims, and the characters that RFC 3986 allows nowhere. "%" begins an escape.
            let is_excluded = b":/?#[]@\"<>\\^`{|}".contains(&byte);
            assert_eq!(is_reg_name(byte), byte.is_ascii_graphic() && !is_excluded, "{byte}");
        }
    }
}
