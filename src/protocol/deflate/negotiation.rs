//! The agreement on compression (§5 and §7.1): the header `Sec-WebSocket-Extensions` of both ends.

use crate::deflate::Deflate;
use crate::protocol::{is_tchar, trim_ows};
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderValue};
use std::fmt;

const NAME: &str = "permessage-deflate";
/// The largest window, which is meant if nothing else is agreed (§7.1.2).
const MOST_BITS: u8 = 15;
/// There is no compressor for such a window: see `outgoing.rs`. So it is agreed on without takeover.
const FEWEST_BITS: u8 = 8;

/// How both directions of a connection are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) ours: Direction,
    pub(crate) peers: Direction,
}

/// How one direction is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Direction {
    /// The window has at most 2 to the power of this number of bytes: 8 to 15.
    pub(crate) bits: u8,
    /// A message may refer to those before it.
    pub(crate) takeover: bool,
}

/// Returns the agreement on the first offer that can be accepted, and its header. An offer that cannot be accepted is skipped
/// (§5): it is no error. Returns `None` if there is none.
pub(crate) fn answer(headers: &HeaderMap, settings: &Deflate) -> Option<(Agreed, HeaderValue)> {
    if !cfg!(feature = "deflate") {
        return None;
    }
    let offers = extensions(headers)?;
    let offer = offers.iter().filter(|offer| offer.is_deflate()).find_map(|offer| offer.parameters(true))?;
    let bits = settings.bits();
    // §7.1.2.1: named only if the offer names it, because some clients refuse it otherwise.
    let server_bits = offer.server_max_window_bits.map(|most| most.min(bits));
    let server_forgets =
        offer.server_no_context_takeover || !settings.takes_over() || server_bits == Some(FEWEST_BITS);
    // Without `client_max_window_bits` in the offer the client cannot be limited to a small window.
    let client_forgets = offer.client_no_context_takeover
        || !settings.peer_takes_over(false)
        || (bits < MOST_BITS && offer.client_max_window_bits.is_none());
    // Without takeover a limit for the client would save nothing here.
    let client_bits = offer.client_max_window_bits.filter(|_| !client_forgets);
    let client_bits = client_bits.map(|most| most.unwrap_or(MOST_BITS).min(bits));
    let answer = Parameters {
        server_no_context_takeover: server_forgets,
        client_no_context_takeover: client_forgets,
        server_max_window_bits: server_bits,
        client_max_window_bits: client_bits.map(Some),
    };
    let ours = Direction { bits: server_bits.unwrap_or(bits), takeover: !server_forgets };
    let peers = Direction { bits: client_bits.unwrap_or(MOST_BITS), takeover: !client_forgets };
    Some((Agreed { ours, peers }, HeaderValue::try_from(answer.to_string()).ok()?))
}

/// Returns the header of a client's offer.
///
/// By default it is Chrome's, because some servers refuse a request that names more (AWS API Gateway, old versions of
/// nhooyr.io/websocket).
pub(crate) fn offer(settings: &Deflate) -> String {
    let offer = Parameters {
        server_no_context_takeover: !settings.peer_takes_over(true),
        client_max_window_bits: Some(None),
        ..Parameters::default()
    };
    offer.to_string()
}

/// Checks the server's answer to an [`offer`], or to no offer if there are no settings. Returns `None` if the server has no
/// compression.
///
/// # Errors
///
/// Why the answer is invalid.
pub(crate) fn agree(
    headers: &HeaderMap,
    settings: Option<&Deflate>,
) -> std::result::Result<Option<Agreed>, &'static str> {
    const MALFORMED: &str = "the server's 101 has a malformed Sec-WebSocket-Extensions";
    let answers = extensions(headers).ok_or(MALFORMED)?;
    let (Some(answer), second) = (answers.first(), answers.get(1)) else { return Ok(None) };
    let settings = settings.filter(|_| answer.is_deflate() && second.is_none());
    let settings = settings.ok_or("the server's 101 names an extension that was not offered")?;
    let answer = answer
        .parameters(false)
        .ok_or("the server's 101 has a parameter of permessage-deflate that is not allowed")?;
    if !settings.peer_takes_over(true) && !answer.server_no_context_takeover {
        return Err("the server's 101 does not promise server_no_context_takeover");
    }
    let most = answer.client_max_window_bits.flatten().unwrap_or(MOST_BITS);
    Ok(Some(Agreed {
        ours: Direction {
            bits: settings.bits().min(most),
            takeover: settings.takes_over() && !answer.client_no_context_takeover && most > FEWEST_BITS,
        },
        peers: Direction {
            bits: answer.server_max_window_bits.unwrap_or(MOST_BITS),
            takeover: !answer.server_no_context_takeover,
        },
    }))
}

/// The parameters of an offer or an answer (§7.1).
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// In an offer it can have no value.
    client_max_window_bits: Option<Option<u8>>,
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if self.server_no_context_takeover {
            f.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_context_takeover {
            f.write_str("; client_no_context_takeover")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(f, "; server_max_window_bits={bits}")?;
        }
        match self.client_max_window_bits {
            Some(Some(bits)) => write!(f, "; client_max_window_bits={bits}"),
            Some(None) => f.write_str("; client_max_window_bits"),
            None => Ok(()),
        }
    }
}

/// One element of the header: an extension with its parameters. Values are without quotes.
#[derive(Debug)]
struct Extension<'a> {
    name: &'a [u8],
    parameters: Vec<(&'a [u8], Option<Vec<u8>>)>,
}

impl Extension<'_> {
    fn is_deflate(&self) -> bool {
        self.name.eq_ignore_ascii_case(NAME.as_bytes())
    }

    /// Returns the parameters. `None` if one is unknown, named twice, or has a value that is not allowed (§7.1).
    fn parameters(&self, is_offer: bool) -> Option<Parameters> {
        let mut found = Parameters::default();
        for (name, value) in &self.parameters {
            let is_new = match (name.to_ascii_lowercase().as_slice(), value) {
                (b"server_no_context_takeover", None) => {
                    !std::mem::replace(&mut found.server_no_context_takeover, true)
                }
                (b"client_no_context_takeover", None) => {
                    !std::mem::replace(&mut found.client_no_context_takeover, true)
                }
                (b"server_max_window_bits", Some(value)) => {
                    found.server_max_window_bits.replace(bits(value)?).is_none()
                }
                (b"client_max_window_bits", Some(value)) => {
                    found.client_max_window_bits.replace(Some(bits(value)?)).is_none()
                }
                (b"client_max_window_bits", None) if is_offer => {
                    found.client_max_window_bits.replace(None).is_none()
                }
                _ => false,
            };
            if !is_new {
                return None;
            }
        }
        Some(found)
    }
}

/// §7.1.2: "a decimal integer value without leading zeroes between 8 to 15".
fn bits(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// Returns all elements of the header, from all its lines. `None` if it does not have the syntax of RFC 6455 §9.1.
fn extensions(headers: &HeaderMap) -> Option<Vec<Extension<'_>>> {
    let mut found = Vec::new();
    for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        let mut rest = trim_ows(line.as_bytes());
        while let [first, after @ ..] = rest {
            // RFC 9110 §5.6.1.2: empty elements are ignored.
            if *first == b',' {
                rest = trim_ows(after);
                continue;
            }
            let (extension, after) = extension(rest)?;
            found.push(extension);
            rest = match after {
                [] => after,
                [b',', after @ ..] => trim_ows(after),
                _ => return None,
            };
        }
    }
    Some(found)
}

/// Parses one element: a name, and parameters behind semicolons. Returns the rest behind it, too.
fn extension(bytes: &[u8]) -> Option<(Extension<'_>, &[u8])> {
    let (name, mut rest) = token(bytes)?;
    let mut parameters = Vec::new();
    while let [b';', after @ ..] = rest {
        let (name, after) = token(trim_ows(after))?;
        let (value, after) = match after {
            [b'=', after @ ..] => {
                let (value, after) = value(trim_ows(after))?;
                (Some(value), after)
            }
            _ => (None, after),
        };
        parameters.push((name, value));
        rest = after;
    }
    Some((Extension { name, parameters }, rest))
}

/// Parses a token. Returns the rest behind it and behind optional whitespace, too.
fn token(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| !is_tchar(byte)).unwrap_or(bytes.len());
    let (token, rest) = bytes.split_at_checked(end)?;
    (!token.is_empty()).then(|| (token, trim_ows(rest)))
}

/// Parses a token, or a quoted string, which is returned without its quotes.
fn value(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let [b'"', quoted @ ..] = bytes else {
        return token(bytes).map(|(token, rest)| (token.to_vec(), rest));
    };
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        rest = match rest {
            [b'"', after @ ..] => {
                return Some((value, trim_ows(after)));
            }
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                value.push(*byte);
                after
            }
            [] => return None,
        };
    }
}

#[cfg(all(test, feature = "deflate"))]
mod tests;
