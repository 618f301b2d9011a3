//! The request of a handshake, its refusal, and the report of a failed one.

use crate::addr::Addr;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, ORIGIN, PROXY_AUTHORIZATION};
use http::{HeaderName, HeaderValue, StatusCode};
use std::fmt::{self, Write as _};
use std::ops::{Deref, DerefMut};

/// An HTTP response with its whole body. `Content-Length` and `Connection` are set when it is sent.
pub type Response = http::Response<Vec<u8>>;

/// Headers whose values never appear in an error, a log line or a `Debug`.
pub(crate) const SECRETS: [HeaderName; 3] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];

/// How many characters of one text from the wire are shown: enough to recognise it, too few to flood a log.
const MAX_SHOWN: usize = 200;

/// The request that opens a connection, and the addresses that it came from.
///
/// It dereferences to [`http::Request<()>`](http::Request), which has the method, the URI, the headers and the extensions.
/// Browsers cannot set headers for a WebSocket, so the query, `uri().query()`, often holds a token: do not log it.
///
/// A value that the [`check_request`](crate::Server::check_request) callback puts into the extensions, such as the
/// authenticated user, can be read by the handler.
///
/// `Debug` hides the body, and everything that authenticates a user: the query and the values of `Authorization`, `Cookie` and
/// `Proxy-Authorization`.
pub struct Request {
    head: http::Request<()>,
    body: Box<[u8]>,
    peer_addr: Addr,
    client_addr: Addr,
    peer_certificate: Option<Box<[u8]>>,
}

impl Request {
    pub(crate) fn new(mut head: http::Request<()>, peer_addr: Addr, client_addr: Addr) -> Self {
        for (name, value) in head.headers_mut() {
            if SECRETS.contains(name) {
                // Hides the value even in the `Debug` of `headers()`.
                value.set_sensitive(true);
            }
        }
        Self { head, body: Box::default(), peer_addr, client_addr, peer_certificate: None }
    }

    pub(crate) fn set_peer_certificate(&mut self, certificate: Option<Box<[u8]>>) {
        self.peer_certificate = certificate;
    }

    pub(crate) fn set_body(&mut self, body: Vec<u8>) {
        self.body = body.into_boxed_slice();
    }

    /// Returns the body of a plain HTTP request: see [`serve_http`](crate::Server::serve_http). The request of a WebSocket
    /// has none.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Returns the path, still percent-encoded.
    pub fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// Returns the first header of this name, in upper or lower case; `None` if it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
    }

    /// Returns the address of the socket's other end, which is the nearest proxy's if there is one: [`Addr::Tcp`], or
    /// [`Addr::Unix`]. An IPv4 address is never mapped into IPv6.
    pub fn peer_addr(&self) -> Addr {
        self.peer_addr
    }

    /// Returns the client's address, without a port: [`Addr::Ip`], or [`Addr::Unix`] if the client, or a proxy that is
    /// not trusted, connected by a Unix socket.
    ///
    /// It comes from a PROXY header or from the header of [`forwarded_header`](crate::Server::forwarded_header), if a
    /// trusted proxy wrote it. Otherwise it is the address of the socket's other end. An IPv4 address is never mapped
    /// into IPv6.
    ///
    /// For a request that [`connect`](crate::connect) sent, it is the server's address.
    pub fn client_addr(&self) -> Addr {
        self.client_addr
    }

    /// Returns the certificate that the client has presented over TLS, as DER. It was checked: the client has its key, and a
    /// CA that the server trusts for clients has issued it. `None` if the server asks for none, or it is optional and the
    /// client has none.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.peer_certificate.as_deref()
    }
}

impl Deref for Request {
    type Target = http::Request<()>;

    fn deref(&self) -> &http::Request<()> {
        &self.head
    }
}

impl DerefMut for Request {
    fn deref_mut(&mut self) -> &mut http::Request<()> {
        &mut self.head
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", self.method())
            .field("path", &self.path())
            .field("query", &self.uri().query().map(|_| format_args!("<hidden>")))
            .field("version", &self.version())
            .field("headers", self.headers())
            .field("peer_addr", &self.peer_addr)
            .field("client_addr", &self.client_addr)
            .finish_non_exhaustive()
    }
}

/// The response that a client gets instead of a WebSocket.
///
/// ```
/// use threadws::handshake::{Reject, Response};
/// use threadws::http::StatusCode;
///
/// let reject = Reject::new(401, "who are you?").header("www-authenticate", "Bearer");
/// assert_eq!(Response::from(reject).status(), StatusCode::UNAUTHORIZED);
/// assert_eq!(Response::from(Reject::from(StatusCode::FORBIDDEN)).body(), b"Forbidden");
/// ```
///
/// A [`StatusCode`], and a [`Response`] with any body, can be converted into a `Reject`. A status of 1xx becomes 500, because
/// the client would wait for another response after it.
pub struct Reject {
    /// Boxed, because each `Result` of a callback would otherwise be as large as a response.
    response: Box<Response>,
}

impl Reject {
    /// Creates a refusal with a status and a text, which is sent as `text/plain`.
    ///
    /// A number that cannot be the status of a response, and 1xx, become 500.
    pub fn new(status: impl TryInto<StatusCode>, text: impl Into<String>) -> Self {
        let mut response = Response::new(text.into().into_bytes());
        *response.status_mut() = final_status(status.try_into().ok());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Self { response: Box::new(response) }
    }

    /// Adds a header, beside others of the same name.
    ///
    /// If the name or the value cannot be sent, the header is left out and the status becomes 500.
    pub fn header(mut self, name: impl TryInto<HeaderName>, value: impl TryInto<HeaderValue>) -> Self {
        let added = match (name.try_into(), value.try_into()) {
            (Ok(name), Ok(value)) => self.response.headers_mut().try_append(name, value).is_ok(),
            _ => false,
        };
        if !added {
            *self.response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Returns the body, or nothing if it is not text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.response.body()).unwrap_or_default()
    }

    pub(crate) fn response(&self) -> &Response {
        &self.response
    }
}

fn final_status(status: Option<StatusCode>) -> StatusCode {
    // RFC 9110 §15.2: after a 1xx the client would wait for the final response, or take a 101 for an upgrade.
    status.filter(|status| !status.is_informational()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Shows the status and the text, and no headers, because one may be a cookie.
impl fmt::Debug for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reject")
            .field("status", &self.status())
            .field("text", &Quoted(self.text()))
            .finish_non_exhaustive()
    }
}

/// The text is the name of the status.
impl From<StatusCode> for Reject {
    fn from(status: StatusCode) -> Self {
        let status = final_status(Some(status));
        Self::new(status, status.canonical_reason().unwrap_or_default())
    }
}

/// A status of 1xx becomes 500.
impl From<Response> for Reject {
    fn from(mut response: Response) -> Self {
        *response.status_mut() = final_status(Some(response.status()));
        Self { response: Box::new(response) }
    }
}

impl From<Reject> for Response {
    fn from(reject: Reject) -> Self {
        *reject.response
    }
}

/// A handshake that failed: the client, and the answer that the server sent.
///
/// Its `Display` can be logged: everything that came from the wire is escaped and cut off after 200 characters, and
/// neither the query nor any header that authenticates a user is shown.
#[derive(Debug)]
#[non_exhaustive]
pub struct HandshakeError {
    /// The status of the answer. The client may have been gone before it could be sent.
    pub status: StatusCode,
    /// Why, in a few words. The text of a [`Reject`] is here as the callback gave it: escape it before you log it.
    pub reason: String,
    /// The address of the socket's other end.
    pub peer_addr: Addr,
    /// The client's address, as [`Request::client_addr`] returns it. The peer's if no whole head arrived.
    pub client_addr: Addr,
    /// The request, if a whole head arrived and could be parsed.
    pub request: Option<Box<Request>>,
}

impl HandshakeError {
    pub(crate) fn new(
        status: StatusCode,
        reason: impl Into<String>,
        peer_addr: Addr,
        request: Option<Box<Request>>,
    ) -> Self {
        let client_addr = request.as_deref().map_or(peer_addr.without_port(), Request::client_addr);
        Self { status, reason: reason.into(), peer_addr, client_addr, request }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, reason, peer_addr, client_addr, request } = self;
        write!(f, "handshake of {peer_addr} failed with {}: {}", status.as_u16(), Escaped(reason))?;
        let Some(request) = request else { return Ok(()) };
        write!(f, " ({} {:?}", Escaped(request.method().as_str()), Quoted(request.path()))?;
        if *client_addr != peer_addr.without_port() {
            write!(f, ", client {client_addr}")?;
        }
        if *status == StatusCode::FORBIDDEN {
            // The two headers that the origin policy compares. They show whether a proxy has changed one.
            for (what, name) in [("origin", &ORIGIN), ("host", &HOST)] {
                if let Some(value) = request.headers().get(name) {
                    write!(f, ", {what} {:?}", Quoted(&String::from_utf8_lossy(value.as_bytes())))?;
                }
            }
        }
        f.write_str(")")
    }
}

impl std::error::Error for HandshakeError {}

/// Shows a text from outside in quotes, escaped and cut off.
struct Quoted<'a>(&'a str);

/// Shows a text from outside without quotes, escaped and cut off. Quotes in it need no escape.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

fn cut(text: &str) -> (&str, &'static str) {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => (text.get(..end).unwrap_or(text), "..."),
        None => (text, ""),
    }
}

impl fmt::Debug for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, rest) = cut(self.0);
        write!(f, "{text:?}{rest}")
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, rest) = cut(self.0);
        for c in text.chars() {
            match c {
                '"' | '\'' => f.write_char(c)?,
                c => c.escape_debug().fmt(f)?,
            }
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let head = http::Request::builder()
            .uri("/chat?token=hunter2")
            .header("authorization", "Bearer hunter2")
            .header("cookie", "a=1")
            .header("cookie", "session=hunter2")
            .header("proxy-authorization", "Basic hunter2")
            .header("host", "a.example")
            .header("origin", HeaderValue::from_bytes(b"http://\xff\t\x80evil").expect("obs-text"))
            .body(())
            .expect("a request");
        let peer_addr = std::net::SocketAddr::from(([127, 0, 0, 1], 4000));
        Request::new(head, peer_addr.into(), Addr::Ip([203, 0, 113, 9].into()))
    }

    #[test]
    fn no_secret_is_shown_by_any_debug_or_display() {
        let request = request();
        let shown = format!("{request:?} {:?}", request.headers());
        let error =
            HandshakeError::new(StatusCode::FORBIDDEN, "no", request.peer_addr(), Some(Box::new(request)));
        let shown = format!("{shown} {error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("a.example"), "{shown}");
    }

    #[test]
    fn text_from_the_wire_is_escaped_and_cut_off() {
        let reason = format!("\r\n\u{1b}[31m{}", "x".repeat(1000));
        let text = HandshakeError::new(
            StatusCode::FORBIDDEN,
            reason,
            request().peer_addr(),
            Some(Box::new(request())),
        )
        .to_string();
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
        assert!(text.len() < 500, "{} bytes", text.len());
        assert!(text.contains("client 203.0.113.9") && text.contains(r#"GET "/chat""#), "{text}");
        assert!(text.contains(r#"host "a.example""#) && text.contains("evil"), "{text}");
    }

    #[test]
    fn a_header_that_is_not_utf8_is_none() {
        let request = request();
        assert_eq!(request.header("origin"), None);
        assert_eq!(request.header("Host"), Some("a.example"));
        assert_eq!(request.header("not a name"), None);
    }

    #[test]
    fn a_refusal_never_has_an_interim_status() {
        let statuses = [
            (Reject::new(403, "no").status(), 403),
            (Reject::new(101, "no").status(), 500),
            (Reject::new(99, "no").status(), 500),
            (Reject::new(1000, "no").status(), 500),
            (Reject::new(StatusCode::NOT_FOUND, "no").status(), 404),
            (Reject::from(StatusCode::CONTINUE).status(), 500),
            (
                Reject::from(http::Response::builder().status(101).body(Vec::new()).expect("a response"))
                    .status(),
                500,
            ),
        ];
        for (status, expected) in statuses {
            assert_eq!(status.as_u16(), expected);
        }
    }

    #[test]
    fn a_header_that_cannot_be_sent_makes_the_refusal_a_500() {
        let reject = Reject::new(302, "").header("location", "/a\r\nset-cookie: b=c");
        assert_eq!(reject.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!reject.response().headers().contains_key("location"));
        assert_eq!(Reject::new(401, "").header("bad name", "x").status(), StatusCode::INTERNAL_SERVER_ERROR);
        let reject =
            Reject::new(401, "").header("www-authenticate", "Basic").header("www-authenticate", "Bearer");
        assert_eq!(reject.response().headers().get_all("www-authenticate").iter().count(), 2);
    }
}
