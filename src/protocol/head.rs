//! Heads of requests and responses (RFC 9112): where one ends, what it says, and how ours are written.
//!
//! The [`Scanner`] is strict where parsers are known to differ, because a difference between a proxy and us is a
//! smuggled request: bare LF, bare CR, folded lines and whitespace before a colon are refused, each at the byte that
//! shows it. What follows a head is not looked at here.

use super::{Refusal, is_field_content, is_tchar, origin::Authority};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tungstenite::Bytes;

const TOO_LONG: Refusal =
    Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large");
const URI_TOO_LONG: Refusal = Refusal::new(StatusCode::URI_TOO_LONG, "the request line is too long");
const TOO_MANY: Refusal = Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers");
const VERSION: Refusal =
    Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are spoken here");
const NOT_HTTP: Refusal = Refusal::bad_request("this is not HTTP");
const BARE_LF: Refusal = Refusal::bad_request("a line ends with a bare LF");
const BARE_CR: Refusal = Refusal::bad_request("CR without LF");
const CONTROL: Refusal = Refusal::bad_request("a control character in the head");
const HEADER_NAME: Refusal = Refusal::bad_request("a header's name is malformed");
const HEADER_VALUE: Refusal = Refusal::bad_request("a header's value is malformed");
const FOLDED: Refusal = Refusal::bad_request("a header is folded over two lines");
const TARGET: Refusal = Refusal::bad_request("the request target is malformed");
const STATUS_LINE: Refusal = Refusal::bad_request("the status line is malformed");
const NOT_WHOLE: Refusal = Refusal::bad_request("the head is not whole");

/// Longer than any registered method (17), so that what is no HTTP and holds no space is not read to the limit.
const MAX_METHOD: usize = 32;

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// In bytes, the empty line at its end included.
    pub(crate) size: usize,
    /// Header lines.
    pub(crate) headers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeadKind {
    Request,
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScanState {
    /// Before the first byte of the first line.
    Start,
    /// Behind the CR of an empty line in front of the first one.
    LeadingCr,
    /// In a method.
    Method,
    /// In the rest of the first line.
    FirstLine,
    /// Behind the CR that ends the first line.
    FirstLineCr,
    /// ScanState the start of a line that is a header's or the empty one.
    LineStart,
    Name,
    Value,
    /// Behind the CR that ends a header.
    ValueCr,
    /// Behind the CR of the empty line.
    LastCr,
}

/// Finds the end of a head in bytes that arrive piecemeal, and looks at each byte once.
#[derive(Debug)]
pub(crate) struct Scanner {
    kind: HeadKind,
    limits: HeadLimits,
    at: ScanState,
    scanned: usize,
    /// Where the first line starts: behind an empty line, perhaps.
    first_line: usize,
    headers: usize,
}

impl Scanner {
    /// For what a client sends.
    pub(crate) fn request(limits: HeadLimits) -> Self {
        Self::new(HeadKind::Request, limits)
    }

    /// For what a server answers. The status of a refusal says nothing then.
    pub(crate) fn response(limits: HeadLimits) -> Self {
        Self::new(HeadKind::Response, limits)
    }

    fn new(kind: HeadKind, limits: HeadLimits) -> Self {
        Self { kind, limits, at: ScanState::Start, scanned: 0, first_line: 0, headers: 0 }
    }

    /// Looks at everything that has arrived so far, from the first byte on, and returns the length of the head once it
    /// is whole. What stands behind it belongs to somebody else.
    ///
    /// A refusal is final. It comes as soon as the bytes show that no head can come of them.
    pub(crate) fn scan(&mut self, received: &[u8]) -> Result<Option<usize>, Refusal> {
        let received = received.get(..self.limits.size).unwrap_or(received);
        loop {
            let rest = received.get(self.scanned..).unwrap_or_default();
            // Most of a head stands in runs: a loop each, where a step for each byte would double what the handshake costs.
            self.scanned += match self.at {
                ScanState::FirstLine => run(rest, |byte| byte.is_ascii_graphic()),
                ScanState::Name => run(rest, is_tchar),
                ScanState::Value => run(rest, is_field_content),
                _ => 0,
            };
            let Some(&byte) = received.get(self.scanned) else { break };
            self.at = self.step(byte, received)?;
            self.scanned += 1;
            if self.at == ScanState::LastCr && byte == b'\n' {
                return Ok(Some(self.scanned));
            }
        }
        // Full without an end: the next byte could only be one too many.
        if self.scanned >= self.limits.size { Err(self.too_long()) } else { Ok(None) }
    }

    fn too_long(&self) -> Refusal {
        match self.at {
            ScanState::Method | ScanState::FirstLine | ScanState::FirstLineCr
                if self.kind == HeadKind::Request =>
            {
                URI_TOO_LONG
            }
            _ => TOO_LONG,
        }
    }

    fn step(&mut self, byte: u8, received: &[u8]) -> Result<ScanState, Refusal> {
        Ok(match (self.at, byte) {
            // RFC 9112 §2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one
            // empty line (CRLF) received prior to the request-line." It ignores one.
            (ScanState::Start, b'\r') if self.kind == HeadKind::Request && self.scanned == 0 => {
                ScanState::LeadingCr
            }
            (ScanState::LeadingCr, b'\n') => {
                self.first_line = self.scanned + 1;
                ScanState::Start
            }
            (ScanState::LeadingCr, _) => return Err(BARE_CR),

            (ScanState::Start | ScanState::Method, _) if self.kind == HeadKind::Response => {
                // The status line is checked as a whole; its first bytes tell other protocols apart at once.
                let start = b"HTTP/1.";
                match start.get(self.scanned) {
                    Some(&expected) if expected != byte => return Err(NOT_HTTP),
                    Some(_) => ScanState::Method,
                    None if byte.is_ascii_digit() => ScanState::FirstLine,
                    None => return Err(NOT_HTTP),
                }
            }
            // RFC 9112 §3.1: a method is a token. A TLS ClientHello (0x16) fails here at its first byte.
            (ScanState::Start | ScanState::Method, byte) if is_tchar(byte) => {
                if self.scanned - self.first_line >= MAX_METHOD {
                    return Err(NOT_HTTP);
                }
                ScanState::Method
            }
            (ScanState::Method, b' ') => ScanState::FirstLine,
            (ScanState::Start | ScanState::Method, _) => return Err(NOT_HTTP),

            (ScanState::FirstLine, b'\r') => ScanState::FirstLineCr,
            (ScanState::FirstLine, b'\n') => return Err(BARE_LF),
            // A target is ASCII (RFC 3986 §2); the phrase behind a status need not be.
            (ScanState::FirstLine, b' '..=b'~') => ScanState::FirstLine,
            (ScanState::FirstLine, b'\t' | 0x80..) if self.kind == HeadKind::Response => ScanState::FirstLine,
            (ScanState::FirstLine, 0x80..) => return Err(TARGET),
            (ScanState::FirstLine, _) => return Err(CONTROL),
            (ScanState::FirstLineCr, b'\n') => {
                let line = received.get(self.first_line..self.scanned - 1).unwrap_or_default();
                match self.kind {
                    HeadKind::Request => check_request_line(line)?,
                    HeadKind::Response => check_status_line(line)?,
                }
                ScanState::LineStart
            }

            (ScanState::LineStart, b'\r') => ScanState::LastCr,
            (ScanState::LineStart, b'\n') => return Err(BARE_LF),
            // RFC 9112 §5.2: "A server that receives an obs-fold in a request message that is not within a "message/http"
            // container MUST either reject the message by sending a 400" or replace it. It rejects, as the client does.
            (ScanState::LineStart, b' ' | b'\t') => return Err(FOLDED),
            (ScanState::LineStart, byte) if is_tchar(byte) => {
                if self.headers >= self.limits.headers {
                    return Err(TOO_MANY);
                }
                self.headers += 1;
                ScanState::Name
            }
            (ScanState::Name, byte) if is_tchar(byte) => ScanState::Name,
            (ScanState::Name, b':') => ScanState::Value,
            // RFC 9112 §5.1: "No whitespace is allowed between the field name and colon."
            (ScanState::LineStart | ScanState::Name, _) => return Err(HEADER_NAME),
            (ScanState::Value, b'\r') => ScanState::ValueCr,
            // RFC 9112 §2.2 lets a recipient take a bare LF for the end of a line. It does not: where a proxy in front
            // takes it for part of the value, a second header would be smuggled past it.
            (ScanState::Value, b'\n') => return Err(BARE_LF),
            (ScanState::Value, byte) if is_field_content(byte) => ScanState::Value,
            // RFC 9110 §5.5: "Field values containing CR, LF, or NUL characters are invalid and dangerous".
            (ScanState::Value, _) => return Err(CONTROL),
            (ScanState::ValueCr, b'\n') => ScanState::LineStart,
            (ScanState::LastCr, b'\n') => ScanState::LastCr,
            // RFC 9112 §2.2: a bare CR "MUST" be taken as invalid or replaced.
            (ScanState::FirstLineCr | ScanState::ValueCr | ScanState::LastCr, _) => return Err(BARE_CR),
        })
    }
}

/// How many of the first bytes are of a kind.
fn run(bytes: &[u8], is_kind: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !is_kind(byte)).unwrap_or(bytes.len())
}

/// RFC 9112 §3: method, target and version with one space between each two.
fn check_request_line(line: &[u8]) -> Result<(), Refusal> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(_), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::bad_request("the request line is malformed"));
    };
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => {}
        // That includes `PRI * HTTP/2.0`, the preface of HTTP/2.
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(VERSION);
        }
        _ => return Err(NOT_HTTP),
    }
    // RFC 6455 §3: a fragment is no part of what is sent. `Uri` would cut it off silently.
    if target.is_empty() || target.contains(&b'#') {
        return Err(TARGET);
    }
    Ok(())
}

/// RFC 9112 §4: version, three digits, and a phrase that may be empty.
fn check_status_line(line: &[u8]) -> Result<(), Refusal> {
    match line.get(b"HTTP/1.".len()..) {
        Some([b'0' | b'1', b' ', code @ ..]) => match code {
            [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] | [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', ..] => {
                Ok(())
            }
            _ => Err(STATUS_LINE),
        },
        _ => Err(STATUS_LINE),
    }
}

impl Scanner {
    /// Scans a head that has to be there as a whole, and nothing behind it.
    fn whole(mut self, head: &[u8]) -> Result<Self, Refusal> {
        match self.scan(head)? {
            Some(end) if end == head.len() => Ok(self),
            _ => Err(NOT_WHOLE),
        }
    }

    /// Room for the lines of the head that was scanned. Exactly as many as there are: an array for the limit would be 3 KiB
    /// of every client thread's stack.
    fn lines<'a>(&self) -> Vec<httparse::Header<'a>> {
        vec![httparse::EMPTY_HEADER; self.headers]
    }

    /// Reads the request head that was scanned, cut off where it ends.
    ///
    /// The result shares one copy of the head between the target and all values.
    pub(crate) fn parse_request(&self, head: &[u8]) -> Result<http::Request<()>, Refusal> {
        let head = Bytes::copy_from_slice(head);
        let mut lines = self.lines();
        let mut parsed = httparse::Request::new(&mut lines);
        expect_whole(parsed.parse(&head))?;
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(NOT_HTTP);
        };
        let mut request = http::Request::new(());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| NOT_HTTP)?;
        *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).map_err(|_| TARGET)?;
        *request.version_mut() = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        *request.headers_mut() = header_map(&head, parsed.headers)?;
        check_target(&request, target)?;
        check_host(&request)?;
        Ok(request)
    }

    /// Reads the response head that was scanned, cut off where it ends. The status of a refusal says nothing.
    pub(crate) fn parse_response(&self, head: &[u8]) -> Result<http::Response<()>, Refusal> {
        let head = Bytes::copy_from_slice(head);
        let mut lines = self.lines();
        let mut parsed = httparse::Response::new(&mut lines);
        expect_whole(parsed.parse(&head))?;
        let mut response = http::Response::new(());
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        *response.status_mut() = status.ok_or(STATUS_LINE)?;
        *response.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        *response.headers_mut() = header_map(&head, parsed.headers)?;
        Ok(response)
    }
}

/// Scans and reads a request head that is there as a whole.
pub(crate) fn parse_request(head: &[u8], limits: HeadLimits) -> Result<http::Request<()>, Refusal> {
    Scanner::request(limits).whole(head)?.parse_request(head)
}

/// Scans and reads a response head that is there as a whole. The status of a refusal says nothing.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_response(head: &[u8], limits: HeadLimits) -> Result<http::Response<()>, Refusal> {
    Scanner::response(limits).whole(head)?.parse_response(head)
}

fn expect_whole(parsed: httparse::Result<usize>) -> Result<(), Refusal> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err(NOT_WHOLE),
        Err(error) => Err(refusal_of(error)),
    }
}

/// What httparse finds and the scanner did not; hardly anything, since the scanner is the stricter one.
fn refusal_of(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::HeaderName => HEADER_NAME,
        httparse::Error::HeaderValue => HEADER_VALUE,
        httparse::Error::TooManyHeaders => TOO_MANY,
        httparse::Error::Version => VERSION,
        httparse::Error::NewLine => BARE_LF,
        _ => Refusal::bad_request("the first line is malformed"),
    }
}

fn header_map(head: &Bytes, lines: &[httparse::Header<'_>]) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::try_with_capacity(lines.len()).map_err(|_| TOO_MANY)?;
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HEADER_NAME)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value)).map_err(|_| HEADER_VALUE)?;
        headers.try_append(name, value).map_err(|_| TOO_MANY)?;
    }
    Ok(headers)
}

/// RFC 9112 §3.2: the four forms of a target, and which method may have which.
fn check_target(request: &http::Request<()>, target: &str) -> Result<(), Refusal> {
    let valid = match *request.method() {
        // §3.2.3: the authority form. CONNECT is answered 405 later on, whatever it asks for.
        Method::CONNECT => true,
        Method::OPTIONS if target == "*" => true,
        // §3.2.1 the origin form, §3.2.2 the absolute form.
        _ => target.starts_with('/') || request.uri().scheme().is_some(),
    };
    if valid { Ok(()) } else { Err(TARGET) }
}

/// RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks
/// a Host header field and to any request message that contains more than one Host header field line or a Host header
/// field with an invalid field value."
fn check_host(request: &http::Request<()>) -> Result<(), Refusal> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    match (lines.next(), lines.next()) {
        (None, _) if request.version() == Version::HTTP_10 => {}
        (None, _) => return Err(Refusal::bad_request("no Host header")),
        (Some(_), Some(_)) => return Err(Refusal::bad_request("more than one Host header")),
        (Some(host), None) => {
            // Empty where the target has no authority (RFC 9110 §7.2).
            if !host.is_empty() && Authority::parse(host.as_bytes()).is_none() {
                return Err(Refusal::bad_request("the Host header is malformed"));
            }
        }
    }
    match request.uri().authority() {
        Some(authority) if Authority::parse(authority.as_str().as_bytes()).is_none() => Err(TARGET),
        _ => Ok(()),
    }
}

/// The bytes of an answer after which the connection ends: everything but a 101.
///
/// `Content-Length` and `Connection: close` are ours, whatever the response says, and an interim status becomes a 500:
/// nothing that a callback returns here can pass for the end of a handshake. `without_body` is for HEAD (RFC 9110
/// §9.3.2): the same head, no body.
pub(crate) fn write_response(response: &http::Response<Vec<u8>>, without_body: bool) -> Vec<u8> {
    let status = match response.status() {
        status if status.is_informational() => StatusCode::INTERNAL_SERVER_ERROR,
        status => status,
    };
    let mut bytes = Vec::with_capacity(256 + response.body().len());
    write_status_line(&mut bytes, status);
    for (name, value) in response.headers() {
        if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(name) {
            write_header(&mut bytes, name.as_str(), value.as_bytes());
        }
    }
    // RFC 9110 §8.6 and §15.4.5: no length with a 204, none of use with a 304, and no body with either.
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless {
        write_header(&mut bytes, "content-length", response.body().len().to_string().as_bytes());
    }
    write_header(&mut bytes, "connection", b"close");
    if response.headers().contains_key(header::UPGRADE) {
        // RFC 9110 §7.8: "A sender of Upgrade MUST also send an "Upgrade" connection option". A line of its own, for
        // clients that look for `Connection: close`.
        write_header(&mut bytes, "connection", b"Upgrade");
    }
    bytes.extend_from_slice(b"\r\n");
    if !bodiless && !without_body {
        bytes.extend_from_slice(response.body());
    }
    bytes
}

/// The bytes of a 101, with the headers as they are; RFC 9110 §8.6: a 1xx has no `Content-Length` and no body.
pub(crate) fn write_switching<'a>(
    headers: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    write_status_line(&mut bytes, StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in headers {
        if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
            write_header(&mut bytes, name.as_str(), value.as_bytes());
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn write_status_line(bytes: &mut Vec<u8>, status: StatusCode) {
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(status.as_str().as_bytes());
    // RFC 9112 §4: the space stays where there is no phrase.
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
}

/// One header line. The name is spelled as the RFCs do, `Sec-WebSocket-Accept`: case means nothing, but small clients
/// are known to compare it.
pub(crate) fn write_header(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    let rest = match name.strip_prefix("sec-websocket-") {
        Some(rest) => {
            bytes.extend_from_slice(b"Sec-WebSocket-");
            rest
        }
        None => name,
    };
    let mut initial = true;
    for byte in rest.bytes() {
        bytes.push(if initial { byte.to_ascii_uppercase() } else { byte });
        initial = byte == b'-';
    }
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
