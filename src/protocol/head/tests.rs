//! Bytes in, heads or refusals out. A name that begins with `h` and a number is a row of the faults catalogue.

use super::*;
use crate::protocol::noise::Noise;

const LIMITS: HeadLimits = HeadLimits { size: 16 * 1024, headers: 100 };

fn refusal(bytes: &[u8]) -> Option<Refusal> {
    Scanner::request(LIMITS).scan(bytes).err()
}

fn status(bytes: &[u8]) -> u16 {
    match Scanner::request(LIMITS).scan(bytes) {
        Err(refusal) => refusal.status.as_u16(),
        Ok(None) => 0,
        Ok(Some(end)) => {
            parse_request(&bytes[..end], LIMITS).map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
        }
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn a_head_ends_at_the_empty_line_wherever_it_is_cut() {
    let bytes = b"GET /chat HTTP/1.1\r\nHost: a\r\nX:y\r\n\r\n\x81\x85frame";
    let end = bytes.len() - 7;
    for first in 0..bytes.len() {
        for second in first..bytes.len() {
            let mut scanner = Scanner::request(LIMITS);
            let mut found = None;
            for received in [first, second, bytes.len()] {
                if found.is_none() {
                    found = scanner.scan(&bytes[..received]).expect("a head");
                    assert_eq!(found.is_some(), received >= end);
                }
            }
            assert_eq!(found, Some(end));
        }
    }
}

#[test]
fn one_byte_at_a_time_costs_no_more_than_all_at_once() {
    let limits = HeadLimits { size: 4 << 20, headers: 100 };
    let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    bytes.resize(2 << 20, b'x');
    bytes.extend_from_slice(b"\r\n\r\n");
    let mut scanner = Scanner::request(limits);
    let ends: Vec<usize> =
        (0..=bytes.len()).filter_map(|to| scanner.scan(&bytes[..to]).expect("a head")).collect();
    assert_eq!(ends, [bytes.len()]);
    // Without a clock, because `protocol` has none: to scan from the start for each of 2 million bytes would take an hour.
}

#[test]
fn h3_a_head_may_be_as_long_as_the_limit_and_no_byte_longer() {
    let head = |size: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        head.resize(size - 4, b'x');
        head.extend_from_slice(b"\r\n\r\n");
        head
    };
    assert_eq!(status(&head(LIMITS.size)), 200);
    assert_eq!(status(&head(LIMITS.size + 1)), 431);
    let line = |size: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(size - 16)).into_bytes();
    assert_eq!(status(&line(LIMITS.size + 1)), 414);
    // It is refused at the limit, because the client may never send one byte more.
    assert_eq!(status(&line(LIMITS.size + 100)[..LIMITS.size]), 414);
    assert_eq!(status(&line(LIMITS.size + 100)[..LIMITS.size - 1]), 0);
    assert_eq!(status(&head(LIMITS.size + 100)[..LIMITS.size]), 431);
    let mut name = b"GET / HTTP/1.1\r\n".to_vec();
    name.resize(LIMITS.size, b'x');
    assert_eq!(status(&name), 431);
}

#[test]
fn a_head_beyond_a_limit_is_refused_with_the_limit() {
    let limits = HeadLimits { size: 40, headers: 1 };
    let rows = [
        ("GET /a HTTP/1.1\r\nX: a\r\nY: b\r\n", 431, "the head of the request has more than 1 headers"),
        (
            "GET /a HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaa",
            431,
            "the head of the request has more than 40 bytes",
        ),
        ("GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 414, "the request line has more than 40 bytes"),
        ("HTTP/1.1 200 OK\r\nX: a\r\nY: b\r\n", 431, "the head of the response has more than 1 headers"),
        (
            "HTTP/1.1 200 OK\r\nX: aaaaaaaaaaaaaaaaaaaaaaa",
            431,
            "the head of the response has more than 40 bytes",
        ),
        (
            "HTTP/1.1 200 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            431,
            "the head of the response has more than 40 bytes",
        ),
    ];
    for (head, status, reason) in rows {
        let scanner = if head.starts_with('G') { Scanner::request } else { Scanner::response };
        let refusal = scanner(limits).scan(head.as_bytes()).expect_err(head);
        assert_eq!((refusal.status.as_u16(), &*refusal.reason), (status, reason), "{head}");
    }
    // The crate http holds no longer target, whatever the limit of the head is.
    let limits = HeadLimits { size: 1 << 20, headers: 1 };
    for (length, expected) in [(MAX_TARGET, None), (MAX_TARGET + 1, Some(TARGET_TOO_LONG))] {
        let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length - 1));
        assert_eq!(parse_request(head.as_bytes(), limits).err(), expected);
    }
}

#[test]
fn h4_a_head_may_have_as_many_headers_as_the_limit_and_no_more() {
    let head = |count: usize| {
        let mut head = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
        for number in 1..count {
            head.push_str(&format!("x{number}: {number}\r\n"));
        }
        (head + "\r\n").into_bytes()
    };
    assert_eq!(status(&head(100)), 200);
    for count in [101, 125, 2000] {
        assert_eq!(status(&head(count)), 431, "{count}");
    }
}

#[test]
fn h5_other_protocols_are_refused_at_the_first_wrong_byte() {
    let rows: &[(&[u8], u16)] = &[
        (b"\x16", 400),         // the first byte of a TLS ClientHello
        (b"\x80\x2e\x01", 400), // an SSLv2 one
        (b"\x00", 400),
        (b"\xff\xfe", 400),
        (b"\n", 400),
        (b" GET / HTTP/1.1\r\n", 400),
        (b"SSH-2.0-OpenSSH_9.6\r", 400),
        (b"\x05\x01\x00", 400), // SOCKS
        (b"{\"json\"", 400),
        (b"<policy-file-request/>\0", 400),
        (b"EHLO example.com\r\n", 400),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"GET / HTTP/0.9\r\n", 505),
        (b"GET / HTTP/0.1\r\n", 505),
        (b"GET / HTTP/3.0\r\n", 505),
        (b"GET /\r\n", 400),
        (b"GET\r", 400),
        (b"GET  / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1 \r\n", 400),
        (b"GET / x HTTP/1.1\r\n", 400),
        (b"GET /\tHTTP/1.1\r\n", 400),
        (b"GET / http/1.1\r\n", 400),
        (b"GET / HTTP/1.10\r\n", 400),
        (b"GET / HTTP/11\r\n", 400),
        (b"GET / RTSP/1.0\r\n", 400),
        (b"G(T / HTTP/1.1\r\n", 400),
        (b"G\xc3\x89T / HTTP/1.1\r\n", 400),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 400),
        (b"GET /#top HTTP/1.1\r\n", 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n", 400),
        (b"GET /\x7f HTTP/1.1\r\n", 400),
        // Complete requests: method and version are checked by `server_handshake`.
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 200),
        (b"GET / HTTP/1.2\r\n\r\n", 400), // without a Host
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    ];
    for (bytes, expected) in rows {
        assert_eq!(status(bytes), *expected, "{}", escaped(bytes));
    }
}

#[test]
fn h7_an_http_11_request_has_exactly_one_host_and_a_valid_one() {
    let rows: &[(&str, u16)] = &[
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nhOST:a:80\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: my_host\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    ];
    for (head, expected) in rows {
        assert_eq!(status(head.as_bytes()), *expected, "{head:?}");
    }
}

#[test]
fn h8_ambiguous_syntax_is_refused_at_its_byte() {
    let rows: &[(&[u8], Refusal)] = &[
        (b"GET / HTTP/1.1\n", BARE_LF),
        (b"GET / HTTP/1.1\r\nHost: a\n", BARE_LF),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", BARE_LF),
        (b"GET / HTTP/1.1\r\nX\n", HEADER_NAME),
        (b"GET / HTTP/1.1\rH", BARE_CR),
        (b"GET / HTTP/1.1\r\nHost: a\rX", BARE_CR),
        (b"GET / HTTP/1.1\r\nHost: a\r\r", BARE_CR),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\rX", BARE_CR),
        (b"\rG", BARE_CR),
        (b"GET / HTTP/1.1\r\n ", FOLDED),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\t", FOLDED),
        (b"GET / HTTP/1.1\r\nHost ", HEADER_NAME),
        (b"GET / HTTP/1.1\r\nHost\t", HEADER_NAME),
        (b"GET / HTTP/1.1\r\n:", HEADER_NAME),
        (b"GET / HTTP/1.1\r\nno ", HEADER_NAME),
        (b"GET / HTTP/1.1\r\nNoColon\r", HEADER_NAME),
        (b"GET / HTTP/1.1\r\nX\0", HEADER_NAME),
        (b"GET / HTTP/1.1\r\nX\xc3", HEADER_NAME),
        (b"GET / HTTP/1.1\r\nX(", HEADER_NAME),
        (b"GET / HTTP/1.1\r\nX: \0", CONTROL),
        (b"GET / HTTP/1.1\r\nX: a\x0b", CONTROL),
        (b"GET / HTTP/1.1\r\nX: a\x7f", CONTROL),
        (b"GET / HTTP/1.1\r\nX: \x1b", CONTROL),
        (b"GET /\0", CONTROL),
    ];
    for (bytes, expected) in rows {
        assert_eq!(refusal(bytes).as_ref(), Some(expected), "{}", escaped(bytes));
        assert_eq!(refusal(&bytes[..bytes.len() - 1]), None, "{}", escaped(bytes));
        assert_eq!(parse_request(bytes, LIMITS).err().as_ref(), Some(expected), "{}", escaped(bytes));
    }
}

#[test]
fn h17_bytes_beyond_ascii_in_a_value_are_kept_as_they_are() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: \t\xff\x80caf\xc3\xa9 b \t\r\nEmpty:\r\nx:2\r\n\r\n";
    let request = parse_request(head, LIMITS).expect("a head");
    let values: Vec<&[u8]> = request.headers().get_all("x").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(values, [&b"\xff\x80caf\xc3\xa9 b"[..], b"2"]);
    assert_eq!(request.headers()["empty"], "");
}

#[test]
fn one_empty_line_before_a_request_is_ignored() {
    assert_eq!(status(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    assert_eq!(status(b"\r\nPRI * HTTP/2.0\r\n"), 505);
    assert_eq!(status(b"\r\n\r\n"), 400);
    assert_eq!(status(b"\r\n\x16"), 400);
}

#[test]
fn a_target_has_the_form_that_its_method_allows() {
    let rows = [
        ("GET /", 200),
        ("GET /a?b=c", 200),
        ("GET //a//b", 200),
        ("GET http://a/b?c", 200),
        ("GET ws://a:80/", 200),
        ("GET *", 400),
        ("GET a", 400),
        ("GET a:80", 400),
        ("GET ?a", 400),
        ("GET http://u:p@a/", 400),
        ("GET http://", 400),
        ("OPTIONS *", 200),
        ("OPTIONS /", 200),
        ("CONNECT a:80", 200),
    ];
    for (line, expected) in rows {
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(status(head.as_bytes()), expected, "{line}");
    }
    let head = b"GET http://a:81/b?c HTTP/1.1\r\nHost: a\r\n\r\n";
    let request = parse_request(head, LIMITS).expect("the absolute form");
    assert_eq!((request.uri().path(), request.uri().query()), ("/b", Some("c")));
}

#[test]
fn an_incomplete_head_or_one_with_more_behind_it_is_refused() {
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore"] {
        assert_eq!(parse_request(bytes, LIMITS).err().map(|refusal| refusal.status.as_u16()), Some(400));
    }
    assert!(parse_response(b"HTTP/1.1 200 OK\r\n", LIMITS).is_err());
}

#[test]
fn a_response_is_recognised_by_its_first_bytes() {
    let rows: &[(&[u8], bool)] = &[
        (b"HTTP/1.1 101 Switching Protocols\r\n", true),
        (b"HTTP/1.0 200 OK\r\n", true),
        (b"HTTP/1.1 200\r\n", true),
        (b"HTTP/1.1 200 \r\n", true),
        (b"HTTP/1.1 200 d\xe9j\xe0 vu\r\n", true),
        (b"\x15\x03", false),
        (b"SSH", false),
        (b"HTTP/2", false),
        (b"HTTP/1.x", false),
        (b"HTTP/1.2 200 OK\r\n", true),
        (b"HTTP/1.10 200 OK\r\n", false),
        (b"HTTP/1.1200 OK\r\n", false),
        (b"HTTP/1.1 20 OK\r\n", false),
        (b"HTTP/1.1 2000 OK\r\n", false),
        (b"HTTP/1.1 000 OK\r\n", false),
        (b"HTTP/1.1  200 OK\r\n", false),
        (b"HTTP/1.1 abc OK\r\n", false),
        (b"\r\nHTTP/1.1 200 OK\r\n", false),
    ];
    for (bytes, valid) in rows {
        assert_eq!(Scanner::response(LIMITS).scan(bytes).is_ok(), *valid, "{}", escaped(bytes));
    }
    let endless = vec![b'x'; LIMITS.size];
    let mut bytes = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    bytes.extend_from_slice(&endless);
    assert!(Scanner::response(LIMITS).scan(&bytes).is_err());
}

#[test]
fn a_response_has_its_length_and_connection_close() {
    let mut response = http::Response::new(b"hello".to_vec());
    *response.status_mut() = StatusCode::FORBIDDEN;
    for (name, value) in
        [("content-length", "7"), ("connection", "keep-alive"), ("transfer-encoding", "chunked")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().insert("x-a", HeaderValue::from_static("b"));
    let head = "HTTP/1.1 403 Forbidden\r\nX-A: b\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    assert_eq!(escaped(&write_response(&response, false)), escaped(format!("{head}hello").as_bytes()));
    assert_eq!(escaped(&write_response(&response, true)), escaped(head.as_bytes()));
}

#[test]
fn a_204_and_a_304_have_no_body() {
    for status in [204, 304] {
        let response = http::Response::builder().status(status).body(b"hello".to_vec()).expect("a response");
        let text = escaped(&write_response(&response, false));
        assert!(!text.contains("Content-Length") && !text.contains("hello"), "{text}");
    }
}

#[test]
fn no_callback_can_answer_a_plain_request_with_a_101() {
    for status in [100, 101, 103] {
        let response = http::Response::builder().status(status).body(Vec::new()).expect("a response");
        assert!(write_response(&response, false).starts_with(b"HTTP/1.1 500 "));
    }
    let strange = http::Response::builder().status(799).body(Vec::new()).expect("a response");
    assert!(write_response(&strange, false).starts_with(b"HTTP/1.1 799 \r\n"));
}

#[test]
fn a_426_names_the_protocol_and_the_connection_option() {
    let response = http::Response::builder().status(426).header("upgrade", "websocket").body(Vec::new());
    let text = String::from_utf8(write_response(&response.expect("a response"), false)).expect("ASCII");
    assert!(text.contains("\r\nUpgrade: websocket\r\n"), "{text}");
    assert!(text.contains("\r\nConnection: close\r\nConnection: Upgrade\r\n"), "{text}");
}

/// Each byte in each part of a head.
#[test]
fn no_byte_is_accepted_where_httparse_refuses_it() {
    for byte in 0..=u8::MAX {
        for (start, end) in [
            ("G", "T / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("GET /", " HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("GET /?", " HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\nx", ": b\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\nx:", "b\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: b", "\r\n\r\n"),
        ] {
            let head = [start.as_bytes(), &[byte], end.as_bytes()].concat();
            let Ok(request) = parse_request(&head, LIMITS) else { continue };
            let mut lines = [httparse::EMPTY_HEADER; 4];
            let mut theirs = httparse::Request::new(&mut lines);
            assert_eq!(theirs.parse(&head), Ok(httparse::Status::Complete(head.len())), "{}", escaped(&head));
            assert_eq!(theirs.method, Some(request.method().as_str()));
            for line in theirs.headers.iter() {
                let values = request.headers().get_all(line.name);
                assert!(values.iter().any(|value| value.as_bytes() == line.value), "{}", escaped(&head));
            }
        }
    }
}

#[test]
fn no_bytes_can_make_it_panic() {
    let words = [
        "GET ",
        "/",
        " HTTP/1.1\r\n",
        "Host: a\r\n",
        "\r\n",
        "\r\n\r\n",
        "\r",
        "\n",
        ":",
        " ",
        "\t",
        "x",
        "http://",
        "*",
        "OPTIONS ",
        "HTTP/1.0",
        "HTTP/1.1 200 OK\r\n",
        "\u{e9}",
        "content-length: 5\r\n",
        "\0",
        "@",
        "?",
        "%",
        "[::1]",
    ];
    let mut heads = 0;
    for seed in 0..30_000 {
        let mut noise = Noise::new(seed);
        let mut bytes = if seed % 2 == 0 { b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec() } else { Vec::new() };
        bytes.extend(noise.text(&words, 12));
        bytes.extend_from_slice(b"\r\n\r\n");
        heads += usize::from(parse_request(&bytes, LIMITS).is_ok());
        parse_response(&bytes, LIMITS).ok();
        for mut scanner in [Scanner::request(LIMITS), Scanner::response(LIMITS)] {
            let whole = Scanner { ..Scanner::new(scanner.kind, LIMITS) }.scan(&bytes);
            let mut piecemeal = Ok(None);
            for to in 0..=bytes.len() {
                piecemeal = scanner.scan(&bytes[..to]);
                if !matches!(piecemeal, Ok(None)) {
                    break;
                }
            }
            assert_eq!(whole, piecemeal, "{}", escaped(&bytes));
        }
    }
    assert!(heads > 100, "too few heads are valid: {heads}");
}
