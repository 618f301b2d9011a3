//! Parses frames without checking rules, to find out which rules a frame breaks.

use super::{Rule, Setting};
use crate::error::Violation;
use crate::protocol::{Role, mask};

/// A frame's header, and its place in a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawFrame {
    start: usize,
    payload: usize,
    first: u8,
    second: u8,
    length: u64,
    key: Option<[u8; 4]>,
    /// The state of the unfinished message before this frame.
    before: MessageSoFar,
}

#[derive(Debug, Clone, Copy, Default)]
struct MessageSoFar {
    open: bool,
    bytes: u64,
    fragments: u64,
}

/// All frames with a complete header.
#[derive(Debug)]
pub(super) struct RawFrames<'a> {
    bytes: &'a [u8],
    at: usize,
    progress: MessageSoFar,
}

impl<'a> RawFrames<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, progress: MessageSoFar::default() }
    }
}

impl Iterator for RawFrames<'_> {
    type Item = RawFrame;

    fn next(&mut self) -> Option<RawFrame> {
        let bytes = self.bytes.get(self.at..)?;
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (length, size) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
            short => (u64::from(short), 2),
        };
        let key = if second & 0x80 != 0 { Some(bytes.get(size..size + 4)?.try_into().ok()?) } else { None };
        let payload = self.at + size + if key.is_some() { 4 } else { 0 };
        let frame = RawFrame { start: self.at, payload, first, second, length, key, before: self.progress };
        if frame.opcode() < 8 {
            if frame.opcode() != 0 {
                self.progress = MessageSoFar::default();
            }
            self.progress.open = !frame.is_final();
            self.progress.bytes = self.progress.bytes.saturating_add(length);
            self.progress.fragments += 1;
        }
        self.at = frame.end();
        Some(frame)
    }
}

impl RawFrame {
    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    fn is_control(&self) -> bool {
        self.opcode() >= 8
    }

    fn end(&self) -> usize {
        usize::try_from(self.length).map_or(usize::MAX, |length| self.payload.saturating_add(length))
    }

    pub(super) fn holds(&self, at: usize) -> bool {
        (self.start..self.end()).contains(&at)
    }

    pub(super) fn begins_before(&self, end: usize) -> bool {
        self.start < end
    }

    fn close_payload(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut payload = bytes.get(self.payload..self.end()).filter(|_| self.opcode() == 8)?.to_vec();
        mask(&mut payload, self.key.unwrap_or_default(), 0);
        Some(payload)
    }

    /// RFC 6455 §5.2: a length has 7 bits up to 125, 16 bits up to 65535, and otherwise 63 bits.
    pub(super) fn has_wasteful_length(&self) -> bool {
        match self.second & 0x7f {
            126 => self.length <= 125,
            127 => self.length <= 0xffff,
            _ => false,
        }
    }

    /// 4096 are always allowed, and each 16 bytes received before allow one more.
    pub(super) fn has_too_many_fragments(&self) -> bool {
        self.opcode() == 0 && self.before.open && self.before.fragments >= 4096 + self.before.bytes / 16
    }

    /// Returns after how many bytes it is certain that this frame breaks a rule. `None` for text, which is checked by itself.
    pub(super) fn fails_after(&self, rule: Rule) -> Option<usize> {
        let length = match self.second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        Some(match rule {
            Rule::TooBig => self.start + 2 + length,
            Rule::Protocol(violation) => match violation {
                Violation::ReservedBit
                | Violation::ReservedOpcode(_)
                | Violation::UnexpectedContinuation
                | Violation::ExpectedContinuation
                | Violation::FragmentedControl => self.start + 1,
                Violation::UnmaskedFrame | Violation::MaskedFrame | Violation::OversizeControl => {
                    self.start + 2
                }
                Violation::NonMinimalLength | Violation::LengthOverflow | Violation::TooManyFragments => {
                    self.start + 2 + length
                }
                Violation::TruncatedClose | Violation::InvalidCloseCode(_) => self.end(),
                Violation::InvalidUtf8 if self.is_control() => self.end(),
                Violation::InvalidUtf8 | Violation::InvalidDeflate => return None,
            },
        })
    }

    /// Returns `bytes` with the length of this frame, the last one, in the fewest bytes.
    pub(super) fn with_minimal_length(&self, bytes: &[u8]) -> Vec<u8> {
        let mut minimal = bytes[..=self.start].to_vec();
        let mask_bit = self.second & 0x80;
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length @ ..=125), _) => minimal.push(mask_bit | length),
            (_, Ok(length)) => {
                minimal.push(mask_bit | 126);
                minimal.extend_from_slice(&length.to_be_bytes());
            }
            _ => panic!("{self:?} is minimal"),
        }
        minimal.extend(self.key.into_iter().flatten());
        minimal.extend_from_slice(&bytes[self.payload..]);
        minimal
    }

    /// Returns whether this frame, the last one in `bytes`, breaks a rule. Invalid text in a message is not checked.
    pub(super) fn breaks(&self, rule: Rule, bytes: &[u8], setting: &Setting) -> bool {
        let Rule::Protocol(violation) = rule else {
            let before = if self.opcode() == 0 { self.before.bytes } else { 0 };
            return self.length.saturating_add(before) > setting.max_message as u64;
        };
        match violation {
            Violation::ReservedBit => self.first & 0x70 != 0,
            Violation::ReservedOpcode(opcode) => opcode == self.opcode() && matches!(opcode, 3..=7 | 11..),
            Violation::UnmaskedFrame => setting.role == Role::Server && self.key.is_none(),
            Violation::MaskedFrame => setting.role == Role::Client && self.key.is_some(),
            Violation::FragmentedControl => self.is_control() && !self.is_final(),
            Violation::OversizeControl => self.is_control() && self.length > 125,
            Violation::LengthOverflow => self.length >> 63 != 0,
            Violation::UnexpectedContinuation => self.opcode() == 0 && !self.before.open,
            Violation::ExpectedContinuation => matches!(self.opcode(), 1 | 2) && self.before.open,
            Violation::TruncatedClose => self.opcode() == 8 && self.length == 1,
            Violation::InvalidCloseCode(code) => {
                self.close_payload(bytes).is_some_and(|payload| payload.starts_with(&code.to_be_bytes()))
            }
            Violation::InvalidUtf8 => self
                .close_payload(bytes)
                .and_then(|payload| payload.get(2..).map(|reason| std::str::from_utf8(reason).is_err()))
                .unwrap_or(false),
            _ => false,
        }
    }
}

/// Returns whether `bytes` end inside a message or the payload of a data frame.
pub(super) fn end_inside_message(bytes: &[u8]) -> bool {
    let mut frames = RawFrames::new(bytes);
    let cut = frames.by_ref().last().is_some_and(|last| !last.is_control() && last.end() > bytes.len());
    cut || frames.progress.open
}

/// Returns the payload of the unfinished message before the byte at `at`.
pub(super) fn text_before(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for frame in RawFrames::new(bytes).filter(|frame| !frame.is_control() && frame.start < at) {
        if frame.opcode() != 0 {
            text.clear();
        }
        let mut payload = bytes.get(frame.payload..frame.end().min(at)).unwrap_or_default().to_vec();
        mask(&mut payload, frame.key.unwrap_or_default(), 0);
        text.extend(payload);
    }
    text
}

/// Returns the frame with the byte at `at`, and all bytes up to its end. Missing bytes are made up, so that they break no
/// rule. A frame above the size limit ends after its header.
pub(super) fn completed(bytes: &[u8], at: usize, setting: &Setting) -> (RawFrame, Vec<u8>) {
    let mut frames = RawFrames::new(bytes);
    let start = frames.by_ref().find(|frame| frame.holds(at)).map_or(frames.at, |frame| frame.start);
    let mut completed = bytes.to_vec();
    let frame = loop {
        if let Some(frame) = RawFrames::new(&completed).find(|frame| frame.start == start) {
            break frame;
        }
        let second = completed.len() == start + 1;
        completed.push(if second && setting.role == Role::Server { 0x80 } else { 0 });
    };
    let whole = frame.length <= setting.max_message.max(125) as u64;
    let end = if whole { frame.end() } else { frame.payload };
    completed.resize(end, 0);
    (frame, completed)
}
