//! A process of its own: counts the threads of its process.
//!
//! Clients that vanish give their threads back.

use std::sync::mpsc;
use support::{
    PATIENCE, RawPeer, TestServer, eventually, eventually_within, in_own_process, ms, next, watchdog,
};

/// The number of client threads of this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("threadws-clien")).count()
}

#[test]
fn clients_that_vanish_at_once_free_their_threads() {
    in_own_process(|| {
        let _dog = watchdog(60);
        let (report, reports) = mpsc::channel();
        let server = TestServer::new(move |client| {
            client.send("in")?;
            report.send(client.ignore().is_err())?;
            Ok(())
        });
        for _ in 0..3 {
            let mut peers: Vec<_> = (0..40).map(|_| RawPeer::open(server.addr())).collect();
            for peer in &mut peers {
                peer.expect_text("in");
            }
            assert_eq!(server.hub().count(), 40);
            for (number, mut peer) in peers.into_iter().enumerate() {
                match number % 3 {
                    0 => peer.reset(),
                    1 => peer.fin(),
                    _ => drop(peer.try_write(&[0x88])), // half a Close, and the end
                }
            }
            for _ in 0..40 {
                assert!(next(&reports, "the end of a handler"), "a clean end");
            }
            eventually("all places are free", || server.hub().count() == 0);
        }
        assert!(reports.try_recv().is_err(), "a handler ended twice");
        // Up to 32 threads wait a few seconds for another client.
        eventually_within(PATIENCE + ms(5000), "the threads have ended", || threads() <= 32);
    });
}
