//! Requests in, verdicts out. A name that begins with `h` and a number is a row of the faults catalogue.

use super::*;
use crate::protocol::head::{HeadLimits, parse_request};
use crate::protocol::noise::Noise;

const LIMITS: HeadLimits = HeadLimits { size: 64 * 1024, headers: 100 };

/// RFC 6455 §1.3, with another origin.
const SAMPLE: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://server.example.com\r\n\
                      Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn policy() -> HandshakePolicy {
    let known = ["superchat", "v2", "chat"].map(String::from).to_vec();
    let mut policy = HandshakePolicy::default();
    policy.set_path("/chat".into()).expect("a path");
    policy.set_subprotocols(known).expect("subprotocols");
    policy
}

fn ask(head: &str) -> std::result::Result<RequestKind, Refusal> {
    check(&parse_request(head.as_bytes(), LIMITS)?, &policy())
}

/// Returns 101, 200 for plain HTTP, or the status of the refusal.
fn status(head: &str) -> u16 {
    match ask(head) {
        Ok(RequestKind::WebSocket(_)) => 101,
        Ok(RequestKind::Http(_)) => 200,
        Err(refusal) => refusal.status.as_u16(),
    }
}

/// Returns the sample with one part replaced.
fn with(part: &str, replaced: &str) -> String {
    assert!(SAMPLE.contains(part), "{part}");
    SAMPLE.replacen(part, replaced, 1)
}

fn plus(lines: &str) -> String {
    with("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"))
}

#[test]
fn the_sample_of_the_rfc_gets_the_answer_of_the_rfc() {
    let request = parse_request(SAMPLE.as_bytes(), LIMITS).expect("a head");
    let Ok(RequestKind::WebSocket(upgrade)) = check(&request, &policy()) else { panic!("refused") };
    let response = upgrade.response();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let text = crate::protocol::head::write_switching(response.headers());
    let text = String::from_utf8(text).expect("ASCII");
    assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}");
    for line in [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "Sec-WebSocket-Protocol: chat",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{text}");
    }
    assert!(
        !text.contains("Content-Length") && !text.contains("close") && text.ends_with("\r\n\r\n"),
        "{text}"
    );
}

#[test]
fn h6_every_header_of_the_handshake_is_required_and_checked() {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let rows = [
        ("Upgrade: websocket", "X: y", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 400),
        ("Upgrade: websocket", "Upgrade: websocket/13", 400),
        ("Upgrade: websocket", "Upgrade: websockets", 400),
        ("Upgrade: websocket", "Upgrade: web socket", 400),
        ("Connection: Upgrade", "X: y", 400),
        ("Connection: Upgrade", "Connection: close", 400),
        ("Connection: Upgrade", "Connection: keep-alive", 400),
        ("Connection: Upgrade", "Connection: Upgrade-Insecure-Requests", 400),
        ("Sec-WebSocket-Key", "X", 400),
        (key, "", 400),
        (key, "dGhlIHNhbXBsZSBub25jZQ", 400),
        (key, "dGhlIHNhbXBsZSBub25jZQ=", 400),
        (key, "dGhlIHNhbXBsZSBub25j", 400),
        (key, "dGhlIHNhbXBsZSBub25jZXM=", 400),
        (key, "dGhlIHNhbXBsZSBub25jZXNz", 400),
        (key, "dGhlIHNhbXBsZSBub25jZ===", 400),
        (key, "dGhlIHNhbXBsZSBub25jZQQ==", 400),
        (key, "dGhlIHNhbXBsZSBub25jZQ= =", 400),
        (key, "dGhlIHNhbXBsZSBub25jZQ==x", 400),
        (key, "dGhlIHNhbXBsZSBub25j_Q==", 400),
        (key, "dGhlIHNhbXBsZS Bub25jZQ==", 400),
        (key, "\u{e9}GhlIHNhbXBsZSBub25jZQ==", 400),
        (key, "AAAAAAAAAAAAAAAAAAAAAA==", 101),
        (key, "  dGhlIHNhbXBsZSBub25jZQ== \t", 101),
        // The bits after the 16 bytes are not zero.
        (key, "dGhlIHNhbXBsZSBub25jZR==", 101),
        (key, "AQIDBAUGBwgJCgsMDQ4PEC==", 101),
        (key, "/+/+/+/+/+/+/+/+/+/+//==", 101),
        ("Version: 13", "Version: 8", 426),
        ("Version: 13", "Version: 0", 426),
        ("Version: 13", "Version: 14", 426),
        ("Version: 13", "Version: 013", 426),
        ("Version: 13", "Version: 13, 8", 426),
        ("Version: 13", "Version:", 426),
        ("Version: 13", "Version: \u{e9}", 426),
        ("Sec-WebSocket-Version: 13", "X: y", 426),
    ];
    for (part, replaced, expected) in rows {
        let head = with(part, replaced);
        assert_eq!(status(&head), expected, "{head}");
    }
}

#[test]
fn h6_a_426_names_the_version_and_the_protocol() {
    let refusal = ask(&with("Version: 13", "Version: 12")).expect_err("refused");
    assert!(refusal.headers.contains(&("sec-websocket-version", "13")), "{refusal:?}");
    assert!(refusal.headers.contains(&("upgrade", "websocket")), "{refusal:?}");
    assert!(UPGRADE_REQUIRED.headers.contains(&("upgrade", "websocket")));
}

#[test]
fn h7_a_header_that_must_be_single_is_refused_when_repeated() {
    for line in [
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Version: 8",
        "Host: server.example.com",
    ] {
        assert_eq!(status(&plus(line)), 400, "{line}");
    }
    assert_eq!(status(&plus("Origin: http://server.example.com")), 403);
}

#[test]
fn h11_lists_are_read_in_any_case_and_from_several_lines() {
    let rows = [
        ("Upgrade: websocket", "UPGRADE: WebSocket"),
        ("Upgrade: websocket", "Upgrade: h2c, websocket"),
        ("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade:websocket,"),
        ("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        ("Connection: Upgrade", "Connection: keep-alive,upgrade"),
        ("Connection: Upgrade", "connection: ,UPGRADE\t, close"),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: Upgrade"),
    ];
    for (part, replaced) in rows {
        assert_eq!(status(&with(part, replaced)), 101, "{replaced}");
    }
}

#[test]
fn h5_an_upgrade_needs_get_and_http_11() {
    for method in ["POST", "HEAD", "OPTIONS", "PUT", "BREW"] {
        let refusal = ask(&with("GET", method)).expect_err(method);
        assert_eq!((refusal.status.as_u16(), refusal.headers), (405, &[("allow", "GET")][..]));
    }
    assert_eq!(status(&with("GET /chat", "CONNECT a:80")), 405);
    assert_eq!(status(&with("HTTP/1.1", "HTTP/1.0")), 505);
    // RFC 9110 §2.5: a later minor version is processed as 1.1.
    for version in ["HTTP/1.2", "HTTP/1.9"] {
        assert_eq!(status(&with("HTTP/1.1", version)), 101, "{version}");
    }
}

#[test]
fn h9_a_request_without_the_handshake_is_plain_http() {
    let rows = [
        ("GET / HTTP/1.1\r\nHost: a\r\n", 200),
        ("HEAD /healthz HTTP/1.1\r\nHost: a\r\n", 200),
        ("GET / HTTP/1.0\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.com\r\n", 200),
        ("POST / HTTP/1.1\r\nHost: a\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n", 405),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n", 405),
        ("BREW / HTTP/1.1\r\nHost: a\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", 413),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", 413),
    ];
    for (head, expected) in rows {
        assert_eq!(status(&format!("{head}\r\n")), expected, "{head}");
    }
    let refusal = ask("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n").expect_err("refused");
    assert_eq!(refusal.headers, [("allow", "GET, HEAD")]);
}

#[test]
fn a_handler_of_plain_http_takes_any_method_and_a_bounded_body() {
    let mut policy = HandshakePolicy { max_body: Some(5), ..HandshakePolicy::default() };
    policy.origins.allow("https://b.example").expect("an origin");
    let rows = [
        ("POST / HTTP/1.1\r\nHost: a\r\n", Ok(0)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", Ok(5)),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n", Ok(5)),
        ("BREW /pot HTTP/1.1\r\nHost: a\r\n", Ok(0)),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n", Ok(0)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n", Err(413)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n", Err(413)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", Err(411)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n", Err(400)),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n", Err(405)),
        // A page of another site cannot change anything.
        ("POST / HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n", Err(403)),
        ("DELETE / HTTP/1.1\r\nHost: a\r\nOrigin: null\r\n", Err(403)),
        ("POST / HTTP/1.1\r\nHost: a\r\nOrigin: https://b.example\r\n", Ok(0)),
        ("POST / HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n", Ok(0)),
        ("OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n", Ok(0)),
    ];
    for (head, expected) in rows {
        let request = parse_request(format!("{head}\r\n").as_bytes(), LIMITS).expect(head);
        let found = match check(&request, &policy) {
            Ok(RequestKind::Http(length)) => Ok(length),
            Ok(other) => panic!("{head}: {other:?}"),
            Err(refusal) => Err(refusal.status.as_u16()),
        };
        assert_eq!(found, expected, "{head}");
    }
}

#[test]
fn a_request_with_an_ambiguous_length_is_refused() {
    let rows = [
        ("Content-Length: 0", 101),
        ("Content-Length: 000", 101),
        ("Content-Length: 1", 400),
        ("Content-Length: 99999999999999999999999999", 400),
        ("Content-Length: +0", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 0x0", 400),
        ("Content-Length:", 400),
        ("Content-Length: 0, 0", 400),
        ("Content-Length: 0\r\nContent-Length: 0", 400),
        ("Content-Length: 0\r\nContent-Length: 5", 400),
        ("Content-Length: \u{e9}", 400),
        ("Transfer-Encoding: chunked", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
        ("Content-Length : 0", 400),
    ];
    for (line, expected) in rows {
        assert_eq!(status(&plus(line)), expected, "{line}");
    }
    let plain = "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(status(plain), 400);
}

#[test]
fn h16_the_path_is_checked_before_the_origin() {
    let evil = "Origin: http://evil.com";
    let own = "Origin: http://server.example.com";
    let rows = [
        ("/chat", own, 101),
        ("/chat?token=x", own, 101),
        ("/", own, 404),
        ("/chat/", own, 404),
        ("/Chat", own, 404),
        ("/other", evil, 404),
        ("/chat", evil, 403),
        ("/chat", "Origin: null", 403),
        ("/chat", "Origin:", 403),
        ("/chat", "Origin: http://\u{e9}", 403),
        ("/chat", "X: no origin", 101),
        ("/chat", "Origin: https://SERVER.example.com", 101),
        ("http://server.example.com/chat", own, 101),
        // RFC 9112 §3.2.2: the host of the target replaces the header.
        ("http://other.example.com/chat", own, 403),
    ];
    for (target, origin, expected) in rows {
        let head = SAMPLE.replacen("/chat", target, 1).replacen(own, origin, 1);
        assert_eq!(status(&head), expected, "{target} {origin}");
    }
    let everywhere = HandshakePolicy::default();
    let request = parse_request(with("/chat", "/any/path").as_bytes(), LIMITS).expect("a head");
    assert!(
        matches!(check(&request, &everywhere), Ok(RequestKind::WebSocket(_))),
        "without a path, every path is accepted"
    );
}

#[test]
fn the_first_offered_subprotocol_that_the_server_has_is_chosen() {
    let offer = "Sec-WebSocket-Protocol: chat, superchat";
    let rows: &[(&str, std::result::Result<Option<&str>, u16>)] = &[
        (offer, Ok(Some("chat"))),
        ("Sec-WebSocket-Protocol: superchat, chat", Ok(Some("superchat"))),
        ("Sec-WebSocket-Protocol: unknown,v2", Ok(Some("v2"))),
        ("Sec-WebSocket-Protocol: unknown\r\nSec-WebSocket-Protocol: v2, chat", Ok(Some("v2"))),
        ("Sec-WebSocket-Protocol: CHAT", Ok(None)),
        ("Sec-WebSocket-Protocol: unknown", Ok(None)),
        ("Sec-WebSocket-Protocol:", Ok(None)),
        ("Sec-WebSocket-Protocol: ,, v2 ,", Ok(Some("v2"))),
        ("X: y", Ok(None)),
        ("Sec-WebSocket-Protocol: chat, chat", Err(400)),
        ("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat", Err(400)),
        ("Sec-WebSocket-Protocol: a b", Err(400)),
        ("Sec-WebSocket-Protocol: chat, a/b", Err(400)),
        ("Sec-WebSocket-Protocol: \"chat\"", Err(400)),
        ("Sec-WebSocket-Protocol: chat, \u{e9}", Err(400)),
    ];
    for (line, expected) in rows {
        let request = parse_request(with(offer, line).as_bytes(), LIMITS).expect("a head");
        let chosen = match check(&request, &policy()) {
            Ok(RequestKind::WebSocket(upgrade)) => {
                let header = upgrade.response().headers().get("sec-websocket-protocol").cloned();
                let chosen =
                    upgrade.finish(&request, &mut upgrade.response()).expect("its own choice").subprotocol;
                assert_eq!(header.as_ref().and_then(|name| name.to_str().ok()), chosen.as_deref());
                Ok(chosen)
            }
            Ok(RequestKind::Http(_)) => Err(200),
            Err(refusal) => Err(refusal.status.as_u16()),
        };
        assert_eq!(chosen, expected.map(|name| name.map(String::from)), "{line}");
    }
}

#[test]
fn thousands_of_subprotocols_are_accepted() {
    let names: Vec<String> = (0..8000).map(|number| format!("p{number}")).collect();
    let head = with("chat, superchat", &names.join(","));
    assert_eq!(status(&head), 101);
}

#[test]
fn a_callback_cannot_break_the_101() {
    let request = parse_request(SAMPLE.as_bytes(), LIMITS).expect("a head");
    let Ok(RequestKind::WebSocket(upgrade)) = check(&request, &policy()) else { panic!("refused") };
    let mut response = upgrade.response();
    *response.status_mut() = StatusCode::OK;
    response.body_mut().extend_from_slice(b"not a frame");
    for (name, value) in [
        ("upgrade", "h2c"),
        ("connection", "close"),
        ("sec-websocket-accept", "x"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("content-length", "11"),
        ("transfer-encoding", "chunked"),
        ("set-cookie", "a=b"),
    ] {
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    assert_eq!(
        upgrade.finish(&request, &mut response).map(|choices| choices.subprotocol),
        Ok(Some("chat".into()))
    );
    let expected = upgrade.response();
    assert_eq!((response.status(), response.body().len()), (StatusCode::SWITCHING_PROTOCOLS, 0));
    assert_eq!(response.headers_mut().remove("set-cookie"), Some(HeaderValue::from_static("a=b")));
    assert_eq!(response.headers(), expected.headers());
}

#[test]
fn a_callback_can_only_choose_a_subprotocol_that_was_offered() {
    let request = parse_request(SAMPLE.as_bytes(), LIMITS).expect("a head");
    let Ok(RequestKind::WebSocket(upgrade)) = check(&request, &policy()) else { panic!("refused") };
    for (name, expected) in [("superchat", Ok(Some("superchat".into()))), ("v2", Err(500)), ("", Err(500))] {
        let mut response = upgrade.response();
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(name));
        let chosen = upgrade.finish(&request, &mut response).map(|choices| choices.subprotocol);
        let chosen = chosen.map_err(|refusal| refusal.status.as_u16());
        assert_eq!(chosen, expected, "{name}");
    }
    let mut response = upgrade.response();
    response.headers_mut().append("sec-websocket-protocol", HeaderValue::from_static("superchat"));
    assert!(upgrade.finish(&request, &mut response).is_err(), "two subprotocols");
    response.headers_mut().remove("sec-websocket-protocol");
    assert_eq!(upgrade.finish(&request, &mut response), Ok(Choices::default()));
}

#[test]
fn a_policy_that_no_client_can_meet_is_an_error() {
    let never =
        ["", "chat", "/a b", "/a?b", "/a#b", "/\u{e9}", "/a<b", "/a>b", "/\"", "/{a}", "/a\\b", "/^", "/`"];
    for path in never.into_iter().chain(["/.", "/..", "/./a", "/a/../b"]) {
        let error = HandshakePolicy::default().set_path(path.into()).expect_err(path).to_string();
        assert!(error.contains(&format!("{path:?}")), "{error}");
    }
    for path in ["/", "//a", "/a%20b", "/a/b/", "/...", "/a.b", "/a|b", "/~a!$&'()*+,;=:@[]-_"] {
        let mut policy = HandshakePolicy::default();
        policy.set_path(path.into()).expect(path);
        let request = parse_request(with("/chat", path).as_bytes(), LIMITS).expect(path);
        assert!(matches!(check(&request, &policy), Ok(RequestKind::WebSocket(_))), "{path}");
    }
    for names in [&["a b"][..], &[""], &["a,b"], &["chat", "v2", "chat"]] {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let error = HandshakePolicy::default().set_subprotocols(names).expect_err("refused").to_string();
        assert!(error.contains("subprotocol"), "{error}");
    }
}

#[test]
fn h17_no_header_can_make_it_panic() {
    let words = [
        "Upgrade: ",
        "Connection: ",
        "Sec-WebSocket-Key: ",
        "Sec-WebSocket-Version: ",
        "Sec-WebSocket-Protocol: ",
        "13",
        "Origin: ",
        "http://a",
        "dGhlIHNhbXBsZSBub25jZQ==",
        "Content-Length: ",
        "Transfer-Encoding: ",
        "\r\n",
        "\r\n",
        ",",
        "websocket",
        "upgrade",
        "chat",
        "\u{e9}",
        "=",
        "0",
    ];
    let mut policy = HandshakePolicy::default();
    policy.origins.allow("https://*.example.com").expect("a pattern");
    policy.set_subprotocols(vec!["chat".into()]).expect("a subprotocol");
    let mut verdicts = 0;
    for seed in 0..30_000 {
        let mut noise = Noise::new(seed);
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        if seed % 3 == 0 {
            let sample =
                SAMPLE.find("Upgrade").and_then(|at| SAMPLE.get(at..SAMPLE.len() - 2)).expect("headers");
            head.extend_from_slice(sample.as_bytes());
        }
        for _ in 0..noise.below(4) {
            head.extend_from_slice(words[noise.below(11)].as_bytes());
            head.extend(noise.text(&words[5..], 5));
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        if let Ok(request) = parse_request(&head, LIMITS) {
            verdicts += 1;
            if let Ok(RequestKind::WebSocket(upgrade)) = check(&request, &policy) {
                upgrade.finish(&request, &mut upgrade.response()).expect("its own choice");
            }
        }
    }
    assert!(verdicts > 1000, "too few requests are valid: {verdicts}");
}

#[test]
fn the_101_says_the_same_whether_a_callback_was_asked_or_not() {
    let lines = |bytes: &[u8]| {
        let mut lines: Vec<_> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort_unstable();
        lines
    };
    for offer in ["Sec-WebSocket-Protocol: chat, superchat", "X: no subprotocol"] {
        let head = with("Sec-WebSocket-Protocol: chat, superchat", offer);
        let Ok(RequestKind::WebSocket(upgrade)) = ask(&head) else { panic!("it asks for one: {head}") };
        let bytes = upgrade.bytes();
        assert_eq!(lines(&bytes), lines(&write_switching(upgrade.response().headers())));
        assert!(bytes.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    }
}
