//! Models of a set and its threads: leaders, helpers and the watcher.
//!
//! Each of these changes of the code makes a model fail:
//!
//! | change | model | fails with |
//! | --- | --- | --- |
//! | `hand_over` leaves the socket of the blocked member in the set | `a_blocked_member_delays_no_other_for_long` | an endless run |
//! | `hand_over` does not compare the turn | `every_input_is_served_though_the_lead_changes` | I22 |
//! | `hand_over` does not count the old leader as a helper | `every_input_is_served_though_the_lead_changes` | an overflow |
//! | `hand_over` does not spread the next batch | `a_blocked_member_delays_no_other_for_long` | I25 |
//! | a leader that has lost the lead continues with its batch | `every_input_is_served_though_the_lead_changes` | I22 |
//! | a leader does not wake the watcher | `a_blocked_member_delays_no_other_for_long` | I25 |
//! | a leader makes callbacks though all helpers are blocked | `no_more_members_block_than_there_may_be_helpers` | I26 |
//! | a leader ends at a stop though members are left | `every_input_is_served_though_the_lead_changes` | I21 |
//! | a member that ends stays in the set of sockets | `every_input_is_served_though_the_lead_changes` | I21 |
//! | a member that waits for a helper stays in it | `a_blocked_member_delays_no_other_for_long` | an endless run |
//! | a member leaves its deadline behind | `every_input_is_served_though_the_lead_changes` | I24 |
//! | a helper does not start the next one | `a_blocked_member_delays_no_other_for_long` | I25 |
//! | helpers are not bounded | `no_more_members_block_than_there_may_be_helpers` | I26 |
//! | `settle` does not wake a leader that waits too long | `a_deadline_is_kept_after_a_change_of_the_lead` | I24 |
//! | `settle` forgets a deadline that passed in a thread | `a_deadline_is_kept_after_a_change_of_the_lead` | I24 |
//! | a leader that could not be started is forgotten | `all_are_served_as_soon_as_threads_can_be_started` | I23 |
//! | the watcher does not start threads later | `all_are_served_as_soon_as_threads_can_be_started` | I23 |
//! | the watcher does not start helpers later | `a_parked_watcher_starts_a_helper_that_could_not_be_started` | I25 |
//! | the watcher is not woken to start helpers later | `a_parked_watcher_starts_a_helper_that_could_not_be_started` | I25 |
//! | no thread helps in its turn if no helper can be started | `a_set_goes_on_when_threads_cannot_be_started` | an endless run |
//! | a thread that helps in its turn keeps the lead that it has found | `all_are_served_as_soon_as_threads_can_be_started` | I23 |
//! | the last helper takes the lead though members wait for it | `the_last_helper_serves_those_that_wait_for_it` | I23 |
//! | the last member that ends does not wake the leader at a stop | `every_input_is_served_though_the_lead_changes` | a deadlock |
//! | a stop does not wake the leader | `every_input_is_served_though_the_lead_changes` | a deadlock |
//! | a shutdown does not join the threads that the watcher has started | `a_stop_joins_what_the_watcher_has_started` | I23 |

mod scripted_set;

use super::set::Crew;
use crate::net::Deadline;
use crate::sync::{Arc, Ordering, now};
use crate::verify::models::clock::ClockThread;
use crate::verify::models::{check_plain, join, spawn};
use scripted_set::{Latch, ModelSet, ModelSocket};
use shuttle::rand::{Rng, thread_rng};
use std::time::Duration;

#[test]
fn every_input_is_served_though_the_lead_changes() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let set = ModelSet::start(2, 1);
        let later = now() + Duration::from_secs(1);
        let sockets = [3, 2].map(|inputs| set.member(inputs, |member| member.deadline = Some(later)));
        let peers =
            [set.peer(vec![sockets[0], sockets[1], sockets[0]]), set.peer(vec![sockets[0], sockets[1]])];
        peers.into_iter().for_each(join);
        let tally = Arc::clone(&set.tally);
        set.stop();
        clock.stop();
        assert_eq!(tally.served.load(Ordering::SeqCst), 5, "I23");
        assert_eq!(tally.ended.load(Ordering::SeqCst), 2, "I23");
    });
}

#[test]
fn a_blocked_member_delays_no_other_for_long() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(4, 1), Arc::new(Latch::default()));
        // More input than the blocked read has taken.
        let blocked: Vec<_> = (0..3).map(|_| set.blocking_member(2, &latch)).collect();
        let free = set.member(1, |_| ());
        // The watcher looks, is about to park, or is parked.
        let start = now() + Duration::from_millis(thread_rng().gen_range(9..13));
        set.wait_until(start);
        set.send(&[&blocked[..], &blocked, &[free]].concat());
        // Two looks until the first change of the lead. All others have helpers of their own.
        set.expect_within(Duration::from_millis(3), "I25", |tally| {
            let [ended, blocked] = [&tally.ended, &tally.blocked].map(|count| count.load(Ordering::SeqCst));
            ended == 1 && blocked == 3
        });
        latch.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn no_more_members_block_than_there_may_be_helpers() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(1, 1), Arc::new(Latch::default()));
        let sockets = [0; 6].map(|_| set.blocking_member(1, &latch));
        for socket in sockets {
            set.send(&[socket]);
            // The next one is in the same batch, or the lead has changed before.
            let end = now() + Duration::from_millis(thread_rng().gen_range(0..5));
            set.wait_until(end);
        }
        latch.open();
        let tally = Arc::clone(&set.tally);
        set.stop();
        clock.stop();
        // A leader that was blocked when the last helper started is one more.
        let most = tally.most_blocked.load(Ordering::SeqCst);
        assert!(most <= 2, "I26: {most} at a time");
        assert_eq!(tally.ended.load(Ordering::SeqCst), 6, "I23");
    });
}

#[test]
fn deadlines_are_kept_while_all_helpers_are_blocked() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(1, 1), Arc::new(Latch::default()));
        let sockets = [0, 1].map(|_| set.blocking_member(1, &latch));
        let due = now() + Duration::from_millis(thread_rng().gen_range(1..8));
        let last = set.member(1, |member| member.deadline = Some(due));
        join(set.peer(sockets.to_vec()));
        set.expect_within(Duration::from_millis(15), "I24", |tally| tally.due.load(Ordering::SeqCst) == 1);
        latch.open();
        set.send(&[last]);
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_deadline_is_kept_after_a_change_of_the_lead() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(2, 1), Arc::new(Latch::default()));
        let [opens, due] = [4, 8].map(|time| now() + Duration::from_millis(time));
        let socket = set.member(2, |member| {
            member.latch = Some(Arc::clone(&latch));
            member.deadline = Some(due);
        });
        set.send(&[socket]);
        set.wait_until(opens);
        latch.open();
        set.expect_within(Duration::from_millis(15), "I24", |tally| tally.due.load(Ordering::SeqCst) == 1);
        set.send(&[socket]);
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_set_goes_on_when_threads_cannot_be_started() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let set = ModelSet::start(2, 1);
        let failures = if thread_rng().gen_bool(0.5) { usize::MAX } else { thread_rng().gen_range(1..4) };
        set.threads.failures.store(failures, Ordering::SeqCst);
        let sockets = [
            set.member(1, |member| member.first = Some(Crew::Handshakes)),
            set.member(2, |_| ()),
            set.member(1, |member| member.first = Some(Crew::Callbacks)),
            // It waits for the helper of the first one.
            set.member(1, |member| member.first = Some(Crew::Handshakes)),
        ];
        join(set.peer(vec![sockets[0], sockets[3], sockets[1], sockets[2], sockets[1]]));
        while set.tally.ended.load(Ordering::SeqCst) < 4 {
            shuttle::thread::yield_now();
        }
        set.stop();
        clock.stop();
    });
}

/// A leader is blocked, and no thread can be started in its place for a while. A helper of a handshake ends meanwhile, and a
/// client joins that needs a helper.
#[test]
fn all_are_served_as_soon_as_threads_can_be_started() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, [callback, handshake]) =
            (ModelSet::start(2, 1), [0, 1].map(|_| Arc::new(Latch::default())));
        let blocked = set.blocking_member(1, &callback);
        let free = set.member(1, |_| ());
        let mut members = 1;
        if thread_rng().gen_bool(0.5) {
            let sockets = [0, 1].map(|_| set.blocked_handshake(&handshake));
            members += 2;
            set.send(&sockets);
            set.board.wait(|| set.blocked() == 1);
        }
        let before = set.blocked();
        set.send(&[blocked]);
        set.board.wait(|| set.blocked() > before);
        set.threads.failures.store(thread_rng().gen_range(0..8), Ordering::SeqCst);
        let mut times = [0; 3].map(|_| now() + Duration::from_millis(thread_rng().gen_range(0..5)));
        let joining = set.new_member(1);
        set.send(&[joining.socket]);
        let joins = spawn({
            let (board, set, time) = (Arc::clone(&set.board), Arc::clone(&set.set), times[0]);
            move || {
                board.wait(|| now() >= time);
                assert!(ModelSet::join_busy(&set, joining, Crew::Handshakes).is_ok(), "not stopped");
            }
        });
        times[1..].sort_unstable();
        let sends_first = thread_rng().gen_bool(0.5);
        for (time, sends) in [(times[1], sends_first), (times[2], !sends_first)] {
            set.wait_until(time);
            if sends { set.send(&[free]) } else { handshake.open() }
        }
        set.expect_ended(Duration::from_millis(20), "I23", members + 1);
        join(joins);
        callback.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_parked_watcher_starts_a_helper_that_could_not_be_started() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(1, 2), Arc::new(Latch::default()));
        let blocked = set.blocked_handshake(&latch);
        set.send(&[blocked]);
        let parked = now() + Duration::from_millis(thread_rng().gen_range(9..14));
        set.wait_until(parked);
        set.threads.failures.store(1, Ordering::SeqCst);
        let joining = set.new_member(1);
        set.send(&[joining.socket]);
        assert!(ModelSet::join_busy(&set.set, joining, Crew::Handshakes).is_ok(), "not stopped");
        set.expect_ended(Duration::from_millis(3), "I25", 1);
        latch.open();
        set.stop();
        clock.stop();
    });
}

/// No thread can be started in place of the blocked leader, for as long as it is blocked.
#[test]
fn the_last_helper_serves_those_that_wait_for_it() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, [callback, handshake]) =
            (ModelSet::start(2, 1), [0, 1].map(|_| Arc::new(Latch::default())));
        let blocked = set.blocking_member(1, &callback);
        let sockets = [0, 1].map(|_| set.blocked_handshake(&handshake));
        set.send(&sockets);
        set.board.wait(|| set.blocked() == 1);
        set.send(&[blocked]);
        set.board.wait(|| set.blocked() == 2);
        set.threads.failures.store(usize::MAX, Ordering::SeqCst);
        let time = now() + Duration::from_millis(thread_rng().gen_range(0..5));
        set.wait_until(time);
        handshake.open();
        set.expect_ended(Duration::from_millis(5), "I23", 2);
        set.threads.failures.store(0, Ordering::SeqCst);
        callback.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_stop_joins_what_the_watcher_has_started() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let (set, latch) = (ModelSet::start(1, 1), Arc::new(Latch::default()));
        let sockets = [0; 3].map(|_| set.blocking_member(1, &latch));
        set.send(&sockets);
        for _ in 0..thread_rng().gen_range(0..60) {
            shuttle::thread::yield_now();
        }
        latch.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn members_that_are_inserted_during_a_stop_are_served_or_refused() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let set = ModelSet::start(1, 1);
        let mut member = set.new_member(1);
        member.first = thread_rng().gen_bool(0.5).then_some(Crew::Handshakes);
        set.send(&[member.socket]);
        let inserting = spawn({
            let (set, board) = (Arc::clone(&set.set), Arc::clone(&set.board));
            move || {
                let result = match member.first {
                    Some(crew) => ModelSet::join_busy(&set, member, crew),
                    None => {
                        let socket = Arc::new(ModelSocket(member.socket));
                        set.insert(member, socket, Deadline::NEVER)
                    }
                };
                if let Err(member) = result {
                    board.change(|state| state.inputs[member.socket] = 0);
                }
            }
        });
        set.set.stop();
        join(inserting);
        set.stop();
        clock.stop();
    });
}
