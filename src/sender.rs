//! The handle that anybody may hold, in any thread, to send on a connection.

use crate::error::{Cause, Result};
use crate::message::{CloseCode, CloseFrame, IntoMessage, State};
use crate::net::Deadline;
use crate::outbox::Outbox;
use crate::protocol::encoder;
use crate::sync::Arc;
use std::fmt;
use std::time::Duration;

/// Sends on a connection from any thread, while its own thread waits in [`recv`](crate::Connection::recv).
///
/// Clones are handles to the same connection. Dropping the last one closes nothing: the connection ends with its
/// handler. A sender kept beyond that holds no descriptor, and whatever it sends gives
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

    /// Sends one message and returns when the operating system has taken all of it.
    ///
    /// It does not mean that the peer has read it.
    ///
    /// # Blocking
    ///
    /// Waits for room in the socket buffer, at most [`write_timeout`](crate::Config::write_timeout), 10 s by default,
    /// for each started MiB that waits. Never waits for a `recv`.
    ///
    /// # Errors
    ///
    /// * [`Error::Closed`](crate::Error::Closed): a Close went out before, or the connection ended. Nothing of it will
    ///   be read.
    /// * [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Write`](crate::Timeout::Write): the peer took too
    ///   long. Part of the frame may be on the wire, so the connection is dropped.
    /// * [`Error::Timeout`](crate::Error::Timeout) with another clock, [`Timeout::Ping`](crate::Timeout::Ping) or
    ///   [`Timeout::Close`](crate::Timeout::Close): the connection ended by it while this waited.
    pub fn send(&self, message: impl IntoMessage) -> Result<()> {
        self.outbox.send(message)
    }

    /// Sends one message, or queues it for a peer that reads slowly.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// * [`Error::Full`](crate::Error::Full): it does not fit into the backlog, 1 MiB by default
    ///   ([`max_backlog`](crate::Config::max_backlog)); an empty backlog takes one message of any size. Nothing was
    ///   queued, and the connection goes on.
    /// * [`Error::Closed`](crate::Error::Closed): as for [`send`](Self::send).
    pub fn try_send(&self, message: impl IntoMessage) -> Result<()> {
        self.outbox.try_send(message).map(drop)
    }

    /// Sends a ping of at most 125 bytes (RFC 6455 §5.5.2). A newer one takes the place of one that still waits.
    ///
    /// Keepalive pings are sent without being asked for; see [`Config::ping_interval`](crate::Config::ping_interval).
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

    /// Starts the closing handshake: the Close goes out behind what is queued, and nothing can be sent after it.
    ///
    /// The connection ends when the peer has answered, or after
    /// [`close_timeout`](crate::Config::close_timeout), 5 s by default. Its reader is handed what comes until then. A
    /// second call does nothing: the first Close counts.
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

    pub(crate) fn start_close(&self, content: CloseFrame) {
        if self.outbox.close(Some(content)) {
            self.outbox.watch_close();
        }
    }

    /// Ends the connection at once, without a Close. What is queued is lost, and the peer sees 1006.
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn terminate(&self) {
        self.outbox.break_off(Cause::Terminated);
    }

    /// Where the connection stands. Another thread may change it at once: only sending tells whether one can send.
    pub fn state(&self) -> State {
        self.outbox.state()
    }

    /// How many bytes of data frames wait for the peer, in this process; the operating system's buffers hold more.
    pub fn backlog(&self) -> usize {
        self.outbox.backlog()
    }

    /// The most bytes of data frames that ever waited for the peer: the highest [`backlog`](Self::backlog).
    ///
    /// It may be more than [`max_backlog`](crate::Config::max_backlog), which a blocking [`send`](Self::send) and the
    /// first message to wait are not held to; and less where that was met, because bookkeeping counts there.
    pub fn high_water(&self) -> usize {
        self.outbox.high_water()
    }

    /// Waits until everything that waits for the peer now has left this process: the backlog's own backpressure, for who
    /// uses [`try_send`](Self::try_send).
    ///
    /// # Blocking
    ///
    /// At most `timeout`, or until the connection ends. Zero only looks.
    ///
    /// # Errors
    ///
    /// * [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Drained`](crate::Timeout::Drained): the peer has not
    ///   read enough yet. The connection goes on.
    /// * [`Error::Timeout`](crate::Error::Timeout) with another clock, or [`Error::Closed`](crate::Error::Closed): the
    ///   connection ended.
    pub fn drained(&self, timeout: Duration) -> Result<()> {
        self.outbox.wait_drained(Deadline::after(timeout))
    }

    /// The connection's number. It is never used again in this process.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Which connection, and where it stands; nothing of what it sends.
impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("id", &self.id).field("state", &self.state()).finish_non_exhaustive()
    }
}
