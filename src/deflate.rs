//! Compression of messages: the extension permessage-deflate of RFC 7692.
//!
//! It is off unless [`Config::with_deflate`](crate::Config::with_deflate) turns it on. Then the handshake agrees on it with
//! each peer that has it, too, and nothing else changes for the program.

pub use crate::message::Uncompressed;

use crate::error::{Error, Result};

/// The settings of compression. [`Config::with_deflate`](crate::Config::with_deflate) turns it on with them.
///
/// ```
/// use threadws::{Config, Server, deflate::Deflate};
///
/// # fn main() -> threadws::Result<()> {
/// let config = Config::new().with_deflate(Deflate::new().threshold(1024));
/// let handle = Server::bind("127.0.0.1:0")?.config(config.clone()).spawn(|client| {
///     client.send("compress me ".repeat(1000))?;
///     Ok(client.ignore()?)
/// })?;
/// let url = format!("ws://{}/", handle.local_addr()?);
/// let mut connection = threadws::Connect::new(url).config(config).connect()?;
/// assert_eq!(connection.recv()?, Some("compress me ".repeat(1000).into()));
/// assert!(connection.stats().traffic.bytes_received < 200);
/// # Ok(())
/// # }
/// ```
///
/// # Memory
///
/// A connection owns no compressor: the few that work at the same time are shared. With context takeover a connection owns
/// the last bytes of its messages, one window for each direction with takeover.
///
/// # Secrets
///
/// The length of a compressed message says something about its contents, also with TLS. See "Compression" in
/// [`guide::security`](crate::guide::security).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deflate {
    level: u8,
    threshold: usize,
    window_bits: u8,
    context_takeover: bool,
    /// `None` until it is set, because a server and a client have different defaults.
    peer_context_takeover: Option<bool>,
}

impl Deflate {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how hard the compressor tries, from 1 to 9. Level 1 takes a third of the time of level 6, and gives a third more
    /// bytes. Defaults to 6.
    pub fn level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// Sets from which length on a message is compressed, in bytes. Shorter messages are sent as they are, because they fit into
    /// one packet anyway. An empty message is never compressed. Defaults to 512.
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Sets the size of the window, from 9 to 15: the compressor finds repetitions in the last 2 to the power of `bits` bytes.
    ///
    /// With context takeover a connection keeps a window of this size, and the peer is asked for no larger one. Fifteen bits
    /// take three times as long as twelve, and save a twentieth of the bytes. Defaults to 12.
    pub fn window_bits(mut self, bits: u8) -> Self {
        self.window_bits = bits;
        self
    }

    /// Sets whether a message may refer to the messages before it, if the peer allows that. It saves much for messages below
    /// 1 KiB, and takes a window for each connection. Defaults to `false`.
    pub fn context_takeover(mut self, takeover: bool) -> Self {
        self.context_takeover = takeover;
        self
    }

    /// Sets whether the peer's messages may refer to those before them. Each connection then keeps a window of what it received.
    ///
    /// Defaults to `false` on a server, which has many connections, and to `true` on a client.
    pub fn peer_context_takeover(mut self, takeover: bool) -> Self {
        self.peer_context_takeover = Some(takeover);
        self
    }
}

impl Deflate {
    pub(crate) fn takes_over(&self) -> bool {
        self.context_takeover
    }

    /// Returns whether the peer's messages may refer to those before them. `default` depends on the role.
    pub(crate) fn peer_takes_over(&self, default: bool) -> bool {
        self.peer_context_takeover.unwrap_or(default)
    }

    pub(crate) fn bits(&self) -> u8 {
        self.window_bits
    }

    pub(crate) fn effort(&self) -> u8 {
        self.level
    }

    /// Returns the length of the shortest message that is compressed.
    pub(crate) fn shortest(&self) -> usize {
        self.threshold.max(1)
    }

    /// Refuses settings that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if !cfg!(feature = "deflate") {
            return Err(Error::invalid("compression needs the feature deflate"));
        }
        if !(1..=9).contains(&self.level) {
            return Err(Error::invalid("the level of deflate is not 1 to 9"));
        }
        if !(9..=15).contains(&self.window_bits) {
            return Err(Error::invalid("the window_bits of deflate are not 9 to 15"));
        }
        Ok(())
    }
}

impl Default for Deflate {
    fn default() -> Self {
        Self {
            level: 6,
            threshold: 512,
            window_bits: 12,
            context_takeover: false,
            peer_context_takeover: None,
        }
    }
}

/// The messages of one direction that were compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// How many messages were compressed. A broadcast counts once for each client.
    pub messages: u64,
    /// How many bytes these messages have.
    pub plain_bytes: u64,
    /// How many bytes their compressed payloads have, or their frames if we sent them.
    pub compressed_bytes: u64,
}

impl Saved {
    pub(crate) fn count(&mut self, plain: usize, compressed: usize) {
        self.messages += 1;
        self.plain_bytes += plain as u64;
        self.compressed_bytes += compressed as u64;
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.plain_bytes += other.plain_bytes;
        self.compressed_bytes += other.compressed_bytes;
    }
}
