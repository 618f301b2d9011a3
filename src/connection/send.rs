//! Sending: messages of the connection's own thread, held in the cork or not.

use super::Connection;
use super::cork::To;
use crate::error::Result;
use crate::message::IntoMessage;
use crate::sender::Sender;

/// # Send
///
/// These methods are for the thread that has the connection; other threads have a [`Sender`].
impl Connection {
    /// Sends one message, after what [`write`](Self::write) holds.
    ///
    /// ```
    /// use threadws::Message;
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     client.send("text")?;
    ///     client.send(vec![1, 2, 3])?; // binary
    ///     Ok(())
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some(Message::Text("text".into())));
    /// assert_eq!(connection.recv()?, Some(Message::Binary(vec![1, 2, 3])));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    ///
    /// # Errors
    ///
    /// Those of [`Sender::send`](crate::Sender::send). If a write fails and the peer's Close has arrived,
    /// [`Error::Closed`](crate::Error::Closed) has its code, such as 1009 for a message that the peer refused. Messages that came before the Close
    /// can still be received.
    pub fn send(&mut self, message: impl IntoMessage) -> Result<()> {
        let sent = self.cork.write(To { sender: &self.sender, hub: &self.hub }, message, false);
        sent.map_err(|error| self.explain(error))
    }

    /// Returns a handle that sends from any thread.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     let sender = client.sender();
    ///     std::thread::spawn(move || sender.send("from another thread"));
    ///     Ok(client.ignore()?)
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some("from another thread".into()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Sends one message or queues it, as [`Sender::try_send`](crate::Sender::try_send) does. What [`write`](Self::write)
    /// holds is sent or queued before it.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Sender::try_send`](crate::Sender::try_send). After [`Error::Full`](crate::Error::Full) the message was not queued. What
    /// [`write`](Self::write) holds was queued or is still held.
    pub fn try_send(&mut self, message: impl IntoMessage) -> Result<()> {
        self.cork.try_flush(To { sender: &self.sender, hub: &self.hub })?;
        self.sender.try_send(message)
    }

    /// Sends one message, but holds it while more input is already here, so that the answers to a burst of messages leave
    /// in one system call.
    ///
    /// It behaves like `std::io::BufWriter`. What is held is sent
    ///
    /// * before a receiving call waits or returns without a message,
    /// * before [`send`](Self::send) and [`try_send`](Self::try_send), and by [`flush`](Self::flush),
    /// * when it reaches 128 KiB,
    /// * before the Close.
    ///
    /// So an answer is late only if the handler is slow between two messages that arrived together. Messages that other
    /// threads or the [`Hub`](crate::Hub) send to this client do not wait for what is held.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     while let Some(message) = client.recv()? {
    ///         client.write(message)?; // an echo
    ///     }
    ///     Ok(())
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// connection.send("hello")?;
    /// assert_eq!(connection.recv()?, Some("hello".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send), unless the message is held.
    ///
    /// # Errors
    ///
    /// Those of [`Sender::send`](crate::Sender::send). They may concern messages that were held before.
    #[inline]
    pub fn write(&mut self, message: impl IntoMessage) -> Result<()> {
        let hold = self.reader.has_unread();
        self.cork.write(To { sender: &self.sender, hub: &self.hub }, message, hold)
    }

    /// Sends one message to every client of this server, this one included, but holds it while more input is already
    /// here, so that a burst of messages takes one system call for each receiver.
    ///
    /// It is held and sent as by [`write`](Self::write). This connection's own client receives answers and broadcasts in
    /// the order of the calls. [`Hub::broadcast`](crate::Hub::broadcast) holds nothing, and returns the number of clients
    /// that it has reached.
    ///
    /// # Blocking
    ///
    /// Never waits for other clients: see [`SlowPeer`](crate::hub::SlowPeer). Waits as [`flush`](Self::flush) does if [`write`](Self::write)
    /// holds answers.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`](crate::Error::Invalid): the connection was opened by [`connect`](crate::connect).
    /// * Those of [`flush`](Self::flush). The other clients are sent the message all the same.
    pub fn write_broadcast(&mut self, message: impl IntoMessage) -> Result<()> {
        self.hub()?;
        let hold = self.reader.has_unread() || self.will_read_again();
        self.cork.broadcast(To { sender: &self.sender, hub: &self.hub }, message, hold)
    }

    /// Sends what [`write`](Self::write) and [`write_broadcast`](Self::write_broadcast) hold.
    ///
    /// Call it before [`Hub::publish`](crate::Hub::publish) or [`Hub::broadcast`](crate::Hub::broadcast) if this client has
    /// to receive the answers first.
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    ///
    /// # Errors
    ///
    /// Those of [`Sender::send`](crate::Sender::send).
    pub fn flush(&mut self) -> Result<()> {
        let flushed = self.cork.flush(To { sender: &self.sender, hub: &self.hub });
        flushed.map_err(|error| self.explain(error))
    }

    /// Sends a ping, as [`Sender::ping`](crate::Sender::ping) does.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Sender::ping`](crate::Sender::ping).
    pub fn ping(&self, payload: &[u8]) -> Result<()> {
        self.sender.ping(payload)
    }
}
