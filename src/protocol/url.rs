//! `ws://` and `wss://` URLs, and redirects from one to another. Connecting to them is in `client.rs`.

use super::origin::Authority;
use crate::error::{Error, Result};
use data_encoding::BASE64;
use http::{HeaderValue, Uri};
use std::fmt;

/// The parts of a `ws://` or `wss://` URL (RFC 6455 §3).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    /// A name or an address for the resolver, so an IPv6 address has no brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The URL's user and password as the value of `Authorization`, marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
    /// The value of the Host header: without the port if it is the default of the scheme.
    pub(super) authority: String,
    pub(super) path: String,
}

impl Target {
    /// Parses a URL. No error contains the URL, because it may contain a password.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let wrong = |why: &'static str| Err(Error::invalid(why));
        // RFC 6455 §3: "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be used". `Uri`
        // would cut one off without an error.
        if url.contains('#') {
            return wrong("the URL has a fragment (\"#\")");
        }
        let Ok(uri) = url.parse::<Uri>() else { return wrong("the URL is malformed") };
        let Some(scheme) = uri.scheme_str() else { return wrong("the URL has no scheme: ws:// or wss://") };
        // RFC 3986 §3.1: schemes are case-insensitive.
        let (tls, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => (false, 80),
            "wss" | "https" => (true, 443),
            _ => return wrong("the URL's scheme is neither ws nor wss"),
        };
        let Some(authority) = uri.authority() else { return wrong("the URL has no host") };
        let (userinfo, authority) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, authority)) => (userinfo, authority),
            None => ("", authority.as_str()),
        };
        let authorization = match userinfo {
            "" => None,
            userinfo => match basic_authorization(userinfo) {
                Some(authorization) => Some(authorization),
                None => return wrong("the URL's user or password is malformed or not percent-encoded"),
            },
        };
        if Authority::parse(authority.as_bytes()).is_none() {
            return wrong("the URL's host or port is malformed");
        }
        let Ok(authority) = authority.parse::<http::uri::Authority>() else {
            return wrong("the URL's host or port is malformed");
        };
        let port = authority.port_u16().unwrap_or(default_port);
        if port == 0 {
            return wrong("the URL's port is 0");
        }
        let name = authority.host();
        let host = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).to_owned();
        let authority = if port == default_port { name.to_owned() } else { format!("{name}:{port}") };
        let mut path = String::from(uri.path());
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        if let Some(query) = uri.query() {
            path.push('?');
            path.push_str(query);
        }
        // Otherwise the request line would not be ASCII without spaces.
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("the URL's path or query is not percent-encoded");
        }
        Ok(Self { tls, host, port, authorization, authority, path })
    }

    /// Resolves the value of `Location` (RFC 9110 §10.2.2) against this URL. It fails if the location has a user or a
    /// password, because the server must not choose the credentials of the client.
    pub(crate) fn redirected(&self, location: &str) -> Result<Self> {
        let scheme = if self.tls { "wss" } else { "ws" };
        // Only a browser uses the fragment of a `Location`.
        let location = location.split('#').next().unwrap_or_default();
        let target = if has_scheme(location) {
            Self::parse(location)
        } else if let Some(rest) = location.strip_prefix("//") {
            Self::parse(&format!("{scheme}://{rest}"))
        } else {
            Self::parse(&format!("{scheme}://{}{}", self.authority, self.merged(location)))
        }?;
        if target.authorization.is_some() {
            return Err(Error::invalid("the server redirects to a URL with a user or password"));
        }
        Ok(target)
    }

    /// Returns the path and query for a reference without a host (RFC 3986 §5.2.2).
    fn merged(&self, location: &str) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let (reference, query) = match location.find('?') {
            Some(at) => location.split_at(at),
            None => (location, ""),
        };
        let merged = match reference {
            "" => path.to_owned(),
            reference if reference.starts_with('/') => reference.to_owned(),
            // The part after the last slash is replaced.
            reference => format!("{}/{reference}", path.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        without_dots(&merged)
            + if location.is_empty() { self.path.strip_prefix(path).unwrap_or_default() } else { query }
    }

    /// Returns whether both URLs have the same origin (RFC 6454 §4), so that credentials for one can be sent to the other.
    pub(crate) fn is_same_origin(&self, other: &Self) -> bool {
        (self.tls, self.port) == (other.tls, other.port) && self.host.eq_ignore_ascii_case(&other.host)
    }
}

/// Omits the credentials, and the query, which may contain a token.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        f.debug_struct("Target")
            .field("tls", &self.tls)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("path", &path)
            .finish_non_exhaustive()
    }
}

/// RFC 3986 §3.1. The characters before the colon are checked, because a query can contain a whole URL.
fn has_scheme(location: &str) -> bool {
    location.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// Removes dot segments (RFC 3986 §5.2.4) from a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

/// Encodes the user and password of a URL by RFC 7617 §2: percent-decoded, in UTF-8. Returns `None` if this is impossible,
/// because a user name cannot contain a colon, and neither part a control character.
fn basic_authorization(userinfo: &str) -> Option<HeaderValue> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let (user, password) = (percent_decoded(user)?, percent_decoded(password)?);
    if user.contains(&b':') {
        return None;
    }
    let credentials = [user.as_slice(), b":", &password].concat();
    if std::str::from_utf8(&credentials).ok()?.contains(char::is_control) {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(&credentials))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| u8::try_from(char::from(byte?).to_digit(16)?).ok();
        bytes.push(match byte {
            b'%' => digit(rest.next())? << 4 | digit(rest.next())?,
            b'@' => return None,
            byte => byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_resolved_against_the_current_url() {
        let from = Target::parse("ws://one.example:81/a/b?c=/d").expect("a target");
        for (location, to) in [
            ("/x?y", "ws://one.example:81/x?y"),
            ("x", "ws://one.example:81/a/x"),
            ("//two.example/x", "ws://two.example/x"),
            ("http://one.example:81/x#y", "ws://one.example:81/x"),
            ("wss://one.example/", "wss://one.example/"),
            ("?y", "ws://one.example:81/a/b?y"),
            ("", "ws://one.example:81/a/b?c=/d"),
            ("../x/./y/..", "ws://one.example:81/x/"),
            ("/../../x", "ws://one.example:81/x"),
            ("/login?to=http://two.example/", "ws://one.example:81/login?to=http://two.example/"),
        ] {
            let expected = Target::parse(to).expect(to);
            assert_eq!(from.redirected(location).expect(location), expected);
            assert_eq!(from.is_same_origin(&expected), expected.port == 81, "{to}");
        }
        for location in
            ["ftp://one.example/", "http://", "mailto:x", "ws://u:p@one.example/", "//u:p@a/", "/a b"]
        {
            from.redirected(location).expect_err(location);
        }
    }

    #[test]
    fn a_url_has_a_host_a_port_and_a_path() {
        let rows = [
            ("ws://example.com", false, "example.com", 80, "example.com", "/"),
            ("ws://example.com/", false, "example.com", 80, "example.com", "/"),
            ("ws://example.com:80/chat", false, "example.com", 80, "example.com", "/chat"),
            ("ws://example.com:8005/chat?a=b", false, "example.com", 8005, "example.com:8005", "/chat?a=b"),
            ("wss://example.com?a=b", true, "example.com", 443, "example.com", "/?a=b"),
            ("wss://example.com:80", true, "example.com", 80, "example.com:80", "/"),
            ("ws://[::1]:8005/", false, "::1", 8005, "[::1]:8005", "/"),
            ("WS://example.com", false, "example.com", 80, "example.com", "/"),
        ];
        for (url, tls, host, port, authority, path) in rows {
            let target = Target::parse(url).expect(url);
            let Target { tls: t, host: h, port: p, authority: a, path: q, .. } = &target;
            assert_eq!(
                (*t, h.as_str(), *p, a.as_str(), q.as_str()),
                (tls, host, port, authority, path),
                "{url}"
            );
        }
    }

    #[test]
    fn an_invalid_url_is_refused_without_being_shown() {
        for url in [
            "",
            "example.com",
            "/chat",
            "ftp://secret",
            "ws://",
            "ws:///secret",
            "ws://us%3Aer:secret@example.com",
            "ws://user:secret%0a@example.com",
            "ws://user:secret%c3@example.com",
            "ws://user:secret%4@example.com",
            "ws://user:secret@secret@example.com",
            "ws://user:secret@",
            "ws://user:secret@:80",
            "ws://user:secret@a:b",
            "ws://secret/#top",
            "ws://secret:0",
            "ws://secret:65536",
            "ws://secret/\u{e9}",
            "ws://secret/a b",
            "ws://secret\r\nx: y",
            "ws://[::secret]",
            "*",
            "ws://secret:x/",
        ] {
            let error = Target::parse(url).expect_err(url).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_user_and_a_password_are_sent_as_basic_credentials_and_never_shown() {
        let rows = [
            // The examples of RFC 7617 §2 and §2.1.
            ("ws://Aladdin:open%20sesame@example.com:81/a?b", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("ws://test:123%C2%a3@example.com:81/a?b", "Basic dGVzdDoxMjPCow=="),
            ("ws://Aladdin@example.com:81/a?b", "Basic QWxhZGRpbjo="),
            ("ws://:b:c@example.com:81/a?b", "Basic OmI6Yw=="),
        ];
        for (url, expected) in rows {
            let target = Target::parse(url).expect(url);
            let authorization = target.authorization.clone().expect("a user");
            assert_eq!(authorization.as_bytes(), expected.as_bytes());
            assert_eq!(
                (&*target.host, &*target.authority, &*target.path),
                ("example.com", "example.com:81", "/a?b")
            );
            let shown = format!("{target:?} {authorization:?}");
            assert!(!shown.contains("esame") && !shown.contains("Basic") && !shown.contains("?b"), "{shown}");
        }
        assert_eq!(Target::parse("ws://@example.com").expect("no user").authorization, None);
    }
}
