//! Random streams as from a peer, mostly valid, and cut anywhere. The seed of a failure is printed; it gives the same stream
//! again.

use super::*;
use crate::protocol::mask;
use crate::protocol::noise::Noise;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

const STREAMS: u64 = 5000;
/// One of this number of streams is long: with many fragments, or with payloads of several reads.
const LONG: u64 = 200;

#[test]
fn the_decoder_agrees_with_tungstenite_except_for_named_differences() {
    let mut counts: BTreeMap<Difference, u32> = BTreeMap::new();
    let (mut events, mut unbroken) = (0, 0);
    for seed in 0..STREAMS {
        let mut peer = Peer::new(seed);
        match seed % LONG {
            0 => peer.send_many_fragments(),
            1 => peer.send_large_messages(),
            _ => peer.send_mixed(),
        }
        let Peer { bytes, setting, .. } = peer;
        let differences = catch_unwind(AssertUnwindSafe(|| compare(&bytes, &setting)));
        let Ok(differences) = differences else { panic!("the seed is {seed}") };
        for difference in differences {
            *counts.entry(difference).or_default() += 1;
        }
        let seen = reader::ours(&bytes, &setting);
        events += seen.len();
        unbroken += u64::from(!matches!(seen.last().map(|read| &read.event), Some(Decoded::Broken(_))));
    }
    println!("{STREAMS} streams, {unbroken} of them without an error; {events} events; {counts:?}");
    assert!(unbroken * 3 > STREAMS, "too few streams are valid: {unbroken}");
    for difference in Difference::ALL {
        assert!(counts.contains_key(&difference), "{difference:?} did not occur: is it still a difference?");
    }
}

/// A peer, and the bytes that it has sent.
struct Peer {
    noise: Noise,
    setting: Setting,
    bytes: Vec<u8>,
}

/// How the length of a frame is encoded.
#[derive(Clone, Copy)]
enum LengthForm {
    Minimal,
    Bits16,
    Bits64,
    /// With the top bit set.
    Overflow,
}

impl Peer {
    fn new(seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let pieces = match noise.below(4) {
            0 => vec![usize::MAX],
            1 => vec![1 + noise.below(4)],
            _ => (0..7).map(|_| 1 + noise.below(300)).collect(),
        };
        let buffers = [
            (MIN_WINDOW, 512, 1),
            (MIN_WINDOW + 1, MIN_WINDOW, 30),
            (256, 1024, 64),
            (4096, 128 * 1024, 16 * 1024),
        ];
        let (idle_buffer, bulk_buffer, direct) = buffers[noise.below(buffers.len())];
        let setting = Setting {
            role: [Role::Server, Role::Client][noise.below(2)],
            max_message: [1, 20, 125, 126, 400, 1000, 5000, 70_000][noise.below(8)],
            idle_buffer,
            bulk_buffer,
            direct,
            lend: noise.below(2) == 0,
            pieces,
        };
        Self { noise, setting, bytes: Vec::new() }
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.noise.below(count) == 0
    }

    fn byte(&mut self) -> u8 {
        self.noise.next().to_le_bytes()[3]
    }

    /// Sends frames. Most are valid, some are cut or have a wrong bit.
    fn send_mixed(&mut self) {
        for _ in 0..=self.noise.below(8) {
            match self.noise.below(16) {
                0 | 1 => self.send_control(),
                2 => self.send_close(),
                _ => self.send_message(),
            }
        }
        if self.one_in(8) {
            let at = self.noise.below(self.bytes.len());
            self.bytes[at] ^= 1 << self.noise.below(8);
        }
        if self.one_in(10) {
            for _ in 0..self.noise.below(20) {
                let byte = self.byte();
                self.bytes.push(byte);
            }
        }
        if self.one_in(4) {
            let length = self.noise.below(self.bytes.len());
            self.bytes.truncate(length);
        }
    }

    /// Sends a message in one frame or in several, with control frames between them.
    fn send_message(&mut self) {
        let is_text = self.noise.below(3) > 0;
        let length = self.length(self.setting.max_message.min(2000));
        let payload = if is_text { self.text(length) } else { vec![0xff; length] };
        let fragments = if self.one_in(2) { 1 } else { 1 + self.noise.below(5) };
        let mut rest = payload.as_slice();
        for fragment in 0..fragments {
            let last = fragment + 1 == fragments && !self.one_in(60);
            let (piece, behind) =
                rest.split_at(if last { rest.len() } else { self.noise.below(rest.len() + 1) });
            rest = behind;
            let opcode = if fragment > 0 && !self.one_in(100) { 0 } else { 2 - u8::from(is_text) };
            let form = match self.noise.below(200) {
                0 => LengthForm::Bits16,
                _ if (120..130).contains(&piece.len()) && self.one_in(4) => LengthForm::Bits16,
                1 => LengthForm::Bits64,
                2 => LengthForm::Overflow,
                _ => LengthForm::Minimal,
            };
            self.send_frame(opcode | if last { 0x80 } else { 0 }, form, piece);
            if self.one_in(8) {
                self.send_control();
            }
        }
    }

    fn send_control(&mut self) {
        let length = if self.one_in(40) { 124 + self.noise.below(4) } else { self.noise.below(10) };
        let first = [0x89, 0x8a][self.noise.below(2)] & if self.one_in(60) { 0x7f } else { 0xff };
        let form = [LengthForm::Bits16, LengthForm::Bits64, LengthForm::Minimal][self.noise.below(80).min(2)];
        self.send_frame(first, form, &vec![b'p'; length]);
    }

    fn send_close(&mut self) {
        const CODES: [u16; 17] = [
            0, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000,
        ];
        let mut payload = Vec::new();
        if !self.one_in(5) {
            let code = CODES[self.noise.below(CODES.len())] ^ u16::from(self.one_in(8)) << 12;
            payload.extend_from_slice(&code.to_be_bytes());
            let length = if self.one_in(4) { 123 } else { self.noise.below(8) };
            payload.extend(self.text(length));
            if self.one_in(10) {
                payload.truncate(self.noise.below(payload.len()));
            }
        }
        self.send_frame(0x88, LengthForm::Minimal, &payload);
    }

    /// Sends about as many fragments as allowed, in one message or in two.
    fn send_many_fragments(&mut self) {
        self.setting.max_message = 70_000;
        let piece = vec![b'x'; self.noise.below(3)];
        let bound = 4096 + 4096 * piece.len() / 15;
        let counts = if self.one_in(2) { [bound / 2, bound / 2 + 10] } else { [bound - 50, 0] };
        for count in counts {
            let count = count + self.noise.below(150);
            self.append_frame(1, LengthForm::Minimal, false, b"");
            for _ in 0..count {
                self.append_frame(0, LengthForm::Minimal, false, &piece);
            }
            self.append_frame(0x80, LengthForm::Minimal, false, b"");
        }
    }

    /// Sends payloads that are larger than the window, of sizes where the encoding of the length changes.
    fn send_large_messages(&mut self) {
        self.setting.max_message = [40_000, 140_000][self.noise.below(2)];
        for first in [[2, 0x82, 0x81][self.noise.below(3)], 0x80] {
            let length = [0xffff, 0x1_0000, 40_000, 20_000][self.noise.below(4)];
            let form = if self.one_in(2) { LengthForm::Bits64 } else { LengthForm::Minimal };
            self.append_frame(first, form, false, &vec![b'y'; length]);
        }
    }

    /// Sends a frame, rarely with a header that breaks a rule.
    fn send_frame(&mut self, first: u8, form: LengthForm, payload: &[u8]) {
        let first = match self.noise.below(200) {
            0 => first | 0x10 << self.noise.below(3),
            1 => (first & 0xf0) | (self.byte() & 0x0f),
            2 => first & 0xf0,
            _ => first,
        };
        let wrong_mask = self.one_in(400);
        self.append_frame(first, form, wrong_mask, payload);
    }

    #[expect(clippy::cast_possible_truncation, reason = "each arm has just compared the length")]
    fn append_frame(&mut self, first: u8, form: LengthForm, wrong_mask: bool, payload: &[u8]) {
        let masked = (self.setting.role == Role::Server) != wrong_mask;
        let mask_bit = if masked { 0x80 } else { 0 };
        self.bytes.push(first);
        match (form, payload.len()) {
            (LengthForm::Minimal, length @ ..=125) => self.bytes.push(mask_bit | length as u8),
            (LengthForm::Minimal | LengthForm::Bits16, length @ ..=0xffff) => {
                self.bytes.push(mask_bit | 126);
                self.bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            (form, length) => {
                let top = if matches!(form, LengthForm::Overflow) { 1 << 63 } else { 0 };
                self.bytes.push(mask_bit | 127);
                self.bytes.extend_from_slice(&(length as u64 | top).to_be_bytes());
            }
        }
        let key = if masked { [self.byte(), self.byte(), self.byte(), self.byte()] } else { [0; 4] };
        if masked {
            self.bytes.extend_from_slice(&key);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        mask(&mut self.bytes[start..], key, 0);
    }

    fn length(&mut self, max: usize) -> usize {
        match self.noise.below(40) {
            0 => 125 + self.noise.below(3),
            1 => max,
            2 => max + 1,
            3 => 0,
            4 | 5 => self.noise.below(max),
            _ => self.noise.below(max.min(30)),
        }
    }

    /// Returns at most `length` bytes of UTF-8, rarely with an invalid one.
    fn text(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::new();
        loop {
            let next: &[u8] = match self.noise.below(1000) {
                0 => b"\xff",
                1 => b"\xed\xa0\x80",
                2 => b"\xf4\x90\x80\x80",
                3 => b"\xe2\x82",
                4..200 => "é".as_bytes(),
                200..400 => "안".as_bytes(),
                400..500 => "🐸".as_bytes(),
                _ => b"a",
            };
            if text.len() + next.len() > length {
                return text;
            }
            text.extend_from_slice(next);
        }
    }
}
