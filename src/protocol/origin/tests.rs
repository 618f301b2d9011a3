//! Allowed origins and requests in, verdicts out.

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
        assert_eq!(admits(&origins, &[origin.as_bytes()], host.as_bytes()), *admitted, "{origin} at {host}");
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

/// Each row has an allowed origin, values of the header that it allows, and values that it does not allow.
#[test]
fn schemes_ports_and_values_as_they_are_sent_can_be_allowed() {
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("null", &["null"], &["Null", "", "file://"]),
        // Arduino's client, Cordova and Electron.
        ("file://", &["file://"], &["file:///", "file://a", "null", "http://", ""]),
        ("file:///android_asset", &["file:///android_asset"], &["file:///android_asset/x", "file://"]),
        ("file://*", &["file://", "file://host"], &["file:///", "http://host", "null"]),
        // TinyWebsockets sends an origin with a path.
        (
            "https://github.com/gilmaimon/TinyWebsockets",
            &["https://github.com/gilmaimon/TinyWebsockets"],
            &["https://github.com", "https://github.com/", "https://github.com/gilmaimon/tinywebsockets"],
        ),
        (
            "https://example.com/",
            &["https://example.com/", "https://example.com", "https://EXAMPLE.com:443"],
            &["https://example.com/a", "http://example.com/"],
        ),
        ("https://example.com", &["https://example.com"], &["https://example.com/"]),
        ("app://.", &["app://."], &["app://"]),
        (
            "*://example.com",
            &["http://example.com", "https://example.com:443", "capacitor://example.com"],
            &["http://example.com:443", "http://www.example.com", "example.com", "://example.com", "*"],
        ),
        (
            "http://localhost:*",
            &["http://localhost", "http://localhost:3000", "http://LOCALHOST:80"],
            &["https://localhost:3000", "http://localhost.evil.com:3000", "http://localhost:x"],
        ),
        ("http://[::1]:*", &["http://[::1]", "http://[0::1]:80"], &["http://[::2]"]),
        (
            "*://*.example.com:*",
            &["http://a.example.com:81", "https://a.b.example.com", "app://x.example.com:1"],
            &["http://example.com", "http://evilexample.com", "http://a.example.com.evil.com:81"],
        ),
        ("*://localhost:3000", &["https://localhost:3000"], &["https://localhost"]),
        (
            "moz-extension://*",
            &["moz-extension://1b2c", "MOZ-extension://x", "moz-extension://"],
            &["chrome-extension://1b2c", "https://1b2c"],
        ),
    ];
    for (allowed, admitted, refused) in rows {
        let mut origins = AllowedOrigins::default();
        origins.allow(allowed).expect(allowed);
        for origin in *admitted {
            assert!(admits(&origins, &[origin.as_bytes()], b"own.host"), "{allowed} allows {origin}");
        }
        for origin in *refused {
            assert!(!admits(&origins, &[origin.as_bytes()], b"own.host"), "{allowed}: {origin}");
        }
    }
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
        "https://*..com",
        "https://*:*",
        "wss://*",
        "*://*",
        "*://",
        "http:*",
        "ht*://example.com",
        "https://example.com/*",
        "https://*.example.com/a",
        "file:///*",
        "https://example.com:x",
        "https://example.com:8*",
        "https://example.com:80:*",
        "https://example.com::*",
        "https://example.com:99999",
        "https://user@example.com",
        "https:///path",
        "https://example.com?query",
        "://a",
        "1://a",
        "https://a b",
        "https://example.com/a b",
        "https://example.com/\u{e9}",
        "Null",
    ] {
        let error = AllowedOrigins::default().allow(origin).expect_err(origin).to_string();
        assert!(error.contains(&format!("{origin:?}")), "{error}");
    }
}

#[test]
fn no_origin_and_no_host_can_make_it_panic() {
    let words =
        ["http", "s://", "://", "[", "]", "::1", ":", "80", "*", ".", "example.com", "null", "\u{e9}", "@"];
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
