//! Parses the values of options: durations, sizes, addresses, origins. No I/O.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use threadws::http::{HeaderName, HeaderValue};
use threadws::hub::SlowPeer;

/// The longest duration of an option. A year is short enough that no sum of instants overflows.
const MAX_SECONDS: u64 = 365 * 24 * 60 * 60;

/// Parses `500ms`, `3s`, `1m`, `2h` or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| expected("a duration such as 500ms, 3s or 1m", text))?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60 * 1000),
        "h" => number.checked_mul(60 * 60 * 1000),
        "" if number == 0 => Some(0),
        "" => return Err(format!("{text:?} needs a unit: ms, s, m or h")),
        _ => return Err(format!("unknown unit in {text:?}: ms, s, m or h")),
    };
    match millis {
        Some(millis) if millis <= MAX_SECONDS * 1000 => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{text:?} is longer than a year")),
    }
}

/// Parses a [`duration`]. Zero means off, which is `None`.
pub(crate) fn duration_or_off(text: &str) -> Result<Option<Duration>, String> {
    Ok(Some(duration(text)?).filter(|duration| !duration.is_zero()))
}

/// Parses a [`duration`] that is not zero.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    duration_or_off(text)?.ok_or_else(|| "must be more than 0".to_owned())
}

/// Parses `Name: value`. The library refuses the names that the handshake sets. No error shows them, because a header may
/// be a secret.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').unwrap_or_default();
    let (name, value) = (name.trim(), value.trim());
    if HeaderName::try_from(name).is_err() {
        Err("expected a header such as 'Name: value'".to_owned())
    } else if HeaderValue::from_bytes(value.as_bytes()).is_err() {
        Err("the value has a control character".to_owned())
    } else {
        Ok((name.to_owned(), value.to_owned()))
    }
}

/// Completes a URL that has no scheme, such as `localhost:8005/chat`, `:8005` or `8005`. A port without a host is one of
/// this machine. A URL with a user is not completed, because `user:` could be a scheme.
pub(crate) fn url(text: String) -> String {
    let has_scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
            && (rest.starts_with("//") || scheme.to_ascii_lowercase().ends_with("unix"))
    });
    let authority = text.split(['/', '?', '#']).next().unwrap_or_default();
    let port = authority.strip_prefix(':').unwrap_or(authority);
    if has_scheme || authority.is_empty() || authority.contains('@') {
        text
    } else if port.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("ws://127.0.0.1:{}", text.trim_start_matches(':'))
    } else {
        format!("ws://{text}")
    }
}

/// Parses `64KiB`, `16MiB`, `1GiB` or a number of bytes. At least one byte.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let number: usize = number.parse().map_err(|_| expected("a size such as 64KiB, 16MiB or 1000", text))?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("unknown unit in {text:?}: KiB, MiB, GiB, or none for bytes")),
    };
    match number.checked_mul(factor) {
        None => Err(format!("{text:?} is too large")),
        Some(0) => Err("must be at least 1 byte".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}

/// Parses a number that may be 0.
pub(crate) fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| expected("a number", text))
}

/// Parses a number of clients: at least one.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match number(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

/// Parses a number and the time it is for, such as `20/1s`.
pub(crate) fn rate(text: &str) -> Result<(u32, Duration), String> {
    let (limit, per) =
        text.split_once('/').ok_or_else(|| expected("a number and a duration such as 20/1s", text))?;
    match limit.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(limit) => Ok((limit, timeout(per)?)),
        Err(_) => Err(expected("a number and a duration such as 20/1s", text)),
    }
}

/// Parses `close` or `skip`.
pub(crate) fn slow_peer(text: &str) -> Result<SlowPeer, String> {
    match text {
        "close" => Ok(SlowPeer::Close),
        "skip" => Ok(SlowPeer::Skip),
        _ => Err(expected("close or skip", text)),
    }
}

/// Checks an address such as `127.0.0.1:8005`, `[fe80::1%eth0]:8005` or `localhost:8005`. A name or zone is resolved later.
/// A port alone means 127.0.0.1. A port after a colon means all addresses of this machine.
pub(crate) fn listen_address(text: &str) -> Result<String, String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    if is_port(text) {
        return Ok(format!("127.0.0.1:{text}"));
    }
    if text.strip_prefix(':').is_some_and(is_port) {
        return Ok(text.to_owned());
    }
    let is_name = |host: &str| !host.is_empty() && !host.contains([':', '[', ']', '/']);
    let without_zone = match (text.split_once('%'), text.split_once(']')) {
        (Some((address, _)), Some((_, port))) => format!("{address}]{port}"),
        _ => text.to_owned(),
    };
    let works = without_zone.parse::<SocketAddr>().is_ok()
        || text.rsplit_once(':').is_some_and(|(host, port)| is_name(host) && is_port(port));
    if works {
        Ok(text.to_owned())
    } else {
        Err(expected("a port, an address such as 127.0.0.1:8005 or [::1]:0, or unix:/path", text))
    }
}

/// Checks a name or an IP address of a host. The library checks it further.
pub(crate) fn host(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(expected("a name or an address", text))
    }
}

/// Checks an IP address or a CIDR block.
pub(crate) fn network(text: &str) -> Result<String, String> {
    let works = text.parse::<IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok();
    if works {
        Ok(text.to_owned())
    } else {
        Err(expected("loopback, unix, none, any, an address or a CIDR block such as 10.0.0.0/8", text))
    }
}

/// Checks an `Origin`: `null`, or a scheme and anything, as not only browsers send it. The library checks the allowed ones
/// further.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    let works = text == "null"
        || text.split_once("://").is_some_and(|(scheme, _)| !scheme.is_empty())
            && text.chars().all(|c| c.is_ascii_graphic());
    if works {
        Ok(text.to_owned())
    } else {
        Err(expected("any, or an origin such as https://example.com", text))
    }
}

/// Checks a path as a request has it: from the first slash to the query.
pub(crate) fn path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#');
    if text.starts_with('/') && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(expected("a path such as /ws", text))
    }
}

fn expected(what: &str, text: &str) -> String {
    format!("expected {what}, not {text:?}")
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_zero_needs_none() {
        let cases = [("500ms", 500), ("3s", 3_000), ("1m", 60_000), ("2h", 7_200_000), ("0", 0), ("0s", 0)];
        for (text, millis) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("365m"), Ok(Duration::from_secs(365 * 60)));
        for text in [
            "3",
            "3 s",
            "s",
            "",
            "-1s",
            "1.5s",
            "3S",
            "9000h",
            "18446744073709551615m",
            "99999999999999999999s",
        ] {
            duration(text).expect_err(text);
        }
    }

    #[test]
    fn sizes_are_plain_bytes_or_binary_multiples() {
        let cases = [("1", 1), ("1000B", 1000), ("64KiB", 65_536), ("16MiB", 16 << 20), ("1GiB", 1 << 30)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["0", "0MiB", "1KB", "1M", "MiB", "", "-1", "1.5MiB", "18446744073709551615KiB"] {
            size(text).expect_err(text);
        }
    }

    #[test]
    fn a_listen_address_names_its_port() {
        for text in [
            "127.0.0.1:8005",
            "[::1]:0",
            "[::]:65535",
            "localhost:80",
            "ws.example:1",
            "[fe80::1%3]:1",
            "[fe80::1%eth0]:1",
        ] {
            assert_eq!(listen_address(text).as_deref(), Ok(text));
        }
        for (text, meant) in [("8005", "127.0.0.1:8005"), ("0", "127.0.0.1:0"), (":8005", ":8005")] {
            assert_eq!(listen_address(text).as_deref(), Ok(meant), "{text}");
        }
        for text in [
            "65536",
            ":65536",
            ":",
            "+8005",
            "localhost:+80",
            "*",
            "*8005",
            "127.0.0.1",
            "::1:80",
            "localhost:65536",
            "localhost:",
            "http://x:80",
            "",
            "[a%3]:1",
            "[::1%3]",
        ] {
            listen_address(text).expect_err(text);
        }
    }

    #[test]
    fn a_url_without_a_scheme_is_completed() {
        for (text, meant) in [
            ("localhost:8005/chat", "ws://localhost:8005/chat"),
            ("example.com", "ws://example.com"),
            ("[::1]:8005", "ws://[::1]:8005"),
            ("localhost?next=http://a", "ws://localhost?next=http://a"),
            (":8005/chat", "ws://127.0.0.1:8005/chat"),
            ("8005?a", "ws://127.0.0.1:8005?a"),
        ] {
            assert_eq!(url(text.to_owned()), meant);
        }
        for text in [
            "ws://a",
            "WSS://a",
            "http://a",
            "ws+unix:/run/a.sock",
            "unix:/run/a.sock",
            "user:secret@a",
            "",
            "/chat",
        ] {
            assert_eq!(url(text.to_owned()), text);
        }
    }

    #[test]
    fn trusted_networks_are_addresses_or_blocks() {
        for text in ["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"] {
            assert_eq!(network(text).as_deref(), Ok(text));
        }
        for text in ["10.0.0.0/33", "10.0.0", "example.com", "Loopback", ""] {
            network(text).expect_err(text);
        }
    }

    #[test]
    fn origins_and_paths_are_what_a_request_can_carry() {
        for text in [
            "https://example.com",
            "http://localhost:3000",
            "https://*.example.com",
            "*://localhost:*",
            "https://[::1]:1",
            "https://example.com/path",
            "file://",
            "null",
        ] {
            assert_eq!(origin(text).as_deref(), Ok(text));
        }
        for text in ["example.com", "https://a b", "https://\u{e9}", "://x", ""] {
            origin(text).expect_err(text);
        }
        for text in ["/", "/ws", "/a/b%20c"] {
            assert_eq!(path(text).as_deref(), Ok(text));
        }
        for text in ["ws", "/a?b", "/a b", "/a#b", ""] {
            path(text).expect_err(text);
        }
    }

    #[test]
    fn headers_have_a_name_and_a_colon() {
        let header = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(super::header("X-A: b: c "), header("X-A", "b: c"));
        assert_eq!(super::header("x-a:"), header("x-a", ""));
        for text in ["", "x-a", ": b", "x-a b", "x a: b", "x-a: \u{1}"] {
            super::header(text).expect_err(text);
        }
    }

    #[test]
    fn rates_are_a_number_and_a_duration() {
        assert_eq!(rate("20/1s"), Ok((20, Duration::from_secs(1))));
        assert_eq!(rate("1/500ms"), Ok((1, Duration::from_millis(500))));
        for text in
            ["20", "20/", "20/1", "/1s", "0/1s", "20/0", "20/0s", "-1/1s", "20/1s/1s", "5000000000/1s", ""]
        {
            rate(text).expect_err(text);
        }
    }

    #[test]
    fn counts_start_at_one() {
        assert_eq!(count("1"), Ok(1));
        for text in ["0", "-1", "many", ""] {
            count(text).expect_err(text);
        }
    }
}
