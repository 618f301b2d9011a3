//! A server that gets little processor time.

#![cfg(feature = "cli")]

use std::process::{Child, Command};
use std::time::Instant;
use support::{Cgroup, Process, RawPeer, clients_that_read, expect_all_stayed, ms, take_turn, watchdog};

/// Busy loops, which end when this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn loops(count: usize) -> Self {
        let start = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        Self((0..count).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
#[ignore = "takes all processors for 5 s"]
fn no_client_times_out_beside_busy_loops() {
    let (_turn, _dog) = (take_turn(), watchdog(60));
    let _busy = Busy::loops(std::thread::available_parallelism().map_or(2, usize::from) * 2);
    let server = Process::threadws_under(&["nice", "-n", "10"], &["--every", "0", "--ping", "1s"]);
    let rx = clients_that_read(&server.url(), 20);
    std::thread::sleep(ms(4000));
    expect_all_stayed(server, &rx, 20);
}

#[test]
fn no_client_times_out_with_a_tenth_of_a_processor() {
    let (_turn, _dog) = (take_turn(), watchdog(60));
    let version1 = [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "10000")];
    let Some(group) = Cgroup::new("cpu", &version1, &[("cpu.max", "10000 100000")]) else { return };
    let wrapper = group.wrapper();
    let options = ["--every", "100ms", "--ping", "1s", "--echo", "--log", "warn"];
    let server = Process::threadws_under(&wrapper.each_ref().map(String::as_str), &options);
    let rx = clients_that_read(&server.url(), 20);
    // One client alone needs more than there is, so that all are delayed, and often.
    let mut busy = RawPeer::open(server.addr());
    let (start, end) = (server.usage(), Instant::now() + ms(4000));
    // On a busy machine it takes longer to need that much.
    while Instant::now() < end || group.number("cpu.stat", "nr_throttled") < 10 {
        for _ in 0..100 {
            busy.send_text("and again");
        }
        let mut echoes = 0;
        while echoes < 100 {
            echoes += u32::from(busy.message().as_text() == "and again");
        }
    }
    let load = server.usage().load_since(&start);
    assert!(load < 0.2, "it has more than its tenth: {load:.2}");
    busy.close(1000);
    expect_all_stayed(server, &rx, 20);
}
