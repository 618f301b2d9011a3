//! The reason why a request is refused. `handshake.rs` makes an HTTP response of it.

use http::StatusCode;
use std::borrow::Cow;
use std::fmt;

/// Why a head or a handshake is refused: the status of the response, and a reason that becomes its body. The reason can
/// name a limit, and quotes nothing from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: Cow<'static, str>,
    /// Headers that the status requires, such as `Allow`. The names are in lower case.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

impl Refusal {
    pub(crate) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason: Cow::Borrowed(reason), headers: &[] }
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
