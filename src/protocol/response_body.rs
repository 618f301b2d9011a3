//! The body of a response that refuses a client (RFC 9112 §6): which bytes after the head belong to it, and whether it is
//! complete. Reading it from the socket is in `client.rs`.

use super::{list, trim_ows};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode};

/// The longest line with the size of a chunk, in bytes. Extensions of chunks are rare and short.
pub(crate) const MAX_LINE: usize = 256;

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

    /// Returns how much of the body is in `bytes`, or `None` if all of it is. `seen` is where the last call ended, so a body
    /// that arrives byte by byte is not searched again for each of them.
    pub(crate) fn look(self, bytes: &[u8], seen: &mut BodySeen) -> Option<usize> {
        match self {
            Self::Length(length) => Some(bytes.len()).filter(|&count| count < length),
            Self::UntilEnd => Some(bytes.len()),
            Self::Chunked => loop {
                match chunk(bytes.get(seen.bytes..)?) {
                    Chunk::Whole { content, end } => {
                        seen.content += content.len();
                        seen.bytes += end;
                    }
                    Chunk::Part(content) => return Some(seen.content + content.len()),
                    Chunk::None => return None,
                }
            },
        }
    }

    /// Returns the part of the body that is in `bytes`.
    pub(crate) fn body(self, mut bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Length(length) => bytes.get(..length).unwrap_or(bytes).to_vec(),
            Self::UntilEnd => bytes.to_vec(),
            Self::Chunked => {
                let mut body = Vec::new();
                loop {
                    match chunk(bytes) {
                        Chunk::Whole { content, end } => {
                            body.extend_from_slice(content);
                            bytes = bytes.get(end..).unwrap_or_default();
                        }
                        Chunk::Part(content) => {
                            body.extend_from_slice(content);
                            return body;
                        }
                        Chunk::None => return body,
                    }
                }
            }
        }
    }
}

/// The number of bytes that [`Framing::look`] has looked at, and of those of the body in them.
#[derive(Debug, Default)]
pub(crate) struct BodySeen {
    bytes: usize,
    content: usize,
}

/// The start of some bytes in chunks (RFC 9112 §7.1).
enum Chunk<'a> {
    /// A chunk with this content. The next one begins at `end`.
    Whole { content: &'a [u8], end: usize },
    /// As much of a chunk as there is.
    Part(&'a [u8]),
    /// The last chunk, or bytes that are not a chunk. Trailers are ignored.
    None,
}

fn chunk(bytes: &[u8]) -> Chunk<'_> {
    let line = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(line) = line.windows(2).position(|pair| pair == b"\r\n").and_then(|end| line.get(..end)) else {
        return if bytes.len() < MAX_LINE { Chunk::Part(&[]) } else { Chunk::None };
    };
    let size = chunk_size(line.split(|&byte| byte == b';').next().unwrap_or_default());
    let Some(size) = size.filter(|&size| size > 0) else { return Chunk::None };
    let rest = bytes.get(line.len() + 2..).unwrap_or_default();
    // There is a CRLF after each chunk, too.
    match (rest.get(..size), size.checked_add(2).filter(|&size| size <= rest.len())) {
        (Some(content), Some(size)) => Chunk::Whole { content, end: line.len() + 2 + size },
        (content, _) => Chunk::Part(content.unwrap_or(rest)),
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
            assert_eq!(framing.body(bytes), body, "{framing:?} {}", bytes.escape_ascii());
            let mut seen = BodySeen::default();
            let looks = (0..=bytes.len()).map(|end| framing.look(&bytes[..end], &mut seen));
            let expected = if whole { None } else { Some(body.len()) };
            assert_eq!(looks.last(), Some(expected), "{framing:?} {}", bytes.escape_ascii());
        }
    }
}
