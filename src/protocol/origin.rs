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
        let authority = Authority::parse(authority.as_bytes())?;
        is_scheme(scheme).then_some(Self { scheme, authority })
    }

    /// Returns whether the page is from the host that it now connects to. The schemes are not compared, because TLS can end
    /// at a proxy. The scheme only gives the default port.
    fn is_of(&self, host: &[u8]) -> bool {
        let Some(host) = Authority::parse(host) else { return false };
        let default = default_port(self.scheme);
        default.is_some() && self.authority.same(&host, default)
    }
}

/// RFC 3986 §3.1.
fn is_scheme(scheme: &str) -> bool {
    let mut bytes = scheme.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Returns the default port of a scheme. Other schemes have none, because their pages are not from a web server.
fn default_port(scheme: &str) -> Option<u16> {
    let is = |name| scheme.eq_ignore_ascii_case(name);
    if is("http") || is("ws") {
        Some(80)
    } else if is("https") || is("wss") {
        Some(443)
    } else {
        None
    }
}

const EVERY_PAGE: &str = "to allow every page, use allow_any_origin, or the option --allow-origin any";
const NOT_AN_ORIGIN: &str =
    "not \"null\", and not of the form scheme://host, which can be followed by a port and a path";
const STAR: &str = "\"*\" can be the scheme, the port, the first labels of the host, or, if the scheme is neither http nor \
                    https, the host; a path cannot contain it";

/// An origin in which `*` stands for every scheme, for every port, for every host, or for the first labels of a host.
#[derive(Debug, Clone)]
struct Pattern {
    scheme: String,
    host: String,
    port: Option<u16>,
    any_port: bool,
}

impl Pattern {
    /// Parses an allowed origin. `None` if a client can only send exactly this value, such as `null`, `file://`, or an
    /// origin with a path.
    fn parse(origin: &str) -> std::result::Result<Option<Self>, &'static str> {
        match origin {
            "null" => return Ok(None),
            "*" => return Err(EVERY_PAGE),
            _ => {}
        }
        let parts = origin.split_once("://").filter(|(scheme, _)| *scheme == "*" || is_scheme(scheme));
        let (scheme, rest) = parts.ok_or(NOT_AN_ORIGIN)?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NOT_AN_ORIGIN);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_web = scheme == "*" || default_port(scheme).is_some();
        if authority.is_empty() && !is_web {
            return if path.contains('*') { Err(STAR) } else { Ok(None) };
        }
        let (authority, any_port) = match authority.strip_suffix(":*") {
            Some(authority) => (authority, true),
            None => (authority, false),
        };
        let Authority { host, port } = Authority::parse(authority.as_bytes()).ok_or(NOT_AN_ORIGIN)?;
        if any_port && host != authority {
            // A second port.
            return Err(NOT_AN_ORIGIN);
        }
        if host == "*" && is_web {
            return Err(EVERY_PAGE);
        }
        let suffix = host.strip_prefix("*.");
        let is_malformed = |suffix: &str| suffix.is_empty() || suffix.starts_with('.');
        if host != "*" && (suffix.unwrap_or(host).contains('*') || suffix.is_some_and(is_malformed)) {
            return Err(STAR);
        }
        match path {
            // A browser sends no slash at the end, but a user may write one.
            "" | "/" => Ok(Some(Self { scheme: scheme.to_owned(), host: host.to_owned(), port, any_port })),
            _ if origin.contains('*') => Err(STAR),
            _ => Ok(None),
        }
    }

    fn matches(&self, origin: &Origin<'_>) -> bool {
        let default = default_port(origin.scheme);
        let host = origin.authority.host;
        (self.scheme == "*" || self.scheme.eq_ignore_ascii_case(origin.scheme))
            && (self.any_port || self.port.or(default) == origin.authority.port.or(default))
            && match self.host.strip_prefix('*') {
                None => same_host(&self.host, host),
                // A suffix starts with a dot, so `evilexample.com` does not match `*.example.com`.
                Some(suffix) => {
                    let start = host.len().checked_sub(suffix.len()).filter(|&start| start > 0);
                    start
                        .and_then(|start| host.get(start..))
                        .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix))
                }
            }
    }
}

/// The origins that can connect, in addition to pages from the server's own host.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowedOrigins {
    any: bool,
    /// The values of the header that are allowed as they are.
    exact: Vec<String>,
    patterns: Vec<Pattern>,
}

impl AllowedOrigins {
    pub(crate) fn allow_any(&mut self) {
        self.any = true;
    }

    /// Adds an origin as `Server::allow_origin` documents it. It fails if no client can send such an origin.
    pub(crate) fn allow(&mut self, origin: &str) -> Result<()> {
        let pattern = Pattern::parse(origin)
            .map_err(|why| Error::invalid(format!("allowed origin {origin:?}: {why}")))?;
        match &pattern {
            Some(pattern) if pattern.host == "*" => self.exact.push(format!("{}://", pattern.scheme)),
            Some(_) if origin.contains('*') => {}
            _ => self.exact.push(origin.to_owned()),
        }
        self.patterns.extend(pattern);
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
        if self.exact.iter().any(|exact| exact.as_bytes() == origin) {
            return true;
        }
        // RFC 6454 §7.1 allows several origins in one header. No browser sends that, and it is refused here.
        let Some(origin) = Origin::parse(origin) else { return false };
        // RFC 9112 §3.2.2: the authority of the target replaces the Host header.
        let host = host.map(str::as_bytes).or_else(|| {
            let mut lines = headers.get_all(HOST).iter();
            lines.next().filter(|_| lines.next().is_none()).map(http::HeaderValue::as_bytes)
        });
        host.is_some_and(|host| origin.is_of(host))
            || self.patterns.iter().any(|pattern| pattern.matches(&origin))
    }
}

#[cfg(test)]
mod tests;
