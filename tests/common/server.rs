//! The library's server on a free port.

use super::RawPeer;
use std::net::SocketAddr;
use std::ops::Deref;
use threadws::{BoxError, Connection, Server, ServerHandle};

/// A server that is shut down and joined when it is dropped.
#[derive(Debug)]
pub struct TestServer(ServerHandle);

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
        let server = settings(Server::bind("127.0.0.1:0").expect("a free port"));
        Self(server.spawn(handler).expect("the settings work"))
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    /// The handle, no longer shut down by us.
    pub fn into_handle(self) -> ServerHandle {
        self.0
    }
}

impl Deref for TestServer {
    type Target = ServerHandle;

    fn deref(&self) -> &ServerHandle {
        &self.0
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
pub fn shows_that_it_works(server: &TestServer) {
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("still there?");
    peer.expect_text("still there?");
    peer.close(1000);
}
