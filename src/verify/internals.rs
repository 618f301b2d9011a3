//! The hot paths without sockets. `.ci/instructions` counts their instructions with the program `micro` of `benches/`. This
//! is only compiled with `--cfg bench_internals`.

use crate::message::{Message, MessageRef};
use crate::protocol::decoder::{self, Decoder, Item};
use crate::protocol::deflate::{Compressor, Decompressor, Direction, Window, append_compressed};
use crate::protocol::encoder::Opcode;
use crate::protocol::{self, Role, encoder};
use crate::sync::Mutex;

/// The default window.
const BITS: u8 = 12;

/// A decoder, and encoded frames behind a lock.
#[derive(Debug)]
pub struct EchoPath {
    decoder: Decoder,
    frames: Mutex<Vec<u8>>,
}

impl Default for EchoPath {
    fn default() -> Self {
        Self { decoder: Decoder::new(Role::Server, 64 << 20), frames: Mutex::new(Vec::new()) }
    }
}

impl EchoPath {
    /// Decodes all messages in `window`.
    pub fn decode(&mut self, window: &mut [u8]) -> usize {
        self.for_each(window, |_, _| {})
    }

    /// Decodes all messages in `window`, and encodes each of them without a copy.
    pub fn echo_borrowed(&mut self, window: &mut [u8]) -> usize {
        let messages = self.for_each(window, |frames, message| {
            encoder::append(Role::Server, message.into(), message.as_bytes(), &mut frames.lock());
        });
        self.frames.lock().clear();
        messages
    }

    /// Decodes all messages in `window`, and encodes a copy of each.
    pub fn echo_owned(&mut self, window: &mut [u8]) -> usize {
        let messages = self.for_each(window, |frames, message| {
            let message = std::hint::black_box(Message::from(message));
            let view = MessageRef::from(&message);
            encoder::append(Role::Server, view.into(), view.as_bytes(), &mut frames.lock());
        });
        self.frames.lock().clear();
        messages
    }

    #[inline]
    fn for_each(&mut self, window: &mut [u8], handle: impl Fn(&Mutex<Vec<u8>>, MessageRef<'_>)) -> usize {
        let (mut at, mut messages) = (0, 0);
        loop {
            // As in the connection's reader: the fast path first.
            let step = match self.decoder.next_short(&mut window[at..]) {
                Some(step) => step,
                None => match self.decoder.next(&mut window[at..]) {
                    Ok(step) => step,
                    Err(_) => break,
                },
            };
            let rest = &window[at..];
            let message = match step.item {
                Some(Item::Binary(span)) => MessageRef::Binary(&rest[span.range()]),
                Some(Item::Text(span)) => match decoder::text(&rest[span.range()]) {
                    Ok(text) => MessageRef::Text(text),
                    Err(_) => break,
                },
                Some(Item::Assembled) => self.decoder.assembled(),
                _ => break,
            };
            handle(&self.frames, message);
            messages += 1;
            at += step.used;
        }
        messages
    }
}

/// Masks `bytes` (RFC 6455 §5.3).
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    protocol::mask(bytes, key, 0);
}

/// Compresses and decompresses messages as a connection does, with the settings' defaults.
#[derive(Debug)]
pub struct CompressionPath {
    messages: Vec<Vec<u8>>,
    /// The same, compressed by a server.
    frames: Vec<Vec<u8>>,
    compressor: Compressor,
    window: Window,
    decoder: Decoder,
    decompressor: Option<Decompressor>,
    out: Vec<u8>,
}

impl CompressionPath {
    /// Returns `None` without the feature `deflate`.
    pub fn new(messages: Vec<Vec<u8>>) -> Option<Self> {
        let mut decoder = Decoder::new(Role::Client, 1 << 20);
        decoder.accept_compressed(Direction { bits: 15, takeover: false });
        let mut path = Self {
            messages,
            frames: Vec::new(),
            compressor: Compressor::new(6, BITS)?,
            window: Window::new(BITS),
            decoder,
            decompressor: Some(Decompressor::new()?),
            out: Vec::new(),
        };
        for message in 0..path.messages.len() {
            path.compress_one(message, false);
            path.frames.push(path.out.clone());
        }
        Some(path)
    }

    /// Compresses all messages. With `takeover` they refer to those before them.
    pub fn compress(&mut self, takeover: bool) -> usize {
        (0..self.messages.len()).filter(|message| self.compress_one(*message, takeover)).count()
    }

    fn compress_one(&mut self, message: usize, takeover: bool) -> bool {
        self.out.clear();
        let (plain, window) = (&self.messages[message], takeover.then_some(&mut self.window));
        let compressor = &mut self.compressor;
        append_compressed(Role::Server, Opcode::Text, plain, compressor, BITS, window, &mut self.out)
    }

    /// Decodes all messages.
    pub fn decompress(&mut self) -> usize {
        let mut messages = 0;
        for frame in &mut self.frames {
            let mut at = 0;
            while let Ok(step) = self.decoder.next(&mut frame[at..]) {
                at += step.used;
                messages += usize::from(step.item == Some(Item::Assembled));
                if at == frame.len() {
                    break;
                }
                let Some(decompressor) = self.decompressor.take() else { break };
                if self.decoder.lend(decompressor).is_err() {
                    break;
                }
            }
            self.decompressor = self.decoder.take_decompressor();
        }
        messages
    }
}
