//! The life of one client in its own thread: handshake, handler, and the end. Only this thread closes the socket.

use super::capacity::Place;
use super::failures::HandlerResult;
use super::thread_pool::Job;
use super::{Shared, Way};
use crate::addr::Addr;
use crate::connection::{Connection, Early, Parts};
use crate::error::{BoxError, Error};
use crate::handshake::{Handshake, Host, Opened, Source};
use crate::hub::Client;
use crate::logging::{catch, contain, log_line};
use crate::message::{CloseCode, State};
use crate::net::{Deadline, Line, Stream};
use crate::outbox::{Compression, Outbox};
use crate::protocol::Role;
use crate::quota::Admission;
use crate::request::Escaped;
use crate::sender::Sender;
use crate::sync::{Arc, next_id};
use std::io;

/// The target of this module's log lines.
const LOG: &str = "threadws::connection";

/// An accepted connection. The acceptor makes it, and then its client thread owns it.
///
/// It is in the registry and has a place until it is dropped.
///
/// # Stack
///
/// [`shake_hands`](Self::shake_hands), [`open`](Self::open) and [`end`](Self::end) are not inlined. Otherwise their stack
/// frames would be part of this thread's outermost frame, below the handler's. The pages that they touch would stay
/// resident as long as the client stays, one page for each client (`guide::performance`, "The hot path").
pub(super) struct Accepted {
    id: u64,
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    peer_addr: Addr,
    /// `None` after the handshake.
    start: Option<Start>,
    _place: Place,
}

/// The beginning of a client's handshake.
pub(super) enum Start {
    /// The request is read from the socket.
    Socket(Source),
    /// Another HTTP server has read the request.
    Head(Head),
    /// Another HTTP server has also sent the 101, with this subprotocol.
    Answered(Head, Option<String>),
}

/// A request that another HTTP server has read.
pub(super) struct Head {
    pub(super) request: Box<http::Request<()>>,
    /// The bytes that were read after the head.
    pub(super) early: Vec<u8>,
}

impl Head {
    pub(super) fn new(request: &http::Request<()>, early: &[u8]) -> Self {
        Self { request: Box::new(request.clone()), early: early.to_vec() }
    }
}

impl Accepted {
    pub(super) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns whether the request is still to be read from the socket.
    pub(super) fn reads_request(&self) -> bool {
        matches!(self.start, Some(Start::Socket(_)))
    }

    /// Inserts a connection into the registry. `None` if the server is shutting down.
    pub(super) fn new(
        shared: &Arc<Shared>,
        stream: &Arc<Stream>,
        peer_addr: Addr,
        place: Place,
        start: Start,
    ) -> Option<Box<Self>> {
        let id = next_id();
        let (shared, stream) = (Arc::clone(shared), Arc::clone(stream));
        shared
            .registry
            .insert(id, stream.clone())
            .then(|| Box::new(Self { id, shared, stream, peer_addr, start: Some(start), _place: place }))
    }

    /// Reads and answers the request. Returns `None` if it was refused. Without `lingers` the caller then discards input.
    #[inline(never)]
    pub(super) fn shake_hands(&mut self, deadline: Deadline, lingers: bool) -> Option<Box<Opened>> {
        let start = self.start.take()?;
        let settings = &self.shared.settings;
        let handshake = Handshake {
            line: Line::new(Arc::clone(&self.stream)),
            peer_addr: self.peer_addr,
            rules: &settings.handshake,
            counters: self.shared.meter.counters(),
            host: self,
            deadline,
            lingers,
            config: &settings.config,
        };
        match start {
            Start::Socket(source) => handshake.run(source),
            Start::Head(Head { request, early }) => handshake.run_with_head(*request, early),
            Start::Answered(Head { request, early }, subprotocol) => {
                handshake.run_answered(*request, early, subprotocol)
            }
        }
    }

    /// Makes a connection after the handshake, puts it into the hub, and then sends the 101. `None` if the client has
    /// disconnected. It has left the hub then.
    #[inline(never)]
    pub(super) fn open(&self, opened: Opened) -> Option<(Box<Connection>, Admission)> {
        let Self { id, shared, stream, peer_addr, .. } = self;
        let Opened { request, response, deadline, choices, early, session, admission } = opened;
        let config = &shared.settings.config;
        let compression = config.deflate().zip(choices.deflate).map(|(settings, (agreed, header))| {
            Compression::new(agreed, &header, settings, Arc::clone(&shared.deflate))
        });
        let (stream, flush) = (Arc::clone(stream), Arc::clone(&shared.flush));
        let outbox = Outbox::new(Role::Server, config, Arc::clone(&stream), flush, compression);
        let sealed = session.map(|session| outbox.establish(session));
        let is_answered = response.is_none();
        if let Some(response) = response {
            outbox.hold(response);
        }
        outbox.set_slow_peer(shared.settings.slow_peer);
        let sender = Sender::new(*id, outbox);
        let client_addr = request.client_addr();
        let parts = Parts {
            sender: sender.clone(),
            request,
            response: None,
            subprotocol: choices.subprotocol,
            hub: shared.hub.clone(),
            hooks: Arc::clone(&shared.hooks),
            counters: Arc::clone(shared.meter.counters()),
            timer: Arc::clone(&shared.timer),
            message_rate: shared.settings.handshake.quotas.messages(client_addr),
        };
        let early = Early { plain: &early, sealed: sealed.as_deref() };
        let mut connection = Connection::new(config, stream, early, parts)
            .inspect_err(|error| log_line!(Debug, LOG, "client {id} is gone: {error}"))
            .ok()?;
        shared.hub.join(Client { sender: sender.clone(), client_addr, peer_addr: *peer_addr });
        if let Some(on_open) = &shared.settings.on_open {
            contain(LOG, format_args!("the callback on_open for client {id}"), || on_open(&connection));
        }
        let sent = if is_answered { Ok(()) } else { sender.outbox().open(deadline) };
        if let Err(error) = sent {
            log_line!(Debug, LOG, "client {id} disconnected before the 101: {error}");
            self.end(&mut connection, HandlerResult::Ok);
            return None;
        }
        if client_addr == peer_addr.without_port() {
            log_line!(Debug, LOG, "client {id} opened from {peer_addr}");
        } else {
            log_line!(Debug, LOG, "client {id} opened from {client_addr} via {peer_addr}");
        }
        shared.registry.opened(*id, &sender);
        Some((connection, admission))
    }

    /// Calls the handler, and closes the connection afterwards. Returns false if the handler panicked.
    fn serve(&self, mut connection: Box<Connection>) -> bool {
        let Way::Thread(handler) = &self.shared.way else { return true };
        match catch(|| handler(&mut connection)) {
            Ok(Ok(())) => self.end(&mut connection, HandlerResult::Ok),
            Ok(Err(error)) => self.end(&mut connection, HandlerResult::Err(&error)),
            Err(panic) => {
                self.end(&mut connection, HandlerResult::Panicked(&panic));
                return false;
            }
        }
        true
    }

    /// Closes a connection after its handler, with 1000 after `Ok` and with 1011 after an error or a panic. Then it leaves the
    /// hub.
    #[inline(never)]
    fn end(&self, connection: &mut Connection, result: HandlerResult<'_>) {
        let (result, code) = self.judge(connection, result);
        // The reason is empty, because the text of an error is not for the peer. A failure to close is logged below.
        drop(connection.close(code, ""));
        self.leave(connection, result);
    }

    /// Logs and keeps a failure. Returns the result without an error that only reports the end of the connection, and the close
    /// code.
    pub(super) fn judge<'a>(
        &self,
        connection: &Connection,
        result: HandlerResult<'a>,
    ) -> (HandlerResult<'a>, CloseCode) {
        let Self { id, shared, .. } = self;
        let result = match result {
            HandlerResult::Err(error) if is_end_of(connection, error) => HandlerResult::Ok,
            result => result,
        };
        let code = if matches!(result, HandlerResult::Ok) {
            CloseCode::NORMAL
        } else {
            // The text can contain what the client sent.
            log_line!(Error, LOG, "the handler of client {id} {}", Escaped(&result.to_string()));
            shared.failures.add(*id, result);
            CloseCode::INTERNAL_ERROR
        };
        (result, code)
    }

    /// Takes a client whose connection has ended out of the hub.
    pub(super) fn leave(&self, connection: &Connection, result: HandlerResult<'_>) {
        let Self { id, shared, .. } = self;
        if let Some(closed) = connection.closed() {
            let seconds = closed.lifetime().as_secs_f64();
            log_line!(Debug, LOG, "client {id} closed after {seconds:.1} s: {closed}");
        }
        let client = shared.hub.leave(*id, &shared.hooks);
        if let (Some(on_close), Some(client), Some(closed)) =
            (&shared.settings.on_close, client, connection.closed())
        {
            contain(LOG, format_args!("the callback on_close for client {id}"), || {
                on_close(&client, closed, result);
            });
        }
    }
}

impl Job for Box<Accepted> {
    fn run(mut self) -> bool {
        let deadline = Deadline::after(self.shared.settings.config.handshake_timeout());
        match self.shake_hands(deadline, true).and_then(|opened| self.open(*opened)) {
            // The connection counts against the quotas of its address until its handler has ended.
            Some((connection, _admission)) => self.serve(connection),
            None => true,
        }
    }
}

impl Host for Accepted {
    fn is_stopping(&self) -> bool {
        self.shared.registry.is_stopping()
    }

    fn opening(&self) -> bool {
        self.shared.registry.opening(self.id)
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.shared.registry.remove(self.id);
    }
}

/// Returns whether an error is the end of this connection, and not a failure of its handler.
fn is_end_of(connection: &Connection, error: &BoxError) -> bool {
    let is_over = connection.closed().is_some() || connection.state() != State::Open;
    is_over && chain(&**error).filter_map(|link| link.downcast_ref::<Error>()).any(Error::is_fatal)
}

/// An error and its sources: a handler can wrap this crate's errors in its own.
fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // The `source` of an `io::Error` skips the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn std::error::Error + 'static)).or_else(|| error.source())
    })
}
