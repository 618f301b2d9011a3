//! The callbacks of a [`Server`]. All of them run in the client's thread, except `on_error`. Their panics are contained.

use super::builder::Server;
use super::failures::HandlerResult;
use crate::connection::Connection;
use crate::error::{Closed, Error};
use crate::hub::{Client, Hub};
use crate::request::{HandshakeError, Reject, Request, Response};

/// # Requests
///
/// Callbacks that decide about a request.
impl Server {
    /// Checks each request. Called when a handshake has passed the server's own checks, just before the 101.
    ///
    /// The callback sees the request with the client's address and every header. It may add headers to the response,
    /// refuse the handshake with any status, and put values into the request's extensions, where the handler finds them
    /// by [`Connection::request`](crate::Connection::request).
    ///
    /// The callback runs in the client's thread, so it delays no other client. If it panics, the client is answered 500.
    ///
    /// ```
    /// use threadws::handshake::Reject;
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let server = threadws::Server::bind("127.0.0.1:0")?.check_request(|request, _response| {
    ///     match request.header("authorization") {
    ///         Some("Bearer apple") => {
    ///             request.extensions_mut().insert("alice"); // the handler finds it there
    ///             Ok(())
    ///         }
    ///         _ => Err(Reject::new(401, "a token is missing")),
    ///     }
    /// });
    /// let handle = server.spawn(|client| {
    ///     let user = client.request().extensions().get::<&str>().copied();
    ///     Ok(client.send(format!("hello, {}", user.unwrap_or("stranger")))?)
    /// })?;
    /// let url = format!("ws://{}/", handle.local_addr()?);
    /// assert!(threadws::connect(&url).is_err());
    /// let mut connection = threadws::Connect::new(&url).header("authorization", "Bearer apple").connect()?;
    /// assert_eq!(connection.recv()?, Some("hello, alice".into()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_request(
        mut self,
        callback: impl Fn(&mut Request, &mut Response) -> Result<(), Reject> + Send + Sync + 'static,
    ) -> Self {
        self.settings.handshake.check_request = Some(Box::new(callback));
        self
    }

    /// Answers plain HTTP requests of any method on the same port, for example a small REST service. Without this callback
    /// GET and HEAD are answered 426, and other methods 405.
    ///
    /// [`Request::body`] has the body. It is limited like a message: to
    /// [`max_message_size`](crate::Config::max_message_size), 1 MiB by default (otherwise 413), and in time to
    /// [`message_timeout`](crate::Config::message_timeout) for each started MiB that has arrived (408). It needs a
    /// `Content-Length` (411).
    /// Requests that may change something, which are all except GET, HEAD, OPTIONS and TRACE, are answered 403 if their
    /// `Origin` is not allowed, as for WebSockets ([`allow_origin`](Self::allow_origin)). The connection is closed after
    /// the answer.
    ///
    /// ```
    /// use threadws::handshake::{Reject, Request, Response};
    /// use threadws::{Server, http::Method};
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let server = Server::bind("127.0.0.1:0")?.serve_http(|request: &Request| match (request.method(), request.path()) {
    ///     (&Method::GET, "/notes") => Response::new(b"[]".to_vec()),
    ///     (&Method::PUT, "/notes/1") => Response::new(request.body().to_vec()),
    ///     (_, "/notes" | "/notes/1") => Reject::new(405, "").header("allow", "GET, PUT").into(),
    ///     _ => Reject::new(404, "no such page").into(),
    /// });
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The callback runs in the client's thread. If it panics, the client is answered 500.
    ///
    /// The time limit for sending the answer is what is left of [`handshake_timeout`](crate::Config::handshake_timeout), and
    /// at least the [`write_timeout`](crate::Config::write_timeout), 10 s by default, for each started MiB. Then the
    /// connection is closed. The server adds no `Date` header, although RFC 9110 §6.6.1 asks for one: the callback can set it.
    pub fn serve_http(mut self, callback: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        self.settings.handshake.serve_http = Some(Box::new(callback));
        self
    }
}

/// # Observe
///
/// Callbacks that change nothing, and panics that end a test.
impl Server {
    /// Observes connections that open. Called when the client is in the hub, just before its 101 is sent. For a connection
    /// that was [adopted](crate::ServerHandle::adopt), the 101 was sent before.
    ///
    /// A client that is subscribed to a topic here misses no message that is published after its `connect` has returned. The
    /// callback cannot receive. Messages that it sends follow the 101, which [`Sender::send`](crate::Sender::send) sends at
    /// once. If the 101 cannot be sent, the client leaves the hub, and the handler is not called; [`on_close`](Self::on_close)
    /// is.
    ///
    /// The callback runs in the client's thread. It should be quick, because the 101 and messages for the client are queued
    /// until it returns, or until they fill the backlog. If it panics, the panic is logged and has no other effect.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let server = threadws::Server::bind("127.0.0.1:0")?
    ///     .on_open(|client| drop(client.subscribe(client.request().path()))); // fails for a path of over 256 bytes
    /// let handle = server.spawn(|client| Ok(client.ignore()?))?;
    /// let mut client = threadws::connect(format!("ws://{}/room/7", handle.local_addr()?))?;
    /// handle.hub().publish("/room/7", "welcome");
    /// assert_eq!(client.recv()?, Some("welcome".into()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_open(mut self, callback: impl Fn(&Connection) + Send + Sync + 'static) -> Self {
        self.settings.on_open = Some(Box::new(callback));
        self
    }

    /// Observes the end of each connection: how it ended, and how its handler ended. The place for a line such as "client 7
    /// left".
    ///
    /// Called once for each client that was in the hub, after the closing handshake and after the client has left the hub
    /// and its topics. A handler that panicked or returned an error is seen here also by programs without a logger.
    ///
    /// The request is gone then. A name that is needed here can be kept by the client's number in [`on_open`](Self::on_open),
    /// as the example `chat` keeps its names.
    ///
    /// The callback runs in the client's thread. If it panics, the panic is logged and has no other effect.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let server = threadws::Server::bind("127.0.0.1:0")?.on_close(|client, closed, handler| {
    ///     println!("client {} left: {closed}; its handler {handler}", client.id());
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_close(
        mut self,
        callback: impl Fn(&Client, &Closed, HandlerResult<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.settings.on_close = Some(Box::new(callback));
        self
    }

    /// Observes refused handshakes. Called after the refusal was answered.
    ///
    /// It is not called for a connection that sent no request, that closed before the 101, or that was turned away before
    /// it got a thread or because its TLS handshake failed ([`Stats::refused`](crate::stats::Stats::refused)).
    ///
    /// The callback runs in the client's thread. If it panics, the panic is logged and has no other effect.
    pub fn on_handshake_error(mut self, callback: impl Fn(&HandshakeError) + Send + Sync + 'static) -> Self {
        self.settings.handshake.on_handshake_error = Some(Box::new(callback));
        self
    }

    /// Observes subscriptions. Called after a client has subscribed to a topic, with the hub, the client and the topic.
    ///
    /// The callback runs in the client's thread, without any lock held, so it can use the hub. If it panics, the panic is
    /// logged and has no other effect.
    pub fn on_subscribe(mut self, callback: impl Fn(&Hub, &Client, &str) + Send + Sync + 'static) -> Self {
        self.hooks.on_subscribe = Some(Box::new(callback));
        self
    }

    /// Observes the end of subscriptions. Called after a client has left a topic: because it unsubscribed, or because its
    /// handler has ended. Runs as [`on_subscribe`](Self::on_subscribe) does.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let server = threadws::Server::bind("127.0.0.1:0")?.on_unsubscribe(|hub, client, topic| {
    ///     hub.publish(topic, format!("{} is gone", client.id()));
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_unsubscribe(mut self, callback: impl Fn(&Hub, &Client, &str) + Send + Sync + 'static) -> Self {
        self.hooks.on_unsubscribe = Some(Box::new(callback));
        self
    }

    /// Observes the server's own errors: accepting failed, or a thread could not be started. The server goes on after each.
    ///
    /// Called at most once a second, as such errors are logged; the log line counts the others. The callback runs in the
    /// thread that accepts, so no client is accepted until it returns. If it panics, the panic is logged and has no other
    /// effect.
    pub fn on_error(mut self, callback: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.settings.on_error = Some(Box::new(callback));
        self
    }

    /// Sets whether dropping the [`ServerHandle`](crate::ServerHandle) panics if a handler has panicked, with the text of the
    /// first such panic. Defaults to false.
    ///
    /// For tests: a failed `assert_eq!` in a handler then fails the test. A handler that returned an error does not count:
    /// [`ShutdownReport::raise`](super::ShutdownReport::raise) does that. The handle does not panic while its thread is
    /// already panicking. Do not keep such a handle in a `thread_local!`, because a panic while it is dropped there aborts
    /// the process. Panics of other callbacks and of ticks are only logged.
    ///
    /// ```should_panic
    /// # fn main() -> threadws::Result<()> {
    /// let server = threadws::Server::bind("127.0.0.1:0")?.raise_panics(true);
    /// let handle = server.spawn(|client| {
    ///     assert_eq!(client.recv()?, Some("expected".into()));
    ///     Ok(())
    /// })?;
    /// let mut client = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// client.send("another")?;
    /// assert!(client.recv().is_err()); // closed with 1011
    /// drop(handle); // panics: "the handler of client 1 panicked: assertion `left == right` failed ..."
    /// # Ok(())
    /// # }
    /// ```
    pub fn raise_panics(mut self, raise: bool) -> Self {
        self.settings.raise_panics = raise;
        self
    }
}
