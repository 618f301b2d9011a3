//! When a resource runs out, the server waits or refuses clients. It does not end, and it recovers when the resource is
//! there again.

#![cfg(feature = "cli")]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use support::{
    Cgroup, Frame, Process, RawPeer, TestServer, can_open_sockets, eventually, has_events, ms, program, skip,
    watchdog,
};

const QUIET: [&str; 4] = ["--echo", "--every", "0", "--log=info"];

/// Returns the capacity from the log: the number of clients, and the limit that is met first.
fn capacity_of(server: &Process) -> (usize, String) {
    let line = server.wait_for_line(&["listening on", "capacity"]);
    let (_, rest) = line.split_once("capacity ").expect("a capacity");
    let (clients, rest) = rest.split_once(" clients (limited by ").expect("a number and a limit");
    (clients.parse().expect("a number"), rest.trim_end_matches(')').to_owned())
}

/// Accepts as many clients as the capacity says, refuses one more, and accepts that one when another has left.
fn fills_to_its_capacity(server: Process, limit: &str) {
    let (clients, named) = capacity_of(&server);
    assert_eq!(named, limit);
    assert!(clients >= 20, "a capacity of {clients} proves nothing");
    let mut peers: Vec<_> = (0..clients).map(|_| RawPeer::open(server.addr())).collect();
    for peer in &mut peers {
        peer.send_text("in");
    }
    for peer in &mut peers {
        peer.expect_text("in");
    }
    let threads = server.usage().threads;
    for _ in 0..30 {
        let mut one_more = RawPeer::connect(server.addr());
        one_more.ask("/", &[]);
        one_more.expect_refusal(503);
    }
    assert_eq!(server.usage().threads, threads, "a refused client needs no thread");
    peers.pop().expect("a client").close(1000);
    eventually("the client that left makes room", || {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.try_answer().is_ok_and(|answer| answer.is_some_and(|answer| answer.status == 101))
    });
    server.expect_no_panic();
    drop(peers);
    server.stop();
}

#[test]
fn few_descriptors_limit_the_capacity() {
    let _dog = watchdog(60);
    let server = Process::threadws_under(&["prlimit", "--nofile=256:256"], &QUIET);
    fills_to_its_capacity(server, "RLIMIT_NOFILE");
}

#[test]
fn few_threads_in_the_control_group_limit_the_capacity() {
    let _dog = watchdog(60);
    if has_events() {
        return; // Clients have no threads.
    }
    let setting = [("pids.max", "200")];
    let Some(group) = Cgroup::new("pids", &setting, &setting) else { return };
    let wrapper = group.wrapper();
    let server = Process::threadws_under(&wrapper.each_ref().map(String::as_str), &QUIET);
    fills_to_its_capacity(server, "cgroup pids.max");
}

#[test]
fn little_memory_in_the_control_group_limits_the_capacity() {
    let _dog = watchdog(60);
    let settings = [("memory.limit_in_bytes", "16777216")];
    let Some(group) = Cgroup::new("memory", &settings, &[("memory.max", "16777216")]) else { return };
    let wrapper = group.wrapper();
    let server = Process::threadws_under(&wrapper.each_ref().map(String::as_str), &QUIET);
    fills_to_its_capacity(server, "cgroup memory.max");
}

#[test]
fn few_threads_for_the_user_limit_the_capacity() {
    let _dog = watchdog(60);
    if has_events() {
        return; // Clients have no threads.
    }
    if program("setpriv").is_none() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        // The user of this test has other threads, whose number changes.
        return skip("only root can become another user");
    }
    // No other process has this user id, and the user may run this copy wherever the target folder is.
    let user = 60_000 + std::process::id() % 5000;
    let copy = std::env::temp_dir().join(format!("threadws-test-{user}"));
    std::fs::copy(env!("CARGO_BIN_EXE_threadws"), &copy).expect("a copy");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).expect("a mode");
    let mut command = std::process::Command::new("prlimit");
    command.args(["--nproc=200:200", "setpriv", "--clear-groups"]);
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}"));
    command.arg(&copy).args(["--listen", "127.0.0.1:0"]).args(QUIET);
    let server = Process::server(command);
    std::fs::remove_file(&copy).expect("the copy");
    fills_to_its_capacity(server, "RLIMIT_NPROC");
}

#[test]
fn the_capacity_leaves_a_fifth_of_the_mappings() {
    let _dog = watchdog(60);
    if has_events() {
        return; // Clients have no threads.
    }
    let server = Process::threadws(&QUIET);
    let (clients, named) = capacity_of(&server);
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("Linux");
    let most: usize = most.trim().parse().expect("a number");
    // Without mappings the process aborts. Each thread of std takes 4.
    assert!(clients * 4 <= most - most / 5, "{clients} clients by {named}, {most} mappings");
    server.stop();
}

#[test]
fn with_little_address_space_it_refuses_clients() {
    const MANY: usize = 200;
    let _dog = watchdog(60);
    if !can_open_sockets(MANY) {
        return;
    }
    let server = Process::threadws_under(&["prlimit", "--as=1073741824"], &["--echo", "--every", "0"]);
    let mut peers = Vec::new();
    let mut refused = 0;
    for _ in 0..MANY {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        match peer.try_answer().ok().flatten().map(|answer| answer.status) {
            Some(101) => peers.push(peer),
            Some(503) | None => refused += 1,
            Some(status) => panic!("{status}"),
        }
    }
    assert!(!peers.is_empty() && refused > 0, "{} are in, {refused} are not", peers.len());
    // Each client takes all the memory that it may. An allocation that fails would end the process.
    let message = vec![7; 1 << 20];
    let half = Frame::binary(&message[..]).encode();
    for peer in &mut peers {
        peer.write(&half[..half.len() - 1]);
    }
    for peer in &mut peers {
        peer.write(&half[half.len() - 1..]);
    }
    for peer in &mut peers {
        peer.expect_binary(&message);
    }
    assert_eq!(capacity_of(&server).1, "RLIMIT_AS");
    server.stop();
}

/// Starts the server with accept4(2) failing for the first `times` calls.
fn failing_to_accept(error: &str, times: u32) -> Option<Process> {
    let strace = program("strace")?;
    let inject = format!("inject=accept4:error={error}:when=1..{times}");
    // -D makes the server the child of this process, and not strace.
    let wrapper =
        [strace.to_str()?, "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=accept4", "-e", &inject];
    Some(Process::threadws_under(&wrapper, &QUIET))
}

#[test]
fn accept_is_retried_with_pauses_when_resources_run_out() {
    let _dog = watchdog(90);
    for error in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"] {
        // 10, 20, 40, 80, 160 and 320 ms.
        let Some(server) = failing_to_accept(error, 6) else { return };
        let start = Instant::now();
        let mut peer = RawPeer::open(server.addr());
        assert!(start.elapsed() >= ms(600), "{error}: tried again without a pause, {:?}", start.elapsed());
        peer.send_text(error);
        peer.expect_text(error);
        peer.close(1000);
        let logged: Vec<_> =
            server.log().into_iter().filter(|line| line.contains("accepting failed")).collect();
        assert!((1..=2).contains(&logged.len()), "{error}: at most one line a second: {logged:?}");
        server.stop();
    }
}

#[test]
fn accept_goes_on_at_once_when_a_connection_is_gone() {
    let _dog = watchdog(90);
    for error in ["ECONNABORTED", "EPROTO", "ENETDOWN", "EPERM", "EHOSTUNREACH", "EINTR"] {
        let Some(server) = failing_to_accept(error, 100) else { return };
        let start = Instant::now();
        let mut peer = RawPeer::open(server.addr());
        // As a missing resource they would take 49 s.
        assert!(start.elapsed() < ms(20_000), "{error}: it paused, {:?}", start.elapsed());
        peer.send_text(error);
        peer.expect_text(error);
        peer.close(1000);
        let log = server.log();
        assert!(!log.iter().any(|line| line.contains("[WARN]")), "{error} is not worth a warning: {log:?}");
        server.stop();
    }
}

/// Touches this many KiB of stack below its caller.
#[inline(never)]
fn deep(kib: usize) -> usize {
    let here = std::hint::black_box([1_u8; 1024]);
    if kib <= 1 { usize::from(here[0]) } else { deep(kib - 1) + usize::from(here[kib % 1024]) }
}

#[test]
fn a_handler_has_the_stack_size_that_was_set() {
    let _dog = watchdog(30);
    // The same holds in a debug build, where a frame of `deep` takes at most 3 KiB. An overflow would end this process.
    for (stack, kib) in [(None, 40), (Some(16 << 20), 4000)] {
        let server = TestServer::with(
            |server| match stack {
                Some(bytes) => server.stack_size(bytes),
                None => server,
            },
            move |client| {
                while let Some(message) = client.recv()? {
                    assert_eq!(deep(kib), kib);
                    client.send(message)?;
                }
                Ok(())
            },
        );
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("how deep?");
        peer.expect_text("how deep?");
        peer.close(1000);
    }
}

#[test]
fn a_server_without_descriptors_does_not_spin_and_recovers() {
    let _dog = watchdog(60);
    // Less than the server's own reserve, so it is full at once with connections that it cannot even accept.
    let server = Process::threadws_under(&["prlimit", "--nofile=24:24"], &QUIET);
    let start = server.usage();
    let peers: Vec<_> = (0..40).map(|_| RawPeer::connect(server.addr())).collect();
    std::thread::sleep(Duration::from_secs(1));
    let load = server.usage().load_since(&start);
    assert!(load < 0.3, "it spins: {load:.2} of a processor");
    drop(peers);
    eventually("it serves again", || {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.try_answer().is_ok_and(|answer| answer.is_some_and(|answer| answer.status == 101))
    });
    server.stop();
}
