//! The fuzz targets of compression. The first bytes of an input choose settings.

use crate::deflate::Deflate;
use crate::message::CloseCode;
use crate::protocol::Role;
use crate::protocol::decoder::{Decoder, Item};
use crate::protocol::deflate::{
    Compressor, Decompressor, Direction, Window, agree, answer, append_compressed, compressor_bits, offer,
};
use crate::protocol::encoder::{self, Opcode};
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderValue};

/// A server's answer is what it has agreed on, and a client checks any answer.
pub fn extensions(input: &[u8]) {
    let [flags, bytes @ ..] = input else { return };
    let settings = Deflate::new()
        .window_bits(9 + (flags & 7).min(6))
        .context_takeover(flags & 8 != 0)
        .peer_context_takeover(flags & 16 != 0);
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(SEC_WEBSOCKET_EXTENSIONS, value);
    }
    agree(&headers, None).ok();
    agree(&headers, Some(&settings)).ok();
    let Some((server, value)) = answer(&headers, &settings) else { return };
    assert!(server.ours.bits <= 15 && server.peers.bits <= 15);
    let mut response = HeaderMap::new();
    response.insert(SEC_WEBSOCKET_EXTENSIONS, value);
    let widest = Deflate::new().window_bits(15).context_takeover(true);
    let client = agree(&response, Some(&widest)).expect("a valid answer").expect("an agreement");
    assert_eq!(client.peers.takeover, server.ours.takeover);
    assert!(client.peers.bits >= server.ours.bits);
    assert!(!client.ours.takeover || (server.peers.takeover && client.ours.bits <= server.peers.bits));
    assert!(offer(&settings).starts_with("permessage-deflate"));
}

/// Any compressed bytes give the same message or the same close code, however they are cut, and never more than the limit.
pub fn unpack(input: &[u8]) {
    let [flags, piece, bytes @ ..] = input else { return };
    let limit = [1, 20, 1000, 20_000][usize::from(flags & 3)];
    let opcode = if flags & 4 == 0 { Opcode::CompressedText } else { Opcode::CompressedBinary };
    let mut frame = Vec::new();
    encoder::append(Role::Server, opcode, bytes, &mut frame);
    let whole = received(&frame, usize::MAX, limit);
    let pieces = received(&frame, usize::from(*piece) + 1, limit);
    assert_eq!(whole, pieces);
    if let Ok(message) = whole {
        assert!(message.len() <= limit);
    }
}

/// Decodes one frame twice, so that the second message has the first in its window. Returns the first message.
fn received(frame: &[u8], piece: usize, limit: usize) -> Result<Vec<u8>, CloseCode> {
    let mut decoder = Decoder::new(Role::Client, limit);
    decoder.accept_compressed(Direction { bits: 15, takeover: true });
    let mut messages = Vec::new();
    let mut window = Vec::new();
    let stream = frame.repeat(2);
    for bytes in stream.chunks(piece.min(stream.len())) {
        window.extend_from_slice(bytes);
        loop {
            let step = match decoder.next(&mut window) {
                Ok(step) => step,
                // Only the first message is compared.
                Err(_) if !messages.is_empty() => return Ok(messages.swap_remove(0)),
                Err(error) => {
                    assert!(decoder.assembled().as_bytes().len() <= limit + 1);
                    return Err(error.close_code());
                }
            };
            window.drain(..step.used);
            if step.item == Some(Item::Assembled) {
                messages.push(decoder.take().into_bytes());
                drop(decoder.take_decompressor());
            } else if decoder.needs_decompressor() {
                drop(decoder.lend(Decompressor::new().expect("the feature is on")));
            } else {
                break;
            }
        }
    }
    messages.into_iter().next().ok_or(CloseCode::ABNORMAL)
}

/// Messages of every kind come through, whatever was compressed before them.
pub fn pack(input: &[u8]) {
    let [flags, bytes @ ..] = input else { return };
    let bits = 8 + (flags & 7);
    let takeover = flags & 8 != 0 && bits > 8;
    let level = 1 + (flags >> 4) % 9;
    let mut compressor = Compressor::new(level, compressor_bits(bits)).expect("valid settings");
    let mut window = takeover.then(|| Window::new(bits));
    let mut decoder = Decoder::new(Role::Client, usize::MAX);
    decoder.accept_compressed(Direction { bits, takeover });
    // The first byte of each message is its kind, and how often it is repeated.
    for part in bytes.split(|byte| *byte == 0xff) {
        let [kind, text @ ..] = part else { continue };
        let plain = text.repeat(usize::from(kind >> 2) + 1);
        let mut frame = Vec::new();
        let own = if kind & 1 == 0 { window.as_mut() } else { None };
        let is_shared = own.is_none();
        let is_compressed = kind & 2 == 0
            && !plain.is_empty()
            && append_compressed(
                Role::Server,
                Opcode::Binary,
                &plain,
                &mut compressor,
                bits,
                own,
                &mut frame,
            );
        if !is_compressed {
            encoder::append(Role::Server, Opcode::Binary, &plain, &mut frame);
        } else if let Some(window) = window.as_mut().filter(|_| is_shared) {
            window.clear();
        }
        let mut step = decoder.next(&mut frame).expect("valid");
        let mut used = step.used;
        while decoder.needs_decompressor() {
            decoder.lend(Decompressor::new().expect("the feature is on")).expect("a valid window");
            step = decoder.next(&mut frame[used..]).expect("valid");
            used += step.used;
        }
        match step.item {
            Some(Item::Assembled) => assert!(decoder.take().into_bytes() == plain),
            Some(Item::Binary(span)) => assert!(frame[span.range()] == plain),
            item => panic!("{item:?}"),
        }
        drop(decoder.take_decompressor());
    }
}
