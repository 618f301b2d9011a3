//! The server's side of the opening handshake: reads a head, has the pure room judge it, and answers, all under one
//! deadline. Every failure gets its HTTP status, and whoever wants to know is told.

use crate::addr::Addr;
use crate::config::{Config, MAX_HEAD_SIZE, MAX_HEADERS, time_to_write};
use crate::logging::log_line;
use crate::net::{Deadline, Stream, Transport};
use crate::protocol::Refusal;
use crate::protocol::forwarded::{self, ForwardedHeader, TrustedProxies};
use crate::protocol::head::{self, HeadLimits, Scanner};
use crate::protocol::proxy_header;
use crate::protocol::server_handshake::{self, Asked, HandshakePolicy, Upgrade};
use crate::quota::{Admission, Excess, Quotas};
use crate::request::{HandshakeError, Reject, Request, Response};
use crate::stats::Counters;
use crate::sync::Arc;
use http::{Method, StatusCode};
use std::io::{self, ErrorKind, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// What a head is first read into; few need more. It is more than the allocator keeps for each thread: what is given back
/// serves the connection that follows.
const FIRST_READ: usize = 2 * 1024;
/// So much later than its deadline a wait for a head may end. Both timeouts are 10 s by default, and the wait begins a few
/// microseconds after its clock.
const LATE: Duration = Duration::from_millis(10);
/// How long, and how much, is read after an answer, so that the RST of a socket closed over unread input does not take the
/// answer away.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
pub(crate) const LINGER_BYTES: usize = 1 << 20;

const LIMITS: HeadLimits = HeadLimits { size: MAX_HEAD_SIZE, headers: MAX_HEADERS };

const UNAVAILABLE: Refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is full, or stops")
    .with(&[("retry-after", "5")]);
/// When to come back, in seconds, where nobody knows when a place will be free.
const RETRY_AFTER: u64 = 5;
const TIMED_OUT: Refusal = Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not come in time");
const CUT_SHORT: Refusal = Refusal::bad_request("the request ends before its head does");
const FAILED: Refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed");

type CheckRequest = dyn Fn(&mut Request, &mut Response) -> Result<(), Reject> + Send + Sync;
type ServeHttp = dyn Fn(&Request) -> Response + Send + Sync;
type OnHandshakeError = dyn Fn(&HandshakeError) + Send + Sync;

/// Who is let in, and who is asked about it.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) policy: HandshakePolicy,
    pub(crate) trust: TrustedProxies,
    pub(crate) forwarded_header: ForwardedHeader,
    /// Trusted proxies say by a PROXY header who connected.
    pub(crate) proxy_protocol: bool,
    pub(crate) quotas: Quotas,
    pub(crate) check_request: Option<Box<CheckRequest>>,
    pub(crate) serve_http: Option<Box<ServeHttp>>,
    pub(crate) on_handshake_error: Option<Box<OnHandshakeError>>,
    pub(crate) counters: Arc<Counters>,
}

impl Rules {
    /// Whether what the other end of a socket says of its client is believed. If not, it is the client itself.
    pub(crate) fn is_proxy(&self, peer_addr: Addr) -> bool {
        self.trust.contains(peer_addr)
    }
}

/// What a handshake asks the server that it happens in.
pub(crate) trait Host {
    fn is_stopping(&self) -> bool;

    /// Asked once, just before the 101; false if the server stops.
    fn welcome(&self) -> bool;
}

/// A handshake that succeeded; its 101 is out.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) request: Box<Request>,
    pub(crate) subprotocol: Option<String>,
    /// Bytes that came behind the head: frames already.
    pub(crate) early: Vec<u8>,
    /// Of a client for whom a proxy spoke: others were admitted before.
    pub(crate) admission: Option<Admission>,
}

/// Serves one request; `None` if it was no upgrade, or failed, and was answered. `admitted` says that the client is known
/// and within its quotas.
pub(crate) fn serve(
    stream: &Stream,
    peer_addr: Addr,
    rules: &Rules,
    config: &Config,
    admitted: bool,
    host: &dyn Host,
) -> Option<Box<Opened>> {
    let exchange = Exchange::new(stream, peer_addr, rules, config, admitted, host);
    match exchange.read_head() {
        Ok(Arrived { request, early, source }) => exchange.serve(request, early, source),
        Err(NoHead::Silent) => {
            // A port scan, or a browser's spare connection: nothing to tell anybody.
            log_line!(Trace, "threadws::handshake", "{peer_addr} came and went without a word");
            None
        }
        Err(NoHead::Refused(refusal)) => exchange.refuse(&Reject::from(refusal), None),
    }
}

/// Like [`serve`], after another HTTP server has read the head.
pub(crate) fn serve_request(
    stream: &Stream,
    peer_addr: Addr,
    rules: &Rules,
    config: &Config,
    host: &dyn Host,
    request: http::Request<()>,
    early: Vec<u8>,
) -> Option<Box<Opened>> {
    let exchange = Exchange::new(stream, peer_addr, rules, config, false, host);
    exchange.serve(request, early, Some(peer_addr))
}

/// Answers 503, as far as the socket takes it without waiting: a new socket takes all of it.
pub(crate) fn answer_unavailable(stream: &Stream) {
    answer_at_once(stream, Reject::from(UNAVAILABLE));
}

/// Answers 429, as [`answer_unavailable`] does.
pub(crate) fn answer_excess(stream: &Stream, excess: Excess) {
    answer_at_once(stream, Reject::from(excess));
}

fn answer_at_once(stream: &Stream, reject: Reject) {
    let bytes = head::write_response(&reject.into(), false);
    // A client that is gone already need not be told.
    drop(stream.try_write(&[IoSlice::new(&bytes)]));
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

impl From<Excess> for Reject {
    fn from(excess: Excess) -> Self {
        let (text, seconds) = match excess {
            Excess::Connections => ("too many connections from this address", RETRY_AFTER),
            // Rounded up: who comes back then is welcome.
            Excess::Handshakes(wait) => {
                ("too many handshakes from this address", wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
        };
        Self::new(StatusCode::TOO_MANY_REQUESTS, text).header("retry-after", seconds)
    }
}

/// A whole head.
struct Arrived {
    request: http::Request<()>,
    /// What came behind it.
    early: Vec<u8>,
    /// Who connected, to us or to a proxy that only forwards bytes; `None` if that one does not say.
    source: Option<Addr>,
}

/// Why there is no head.
enum NoHead {
    /// Nobody has asked anything.
    Silent,
    Refused(Refusal),
}

struct Exchange<'a> {
    stream: &'a Stream,
    peer_addr: Addr,
    rules: &'a Rules,
    deadline: Deadline,
    write_timeout: Duration,
    admitted: bool,
    host: &'a dyn Host,
}

impl<'a> Exchange<'a> {
    fn new(
        stream: &'a Stream,
        peer_addr: Addr,
        rules: &'a Rules,
        config: &Config,
        admitted: bool,
        host: &'a dyn Host,
    ) -> Self {
        let deadline = Deadline::after(config.handshake_timeout());
        Self { stream, peer_addr, rules, deadline, write_timeout: config.write_timeout(), admitted, host }
    }

    /// A whole head, and what came behind it.
    ///
    /// Apart from what follows: a client thread's stack shall not be deeper than its deepest step.
    #[inline(never)]
    fn read_head(&self) -> Result<Arrived, NoHead> {
        let mut scanner = Scanner::request(LIMITS);
        let mut source = Some(self.peer_addr);
        let mut awaits_proxy = self.rules.proxy_protocol && self.rules.is_proxy(self.peer_addr);
        let mut bytes = Vec::with_capacity(FIRST_READ);
        loop {
            if bytes.len() == bytes.capacity() {
                // The scanner ends this at the largest head.
                bytes.reserve_exact(bytes.len());
            }
            let silent = bytes.is_empty();
            let count = match self.read(&mut bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(NoHead::Refused(TIMED_OUT));
                }
                Err(_) if silent => return Err(NoHead::Silent),
                Err(_) => 0,
            };
            if count == 0 {
                return Err(match () {
                    () if self.host.is_stopping() => NoHead::Refused(UNAVAILABLE),
                    () if silent => NoHead::Silent,
                    () => NoHead::Refused(CUT_SHORT),
                });
            }
            if awaits_proxy {
                let Some(header) = proxy_header::scan(&bytes).map_err(NoHead::Refused)? else { continue };
                source = header.source.map(Addr::Ip);
                awaits_proxy = false;
                bytes.drain(..header.len);
            }
            if let Some(end) = scanner.scan(&bytes).map_err(NoHead::Refused)? {
                let (head, early) = bytes.split_at_checked(end).unwrap_or((&bytes, &[]));
                let request = scanner.parse_request(head).map_err(NoHead::Refused)?;
                return Ok(Arrived { request, early: early.to_vec(), source });
            }
        }
    }

    /// Waits in the read itself for as long as the socket's own timeout comes before the deadline: to poll first would be
    /// two system calls more for each head, which is seldom there before its client has a thread.
    fn read(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let left = self.deadline.left(Instant::now()).unwrap_or(Duration::MAX);
            let waits =
                self.stream.inherited_read_timeout().is_some_and(|armed| armed <= left.saturating_add(LATE));
            if left.is_zero() || (!waits && !self.stream.wait_readable(self.deadline)?) {
                return Err(ErrorKind::WouldBlock.into());
            }
            match self.stream.read_append(bytes, waits) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Judges a request, and answers it.
    fn serve(&self, head: http::Request<()>, early: Vec<u8>, source: Option<Addr>) -> Option<Box<Opened>> {
        let Rules { trust, forwarded_header, .. } = self.rules;
        let client_addr = match source {
            Some(source) => forwarded::client_addr(source, head.headers(), trust, *forwarded_header),
            // Nobody vouches for the headers: the proxy has only forwarded them, and cannot say from whom.
            None => self.peer_addr.without_port(),
        };
        let request = Box::new(Request::new(head, self.peer_addr, client_addr));
        let admission = match (!self.admitted).then(|| self.rules.quotas.admit(client_addr)).transpose() {
            Ok(admission) => admission,
            Err(excess) => return self.refuse(&excess.into(), Some(request)),
        };
        match server_handshake::check(request.head(), &self.rules.policy) {
            Ok(Asked::WebSocket(upgrade)) => self.open(request, &upgrade, early, admission),
            Ok(Asked::Http) => self.serve_http(request),
            Err(refusal) => self.refuse(&Reject::from(refusal), Some(request)),
        }
    }

    fn serve_http(&self, request: Box<Request>) -> Option<Box<Opened>> {
        let Some(serve_http) = &self.rules.serve_http else {
            return self.refuse(&Reject::from(server_handshake::UPGRADE_REQUIRED), Some(request));
        };
        match catch_unwind(AssertUnwindSafe(|| serve_http(&request))) {
            Ok(response) => {
                self.answer(&response, request.method() == Method::HEAD);
                None
            }
            Err(_) => self.refuse(&Reject::from(FAILED), Some(request)),
        }
    }

    fn open(
        &self,
        mut request: Box<Request>,
        upgrade: &Upgrade,
        early: Vec<u8>,
        admission: Option<Admission>,
    ) -> Option<Box<Opened>> {
        let (bytes, subprotocol) = match &self.rules.check_request {
            None => (upgrade.bytes(), upgrade.subprotocol()),
            Some(check_request) => {
                let mut response = upgrade.response();
                let refused =
                    catch_unwind(AssertUnwindSafe(|| check_request(&mut request, &mut response).err()));
                if let Some(reject) = refused.unwrap_or_else(|_| Some(Reject::from(FAILED))) {
                    return self.refuse(&reject, Some(request));
                }
                match upgrade.finish(request.head(), &mut response) {
                    Ok(subprotocol) => (head::write_switching(response.headers()), subprotocol),
                    Err(refusal) => return self.refuse(&Reject::from(refusal), Some(request)),
                }
            }
        };
        if !self.host.welcome() {
            return self.refuse(&Reject::from(UNAVAILABLE), Some(request));
        }
        if let Err(error) = self.write(&bytes) {
            log_line!(Debug, "threadws::handshake", "{} left before the 101: {error}", self.peer_addr);
            return None;
        }
        Some(Box::new(Opened { request, subprotocol, early, admission }))
    }

    /// Answers with a refusal, and tells of it.
    fn refuse(&self, reject: &Reject, request: Option<Box<Request>>) -> Option<Box<Opened>> {
        let without_body = request.as_ref().is_some_and(|request| request.method() == Method::HEAD);
        // First: whoever has read the answer finds it counted.
        self.rules.counters.handshake_failed(reject.status().as_u16());
        self.answer(reject.response(), without_body);
        let reason = reject.text().to_owned();
        let error = HandshakeError::new(reject.status(), reason, self.peer_addr, request);
        log_line!(Debug, "threadws::handshake", "{error}");
        if let Some(callback) = &self.rules.on_handshake_error {
            if catch_unwind(AssertUnwindSafe(|| callback(&error))).is_err() {
                log_line!(Error, "threadws::handshake", "the callback on_handshake_error panicked");
            }
        }
        None
    }

    /// Sends an answer after which the connection ends, and lets the client read it.
    fn answer(&self, response: &Response, without_body: bool) {
        match self.write(&head::write_response(response, without_body)) {
            Ok(()) => {
                self.stream.shutdown_write();
                self.stream.drain(LINGER_BYTES, Deadline::after(LINGER));
            }
            Err(error) => {
                let (peer_addr, status) = (self.peer_addr, response.status().as_u16());
                log_line!(
                    Debug,
                    "threadws::handshake",
                    "{peer_addr} did not take all of its {status}: {error}"
                );
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        // As a message has, even if the handshake's own time is up.
        let granted = time_to_write(bytes.len(), self.write_timeout);
        self.stream.write_all(bytes, || match self.deadline.left(Instant::now()) {
            Some(left) if left < granted => Deadline::after(granted),
            _ => self.deadline,
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
