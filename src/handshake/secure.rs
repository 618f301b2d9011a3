//! TLS before the opening handshake of a server, or the answer to a client that does not speak it.

use super::{HANDSHAKE_RECORD, Handshake, NoHead, Reject};
use crate::net::tls::{self, TlsServer};
use crate::sync::Arc;
use http::header::{HOST, LOCATION};
use http::{HeaderValue, StatusCode};

/// The answer to plain HTTP on a port that speaks TLS.
const PLAIN_HTTP: &str = "this port speaks TLS: https:// instead of http://, wss:// instead of ws://";

impl Handshake<'_> {
    /// Shakes hands over TLS, if the port speaks it. `bytes` were read already. They become the plaintext that has arrived
    /// behind the handshake.
    pub(super) fn secure(&mut self, bytes: &mut Vec<u8>) -> Result<(), NoHead> {
        let Some(tls) = &self.rules.tls else { return Ok(()) };
        let tls: Arc<TlsServer> = Arc::clone(&tls.lock());
        let deadline = self.deadline;
        match self.read_until(bytes, deadline, |bytes| Ok(bytes.first().copied()))? {
            HANDSHAKE_RECORD => tls::accept(&mut self.line, &tls, bytes, deadline).map_err(NoHead::Insecure),
            _ if tls.redirects() => {
                let (head, _) = self.read_head(std::mem::take(bytes))?;
                Err(NoHead::Plain(redirect(&head)))
            }
            _ => Err(NoHead::Plain(Reject::new(StatusCode::BAD_REQUEST, PLAIN_HTTP))),
        }
    }
}

/// Returns the redirect to the same host and path over TLS.
fn redirect(head: &http::Request<()>) -> Reject {
    let host = head.headers().get(HOST).and_then(|host| host.to_str().ok());
    let path = head.uri().path_and_query().map_or("/", |path| path.as_str());
    let location = host.and_then(|host| HeaderValue::try_from(format!("https://{host}{path}")).ok());
    match location {
        Some(location) => Reject::new(StatusCode::PERMANENT_REDIRECT, PLAIN_HTTP).header(LOCATION, location),
        None => Reject::new(StatusCode::BAD_REQUEST, PLAIN_HTTP),
    }
}
