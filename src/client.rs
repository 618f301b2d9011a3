//! The blocking client: the same connection from the other side.

mod resolve;

use crate::config::{Config, MAX_HEAD_SIZE, MAX_HEADERS};
use crate::connection::{Connection, Parts};
use crate::error::{Error, Result, Timeout};
use crate::flush_thread::FlushThread;
use crate::hub::Hub;
use crate::net::{Deadline, Stream};
use crate::outbox::Outbox;
use crate::protocol::client_handshake::{self, Offer};
use crate::protocol::head::{self, HeadLimits, Scanner};
use crate::protocol::response_body::Framing;
use crate::protocol::url::Target;
use crate::protocol::{Refusal, Role};
use crate::request::{Request, Response, SECRETS};
use crate::sender::Sender;
use crate::sync::{Arc, Mutex, next_id};
use crate::timer::Timer;
use http::header::{AUTHORIZATION, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

const LIMITS: HeadLimits = HeadLimits { size: MAX_HEAD_SIZE, headers: MAX_HEADERS };
/// What is kept of the body of an answer that is no 101: enough for any text that says why.
const MAX_BODY: usize = 64 * 1024;
/// Answers of 1xx that are not the 101, before it. RFC 9110 §15.2 lets a server send any number.
const MAX_INTERIM: usize = 8;

/// Connects to a `ws://` URL, with all settings at their defaults.
///
/// ```no_run
/// # fn main() -> threadws::Result<()> {
/// let mut connection = threadws::connect("ws://127.0.0.1:8005/")?;
/// connection.send("hello")?;
/// if let Some(message) = connection.recv()? {
///     println!("{message}");
/// }
/// connection.close(1000, "")
/// # }
/// ```
///
/// # Blocking
///
/// At most [`handshake_timeout`](Config::handshake_timeout), 10 s by default, for the name, the connection and the
/// handshake together.
///
/// # Errors
///
/// As for [`Connect::connect`].
pub fn connect(url: impl AsRef<str>) -> Result<Connection> {
    Connect::new(url).connect()
}

/// A connection to be made: its URL, what it says of itself, and its limits.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until it connects"]
pub struct Connect {
    /// Kept as a result, so that a setter never fails.
    target: std::result::Result<Target, String>,
    headers: HeaderMap,
    origin: Option<HeaderValue>,
    subprotocols: Vec<String>,
    config: Config,
    max_redirects: usize,
    /// The first setting that cannot work.
    broken: Option<String>,
}

impl Connect {
    /// To a `ws://` URL. What is wrong with it is told by [`connect`](Self::connect).
    ///
    /// A user and password in it, `ws://user:password@host/`, are sent as a Basic `Authorization` (RFC 7617), unless
    /// [`header`](Self::header) sets one. Write what has a meaning in a URL in percent-encoding: `p%40ss`. They appear in
    /// no error, log line or `{:?}`.
    pub fn new(url: impl AsRef<str>) -> Self {
        Self {
            target: Target::parse(url.as_ref()).map_err(|error| text_of(&error)),
            headers: HeaderMap::new(),
            origin: None,
            subprotocols: Vec::new(),
            config: Config::default(),
            max_redirects: 0,
            broken: None,
        }
    }

    /// Adds a header to the request. Those of the handshake itself cannot be set.
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let name = HeaderName::try_from(name.as_ref());
        // `from_str` would refuse what is not ASCII; RFC 9110 §5.5 lets it pass.
        let value = HeaderValue::from_bytes(value.as_ref().as_bytes());
        match (name, value) {
            (Ok(name), Ok(mut value)) => {
                // So that no `{:?}` shows it.
                value.set_sensitive(SECRETS.contains(&name));
                self.headers.append(name, value);
            }
            (name, _) => {
                let what = name
                    .map_or("the name of a header".to_owned(), |name| format!("the value of header {name}"));
                self.broken.get_or_insert(format!("{what} cannot be sent"));
            }
        }
        self
    }

    /// The `Origin` header, as a browser would send it. Defaults to none.
    pub fn origin(mut self, origin: impl AsRef<str>) -> Self {
        match HeaderValue::from_str(origin.as_ref()) {
            Ok(origin) => self.origin = Some(origin),
            Err(_) => {
                self.broken.get_or_insert("the origin cannot be sent".to_owned());
            }
        }
        self
    }

    /// The subprotocols it speaks, the preferred one first. Defaults to none.
    pub fn subprotocols<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// HeadLimits and timeouts. Defaults to [`Config::default`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How many redirects are followed. `Authorization`, the URL's user and password, and `Cookie` are not carried to
    /// another origin. Defaults to none: a redirect is [`Error::Refused`], as one always is that is not followed or leads
    /// where one cannot go: to `wss://`, to a URL with a user, or to nothing that is a URL.
    pub fn max_redirects(mut self, redirects: usize) -> Self {
        self.max_redirects = redirects;
        self
    }

    /// Connects.
    ///
    /// # Blocking
    ///
    /// At most [`handshake_timeout`](Config::handshake_timeout), 10 s by default, for everything together: names,
    /// connections, handshakes, redirects.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the URL or a setting cannot work. No URL is shown: it may hold a password.
    /// * [`Error::Refused`]: the server answered with another status than 101; its headers and up to 64 KiB of its body
    ///   are in the response.
    /// * [`Error::Timeout`] with [`Timeout::Handshake`].
    /// * [`Error::Io`]: no connection, with the last address's error; or an answer that breaks the protocol
    ///   ([`ErrorKind::InvalidData`]).
    pub fn connect(self) -> Result<Connection> {
        let deadline = Deadline::after(self.config.handshake_timeout());
        let (mut target, mut headers) = self.check()?;
        if target.tls {
            return Err(Error::invalid("wss:// is not supported yet"));
        }
        let mut redirects = 0;
        loop {
            let stream = Stream::new(dial(&target, deadline)?)?;
            match self.shake_hands(stream, &target, &headers, deadline) {
                Err(Error::Refused(response)) if redirects < self.max_redirects => {
                    let Some(next) = redirect(&target, &response) else {
                        return Err(Error::Refused(response));
                    };
                    redirects += 1;
                    if !next.is_same_origin(&target) {
                        for name in SECRETS {
                            headers.remove(name);
                        }
                    }
                    target = next;
                }
                result => return result,
            }
        }
    }

    /// Shakes hands over a stream that is connected already, by TCP or any other stream socket; the URL says what to ask
    /// for. Redirects are not followed.
    ///
    /// # Blocking
    ///
    /// As for [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub fn from_stream(self, stream: impl Into<OwnedFd>) -> Result<Connection> {
        let deadline = Deadline::after(self.config.handshake_timeout());
        let (target, headers) = self.check()?;
        self.shake_hands(Stream::new(stream)?, &target, &headers, deadline)
    }

    fn check(&self) -> Result<(Target, HeaderMap)> {
        if let Some(broken) = &self.broken {
            return Err(Error::invalid(broken.clone()));
        }
        self.config.check()?;
        Offer::check_settings(&self.subprotocols, &self.headers)?;
        let mut target = self.target.clone().map_err(Error::invalid)?;
        let mut headers = self.headers.clone();
        if let Some(authorization) = target.authorization.take() {
            headers.entry(AUTHORIZATION).or_insert(authorization);
        }
        Ok((target, headers))
    }

    fn shake_hands(
        &self,
        stream: Stream,
        target: &Target,
        headers: &HeaderMap,
        deadline: Deadline,
    ) -> Result<Connection> {
        let peer_addr = stream.peer_addr()?;
        let (offer, bytes) = Offer::new(target, self.origin.as_ref(), &self.subprotocols, headers)?;
        // A server may answer before it has read everything, and close: then its answer counts, not our EPIPE.
        let written = stream.write_all(&bytes, || deadline);
        let (response, early) = match read_answer(&stream, deadline) {
            Ok(answer) => answer,
            Err(error) => {
                written.map_err(timed_out)?;
                return Err(error);
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(&stream, response, early, deadline));
        }
        let subprotocol = offer.check(&response)?;
        let request = head::parse_request(&bytes, HeadLimits { size: bytes.len() + 1, headers: usize::MAX })
            .map_err(|refusal| Error::invalid(refusal.reason))?;
        let stream = Arc::new(stream);
        let (timer, flush) = shared_threads()?;
        let outbox = Outbox::new(Role::Client, &self.config, Arc::clone(&stream), flush);
        let parts = Parts {
            sender: Sender::new(next_id(), outbox),
            request: Box::new(Request::new(request, peer_addr, peer_addr.without_port())),
            response: Some(Box::new(response.map(|()| Vec::new()))),
            subprotocol,
            hub: Hub::default(),
            hooks: Arc::default(),
            counters: Arc::default(),
            timer,
            messages: None,
        };
        Connection::new(Role::Client, &self.config, stream, &early, parts).map(|connection| *connection)
    }
}

/// A connected socket, to the first address that takes one.
fn dial(target: &Target, deadline: Deadline) -> Result<TcpStream> {
    let addresses = resolve::resolve(&target.host, target.port, deadline)?;
    let mut failure = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for (at, address) in addresses.iter().enumerate() {
        // An address that swallows packets must not eat the time of those behind it.
        let shares = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match deadline.left(Instant::now()) {
            Some(left) if left.is_zero() => return Err(Error::Timeout(Timeout::Handshake)),
            left => match attempt(address, left.map(|left| left / shares)) {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
        }
    }
    Err(timed_out(failure))
}

fn attempt(address: &SocketAddr, timeout: Option<std::time::Duration>) -> io::Result<TcpStream> {
    match timeout {
        // std refuses a timeout of zero.
        Some(timeout) => {
            TcpStream::connect_timeout(address, timeout.max(std::time::Duration::from_millis(1)))
        }
        None => TcpStream::connect(address),
    }
}

/// The head of the answer, and what came behind it. Interim answers are skipped.
fn read_answer(stream: &Stream, deadline: Deadline) -> Result<(http::Response<()>, Vec<u8>)> {
    let mut bytes = Vec::new();
    for _ in 0..=MAX_INTERIM {
        let mut scanner = Scanner::response(LIMITS);
        let broken = |refusal: Refusal| client_handshake::invalid_response(refusal.reason);
        let end = loop {
            if let Some(end) = scanner.scan(&bytes).map_err(broken)? {
                break end;
            }
            if read_some(stream, &mut bytes, deadline)? == 0 {
                return Err(Error::Io(ErrorKind::UnexpectedEof.into()));
            }
        };
        let (head, rest) = bytes.split_at_checked(end).unwrap_or((&bytes, &[]));
        let mut response = scanner.parse_response(head).map_err(broken)?;
        for value in
            response.headers_mut().iter_mut().filter(|(name, _)| *name == SET_COOKIE).map(|(_, value)| value)
        {
            // So that no `{:?}` shows it.
            value.set_sensitive(true);
        }
        bytes = rest.to_vec();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS || !response.status().is_informational() {
            return Ok((response, bytes));
        }
    }
    Err(client_handshake::invalid_response("the server sends interim answers without end"))
}

/// The error for another status than 101, with what there is of a body.
fn refused(stream: &Stream, response: http::Response<()>, mut bytes: Vec<u8>, deadline: Deadline) -> Error {
    let framing = Framing::of(&response);
    loop {
        let (mut body, whole) = framing.body(&bytes);
        let enough = whole || body.len() >= MAX_BODY || bytes.len() >= 2 * MAX_BODY;
        // A body that does not come in full is shown as far as it came.
        if enough || !read_some(stream, &mut bytes, deadline).is_ok_and(|count| count > 0) {
            body.truncate(MAX_BODY);
            return Error::Refused(Box::new(response.map(|()| body)));
        }
    }
}

fn read_some(stream: &Stream, bytes: &mut Vec<u8>, deadline: Deadline) -> Result<usize> {
    let mut buffer = [0; 4096];
    if !stream.wait_readable(deadline)? {
        return Err(Error::Timeout(Timeout::Handshake));
    }
    let count = stream.read(&mut buffer, false)?;
    bytes.extend(buffer.iter().take(count));
    Ok(count)
}

/// Where a redirect leads, if this is one that can be followed: `wss://` cannot yet.
fn redirect(from: &Target, response: &Response) -> Option<Target> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| is_redirect)?.to_str().ok()?;
    from.redirected(location).ok().filter(|target| !target.tls)
}

fn timed_out(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::Timeout(Timeout::Handshake),
        _ => Error::Io(error),
    }
}

fn text_of(error: &Error) -> String {
    match error {
        Error::Invalid(what) => what.to_string(),
        other => other.to_string(),
    }
}

/// One timer and one flush thread for all client connections of the process, started by the first.
fn shared_threads() -> Result<(Arc<Timer>, Arc<FlushThread>)> {
    static SHARED: Mutex<Option<(Arc<Timer>, Arc<FlushThread>)>> = Mutex::new(None);
    let mut shared = SHARED.lock();
    if let Some(threads) = &*shared {
        return Ok(threads.clone());
    }
    // Their handles are let go: these threads live as long as the process.
    let (flush, _) = FlushThread::start()?;
    let (timer, _) = Timer::start().inspect_err(|_| flush.stop())?;
    *shared = Some((Arc::clone(&timer), Arc::clone(&flush)));
    Ok((timer, flush))
}
