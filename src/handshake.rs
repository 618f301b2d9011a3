//! The opening handshake: the [`Request`] of a client, and how a server refuses it.
//!
//! [`Server::check_request`](crate::Server::check_request) sees each request and can refuse it with a [`Reject`].
//! [`Server::serve_http`](crate::Server::serve_http) answers plain HTTP with a [`Response`].
//! [`Server::on_handshake_error`](crate::Server::on_handshake_error) observes each refusal as a [`HandshakeError`].

// The server's side: reads a request, checks it and answers it, all before one deadline. It runs in the client's thread.
// Every failure is answered with an HTTP status and reported to `on_handshake_error`. The rules of HTTP and of RFC 6455 are
// in `protocol`; here are the reads, the writes and the callbacks.

mod plain_http;
#[cfg(feature = "tls")]
mod secure;
mod unserved;

pub(crate) use unserved::{answer_excess, answer_unavailable, close_unserved};

pub use crate::protocol::forwarded::ForwardedHeader;
pub use crate::request::{HandshakeError, Reject, Request, Response};

use self::unserved::UNAVAILABLE;
use crate::addr::Addr;
use crate::config::{Config, MAX_HEAD_SIZE, MAX_HEADERS, time_for};
use crate::logging::{contain, log_line};
#[cfg(feature = "tls")]
use crate::net::tls::TlsServer;
use crate::net::{Deadline, Established, Line};
use crate::protocol::Refusal;
use crate::protocol::forwarded::{self, TrustedProxies};
use crate::protocol::head::{self, HeadLimits, Scanner};
use crate::protocol::proxy_header;
use crate::protocol::server_handshake::{self, Choices, HandshakePolicy, RequestKind, Upgrade};
use crate::quota::{Admission, Excess, Quotas};
use crate::stats::Counters;
#[cfg(feature = "tls")]
use crate::stats::TurnedAway;
#[cfg(feature = "tls")]
use crate::sync::{Arc, Mutex};
use http::{Method, StatusCode};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// The first size of the buffer for a head, in bytes. Few requests are larger. Blocks above glibc's limit for its
/// per-thread cache (1032 bytes) are merged with their neighbours when they are freed, so the connection that follows can
/// use the memory.
const FIRST_READ: usize = 2 * 1024;
/// A read may end this long after the deadline.
///
/// The read timeout of an accepted socket and the handshake timeout are both 10 s by default, and the read begins a few
/// microseconds after the handshake.
const LATE: Duration = Duration::from_millis(10);
/// After a final answer, input is read and discarded for this time, and again as long as the client is in full flow, at most
/// for the close timeout. Otherwise the socket would be closed over unread input, which sends an RST, and the client could
/// lose the answer.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

const TIMED_OUT: Refusal = Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not come in time");
const CUT_SHORT: Refusal = Refusal::bad_request("the request ends too early");
/// The first byte of a TLS connection: the type of a record that holds a part of a handshake (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;
const TLS_HERE: Refusal =
    Refusal::bad_request("a TLS handshake on a port without TLS: ws:// instead of wss://?");
const FAILED: Refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed");

/// The target of this module's log lines.
const LOG: &str = "threadws::handshake";

type CheckRequest = dyn Fn(&mut Request, &mut Response) -> Result<(), Reject> + Send + Sync;
type ServeHttp = dyn Fn(&Request) -> Response + Send + Sync;
type OnHandshakeError = dyn Fn(&HandshakeError) + Send + Sync;

/// Parses the head of a request, for a server that accepts connections itself and passes WebSockets on with
/// [`ServerHandle::upgrade`](crate::ServerHandle::upgrade).
///
/// `bytes` is everything that was read from the client so far. Returns the head and its length; the bytes after it are the
/// `leftover` of `upgrade`. Returns `None` if the head is not complete yet.
///
/// ```
/// use threadws::handshake::parse_head;
///
/// let bytes = b"GET /chat HTTP/1.1\r\nHost: example.com\r\n\r\nand more";
/// let (head, length) = parse_head(bytes)?.expect("it is complete");
/// assert_eq!((head.uri().path(), &bytes[length..]), ("/chat", &b"and more"[..]));
/// assert!(parse_head(&bytes[..20])?.is_none());
/// # Ok::<(), threadws::handshake::Reject>(())
/// ```
///
/// # Errors
///
/// The answer to a head that is malformed, or larger than 16 KiB or 100 headers. It is found with the first bytes that
/// cannot become a head. [`Config::max_head_size`] does not apply, because the function knows no server.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(http::Request<()>, usize)>, Reject> {
    let mut scanner = Scanner::request(HeadLimits { size: MAX_HEAD_SIZE, headers: MAX_HEADERS });
    let Some(end) = scanner.scan(bytes)? else { return Ok(None) };
    let head = bytes.get(..end).unwrap_or(bytes);
    Ok(Some((scanner.parse_request(head)?, end)))
}

/// Returns the value of `Sec-WebSocket-Accept` for the `Sec-WebSocket-Key` of a request, for a server that sends the 101
/// itself.
///
/// ```
/// let accept = threadws::handshake::accept_key("dGhlIHNhbXBsZSBub25jZQ==");
/// assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // RFC 6455 §1.3
/// ```
pub fn accept_key(key: impl AsRef<[u8]>) -> String {
    tungstenite::handshake::derive_accept_key(key.as_ref())
}

/// The settings of a server's handshakes.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) policy: HandshakePolicy,
    pub(crate) trust: TrustedProxies,
    pub(crate) forwarded_header: ForwardedHeader,
    /// Trusted proxies send a PROXY header before the request.
    pub(crate) proxy_protocol: bool,
    /// TLS of the connections that begin from now on. `None` on a plain port.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Mutex<Arc<TlsServer>>>,
    pub(crate) quotas: Quotas,
    pub(crate) check_request: Option<Box<CheckRequest>>,
    pub(crate) serve_http: Option<Box<ServeHttp>>,
    pub(crate) on_handshake_error: Option<Box<OnHandshakeError>>,
}

/// How the client's address is found. Decided when the connection is accepted.
#[derive(Debug)]
pub(crate) enum Source {
    /// The peer is no trusted proxy, so its address is the client's. It was admitted before it got a thread.
    Direct(Admission),
    /// The search in the forwarded headers starts at this address: the peer's, or the one in a PROXY header.
    Proxy(Addr),
    /// A trusted proxy forwards bytes and does not say for which address. The forwarded headers are not believed, because
    /// the client can have written them.
    Unknown,
}

impl Rules {
    /// Returns whether the port speaks TLS.
    pub(crate) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Decides how the address of a peer's client is found. Admits a client without a proxy.
    pub(crate) fn source(&self, peer_addr: Addr) -> Result<Source, Excess> {
        if self.trust.contains(peer_addr) {
            Ok(Source::Proxy(peer_addr))
        } else {
            self.quotas.admit(peer_addr).map(Source::Direct)
        }
    }
}

/// The server, as a handshake sees it. A trait, because this module must not depend on the server's.
pub(crate) trait Host {
    /// Returns whether the server is shutting down.
    fn is_stopping(&self) -> bool;

    /// Called once, after all checks of a request. Returns false if the server is shutting down.
    fn opening(&self) -> bool;
}

/// A successful handshake. Its 101 is still to be sent, because the client joins the hub before.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) request: Box<Request>,
    /// The bytes of the 101, unless another server has sent it.
    pub(crate) response: Option<Vec<u8>>,
    /// The deadline of the whole handshake.
    pub(crate) deadline: Deadline,
    pub(crate) choices: Choices,
    /// Bytes that were read after the head: the first frames.
    pub(crate) early: Vec<u8>,
    pub(crate) session: Option<Established>,
    pub(crate) admission: Admission,
}

impl From<Refusal> for Reject {
    fn from(refusal: Refusal) -> Self {
        let mut reject = Self::new(refusal.status, refusal.reason);
        for &(name, value) in refusal.headers {
            reject = reject.header(name, value);
        }
        reject
    }
}

/// Why no whole head was read.
enum NoHead {
    /// The peer sent nothing, and disconnected.
    Gone,
    /// The peer sent nothing in time.
    Silent(Refusal),
    Refused(Refusal),
    /// The peer speaks plain HTTP, and the port TLS.
    #[cfg(feature = "tls")]
    Plain(Reject),
    /// TLS failed, so no answer can be sent.
    #[cfg(feature = "tls")]
    Insecure(crate::error::Error),
}

/// The handshake of one client.
pub(crate) struct Handshake<'a> {
    pub(crate) line: Line,
    pub(crate) peer_addr: Addr,
    pub(crate) rules: &'a Rules,
    pub(crate) counters: &'a Counters,
    pub(crate) host: &'a dyn Host,
    pub(crate) deadline: Deadline,
    /// Input is discarded after a refusal. Otherwise the caller does that.
    pub(crate) lingers: bool,
    pub(crate) config: &'a Config,
}

impl Handshake<'_> {
    /// Reads a request. Returns `None` if it was answered, which is any answer except a 101.
    pub(crate) fn run(mut self, source: Source) -> Option<Box<Opened>> {
        let mut bytes = Vec::with_capacity(FIRST_READ);
        let source = match source {
            Source::Proxy(_) if self.rules.proxy_protocol => match self.read_proxy_header(&mut bytes) {
                Ok(source) => source,
                Err(failure) => return self.fail(failure),
            },
            source => source,
        };
        #[cfg(feature = "tls")]
        if let Err(failure) = self.secure(&mut bytes) {
            return self.fail(failure);
        }
        match self.read_head(bytes) {
            Ok((head, early)) => self.check(head, early, source),
            // `source` lives until the answer was sent: until then the connection counts against its address.
            Err(failure) => self.fail(failure),
        }
    }

    /// Like [`run`](Self::run), for a request whose head another HTTP server has read.
    pub(crate) fn run_with_head(mut self, head: http::Request<()>, early: Vec<u8>) -> Option<Box<Opened>> {
        self.check(head, early, Source::Proxy(self.peer_addr))
    }

    fn read_proxy_header(&mut self, bytes: &mut Vec<u8>) -> Result<Source, NoHead> {
        let header = self.read_until(bytes, self.deadline, proxy_header::scan)?;
        bytes.drain(..header.len);
        Ok(header.source.map_or(Source::Unknown, |ip| Source::Proxy(ip.into())))
    }

    /// Reads a whole head. Returns it, and the bytes after it.
    fn read_head(&mut self, mut bytes: Vec<u8>) -> Result<(http::Request<()>, Vec<u8>), NoHead> {
        let limits = HeadLimits { size: self.config.max_head_size(), headers: MAX_HEADERS };
        let mut scanner = Scanner::request(limits);
        let end = self.read_until(&mut bytes, self.deadline, |bytes| match bytes.first() {
            Some(&HANDSHAKE_RECORD) => Err(TLS_HERE),
            _ => scanner.scan(bytes),
        })?;
        let (head, early) = bytes.split_at_checked(end).unwrap_or((&bytes, &[]));
        let request = scanner.parse_request(head).map_err(NoHead::Refused)?;
        Ok((request, early.to_vec()))
    }

    /// Reads until `scan` returns a value or a refusal. `scan` is given everything that was read.
    fn read_until<T>(
        &mut self,
        bytes: &mut Vec<u8>,
        deadline: Deadline,
        mut scan: impl FnMut(&[u8]) -> Result<Option<T>, Refusal>,
    ) -> Result<T, NoHead> {
        loop {
            if let Some(found) = scan(bytes).map_err(NoHead::Refused)? {
                return Ok(found);
            }
            let is_silent = bytes.is_empty();
            if bytes.len() == bytes.capacity() {
                // Bounded, because `scan` refuses a head that is too long.
                bytes.reserve_exact(bytes.len());
            }
            let refusal = match self.read(bytes, deadline) {
                Ok(1..) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => TIMED_OUT,
                Err(_) if is_silent => return Err(NoHead::Gone),
                // A shutdown ends the reading of every handshake.
                Ok(0) | Err(_) if self.host.is_stopping() => UNAVAILABLE,
                Ok(0) if is_silent => return Err(NoHead::Gone),
                Ok(0) | Err(_) => CUT_SHORT,
            };
            return Err(if is_silent { NoHead::Silent(refusal) } else { NoHead::Refused(refusal) });
        }
    }

    /// Reads once. Returns `WouldBlock` at the deadline.
    ///
    /// The read itself waits if the socket's own timeout ends before the deadline. Polling first would be two more system
    /// calls for each head, because a head is seldom there before its client has a thread.
    fn read(&mut self, bytes: &mut Vec<u8>, deadline: Deadline) -> io::Result<usize> {
        loop {
            let left = deadline.left(Instant::now()).unwrap_or(Duration::MAX);
            let timeout = self.line.stream().inherited_read_timeout();
            let waits = timeout.is_some_and(|timeout| timeout <= left.saturating_add(LATE));
            if left.is_zero() || (!waits && !self.line.wait_readable(deadline)?) {
                return Err(ErrorKind::WouldBlock.into());
            }
            match self.line.read_append(bytes, waits) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    fn fail(&mut self, failure: NoHead) -> Option<Box<Opened>> {
        match failure {
            NoHead::Refused(refusal) => self.refuse(&refusal.into(), None),
            // A port scan, or a connection that a browser opened in advance and did not use: not an error to report.
            NoHead::Gone => {
                log_line!(Trace, LOG, "{} disconnected without a request", self.peer_addr);
                None
            }
            NoHead::Silent(refusal) => {
                log_line!(Trace, LOG, "{} sent no request: {refusal}", self.peer_addr);
                self.answer(Reject::from(refusal).response(), false);
                None
            }
            #[cfg(feature = "tls")]
            NoHead::Plain(reject) => self.refuse(&reject, None),
            #[cfg(feature = "tls")]
            NoHead::Insecure(error) => {
                self.counters.refused(TurnedAway::Tls);
                log_line!(Debug, LOG, "the handshake with {} failed: {error}", self.peer_addr);
                self.linger();
                None
            }
        }
    }

    /// Takes over a WebSocket whose request another server has answered with a 101. Returns `None` after a Close.
    pub(crate) fn run_answered(
        mut self,
        head: http::Request<()>,
        early: Vec<u8>,
        subprotocol: Option<String>,
    ) -> Option<Box<Opened>> {
        let (request, admission) = self.admit(head, Source::Proxy(self.peer_addr));
        match admission {
            Ok(admission) if self.host.opening() => {
                let deadline = self.deadline;
                let session = None;
                Some(Box::new(Opened {
                    request,
                    response: None,
                    deadline,
                    choices: Choices { subprotocol, deflate: None },
                    early,
                    session,
                    admission,
                }))
            }
            refused => {
                close_unserved(self.line.stream());
                self.linger();
                let why =
                    refused.map_or("too many connections or handshakes", |_| "the server is shutting down");
                log_line!(Debug, LOG, "{} cannot be served: {why}", request.client_addr());
                None
            }
        }
    }

    /// Finds the client's address, and admits the client if its quotas allow it.
    fn admit(
        &mut self,
        head: http::Request<()>,
        source: Source,
    ) -> (Box<Request>, Result<Admission, Excess>) {
        let Rules { trust, forwarded_header, quotas, .. } = self.rules;
        let client_addr = match &source {
            Source::Direct(_) | Source::Unknown => self.peer_addr.without_port(),
            Source::Proxy(addr) => forwarded::client_addr(*addr, head.headers(), trust, *forwarded_header),
        };
        let mut request = Box::new(Request::new(head, self.peer_addr, client_addr));
        request.set_peer_certificate(self.line.take_peer_certificate());
        let admission = match source {
            Source::Direct(admission) => Ok(admission),
            Source::Proxy(_) | Source::Unknown => quotas.admit(client_addr),
        };
        (request, admission)
    }

    /// Checks a request and answers it.
    fn check(&mut self, head: http::Request<()>, early: Vec<u8>, source: Source) -> Option<Box<Opened>> {
        let (request, admission) = self.admit(head, source);
        let admission = match admission {
            Ok(admission) => admission,
            Err(excess) => return self.refuse(&excess.into(), Some(request)),
        };
        match server_handshake::check(&request, &self.rules.policy) {
            Ok(RequestKind::WebSocket(mut upgrade)) => {
                if let Some(deflate) = self.config.deflate() {
                    upgrade.accept_deflate(request.headers(), deflate);
                }
                self.open(request, &upgrade, early, admission)
            }
            Ok(RequestKind::Http(length)) => self.answer_http(request, early, length),
            Err(refusal) => self.refuse(&refusal.into(), Some(request)),
        }
    }

    fn open(
        &mut self,
        mut request: Box<Request>,
        upgrade: &Upgrade,
        early: Vec<u8>,
        admission: Admission,
    ) -> Option<Box<Opened>> {
        let (response, choices) = match self.switching(&mut request, upgrade) {
            Ok(answer) => answer,
            Err(reject) => return self.refuse(&reject, Some(request)),
        };
        if !self.host.opening() {
            return self.refuse(&UNAVAILABLE.into(), Some(request));
        }
        let (deadline, response, session) = (self.deadline, Some(response), self.line.take_session());
        Some(Box::new(Opened { request, response, deadline, choices, early, session, admission }))
    }

    /// Calls `check_request`. Returns the bytes of the 101, and the agreements.
    fn switching(&self, request: &mut Request, upgrade: &Upgrade) -> Result<(Vec<u8>, Choices), Reject> {
        let Some(check_request) = &self.rules.check_request else {
            return Ok((upgrade.bytes(), upgrade.choices()));
        };
        let mut response = upgrade.response();
        contain(LOG, "the callback check_request", || check_request(request, &mut response))
            .unwrap_or_else(|| Err(FAILED.into()))?;
        let choices = upgrade.finish(request, &mut response)?;
        Ok((head::write_switching(response.headers()), choices))
    }

    /// Answers with a refusal, and reports it.
    fn refuse(&mut self, reject: &Reject, request: Option<Box<Request>>) -> Option<Box<Opened>> {
        let without_body = request.as_ref().is_some_and(|request| request.method() == Method::HEAD);
        // Counted first, so that a client that has read the answer finds it in the statistics.
        self.counters.handshake_failed(reject.status().as_u16());
        self.answer(reject.response(), without_body);
        let reason = reject.text().to_owned();
        let error = HandshakeError::new(reject.status(), reason, self.peer_addr, request);
        log_line!(Debug, LOG, "{error}");
        if let Some(callback) = &self.rules.on_handshake_error {
            contain(LOG, "the callback on_handshake_error", || callback(&error));
        }
        None
    }

    /// Sends FIN, and discards what the client still sends, until it has read the answer or [`LINGER`] is over.
    fn linger(&mut self) {
        self.line.shutdown_write();
        if self.lingers {
            self.line.stream().drain(LINGER, Deadline::after(self.config.close_timeout()));
        }
    }

    /// Sends a final answer.
    fn answer(&mut self, response: &Response, without_body: bool) {
        match self.write(&head::write_response(response, without_body)) {
            Ok(()) => {
                self.linger();
            }
            Err(error) => {
                let (peer_addr, status) = (self.peer_addr, response.status().as_u16());
                log_line!(Debug, LOG, "{peer_addr} did not take all of its {status}: {error}");
            }
        }
    }

    /// Writes a final answer within the deadline of the handshake. If that is nearer than the write timeout, the write
    /// timeout counts, as for a message.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let granted = time_for(bytes.len(), self.config.write_timeout());
        let deadline = self.deadline;
        self.line.write_all(bytes, || match deadline.left(Instant::now()) {
            Some(left) if left < granted => Deadline::after(granted),
            _ => deadline,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_protocol_keeps_its_status_text_and_headers() {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET").with(&[("allow", "GET")]);
        let reject = Reject::from(refusal);
        assert_eq!((reject.status(), reject.text()), (StatusCode::METHOD_NOT_ALLOWED, "only GET"));
        assert_eq!(reject.response().headers()["allow"], "GET");
    }
}
