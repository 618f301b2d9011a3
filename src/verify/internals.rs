//! The hot paths without their sockets, for `benches/`, which counts their instructions. Not part of the crate: it is
//! compiled only with `--cfg bench_internals`.

use crate::message::MessageRef;
use crate::protocol::decoder::{self, Decoder, Item};
use crate::protocol::{self, Role, encoder};
use crate::sync::Mutex;

/// A decoder, and a lock with what was encoded under it.
#[derive(Debug)]
pub struct Path {
    decoder: Decoder,
    frames: Mutex<Vec<u8>>,
}

impl Default for Path {
    fn default() -> Self {
        Self { decoder: Decoder::new(Role::Server, 64 << 20), frames: Mutex::new(Vec::new()) }
    }
}

impl Path {
    /// Takes `window` apart.
    pub fn decode(&mut self, window: &mut [u8]) -> usize {
        self.each(window, |_, _| {})
    }

    /// Takes `window` apart, and encodes each message from where it lies.
    pub fn echo_borrowed(&mut self, window: &mut [u8]) -> usize {
        let messages = self.each(window, |frames, message| {
            encoder::append(Role::Server, message.into(), message.as_bytes(), &mut frames.lock());
        });
        self.frames.lock().clear();
        messages
    }

    /// Takes `window` apart, and encodes each message from a copy.
    pub fn echo_owned(&mut self, window: &mut [u8]) -> usize {
        let messages = self.each(window, |frames, message| {
            let message = std::hint::black_box(message.to_message());
            let view = message.borrow();
            encoder::append(Role::Server, view.into(), view.as_bytes(), &mut frames.lock());
        });
        self.frames.lock().clear();
        messages
    }

    #[inline]
    fn each(&mut self, window: &mut [u8], take: impl Fn(&Mutex<Vec<u8>>, MessageRef<'_>)) -> usize {
        let (mut at, mut messages) = (0, 0);
        while let Ok(step) = self.decoder.next(&mut window[at..]) {
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
            take(&self.frames, message);
            messages += 1;
            at += step.used;
        }
        messages
    }
}

/// RFC 6455 §5.3.
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    protocol::mask(bytes, key, 0);
}
