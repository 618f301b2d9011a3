//! The PROXY protocol, versions 1 and 2, by `haproxy/doc/proxy-protocol.txt`. A proxy that only forwards bytes sends one
//! header before them, with the address of its client. Sections below are of that document.
//!
//! Headers of HTTP proxies are in `forwarded.rs`.

use super::Refusal;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// §2.1: the longest line of version 1, with its CRLF.
const MAX_LINE: usize = 107;
/// §2.2: the first bytes of version 2. No other protocol begins with these.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of signature, version and command, family, and length.
const FIXED: usize = 16;
/// The longest rest of a header of version 2: addresses, and extensions (TLVs), which are skipped. Load balancers send
/// about 100 bytes of extensions.
pub(crate) const MAX_REST: usize = 2048;

const MISSING: Refusal = Refusal::bad_request("a PROXY header is expected first");
const MALFORMED: Refusal = Refusal::bad_request("malformed PROXY header");
const TOO_LONG: Refusal = Refusal::bad_request("PROXY header too long");

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    /// Its length in bytes.
    pub(crate) len: usize,
    /// The address of the proxy's client. `None` if the proxy connects for itself, or if the address is not an IP address.
    pub(crate) source: Option<IpAddr>,
}

/// Parses the first bytes of a connection. Returns `None` until the header is complete, and an error at the first byte that
/// cannot be right.
pub(crate) fn scan(bytes: &[u8]) -> Result<Option<ProxyHeader>, Refusal> {
    const LINE_START: &[u8] = b"PROXY ";
    match bytes.first() {
        None => Ok(None),
        Some(b'P') if is_start(bytes, LINE_START) => line(bytes),
        Some(b'\r') if is_start(bytes, SIGNATURE) => binary(bytes),
        Some(_) => Err(MISSING),
    }
}

/// Returns whether `bytes` and `start` are equal, up to the end of the shorter one.
fn is_start(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(one, other)| one == other)
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`.
fn line(bytes: &[u8]) -> Result<Option<ProxyHeader>, Refusal> {
    let seen = bytes.get(..MAX_LINE).unwrap_or(bytes);
    // A lone CR or LF does not end a line, and cannot be in a line.
    let end = seen.iter().position(|byte| b"\r\n\0".contains(byte));
    let (line, behind) = seen.split_at_checked(end.unwrap_or(seen.len())).unwrap_or((seen, &[]));
    match behind {
        [b'\r', b'\n', ..] => {}
        [] | [b'\r'] if seen.len() < MAX_LINE => return Ok(None),
        [] | [b'\r'] => return Err(TOO_LONG),
        _ => return Err(MALFORMED),
    }
    let text = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
    let source = if text == "PROXY UNKNOWN" || text.starts_with("PROXY UNKNOWN ") {
        // §2.1: "the receiver must ignore anything presented before the CRLF is found."
        None
    } else {
        Some(tcp(text).ok_or(MALFORMED)?)
    };
    Ok(Some(ProxyHeader { len: line.len() + 2, source }))
}

/// Parses the words of version 1, which have exactly one space between them.
fn tcp(text: &str) -> Option<IpAddr> {
    let mut words = text.split(' ').skip(1);
    let family = words.next()?;
    let (source, destination) = (words.next()?, words.next()?);
    let source: IpAddr = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            source.parse::<Ipv4Addr>().ok()?.into()
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            source.parse::<Ipv6Addr>().ok()?.into()
        }
        _ => return None,
    };
    let ports_are_ports = is_port(words.next()?) && is_port(words.next()?);
    (ports_are_ports && words.next().is_none()).then_some(source.to_canonical())
}

/// §2.1: a decimal number "without heading zeroes".
fn is_port(text: &str) -> bool {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0')) && text.parse::<u16>().is_ok()
}

/// Version 2. Only the source address is read, and extensions are skipped.
fn binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, Refusal> {
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        // §2.2: "Receivers MUST drop connections" of other versions and commands.
        Some(_) => return Err(MALFORMED),
    };
    // The length of the addresses of this family and protocol.
    let addresses = match bytes.get(13) {
        None => return Ok(None),
        // §2.2: with the command LOCAL, the family "is ignored".
        Some(_) if is_local => 0,
        Some(0x00) => 0,
        Some(0x11 | 0x12) => 12,
        Some(0x21 | 0x22) => 36,
        Some(0x31 | 0x32) => 216,
        Some(_) => return Err(MALFORMED),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > MAX_REST {
        return Err(TOO_LONG);
    }
    if rest < addresses {
        return Err(MALFORMED);
    }
    let Some(rest) = bytes.get(FIXED..FIXED + rest) else { return Ok(None) };
    let source = match addresses {
        12 => rest.first_chunk::<4>().map(|ip| IpAddr::from(*ip)),
        36 => rest.first_chunk::<16>().map(|ip| IpAddr::from(*ip).to_canonical()),
        _ => None,
    };
    Ok(Some(ProxyHeader { len: FIXED + rest.len(), source }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        v2_announcing(command, family, rest.len(), rest)
    }

    fn v2_announcing(command: u8, family: u8, announced: usize, rest: &[u8]) -> Vec<u8> {
        let announced = u16::try_from(announced).expect("a length of two bytes");
        [SIGNATURE.as_slice(), &[command, family], &announced.to_be_bytes(), rest].concat()
    }

    fn inet(tlvs: usize) -> Vec<u8> {
        [&[192, 0, 2, 1, 198, 51, 100, 1, 220, 4, 1, 187][..], &vec![0xee; tlvs]].concat()
    }

    fn inet6(source: &str) -> Vec<u8> {
        let ip: Ipv6Addr = source.parse().expect("an address");
        [&ip.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[220, 4, 1, 187]].concat()
    }

    /// Scans the bytes at once, and one by one. The verdict is the same, and a header is not complete before its last byte.
    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Option<&str>, Refusal>) {
        let expected = expected.map(|source| source.map(|ip| ip.parse::<IpAddr>().expect("an address")));
        let behind = b"GET / HTTP/1.1\r\n";
        let whole = [bytes, behind].concat();
        let shown = bytes.escape_ascii().to_string();
        match (scan(&whole), expected) {
            (Ok(Some(header)), Ok(source)) => {
                assert_eq!((header.source, header.len), (source, bytes.len()), "{shown}");
                for cut in 0..bytes.len() {
                    assert_eq!(scan(&bytes[..cut]), Ok(None), "{shown} cut at {cut}");
                }
                assert_eq!(scan(bytes), Ok(Some(header)), "{shown} alone");
            }
            (Err(found), Err(refusal)) => {
                assert_eq!(found, refusal, "{shown}");
                let first = (0..=whole.len()).find(|cut| scan(&whole[..*cut]) != Ok(None));
                let first = first.expect("it is refused in the end");
                assert!((first..=whole.len()).all(|cut| scan(&whole[..cut]).is_err()), "{shown}");
            }
            (found, expected) => panic!("{shown}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn version_1_gives_the_source_address() {
        let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 16));
        assert_eq!((longest.len(), unknown.len()), (104, MAX_LINE));
        let rows: &[(&str, Option<&str>)] = &[
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some("192.0.2.1")),
            ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", Some("255.255.255.255")),
            ("PROXY TCP6 2001:db8::1 ::1 56324 443\r\n", Some("2001:db8::1")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some("192.0.2.1")),
            (longest, Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
            ("PROXY UNKNOWN what ever\r\n", None),
            (&unknown, None),
        ];
        for (line, source) in rows {
            check(line.as_bytes(), Ok(*source));
        }
    }

    #[test]
    fn malformed_version_1_is_refused() {
        let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 15));
        let endless = format!("PROXY TCP4 {}", "1".repeat(1000));
        for line in [&too_long, &endless] {
            check(line.as_bytes(), Err(TOO_LONG));
        }
        let rows = [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1\r\n",
            "PROXY TCP4\r\n",
            "PROXY \r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4\t192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1:1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 [2001:db8::1] ::1 56324 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 0443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1  443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN \0\n\r\n",
        ];
        for line in rows {
            check(line.as_bytes(), Err(MALFORMED));
        }
        check(b"PROXY UNKNOWN \xff\r\n", Err(MALFORMED));
    }

    #[test]
    fn other_input_is_refused_at_the_first_wrong_byte() {
        for (bytes, known_at) in [
            ("GET / HTTP/1.1\r\n", 1),
            ("POST / HTTP/1.1\r\n", 2),
            ("PROXY\t", 6),
            ("proxy ", 1),
            ("\r\n\r\nGET", 5),
        ] {
            let bytes = bytes.as_bytes();
            assert_eq!(scan(&bytes[..known_at - 1]), Ok(None));
            assert_eq!(scan(&bytes[..known_at]), Err(MISSING));
            check(bytes, Err(MISSING));
        }
        assert_eq!(scan(b""), Ok(None));
    }

    #[test]
    fn version_2_gives_the_source_address_and_extensions_are_skipped() {
        let unix = vec![b'/'; 216];
        check(&v2(0x21, 0x11, &inet(0)), Ok(Some("192.0.2.1")));
        check(&v2(0x21, 0x12, &inet(0)), Ok(Some("192.0.2.1")));
        check(&v2(0x21, 0x11, &inet(7)), Ok(Some("192.0.2.1")));
        check(&v2(0x21, 0x11, &inet(MAX_REST - 12)), Ok(Some("192.0.2.1")));
        check(&v2(0x21, 0x21, &inet6("2001:db8::1")), Ok(Some("2001:db8::1")));
        check(&v2(0x21, 0x22, &inet6("2001:db8::1")), Ok(Some("2001:db8::1")));
        check(&v2(0x21, 0x21, &inet6("::ffff:192.0.2.1")), Ok(Some("192.0.2.1")));
        check(&v2(0x21, 0x31, &unix), Ok(None));
        check(&v2(0x21, 0x32, &unix), Ok(None));
        check(&v2(0x21, 0x00, &[]), Ok(None));
        check(&v2(0x21, 0x00, &[1; 20]), Ok(None));
        // A health check of the proxy itself, whatever its family and addresses.
        check(&v2(0x20, 0x00, &[]), Ok(None));
        check(&v2(0x20, 0x11, &inet(0)), Ok(None));
        check(&v2(0x20, 0xff, &[1, 2, 3]), Ok(None));
    }

    #[test]
    fn malformed_version_2_is_refused() {
        for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
            check(&v2(command, 0x11, &inet(0)), Err(MALFORMED));
        }
        for family in [0x01, 0x02, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41, 0xff] {
            check(&v2(0x21, family, &[0; 216]), Err(MALFORMED));
        }
        for (family, short) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x22, 12), (0x31, 215), (0x32, 0)] {
            check(&v2(0x21, family, &vec![1; short]), Err(MALFORMED));
        }
        for too_long in [MAX_REST + 1, usize::from(u16::MAX)] {
            check(&v2_announcing(0x21, 0x11, too_long, &[]), Err(TOO_LONG));
            check(&v2_announcing(0x20, 0x00, too_long, &[]), Err(TOO_LONG));
        }
    }
}
