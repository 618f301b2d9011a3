//! Every connection from its accept to its end, so that a shutdown reaches all of them and can wait for them.

use crate::message::CloseFrame;
use crate::net::Transport;
use crate::sender::Sender;
use crate::sync::{Arc, Condvar, Mutex, now};
use std::collections::BTreeMap;
use std::time::Instant;

/// The connections of one server.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<RegistryState>,
    /// Tells of each end.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct RegistryState {
    connections: BTreeMap<u64, Phase>,
    /// Who waits for the last one to end.
    waiting: usize,
    /// What open connections are told; set once, and by then nobody new is let in.
    stopping: Option<CloseFrame>,
}

#[derive(Debug, Clone)]
enum Phase {
    Handshake(Arc<dyn Transport>),
    /// Its 101 may be out already: nothing but a Close may follow.
    Opening(Arc<dyn Transport>),
    Open(Sender),
}

impl Registry {
    /// Takes note of an accepted connection; false if the server stops.
    pub(super) fn accepted(&self, id: u64, stream: Arc<dyn Transport>) -> bool {
        let mut state = self.state.lock();
        let welcome = state.stopping.is_none();
        if welcome {
            state.connections.insert(id, Phase::Handshake(stream));
        }
        welcome
    }

    /// The last word before the 101; false if the server stops. From then on its end is a Close, and not that of its input.
    pub(super) fn welcome(&self, id: u64) -> bool {
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

    /// Takes note of a finished handshake. If the server stops meanwhile, the connection is told here.
    pub(super) fn opened(&self, id: u64, sender: &Sender) {
        let (stopping, before) = {
            let mut state = self.state.lock();
            (state.stopping.clone(), state.connections.insert(id, Phase::Open(sender.clone())))
        };
        // Outside the lock: it holds a stream.
        drop(before);
        if let Some(content) = stopping {
            sender.start_close(content);
        }
    }

    pub(super) fn ended(&self, id: u64) {
        let mut state = self.state.lock();
        let ended = state.connections.remove(&id);
        let is_waited_for = state.waiting > 0;
        // Outside the lock: it may be the last handle.
        drop(state);
        drop(ended);
        if is_waited_for {
            self.ended.notify_all();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.state.lock().connections.len()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().stopping.is_some()
    }

    /// Tells everybody: open connections are sent a Close, and handshakes end with 503. Returns how many there were;
    /// `None` if it was called before.
    pub(super) fn stop(&self, content: &CloseFrame) -> Option<usize> {
        let told = {
            let mut state = self.state.lock();
            if state.stopping.is_some() {
                return None;
            }
            state.stopping = Some(content.clone());
            state.phases()
        };
        for phase in &told {
            match phase {
                Phase::Open(sender) => sender.start_close(content.clone()),
                // Its thread finds the end of the stream, asks whether the server stops, and answers.
                Phase::Handshake(stream) => stream.shutdown_read(),
                // It is told when it is open.
                Phase::Opening(_) => {}
            }
        }
        Some(told.len())
    }

    /// Ends every connection that is left, whatever it is at: also one that reads its HTTP answer slowly.
    pub(super) fn cut(&self) {
        let left = self.state.lock().phases();
        for phase in left {
            match phase {
                Phase::Open(sender) => sender.terminate(),
                Phase::Handshake(stream) | Phase::Opening(stream) => stream.shutdown_both(),
            }
        }
    }

    /// Waits until no connection is left, at most until `deadline`; returns those that are.
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
    /// What each connection is at, to be told outside the lock.
    fn phases(&self) -> Vec<Phase> {
        self.connections.values().cloned().collect()
    }
}
