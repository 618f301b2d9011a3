//! The check of the `Origin` header: which web pages can connect (RFC 6455 §10.2).
//!
//! Browsers let every page open a WebSocket to every host. Without this check, any page could connect to a server on the
//! machine of its reader.

use super::is_reg_name;
use crate::error::{Error, Result};
use core::net::Ipv6Addr;
use http::HeaderMap;
use http::header::{HOST, ORIGIN};

/// A host and an optional port, as in `Host`, in a URL and in an origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses RFC 3986 §3.2 without user information, which neither a `Host` nor an origin has.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let end = match text.strip_prefix('[') {
            Some(literal) => {
                let (address, _) = literal.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                address.len() + 2
            }
            None => text.bytes().position(|byte| byte == b':').unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at_checked(end)?;
        let port = match rest.strip_prefix(':') {
            // RFC 3986 §3.2.3: an empty port is the default port.
            Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
            None if rest.is_empty() => None,
            None => return None,
        };
        let valid = host.starts_with('[') || (!host.is_empty() && host.bytes().all(is_reg_name));
        valid.then_some(Self { host, port })
    }

    fn same(&self, other: &Self, default_port: Option<u16>) -> bool {
        self.port.or(default_port) == other.port.or(default_port) && same_host(self.host, other.host)
    }
}

fn same_host(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || ipv6(a).is_some_and(|ip| ipv6(b) == Some(ip))
}

fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// RFC 6454 §6.2: `scheme "://" host [":" port]`, of any scheme.
#[derive(Debug, Clone, Copy)]
struct Origin<'a> {
    scheme: &'a str,
    authority: Authority<'a>,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (scheme, authority) = std::str::from_utf8(text).ok()?.split_once("://")?;
        let mut bytes = scheme.bytes();
        // RFC 3986 §3.1.
        let valid = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        let authority = Authority::parse(authority.as_bytes())?;
        valid.then_some(Self { scheme, authority })
    }

    /// Returns the default port of the scheme. Other schemes have none, because their pages are not from a web server.
    fn default_port(&self) -> Option<u16> {
        let is = |scheme| self.scheme.eq_ignore_ascii_case(scheme);
        if is("http") || is("ws") {
            Some(80)
        } else if is("https") || is("wss") {
            Some(443)
        } else {
            None
        }
    }

    /// Returns whether the page is from the host that it now connects to. The schemes are not compared, because TLS can end
    /// at a proxy. The scheme only gives the default port.
    fn is_of(&self, host: &[u8]) -> bool {
        let Some(host) = Authority::parse(host) else { return false };
        let default = self.default_port();
        default.is_some() && self.authority.same(&host, default)
    }

    fn matches(&self, pattern: &Self) -> bool {
        if !self.scheme.eq_ignore_ascii_case(pattern.scheme) {
            return false;
        }
        let default = self.default_port();
        match pattern.authority.host.strip_prefix('*') {
            None => self.authority.same(&pattern.authority, default),
            Some(suffix) => {
                // `suffix` starts with a dot, so `evilexample.com` does not match `*.example.com`.
                let host = self.authority.host;
                let tail =
                    host.len().checked_sub(suffix.len()).filter(|&at| at > 0).and_then(|at| host.get(at..));
                tail.is_some_and(|tail| tail.eq_ignore_ascii_case(suffix))
                    && self.authority.port.or(default) == pattern.authority.port.or(default)
            }
        }
    }
}

/// The origins that can connect, in addition to pages from the server's own host.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowedOrigins {
    any: bool,
    /// Checked by [`AllowedOrigins::allow`].
    allowed: Vec<String>,
}

impl AllowedOrigins {
    pub(crate) fn allow_any(&mut self) {
        self.any = true;
    }

    /// Adds `https://example.com`, `https://*.example.com` (every subdomain, but not `example.com`), or `null`.
    pub(crate) fn allow(&mut self, origin: &str) -> Result<()> {
        let wrong = |why: &str| Err(Error::invalid(format!("allowed origin {origin:?}: {why}")));
        if origin == "*" {
            return wrong("to allow every page, call allow_any_origin");
        }
        if origin != "null" {
            let Some(parsed) = Origin::parse(origin.as_bytes()) else {
                return wrong("not of the form scheme://host or scheme://host:port");
            };
            let host = parsed.authority.host;
            let suffix = host.strip_prefix("*.").unwrap_or(host);
            if suffix.is_empty() || suffix.starts_with('.') || suffix.contains('*') {
                return wrong(
                    "\"*\" is only possible as the first label of a host, as in https://*.example.com",
                );
            }
        }
        self.allowed.push(origin.to_owned());
        Ok(())
    }

    /// Returns whether a request can pass: it has no `Origin`, because it is not from a browser, or its origin is the
    /// request's host, or is allowed.
    ///
    /// `host` is the authority of the request target, if that was absolute.
    pub(crate) fn admit(&self, headers: &HeaderMap, host: Option<&str>) -> bool {
        if self.any {
            return true;
        }
        let mut lines = headers.get_all(ORIGIN).iter();
        let (origin, second) = (lines.next(), lines.next());
        let Some(origin) = origin else { return true };
        if second.is_some() {
            return false;
        }
        let origin = origin.as_bytes();
        if origin == b"null" {
            return self.allowed.iter().any(|allowed| allowed == "null");
        }
        // RFC 6454 §7.1 allows several origins in one header. No browser sends that, and it is refused here.
        let Some(origin) = Origin::parse(origin) else { return false };
        // RFC 9112 §3.2.2: the authority of the target replaces the Host header.
        let host = host.map(str::as_bytes).or_else(|| {
            let mut lines = headers.get_all(HOST).iter();
            lines.next().filter(|_| lines.next().is_none()).map(http::HeaderValue::as_bytes)
        });
        host.is_some_and(|host| origin.is_of(host))
            || self
                .allowed
                .iter()
                .filter_map(|a| Origin::parse(a.as_bytes()))
                .any(|allowed| origin.matches(&allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::noise::Noise;
    use http::HeaderValue;

    fn admits(origins: &AllowedOrigins, origin: &[&[u8]], host: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_bytes(host).expect("a host"));
        for origin in origin {
            headers.append(ORIGIN, HeaderValue::from_bytes(origin).expect("an origin"));
        }
        origins.admit(&headers, None)
    }

    #[test]
    fn by_default_only_pages_of_the_same_host_may_connect() {
        let rows: &[(&str, &str, bool)] = &[
            ("http://example.com", "example.com", true),
            ("https://example.com", "example.com", true),
            ("http://EXAMPLE.com", "example.COM", true),
            ("http://example.com:8005", "example.com:8005", true),
            ("http://example.com:80", "example.com", true),
            ("http://example.com", "example.com:80", true),
            ("http://example.com", "example.com:", true),
            ("https://example.com", "example.com:443", true),
            ("https://example.com:443", "example.com", true),
            ("http://127.0.0.1:8005", "127.0.0.1:8005", true),
            ("http://[::1]:8005", "[::1]:8005", true),
            ("http://[::1]", "[0:0::1]", true),
            ("http://localhost:3000", "localhost:8005", false),
            ("http://example.com", "example.com:443", false),
            ("https://example.com", "example.com:80", false),
            ("https://example.com:8443", "example.com", false),
            ("http://evil.com", "example.com", false),
            ("http://example.com.evil.com", "example.com", false),
            ("http://evilexample.com", "example.com", false),
            ("http://sub.example.com", "example.com", false),
            ("http://example.com@evil.com", "example.com", false),
            ("http://evil.com@example.com", "example.com", false),
            ("http://127.0.0.1", "localhost", false),
            ("http://2130706433", "127.0.0.1", false),
            ("http://192.168.0.1:8005", "127.0.0.1:8005", false),
            ("null", "example.com", false),
            ("", "example.com", false),
            ("example.com", "example.com", false),
            ("http://", "example.com", false),
            ("http://example.com/", "example.com", false),
            ("http://example.com http://evil.com", "example.com", false),
            ("http://example.com:99999", "example.com:99999", false),
            ("file://", "example.com", false),
            ("chrome-extension://example.com", "example.com", false),
            ("http://example.com\u{e9}", "example.com\u{e9}", false),
            ("http://example.com", "", false),
        ];
        for (origin, host, admitted) in rows {
            let origins = AllowedOrigins::default();
            assert_eq!(
                admits(&origins, &[origin.as_bytes()], host.as_bytes()),
                *admitted,
                "{origin} at {host}"
            );
        }
        assert!(
            admits(&AllowedOrigins::default(), &[], b"example.com"),
            "a client that is not a browser sends no origin"
        );
        let twice: &[&[u8]] = &[b"http://example.com", b"http://example.com"];
        assert!(!admits(&AllowedOrigins::default(), twice, b"example.com"));
    }

    #[test]
    fn an_absolute_target_replaces_the_host_header() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("evil.com"));
        headers.insert(ORIGIN, HeaderValue::from_static("http://evil.com"));
        assert!(AllowedOrigins::default().admit(&headers, None));
        assert!(!AllowedOrigins::default().admit(&headers, Some("example.com")));
    }

    #[test]
    fn an_allowed_origin_passes_and_similar_ones_do_not() {
        let mut origins = AllowedOrigins::default();
        for allowed in
            ["https://example.com", "https://*.example.org", "http://localhost:3000", "tauri://localhost"]
        {
            origins.allow(allowed).expect(allowed);
        }
        let rows: &[(&str, bool)] = &[
            ("https://example.com", true),
            ("HTTPS://Example.COM:443", true),
            ("http://example.com", false),
            ("https://example.com:8443", false),
            ("https://www.example.com", false),
            ("https://a.example.org", true),
            ("https://a.b.Example.org", true),
            ("https://a.example.org:443", true),
            ("https://a.example.org:444", false),
            ("http://a.example.org", false),
            ("https://example.org", false),
            ("https://.example.org", false),
            ("https://evilexample.org", false),
            ("https://a.example.org.evil.com", false),
            ("http://localhost:3000", true),
            ("http://localhost", false),
            ("tauri://localhost", true),
            ("null", false),
            ("http://own.host", true),
        ];
        for (origin, admitted) in rows {
            assert_eq!(admits(&origins, &[origin.as_bytes()], b"own.host"), *admitted, "{origin}");
        }
        origins.allow("null").expect("null is an origin");
        assert!(admits(&origins, &[b"null"], b"own.host"));
    }

    #[test]
    fn allow_any_accepts_every_origin() {
        let mut origins = AllowedOrigins::default();
        origins.allow_any();
        for origin in [&b"null"[..], b"http://evil.com", b"\xff", b""] {
            assert!(admits(&origins, &[origin], b"example.com"));
        }
    }

    #[test]
    fn an_origin_that_could_never_match_is_refused_by_name() {
        for origin in [
            "*",
            "",
            "example.com",
            "https://",
            "https://*",
            "https://*.",
            "https://*example.com",
            "https://a.*.com",
            "https://*.*.com",
            "https://example.com/",
            "https://example.com:x",
            "://a",
            "https://a b",
        ] {
            let error = AllowedOrigins::default().allow(origin).expect_err(origin).to_string();
            assert!(error.contains(&format!("{origin:?}")), "{error}");
        }
    }

    #[test]
    fn no_origin_and_no_host_can_make_it_panic() {
        let words = [
            "http",
            "s://",
            "://",
            "[",
            "]",
            "::1",
            ":",
            "80",
            "*",
            ".",
            "example.com",
            "null",
            "\u{e9}",
            "@",
        ];
        let mut origins = AllowedOrigins::default();
        origins.allow("https://*.example.com").expect("a pattern");
        for seed in 0..20_000 {
            let mut noise = Noise::new(seed);
            let mut text = || {
                let mut text = noise.text(&words, 8);
                text.retain(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f));
                text
            };
            let (origin, host) = (text(), text());
            admits(&origins, &[&origin], &host);
        }
    }
}
