//! The server's half of the opening handshake (RFC 6455 §4.2): checks a parsed request, and makes the headers of the 101.
//!
//! Parsing and writing heads is in `head.rs`, the rule for the `Origin` header in `origin.rs`. Reading from the socket,
//! quotas and callbacks are in `handshake.rs`.

use super::deflate::{self, Agreed};
use super::head::write_switching;
use super::origin::AllowedOrigins;
use super::{Refusal, is_token, list, lists_token};
use crate::deflate::Deflate;
use crate::error::{Error, Result};
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use tungstenite::handshake::derive_accept_key;

const BODY_LENGTH: Refusal = Refusal::bad_request("the length of the body is malformed or given twice");
const KEY: Refusal = Refusal::bad_request("Sec-WebSocket-Key is not 16 bytes in base64");
const ORIGIN: Refusal = Refusal::new(StatusCode::FORBIDDEN, "this origin is not allowed");
const SUBPROTOCOLS: Refusal = Refusal::bad_request("Sec-WebSocket-Protocol is malformed or names one twice");

/// The response to a plain HTTP request if the server has no handler for these.
///
/// RFC 9110 §15.5.22: "The server MUST send an Upgrade header field in a 426 response".
pub(crate) const UPGRADE_REQUIRED: Refusal =
    Refusal::new(StatusCode::UPGRADE_REQUIRED, "this server only serves WebSockets")
        .with(&[("upgrade", "websocket"), ("sec-websocket-version", "13")]);

/// Which upgrades a server accepts.
#[derive(Debug, Clone, Default)]
pub(crate) struct HandshakePolicy {
    /// `None` accepts every path.
    path: Option<String>,
    subprotocols: Vec<String>,
    pub(crate) origins: AllowedOrigins,
    /// The largest body of a plain request, in bytes. `None` if the server has no handler for these.
    pub(crate) max_body: Option<usize>,
}

impl HandshakePolicy {
    /// Sets the only path. It fails if clients never request such a path, because they percent-encode or resolve it.
    pub(crate) fn set_path(&mut self, path: String) -> Result<()> {
        let is_possible = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{}".contains(&byte);
        // Browsers take "%2e" for a dot, too.
        let dots = path.to_ascii_lowercase().replace("%2e", ".");
        let is_resolved = dots.split('/').any(|segment| matches!(segment, "." | ".."));
        if !path.starts_with('/') || !path.bytes().all(is_possible) || is_resolved {
            return Err(Error::invalid(format!(
                "path {path:?}: it must start with \"/\", be percent-encoded, and have no \"?\", \"#\", \"/./\" or \"/../\""
            )));
        }
        self.path = Some(path);
        Ok(())
    }

    pub(crate) fn set_subprotocols(&mut self, names: Vec<String>) -> Result<()> {
        check_subprotocols(&names)?;
        self.subprotocols = names;
        Ok(())
    }
}

/// Checks a list of subprotocols. RFC 6455 §4.1, item 10: they are tokens, and unique.
pub(crate) fn check_subprotocols(names: &[String]) -> Result<()> {
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    if let Some(name) = sorted.iter().find(|name| !is_token(name.as_bytes())) {
        return Err(Error::invalid(format!("subprotocol {name:?}: not a token")));
    }
    match sorted.iter().zip(sorted.iter().skip(1)).find(|(name, next)| name == next) {
        Some((name, _)) => Err(Error::invalid(format!("subprotocol {name:?}: named twice"))),
        None => Ok(()),
    }
}

/// The kind of request that passed the checks.
#[derive(Debug)]
pub(crate) enum RequestKind {
    /// Plain HTTP, with a body of this many bytes.
    Http(usize),
    /// A WebSocket that can be opened.
    WebSocket(Upgrade),
}

/// An upgrade that passed every check, with the values for its 101.
#[derive(Debug)]
pub(crate) struct Upgrade {
    accept: HeaderValue,
    subprotocol: Option<HeaderValue>,
    deflate: Option<(Agreed, HeaderValue)>,
}

/// The agreements of a handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choices {
    pub(crate) subprotocol: Option<String>,
    /// With the header `Sec-WebSocket-Extensions`.
    pub(crate) deflate: Option<(Agreed, HeaderValue)>,
}

/// Checks a request, in this order: plain HTTP or not, the headers of the handshake, path, origin, subprotocol.
pub(crate) fn check(
    request: &http::Request<()>,
    policy: &HandshakePolicy,
) -> std::result::Result<RequestKind, Refusal> {
    let headers = request.headers();
    let body = body_length(headers)?;
    let admits_origin =
        || policy.origins.admit(headers, request.uri().authority().map(http::uri::Authority::as_str));
    if !asks_for_websocket(headers) {
        let length = check_plain(request.method(), body, policy.max_body)?;
        // A browser lets every page send a POST, as it lets every page open a WebSocket.
        return if request.method().is_safe() || admits_origin() {
            Ok(RequestKind::Http(length))
        } else {
            Err(ORIGIN)
        };
    }
    check_handshake(request, body)?;
    let accept = accept_key(headers)?;
    if policy.path.as_deref().is_some_and(|path| path != request.uri().path()) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is no WebSocket at this path"));
    }
    if !admits_origin() {
        return Err(ORIGIN);
    }
    let subprotocol = negotiate(headers, &policy.subprotocols)?;
    Ok(RequestKind::WebSocket(Upgrade { accept, subprotocol, deflate: None }))
}

/// Returns whether the request has any header of the handshake. A proxy may have dropped `Upgrade`. The client then gets an
/// error that names the missing header, and not a page.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    lists_token(headers, &UPGRADE, "websocket")
        || headers.contains_key(SEC_WEBSOCKET_KEY)
        || headers.contains_key(SEC_WEBSOCKET_VERSION)
}

/// Returns the length of the body of a plain request.
///
/// Without a handler, only GET and HEAD without a body are accepted. A handler decides about the method itself, except for
/// CONNECT, whose target is not a path.
fn check_plain(
    method: &Method,
    body: Option<u64>,
    max_body: Option<usize>,
) -> std::result::Result<usize, Refusal> {
    const METHOD: Refusal =
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this server does not accept this method")
            .with(&[("allow", "GET, HEAD")]);
    let Some(max_body) = max_body else {
        return match (method, body) {
            (&Method::GET | &Method::HEAD, Some(0)) => Ok(0),
            (&Method::GET | &Method::HEAD, _) => {
                Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "this server accepts no request with a body"))
            }
            _ => Err(METHOD),
        };
    };
    match body.map(usize::try_from) {
        _ if method == Method::CONNECT => Err(METHOD),
        Some(Ok(length)) if length <= max_body => Ok(length),
        Some(_) => Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large")),
        // RFC 9112 §6.3 lets a server demand a length.
        None => Err(Refusal::new(StatusCode::LENGTH_REQUIRED, "a body needs a Content-Length")),
    }
}

/// RFC 6455 §4.2.1, items 1 and 3 to 6.
fn check_handshake(request: &http::Request<()>, body: Option<u64>) -> std::result::Result<(), Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket needs the method GET")
            .with(&[("allow", "GET")]));
    }
    // RFC 9110 §7.8: a server ignores the Upgrade of an HTTP/1.0 request, and would answer with a page. An error is more
    // useful here, because the cause is usually a proxy that is not configured for HTTP/1.1.
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "a WebSocket needs HTTP/1.1"));
    }
    if body != Some(0) {
        // Otherwise a proxy could take the bytes that follow for a body, while this server takes them for frames.
        return Err(Refusal::bad_request("a handshake cannot have a body"));
    }
    if !lists_token(headers, &UPGRADE, "websocket") {
        return Err(Refusal::bad_request("no \"Upgrade: websocket\": a proxy may have dropped it"));
    }
    if !lists_token(headers, &CONNECTION, "upgrade") {
        return Err(Refusal::bad_request("no \"Connection: Upgrade\": a proxy may have dropped it"));
    }
    let mut versions = headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    match (versions.next().map(HeaderValue::as_bytes), versions.next()) {
        (_, Some(_)) => Err(Refusal::bad_request("more than one Sec-WebSocket-Version")),
        (Some(b"13"), None) => Ok(()),
        // RFC 6455 §4.4. A request without a version is from a draft and gets the same response.
        _ => Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13")
            .with(&[("sec-websocket-version", "13"), ("upgrade", "websocket")])),
    }
}

/// Returns how many bytes of a body follow the head (RFC 9112 §6.3), and `None` if it is chunked or encoded otherwise.
///
/// A length together with `Transfer-Encoding`, or two lengths, are refused, because they are used for request smuggling.
fn body_length(headers: &HeaderMap) -> std::result::Result<Option<u64>, Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (length, second) = (lengths.next().map(HeaderValue::as_bytes), lengths.next());
    let encoded = headers.contains_key(TRANSFER_ENCODING);
    match length {
        None => Ok((!encoded).then_some(0)),
        Some(digits) => {
            let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            if !valid || second.is_some() || encoded {
                return Err(BODY_LENGTH);
            }
            // A number that does not fit is larger than every limit.
            let digits = std::str::from_utf8(digits).map_err(|_| BODY_LENGTH)?;
            Ok(Some(digits.parse().unwrap_or(u64::MAX)))
        }
    }
}

/// Returns the value of `Sec-WebSocket-Accept`. RFC 6455 §4.2.1, item 5: there is one key, the base64 of 16 bytes.
fn accept_key(headers: &HeaderMap) -> std::result::Result<HeaderValue, Refusal> {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => {
            HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| KEY)
        }
        (Some(_), None) => Err(KEY),
        (None, _) => Err(Refusal::bad_request("no Sec-WebSocket-Key")),
        (Some(_), Some(_)) => Err(Refusal::bad_request("more than one Sec-WebSocket-Key")),
    }
}

/// RFC 4648 §4: 22 characters and two of padding.
///
/// The last character has 2 bits of data. Its other 4 bits can have any value, because clients send such keys, as the
/// example in RFC 6455 §4.1 does (MeshAgent#369).
fn is_key(key: &[u8]) -> bool {
    key.strip_suffix(b"==").is_some_and(|digits| {
        let is_digit = |&byte: &u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
        digits.len() == 22 && digits.iter().all(is_digit)
    })
}

/// Returns the first subprotocol of the client's list that the server has. The list is in the client's order of preference
/// (RFC 6455 §11.3.4). If there is none in common, the client decides whether it continues without one.
fn negotiate(headers: &HeaderMap, known: &[String]) -> std::result::Result<Option<HeaderValue>, Refusal> {
    let offered: Vec<&[u8]> = list(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    // RFC 6455 §4.1, item 10: the elements "MUST all be unique strings". Sorted, because a list can have thousands of them.
    let mut sorted = offered.clone();
    sorted.sort_unstable();
    if !sorted.iter().all(|name| is_token(name)) || !sorted.is_sorted_by(|name, next| name < next) {
        return Err(SUBPROTOCOLS);
    }
    match offered.iter().find(|name| known.iter().any(|known| known.as_bytes() == **name)) {
        Some(name) => HeaderValue::from_bytes(name).map(Some).map_err(|_| SUBPROTOCOLS),
        None => Ok(None),
    }
}

impl Upgrade {
    /// Returns the headers of the 101 that no callback can change, without the subprotocol.
    fn own_headers(&self) -> [(&'static HeaderName, &HeaderValue); 3] {
        static WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
        static UPGRADE_TOKEN: HeaderValue = HeaderValue::from_static("Upgrade");
        [(&UPGRADE, &WEBSOCKET), (&CONNECTION, &UPGRADE_TOKEN), (&SEC_WEBSOCKET_ACCEPT, &self.accept)]
    }

    /// Returns the bytes of the 101 if the server has no callback for requests.
    ///
    /// A `HeaderMap` as in [`response`](Self::response) would cost 5 % of the instructions of a handshake
    /// (`.ci/instructions`).
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let subprotocol = self.subprotocol.iter().map(|name| (&SEC_WEBSOCKET_PROTOCOL, name));
        let deflate = self.deflate.iter().map(|(_, value)| (&SEC_WEBSOCKET_EXTENSIONS, value));
        write_switching(self.own_headers().into_iter().chain(subprotocol).chain(deflate))
    }

    /// Agrees on compression, if the client offers it.
    pub(crate) fn accept_deflate(&mut self, headers: &HeaderMap, settings: &Deflate) {
        self.deflate = deflate::answer(headers, settings);
    }

    /// Returns the agreements, which a callback can still change.
    pub(crate) fn choices(&self) -> Choices {
        let subprotocol = self.subprotocol.as_ref().and_then(|name| name.to_str().ok());
        Choices { subprotocol: subprotocol.map(str::to_owned), deflate: self.deflate.clone() }
    }

    /// Returns the 101 for a callback, which can add headers.
    pub(crate) fn response(&self) -> http::Response<Vec<u8>> {
        let mut response = http::Response::new(Vec::new());
        if let Some(subprotocol) = &self.subprotocol {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        self.complete(&mut response);
        if let Some((_, value)) = &self.deflate {
            response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, value.clone());
        }
        response
    }

    fn complete(&self, response: &mut http::Response<Vec<u8>>) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.body_mut().clear();
        let headers = response.headers_mut();
        for (name, value) in self.own_headers() {
            headers.insert(name, value.clone());
        }
        // A 101 has no body, and a callback cannot agree on an extension.
        for name in [SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_VERSION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            headers.remove(name);
        }
    }

    /// Restores the required headers after a callback, and returns the agreements.
    ///
    /// The callback can choose another subprotocol if the client offered it. RFC 6455 §4.1: the client fails the connection
    /// for any other, so any other is a 500 here, with a reason. It can also remove the extension.
    pub(crate) fn finish(
        &self,
        request: &http::Request<()>,
        response: &mut http::Response<Vec<u8>>,
    ) -> std::result::Result<Choices, Refusal> {
        const UNOFFERED: Refusal = Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the server chose a subprotocol that the client did not offer",
        );
        let keeps_deflate = response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS);
        self.complete(response);
        let deflate = self.deflate.clone().filter(|_| keeps_deflate);
        if let Some((_, value)) = &deflate {
            response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, value.clone());
        }
        let mut chosen = response.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let (chosen, second) = (chosen.next(), chosen.next());
        let Some(chosen) = chosen else { return Ok(Choices { subprotocol: None, deflate }) };
        let offered = list(request.headers(), &SEC_WEBSOCKET_PROTOCOL).any(|name| name == chosen.as_bytes());
        match chosen.to_str() {
            Ok(name) if offered && second.is_none() => {
                Ok(Choices { subprotocol: Some(name.to_owned()), deflate })
            }
            _ => Err(UNOFFERED),
        }
    }
}

#[cfg(test)]
mod tests;
