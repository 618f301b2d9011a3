//! The body of a response that refuses a client (RFC 9112 §6): which bytes after the head belong to it, and whether it is
//! complete. Reading it from the socket is in `client.rs`.

use super::{list, trim_ows};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    /// The body ends with the stream.
    UntilEnd,
}

impl Framing {
    /// Returns the framing of a response to a GET (RFC 9112 §6.3).
    pub(crate) fn of(response: &http::Response<()>) -> Self {
        let headers = response.headers();
        if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Self::Length(0);
        }
        // "Transfer-Encoding overrides the Content-Length."
        match list(headers, &TRANSFER_ENCODING).last() {
            Some(last) if last.eq_ignore_ascii_case(b"chunked") => return Self::Chunked,
            Some(_) => return Self::UntilEnd,
            None => {}
        }
        let length = |value: &HeaderValue| {
            // `parse` would accept a sign.
            let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
            digits.parse().ok()
        };
        headers.get(CONTENT_LENGTH).and_then(length).map_or(Self::UntilEnd, Self::Length)
    }

    /// Returns the part of the body that is in `bytes`, and whether it is the whole body.
    pub(crate) fn body(self, bytes: &[u8]) -> (Vec<u8>, bool) {
        match self {
            Self::Length(length) => (bytes.get(..length).unwrap_or(bytes).to_vec(), bytes.len() >= length),
            Self::Chunked => {
                let mut body = Vec::new();
                let whole = dechunk(bytes, &mut body);
                (body, whole)
            }
            Self::UntilEnd => (bytes.to_vec(), false),
        }
    }
}

/// Appends the content of the chunks (RFC 9112 §7.1). Returns true after the last chunk, and for bytes that are not a chunk.
/// Trailers are ignored.
fn dechunk(mut bytes: &[u8], body: &mut Vec<u8>) -> bool {
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n");
        let line = end.and_then(|end| Some((bytes.get(..end)?, bytes.get(end + 2..)?)));
        let Some((line, rest)) = line else { return false };
        let size = line.split(|&byte| byte == b';').next().unwrap_or_default();
        let Some(size) = chunk_size(size).filter(|&size| size > 0) else { return true };
        body.extend_from_slice(rest.get(..size).unwrap_or(rest));
        // There is a CRLF after each chunk, too.
        let Some(rest) = size.checked_add(2).and_then(|size| rest.get(size..)) else { return false };
        bytes = rest;
    }
}

/// Parses the size of a chunk. The digits are checked, because `from_str_radix` would accept a sign.
fn chunk_size(text: &[u8]) -> Option<usize> {
    let digits = trim_ows(text);
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(headers: &[(&str, &str)], status: u16) -> Framing {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Framing::of(&response.body(()).expect("a response"))
    }

    #[test]
    fn the_head_decides_how_the_body_ends() {
        let rows: [(&[_], _); 8] = [
            (&[], Framing::UntilEnd),
            (&[("content-length", "5")], Framing::Length(5)),
            (&[("content-length", "-5")], Framing::UntilEnd),
            (&[("content-length", "+5")], Framing::UntilEnd),
            (&[("content-length", "99999999999999999999999")], Framing::UntilEnd),
            (&[("transfer-encoding", "Chunked"), ("content-length", "5")], Framing::Chunked),
            (&[("transfer-encoding", "gzip, chunked")], Framing::Chunked),
            (&[("transfer-encoding", "gzip")], Framing::UntilEnd),
        ];
        for (headers, expected) in rows {
            assert_eq!(framing(headers, 401), expected, "{headers:?}");
        }
        assert_eq!(framing(&[], 204), Framing::Length(0));
    }

    #[test]
    fn a_body_is_returned_as_far_as_it_was_received() {
        let rows: [(Framing, &[u8], &[u8], bool); 13] = [
            (Framing::Length(3), b"ab", b"ab", false),
            (Framing::Length(3), b"abcd", b"abc", true),
            (Framing::UntilEnd, b"abc", b"abc", false),
            (Framing::Chunked, b"", b"", false),
            (Framing::Chunked, b"3\r\nab", b"ab", false),
            (Framing::Chunked, b"3\r\nabc\r\n", b"abc", false),
            (Framing::Chunked, b"3\r\nabc\r\n0", b"abc", false),
            (Framing::Chunked, b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789", true),
            (Framing::Chunked, b"x\r\nabc", b"", true),
            (Framing::Chunked, b"-1\r\nabc", b"", true),
            (Framing::Chunked, b"+1\r\nabc", b"", true),
            (Framing::Chunked, b" 1 \r\na\r\n\t1\t;x\r\nbc", b"ab", false),
            (Framing::Chunked, b"ffffffffffffffff\r\nabc", b"abc", false),
        ];
        for (framing, bytes, body, whole) in rows {
            assert_eq!(framing.body(bytes), (body.to_vec(), whole), "{framing:?} {}", bytes.escape_ascii());
        }
    }
}
