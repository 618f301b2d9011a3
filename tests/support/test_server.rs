//! The library's server on a free port.

use super::RawPeer;
use super::library_panics::LibraryPanics;
use std::net::SocketAddr;
use std::ops::Deref;
use threadws::{BoxError, Connection, Server, ServerHandle};

/// A server that is shut down and joined when it is dropped, and must not have panicked by then.
#[derive(Debug)]
pub struct TestServer {
    /// `None` once it is somebody else's.
    handle: Option<ServerHandle>,
    panics: LibraryPanics,
}

impl TestServer {
    /// With the default settings.
    #[track_caller]
    pub fn new(handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static) -> Self {
        Self::with(|server| server, handler)
    }

    /// With settings.
    #[track_caller]
    pub fn with(
        settings: impl FnOnce(Server) -> Server,
        handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        let panics = LibraryPanics::from_now_on();
        let server = settings(Server::bind("127.0.0.1:0").expect("a free port"));
        Self { handle: Some(server.spawn(handler).expect("the settings work")), panics }
    }

    pub fn addr(&self) -> SocketAddr {
        self.local_addr().expect("it listens")
    }

    /// The handle, no longer shut down by us. The watchdog still sees its panics.
    pub fn into_handle(mut self) -> ServerHandle {
        self.handle.take().expect("nobody has taken it")
    }
}

impl Deref for TestServer {
    type Target = ServerHandle;

    fn deref(&self) -> &ServerHandle {
        self.handle.as_ref().expect("nobody has taken it")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.handle.take());
        self.panics.expect_none();
    }
}

/// The handler that sends everything back.
pub fn echo(client: &mut Connection) -> Result<(), BoxError> {
    while let Some(message) = client.recv()? {
        client.send(message)?;
    }
    Ok(())
}

/// The server of an echo is well.
#[track_caller]
pub fn expect_echo(server: &TestServer) {
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("still there?");
    peer.expect_text("still there?");
    peer.close(1000);
}
