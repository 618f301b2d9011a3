//! One client from its accept to its end, in its own thread: handshake, handler, and the epilogue that alone closes.

use super::Shared;
use super::capacity::Place;
use super::thread_pool::Job;
use crate::addr::Addr;
use crate::connection::{Connection, Parts};
use crate::error::{BoxError, Error};
use crate::handshake::{self, Opened};
use crate::hub::Client;
use crate::logging::log_line;
use crate::message::CloseCode;
use crate::net::Stream;
use crate::outbox::Outbox;
use crate::protocol::Role;
use crate::quota::Admission;
use crate::sender::Sender;
use crate::sync::{Arc, next_id};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An accepted connection on its way to a thread.
pub(super) struct Accepted {
    id: u64,
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    peer_addr: Addr,
    /// What another HTTP server has read already.
    head: Option<Box<Head>>,
    /// Held for as long as it counts. Before the handshake only of a client for whom no proxy speaks.
    admission: Option<Admission>,
    _place: Place,
}

/// A head that another HTTP server has read, and what it read behind it.
pub(super) struct Head {
    pub(super) request: http::Request<()>,
    pub(super) early: Vec<u8>,
}

impl Accepted {
    /// Takes note of a connection; `None` if the server stops, which closes it. With an admission its address is known from
    /// its socket, and within its quotas.
    pub(super) fn new(
        shared: &Arc<Shared>,
        stream: &Arc<Stream>,
        peer_addr: Addr,
        place: Place,
        admission: Option<Admission>,
        head: Option<Box<Head>>,
    ) -> Option<Box<Self>> {
        let id = next_id();
        shared.live.accepted(id, stream.clone()).then(|| {
            Box::new(Self {
                id,
                shared: Arc::clone(shared),
                stream: Arc::clone(stream),
                peer_addr,
                head,
                admission,
                _place: place,
            })
        })
    }

    /// Apart from what follows, as the next one: what is deep here would else be deep for as long as the client stays.
    #[inline(never)]
    fn shake_hands(&mut self) -> Option<Box<Opened>> {
        let head = self.head.take();
        let Self { shared, stream, peer_addr, .. } = &*self;
        let admitted = self.admission.is_some();
        let Shared { rules, config, .. } = &**shared;
        let mut opened = match head {
            None => handshake::serve(stream, *peer_addr, rules, config, admitted, self),
            Some(head) => {
                let Head { request, early } = *head;
                handshake::serve_request(stream, *peer_addr, rules, config, self, request, early)
            }
        }?;
        if !admitted {
            self.admission = opened.admission.take();
        }
        Some(opened)
    }

    /// Lets a connection in whose handshake is done; `None` if it is gone.
    #[inline(never)]
    fn open(&self, Opened { request, subprotocol, early, .. }: Opened) -> Option<Box<Connection>> {
        let Self { id, shared, stream, peer_addr, .. } = self;
        let outbox = Outbox::new(Role::Server, &shared.config, Arc::clone(stream), Arc::clone(&shared.flush));
        outbox.set_slow_peer(shared.slow_peer);
        let sender = Sender::new(*id, outbox);
        let client_addr = request.client_addr();
        let parts = Parts {
            sender: sender.clone(),
            request,
            response: None,
            subprotocol,
            hub: shared.hub.clone(),
            hooks: Arc::clone(&shared.hooks),
            counters: Arc::clone(&shared.rules.counters),
            timer: Arc::clone(&shared.timer),
            messages: shared.rules.quotas.messages(client_addr),
        };
        let connection = Connection::new(Role::Server, &shared.config, Arc::clone(stream), &early, parts)
            .inspect_err(|error| {
                log_line!(Debug, "threadws::connection", "client {id} is gone: {error}");
            })
            .ok()?;
        log_line!(Debug, "threadws::connection", "client {id} opened from {client_addr} via {peer_addr}");
        shared.hub.join(Client { sender: sender.clone(), client_addr, peer_addr: *peer_addr });
        shared.live.opened(*id, &sender);
        Some(connection)
    }

    /// Hands an opened connection to the handler, and closes it afterwards. False if the handler panicked.
    fn serve(&self, mut connection: Box<Connection>) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| (self.shared.handler)(&mut connection)));
        let panicked = result.is_err();
        self.end(&mut connection, result.ok());
        !panicked
    }

    #[inline(never)]
    fn end(&self, connection: &mut Connection, result: Option<Result<(), BoxError>>) {
        close(connection, self.id, result);
        self.shared.hub.leave(self.id, &self.shared.hooks);
    }
}

impl handshake::Host for Accepted {
    fn is_stopping(&self) -> bool {
        self.shared.live.is_stopping()
    }

    fn welcome(&self) -> bool {
        self.shared.live.welcome(self.id)
    }
}

/// Closes what a handler has left: with 1000 after `Ok`, with 1011 after an error or a panic.
fn close(connection: &mut Connection, id: u64, result: Option<Result<(), BoxError>>) {
    let code = match &result {
        Some(Ok(())) => CloseCode::NORMAL,
        Some(Err(error)) if is_end_of(connection, error) => CloseCode::NORMAL,
        Some(Err(error)) => {
            log_line!(Error, "threadws::connection", "the handler of client {id} failed: {error}");
            CloseCode::INTERNAL_ERROR
        }
        None => {
            // The panic itself was told by the panic hook.
            log_line!(Error, "threadws::connection", "the handler of client {id} panicked");
            CloseCode::INTERNAL_ERROR
        }
    };
    // How it ended is told below. The text of a failure is nothing for the peer.
    drop(connection.close(code, ""));
    if let Some(closed) = connection.closed() {
        log_line!(
            Debug,
            "threadws::connection",
            "client {id} closed after {:.1} s: {closed}",
            closed.lifetime().as_secs_f64()
        );
    }
}

/// Whether an error is this connection's own end rather than a failure of its handler.
fn is_end_of(connection: &Connection, error: &BoxError) -> bool {
    let is_over = connection.closed().is_some() || connection.state() != crate::State::Open;
    is_over && chain(&**error).filter_map(|link| link.downcast_ref::<Error>()).any(Error::is_fatal)
}

/// An error and what it comes of: handlers have errors of their own, around ours.
fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // An `io::Error` that wraps another one names what that comes of, and skips it.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn std::error::Error + 'static)).or_else(|| error.source())
    })
}

impl Job for Box<Accepted> {
    fn run(mut self) -> bool {
        let connection = self.shake_hands().and_then(|opened| self.open(*opened));
        connection.is_none_or(|connection| self.serve(connection))
    }
}

/// Whatever happened: the place is free and the end is known.
impl Drop for Accepted {
    fn drop(&mut self) {
        self.shared.live.ended(self.id);
    }
}

/// Runs a callback; a panic in it is logged and goes no further.
pub(super) fn contained(name: &str, callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        log_line!(Error, "threadws::server", "the callback {name} panicked");
    }
}
