//! The client: connects, shakes hands and follows redirects. The connection is the same type as a server's.

mod resolve;

use crate::addr::Addr;
use crate::config::{Config, MAX_HEADERS};
use crate::connection::{Connection, Early, Parts};
use crate::deflate_pool::DeflatePool;
use crate::error::{Error, Result, Timeout, context};
use crate::flush_thread::FlushThread;
use crate::hub::Hub;
use crate::net::connect::{connect_any, connect_unix};
#[cfg(feature = "tls")]
use crate::net::tls::{self, ClientTls};
use crate::net::{Deadline, Line, Stream};
use crate::outbox::{Compression, Outbox};
use crate::protocol::client_handshake::{self, Offer};
use crate::protocol::head::{self, HeadLimits, Scanner};
use crate::protocol::response_body::{BodySeen, Framing};
use crate::protocol::url::{Endpoint, Target};
use crate::protocol::{Refusal, Role};
use crate::request::{Request, Response, SECRETS};
use crate::sender::Sender;
use crate::sync::{Arc, Mutex, next_id};
use crate::timer::Timer;
use http::header::{AUTHORIZATION, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

/// How many bytes of a response are read at least in one call.
const READ: usize = 4096;
/// How much of the body of a refusal is kept, in bytes. Enough for any text that explains it.
const MAX_BODY: usize = 64 * 1024;
/// How many interim responses (1xx except 101) are skipped. RFC 9110 §15.2 lets a server send any number.
const MAX_INTERIM: usize = 8;

/// Connects to a `ws://`, `wss://` or `ws+unix:` URL with the default settings. [`Connect`] has others.
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
/// Waits at most [`handshake_timeout`](Config::with_handshake_timeout), 10 s by default, for name resolution, connecting and
/// the handshake together.
///
/// # Errors
///
/// As for [`Connect::connect`].
pub fn connect(url: impl AsRef<str>) -> Result<Connection> {
    Connect::new(url).connect()
}

/// A connection to be made: its URL, headers, limits and timeouts.
///
/// ```no_run
/// use threadws::{Config, Connect};
///
/// # fn main() -> threadws::Result<()> {
/// let connection = Connect::new("ws://127.0.0.1:8005/")
///     .header("origin", "https://example.com")
///     .config(Config::new().with_max_message_size(16 << 20))
///     .connect()?;
/// # Ok(())
/// # }
/// ```
///
/// A setting that cannot work is refused by [`connect`](Self::connect), with [`Error::Invalid`].
#[derive(Debug)]
#[must_use = "nothing happens until it connects"]
pub struct Connect {
    /// The URL, or the error of the first setting that cannot work.
    target: Result<Target>,
    headers: HeaderMap,
    subprotocols: Vec<String>,
    config: Config,
    max_redirects: usize,
    #[cfg(feature = "tls")]
    tls: ClientTls,
}

/// # Connect
impl Connect {
    /// Starts with a URL. A malformed URL is refused by [`connect`](Self::connect).
    ///
    /// * `ws://host:port/path?query`, or `wss://` for TLS. The host is a name or an address. An IPv6 address may have a zone: `[fe80::1%25eth0]`,
    ///   or `[fe80::1%eth0]` as programs print it.
    /// * `ws+unix:/path/to.sock:/path?query`: a Unix socket, as in npm's `ws`. Use [`connect_over`](Self::connect_over) if
    ///   the path of the socket has a `:` before a `/`, or a `#`.
    ///
    /// A user and password in the URL, `ws://user:password@host/`, are sent as a Basic `Authorization` (RFC 7617), unless
    /// [`header`](Self::header) sets another one. Characters with a meaning in a URL have to be percent-encoded: `p%40ss`.
    /// User and password appear in no error, log line or `Debug`.
    pub fn new(url: impl AsRef<str>) -> Self {
        Self {
            target: Target::parse(url.as_ref()),
            headers: HeaderMap::new(),
            subprotocols: Vec::new(),
            config: Config::default(),
            max_redirects: 0,
            #[cfg(feature = "tls")]
            tls: ClientTls::new(),
        }
    }

    /// Connects.
    ///
    /// # Blocking
    ///
    /// Waits at most [`handshake_timeout`](Config::with_handshake_timeout), 10 s by default, for everything together: name
    /// resolution, connecting, handshakes and redirects.
    ///
    /// If a name has several addresses, the next one is tried as soon as one has failed or has not answered for 250 ms. IPv6
    /// and IPv4 take turns (RFC 8305). At most 16 addresses are tried at once: then the oldest attempt is dropped.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the URL or a setting cannot work. The text does not contain the URL, because it may hold a
    ///   password.
    /// * [`Error::Refused`]: the server answered with another status than 101. The response has its headers and up to 64 KiB
    ///   of its body.
    /// * [`Error::Timeout`] with [`Timeout::Handshake`].
    /// * [`Error::Io`]: no connection could be made (the text names the last address that was tried), or the response
    ///   breaks the protocol ([`ErrorKind::InvalidData`]).
    pub fn connect(self) -> Result<Connection> {
        let deadline = Deadline::after(self.config.handshake_timeout());
        let max_redirects = self.max_redirects;
        let mut request = self.check()?;
        let mut redirects = 0;
        loop {
            let stream = Stream::new(dial(&request.target, deadline)?)?;
            match request.shake_hands(stream, deadline) {
                Err(Error::Refused(response)) if redirects < max_redirects => {
                    let Some(next) = redirect(&request.target, &response) else {
                        return Err(Error::Refused(response));
                    };
                    redirects += 1;
                    if !next.is_same_origin(&request.target) {
                        for name in SECRETS {
                            request.headers.remove(name);
                        }
                    }
                    #[cfg(feature = "tls")]
                    if !next.is_same_host(&request.target) {
                        request.tls = request.tls.for_another_host();
                    }
                    request.target = next;
                }
                result => return result,
            }
        }
    }

    /// Shakes hands over a stream socket that is already connected: TCP, Unix or another one. Redirects are not followed.
    ///
    /// The URL gives the request its host and path.
    ///
    /// # Blocking
    ///
    /// As for [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub fn connect_over(self, stream: impl Into<OwnedFd>) -> Result<Connection> {
        let deadline = Deadline::after(self.config.handshake_timeout());
        self.check()?.shake_hands(Stream::new(stream)?, deadline)
    }
}

/// # Settings
impl Connect {
    /// Adds a header to the request, such as `Origin` or `Authorization`.
    ///
    /// Headers that the handshake itself sends are refused: `Host`, `Upgrade`, `Connection`, `Content-Length`,
    /// `Transfer-Encoding`, `Expect`, and all `Sec-WebSocket-…`. A second `Origin` is refused, too (RFC 6454 §7.3).
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let name = HeaderName::try_from(name.as_ref());
        // `from_str` refuses what is not ASCII, but RFC 9110 §5.5 allows it.
        let value = HeaderValue::from_bytes(value.as_ref().as_bytes());
        match (name, value) {
            (Ok(name), Ok(mut value)) => {
                // Hides the value in every `Debug`.
                value.set_sensitive(SECRETS.contains(&name));
                match self.headers.try_append(name, value) {
                    Ok(_) => self,
                    Err(_) => self.refuse("too many headers"),
                }
            }
            (Ok(name), Err(_)) => self.refuse(format!("the value of header {name} cannot be sent")),
            (Err(_), _) => self.refuse("the name of a header cannot be sent"),
        }
    }

    /// Sets the subprotocols that the client offers, the preferred one first. Defaults to none.
    pub fn subprotocols<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the limits and timeouts of the connection. Defaults to [`Config::default`].
    ///
    /// `Config` holds the limits and timeouts of a connection, the same for both ends; everything that only a server has is
    /// a method of [`Server`](crate::Server).
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets how many redirects are followed. Defaults to 0.
    ///
    /// `Authorization`, the URL's user and password, and `Cookie` are not sent to another origin. A redirect that is not
    /// followed is [`Error::Refused`]: one too many, or one from `wss://` to `ws://`, to a URL with a user, or to a malformed
    /// URL. The client certificate and the server name of [`tls`](Self::tls) are not used for another host.
    pub fn max_redirects(mut self, redirects: usize) -> Self {
        self.max_redirects = redirects;
        self
    }

    /// Sets how `wss://` uses TLS: see [`ClientTls`]. Defaults to the roots of the system, and no certificate of the client.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Self {
        self.tls = tls.into();
        self
    }
}

impl Connect {
    /// Keeps the error of the first setting that cannot work.
    fn refuse(mut self, why: impl Into<Cow<'static, str>>) -> Self {
        if self.target.is_ok() {
            self.target = Err(Error::invalid(why));
        }
        self
    }

    fn check(self) -> Result<HandshakeRequest> {
        let Self { target, mut headers, subprotocols, config, .. } = self;
        let mut target = target?;
        config.check()?;
        #[cfg(feature = "tls")]
        let tls = if target.tls { self.tls.built()? } else { self.tls };
        if target.tls && !cfg!(feature = "tls") {
            return Err(Error::invalid("wss:// needs the feature tls"));
        }
        Offer::check_settings(&subprotocols, &headers)?;
        if let Some(authorization) = target.authorization.take() {
            headers.entry(AUTHORIZATION).or_insert(authorization);
        }
        Ok(HandshakeRequest {
            target,
            headers,
            subprotocols,
            config,
            #[cfg(feature = "tls")]
            tls,
        })
    }
}

impl Clone for Connect {
    fn clone(&self) -> Self {
        Self {
            target: match &self.target {
                Ok(target) => Ok(target.clone()),
                Err(error) => Err(error.of_setting()),
            },
            headers: self.headers.clone(),
            subprotocols: self.subprotocols.clone(),
            config: self.config.clone(),
            max_redirects: self.max_redirects,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        }
    }
}

/// The checked settings of a [`Connect`].
struct HandshakeRequest {
    target: Target,
    headers: HeaderMap,
    subprotocols: Vec<String>,
    config: Config,
    #[cfg(feature = "tls")]
    tls: ClientTls,
}

impl HandshakeRequest {
    fn shake_hands(&self, stream: Stream, deadline: Deadline) -> Result<Connection> {
        let peer_addr = stream.peer_addr()?;
        let mut line = Line::new(Arc::new(stream));
        let secured = self.secure(&mut line, deadline);
        secured.and_then(|()| self.exchange(line, peer_addr, deadline)).map_err(|error| match error {
            Error::Io(error) => {
                Error::Io(context(format_args!("the handshake with {peer_addr} failed"), error))
            }
            Error::Tls(what) => Error::Tls(format!("the handshake with {peer_addr} failed: {what}").into()),
            error => error,
        })
    }

    /// Shakes hands over TLS, if the URL is `wss://`.
    #[cfg(feature = "tls")]
    fn secure(&self, line: &mut Line, deadline: Deadline) -> Result<()> {
        match &self.target.endpoint {
            Endpoint::Host(host, _) if self.target.tls => tls::connect(line, &self.tls, host, deadline),
            _ => Ok(()),
        }
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "`check` has refused wss://")]
    fn secure(&self, _: &mut Line, _: Deadline) -> Result<()> {
        Ok(())
    }

    fn exchange(&self, mut line: Line, peer_addr: Addr, deadline: Deadline) -> Result<Connection> {
        let (offer, bytes) =
            Offer::new(&self.target, &self.subprotocols, &self.headers, self.config.deflate())?;
        // A server may respond and close before it has read the whole request. Then its response counts, and not our EPIPE.
        let written = line.write_all(&bytes, || deadline);
        let (response, early) = match read_response(&mut line, &self.config, deadline) {
            Ok(response) => response,
            Err(error) => {
                written.map_err(timed_out)?;
                return Err(error);
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(line, response, early, deadline));
        }
        let choices = offer.check(&response)?;
        let request = head::parse_request(&bytes, HeadLimits { size: bytes.len() + 1, headers: usize::MAX })
            .map_err(|refusal| Error::invalid(refusal.reason))?;
        let stream = Arc::clone(line.stream());
        let (timer, flush) = shared_threads()?;
        let compression = self.config.deflate().zip(choices.deflate);
        let compression = compression
            .map(|(settings, (agreed, header))| Compression::new(agreed, &header, settings, deflate_pool()));
        let outbox = Outbox::new(Role::Client, &self.config, Arc::clone(&stream), flush, compression);
        let sealed = line.take_session().map(|session| outbox.establish(session));
        let parts = Parts {
            sender: Sender::new(next_id(), outbox),
            request: Box::new(Request::new(request, peer_addr, peer_addr.without_port())),
            response: Some(Box::new(response.map(|()| Vec::new()))),
            subprotocol: choices.subprotocol,
            hub: Hub::default(),
            hooks: Arc::default(),
            counters: Arc::default(),
            timer,
            message_rate: None,
        };
        let early = Early { plain: &early, sealed: sealed.as_deref() };
        Connection::new(&self.config, stream, early, parts).map(|connection| *connection)
    }
}

/// Connects the socket that the URL names.
fn dial(target: &Target, deadline: Deadline) -> Result<OwnedFd> {
    let socket = match &target.endpoint {
        Endpoint::Host(host, port) => connect_any(&resolve::resolve(host, *port, deadline)?, deadline),
        Endpoint::Unix(path) => connect_unix(path, deadline)
            .map_err(|error| context(format_args!("cannot connect to unix:{}", path.display()), error)),
    };
    socket.map_err(timed_out)
}

/// Reads the head of the response, and returns it with the bytes behind it. Interim responses are skipped.
fn read_response(
    line: &mut Line,
    config: &Config,
    deadline: Deadline,
) -> Result<(http::Response<()>, Vec<u8>)> {
    let limits = HeadLimits { size: config.max_head_size(), headers: MAX_HEADERS };
    let mut bytes = Vec::new();
    for _ in 0..=MAX_INTERIM {
        let mut scanner = Scanner::response(limits);
        let broken = |refusal: Refusal| client_handshake::invalid_response(refusal.reason);
        let end = loop {
            if let Some(end) = scanner.scan(&bytes).map_err(broken)? {
                break end;
            }
            if read_some(line, &mut bytes, deadline)? == 0 {
                let what = "the server closed the connection before the end of its answer";
                return Err(Error::Io(io::Error::new(ErrorKind::UnexpectedEof, what)));
            }
        };
        let (head, rest) = bytes.split_at_checked(end).unwrap_or((&bytes, &[]));
        let mut response = scanner.parse_response(head).map_err(broken)?;
        for value in
            response.headers_mut().iter_mut().filter(|(name, _)| *name == SET_COOKIE).map(|(_, value)| value)
        {
            // Hides the value in every `Debug`.
            value.set_sensitive(true);
        }
        bytes = rest.to_vec();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS || !response.status().is_informational() {
            return Ok((response, bytes));
        }
    }
    Err(client_handshake::invalid_response("the server sends interim responses without end"))
}

/// Returns the error for another status than 101, with the body as far as it arrives.
fn refused(mut line: Line, response: http::Response<()>, mut bytes: Vec<u8>, deadline: Deadline) -> Error {
    let framing = Framing::of(&response);
    let mut seen = BodySeen::default();
    // A body that does not arrive in full is shown as far as it arrived.
    while framing.look(&bytes, &mut seen).is_some_and(|count| count < MAX_BODY)
        && bytes.len() < 2 * MAX_BODY
        && read_some(&mut line, &mut bytes, deadline).is_ok_and(|count| count > 0)
    {}
    line.shutdown_write();
    let mut body = framing.body(&bytes);
    body.truncate(MAX_BODY);
    Error::Refused(Box::new(response.map(|()| body)))
}

fn read_some(line: &mut Line, bytes: &mut Vec<u8>, deadline: Deadline) -> Result<usize> {
    loop {
        if !line.wait_readable(deadline)? {
            return Err(Error::Timeout(Timeout::Handshake));
        }
        bytes.reserve(READ);
        match line.read_append(bytes, false) {
            // A part of a TLS record.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return Ok(result?),
        }
    }
}

/// Returns the target of a redirect that can be followed. From `wss://` only `wss://` can: a redirect to `ws://` would send
/// in the clear what the caller wants encrypted.
fn redirect(from: &Target, response: &Response) -> Option<Target> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| is_redirect)?.to_str().ok()?;
    from.redirected(location)
        .ok()
        .filter(|target| target.tls == from.tls || (target.tls && cfg!(feature = "tls")))
}

fn timed_out(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::Timeout(Timeout::Handshake),
        _ => error.into(),
    }
}

/// Returns the timer and the flush thread of all client connections in the process. The first connection starts them.
fn shared_threads() -> Result<(Arc<Timer>, Arc<FlushThread>)> {
    static SHARED: Mutex<Option<(Arc<Timer>, Arc<FlushThread>)>> = Mutex::new(None);
    let mut shared = SHARED.lock();
    if let Some(threads) = &*shared {
        return Ok(threads.clone());
    }
    // Their join handles are dropped, because these threads live as long as the process.
    let (flush, _) = FlushThread::start()?;
    let (timer, _) = Timer::start().inspect_err(|_| flush.stop())?;
    *shared = Some((Arc::clone(&timer), Arc::clone(&flush)));
    Ok((timer, flush))
}

/// Returns the compressors of all client connections in the process.
fn deflate_pool() -> Arc<DeflatePool> {
    static POOL: Mutex<Option<Arc<DeflatePool>>> = Mutex::new(None);
    Arc::clone(POOL.lock().get_or_insert_with(|| Arc::new(DeflatePool::new())))
}
