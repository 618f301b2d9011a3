//! The registry of a server's connections, from accept to end. A shutdown reaches all of them, and can wait for them.

use crate::message::CloseFrame;
use crate::net::Transport;
use crate::sender::Sender;
use crate::sync::{Arc, Condvar, Mutex, now};
use std::collections::BTreeMap;
use std::time::Instant;

/// The connections of one server, by id.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Locked for a few instructions. No socket is used, and no connection dropped, under the lock.
    state: Mutex<RegistryState>,
    /// Notified of each end while a thread waits for it.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct RegistryState {
    connections: BTreeMap<u64, Phase>,
    /// The number of threads in [`Registry::wait_empty`].
    waiting: usize,
    /// The Close that open connections are sent. Set once, by the shutdown. From then on no connection is inserted.
    stopping: Option<CloseFrame>,
}

#[derive(Debug, Clone)]
enum Phase {
    Handshake(Arc<dyn Transport>),
    /// The 101 may have been sent, so the connection can only be ended by a Close.
    Opening(Arc<dyn Transport>),
    Open(Sender),
}

impl Registry {
    /// Inserts an accepted connection. Returns false if the server is shutting down.
    pub(super) fn insert(&self, id: u64, stream: Arc<dyn Transport>) -> bool {
        let mut state = self.state.lock();
        let is_running = state.stopping.is_none();
        if is_running {
            state.connections.insert(id, Phase::Handshake(stream));
        }
        is_running
    }

    /// Called just before the 101 is sent. Returns false if the server is shutting down. After it has returned true, a
    /// shutdown ends the connection by a Close, and no longer by the end of its input.
    pub(super) fn opening(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        if state.stopping.is_some() {
            return false;
        }
        if let Some(phase) = state.connections.get_mut(&id) {
            if let Phase::Handshake(stream) = phase {
                *phase = Phase::Opening(Arc::clone(stream));
            }
        }
        true
    }

    /// Called when the handshake is done. Closes the connection if the server has begun to shut down meanwhile.
    pub(super) fn opened(&self, id: u64, sender: &Sender) {
        let (stopping, before) = {
            let mut state = self.state.lock();
            (state.stopping.clone(), state.connections.insert(id, Phase::Open(sender.clone())))
        };
        drop(before);
        if let Some(content) = stopping {
            sender.start_close(content);
        }
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&self, id: u64) {
        let mut state = self.state.lock();
        let ended = state.connections.remove(&id);
        let is_waited_for = state.waiting > 0;
        // Unlocked first, because `ended` may be the last handle of the socket.
        drop(state);
        drop(ended);
        if is_waited_for {
            self.ended.notify_all();
        }
    }

    /// Returns the number of connections, those in a handshake included.
    pub(super) fn count(&self) -> usize {
        self.state.lock().connections.len()
    }

    /// Returns whether the server is shutting down.
    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().stopping.is_some()
    }

    /// Starts the end of every connection: sends a Close to open ones, and ends handshakes with a 503.
    ///
    /// Returns how many connections there are; `None` if it was called before.
    pub(super) fn stop(&self, content: &CloseFrame) -> Option<usize> {
        let connections = {
            let mut state = self.state.lock();
            if state.stopping.is_some() {
                return None;
            }
            state.stopping = Some(content.clone());
            state.phases()
        };
        for phase in &connections {
            match phase {
                Phase::Open(sender) => sender.start_close(content.clone()),
                // Its thread reads the end of the stream, calls `is_stopping`, and answers 503.
                Phase::Handshake(stream) => stream.shutdown_read(),
                // Closed by `opened`.
                Phase::Opening(_) => {}
            }
        }
        Some(connections.len())
    }

    /// Disconnects every client that is left, in any phase, including one that reads its HTTP answer slowly.
    pub(super) fn terminate_all(&self) {
        let connections = self.state.lock().phases();
        for phase in connections {
            match phase {
                Phase::Open(sender) => sender.terminate(),
                Phase::Handshake(stream) | Phase::Opening(stream) => stream.shutdown_both(),
            }
        }
    }

    /// Waits until no connection is left, at most until `deadline`. Returns the ids of those that are left.
    pub(super) fn wait_empty(&self, deadline: Instant) -> Vec<u64> {
        let mut state = self.state.lock();
        state.waiting += 1;
        while !state.connections.is_empty() && now() < deadline {
            state = self.ended.wait_until(state, Some(deadline));
        }
        state.waiting -= 1;
        state.connections.keys().copied().collect()
    }
}

impl RegistryState {
    /// A copy of all phases, to be used after the lock was released.
    fn phases(&self) -> Vec<Phase> {
        self.connections.values().cloned().collect()
    }
}
