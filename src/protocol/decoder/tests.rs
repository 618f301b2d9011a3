//! Bytes in, messages and errors out. The table has a row for each rule of RFC 6455 about frames.

use super::partial_message::FREE_FRAGMENTS;
use super::*;

/// A decoded item, with owned values.
#[derive(Debug, PartialEq, Eq)]
enum Out {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Violation(Violation),
    TooBig,
}

const LIMIT: usize = 1000;

/// Decodes `stream`, which arrives in pieces of the same length, as a reader with a window does.
fn decode(role: Role, stream: &[u8], piece: usize) -> Vec<Out> {
    let mut decoder = Decoder::new(role, LIMIT);
    let mut window: Vec<u8> = Vec::new();
    let mut out = Vec::new();
    for bytes in stream.chunks(piece) {
        window.extend_from_slice(bytes);
        loop {
            // As in the connection's reader: the fast path first.
            let step = decoder.next_short(&mut window).map_or_else(|| decoder.next(&mut window), Ok);
            let step = match step {
                Ok(step) => step,
                Err(Error::Violation(violation)) => {
                    out.push(Out::Violation(violation));
                    return out;
                }
                Err(_) => {
                    out.push(Out::TooBig);
                    return out;
                }
            };
            let more = step.item.is_some();
            if let Some(item) = step.item {
                out.push(match item {
                    Item::Text(span) => match text(&window[span.range()]) {
                        Ok(text) => Out::Text(text.to_owned()),
                        Err(violation) => {
                            out.push(Out::Violation(violation));
                            return out;
                        }
                    },
                    Item::Binary(span) => Out::Binary(window[span.range()].to_vec()),
                    Item::Assembled => match decoder.take() {
                        Message::Text(text) => Out::Text(text),
                        Message::Binary(bytes) => Out::Binary(bytes),
                    },
                    Item::Ping(span) => Out::Ping(window[span.range()].to_vec()),
                    Item::Pong(span) => Out::Pong(window[span.range()].to_vec()),
                    Item::Close(span) => {
                        let frame = close_frame(&window[span.range()]).expect("validated");
                        Out::Close(frame.map(|frame| frame.code.into()))
                    }
                });
            }
            window.drain(..step.used);
            if !more {
                break;
            }
        }
        assert!(window.len() < 14 + MAX_CONTROL, "{} bytes held back", window.len());
    }
    out
}

/// Returns a masked frame, as from a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    mask(&mut bytes[start..], [1, 2, 3, 4], 0);
    bytes
}

#[expect(clippy::cast_possible_truncation, reason = "each arm has just compared the length")]
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    bytes
}

fn text_of(text: &str) -> Out {
    Out::Text(text.to_owned())
}

/// Name, stream and expected output, for every way to cut the stream.
fn table() -> Vec<(&'static str, Vec<u8>, Vec<Out>)> {
    use Violation::*;
    let broken = |violation| vec![Out::Violation(violation)];
    let max = vec![7; LIMIT];
    vec![
        ("§5.2 a text message in one frame", frame(0x81, b"Hello"), vec![text_of("Hello")]),
        ("§5.2 a binary message of 126 bytes", frame(0x82, &[9; 126]), vec![Out::Binary(vec![9; 126])]),
        ("§5.2 an empty message is a message", frame(0x81, b""), vec![text_of("")]),
        ("§5.2 RSV1 without an extension", frame(0xc1, b""), broken(ReservedBit)),
        ("§5.2 RSV2", frame(0xa1, b""), broken(ReservedBit)),
        ("§5.2 RSV3", frame(0x91, b""), broken(ReservedBit)),
        ("§5.2 opcode 3", frame(0x83, b""), broken(ReservedOpcode(3))),
        ("§5.2 opcode 7", frame(0x87, b""), broken(ReservedOpcode(7))),
        ("§5.2 opcode 11", frame(0x8b, b""), broken(ReservedOpcode(11))),
        ("§5.2 opcode 15", frame(0x8f, b""), broken(ReservedOpcode(15))),
        ("§5.2 16 bits for what fits into 7", vec![0x82, 0xfe, 0, 125, 1, 2, 3, 4], broken(NonMinimalLength)),
        (
            "§5.2 64 bits for what fits into 16",
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4],
            broken(NonMinimalLength),
        ),
        (
            "§5.2 the most significant bit of a length must be 0",
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            broken(LengthOverflow),
        ),
        ("2^63-1", [&[0x82, 0xff, 0x7f][..], &[0xff; 7]].concat(), vec![Out::TooBig]),
        ("2^32", header(0x82, 1 << 32), vec![Out::TooBig]),
        ("2^31", header(0x82, 1 << 31), vec![Out::TooBig]),
        ("the limit", frame(0x82, &max), vec![Out::Binary(max.clone())]),
        ("one over the limit", header(0x82, LIMIT as u64 + 1), vec![Out::TooBig]),
        ("one over the limit in fragments", [frame(2, &max), header(0x80, 1)].concat(), vec![Out::TooBig]),
        (
            "§5.4 fragments make one message",
            [frame(1, b"Hel"), frame(0, b"l"), frame(0x80, b"o")].concat(),
            vec![text_of("Hello")],
        ),
        (
            "§5.4 control frames may be injected in the middle",
            [frame(1, b"a"), frame(0x89, b"now"), frame(0x80, b"b"), frame(0x8a, b"")].concat(),
            vec![Out::Ping(b"now".to_vec()), text_of("ab"), Out::Pong(Vec::new())],
        ),
        ("§5.4 a continuation of nothing", frame(0x80, b"x"), broken(UnexpectedContinuation)),
        (
            "§5.4 a continuation after the end",
            [frame(1, b"a"), frame(0x80, b"b"), frame(0, b"c")].concat(),
            vec![text_of("ab"), Out::Violation(UnexpectedContinuation)],
        ),
        (
            "§5.4 a new message inside a fragmented one",
            [frame(1, b"a"), frame(0x81, b"b")].concat(),
            broken(ExpectedContinuation),
        ),
        ("§5.5 a fragmented ping", frame(0x09, b""), broken(FragmentedControl)),
        ("§5.5 a fragmented close", frame(0x08, b""), broken(FragmentedControl)),
        ("§5.5 a ping of 125 bytes", frame(0x89, &[1; 125]), vec![Out::Ping(vec![1; 125])]),
        ("§5.5 a ping of 126 bytes, by its length byte alone", vec![0x89, 0xfe], broken(OversizeControl)),
        ("§5.5 a ping of 16 MiB, by its length byte alone", vec![0x89, 0xff], broken(OversizeControl)),
        ("§5.5.1 a close without a body", frame(0x88, b""), vec![Out::Close(None)]),
        ("§5.5.1 a close with a code", frame(0x88, &[3, 232]), vec![Out::Close(Some(1000))]),
        ("§5.5.1 a close of one byte", frame(0x88, &[3]), broken(TruncatedClose)),
        ("§7.4.2 close code 999", frame(0x88, &[3, 231]), broken(InvalidCloseCode(999))),
        ("§7.4.1 close code 1005", frame(0x88, &[3, 237]), broken(InvalidCloseCode(1005))),
        ("§7.4.1 close code 1014", frame(0x88, &[3, 246]), vec![Out::Close(Some(1014))]),
        ("§7.4.2 close code 4999", frame(0x88, &[0x13, 0x87]), vec![Out::Close(Some(4999))]),
        ("§7.4.2 close code 5000", frame(0x88, &[0x13, 0x88]), broken(InvalidCloseCode(5000))),
        ("§8.1 a close reason that is not UTF-8", frame(0x88, &[3, 232, 0xff]), broken(InvalidUtf8)),
        ("§8.1 text that is not UTF-8", frame(0x81, b"\xff"), broken(InvalidUtf8)),
        (
            "§8.1 a character may be cut by a fragment",
            [frame(1, b"\xe2\x82"), frame(0x80, b"\xac")].concat(),
            vec![text_of("€")],
        ),
        (
            "§8.1 text that ends inside a character",
            [frame(1, b"\xe2\x82"), frame(0x80, b"")].concat(),
            broken(InvalidUtf8),
        ),
        ("§5.1 a client must mask", vec![0x81, 0x05], broken(UnmaskedFrame)),
    ]
}

#[test]
fn decoding_follows_the_rfc_however_the_bytes_are_cut() {
    for (name, stream, expected) in table() {
        for piece in 1..=stream.len() {
            assert_eq!(decode(Role::Server, &stream, piece), expected, "{name}, in pieces of {piece}");
        }
    }
}

#[test]
fn a_server_must_not_mask() {
    assert_eq!(decode(Role::Client, b"\x81\x05Hello", 3), [text_of("Hello")]);
    let masked = frame(0x81, b"Hello");
    assert_eq!(decode(Role::Client, &masked, 3), [Out::Violation(Violation::MaskedFrame)]);
}

#[test]
fn a_broken_header_fails_before_its_payload() {
    // The first byte has the reserved bits and the opcode, the second the mask bit and the length of a control frame.
    for (bytes, violation) in [
        (&[0xc1][..], Violation::ReservedBit),
        (&[0x83], Violation::ReservedOpcode(3)),
        (&[0x80], Violation::UnexpectedContinuation),
        (&[0x09], Violation::FragmentedControl),
        (&[0x81, 0x05], Violation::UnmaskedFrame),
        (&[0x89, 0xfe], Violation::OversizeControl),
    ] {
        assert_eq!(decode(Role::Server, bytes, 1), [Out::Violation(violation)]);
    }
}

#[test]
fn text_fails_at_the_first_byte_that_cannot_be_utf8() {
    let mut stream = header(0x81, 500);
    let mut payload = *b"ok\xf4\x90";
    mask(&mut payload, [1, 2, 3, 4], 0);
    stream.extend_from_slice(&payload);
    assert_eq!(decode(Role::Server, &stream, 1), [Out::Violation(Violation::InvalidUtf8)]);
}

#[test]
fn empty_fragments_are_counted_and_large_messages_may_have_many() {
    let mut endless = frame(1, b"");
    for _ in 0..FREE_FRAGMENTS {
        endless.extend(frame(0, b""));
    }
    assert_eq!(decode(Role::Server, &endless, 4096), [Out::Violation(Violation::TooManyFragments)]);
    let at_the_limit = &endless[..endless.len() - 6];
    assert_eq!(decode(Role::Server, at_the_limit, 4096), []);

    let mut decoder = Decoder::new(Role::Server, 4 << 20);
    let mut first = frame(2, &[0; 64]);
    let mut rest = frame(0, &[0; 64]);
    let mut last = frame(0x80, &[0; 64]);
    assert_eq!(decoder.next(&mut first).expect("first").item, None);
    for _ in 0..(4 << 20) / 64 - 2 {
        let mut fragment = rest.clone();
        assert_eq!(decoder.next(&mut fragment).expect("4 MiB in pieces of 64 bytes").item, None);
    }
    rest.clear();
    assert_eq!(decoder.next(&mut last).expect("last").item, Some(Item::Assembled));
    assert_eq!(decoder.take().as_bytes().len(), 4 << 20);
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut decoder = Decoder::new(Role::Server, usize::MAX >> 1);
    let mut announced = header(0x82, 1 << 40);
    assert_eq!(decoder.next(&mut announced).expect("within the limit").item, None);
    assert_eq!(decoder.message.binary.capacity(), 0);
    let (_, left) = decoder.direct().expect("binary may be read directly");
    assert_eq!(left, 1 << 40);
}

#[test]
fn a_frame_that_is_read_directly_is_unmasked_at_the_right_offset() {
    let payload: Vec<u8> = (0..200).collect();
    let mut stream = frame(0x82, &payload);
    let mut tail = stream.split_off(8 + 51);
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    assert_eq!(decoder.next(&mut stream).expect("a part"), Step { used: 59, item: None });
    let (message, left) = decoder.direct().expect("inside a binary frame");
    assert_eq!(left, tail.len());
    message.append(&mut tail);
    decoder.directly_read(left);
    assert_eq!(decoder.next(&mut []).expect("whole").item, Some(Item::Assembled));
    assert_eq!(decoder.take(), Message::Binary(payload));
}

#[test]
fn the_fast_path_for_short_messages_decodes_the_same() {
    for role in [Role::Server, Role::Client] {
        for length in 0..=130 {
            for first in [0x01, 0x02, 0x80, 0x81, 0x82, 0x83, 0x89, 0x91, 0xc1] {
                let payload = vec![b'a'; length];
                let mut wire = frame(first, &payload);
                if role == Role::Client {
                    let Ok(length @ 0..=125) = u8::try_from(length) else { continue };
                    wire = [&[first, length], &payload[..]].concat();
                }
                for cut in [wire.len(), wire.len() - 1, 1, 0] {
                    for limit in [LIMIT, 100] {
                        let (mut one, mut other) = (wire[..cut].to_vec(), wire[..cut].to_vec());
                        let short = Decoder::new(role, limit).next_short(&mut one);
                        let long = Decoder::new(role, limit).next(&mut other);
                        if let Some(step) = short {
                            assert_eq!(
                                (step, one),
                                (long.expect("valid"), other),
                                "{first:02x} {length} {cut}"
                            );
                        } else {
                            assert_eq!(one, wire[..cut], "the window was changed");
                        }
                    }
                }
            }
        }
    }
}
