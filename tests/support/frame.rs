//! Frames with any bits, key and form of length, and a strict parser for the frames of a server.

/// Opcodes of RFC 6455 §5.2.
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// The reserved bit of a compressed message (RFC 7692 §6).
pub const RSV1: u8 = 0x40;

/// One frame. The constructors make it final and masked, as a client sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// The three reserved bits at their place in the first byte: 0x40, 0x20, 0x10.
    pub rsv: u8,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, rsv: 0, opcode, mask: Some([0x37, 0xfa, 0x21, 0x3d]), payload: payload.into() }
    }

    pub fn text(text: &str) -> Self {
        Self::new(TEXT, text)
    }

    pub fn binary(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(BINARY, bytes)
    }

    pub fn continuation(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(CONTINUATION, bytes)
    }

    pub fn ping(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(PING, bytes)
    }

    pub fn pong(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(PONG, bytes)
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    pub fn close_without_code() -> Self {
        Self::new(CLOSE, "")
    }

    /// Marks the frame as a fragment that is not the last.
    pub fn more(self) -> Self {
        Self { fin: false, ..self }
    }

    pub fn rsv(self, rsv: u8) -> Self {
        Self { rsv, ..self }
    }

    pub fn masked(self, key: [u8; 4]) -> Self {
        Self { mask: Some(key), ..self }
    }

    pub fn unmasked(self) -> Self {
        Self { mask: None, ..self }
    }

    /// Returns the bytes of the frame, with the shortest form of the length.
    pub fn encode(&self) -> Vec<u8> {
        let length = self.payload.len() as u64;
        let form = match length {
            0..=125 => 7,
            126..=65535 => 16,
            _ => 64,
        };
        self.encode_with(length, form)
    }

    /// Returns the bytes of the frame, with any announced length in any form (7, 16 or 64 bits).
    pub fn encode_with(&self, announced: u64, bits: u8) -> Vec<u8> {
        let first = u8::from(self.fin) << 7 | self.rsv | self.opcode;
        let mut bytes = header(first, self.mask, announced, bits);
        let key = self.mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// Returns the code and reason of a Close, or `None` if it has none.
    pub fn close_content(&self) -> Option<(u16, String)> {
        let (code, reason) = self.payload.split_at_checked(2)?;
        Some((u16::from_be_bytes([code[0], code[1]]), String::from_utf8_lossy(reason).into_owned()))
    }

    /// Returns the text of a text frame.
    #[track_caller]
    pub fn as_text(&self) -> &str {
        assert!(self.opcode == TEXT && self.fin, "expected a whole text message, got {self:?}");
        std::str::from_utf8(&self.payload).expect("the strict reader has checked it")
    }
}

/// Returns the header of a frame without its payload.
pub fn header(first: u8, mask: Option<[u8; 4]>, length: u64, bits: u8) -> Vec<u8> {
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let low = length.to_be_bytes();
    let mut bytes = match bits {
        7 => vec![first, mask_bit | low[7]],
        16 => vec![first, mask_bit | 126, low[6], low[7]],
        _ => [&[first, mask_bit | 127], &low[..]].concat(),
    };
    bytes.extend(mask.into_iter().flatten());
    bytes
}

/// Returns the first whole frame of `input` and its length in bytes, or `None` if the frame is not complete yet. Fails
/// if a server must never send it.
pub fn parse(input: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    parse_agreed(input, false)
}

/// The same on a connection that may have agreed on compression. Then the first frame of a message can have RSV1.
pub fn parse_agreed(input: &[u8], compresses: bool) -> Result<Option<(Frame, usize)>, String> {
    let &[first, second, ref rest @ ..] = input else { return Ok(None) };
    let (fin, rsv, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
    let is_compressed = compresses && rsv == RSV1 && matches!(opcode, TEXT | BINARY);
    if rsv != 0 && !is_compressed {
        return Err(format!("reserved bits {rsv:#x} without an extension"));
    }
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(format!("reserved opcode {opcode:#x}"));
    }
    if second & 0x80 != 0 {
        return Err("masked frame from a server".into());
    }
    let (length, width) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            None => return Ok(None),
        },
        length => (u64::from(length), 0),
    };
    let least = match length {
        0..=125 => 0,
        126..=65535 => 2,
        _ => 8,
    };
    if width != least {
        return Err(format!("length {length} in {width} more bytes, {least} would do"));
    }
    if opcode >= CLOSE && (!fin || length > 125) {
        return Err(format!("control frame {opcode:#x} with fin {fin} and {length} bytes"));
    }
    let start = 2 + width;
    let end = start + usize::try_from(length).map_err(|_| format!("length {length}"))?;
    let Some(payload) = input.get(start..end) else { return Ok(None) };
    let frame = Frame { fin, rsv, opcode, mask: None, payload: payload.to_vec() };
    if opcode == TEXT && fin && !is_compressed && std::str::from_utf8(payload).is_err() {
        return Err("text that is not UTF-8".into());
    }
    if opcode == CLOSE {
        check_close(&frame)?;
    }
    Ok(Some((frame, end)))
}

/// The same for a frame of a client, which must be masked. The payload is returned unmasked, with the key.
pub fn parse_masked(input: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let &[first, second, ref rest @ ..] = input else { return Ok(None) };
    if second & 0x80 == 0 {
        return Err("unmasked frame from a client".into());
    }
    let width = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((length, rest)) = rest.split_at_checked(width) else { return Ok(None) };
    let Some((&key, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    // A large frame comes in many reads, and is unmasked only once.
    let announced = length.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
    let announced = if width == 0 { u64::from(second & 0x7f) } else { announced };
    if (rest.len() as u64) < announced {
        return Ok(None);
    }
    let mut bytes = [&[first, second & 0x7f], length].concat();
    let payload = rest.iter().take(usize::try_from(announced).unwrap_or(usize::MAX));
    bytes.extend(payload.zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    let found = parse(&bytes)?;
    Ok(found.map(|(frame, bytes)| (Frame { mask: Some(key), ..frame }, bytes + key.len())))
}

fn check_close(frame: &Frame) -> Result<(), String> {
    match (frame.payload.len(), frame.close_content()) {
        (0, _) => Ok(()),
        (_, Some((1000..=1003 | 1007..=1014 | 3000..=4999, _))) => {
            match std::str::from_utf8(&frame.payload[2..]) {
                Ok(_) => Ok(()),
                Err(_) => Err("close reason that is not UTF-8".into()),
            }
        }
        (_, Some((code, _))) => Err(format!("close code {code} on the wire")),
        (_, None) => Err("close frame of one byte".into()),
    }
}

/// Short enough for a transcript.
impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.opcode {
            CONTINUATION => "continuation".to_owned(),
            TEXT => "text".to_owned(),
            BINARY => "binary".to_owned(),
            CLOSE => "close".to_owned(),
            PING => "ping".to_owned(),
            PONG => "pong".to_owned(),
            opcode => format!("opcode {opcode:#x}"),
        };
        write!(f, "{name}")?;
        if !self.fin {
            f.write_str(" (more follows)")?;
        }
        if self.rsv != 0 {
            write!(f, " rsv {:#x}", self.rsv)?;
        }
        if let (CLOSE, Some((code, reason))) = (self.opcode, self.close_content()) {
            return write!(f, " {code} {reason:?}");
        }
        write!(f, " of {}: {}", self.payload.len(), excerpt(&self.payload))
    }
}

/// Returns at most 48 bytes in readable form.
pub fn excerpt(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(48)];
    let dots = if head.len() < bytes.len() { " ..." } else { "" };
    format!("\"{}\"{dots}", head.escape_ascii())
}
