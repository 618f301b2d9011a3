//! One client from its accept to its end, in its own thread: handshake, handler, and the epilogue that alone closes.

use super::Shared;
use super::capacity::Place;
use super::pool::Job;
use crate::connection::{Connection, Parts};
use crate::error::{BoxError, Error};
use crate::handshake::{self, Opened};
use crate::hub::Client as Member;
use crate::message::CloseCode;
use crate::net::Stream;
use crate::outbox::Outbox;
use crate::protocol::Role;
use crate::quota::Admission;
use crate::sender::Sender;
use crate::sync::{Arc, next_id};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An accepted connection on its way to a thread.
pub(super) struct Client {
    id: u64,
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    peer_addr: SocketAddr,
    /// What another HTTP server has read already.
    head: Option<Head>,
    /// Of a client for whom no proxy speaks.
    admission: Option<Admission>,
    _place: Place,
}

/// A head that another HTTP server has read, and what it read behind it.
pub(super) struct Head {
    pub(super) request: http::Request<()>,
    pub(super) early: Vec<u8>,
}

impl Client {
    /// Takes note of a connection; `None` if the server stops, which closes it.
    pub(super) fn accepted(
        shared: &Arc<Shared>,
        stream: &Arc<Stream>,
        peer_addr: SocketAddr,
        place: Place,
        head: Option<Head>,
    ) -> Option<Self> {
        let id = next_id();
        shared.live.accepted(id, stream.clone()).then(|| Self {
            id,
            shared: Arc::clone(shared),
            stream: Arc::clone(stream),
            peer_addr,
            head,
            admission: None,
            _place: place,
        })
    }

    /// Its address is known from its socket, and is within its quotas.
    pub(super) fn admitted(mut self, admission: Option<Admission>) -> Self {
        self.admission = admission;
        self
    }

    /// Hands an opened connection to the handler, and closes it afterwards. False if the handler panicked.
    fn serve(&self, opened: Opened) -> bool {
        let Self { id, shared, stream, peer_addr, .. } = self;
        let outbox = Outbox::new(Role::Server, &shared.config, Arc::clone(stream), Arc::clone(&shared.flush));
        let sender = Sender::new(*id, outbox);
        let ip = opened.request.client_ip();
        let parts = Parts {
            sender: sender.clone(),
            request: opened.request,
            response: None,
            subprotocol: opened.subprotocol,
            hub: shared.hub.clone(),
            hooks: Arc::clone(&shared.hooks),
            timer: Arc::clone(&shared.timer),
            messages: shared.rules.quotas.messages(ip),
        };
        // Until the connection is over.
        let _admission = opened.admission;
        let connection =
            Connection::new(Role::Server, &shared.config, Arc::clone(stream), &opened.early, parts);
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                log::debug!(target: "threadws::connection", "client {id} is gone: {error}");
                return true;
            }
        };
        log::debug!(target: "threadws::connection", "client {id} opened from {ip} via {peer_addr}");
        shared.hub.join(Member { sender: sender.clone(), ip, peer_addr: *peer_addr });
        shared.live.opened(*id, &sender);
        let result = catch_unwind(AssertUnwindSafe(|| (shared.handler)(&mut connection)));
        let panicked = result.is_err();
        end(&mut connection, *id, result.ok());
        shared.hub.leave(*id, &shared.hooks);
        !panicked
    }
}

/// Closes what a handler has left: with 1000 after `Ok`, with 1011 after an error or a panic.
fn end(connection: &mut Connection, id: u64, result: Option<Result<(), BoxError>>) {
    let code = match &result {
        Some(Ok(())) => CloseCode::NORMAL,
        Some(Err(error)) if is_end_of(connection, error) => CloseCode::NORMAL,
        Some(Err(error)) => {
            log::error!(target: "threadws::connection", "the handler of client {id} failed: {error}");
            CloseCode::INTERNAL_ERROR
        }
        None => {
            // The panic itself was told by the panic hook.
            log::error!(target: "threadws::connection", "the handler of client {id} panicked");
            CloseCode::INTERNAL_ERROR
        }
    };
    // How it ended is told below. The text of a failure is nothing for the peer.
    drop(connection.close(code, ""));
    if let Some(closed) = connection.closed() {
        log::debug!(
            target: "threadws::connection",
            "client {id} closed after {:.1} s: {closed}", closed.lifetime().as_secs_f64()
        );
    }
}

/// Whether an error is this connection's own end rather than a failure of its handler.
fn is_end_of(connection: &Connection, error: &BoxError) -> bool {
    let is_end = error.downcast_ref::<Error>().is_some_and(Error::is_fatal);
    is_end && (connection.closed().is_some() || connection.state() != crate::State::Open)
}

impl Job for Client {
    fn run(mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let head = self.head.take();
        let is_stopping = || shared.live.is_stopping();
        let timeout = shared.config.handshake_timeout;
        let opened = match head {
            None => {
                let admitted = self.admission.is_some();
                handshake::serve(&self.stream, self.peer_addr, &shared.rules, timeout, admitted, &is_stopping)
            }
            Some(Head { request, early }) => {
                handshake::serve_request(&self.stream, self.peer_addr, &shared.rules, timeout, request, early)
            }
        };
        opened.is_none_or(|opened| self.serve(opened))
    }
}

/// Whatever happened: the place is free and the end is known.
impl Drop for Client {
    fn drop(&mut self) {
        self.shared.live.ended(self.id);
    }
}

/// Runs a callback; a panic in it is logged and goes no further.
pub(super) fn contained(name: &str, callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        log::error!(target: "threadws::server", "the callback {name} panicked");
    }
}
