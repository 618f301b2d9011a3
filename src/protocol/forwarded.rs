//! The client's address behind proxies: the rightmost address in the header that is not a trusted proxy.
//!
//! Every proxy appends the address of its own client. So the entry on the right was written by the nearest proxy, and the
//! client itself can have written the entries on the left. Therefore the header is read from the right, up to the first
//! entry that cannot be trusted or parsed. The PROXY protocol is in `proxy_header.rs`.

use super::trim_ows;
use crate::addr::Addr;
use crate::error::{Error, Result};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use ipnet::{IpNet, Ipv4Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header to which trusted proxies append the client's address. The other header is ignored, because a proxy that
/// appends to one of them forwards the other unchanged from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, which nearly all proxies write.
    #[default]
    XForwardedFor,
    /// `Forwarded`, as RFC 7239 standardised it.
    Forwarded,
}

/// The proxies that are believed about a client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TrustedProxies {
    /// Every peer, so the leftmost address wins. Any client can then claim any address.
    Any,
    /// Peers with an address in one of these blocks, and Unix sockets if `unix` is set.
    Listed { blocks: Vec<IpNet>, unix: bool },
}

/// Loopback: a proxy on the same machine.
impl Default for TrustedProxies {
    fn default() -> Self {
        let mut trust = Self::none();
        trust.add_loopback();
        trust
    }
}

impl TrustedProxies {
    pub(crate) fn none() -> Self {
        Self::Listed { blocks: Vec::new(), unix: false }
    }

    /// Adds an address, a CIDR block, `loopback`, `unix`, or `none`, which adds nothing.
    pub(crate) fn add(&mut self, what: &str) -> Result<()> {
        let block = match what.trim() {
            "none" => return Ok(()),
            // Trusting everyone needs a method call. A word in a configuration file is not enough.
            "any" => {
                return Err(Error::invalid(
                    "trusted proxy \"any\": to trust every peer, call trust_any_proxy",
                ));
            }
            "loopback" => {
                self.add_loopback();
                return Ok(());
            }
            "unix" => {
                if let Self::Listed { unix, .. } = self {
                    *unix = true;
                }
                return Ok(());
            }
            what => what.parse::<IpNet>().ok().or_else(|| what.parse::<IpAddr>().ok().map(IpNet::from)),
        };
        let Some(block) = block else {
            return Err(Error::invalid(format!(
                "trusted proxy {what:?}: not an IP address, a CIDR block, \"loopback\", \"unix\" or \"none\""
            )));
        };
        self.push(canonical(block));
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::none()
    }

    fn add_loopback(&mut self) {
        // RFC 1122 §3.2.1.3 and RFC 4291 §2.5.3.
        self.push(IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        if let Ok(block) = IpNet::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8) {
            self.push(block);
        }
    }

    fn push(&mut self, block: IpNet) {
        if let Self::Listed { blocks, .. } = self {
            blocks.push(block);
        }
    }

    /// Returns whether the headers of this peer are trusted.
    pub(crate) fn contains(&self, addr: Addr) -> bool {
        match self {
            Self::Any => true,
            Self::Listed { blocks, unix } => addr.ip().map_or(*unix, |ip| {
                let ip = ip.to_canonical();
                blocks.iter().any(|block| block.contains(&ip))
            }),
        }
    }
}

/// Converts a block of v4-mapped addresses (`::ffff:10.0.0.0/104`) to IPv4, because addresses are compared as IPv4.
fn canonical(block: IpNet) -> IpNet {
    let mapped = match block {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(ip, prefix)| Ipv4Net::new(ip, prefix).ok()).map_or(block, IpNet::V4)
}

/// Returns the address of the client behind `peer`, the socket's other end. It has no port.
///
/// The time is linear in the size of the header, which is limited by the size of the head.
pub(crate) fn client_addr(
    peer: Addr,
    headers: &HeaderMap,
    trust: &TrustedProxies,
    header: ForwardedHeader,
) -> Addr {
    let peer = peer.without_port();
    if !trust.contains(peer) {
        return peer;
    }
    match header {
        ForwardedHeader::XForwardedFor => {
            let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
            let entries = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')).map(trim_ows);
            // Empty entries are skipped, because a proxy that appends to an empty header writes ", 192.0.2.1".
            walk(peer, trust, entries.filter(|entry| !entry.is_empty()).map(address))
        }
        ForwardedHeader::Forwarded => {
            let lines = headers.get_all(FORWARDED).iter().rev();
            let entries = lines.flat_map(|line| RSplitUnquoted::new(line.as_bytes(), b',')).map(trim_ows);
            walk(peer, trust, entries.filter(|entry| !entry.is_empty()).map(forwarded_for))
        }
    }
}

/// Follows the hops, the nearest proxy first, and returns the last address that a trusted peer wrote. A malformed entry ends
/// the walk.
fn walk(peer: Addr, trust: &TrustedProxies, hops: impl Iterator<Item = Option<IpAddr>>) -> Addr {
    let mut client = peer;
    for hop in hops {
        let Some(hop) = hop else { break };
        client = Addr::Ip(hop);
        if !trust.contains(client) {
            break;
        }
    }
    client
}

/// Parses an address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let ip = if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']')?;
        if !rest.is_empty() && !rest.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        IpAddr::V6(ip.parse().ok()?)
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        ip
    } else {
        let (ip, port) = text.split_once(':')?;
        if !is_port(port) {
            return None;
        }
        IpAddr::V4(ip.parse().ok()?)
    };
    Some(ip.to_canonical())
}

/// RFC 7239 §6: a port is a number, or `_` and an obfuscated name.
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(super::is_tchar),
        None => {
            !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        }
    }
}

/// Returns the address in one element of `Forwarded` (RFC 7239 §4). `unknown`, `_obfuscated` (§6.2, §6.3) and an element
/// without `for` have none.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for pair in RSplitUnquoted::new(element, b';').map(trim_ows) {
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
        if name.eq_ignore_ascii_case(b"for") {
            // §4: "Each parameter MUST NOT occur more than once per field-value."
            if found.replace(value).is_some() {
                return None;
            }
        }
    }
    // A quoted address needs no escapes, so one with a backslash is malformed.
    match found? {
        [b'"', quoted @ .., b'"'] => address(quoted),
        token => address(token),
    }
}

/// Splits from the right at a separator that is not in a quoted string (RFC 9110 §5.6.4).
///
/// It starts at the right, because otherwise an unbalanced quote from the client could hide the entry of a proxy.
struct RSplitUnquoted<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> RSplitUnquoted<'a> {
    fn new(text: &'a [u8], separator: u8) -> Self {
        Self { rest: Some(text), separator }
    }
}

impl<'a> Iterator for RSplitUnquoted<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.rest?;
        let mut quoted = false;
        for (at, &byte) in text.iter().enumerate().rev() {
            if byte == b'"' {
                // The quote is escaped if the number of backslashes before it is odd. Each backslash is counted once.
                let escapes = text.iter().take(at).rev().take_while(|&&byte| byte == b'\\').count();
                quoted ^= !quoted || escapes % 2 == 0;
            } else if byte == self.separator && !quoted {
                self.rest = text.get(..at);
                return text.get(at + 1..);
            }
        }
        self.rest = None;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::noise::Noise;
    use ForwardedHeader::{Forwarded, XForwardedFor};
    use http::HeaderValue;

    fn trust(what: &[&str]) -> TrustedProxies {
        let mut trust = if what.contains(&"any") { TrustedProxies::Any } else { TrustedProxies::none() };
        for what in what.iter().filter(|what| **what != "any") {
            trust.add(what).expect(what);
        }
        trust
    }

    fn ip_of(peer: &str, lines: &[&[u8]], trust: &TrustedProxies, header: ForwardedHeader) -> String {
        let name = if header == Forwarded { FORWARDED } else { X_FORWARDED_FOR };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_bytes(line).expect("a header value"));
        }
        let peer = if peer == "unix" { Addr::Unix } else { Addr::Ip(peer.parse().expect("an address")) };
        client_addr(peer, &headers, trust, header).to_string()
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_a_trusted_proxy() {
        let rows: &[(&str, &[&str], &[&str], &str)] = &[
            // peer, trusted, lines, client
            ("127.0.0.1", &["loopback"], &["203.0.113.9"], "203.0.113.9"),
            ("::1", &["loopback"], &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:127.0.0.1", &["loopback"], &["203.0.113.9"], "203.0.113.9"),
            ("127.9.9.9", &["loopback"], &["203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["loopback"], &[], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &[""], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &[" , ,"], "127.0.0.1"),
            // The header of an untrusted peer is ignored.
            ("198.51.100.7", &["loopback"], &["203.0.113.9"], "198.51.100.7"),
            ("::ffff:198.51.100.7", &["loopback"], &["203.0.113.9"], "198.51.100.7"),
            ("127.0.0.1", &["none"], &["203.0.113.9"], "127.0.0.1"),
            // The entries of the client are on the left of the proxy's entry.
            ("127.0.0.1", &["loopback"], &["10.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["loopback"], &["10.0.0.1", "203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9, 127.0.0.1"], "203.0.113.9"),
            ("127.0.0.1", &["loopback"], &[", 203.0.113.9"], "203.0.113.9"),
            (
                "127.0.0.1",
                &["loopback", "10.0.0.0/8"],
                &["1.1.1.1, 203.0.113.9,10.1.2.3\t,10.0.0.4"],
                "203.0.113.9",
            ),
            (
                "127.0.0.1",
                &["loopback", "10.0.0.0/8"],
                &["1.1.1.1", "203.0.113.9, 10.1.2.3", "10.4.5.6"],
                "203.0.113.9",
            ),
            // Listing a block replaces loopback only if the caller starts from `none`.
            ("127.0.0.1", &["10.0.0.0/8"], &["203.0.113.9"], "127.0.0.1"),
            // If all are trusted, it is the leftmost.
            ("127.0.0.1", &["loopback", "10.0.0.0/8"], &["10.0.0.9, 10.0.0.8"], "10.0.0.9"),
            // A malformed entry ends the walk at the last trusted hop.
            ("127.0.0.1", &["loopback"], &["unknown"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9, bogus"], "127.0.0.1"),
            ("127.0.0.1", &["loopback", "10.0.0.0/8"], &["203.0.113.9, bogus, 10.0.0.2"], "10.0.0.2"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9 203.0.113.8"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["010.0.0.1"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["1.2.3"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["16909060"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["\"203.0.113.9\""], "127.0.0.1"),
            // Ports, brackets, IPv6, mapped IPv4.
            ("127.0.0.1", &["loopback"], &["203.0.113.9:5678"], "203.0.113.9"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9:56780"], "203.0.113.9"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9:567800"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9:"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9:+80"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["loopback"], &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1", &["loopback"], &["[2001:db8::1]:80"], "2001:db8::1"),
            ("127.0.0.1", &["loopback"], &["[2001:db8::1]80"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["[2001:db8::1"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["[203.0.113.9]"], "127.0.0.1"),
            ("127.0.0.1", &["loopback"], &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["loopback"], &["203.0.113.9, ::ffff:127.0.0.1"], "203.0.113.9"),
            ("10.1.1.1", &["::ffff:10.0.0.0/104"], &["203.0.113.9"], "203.0.113.9"),
            ("2001:db8:7::1", &["2001:db8::/32"], &["203.0.113.9"], "203.0.113.9"),
            ("192.0.2.4", &["192.0.2.4"], &["203.0.113.9"], "203.0.113.9"),
            ("192.0.2.5", &["192.0.2.4"], &["203.0.113.9"], "192.0.2.5"),
            // A Unix socket has no address: only "unix" trusts it.
            ("unix", &["unix"], &["203.0.113.9"], "203.0.113.9"),
            ("unix", &["unix", "loopback"], &["1.1.1.1, 203.0.113.9, 127.0.0.1"], "203.0.113.9"),
            ("unix", &["unix"], &["1.1.1.1, 203.0.113.9, 127.0.0.1"], "127.0.0.1"),
            ("unix", &["unix"], &[], "unix socket"),
            ("unix", &["unix"], &["unknown"], "unix socket"),
            ("unix", &["loopback"], &["203.0.113.9"], "unix socket"),
            ("unix", &["none"], &["203.0.113.9"], "unix socket"),
            ("unix", &["0.0.0.0/0", "::/0"], &["203.0.113.9"], "unix socket"),
            ("127.0.0.1", &["unix"], &["203.0.113.9"], "127.0.0.1"),
            ("unix", &["any"], &["203.0.113.9"], "203.0.113.9"),
            // With `any`, it is the leftmost before a malformed entry.
            ("198.51.100.7", &["any"], &["192.0.2.1, 203.0.113.9"], "192.0.2.1"),
            ("198.51.100.7", &["any"], &["unknown, 203.0.113.9"], "203.0.113.9"),
            ("198.51.100.7", &["any"], &[], "198.51.100.7"),
            ("198.51.100.7", &["any", "10.0.0.0/8"], &["192.0.2.1"], "192.0.2.1"),
        ];
        for (peer, trusted, lines, client) in rows {
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(
                ip_of(peer, &lines, &trust(trusted), XForwardedFor),
                *client,
                "{peer} {trusted:?} {lines:?}"
            );
        }
    }

    #[test]
    fn forwarded_is_parsed_by_rfc_7239() {
        let rows: &[(&[&str], &str)] = &[
            (&["for=192.0.2.43"], "192.0.2.43"),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60"),
            (&["by=203.0.113.43 ; FOR=192.0.2.60 ;proto=https"], "192.0.2.60"),
            (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17"),
            (&["for=192.0.2.43", "for=198.51.100.17"], "198.51.100.17"),
            (&["for=192.0.2.43, for=127.0.0.1"], "192.0.2.43"),
            (&["for=\"192.0.2.43:47011\""], "192.0.2.43"),
            (&["for=\"192.0.2.43:_obf\""], "192.0.2.43"),
            (&["for=192.0.2.43;ext=\"a,b;for=1.1.1.1\""], "192.0.2.43"),
            (&["for=192.0.2.43;ext=\"a\\\",for=1.1.1.1\""], "192.0.2.43"),
            // Without an address, it is the last trusted hop.
            (&["for=unknown"], "127.0.0.1"),
            (&["for=_hidden"], "127.0.0.1"),
            (&["for=192.0.2.43, for=_hidden"], "127.0.0.1"),
            (&["proto=https"], "127.0.0.1"),
            (&["for=192.0.2.43;for=192.0.2.44"], "127.0.0.1"),
            (&["192.0.2.43"], "127.0.0.1"),
            (&["for=\"192.0.2.43"], "127.0.0.1"),
            (&["for="], "127.0.0.1"),
            (&["for=\"\""], "127.0.0.1"),
            (&["for=\""], "127.0.0.1"),
            // An open quote of the client does not hide the entry of the proxy.
            (&["for=1.1.1.1;x=\", for=203.0.113.9"], "203.0.113.9"),
            (&["for=1.1.1.1;x=\", for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            (&["for=1.1.1.1;x=\"\\, for=\"203.0.113.9\""], "203.0.113.9"),
        ];
        for (lines, client) in rows {
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(
                ip_of("127.0.0.1", &lines, &TrustedProxies::default(), Forwarded),
                *client,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn only_the_configured_header_is_believed() {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.1"));
        headers.insert(FORWARDED, HeaderValue::from_static("for=192.0.2.2"));
        let peer = Addr::Ip(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(
            client_addr(peer, &headers, &TrustedProxies::default(), XForwardedFor).to_string(),
            "192.0.2.1"
        );
        assert_eq!(
            client_addr(peer, &headers, &TrustedProxies::default(), Forwarded).to_string(),
            "192.0.2.2"
        );
    }

    #[test]
    fn an_invalid_trusted_proxy_is_an_error() {
        for what in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.0/8,10.1.0.0/16",
            "::1/129",
            "Any",
            "Unix",
            "\n",
        ] {
            let error = TrustedProxies::none().add(what).expect_err(what).to_string();
            assert!(error.contains(&format!("{what:?}")), "{error}");
        }
        let error = TrustedProxies::none().add(" any ").expect_err("any").to_string();
        assert!(error.contains("trust_any_proxy"), "{error}");
    }

    #[test]
    fn no_header_can_make_it_panic_or_slow() {
        let words = [
            "for=", "\"", "\\", ",", ";", "[", "]", ":", "::1", "10.0.0.1", "80", "_x", "unknown", " ", "=",
            "\t",
        ];
        for seed in 0..3000 {
            let mut noise = Noise::new(seed);
            let mut line = noise.text(&words, 60);
            line.retain(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f));
            for header in [XForwardedFor, Forwarded] {
                for trust in [TrustedProxies::Any, TrustedProxies::default()] {
                    ip_of("127.0.0.1", &[&line, &line], &trust, header);
                }
            }
        }
        for word in ["\\", "\"", ",", ";", "\\\"", "for=127.0.0.1,", "for=\"127.0.0.1\",", "127.0.0.1,"] {
            // Without a clock, because `protocol` has none: a walk that is not linear would take hours.
            let line = word.repeat(1 << 18);
            for header in [XForwardedFor, Forwarded] {
                ip_of("127.0.0.1", &[line.as_bytes()], &TrustedProxies::default(), header);
            }
        }
    }
}
