//! The answer to a request that is refused, before it becomes an HTTP response.

use http::StatusCode;
use std::fmt;

/// Why a head or a handshake is refused: the status to answer with, and a reason that quotes nothing from the wire, so
/// that it can be sent as the body as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    /// Headers that the status calls for, such as `Allow`: names in lower case.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

impl Refusal {
    pub(crate) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason, headers: &[] }
    }

    pub(crate) const fn bad_request(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    pub(crate) const fn with(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.reason)
    }
}
