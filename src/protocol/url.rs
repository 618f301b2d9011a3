//! `ws://`, `wss://` and `ws+unix:` URLs, and redirects from one to another. Connecting to them is in `client.rs`.

use super::origin::Authority;
use crate::error::{Error, Result};
use data_encoding::BASE64;
use http::{HeaderValue, Uri};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// The socket that a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A name or an address for the resolver, and a port. An IPv6 address has no brackets, but may have a zone:
    /// `fe80::1%eth0`.
    Host(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The parts of a `ws://` or `wss://` URL (RFC 6455 §3), or of a `ws+unix:` URL as npm's `ws` has them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    pub(crate) endpoint: Endpoint,
    /// The URL's user and password as the value of `Authorization`, marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
    /// The value of the Host header: without the port if it is the default of the scheme, and never with a zone.
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
        if let Some((scheme, rest)) = url.split_once(':') {
            if scheme.eq_ignore_ascii_case("ws+unix") {
                return Self::parse_unix(rest);
            }
        }
        let (url, zone) = without_zone(url)?;
        let Ok(uri) = url.parse::<Uri>() else { return wrong("the URL is malformed") };
        let Some(scheme) = uri.scheme_str() else { return wrong("the URL has no scheme: ws:// or wss://") };
        // RFC 3986 §3.1: schemes are case-insensitive.
        let (tls, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => (false, 80),
            "wss" | "https" => (true, 443),
            _ => return wrong("the URL's scheme is none of ws, wss and ws+unix"),
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
        let mut host =
            name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).to_owned();
        if let Some(zone) = zone {
            host = format!("{host}%{zone}");
        }
        let authority = if port == default_port { name.to_owned() } else { format!("{name}:{port}") };
        let mut path = String::from(uri.path());
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        if let Some(query) = uri.query() {
            path.push('?');
            path.push_str(query);
        }
        check_path(&path)?;
        Ok(Self { tls, endpoint: Endpoint::Host(host, port), authorization, authority, path })
    }

    /// Parses the part of a `ws+unix:` URL after its scheme: the path of a socket, then `:` and the path of the request. The
    /// path of the socket is taken as it is, without percent-decoding.
    fn parse_unix(rest: &str) -> Result<Self> {
        // `ws+unix:///run/ws.sock` has an empty host.
        let rest = rest.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(rest);
        let (socket, path) = match rest.find(":/") {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default()),
            None => (rest, "/"),
        };
        if socket.is_empty() || socket.contains('\0') {
            return Err(Error::invalid(
                "the URL has no path of a Unix socket: ws+unix:/path/to.sock:/request/path",
            ));
        }
        check_path(path)?;
        Ok(Self {
            tls: false,
            endpoint: Endpoint::Unix(socket.into()),
            authorization: None,
            authority: "localhost".to_owned(),
            path: path.to_owned(),
        })
    }

    /// Resolves the value of `Location` (RFC 9110 §10.2.2) against this URL. It fails if the location has a user or a
    /// password, because the server must not choose the credentials of the client.
    pub(crate) fn redirected(&self, location: &str) -> Result<Self> {
        let scheme = if self.tls { "wss" } else { "ws" };
        let refused = |why: &'static str| Err(Error::invalid(why));
        // Only a browser uses the fragment of a `Location`.
        let location = location.split('#').next().unwrap_or_default();
        let target = if has_scheme(location) {
            Self::parse(location)?
        } else if let Some(rest) = location.strip_prefix("//") {
            Self::parse(&format!("{scheme}://{rest}"))?
        } else {
            let path = self.merged(location);
            check_path(&path)?;
            Self { path, authorization: None, ..self.clone() }
        };
        if target.authorization.is_some() {
            return refused("the server redirects to a URL with a user or password");
        }
        // A server on the internet must not reach the local sockets of its client.
        if matches!(target.endpoint, Endpoint::Unix(_)) && target.endpoint != self.endpoint {
            return refused("the server redirects to a Unix socket");
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

    /// Returns whether both URLs name the same host, at any port.
    #[cfg(feature = "tls")]
    pub(crate) fn is_same_host(&self, other: &Self) -> bool {
        match (&self.endpoint, &other.endpoint) {
            (Endpoint::Host(a, _), Endpoint::Host(b, _)) => a.eq_ignore_ascii_case(b),
            (a, b) => a == b,
        }
    }

    /// Returns whether both URLs have the same origin (RFC 6454 §4), so that credentials for one can be sent to the other.
    pub(crate) fn is_same_origin(&self, other: &Self) -> bool {
        self.tls == other.tls
            && match (&self.endpoint, &other.endpoint) {
                (Endpoint::Host(a, port), Endpoint::Host(b, other)) => {
                    port == other && a.eq_ignore_ascii_case(b)
                }
                (a, b) => a == b,
            }
    }
}

/// Omits the credentials, and the query, which may contain a token.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        f.debug_struct("Target")
            .field("tls", &self.tls)
            .field("endpoint", &self.endpoint)
            .field("path", &path)
            .finish_non_exhaustive()
    }
}

/// Refuses a path with which the request line would not be ASCII without spaces.
fn check_path(path: &str) -> Result<()> {
    if path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(Error::invalid("the URL's path or query is not percent-encoded"))
    }
}

/// Takes the zone out of a URL with an IPv6 address, and returns both. `Uri` refuses a zone, and RFC 6874 §4 demands that a
/// client does not send it.
///
/// RFC 6874 §2 writes `[fe80::1%25eth0]`. Addresses that were printed by a program often have the bare form,
/// `[fe80::1%eth0]`.
fn without_zone(url: &str) -> Result<(Cow<'_, str>, Option<String>)> {
    let none = Ok((Cow::Borrowed(url), None));
    let Some((start, rest)) = url.split_once("://") else { return none };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (user, host) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let literal = host.strip_prefix('[').and_then(|host| host.split_once(']'));
    let Some((literal, port)) = literal else { return none };
    if !port.is_empty() && !port.starts_with(':') {
        return none;
    }
    let Some((address, zone)) = literal.split_once('%') else { return none };
    let escaped = zone.strip_prefix("25").filter(|rest| !rest.is_empty()).unwrap_or(zone);
    let zone = percent_decoded(escaped)
        .and_then(|zone| String::from_utf8(zone).ok())
        .filter(|zone| !zone.is_empty() && zone.bytes().all(|byte| byte.is_ascii_graphic()));
    match zone {
        Some(zone) => {
            let path = rest.get(authority.len()..).unwrap_or_default();
            Ok((format!("{start}://{user}[{address}]{port}{path}").into(), Some(zone)))
        }
        None => Err(Error::invalid("the URL's IPv6 address has a malformed zone")),
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
            // Neither a user nor a zone has these (RFC 3986 §3.2.1, RFC 6874 §2).
            b'@' | b'[' | b']' => return None,
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
            assert_eq!(from.is_same_origin(&expected), to.starts_with("ws://one.example:81/"), "{to}");
        }
        for location in [
            "ftp://one.example/",
            "http://",
            "mailto:x",
            "ws://u:p@one.example/",
            "//u:p@a/",
            "/a b",
            "ws+unix:/a",
        ] {
            from.redirected(location).expect_err(location);
        }
        let local = Target::parse("ws+unix:/run/a.sock:/a/b").expect("a target");
        let moved = local.redirected("c").expect("the same socket");
        assert_eq!(moved, Target::parse("ws+unix:/run/a.sock:/a/c").expect("a target"));
        assert!(local.is_same_origin(&moved) && !local.is_same_origin(&from));
        local.redirected("ws+unix:/run/b.sock:/").expect_err("another socket");
        let linked = Target::parse("ws://[fe80::1%25eth0]:81/").expect("a target");
        assert_eq!(linked.redirected("/x").expect("a path").endpoint, linked.endpoint, "the zone is kept");
    }

    #[test]
    fn an_ipv6_address_may_have_a_zone_which_is_not_sent() {
        let rows = [
            ("ws://[fe80::1%25eth0]:81/", "fe80::1%eth0"),
            ("ws://[fe80::1%eth0]:81/", "fe80::1%eth0"),
            ("ws://[fe80::1%3]:81/", "fe80::1%3"),
            ("ws://[fe80::1%253]:81/", "fe80::1%3"),
            ("ws://[fe80::1%25]:81/", "fe80::1%25"),
            ("ws://[fe80::1%25br%2d1]:81/", "fe80::1%br-1"),
            ("ws://us%20er@[fe80::1%eth0.7]:81/?%5B", "fe80::1%eth0.7"),
        ];
        for (url, host) in rows {
            let target = Target::parse(url).expect(url);
            assert_eq!(target.endpoint, Endpoint::Host(host.to_owned(), 81), "{url}");
            assert_eq!(target.authority, "[fe80::1]:81", "{url}");
        }
        for url in [
            "ws://[fe80::1%]:81/",
            "ws://[fe80::1%25%zz]/",
            "ws://[fe80::1%25a%20b]/",
            "ws://[%eth0]/",
            "ws://a%b]/",
            "ws://[fe80::1%25eth0]a:81/",
            "ws://a[fe80::1%25eth0]:81/",
            // RFC 3986 §3.2.1: a user has no brackets.
            "ws://a[b%25c]@127.0.0.1:81/",
            "ws://a[b]@127.0.0.1:81/",
            "ws://[a%25b]@[::1]:81/",
        ] {
            Target::parse(url).expect_err(url);
        }
    }

    #[test]
    fn a_unix_url_has_the_paths_of_a_socket_and_of_the_request() {
        let rows = [
            ("ws+unix:/run/a b.sock:/chat?a=:/", "/run/a b.sock", "/chat?a=:/"),
            ("ws+unix:///run/a.sock:/", "/run/a.sock", "/"),
            ("ws+unix:/run/a.sock", "/run/a.sock", "/"),
            ("ws+unix:/run/a:1.sock:/x", "/run/a:1.sock", "/x"),
            ("ws+unix:a.sock:/x", "a.sock", "/x"),
        ];
        for (url, socket, path) in rows {
            let target = Target::parse(url).expect(url);
            assert_eq!(target.endpoint, Endpoint::Unix(socket.into()), "{url}");
            assert_eq!((&*target.authority, &*target.path, target.tls), ("localhost", path, false), "{url}");
        }
        for url in [
            "ws+unix:",
            "ws+unix::/x",
            "ws+unix:/a\0b:/x",
            "ws+unix:/a:/b c",
            "wss+unix:/a:/x",
            "ws+unix:/a:/x#y",
        ] {
            Target::parse(url).expect_err(url);
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
            let Target { tls: t, endpoint: e, authority: a, path: q, .. } = &target;
            let endpoint = Endpoint::Host(host.to_owned(), port);
            assert_eq!((*t, e, a.as_str(), q.as_str()), (tls, &endpoint, authority, path), "{url}");
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
            assert_eq!(target.endpoint, Endpoint::Host("example.com".to_owned(), 81));
            assert_eq!((&*target.authority, &*target.path), ("example.com:81", "/a?b"));
            let shown = format!("{target:?} {authorization:?}");
            assert!(!shown.contains("esame") && !shown.contains("Basic") && !shown.contains("?b"), "{shown}");
        }
        assert_eq!(Target::parse("ws://@example.com").expect("no user").authorization, None);
    }
}
