//! The hot paths without sockets. `.ci/instructions` counts their instructions with the program `micro` of `benches/`. This
//! is only compiled with `--cfg bench_internals`.

use crate::message::{Message, MessageRef};
use crate::protocol::decoder::{self, Decoder, Item};
use crate::protocol::{self, Role, encoder};
use crate::sync::Mutex;

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
