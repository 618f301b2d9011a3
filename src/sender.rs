//! [`Sender`]: the public handle that sends on a connection from any thread.
//!
//! It checks the caller's arguments and passes them on. The lock, the queue and every rule of sending are in `outbox`.

use crate::error::{Cause, Result};
use crate::message::{CloseCode, CloseFrame, IntoMessage, State};
use crate::net::Deadline;
use crate::outbox::Outbox;
use crate::protocol::encoder;
use crate::stats::ClientStats;
use crate::sync::Arc;
use std::fmt;
use std::time::Duration;

/// Sends on a connection from any thread, while the connection's own thread waits in
/// [`recv`](crate::Connection::recv).
///
/// Clones are handles to the same connection. Dropping the last one does not close it: the connection ends when its
/// handler returns. A sender that is kept after that holds no descriptor, and each call that sends returns
/// [`Error::Closed`](crate::Error::Closed).
///
/// ```
/// # fn main() -> threadws::Result<()> {
/// # let server = threadws::Server::bind("127.0.0.1:0")?;
/// let handle = server.spawn(|client| {
///     let sender = client.sender();
///     std::thread::spawn(move || sender.send("from another thread"));
///     client.ignore()?;
///     Ok(())
/// })?;
/// # drop(handle);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sender {
    id: u64,
    outbox: Arc<Outbox>,
}

impl Sender {
    pub(crate) fn new(id: u64, outbox: Arc<Outbox>) -> Self {
        Self { id, outbox }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(crate) fn start_close(&self, content: CloseFrame) {
        if self.outbox.close(Some(content)) {
            self.outbox.watch_close();
        }
    }
}

/// # Send
impl Sender {
    /// Sends one message and returns when the operating system has taken all of it.
    ///
    /// It does not mean that the peer has read it.
    ///
    /// # Blocking
    ///
    /// Waits for room in the socket buffer. The limit is [`write_timeout`](crate::Config::write_timeout), 10 s by
    /// default, for each started MiB that waits. Never waits for a `recv`.
    ///
    /// # Errors
    ///
    /// * [`Error::Closed`](crate::Error::Closed): a Close frame went out before, or the connection ended. The peer does
    ///   not receive the message.
    /// * [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Write`](crate::Timeout::Write): the peer took too
    ///   long. Part of the frame may be on the wire, so the connection is dropped.
    /// * [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Ping`](crate::Timeout::Ping) or
    ///   [`Timeout::Close`](crate::Timeout::Close): the connection ended by that timeout during the call.
    pub fn send(&self, message: impl IntoMessage) -> Result<()> {
        self.outbox.send(message)
    }

    /// Sends one message, or queues it if the socket buffer is full.
    ///
    /// ```
    /// use threadws::Error;
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     match client.sender().try_send("a measurement") {
    ///         Ok(()) => {}
    ///         Err(Error::Full) => println!("left out, because the client reads too slowly"),
    ///         Err(error) => return Err(error.into()),
    ///     }
    ///     Ok(client.ignore()?)
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some("a measurement".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// * [`Error::Full`](crate::Error::Full): the message does not fit into the backlog, which is 1 MiB by default
    ///   ([`max_backlog`](crate::Config::max_backlog)). An empty backlog takes one message of any size. Nothing was
    ///   queued, and the connection stays open.
    /// * [`Error::Closed`](crate::Error::Closed): as for [`send`](Self::send).
    pub fn try_send(&self, message: impl IntoMessage) -> Result<()> {
        self.outbox.try_send(message).map(drop)
    }

    /// Waits until everything that waits for the peer now has left this process. For callers of
    /// [`try_send`](Self::try_send) this is the way to slow down to the peer's speed.
    ///
    /// # Blocking
    ///
    /// At most `timeout`, or until the connection ends. A `timeout` of zero only checks.
    ///
    /// # Errors
    ///
    /// * [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Drained`](crate::Timeout::Drained): the peer has not
    ///   read enough yet. The connection stays open.
    /// * [`Error::Timeout`](crate::Error::Timeout) with another timeout, or [`Error::Closed`](crate::Error::Closed): the
    ///   connection ended.
    pub fn wait_drained(&self, timeout: Duration) -> Result<()> {
        self.outbox.wait_drained(Deadline::after(timeout))
    }

    /// Sends a ping of at most 125 bytes (RFC 6455 §5.5.2). It replaces a ping that is still queued.
    ///
    /// Keepalive pings are sent automatically; see [`Config::ping_interval`](crate::Config::ping_interval).
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`](crate::Error::Invalid): more than 125 bytes. Nothing was sent.
    /// * [`Error::Closed`](crate::Error::Closed): as for [`send`](Self::send).
    pub fn ping(&self, payload: &[u8]) -> Result<()> {
        encoder::check_control(payload)?;
        self.outbox.ping(payload)
    }
}

/// # Close
impl Sender {
    /// Starts the closing handshake: queues a Close frame behind everything that was sent before.
    ///
    /// Nothing can be sent afterwards. Until the connection ends, the handler still receives the peer's messages. It ends
    /// when the peer has answered, or after [`close_timeout`](crate::Config::with_close_timeout) without a message, 5 s by
    /// default. A second call does nothing.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| Ok(client.ignore()?))?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// for client in handle.hub().clients() {
    ///     client.sender().close(4000, "an administrator closed the room")?;
    /// }
    /// let error = connection.recv().expect_err("a code other than 1000 and 1001 is an error");
    /// assert_eq!(u16::from(error.close_code()), 4000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid): the code may not be sent
    /// ([`CloseCode::is_sendable`](crate::CloseCode::is_sendable)) or the reason is longer than 123 bytes. Nothing was
    /// sent.
    pub fn close(&self, code: impl Into<CloseCode>, reason: &str) -> Result<()> {
        let code = code.into();
        encoder::check_close(code, reason)?;
        self.start_close(CloseFrame::new(code, reason));
        Ok(())
    }

    /// Ends the connection at once, without a Close frame. What is queued is lost, and the peer reports close code 1006.
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn terminate(&self) {
        self.outbox.break_off(Cause::Terminated);
    }
}

/// # About the connection
impl Sender {
    /// Returns the connection's number. It is never used again in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the connection's state. Another thread may change it at once: only the result of a send is certain.
    pub fn state(&self) -> State {
        self.outbox.state()
    }

    /// Returns the connection's numbers: its traffic, its backlog and the last round-trip time.
    ///
    /// They can be read after the connection's end, too. `backlog` counts the bytes of data frames that wait in this
    /// process; the operating system's buffers hold more. `high_water` is the highest `backlog` so far. It may exceed
    /// [`max_backlog`](crate::Config::max_backlog), which does not limit a blocking [`send`](Self::send) nor the first
    /// message of an empty backlog. It may stay below although a message was refused, because the limit counts
    /// bookkeeping memory, too.
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn stats(&self) -> ClientStats {
        self.outbox.stats()
    }
}

/// Shows the id and the state, and nothing that was sent.
impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("id", &self.id).field("state", &self.state()).finish_non_exhaustive()
    }
}
