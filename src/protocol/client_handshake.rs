//! The client's half of the opening handshake (RFC 6455 §4.1): makes the request, and checks the response.
//!
//! URLs are in `url.rs`, the body of another response in `response_body.rs`. Connecting and redirects are in `client.rs`.

use super::deflate;
use super::head::write_header;
use super::lists_token;
use super::server_handshake::{Choices, check_subprotocols};
use super::url::Target;
use crate::deflate::Deflate;
use crate::error::{BoxError, Error, Result};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use std::io;
use tungstenite::handshake::{client::generate_key, derive_accept_key};

/// Headers that the caller cannot set, because the handshake writes them.
const RESERVED: [HeaderName; 11] = [
    HOST,
    UPGRADE,
    CONNECTION,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    EXPECT,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_ACCEPT,
];

/// The part of a request that the response is compared with.
#[derive(Debug)]
pub(crate) struct Offer {
    key: String,
    subprotocols: Vec<String>,
    deflate: Option<Deflate>,
}

impl Offer {
    /// Checks settings before a connection is made.
    pub(crate) fn check_settings(subprotocols: &[String], headers: &HeaderMap) -> Result<()> {
        check_subprotocols(subprotocols)?;
        if let Some(name) = headers.keys().find(|name| RESERVED.contains(name)) {
            return Err(Error::invalid(format!("header {name}: the handshake sets it")));
        }
        // RFC 6454 §7.3: "the user agent MUST NOT include more than one Origin header field".
        if headers.get_all(ORIGIN).iter().nth(1).is_some() {
            return Err(Error::invalid("header origin: given twice"));
        }
        Ok(())
    }

    /// Returns an offer with a new random key, and the bytes of its request.
    pub(crate) fn new(
        target: &Target,
        subprotocols: &[String],
        headers: &HeaderMap,
        deflate: Option<&Deflate>,
    ) -> Result<(Self, Vec<u8>)> {
        Self::check_settings(subprotocols, headers)?;
        let key = generate_key();
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(b"GET ");
        bytes.extend_from_slice(target.path.as_bytes());
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        // RFC 9112 §3.2: Host should be the first header.
        write_header(&mut bytes, HOST.as_str(), target.authority.as_bytes());
        write_header(&mut bytes, UPGRADE.as_str(), b"websocket");
        write_header(&mut bytes, CONNECTION.as_str(), b"Upgrade");
        write_header(&mut bytes, SEC_WEBSOCKET_KEY.as_str(), key.as_bytes());
        write_header(&mut bytes, SEC_WEBSOCKET_VERSION.as_str(), b"13");
        if !subprotocols.is_empty() {
            write_header(&mut bytes, SEC_WEBSOCKET_PROTOCOL.as_str(), subprotocols.join(", ").as_bytes());
        }
        if let Some(settings) = deflate {
            let offer = deflate::offer(settings);
            write_header(&mut bytes, SEC_WEBSOCKET_EXTENSIONS.as_str(), offer.as_bytes());
        }
        for (name, value) in headers {
            write_header(&mut bytes, name.as_str(), value.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        Ok((Self { key, subprotocols: subprotocols.to_vec(), deflate: deflate.cloned() }, bytes))
    }

    /// Returns an offer with a fixed key.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_key(key: &str, subprotocols: &[&str]) -> Self {
        let subprotocols = subprotocols.iter().map(|&name| name.to_owned()).collect();
        Self { key: key.to_owned(), subprotocols, deflate: None }
    }

    /// Checks a 101 by items 2 to 6 of RFC 6455 §4.1, and returns the agreements.
    ///
    /// The caller handles item 1, another status, because the body of such a response is read and shown.
    pub(crate) fn check(&self, response: &http::Response<()>) -> Result<Choices> {
        let headers = response.headers();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS || response.version() != Version::HTTP_11 {
            return Err(invalid_response("the response of the server is not an HTTP/1.1 101"));
        }
        if !lists_token(headers, &UPGRADE, "websocket") {
            return Err(invalid_response("the server's 101 has no \"Upgrade: websocket\""));
        }
        if !lists_token(headers, &CONNECTION, "upgrade") {
            return Err(invalid_response("the server's 101 has no \"Connection: Upgrade\""));
        }
        let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        let expected = derive_accept_key(self.key.as_bytes());
        if accepts.next().map(HeaderValue::as_bytes) != Some(expected.as_bytes()) || accepts.next().is_some()
        {
            return Err(invalid_response("the server's 101 has the wrong Sec-WebSocket-Accept"));
        }
        let deflate = deflate::agree(headers, self.deflate.as_ref()).map_err(invalid_response)?;
        let deflate = deflate.zip(headers.get(SEC_WEBSOCKET_EXTENSIONS).cloned());
        let mut chosen = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let (chosen, second) = (chosen.next(), chosen.next());
        let Some(chosen) = chosen else { return Ok(Choices { subprotocol: None, deflate }) };
        // RFC 6455 §11.3.4: it "MUST NOT appear more than once in an HTTP response". It is one name, not a list.
        match self.subprotocols.iter().find(|name| name.as_bytes() == chosen.as_bytes()) {
            Some(name) if second.is_none() => Ok(Choices { subprotocol: Some(name.clone()), deflate }),
            _ => Err(invalid_response("the server's 101 names a subprotocol that was not offered")),
        }
    }
}

/// Makes an error for a response that breaks the handshake.
pub(crate) fn invalid_response(why: impl Into<BoxError>) -> Error {
    Error::Io(io::Error::new(io::ErrorKind::InvalidData, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::head::{HeadLimits, parse_request, parse_response};
    use crate::protocol::noise::Noise;
    use crate::protocol::server_handshake::{HandshakePolicy, RequestKind, check};

    const LIMITS: HeadLimits = HeadLimits { size: 16 * 1024, headers: 100 };

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_server_accepts_the_clients_request() {
        let target = Target::parse("ws://example.com:8005/chat?a=b").expect("a target");
        let mut extra = HeaderMap::new();
        extra.append("cookie", HeaderValue::from_static("a=b"));
        extra.append("x-twice", HeaderValue::from_static("1"));
        extra.append("x-twice", HeaderValue::from_static("2"));
        extra.append("origin", HeaderValue::from_static("http://example.com:8005"));
        let (offer, bytes) = Offer::new(&target, &strings(&["v2", "chat"]), &extra, None).expect("an offer");
        let text = String::from_utf8(bytes.clone()).expect("ASCII");
        assert!(text.starts_with("GET /chat?a=b HTTP/1.1\r\nHost: example.com:8005\r\n"), "{text}");
        assert!(text.contains("\r\nSec-WebSocket-Key: ") && text.contains("\r\nX-Twice: 2\r\n"), "{text}");

        let request = parse_request(&bytes, LIMITS).expect("a head");
        let mut policy = HandshakePolicy::default();
        policy.set_path("/chat".into()).expect("a path");
        policy.set_subprotocols(strings(&["chat"])).expect("a subprotocol");
        let RequestKind::WebSocket(upgrade) = check(&request, &policy).expect("granted") else {
            panic!("plain HTTP")
        };
        let mut response = upgrade.response();
        let choices = upgrade.finish(&request, &mut response).expect("one that was offered");
        assert_eq!(choices.subprotocol.as_deref(), Some("chat"));
        let answer = crate::protocol::head::write_switching(response.headers());
        let answer = parse_response(&answer, LIMITS).expect("a head");
        assert_eq!(offer.check(&answer).expect("a yes").subprotocol, Some("chat".into()));
    }

    #[test]
    fn every_offer_has_its_own_key() {
        let target = Target::parse("ws://a").expect("a target");
        let offer = || Offer::new(&target, &[], &HeaderMap::new(), None).expect("an offer").1;
        assert_ne!(offer(), offer());
    }

    #[test]
    fn headers_of_the_handshake_cannot_be_set() {
        let target = Target::parse("ws://a").expect("a target");
        for name in RESERVED {
            let mut headers = HeaderMap::new();
            headers.insert(name.clone(), HeaderValue::from_static("x"));
            let error = Offer::new(&target, &[], &headers, None).expect_err("reserved").to_string();
            assert!(error.contains(name.as_str()), "{error}");
        }
        for names in [&["a b"][..], &[""], &["a", "a"], &["a,b"]] {
            Offer::new(&target, &strings(names), &HeaderMap::new(), None).expect_err("no list of tokens");
        }
    }

    #[test]
    fn only_a_valid_101_is_accepted() {
        let offer = Offer::with_key("dGhlIHNhbXBsZSBub25jZQ==", &["chat"]);
        let yes = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let check = |answer: &str| {
            let response =
                parse_response(answer.as_bytes(), LIMITS).map_err(|refusal| refusal.reason.into_owned())?;
            offer.check(&response).map(|choices| choices.subprotocol).map_err(|error| error.to_string())
        };
        assert_eq!(check(yes), Ok(None));
        let rows = [
            // RFC 6455 §4.1: a part of the response, its replacement, and whether the response is still valid.
            ("Upgrade: websocket", "Upgrade: WebSocket", true),
            ("Upgrade: websocket", "upgrade: a, websocket", true),
            ("Upgrade: websocket", "Upgrade: h2c", false),
            ("Upgrade: websocket", "X: y", false),
            ("Connection: Upgrade", "Connection: keep-alive\r\nconnection: foo,UPGRADE", true),
            ("Connection: Upgrade", "Connection: close", false),
            ("Connection: Upgrade", "X: y", false),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", " s3pPLMBiTxaQ9kYGzzhZRbK+xOo= ", true),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=", false),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "", false),
            ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x\r\nSec-WebSocket-Accept: ", false),
            ("Sec-WebSocket-Accept: ", "X: ", false),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", false),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions:\r\n\r\n", true),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", true),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: Chat\r\n\r\n", false),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: other\r\n\r\n", false),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat, other\r\n\r\n", false),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n\r\n", false),
            ("101 Switching Protocols", "200 OK", false),
            ("101 Switching Protocols", "101", true),
            ("101 Switching Protocols", "1001 x", false),
            ("HTTP/1.1", "HTTP/1.0", false),
            ("HTTP/1.1", "HTTP/1.2", true),
            ("HTTP/1.1", "HTTP/2.0", false),
            ("HTTP/1.1", "ICY/1.1", false),
            ("\r\nConnection", "\r\n Connection", false),
            ("\r\nConnection", "\nConnection", false),
        ];
        for (part, replaced, accepted) in rows {
            let answer = yes.replacen(part, replaced, 1);
            assert_eq!(check(&answer).is_ok(), accepted, "{answer:?}: {:?}", check(&answer));
        }
    }

    #[test]
    fn no_response_can_make_it_panic() {
        let offer = Offer::with_key("dGhlIHNhbXBsZSBub25jZQ==", &["chat"]);
        let words = [
            "HTTP/1.1 101 x\r\n",
            "upgrade: websocket\r\n",
            "connection: upgrade\r\n",
            "sec-websocket-accept:",
            "\r\n",
            "sec-websocket-protocol: chat",
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
            ":",
            " ",
            ",",
            "\u{e9}",
            "HTTP/1.1 ",
        ];
        for seed in 0..5000 {
            let mut noise = Noise::new(seed);
            let mut bytes = b"HTTP/1.1 101 x\r\n".to_vec();
            bytes.extend(noise.text(&words, 30));
            bytes.extend_from_slice(b"\r\n\r\n");
            if let Ok(response) = parse_response(&bytes, LIMITS) {
                offer.check(&response).ok();
            }
        }
    }
}
