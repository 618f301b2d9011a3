//! The fuzz targets of `fuzz/`. Each takes any bytes, and panics if a promise is broken. `cargo test` runs them, too: see
//! `fuzzing/tests.rs`.
//!
//! The first bytes of an input choose settings, the others are the bytes from the peer.

#[cfg(all(feature = "deflate", not(all(test, model))))]
mod deflate;
#[cfg(all(feature = "tls", not(all(test, model))))]
mod tls;

#[cfg(all(feature = "deflate", not(all(test, model))))]
pub use deflate::{extensions, pack, unpack};

#[cfg(all(feature = "tls", not(all(test, model))))]
pub use tls::{tls_handshake, tls_records};

use crate::addr::Addr;
use crate::config::{MAX_HEAD_SIZE, MAX_HEADERS};
use crate::message::{CloseCode, CloseFrame};
use crate::protocol::client_handshake::Offer;
use crate::protocol::decoder::{self, Decoder, Item, MAX_CONTROL};
use crate::protocol::encoder::{self, MAX_REASON, Opcode};
use crate::protocol::forwarded::{ForwardedHeader, TrustedProxies, client_addr};
use crate::protocol::head::{HeadLimits, Scanner, parse_request, parse_response, write_switching};
use crate::protocol::proxy_header::{self, MAX_REST};
use crate::protocol::response_body::{BodySeen, Framing, MAX_LINE};
use crate::protocol::server_handshake::{self, HandshakePolicy, RequestKind};
use crate::protocol::url::Target;
use crate::protocol::{Refusal, Role};
use crate::verify::oracle::{self, MIN_WINDOW, Setting};
use http::header::{HOST, HeaderName, HeaderValue, LOCATION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, Method, StatusCode, Version};
use std::net::IpAddr;
use tungstenite::protocol::frame::coding as other;

/// An envelope from another server is decoded or ignored. If its frames are accepted, a client's decoder accepts them, too.
pub fn envelope(input: &[u8]) {
    let longest = 1 << 10;
    let Some((count, frames)) = crate::backplane::decoded(input) else { return };
    if !encoder::are_messages(frames, count.into(), longest) {
        return;
    }
    let mut bytes = frames.to_vec();
    let mut rest = &mut bytes[..];
    let mut decoder = Decoder::new(Role::Client, longest);
    for _ in 0..count {
        let step = decoder.next(rest).expect("valid frames");
        let item = step.item.expect("a whole message");
        assert!(item.is_data(), "{item:?}");
        if let Item::Text(text) = item {
            assert!(std::str::from_utf8(&rest[text.range()]).is_ok(), "not UTF-8");
        }
        rest = &mut std::mem::take(&mut rest)[step.used..];
    }
    assert!(rest.is_empty(), "nothing else");
}

/// The decoder returns the same as tungstenite's, except for the named differences, however the bytes are cut.
pub fn decoder(input: &[u8]) {
    let [flags, limit, buffers, piece, other_piece, repeat, bytes @ ..] = input else { return };
    let (idle_buffer, bulk_buffer, direct) = [
        (MIN_WINDOW, 512, 1),
        (MIN_WINDOW + 1, MIN_WINDOW, 30),
        (256, 1024, 64),
        (4096, 128 * 1024, 16 * 1024),
    ][usize::from(buffers % 4)];
    let piece = usize::from(*piece) + 1;
    let setting = Setting {
        role: if flags & 1 == 0 { Role::Server } else { Role::Client },
        max_message: [1, 20, 125, 126, 400, 5000, 70_000, 200_000][usize::from(limit % 8)],
        idle_buffer,
        bulk_buffer,
        direct,
        lend: flags & 2 == 0,
        pieces: vec![piece, usize::from(*other_piece) + 1, piece * 8],
    };
    let mut bytes = bytes.to_vec();
    if flags & 0xf0 == 0xf0 {
        // Rarely, because it is slow: one small frame is repeated until there are more fragments than allowed.
        let tail = bytes[bytes.len().saturating_sub(usize::from(repeat % 8))..].to_vec();
        while !tail.is_empty() && bytes.len() < 26 * 1024 {
            bytes.extend_from_slice(&tail);
        }
    }
    drop(oracle::compare(&bytes, &setting));
}

/// The end of a request head is the same as for httparse, however it is cut, and every request has an answer.
pub fn request_head(input: &[u8]) {
    let [flags, piece, bytes @ ..] = input else { return };
    let limits = limits(*flags);
    let Some(head) = scanned(|| Scanner::request(limits), bytes, *piece, limits) else { return };
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut theirs = httparse::Request::new(&mut lines);
    let known = with_known_version(bytes);
    let theirs_end = theirs.parse(&known);
    let request = match parse_request(head, limits) {
        Ok(request) => request,
        Err(refusal) => return check_refusal(refusal),
    };
    assert_eq!(theirs_end, Ok(httparse::Status::Complete(head.len())), "a second request could be smuggled");
    assert_eq!(request.headers().len(), theirs.headers.len());
    assert_eq!(theirs.method, Some(request.method().as_str()));
    assert!(request.version() == Version::HTTP_10 || request.headers().get_all(HOST).iter().count() == 1);

    let mut policy = HandshakePolicy::default();
    policy.origins.allow("https://*.example.com").expect("a pattern");
    policy.set_subprotocols(vec!["chat".into(), "v2".into()]).expect("subprotocols");
    if flags & 4 != 0 {
        policy.set_path("/chat".into()).expect("a path");
    }
    match server_handshake::check(&request, &policy) {
        Err(refusal) => check_refusal(refusal),
        Ok(RequestKind::Http(_)) => assert!([Method::GET, Method::HEAD].contains(request.method())),
        Ok(RequestKind::WebSocket(upgrade)) => {
            assert_eq!((request.method(), request.version()), (&Method::GET, Version::HTTP_11));
            let mut response = upgrade.response();
            let subprotocol =
                upgrade.finish(&request, &mut response).expect("the server's choice").subprotocol;
            let answer = parse_response(&write_switching(response.headers()), default_limits());
            let key = request.headers()[SEC_WEBSOCKET_KEY].to_str().expect("base64");
            let names = subprotocol.as_deref();
            let agreed =
                Offer::with_key(key, names.as_slice()).check(&answer.expect("a head")).expect("a valid 101");
            assert_eq!(agreed.subprotocol, subprotocol);
        }
    }
}

/// The end of a response head is the same as for httparse, and only a complete 101 is accepted.
pub fn response_head(input: &[u8]) {
    const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let [flags, piece, bytes @ ..] = input else { return };
    let limits = limits(*flags);
    let Some(head) = scanned(|| Scanner::response(limits), bytes, *piece, limits) else { return };
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut theirs = httparse::Response::new(&mut lines);
    let known = with_known_version(bytes);
    let theirs_end = theirs.parse(&known);
    let Ok(response) = parse_response(head, limits) else { return };
    assert_eq!(theirs_end, Ok(httparse::Status::Complete(head.len())));
    assert_eq!(response.headers().len(), theirs.headers.len());
    assert_eq!(theirs.code, Some(response.status().as_u16()));

    let offer = Offer::with_key("dGhlIHNhbXBsZSBub25jZQ==", &["chat", "v2"]);
    if let Ok(choices) = offer.check(&response) {
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert!(response.headers().get_all(SEC_WEBSOCKET_ACCEPT).iter().eq([ACCEPT]));
        assert!([None, Some("chat"), Some("v2")].contains(&choices.subprotocol.as_deref()));
    }
    check_body(Framing::of(&response), &bytes[head.len()..], usize::from(*piece));
    // A redirect, wherever it leads, results in exactly one request.
    let from = Target::parse("ws://example.com:8005/a/b?c").expect("a target");
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    if let Some(Ok(target)) = location.map(|location| from.redirected(location)) {
        let (_, asked) = Offer::new(&target, &[], &HeaderMap::new(), None).expect("an offer");
        parse_request(&asked, HeadLimits { size: 2 * MAX_HEAD_SIZE, headers: MAX_HEADERS })
            .expect("one request");
    }
}

/// Replaces HTTP/1.2 to HTTP/1.9 by HTTP/1.1, because httparse refuses them. RFC 9110 §2.5: they are processed as 1.1.
fn with_known_version(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() {
        if matches!(bytes[at], b'2'..=b'9') && bytes[..at].ends_with(b"HTTP/1.") {
            bytes[at] = b'1';
        }
    }
    bytes
}

/// More bytes only extend a body, and chunks are the same as for httparse.
fn check_body(framing: Framing, bytes: &[u8], cut: usize) {
    let first = &bytes[..cut.min(bytes.len())];
    let (body, start) = (framing.body(bytes), framing.body(first));
    let mut seen = BodySeen::default();
    let [early, late] = [first, bytes].map(|bytes| framing.look(bytes, &mut seen));
    assert!(body.starts_with(&start) && (early.is_some() || late.is_none() && body == start));
    assert!(early.is_none_or(|count| count == start.len()) && late.is_none_or(|count| count == body.len()));
    if framing != Framing::Chunked {
        assert!(bytes.starts_with(&body));
        return;
    }
    let (mut theirs, mut rest) = (Vec::new(), bytes);
    while let Ok(httparse::Status::Complete((start @ ..=MAX_LINE, size @ 1..))) =
        httparse::parse_chunk_size(rest)
    {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        rest = &rest[start..];
        theirs.extend_from_slice(&rest[..size.min(rest.len())]);
        rest = size.checked_add(2).and_then(|size| rest.get(size..)).unwrap_or_default();
    }
    assert!(body.starts_with(&theirs));
}

/// The client's address is the peer's or one in the header. The entry that a trusted proxy appended is used, whatever the
/// client wrote before it.
pub fn forwarded(input: &[u8]) {
    let [flags, text @ ..] = input else { return };
    let header = if flags & 1 == 0 { ForwardedHeader::XForwardedFor } else { ForwardedHeader::Forwarded };
    let peer = ["127.0.0.1", "::ffff:127.0.0.1", "::1", "192.0.2.1"][usize::from(flags >> 1 & 3)];
    let peer: IpAddr = peer.parse().expect("an address");
    let trusted = ["loopback", "loopback 10.0.0.0/8", "none", "any"][usize::from(flags >> 3 & 3)];
    let mut trust = if trusted == "any" { TrustedProxies::Any } else { TrustedProxies::none() };
    let mut blocks = trusted.split(' ').filter(|block| *block != "any");
    blocks.try_for_each(|block| trust.add(block)).expect("a block");
    let believed = trusted == "any" || trusted != "none" && peer.to_canonical().is_loopback();
    let mut lines: Vec<Vec<u8>> = text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    for line in &mut lines {
        line.retain(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    }
    let is_long = flags & 0xe0 == 0xe0 && text.len() < 16;
    if is_long {
        // Rarely, because it is slow: a walk that is not linear would not end.
        let count = lines.len();
        lines.iter_mut().for_each(|line| *line = line.repeat((128 << 10) / count / line.len().max(1)));
    }
    let ip = |lines: &[Vec<u8>]| {
        let client = client_addr(Addr::Ip(peer), &lines_of(header, lines), &trust, header);
        client.ip().expect("a peer with an IP address has clients with one")
    };

    let client = ip(&lines);
    if !believed {
        assert_eq!(client, peer.to_canonical(), "the header of an untrusted peer was believed");
        return;
    }
    assert!(
        client == peer.to_canonical() || lines.iter().any(|line| contains_ip(line, client)),
        "{client} is nowhere in {lines:?}"
    );
    if trusted == "any" || is_long {
        return;
    }
    // Entries that a proxy appends, and the client's address by them.
    let peer = peer.to_canonical().to_string();
    let appended: [(&str, &str); 3] = match header {
        ForwardedHeader::XForwardedFor => [
            ("198.51.100.77", "198.51.100.77"),
            ("198.51.100.77:80\t, 127.0.0.1", "198.51.100.77"),
            ("198.51.100.77, unknown", &peer),
        ],
        ForwardedHeader::Forwarded => [
            ("for=198.51.100.77", "198.51.100.77"),
            ("For=\"198.51.100.77:80\";proto=http;ext=\"a,\\\"b\"", "198.51.100.77"),
            ("for=198.51.100.77, for=_hidden", &peer),
        ],
    };
    for (appended, expected) in appended {
        let mut on_a_new_line = lines.clone();
        on_a_new_line.push(appended.as_bytes().to_vec());
        let mut on_the_same_line = lines.clone();
        let Some(last) = on_the_same_line.last_mut() else { return };
        last.extend_from_slice(b", ");
        last.extend_from_slice(appended.as_bytes());
        for lines in [on_a_new_line, on_the_same_line] {
            assert_eq!(ip(&lines).to_string(), expected, "the entry of the proxy was not used: {lines:?}");
        }
    }
}

/// A PROXY header is the same however its bytes are cut, does not include bytes after it, and gives no address that is not
/// in it.
pub fn proxy(input: &[u8]) {
    let verdict = proxy_header::scan(input);
    let (known_at, first) = (0..=input.len())
        .map(|cut| (cut, proxy_header::scan(&input[..cut])))
        .find(|(_, verdict)| *verdict != Ok(None))
        .unwrap_or((input.len(), Ok(None)));
    match verdict {
        Ok(None) => {
            assert_eq!(first, verdict);
            assert!(input.len() < 16 + MAX_REST, "it waits for more bytes than the limit");
        }
        Ok(Some(header)) => {
            assert_eq!((first, known_at), (verdict, header.len));
            let bytes = &input[..header.len];
            let Some(ip) = header.source else { return };
            if let Some(line) = bytes.strip_prefix(b"PROXY TCP") {
                let words: Vec<&[u8]> = line[..line.len() - 2].split(|&byte| byte == b' ').collect();
                assert!(words.len() == 5 && contains_ip(words[1], ip), "{ip} of {words:?}");
            } else {
                let mapped = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                let four = mapped.to_ipv4_mapped().is_some_and(|ip| bytes[16..].starts_with(&ip.octets()));
                assert!(four || bytes[16..].starts_with(&mapped.octets()), "{ip} is not in the header");
            }
        }
        Err(refusal) => {
            check_refusal(refusal);
            let later = (known_at..=input.len()).map(|cut| proxy_header::scan(&input[..cut]));
            assert!(later.into_iter().all(|verdict| verdict.is_err()), "a refusal is not final");
        }
    }
}

/// A valid payload of a Close or ping is received as it was sent, and an invalid one is refused at both ends.
pub fn close_payload(input: &[u8]) {
    let payload = &input[..input.len().min(MAX_CONTROL)];
    match decoder::close_frame(payload) {
        Ok(None) => assert!(payload.is_empty()),
        Ok(Some(frame)) => {
            encoder::check_close(frame.code, &frame.reason).expect("it was received");
            assert_eq!(encoder::close_payload(Some(&frame)), payload);
        }
        Err(_) => assert!(
            payload.len() == 1 || !is_sendable(payload) || std::str::from_utf8(&payload[2..]).is_err(),
            "{payload:02x?}"
        ),
    }

    let [high, low, reason @ ..] = input else { return };
    let code = CloseCode::from(u16::from_be_bytes([*high, *low]));
    let reason = String::from_utf8_lossy(reason).into_owned();
    match encoder::check_close(code, &reason) {
        Err(_) => assert!(!is_sendable(input) || reason.len() > MAX_REASON, "{code}"),
        Ok(()) => {
            let frame = CloseFrame::new(code, reason);
            let payload = encoder::close_payload(Some(&frame));
            assert_eq!(decoder::close_frame(&payload), Ok(Some(frame)));
            check_passes(Opcode::Close, &payload);
        }
    }
    match encoder::check_control(input) {
        Err(_) => assert!(input.len() > MAX_CONTROL),
        Ok(()) => {
            check_passes(Opcode::Ping, input);
            check_passes(Opcode::Pong, input);
        }
    }
}

/// Returns whether tungstenite allows the code. It does not know 1014.
fn is_sendable(payload: &[u8]) -> bool {
    let [high, low, ..] = payload else { return false };
    let code = u16::from_be_bytes([*high, *low]);
    code == 1014 || other::CloseCode::from(code).is_allowed()
}

/// Sends a control frame from each end to the other.
fn check_passes(opcode: Opcode, payload: &[u8]) {
    for (from, to) in [(Role::Server, Role::Client), (Role::Client, Role::Server)] {
        let mut bytes = Vec::new();
        encoder::append(from, opcode, payload, &mut bytes);
        let step = Decoder::new(to, 1).next(&mut bytes).expect("a frame of ours");
        let ((Some(Item::Close(span)), Opcode::Close)
        | (Some(Item::Ping(span)), Opcode::Ping)
        | (Some(Item::Pong(span)), Opcode::Pong)) = (step.item, opcode)
        else {
            panic!("{opcode:?} became {:?}", step.item);
        };
        assert_eq!((&bytes[span.range()], step.used), (payload, bytes.len()));
    }
}

fn default_limits() -> HeadLimits {
    HeadLimits { size: MAX_HEAD_SIZE, headers: MAX_HEADERS }
}

fn limits(flags: u8) -> HeadLimits {
    if flags & 1 == 0 { default_limits() } else { HeadLimits { size: 200, headers: 5 } }
}

/// Scans a head: the result is the same for single bytes, pieces and all bytes at once. The head is not larger than the
/// limit, and has no ambiguous line ends.
fn scanned(scanner: impl Fn() -> Scanner, bytes: &[u8], piece: u8, limits: HeadLimits) -> Option<&[u8]> {
    let whole = scanner().scan(bytes);
    for piece in [1, usize::from(piece) + 1] {
        let mut scanner = scanner();
        let mut verdict = Ok(None);
        let mut arrived = 0;
        while verdict == Ok(None) && arrived < bytes.len() {
            arrived = bytes.len().min(arrived + piece);
            verdict = scanner.scan(&bytes[..arrived]);
        }
        assert_eq!(verdict, whole, "in pieces of {piece}");
    }
    assert!(whole != Ok(None) || bytes.len() < limits.size, "it waits for more bytes than the limit");
    let head = &bytes[..whole.ok()??];
    assert!(head.len() <= limits.size);
    // At most one empty line before the first line, and no other except the last.
    let lines = head.strip_prefix(b"\r\n").unwrap_or(head).strip_suffix(b"\r\n\r\n").expect("an empty line");
    let mut rest = lines;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        assert!(at > 0 && !rest[..at].iter().any(|byte| b"\r\n\0".contains(byte)));
        rest = &rest[at + 2..];
    }
    assert!(!rest.is_empty() && !rest.iter().any(|byte| b"\r\n\0".contains(byte)));
    Some(head)
}

/// A refusal has the status of an error, and a reason that can be sent.
fn check_refusal(refusal: Refusal) {
    assert!(refusal.status.is_client_error() || refusal.status == StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    assert!(refusal.reason.is_ascii() && !refusal.reason.is_empty());
}

fn lines_of(header: ForwardedHeader, lines: &[Vec<u8>]) -> HeaderMap {
    let name = match header {
        ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        ForwardedHeader::Forwarded => http::header::FORWARDED,
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name.clone(), HeaderValue::from_bytes(line).expect("a header value"));
    }
    headers
}

/// Returns whether `line` contains `ip`, with or without a port.
fn contains_ip(line: &[u8], ip: IpAddr) -> bool {
    line.split(|byte| !byte.is_ascii_hexdigit() && !b".:".contains(byte)).any(|word| {
        let without_port = word.split(|&byte| byte == b':').next().unwrap_or_default();
        [word, without_port]
            .into_iter()
            .filter_map(|word| std::str::from_utf8(word).ok()?.parse::<IpAddr>().ok())
            .any(|named| named.to_canonical() == ip)
    })
}

#[cfg(test)]
mod tests;
