//! Answers to clients for which there is no room. They are sent without waiting, because no thread is there to wait.

use super::Reject;
use crate::message::{CloseCode, CloseFrame};
use crate::net::{Stream, Transport};
use crate::protocol::encoder::{Opcode, append, close_payload};
use crate::protocol::{Refusal, Role, head};
use crate::quota::Excess;
use http::StatusCode;
use std::io::IoSlice;

pub(super) const UNAVAILABLE: Refusal =
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is full or shutting down")
        .with(&[("retry-after", "5")]);
/// A `Retry-After` in seconds, for limits that do not say when there is room again.
const RETRY_AFTER: u64 = 5;

/// Fatal alerts in the clear (RFC 8446 §6), for clients of a port that speaks TLS. They would not understand HTTP.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Answers 503 with the bytes that the socket accepts without waiting. A new socket accepts all of them. On a port that
/// speaks TLS, sends an alert instead.
pub(crate) fn answer_unavailable(stream: &Stream, has_tls: bool) {
    if has_tls {
        write(stream, &INTERNAL_ERROR);
    } else {
        answer(stream, Reject::from(UNAVAILABLE));
    }
}

/// Answers 429, or sends an alert, like [`answer_unavailable`].
pub(crate) fn answer_excess(stream: &Stream, has_tls: bool, excess: Excess) {
    if has_tls {
        write(stream, &ACCESS_DENIED);
    } else {
        answer(stream, Reject::from(excess));
    }
}

/// Sends a Close with 1013 on a WebSocket that cannot be served, like [`answer_unavailable`].
pub(crate) fn close_unserved(stream: &Stream) {
    let payload = close_payload(Some(&CloseFrame::new(CloseCode::TRY_AGAIN_LATER, "")));
    let mut frame = Vec::new();
    append(Role::Server, Opcode::Close, &payload, &mut frame);
    write(stream, &frame);
}

fn answer(stream: &Stream, reject: Reject) {
    write(stream, &head::write_response(&reject.into(), false));
}

fn write(stream: &Stream, bytes: &[u8]) {
    // Ignored: the client has disconnected, or does not read.
    drop(stream.try_write(&[IoSlice::new(bytes)]));
}

impl From<Excess> for Reject {
    fn from(excess: Excess) -> Self {
        let (text, seconds) = match excess {
            Excess::Connections => ("too many connections from this address", RETRY_AFTER),
            // Rounded up, so that a client that comes back then is admitted.
            Excess::Handshakes(wait) => {
                ("too many handshakes from this address", wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
        };
        Self::new(StatusCode::TOO_MANY_REQUESTS, text).header("retry-after", seconds)
    }
}
