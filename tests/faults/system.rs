//! Faults of the system: signals, clocks, full disks, links that are down.

#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{
    Frame, Network, PATIENCE, Process, RawPeer, TestServer, clients_that_read, eventually, eventually_within,
    expect_all_stayed, helper_process, ms, program, skip, unsent_bytes_of, watchdog,
};
use threadws::{Config, Message};

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("threadws-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_server_resumed_after_sigstop_keeps_its_clients() {
    let _dog = watchdog(60);
    let server = Process::threadws(&["--every", "0", "--ping", "1s"]);
    let rx = clients_that_read(&server.url(), 20);
    // The pong comes while the server is stopped, for longer than it waits for the pong.
    let mut peer = RawPeer::open(server.addr());
    let ping = peer.frame();
    server.signal(Signal::STOP);
    peer.send(&Frame::pong(ping.payload));
    std::thread::sleep(ms(3000));
    server.signal(Signal::CONT);
    std::thread::sleep(ms(500));
    peer.close(1000);
    expect_all_stayed(server, &rx, 20);
}

#[test]
fn a_ping_that_leaves_late_has_its_whole_timeout() {
    let _dog = watchdog(60);
    let Some(strace) = program("strace") else { return };
    // As if the process were stopped just before it sends the ping: the second `sendto` of a client's thread.
    let inject = "inject=sendto:delay_enter=1500000:when=2";
    let strace =
        [&strace.to_string_lossy(), "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", inject];
    let server = Process::threadws_under(&strace, &["--every", "0", "--ping", "1s"]);
    let mut peer = RawPeer::open(server.addr());
    let ping = peer.frame();
    // Within the second that the server waits for it.
    std::thread::sleep(ms(300));
    peer.send(&Frame::pong(ping.payload));
    assert_eq!(peer.frame().opcode, 9, "the next ping");
}

#[test]
fn a_stopped_client_is_disconnected_and_ends_when_it_resumes() {
    let _dog = watchdog(60);
    let server = Process::threadws(&["--echo", "--every", "0", "--ping", "1s"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
    command.args(["connect", &server.url()]);
    let mut client = Process::with_pipe(command);
    client.write("before\n");
    client.wait_for_stdout("before");
    let rx = clients_that_read(&server.url(), 3);
    client.signal(Signal::STOP);
    server.wait_for_line(&["client 1 disconnected", "ping"]);
    client.signal(Signal::CONT);
    let status = client.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "it was cut off");
    expect_all_stayed(server, &rx, 3);
}

#[test]
fn setting_the_clock_by_a_day_changes_no_interval() {
    let _dog = watchdog(60);
    let libraries = fs::read_dir("/usr/lib").expect("Linux").flatten().map(|entry| entry.path());
    let found =
        libraries.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file());
    let Some(library) = found else { return skip("libfaketime is missing") };
    let folder = Folder::new("clock");
    let offset = folder.0.join("offset");
    fs::write(&offset, "+0").expect("a file");
    let preload = format!("LD_PRELOAD={}", library.display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", offset.display());
    let environment = ["env", &preload, &file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
    let server = Process::threadws_under(&environment, &["--every", "100ms", "--ping", "1s", "--echo"]);
    let rx = clients_that_read(&server.url(), 10);
    let opening = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    let mut ticks = 0;
    let dates: Vec<String> = ["+0", "+1d", "-1d", "+0"]
        .into_iter()
        .map(|clock| {
            fs::write(&offset, clock).expect("a file");
            let enough = ticks + 8;
            while ticks < enough {
                // The echo comes too.
                ticks += u32::from(peer.message().as_text() == "hello from threadws");
            }
            // Neither a burst nor a pause of a day. Measured from the beginning, because some ticks may have waited for
            // this test.
            let time = opening.elapsed();
            assert!(time >= ms(100) * ticks, "{clock}: {ticks} ticks of 100 ms in {time:?}");
            peer.send_text(clock);
            server.wait_for_line(&["sent text", clock])[..10].to_owned()
        })
        .collect();
    // The clock of the process did change, because lines begin with the date.
    assert!(dates[0] != dates[1] && dates[1] != dates[2] && dates[0] != dates[2], "{dates:?}");
    drop(peer);
    expect_all_stayed(server, &rx, 10);
}

#[test]
fn a_full_disk_for_the_log_stops_nothing() {
    let _dog = watchdog(60);
    let options = ["--echo", "--every", "0"];
    let server = Process::threadws_under(&["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"], &options);
    let mut peer = RawPeer::open(server.addr());
    for _ in 0..500 {
        peer.send_text("still there?");
        peer.expect_text("still there?");
    }
    peer.close(1000);
    server.stop();
}

#[test]
fn a_log_resumes_when_a_full_disk_has_room() {
    let _dog = watchdog(60);
    let folder = Folder::new("disk");
    let log = folder.0.join("log");
    // A disk of 64 KiB that only this process sees.
    let script =
        format!("mount -t tmpfs -o size=64k none {} && exec \"$@\" 2>>{}", folder.0.display(), log.display());
    if !Command::new("unshare")
        .args(["-m", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|it| it.success())
    {
        return skip("no file system can be mounted");
    }
    let Some(nsenter) = program("nsenter") else { return };
    let wrapper = ["unshare", "-m", "sh", "-c", &script, "sh"];
    let server = Process::threadws_under(&wrapper, &["--echo", "--every", "0"]);
    let log = PathBuf::from(format!("/proc/{}/root{}", server.pid(), log.display()));
    let mut peer = RawPeer::open(server.addr());
    let text = "x".repeat(150);
    for _ in 0..2000 {
        peer.send_text(&text);
        peer.expect_text(&text);
    }
    let size = fs::metadata(&log).expect("the log").len();
    assert!((60 << 10..=64 << 10).contains(&size), "the disk is not full: {size}");
    // Room for all further lines. The earlier lines remain.
    let larger = Command::new(nsenter)
        .args(["-m", "-r", "-t", &server.pid().to_string(), "mount", "-o", "remount,size=16m"])
        .arg(&folder.0)
        .status();
    assert!(larger.is_ok_and(|it| it.success()), "no room was made");
    let read_log = || fs::read_to_string(&log).expect("the log");
    let mut sent = 2000;
    eventually("the log goes on", || {
        peer.send_text("room again");
        peer.expect_text("room again");
        sent += 1;
        read_log().contains("room again")
    });
    eventually("each line is there or counted", || {
        let logged = read_log();
        let whole = |line: &&str| line.ends_with(&text) || line.ends_with("room again");
        let there = logged.lines().filter(whole).count();
        let lost: usize = logged.lines().filter_map(dropped).sum();
        // A line that lacked only its line feed was refused and counted, and looks complete.
        lost > 0 && (sent..=sent + 1).contains(&(there + lost))
    });
    peer.close(1000);
    server.stop();
}

/// Returns how many lines were dropped, by the line that reports it.
fn dropped(line: &str) -> Option<usize> {
    let line = line.strip_suffix(" dropped")?;
    line.strip_suffix(" lines").or(line.strip_suffix(" line"))?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_program_that_a_handler_starts_inherits_no_socket() {
    let _dog = watchdog(30);
    // Descriptors that the test itself inherited are inherited by every program.
    let before = descriptors_of_a_program();
    let server = TestServer::new(|client| {
        let _file = fs::File::open("/proc/self/status")?;
        Ok(client.send(descriptors_of_a_program())?)
    });
    let _others: Vec<_> = (0..5).map(|_| RawPeer::connect(server.addr())).collect();
    let mut peer = RawPeer::open(server.addr());
    let list = peer.message();
    assert!(list.as_text().split(' ').count() >= 4, "that is not a list: {list:?}");
    assert_eq!(list.as_text(), before, "a descriptor of ours is not closed");
}

/// Returns the numbers of the descriptors that a program inherits, and of the folder that lists them.
fn descriptors_of_a_program() -> String {
    let output = Command::new("ls").arg("/proc/self/fd").stdin(Stdio::null()).output().expect("ls");
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn no_sigpipe_is_raised() {
    let _dog = watchdog(60);
    let Some(strace) = program("strace") else { return };
    let folder = Folder::new("sigpipe");
    let trace = folder.0.join("trace");
    let (strace, trace_path) = (strace.to_string_lossy(), trace.to_string_lossy());
    // strace shows ignored signals too. std ignores this one, but a program in C or Python that embeds the library
    // would be ended by it.
    let wrapper =
        [&strace, "-D", "-f", "-qq", "-o", &*trace_path, "-e", "trace=none", "-e", "signal=SIGPIPE"];
    let pipes = |trace: &Path| fs::read_to_string(trace).map_or(0, |text| text.matches("SIGPIPE").count());

    // First a check that a signal would be seen: the log is a pipe without a reader.
    let closed = ["sh", "-c", "mkfifo \"$0\"; (exec <\"$0\") & exec 2>\"$0\"; sleep 0.2; exec \"$@\""];
    let fifo = folder.0.join("fifo").to_string_lossy().into_owned();
    let control = [&wrapper[..], &closed, &[&*fifo]].concat();
    let server = Process::threadws_under(&control, &["--echo", "--every", "0"]);
    eventually("a signal in the trace", || {
        RawPeer::open(server.addr()).close(1000);
        pipes(&trace) > 0
    });
    server.stop();

    let server = Process::threadws_under(&wrapper, &["--echo", "--every", "0", "--log", "warn"]);
    let message = Frame::binary(vec![1; 128 << 10]).encode();
    for number in 0..2 {
        let mut peer = RawPeer::open(server.addr());
        // Until the answers fill all buffers, and the handler waits in a send.
        let mut unsent = 0;
        while unsent < 1 << 20 || unsent_bytes_of(server.addr()) > unsent {
            unsent = unsent_bytes_of(server.addr());
            peer.write(&message);
            std::thread::sleep(ms(10));
        }
        if number % 2 == 0 {
            // After a FIN, an RST makes that send fail with EPIPE, and not with ECONNRESET.
            peer.fin();
            std::thread::sleep(ms(20));
        }
        peer.reset();
    }
    eventually("all have left", || server.usage().threads < 50);
    std::thread::sleep(ms(100));
    server.stop();
    assert_eq!(pipes(&trace), 0, "in {}", fs::read_to_string(&trace).unwrap_or_default());
}

/// Cuts the link of clients for this time. `ping` is the time for which they may be silent, and then the time for the
/// pong.
fn a_cable_is_pulled(ping: Duration, pulled: Duration) {
    let _dog = watchdog(60 + 2 * pulled.as_secs());
    let Some(network) = Network::new() else { return };
    let listen = format!("{}:0", network.their_ip());
    let pause = format!("{}ms", ping.as_millis());
    let wrapper = network.wrapper();
    let server = Process::threadws_at(&listen, &wrapper, &["--echo", "--every", "0", "--ping", &pause]);
    let before = server.usage();
    let rx = clients_that_read(&server.url(), 5);
    let mut peers: Vec<_> = (0..5).map(|_| RawPeer::open(server.addr())).collect();
    for peer in &mut peers {
        peer.send_text("in");
        peer.expect_text("in");
    }
    network.set_link(false);
    let start = Instant::now();
    // Long before TCP itself gives up, which takes a quarter of an hour.
    let lines = {
        eventually_within(ping * 4 + PATIENCE, "all ten are disconnected", || {
            server.log().iter().filter(|line| line.contains(" disconnected ")).count() == 10
        });
        server.wait_for_lines(&[" disconnected "], 10)
    };
    assert!(start.elapsed() >= ping, "disconnected too early: {:?}", start.elapsed());
    assert!(lines.iter().all(|line| line.contains("ping")), "{lines:?}");
    server.expect_settled(&before, PATIENCE, 10);
    std::thread::sleep(pulled.saturating_sub(start.elapsed()));
    network.set_link(true);
    eventually_within(PATIENCE * 2, "it serves again", || {
        let new = std::net::TcpStream::connect_timeout(&server.addr(), ms(500));
        new.is_ok_and(|stream| {
            let mut peer = RawPeer::from_stream(stream, server.addr());
            peer.ask("/", &[]);
            peer.try_answer().is_ok_and(|answer| answer.is_some_and(|answer| answer.status == 101))
        })
    });
    // The clients have noticed it too. The library's clients send pings, and the raw ones notice when they write.
    for mut peer in peers {
        drop(peer.try_write(&Frame::text("still there?").encode()));
        peer.expect_gone();
    }
    drop(rx);
    server.stop();
}

#[test]
fn a_link_that_is_down_is_noticed_by_the_ping() {
    a_cable_is_pulled(ms(1000), ms(2500));
}

/// A server that sends 64 KiB every 20 ms, which fills all buffers in a second or two.
#[test]
fn run_as_helper_process() {
    let Some(listen) = helper_process::role() else { return };
    let config =
        Config::new().with_write_timeout(Duration::from_secs(1)).with_ping_interval(Duration::from_secs(60));
    let server = threadws::Server::bind(listen).expect("an address").config(config);
    helper_process::serve(server, Duration::from_secs(2), |client| {
        client.every(Duration::from_millis(20), Message::from(vec![7; 64 << 10]));
        drop(client.ignore());
        eprintln!("ended: {}", client.closed().expect("it has ended"));
        Ok(())
    });
}

#[test]
fn a_link_that_is_down_is_noticed_earlier_when_sending() {
    let _dog = watchdog(60);
    let Some(network) = Network::new() else { return };
    let server =
        helper_process::start(module_path!(), &format!("{}:0", network.their_ip()), &network.wrapper());
    let rx = clients_that_read(&server.url(), 3);
    std::thread::sleep(ms(300));
    assert!(rx.try_recv().is_err(), "closed before the cable was pulled");
    network.set_link(false);
    // The ping would take a minute, and TCP a quarter of an hour.
    let lines = server.wait_for_lines(&["ended: "], 3);
    assert!(lines.iter().all(|line| line.contains("write timed out")), "{lines:?}");
    network.set_link(true);
    server.stop();
}

#[test]
#[ignore = "takes more than a minute: cargo test --test faults system -- --ignored"]
fn a_link_down_for_a_minute_is_noticed() {
    a_cable_is_pulled(Duration::from_secs(20), Duration::from_secs(60));
}
