//! Plain HTTP: the body of a request, and the answer of `serve_http`.

use super::{CUT_SHORT, FAILED, FIRST_READ, Handshake, LOG, NoHead, Opened, Request};
use crate::config::time_for;
use crate::logging::contain;
use crate::protocol::{Refusal, server_handshake};
use http::header::EXPECT;
use http::{Method, Version};
use std::time::Instant;

impl Handshake<'_> {
    /// Answers a request that is no WebSocket, after its body was read.
    pub(super) fn answer_http(
        &mut self,
        mut request: Box<Request>,
        early: Vec<u8>,
        length: usize,
    ) -> Option<Box<Opened>> {
        let Some(serve_http) = &self.rules.serve_http else {
            return self.refuse(&server_handshake::UPGRADE_REQUIRED.into(), Some(request));
        };
        match self.read_body(&request, early, length) {
            Ok(body) => request.set_body(body),
            Err(refusal) => return self.refuse(&refusal.into(), Some(request)),
        }
        match contain(LOG, "the callback serve_http", || serve_http(&request)) {
            Some(response) => {
                self.answer(&response, request.method() == Method::HEAD);
                None
            }
            None => self.refuse(&FAILED.into(), Some(request)),
        }
    }

    /// Reads the body of a plain request, of which `bytes` were read with the head. As for a message, the message timeout is
    /// granted for each started MiB that has arrived.
    fn read_body(
        &mut self,
        request: &Request,
        mut bytes: Vec<u8>,
        length: usize,
    ) -> Result<Vec<u8>, Refusal> {
        if bytes.len() < length {
            // RFC 9110 §10.1.1: a server must ignore this expectation of an HTTP/1.0 client.
            let expected = request.headers().get(EXPECT).filter(|_| request.version() > Version::HTTP_10);
            if expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
                // Ignored: if the peer has gone, the read says so.
                drop(self.write(b"HTTP/1.1 100 Continue\r\n\r\n"));
            }
            bytes.reserve(FIRST_READ);
        }
        let start = Instant::now();
        while bytes.len() < length {
            let received = bytes.len();
            let deadline = start.checked_add(time_for(received, self.config.message_timeout())).into();
            let has_more = |bytes: &[u8]| Ok((bytes.len() > received).then_some(()));
            self.read_until(&mut bytes, deadline, has_more).map_err(|failure| match failure {
                NoHead::Silent(refusal) | NoHead::Refused(refusal) => refusal,
                _ => CUT_SHORT,
            })?;
        }
        // The connection ends after the answer, so further requests are not read.
        bytes.truncate(length);
        Ok(bytes)
    }
}
