//! Messages through the compressor, the decoder and the decompressor. Sections are of RFC 7692.

use super::*;
use crate::error::{Error, Violation};
use crate::message::Message;
use crate::protocol::decoder::{Decoder, Item};
use crate::protocol::encoder::{self, Opcode};
use crate::protocol::noise::Noise;
use crate::protocol::{Role, mask};

/// A JSON message of about this length, as a chat would send it.
pub(crate) fn json(noise: &mut Noise, len: usize) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "price", "gold", "silver", "hello", "world", "from", "room", "left", "user", "trade", "late", "open",
    ];
    let mut text = format!("{{\"seq\":{},\"items\":[", noise.below(1_000_000));
    while text.len() < len {
        let (word, other) = (WORDS[noise.below(12)], WORDS[noise.below(12)]);
        text += &format!("{{\"id\":\"{:08x}\",\"text\":\"{word} {other}\"}},", noise.next() & 0xffff_ffff);
    }
    text.truncate(len);
    text.into_bytes()
}

fn random(noise: &mut Noise, len: usize) -> Vec<u8> {
    (0..len).map(|_| noise.next().to_le_bytes()[3]).collect()
}

fn compressor(bits: u8) -> Compressor {
    Compressor::new(6, bits).expect("9 to 15 bits")
}

const FORGETS: Direction = Direction { bits: 15, takeover: false };
const KEEPS: Direction = Direction { bits: 15, takeover: true };

/// A receiver of a server's frames.
struct Receiver {
    decoder: Decoder,
    window: Vec<u8>,
}

impl Receiver {
    fn new(peers: Direction, limit: usize) -> Self {
        let mut decoder = Decoder::new(Role::Client, limit);
        decoder.accept_compressed(peers);
        Self { decoder, window: Vec::new() }
    }

    /// Decodes bytes that arrive in pieces of this length, with a new decompressor for each message.
    fn receive(&mut self, bytes: &[u8], piece: usize) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::new();
        for piece in bytes.chunks(piece) {
            self.window.extend_from_slice(piece);
            loop {
                let step = match self.decoder.next_short(&mut self.window) {
                    Some(step) => step,
                    None => self.decoder.next(&mut self.window)?,
                };
                match step.item {
                    Some(Item::Assembled) => {
                        messages.push(self.decoder.take());
                        drop(self.decoder.take_decompressor());
                    }
                    Some(Item::Text(span)) => {
                        let text = String::from_utf8(self.window[span.range()].to_vec()).expect("UTF-8");
                        messages.push(text.into());
                    }
                    Some(Item::Binary(span)) => messages.push(self.window[span.range()].to_vec().into()),
                    _ => {}
                }
                self.window.drain(..step.used);
                if step.item.is_none() {
                    if !self.decoder.needs_decompressor() {
                        break;
                    }
                    self.decoder.lend(Decompressor::new().expect("the feature is on"))?;
                }
            }
        }
        Ok(messages)
    }

    fn receive_frame(&mut self, first: u8, payload: &[u8]) -> Result<Vec<Message>, Error> {
        self.receive(&frame(first, payload), usize::MAX)
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encoder::append(Role::Server, Opcode::Text, payload, &mut frame);
    frame[0] = first;
    frame
}

/// The first byte of a compressed text and binary message in one frame.
const TEXT: u8 = 0xc1;
const BINARY: u8 = 0xc2;

fn compressed(plain: &[u8], bits: u8, window: Option<&mut Window>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut compressor = compressor(compressor_bits(bits));
    append_compressed(Role::Server, Opcode::Binary, plain, &mut compressor, bits, window, &mut out)
        .then_some(out)
}

#[test]
fn the_examples_of_the_rfc_are_decompressed() {
    let rows: [(&str, &[u8]); 9] = [
        ("§7.2.3.1: one block", &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        ("§7.2.3.3: no compression", &[0x00, 0x05, 0x00, 0xfa, 0xff, b'H', b'e', b'l', b'l', b'o', 0x00]),
        ("§7.2.3.4: a final block", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
        ("a final block, without the byte behind it", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        (
            "§7.2.3.5: two blocks",
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ),
        ("a final block, and an empty stream", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x03, 0x00, 0x00]),
        (
            "a stream, and the example without compression",
            &[0x03, 0x00, 0x00, 0x05, 0x00, 0xfa, 0xff, b'H', b'e', b'l', b'l', b'o', 0x00],
        ),
        ("a final block without compression", &[0x01, 0x05, 0x00, 0xfa, 0xff, b'H', b'e', b'l', b'l', b'o']),
        ("an empty block first", &[0x00, 0x00, 0x00, 0xff, 0xff, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
    ];
    for peers in [FORGETS, KEEPS] {
        let mut receiver = Receiver::new(peers, 1000);
        for (name, payload) in rows {
            // Twice: the second message finds everything as the first did.
            for _ in 0..2 {
                let messages = receiver.receive_frame(TEXT, payload).expect(name);
                assert_eq!(messages, [Message::from("Hello")], "{name}");
            }
            // In two fragments, cut at each place.
            for cut in 0..=payload.len() {
                let (start, end) = payload.split_at(cut);
                let fragments = [frame(0x41, start), frame(0x89, b"ping"), frame(0x80, end)].concat();
                for piece in [1, usize::MAX] {
                    let messages = receiver.receive(&fragments, piece).expect(name);
                    assert_eq!(messages, [Message::from("Hello")], "{name}, cut at {cut}");
                }
            }
        }
    }
    // §7.2.3.2: the second message refers to the first.
    let second = [0xf2, 0x00, 0x11, 0x00, 0x00];
    let mut receiver = Receiver::new(KEEPS, 1000);
    for payload in [rows[0].1, &second, &second] {
        assert_eq!(receiver.receive_frame(TEXT, payload).expect("valid"), [Message::from("Hello")]);
    }
    let mut receiver = Receiver::new(FORGETS, 1000);
    receiver.receive_frame(TEXT, rows[0].1).expect("valid");
    let error = receiver.receive_frame(TEXT, &second).expect_err("it refers to nothing");
    assert!(matches!(error, Error::Violation(Violation::InvalidDeflate)), "{error}");
}

#[test]
fn an_empty_message_is_received_in_every_form() {
    for peers in [FORGETS, KEEPS] {
        let mut receiver = Receiver::new(peers, 1000);
        let empty: [&[u8]; 6] = [
            &[],
            &[0x00],
            &[0x02, 0x00],
            &[0x03, 0x00],
            &[0x03, 0x00, 0x00],
            &[0x00, 0x00, 0x00, 0xff, 0xff, 0x00],
        ];
        for payload in empty {
            assert_eq!(
                receiver.receive_frame(TEXT, payload).expect("valid"),
                [Message::from("")],
                "{payload:?}"
            );
            let next = compressed(b"after it, after it, after it", 15, None).expect("smaller");
            assert_eq!(receiver.receive(&next, usize::MAX).expect("valid").len(), 1);
        }
        // §7.2.3.6: an empty last fragment.
        let fragments = [frame(0x41, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), frame(0x80, &[])].concat();
        assert_eq!(receiver.receive(&fragments, 1).expect("valid"), [Message::from("Hello")]);
        let flushed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00, 0x00, 0xff, 0xff];
        for last in [&[0x00][..], &[0x02, 0x00]] {
            let fragments = [frame(0x41, &flushed), frame(0x80, last)].concat();
            assert_eq!(receiver.receive(&fragments, 1).expect("valid"), [Message::from("Hello")]);
        }
    }
}

#[test]
fn invalid_data_is_a_violation() {
    let rows: [&[u8]; 9] = [
        &[0x07],
        &[0xff, 0xff, 0xff, 0xff],
        &[0x00, 0x05, 0x00, 0xfa, 0xfe, b'H'],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, b'H', b'e'],
        &[0xf2, 0x48, 0xcd],
        &[0x03],
        &[0x4b, 0x04, 0x22, 0x00, 0x00],
        // The end of a flush was not removed.
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00, 0x00, 0xff, 0xff],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x01],
    ];
    for payload in rows {
        let error = Receiver::new(KEEPS, 1000).receive_frame(BINARY, payload).expect_err("invalid");
        assert!(matches!(error, Error::Violation(Violation::InvalidDeflate)), "{payload:?}: {error}");
        assert_eq!(u16::from(error.close_code()), 1007);
    }
}

#[test]
fn a_message_that_was_cut_off_is_found() {
    let mut noise = Noise::new(1);
    for len in [100, 300, 3000] {
        let whole = compressed(&json(&mut noise, len), 15, None).expect("smaller");
        let payload =
            encoder::frames(&[&[0x82][..], &whole[1..]].concat()).next().expect("a frame").payload.to_vec();
        for cut in 1..payload.len() {
            let error =
                Receiver::new(FORGETS, 10_000).receive_frame(BINARY, &payload[..cut]).expect_err("cut off");
            assert!(matches!(error, Error::Violation(Violation::InvalidDeflate)), "{cut}: {error}");
        }
    }
}

#[test]
fn a_flipped_bit_ends_in_a_message_or_a_violation() {
    let mut noise = Noise::new(2);
    for _ in 0..200 {
        let len = 100 + noise.below(100);
        let whole = compressed(&json(&mut noise, len), 15, None).expect("smaller");
        for bit in 0..8 * (whole.len() - 4) {
            let mut bytes = whole.clone();
            bytes[4 + bit / 8] ^= 1 << (bit % 8);
            match Receiver::new(FORGETS, 1000).receive(&bytes, 100) {
                Ok(messages) => assert!(messages.iter().all(|message| message.as_bytes().len() <= 1000)),
                Err(Error::Violation(_) | Error::MessageTooBig { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_bomb_stops_one_byte_behind_the_limit() {
    for limit in [1, 2, 8191, 8192, 8193, 100_000] {
        let exact = vec![b'x'; limit];
        let over = vec![b'x'; limit + 1];
        let payload = |plain: &[u8]| {
            compressor(15).compress(&[], plain).unwrap_or_else(|| {
                let len = u8::try_from(plain.len()).expect("a short one");
                let mut stored = vec![0, len, 0, !len, 0xff];
                stored.extend_from_slice(plain);
                stored.push(0);
                stored
            })
        };
        for first in [TEXT, BINARY] {
            let mut receiver = Receiver::new(KEEPS, limit);
            let messages = receiver.receive_frame(first, &payload(&exact)).expect("as long as the limit");
            assert_eq!(messages[0].as_bytes(), exact);
            let error = receiver.receive_frame(first, &payload(&over)).expect_err("one byte too many");
            assert!(matches!(error, Error::MessageTooBig { .. }), "{error}");
            assert_eq!(receiver.decoder.assembled().as_bytes().len(), limit + 1, "no more was made");
        }
        let bomb = payload(&vec![0; 5_000_000]);
        let third = bomb.len() / 3;
        let fragments =
            [frame(0x42, &bomb[..third]), frame(0, &bomb[third..2 * third]), frame(0x80, &bomb[2 * third..])];
        let error = Receiver::new(KEEPS, limit).receive(&fragments.concat(), 7).expect_err("a bomb");
        assert!(matches!(error, Error::MessageTooBig { .. }), "{error}");
    }
}

#[test]
fn compressed_bytes_have_a_limit_of_their_own() {
    // A compressor makes noise a little longer: that is not too big.
    let mut noise = Noise::new(3);
    let plain = random(&mut noise, 5000);
    let mut stored = Vec::new();
    for chunk in plain.chunks(100) {
        stored.extend_from_slice(&[0, 100, 0, 155, 255]);
        stored.extend_from_slice(chunk);
    }
    stored.push(0);
    let messages = Receiver::new(FORGETS, 5000).receive_frame(BINARY, &stored).expect("the limit is 5000");
    assert_eq!(messages[0].as_bytes(), plain);
    // Refused at the header: 1000 + 125 + 64.
    let header = |len: u16| [&[BINARY, 126][..], &len.to_be_bytes()].concat();
    assert_eq!(Receiver::new(FORGETS, 1000).receive(&header(1189), 10).expect("it may be all right"), []);
    let error = Receiver::new(FORGETS, 1000).receive(&header(1190), 10).expect_err("never all right");
    assert!(matches!(error, Error::MessageTooBig { limit: 1000 }), "{error}");
    // All fragments together.
    let fragments = [frame(0x42, &[0, 0, 0, 0xff, 0xff].repeat(200)), header(190)].concat();
    let mut receiver = Receiver::new(FORGETS, 1000);
    assert!(
        receiver.receive(&[&fragments[..fragments.len() - 4], &[0x80, 126, 0, 189]].concat(), 100).is_ok()
    );
    let error = Receiver::new(FORGETS, 1000)
        .receive(&[&fragments[..fragments.len() - 4], &[0x80, 126, 0, 190]].concat(), 100)
        .expect_err("one byte too many");
    assert!(matches!(error, Error::MessageTooBig { .. }), "{error}");
}

#[test]
fn only_the_first_frame_of_a_message_has_the_bit() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for first in [0xc8, 0xc9, 0xca, 0xc0, 0x40, 0xa1, 0x91, 0xe1, 0xd1, 0xf2] {
        let error = Receiver::new(KEEPS, 1000).receive_frame(first, &hello).expect_err("not allowed there");
        assert!(matches!(error, Error::Violation(Violation::ReservedBit)), "{first:x}: {error}");
    }
    let fragments = [frame(0x41, &hello[..3]), frame(0xc0, &hello[3..])].concat();
    let error = Receiver::new(KEEPS, 1000).receive(&fragments, 1).expect_err("a continuation with the bit");
    assert!(matches!(error, Error::Violation(Violation::ReservedBit)), "{error}");
    let mut plain = Decoder::new(Role::Client, 1000);
    let error = plain.next(&mut frame(TEXT, &hello)).expect_err("nothing was agreed");
    assert!(matches!(error, Error::Violation(Violation::ReservedBit)), "{error}");
    // Plain messages between compressed ones.
    let mut receiver = Receiver::new(KEEPS, 1000);
    let all = [
        frame(TEXT, &hello),
        frame(0x81, b"plain"),
        frame(0x01, b"pl"),
        frame(0x80, b"ain"),
        frame(TEXT, &[0xf2, 0x00, 0x11, 0x00, 0x00]),
    ];
    let messages = receiver.receive(&all.concat(), 3).expect("valid");
    assert_eq!(messages, ["Hello", "plain", "plain", "Hello"].map(Message::from));
}

#[test]
fn invalid_text_is_found_before_the_rest_is_decompressed() {
    let mut plain = vec![b'a'; 1_000_000];
    plain[70_000] = 0xff;
    let payload = compressor(15).compress(&[], &plain).expect("smaller");
    let mut receiver = Receiver::new(FORGETS, 2_000_000);
    let error = receiver.receive_frame(TEXT, &payload).expect_err("not UTF-8");
    assert!(matches!(error, Error::Violation(Violation::InvalidUtf8)), "{error}");
    assert!(receiver.decoder.assembled().as_bytes().len() < 80_000);
    let error = Receiver::new(FORGETS, 100)
        .receive_frame(
            TEXT,
            &compressor(15)
                .compress(&[], &[b'a', b'a', b'a', b'a', b'a', b'a', b'a', b'a', b'a', 0xe2])
                .unwrap_or_else(|| vec![0, 1, 0, 0xfe, 0xff, 0xe2, 0]),
        )
        .expect_err("the last character is not complete");
    assert!(matches!(error, Error::Violation(Violation::InvalidUtf8)), "{error}");
}

#[test]
fn messages_of_all_kinds_come_through_with_and_without_takeover() {
    for bits in [8, 9, 10, 12, 15] {
        for takeover in [false, true] {
            let takeover = takeover && bits > 8;
            let mut noise = Noise::new(u64::from(bits));
            let mut window = takeover.then(|| Window::new(bits));
            let mut receiver = Receiver::new(Direction { bits, takeover }, 100_000);
            let (mut plain_frames, mut compressed_frames) = (0, 0);
            for _ in 0..200 {
                let len = [1, 60, 250, 257, 900, 5000, 40_000][noise.below(7)];
                let message = match noise.below(4) {
                    0 => random(&mut noise, len),
                    _ => json(&mut noise, len),
                };
                let mut out = Vec::new();
                // One compressed against the window, one for many peers, or a plain one.
                let kind = noise.below(3);
                let window = window.as_mut();
                let is_compressed = match kind {
                    0 => compressed(&message, bits, window).map(|frame| out = frame).is_some(),
                    1 => compressed(&message, bits, None).map(|frame| out = frame).is_some_and(|()| {
                        window.map(Window::clear);
                        true
                    }),
                    _ => false,
                };
                if is_compressed {
                    compressed_frames += 1;
                    assert!(out.len() < message.len() + 2, "not smaller");
                } else {
                    plain_frames += 1;
                    encoder::append(Role::Server, Opcode::Binary, &message, &mut out);
                }
                let piece = [1, 100, usize::MAX][noise.below(3)];
                let messages = receiver.receive(&out, piece).expect("valid");
                assert_eq!(messages, [Message::Binary(message)], "{bits} bits, kind {kind}");
            }
            assert!(plain_frames > 20 && compressed_frames > 10, "{plain_frames}, {compressed_frames}");
        }
    }
}

#[test]
fn a_client_masks_what_it_has_compressed() {
    let plain = json(&mut Noise::new(4), 1000);
    let mut out = Vec::new();
    assert!(append_compressed(Role::Client, Opcode::Text, &plain, &mut compressor(12), 12, None, &mut out));
    assert_eq!(out[0], TEXT);
    let mut decoder = Decoder::new(Role::Server, 2000);
    decoder.accept_compressed(FORGETS);
    let first = decoder.next(&mut out).expect("valid");
    assert!(decoder.needs_decompressor() && first.item.is_none());
    decoder.lend(Decompressor::new().expect("the feature is on")).expect("no window");
    assert_eq!(decoder.next(&mut out[first.used..]).expect("valid").item, Some(Item::Assembled));
    assert_eq!(decoder.assembled().as_bytes(), plain);
    mask(&mut out, [0; 4], 0);
}

/// zlib writes one more marker with each call that has too little room.
#[test]
fn little_room_ends_in_one_call() {
    let mut noise = Noise::new(5);
    let mut used = compressor(12);
    for len in 0..3000 {
        for plain in [json(&mut noise, len), random(&mut noise, len), vec![0; len]] {
            let Some(payload) = used.compress(&[], &plain) else { continue };
            assert!(payload.len() < len);
            let messages = Receiver::new(FORGETS, 3000).receive_frame(BINARY, &payload).expect("valid");
            assert_eq!(messages[0].as_bytes(), plain);
        }
    }
}

#[test]
fn a_used_compressor_gives_the_same_as_a_new_one() {
    for (level, bits) in [(1, 12), (2, 12), (6, 9), (6, 12), (6, 15), (9, 12)] {
        let mut noise = Noise::new(u64::from(level + bits));
        let mut used = Compressor::new(level, bits).expect("9 to 15 bits");
        for _ in 0..200 {
            let len = 3 + noise.below(4000);
            let plain = if noise.below(4) == 0 { random(&mut noise, len) } else { json(&mut noise, len) };
            let len = noise.below((1 << bits) + 1);
            let window = if noise.below(2) == 0 { json(&mut noise, len) } else { Vec::new() };
            let new = Compressor::new(level, bits).expect("9 to 15 bits").compress(&window, &plain);
            assert!(
                used.compress(&window, &plain) == new,
                "level {level}, {bits} bits, a window of {}",
                window.len()
            );
        }
    }
}

#[test]
fn a_batch_is_compressed_message_by_message() {
    let mut noise = Noise::new(6);
    let mut frames = Vec::new();
    let mut plain = Vec::new();
    for len in [10, 600, 40, 70_000, 0, 512, 511] {
        let message = json(&mut noise, len);
        encoder::append(Role::Server, Opcode::Binary, &message, &mut frames);
        plain.push(Message::Binary(message));
    }
    let noisy = random(&mut noise, 2000);
    encoder::append(Role::Server, Opcode::Binary, &noisy, &mut frames);
    plain.push(Message::Binary(noisy));
    encoder::append(Role::Server, Opcode::Text, b"the last one", &mut frames);
    plain.push("the last one".into());
    for takeover in [false, true] {
        let mut window = takeover.then(|| Window::new(12));
        let (out, saved) =
            compress_frames(&frames, 512, &mut compressor(12), 12, window.as_mut()).expect("smaller");
        assert_eq!((saved.messages, saved.plain_bytes), (3, 600 + 70_000 + 512));
        assert!(out.len() < frames.len() / 2);
        let mut receiver = Receiver::new(Direction { bits: 12, takeover }, 100_000);
        assert_eq!(receiver.receive(&out, 1000).expect("valid"), plain);
        assert_eq!(receiver.decoder.saved().plain_bytes, saved.plain_bytes);
    }
    let mut short = Vec::new();
    encoder::append(Role::Server, Opcode::Text, b"x", &mut short);
    assert!(compress_frames(&short, 1, &mut compressor(12), 12, None).is_none(), "nothing is smaller");
}
