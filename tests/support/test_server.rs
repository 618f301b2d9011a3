//! The library's server on a free port.

use super::RawPeer;
use super::library_panics::LibraryPanics;
use std::any::{type_name, type_name_of_val};
use std::net::SocketAddr;
use std::ops::Deref;
use threadws::server::Events;
use threadws::{Addr, BoxError, Connection, Message, Server, ServerHandle, hub::Delivery};

/// A server that is shut down and joined when it is dropped. It fails the test if the library panicked.
#[derive(Debug)]
pub struct TestServer {
    /// `None` after [`into_handle`](Self::into_handle).
    handle: Option<ServerHandle>,
    addr: SocketAddr,
    panics: LibraryPanics,
}

impl TestServer {
    /// Starts a server with the default settings.
    #[track_caller]
    pub fn new(handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static) -> Self {
        Self::with(|server| server, handler)
    }

    /// Starts a server with settings.
    #[track_caller]
    pub fn with(
        settings: impl FnOnce(Server) -> Server,
        handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self::start(settings, |server| spawn(server, handler))
    }

    /// Starts a server whose clients are served by callbacks.
    #[track_caller]
    pub fn with_events<E: Events>(
        settings: impl FnOnce(Server) -> Server,
        open: impl Fn(&mut Connection) -> Result<E, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self::start(settings, |server| server.spawn_events(open))
    }

    #[track_caller]
    fn start(
        settings: impl FnOnce(Server) -> Server,
        spawn: impl FnOnce(Server) -> threadws::Result<ServerHandle>,
    ) -> Self {
        let panics = LibraryPanics::from_now_on();
        let server = settings(with_tls(Server::bind("127.0.0.1:0").expect("a free port")));
        let handle = spawn(server).expect("the settings work");
        let addr = before(handle.local_addr().expect("it listens"));
        Self { handle: Some(handle), addr, panics }
    }

    /// Returns the address for peers without TLS.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the handle, which is no longer shut down by this value. The watchdog still detects panics.
    pub fn into_handle(mut self) -> ServerHandle {
        self.handle.take().expect("into_handle was not called")
    }
}

impl Deref for TestServer {
    type Target = ServerHandle;

    fn deref(&self) -> &ServerHandle {
        self.handle.as_ref().expect("into_handle was not called")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.handle.take());
        self.panics.expect_none();
    }
}

/// A handler that sends every message back.
pub fn echo(client: &mut Connection) -> Result<(), BoxError> {
    while let Some(message) = client.recv()? {
        client.send(message)?;
    }
    Ok(())
}

/// Starts a server with a thread for each client, or with events if the tests run so.
///
/// With events the opening callback runs the handler, because it may receive and wait. The handler [`echo`] becomes a callback
/// for messages.
pub fn spawn<H>(server: Server, handler: H) -> threadws::Result<ServerHandle>
where
    H: Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
{
    if !has_events() {
        return server.spawn(handler);
    }
    if type_name::<H>() == type_name_of_val(&echo) {
        return server
            .spawn_events(|_| Ok(|client: &mut Connection, message: Message| Ok(client.send(message)?)));
    }
    server.spawn_events(move |client| {
        handler(client)?;
        // The end of a handler sends what is held.
        client.flush()?;
        client.sender().close(1000, "")?;
        Ok(|_: &mut Connection, _: Message| Ok(()))
    })
}

/// Returns whether the servers of the tests have events instead of a thread for each client.
pub fn has_events() -> bool {
    std::env::var_os("THREADWS_TEST_EVENTS").is_some_and(|value| value == "1")
}

/// Checks that an echo server works.
#[track_caller]
pub fn expect_echo(server: &TestServer) {
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("still there?");
    peer.expect_text("still there?");
    peer.close(1000);
}

/// For how many clients a message was sent or queued.
pub fn reached(delivery: Delivery) -> usize {
    delivery.sent + delivery.queued
}

/// Returns a server with TLS, if the tests run over TLS.
fn with_tls(server: Server) -> Server {
    #[cfg(feature = "tls")]
    if is_over_tls() {
        let [certificate, key] = ["server.pem", "server.key"].map(super::certificate);
        return server.tls(threadws::tls::ServerTls::files(certificate, key));
    }
    server
}

/// Returns the address for peers without TLS: the server's own, or a relay's if the tests run over TLS.
pub(crate) fn before(addr: Addr) -> SocketAddr {
    let Addr::Tcp(addr) = addr else { panic!("{addr} is not TCP") };
    #[cfg(feature = "tls")]
    if is_over_tls() {
        return super::tls_relay::start(addr);
    }
    addr
}

/// Returns whether the servers of the tests have TLS.
pub(crate) fn is_over_tls() -> bool {
    cfg!(feature = "tls") && std::env::var_os("THREADWS_TEST_TLS").is_some_and(|value| value == "1")
}

/// Returns whether a test has to be skipped, because it runs over TLS and the relay disturbs it.
pub fn is_behind_relay(why: &str) -> bool {
    if is_over_tls() {
        eprintln!("skipped over TLS: {why}");
    }
    is_over_tls()
}
