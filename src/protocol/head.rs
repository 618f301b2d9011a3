//! Heads of HTTP requests and responses (RFC 9112): finding the end of one, parsing it, and writing ours.
//!
//! A head is read in two steps. The [`Scanner`] checks every byte as it arrives, remembers where each header is, and finds
//! the end. It refuses a bad byte at once, so that another protocol or a slow attacker does not hold a thread until the
//! limit. When the head is complete, `parse_request` makes the `http` types from it.
//!
//! The scanner is strict where parsers are known to differ, because such a difference between a proxy and this server
//! allows request smuggling. It refuses bare LF, bare CR, folded lines, and whitespace before a colon.
//!
//! The meaning of the headers is checked in `server_handshake.rs` and `client_handshake.rs`. The bytes after a head are not
//! read here.

use super::{Refusal, is_field_content, is_tchar, origin::Authority, trim_ows};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tungstenite::Bytes;

const TOO_MANY: Refusal = Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers");
const TARGET_TOO_LONG: Refusal =
    Refusal::new(StatusCode::URI_TOO_LONG, "the request target has more than 65534 bytes");
const VERSION: Refusal =
    Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are supported");
const NOT_HTTP: Refusal = Refusal::bad_request("this is not HTTP");
const BARE_LF: Refusal = Refusal::bad_request("a line ends with LF without CR");
const BARE_CR: Refusal = Refusal::bad_request("CR without LF");
const CONTROL: Refusal = Refusal::bad_request("a control character in the head");
const HEADER_NAME: Refusal = Refusal::bad_request("the name of a header is malformed");
const HEADER_VALUE: Refusal = Refusal::bad_request("the value of a header is malformed");
const FOLDED: Refusal = Refusal::bad_request("a header is folded over two lines");
const REQUEST_LINE: Refusal = Refusal::bad_request("the request line is malformed");
const TARGET: Refusal = Refusal::bad_request("the request target is malformed");
const STATUS_LINE: Refusal = Refusal::bad_request("the status line is malformed");
const INCOMPLETE: Refusal = Refusal::bad_request("the head is incomplete");

/// Longer than any registered method (17). With this limit, input that is not HTTP and has no space is refused early.
const MAX_METHOD: usize = 32;
/// The longest target that the crate `http` can hold, in bytes.
const MAX_TARGET: usize = 65_534;

/// How large a head can be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// In bytes, with the empty line at the end.
    pub(crate) size: usize,
    /// The number of header lines.
    pub(crate) headers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeadKind {
    Request,
    Response,
}

/// Where in a head the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScanState {
    /// Before the first byte of the first line.
    Start,
    /// After the CR of an empty line before the first line.
    LeadingCr,
    /// In the method of a request, or in the version of a response.
    Method,
    /// In the rest of the first line.
    FirstLine,
    /// After the CR that ends the first line.
    FirstLineCr,
    /// At the start of a header line or of the empty line.
    LineStart,
    Name,
    Value,
    /// After the CR that ends a header line.
    ValueCr,
    /// After the CR of the empty line.
    LastCr,
}

/// Finds the end of a head in bytes that arrive in pieces. It checks each byte once.
#[derive(Debug)]
pub(crate) struct Scanner {
    kind: HeadKind,
    limits: HeadLimits,
    at: ScanState,
    scanned: usize,
    /// Where the first line starts: at 0, or after an empty line.
    first_line: usize,
    headers: Vec<HeaderLine>,
}

/// Where a header is: the name from `start` to `colon`, the value after it, to `end`.
#[derive(Debug, Clone, Copy)]
struct HeaderLine {
    start: usize,
    colon: usize,
    end: usize,
}

impl Scanner {
    /// A scanner for the request of a client.
    pub(crate) fn request(limits: HeadLimits) -> Self {
        Self::new(HeadKind::Request, limits)
    }

    /// A scanner for the response of a server. The status of its refusals has no meaning.
    pub(crate) fn response(limits: HeadLimits) -> Self {
        Self::new(HeadKind::Response, limits)
    }

    fn new(kind: HeadKind, limits: HeadLimits) -> Self {
        Self { kind, limits, at: ScanState::Start, scanned: 0, first_line: 0, headers: Vec::new() }
    }

    /// Scans all bytes that were received so far, from the first byte on. Returns the length of the head when it is
    /// complete. The bytes after it are not part of the head.
    ///
    /// A refusal is final. It is returned as soon as the bytes cannot become a valid head.
    pub(crate) fn scan(&mut self, received: &[u8]) -> Result<Option<usize>, Refusal> {
        let received = received.get(..self.limits.size).unwrap_or(received);
        loop {
            let rest = received.get(self.scanned..).unwrap_or_default();
            // Fast path: most bytes do not change the state. One `step` for each of them would cost 3 % of the instructions of
            // a handshake, and more with a browser's long head (`.ci/instructions`).
            self.scanned += match self.at {
                ScanState::FirstLine => count_prefix(rest, |byte| byte.is_ascii_graphic()),
                ScanState::Name => count_prefix(rest, is_tchar),
                ScanState::Value => count_prefix(rest, is_field_content),
                _ => 0,
            };
            let Some(&byte) = received.get(self.scanned) else { break };
            self.at = self.step(byte, received)?;
            self.scanned += 1;
            if self.at == ScanState::LastCr && byte == b'\n' {
                return Ok(Some(self.scanned));
            }
        }
        // At the limit, refuse now: the client may never send the byte that exceeds it.
        if self.scanned >= self.limits.size { Err(self.exceeds(self.limits.size, "bytes")) } else { Ok(None) }
    }

    /// Returns the refusal of a head with more than `limit` bytes or headers.
    fn exceeds(&self, limit: usize, unit: &str) -> Refusal {
        let (status, what) = match (self.kind, self.at) {
            (HeadKind::Request, ScanState::Method | ScanState::FirstLine | ScanState::FirstLineCr) => {
                (StatusCode::URI_TOO_LONG, "request line")
            }
            (HeadKind::Request, _) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head of the request"),
            (HeadKind::Response, _) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head of the response"),
        };
        let reason = format!("the {what} has more than {limit} {unit}").into();
        Refusal { reason, ..Refusal::new(status, "") }
    }

    fn step(&mut self, byte: u8, received: &[u8]) -> Result<ScanState, Refusal> {
        Ok(match (self.at, byte) {
            // RFC 9112 §2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one
            // empty line (CRLF) received prior to the request-line." This one ignores one.
            (ScanState::Start, b'\r') if self.kind == HeadKind::Request && self.scanned == 0 => {
                ScanState::LeadingCr
            }
            (ScanState::LeadingCr, b'\n') => {
                self.first_line = self.scanned + 1;
                ScanState::Start
            }
            (ScanState::LeadingCr, _) => return Err(BARE_CR),

            (ScanState::Start | ScanState::Method, _) if self.kind == HeadKind::Response => {
                // The whole status line is checked at its end. Its first bytes already show most other protocols.
                let start = b"HTTP/1.";
                match start.get(self.scanned) {
                    Some(&expected) if expected != byte => return Err(NOT_HTTP),
                    Some(_) => ScanState::Method,
                    None if byte.is_ascii_digit() => ScanState::FirstLine,
                    None => return Err(NOT_HTTP),
                }
            }
            // RFC 9112 §3.1: a method is a token. A TLS ClientHello (0x16) is refused here at its first byte.
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
            // RFC 3986 §2: a target is ASCII. RFC 9112 §4: a reason phrase can have other bytes.
            (ScanState::FirstLine, b' '..=b'~') => ScanState::FirstLine,
            (ScanState::FirstLine, b'\t' | 0x80..) if self.kind == HeadKind::Response => ScanState::FirstLine,
            (ScanState::FirstLine, 0x80..) => return Err(TARGET),
            (ScanState::FirstLine, _) => return Err(CONTROL),
            (ScanState::FirstLineCr, b'\n') => {
                let line = received.get(self.first_line..self.scanned - 1).unwrap_or_default();
                match self.kind {
                    HeadKind::Request => _ = parse_request_line(line)?,
                    HeadKind::Response => _ = parse_status_line(line)?,
                }
                ScanState::LineStart
            }

            (ScanState::LineStart, b'\r') => ScanState::LastCr,
            (ScanState::LineStart, b'\n') => return Err(BARE_LF),
            // RFC 9112 §5.2: "A server that receives an obs-fold in a request message that is not within a "message/http"
            // container MUST either reject the message by sending a 400" or replace it. Server and client reject it here.
            (ScanState::LineStart, b' ' | b'\t') => return Err(FOLDED),
            (ScanState::LineStart, byte) if is_tchar(byte) => {
                if self.headers.len() >= self.limits.headers {
                    return Err(self.exceeds(self.limits.headers, "headers"));
                }
                self.headers.push(HeaderLine { start: self.scanned, colon: 0, end: 0 });
                ScanState::Name
            }
            (ScanState::Name, byte) if is_tchar(byte) => ScanState::Name,
            (ScanState::Name, b':') => {
                if let Some(line) = self.headers.last_mut() {
                    line.colon = self.scanned;
                }
                ScanState::Value
            }
            // RFC 9112 §5.1: "No whitespace is allowed between the field name and colon."
            (ScanState::LineStart | ScanState::Name, _) => return Err(HEADER_NAME),
            (ScanState::Value, b'\r') => {
                if let Some(line) = self.headers.last_mut() {
                    line.end = self.scanned;
                }
                ScanState::ValueCr
            }
            // RFC 9112 §2.2 allows a recipient to accept a bare LF as the end of a line. If a proxy in front takes it for a
            // part of the value, a second header could be smuggled past that proxy, so it is refused.
            (ScanState::Value, b'\n') => return Err(BARE_LF),
            (ScanState::Value, byte) if is_field_content(byte) => ScanState::Value,
            // RFC 9110 §5.5: "Field values containing CR, LF, or NUL characters are invalid and dangerous".
            (ScanState::Value, _) => return Err(CONTROL),
            (ScanState::ValueCr, b'\n') => ScanState::LineStart,
            (ScanState::LastCr, b'\n') => ScanState::LastCr,
            // RFC 9112 §2.2: a bare CR "MUST" be considered invalid or be replaced.
            (ScanState::FirstLineCr | ScanState::ValueCr | ScanState::LastCr, _) => return Err(BARE_CR),
        })
    }

    /// Scans a complete head without any bytes after it.
    fn scan_complete(mut self, head: &[u8]) -> Result<Self, Refusal> {
        match self.scan(head)? {
            Some(end) if end == head.len() => Ok(self),
            _ => Err(INCOMPLETE),
        }
    }

    /// Parses the request head that was scanned. `head` ends where the scan ended.
    ///
    /// The target and all values of the result share one copy of the head.
    pub(crate) fn parse_request(&self, head: &[u8]) -> Result<http::Request<()>, Refusal> {
        let head = Bytes::copy_from_slice(head);
        let (method, target, version) = parse_request_line(self.first_line(&head))?;
        let mut request = http::Request::new(());
        *request.method_mut() = Method::from_bytes(method).map_err(|_| NOT_HTTP)?;
        if target.len() > MAX_TARGET {
            return Err(TARGET_TOO_LONG);
        }
        *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(target)).map_err(|_| TARGET)?;
        *request.version_mut() = version;
        *request.headers_mut() = self.header_map(&head)?;
        check_target(&request, target)?;
        check_host(&request)?;
        Ok(request)
    }

    /// Parses the response head that was scanned. `head` ends where the scan ended. The status of a refusal has no meaning.
    pub(crate) fn parse_response(&self, head: &[u8]) -> Result<http::Response<()>, Refusal> {
        let head = Bytes::copy_from_slice(head);
        let (version, status) = parse_status_line(self.first_line(&head))?;
        let mut response = http::Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = version;
        *response.headers_mut() = self.header_map(&head)?;
        Ok(response)
    }

    /// Returns the first line of a scanned head.
    fn first_line<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        let head = head.get(self.first_line..).unwrap_or_default();
        head.split(|&byte| byte == b'\r').next().unwrap_or_default()
    }

    fn header_map(&self, head: &Bytes) -> Result<HeaderMap, Refusal> {
        let mut headers = HeaderMap::try_with_capacity(self.headers.len()).map_err(|_| TOO_MANY)?;
        for &HeaderLine { start, colon, end } in &self.headers {
            let name = head.get(start..colon).ok_or(HEADER_NAME)?;
            let value = trim_ows(head.get(colon + 1..end).ok_or(HEADER_VALUE)?);
            let name = HeaderName::from_bytes(name).map_err(|_| HEADER_NAME)?;
            let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| HEADER_VALUE)?;
            headers.try_append(name, value).map_err(|_| TOO_MANY)?;
        }
        Ok(headers)
    }
}

/// Returns how many of the first bytes satisfy a condition.
fn count_prefix(bytes: &[u8], is_match: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !is_match(byte)).unwrap_or(bytes.len())
}

/// RFC 9112 §3: method, target and version, with one space between them.
fn parse_request_line(line: &[u8]) -> Result<(&[u8], &[u8], Version), Refusal> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(REQUEST_LINE);
    };
    let version = match (parse_version(version), version) {
        (Some(version), _) => version,
        // For example `PRI * HTTP/2.0`, the preface of HTTP/2.
        (None, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(VERSION);
        }
        _ => return Err(NOT_HTTP),
    };
    // RFC 6455 §3: a URI has no fragment. `Uri` would cut one off without an error.
    if target.is_empty() || target.contains(&b'#') {
        return Err(TARGET);
    }
    Ok((method, target, version))
}

/// Returns the version of HTTP/1. RFC 9110 §2.5: a higher minor version is processed as the highest one that is known.
fn parse_version(version: &[u8]) -> Option<Version> {
    match version.strip_prefix(b"HTTP/1.")? {
        b"0" => Some(Version::HTTP_10),
        [b'1'..=b'9'] => Some(Version::HTTP_11),
        _ => None,
    }
}

/// RFC 9112 §4: version, three digits, and a phrase that can be empty.
fn parse_status_line(line: &[u8]) -> Result<(Version, StatusCode), Refusal> {
    let (version, rest) = line.split_at_checked(8).ok_or(STATUS_LINE)?;
    let version = parse_version(version).filter(|_| rest.starts_with(b" ")).ok_or(STATUS_LINE)?;
    let (code, phrase) = line.split_at_checked(12).ok_or(STATUS_LINE)?;
    if !matches!(phrase, [] | [b' ', ..]) {
        return Err(STATUS_LINE);
    }
    let status = StatusCode::from_bytes(code.get(9..).unwrap_or_default()).map_err(|_| STATUS_LINE)?;
    Ok((version, status))
}

/// Scans and parses a complete request head.
pub(crate) fn parse_request(head: &[u8], limits: HeadLimits) -> Result<http::Request<()>, Refusal> {
    Scanner::request(limits).scan_complete(head)?.parse_request(head)
}

/// Scans and parses a complete response head. The status of a refusal has no meaning.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_response(head: &[u8], limits: HeadLimits) -> Result<http::Response<()>, Refusal> {
    Scanner::response(limits).scan_complete(head)?.parse_response(head)
}

/// RFC 9112 §3.2: the four forms of a target, and which method can have which.
fn check_target(request: &http::Request<()>, target: &[u8]) -> Result<(), Refusal> {
    let valid = match *request.method() {
        // §3.2.3: the authority form. CONNECT is answered with 405 later, for every target.
        Method::CONNECT => true,
        Method::OPTIONS if target == b"*" => true,
        // §3.2.1 the origin form, §3.2.2 the absolute form.
        _ => target.starts_with(b"/") || request.uri().scheme().is_some(),
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
            // RFC 9110 §7.2: it is empty if the target has no authority.
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

/// Returns the bytes of a response after which the connection ends: every response except a 101.
///
/// `Content-Length` and `Connection: close` are always written here, and an interim status becomes a 500. So a client
/// cannot take a response of a callback for the end of a handshake. With `without_body`, for HEAD, only the head is
/// returned (RFC 9110 §9.3.2).
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
    // RFC 9110 §8.6 and §15.4.5: a 204 has no length, a 304 needs none, and neither has a body.
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless {
        write_header(&mut bytes, "content-length", response.body().len().to_string().as_bytes());
    }
    write_header(&mut bytes, "connection", b"close");
    if response.headers().contains_key(header::UPGRADE) {
        // RFC 9110 §7.8: "A sender of Upgrade MUST also send an "Upgrade" connection option". On its own line, because
        // some clients compare the whole value with "close".
        write_header(&mut bytes, "connection", b"Upgrade");
    }
    bytes.extend_from_slice(b"\r\n");
    if !bodiless && !without_body {
        bytes.extend_from_slice(response.body());
    }
    bytes
}

/// Returns the bytes of a 101 with these headers. RFC 9110 §8.6: a 1xx has no `Content-Length` and no body.
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
    // RFC 9112 §4: the space is required even without a phrase.
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
}

/// Appends one header line. The name is spelled as in the RFCs, for example `Sec-WebSocket-Accept`. Names are
/// case-insensitive, but some small clients compare them exactly.
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
