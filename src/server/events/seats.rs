//! The state of a set: the seats of its members, their deadlines, and the members that wait for a helper.

use super::set::{BACK_OFF, Crew, Duty, Member, Socket};
use crate::net::{Deadline, Ready};
use crate::sync::{Arc, now};
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

pub(super) struct SetState<M: Member> {
    pub(super) seats: Vec<Seat<M>>,
    pub(super) free: Vec<u32>,
    /// The deadlines of the members that rest.
    pub(super) due: BTreeSet<(Instant, u32)>,
    /// The number of the present leader. A leader that finds another number has lost the lead.
    pub(super) leader: u64,
    /// No thread could be started for the present leader.
    pub(super) needs_leader: bool,
    /// The member that the leader serves.
    pub(super) current: u32,
    /// The end of the leader's wait, while it waits.
    pub(super) wait: Option<Deadline>,
    /// The members of the next batch get a thread each, because one has blocked.
    pub(super) is_spread: bool,
    callbacks: CrewState<M>,
    handshakes: CrewState<M>,
    pub(super) is_stopped: bool,
}

/// The place of a member, also while a thread has it.
pub(super) struct Seat<M: Member> {
    /// Tells this member from those that had the seat before.
    pub(super) generation: u32,
    /// `None` while a thread has the member.
    pub(super) member: Option<M>,
    /// `None` if the seat is free.
    pub(super) socket: Option<Arc<Socket<M>>>,
    /// The entry in [`SetState::due`].
    pub(super) due: Option<Instant>,
    pub(super) is_watched: bool,
}

pub(super) struct CrewState<M> {
    pub(super) waiting: VecDeque<(u32, M)>,
    /// The threads that help, including one that starts.
    pub(super) threads: usize,
    pub(super) max: usize,
    /// A thread starts, which will start the next one if that is needed.
    pub(super) is_starting: bool,
}

impl<M> CrewState<M> {
    pub(super) fn new(max: usize) -> Self {
        Self { waiting: VecDeque::new(), threads: 0, max, is_starting: false }
    }

    pub(super) fn has_room(&self) -> bool {
        self.threads < self.max
    }

    /// Returns whether another thread has to be started.
    pub(super) fn needs_thread(&self) -> bool {
        !self.waiting.is_empty() && !self.is_starting && self.threads < self.max
    }

    /// The same, and counts that thread.
    pub(super) fn count_needed_thread(&mut self) -> bool {
        let needs = self.needs_thread();
        if needs {
            self.is_starting = true;
            self.threads += 1;
        }
        needs
    }
}

impl<M: Member> SetState<M> {
    /// Each crew has at least one thread.
    pub(super) fn new(max_callbacks: usize, max_handshakes: usize) -> Self {
        Self {
            seats: Vec::new(),
            free: Vec::new(),
            due: BTreeSet::new(),
            leader: 0,
            needs_leader: false,
            current: 0,
            wait: None,
            is_spread: false,
            callbacks: CrewState::new(max_callbacks),
            handshakes: CrewState::new(max_handshakes),
            is_stopped: false,
        }
    }

    pub(super) fn crew(&mut self, crew: Crew) -> &mut CrewState<M> {
        match crew {
            Crew::Callbacks => &mut self.callbacks,
            Crew::Handshakes => &mut self.handshakes,
        }
    }

    /// Returns whether a thread has to be started that could not be started before.
    pub(super) fn needs_threads(&self) -> bool {
        self.needs_leader || self.callbacks.needs_thread() || self.handshakes.needs_thread()
    }

    /// Returns when the first member is due.
    pub(super) fn first_deadline(&self) -> Deadline {
        Deadline::from(self.due.first().map(|(due, _)| *due))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.seats.len()
    }

    /// Puts a member into its seat, and watches its socket.
    #[inline]
    pub(super) fn settle(&mut self, ready: &M::Ready, index: u32, member: M, deadline: Option<Deadline>) {
        let Some(seat) = self.seats.get_mut(index as usize) else { return };
        seat.member = Some(member);
        if seat.is_watched && deadline.is_none() {
            // The usual case: the leader has served a member, and nothing has changed.
            return;
        }
        let mut due = match (deadline, seat.due) {
            // A deadline that comes too early costs one look. So it is not moved for each message.
            (Some(deadline), Some(before)) if deadline.instant().is_none_or(|due| due >= before) => {
                Some(before)
            }
            (Some(deadline), _) => deadline.instant(),
            (None, Some(before)) => Some(before),
            // It passed while a thread had the member.
            (None, None) => Some(now()),
        };
        if !seat.is_watched {
            let token = token(index, seat.generation);
            seat.is_watched = seat.socket.as_ref().is_some_and(|socket| ready.add(socket, token).is_ok());
            if !seat.is_watched {
                // Memory has run out. The next look tries again.
                due = Some(now() + BACK_OFF);
            }
        }
        if due != seat.due {
            let before = std::mem::replace(&mut seat.due, due);
            if let Some(before) = before {
                self.due.remove(&(before, index));
            }
            if let Some(due) = due {
                self.due.insert((due, index));
                if self.wait.is_some_and(|wait| wait.instant().is_none_or(|end| due < end)) {
                    // The leader waits too long. Only one thread has to wake it.
                    self.wait = None;
                    ready.wake();
                }
            }
        }
    }

    pub(super) fn next_leader(&mut self) -> Duty {
        self.needs_leader = false;
        self.leader += 1;
        Duty::Lead(self.leader)
    }

    pub(super) fn add_seat(&mut self, socket: Arc<Socket<M>>) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat { generation: 0, member: None, socket: None, due: None, is_watched: false });
            u32::try_from(self.seats.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(seat) = self.seats.get_mut(index as usize) {
            seat.socket = Some(socket);
        }
        index
    }

    pub(super) fn free_seat(&mut self, index: u32) {
        let Some(seat) = self.seats.get_mut(index as usize) else { return };
        seat.generation = seat.generation.wrapping_add(1);
        seat.socket = None;
        if let Some(due) = seat.due.take() {
            self.due.remove(&(due, index));
        }
        self.free.push(index);
    }

    pub(super) fn unwatch(&mut self, ready: &M::Ready, index: u32) {
        let Some(seat) = self.seats.get_mut(index as usize) else { return };
        if let (true, Some(socket)) = (seat.is_watched, &seat.socket) {
            ready.remove(socket, token(index, seat.generation));
            seat.is_watched = false;
        }
        // A thread has the member, and is not interrupted for its deadline.
        if let Some(due) = seat.due.take() {
            self.due.remove(&(due, index));
        }
    }

    /// Takes the member of a socket that is ready. `None` if it was served meanwhile.
    #[inline]
    pub(super) fn take_ready(&mut self, token: u64) -> Option<(u32, M)> {
        let index = u32::try_from(token & u64::from(u32::MAX)).ok()?;
        let seat = self.seats.get_mut(index as usize)?;
        if token != self::token(index, seat.generation) || !seat.is_watched {
            return None;
        }
        Some((index, seat.member.take()?))
    }

    /// Takes a member whose deadline has passed.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(u32, M)> {
        while let Some(&(due, index)) = self.due.first().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, index));
            let Some(seat) = self.seats.get_mut(index as usize) else { continue };
            seat.due = None;
            if let Some(member) = seat.member.take() {
                return Some((index, member));
            }
        }
        None
    }
}

fn token(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}
