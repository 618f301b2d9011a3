//! `threadws bench` from the outside: its report, its refusals and its failures.
#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::Instant;
use support::{Network, PATIENCE, Process, TestServer, echo, eventually, program, watchdog};

/// Returns the command, as the argument of other programs if there are any.
fn bench(wrapper: &[&str], args: &[&str]) -> Command {
    let words = [wrapper, &[env!("CARGO_BIN_EXE_threadws"), "bench"], args].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_remove("THREADWS_LOG").env_remove("RUST_LOG");
    command
}

#[track_caller]
fn run(args: &[&str]) -> Output {
    run_below(&[], args)
}

#[track_caller]
fn run_below(wrapper: &[&str], args: &[&str]) -> Output {
    let output = bench(wrapper, args).output().expect("the binary runs");
    println!("{args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

fn url(addr: SocketAddr) -> String {
    format!("ws://{addr}/")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[track_caller]
fn json(output: &Output) -> serde_json::Value {
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout).lines().count(), 1, "one object on one line");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn it_reports_rate_and_latency_with_a_histogram() {
    let _watchdog = watchdog(40);
    let server = TestServer::new(echo);
    let output = run(&["--duration", "300ms", "--clients", "3", "--in-flight", "4", &url(server.addr())]);
    assert_eq!(output.status.code(), Some(0));
    let report = text(&output.stdout);
    for part in ["3 clients, 32 bytes of text, 4 in flight", "messages/s  ", "p50 ", "p99.9 ", "max ", " %  "]
    {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(!text(&output.stderr).contains('\r'), "no progress where stderr is not a terminal");
}

#[test]
fn json_is_one_object_that_adds_up() {
    let _watchdog = watchdog(40);
    let server = TestServer::new(echo);
    for extra in
        [&["--size", "1"][..], &["--binary", "--in-flight", "64"], &["--size", "100KiB", "--in-flight", "3"]]
    {
        let url = url(server.addr());
        let args = [&["--json", "--duration", "300ms", "--clients", "2", &url], extra].concat();
        let report = json(&run(&args));
        let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
        assert!(number("messages") >= 1.0, "{report}");
        let rate = number("messages") / number("seconds");
        // It has one digit behind the point.
        assert!((number("messages_per_second") - rate).abs() < 0.051 + rate / 100.0, "{report}");
        let latency: Vec<f64> = ["p50", "p90", "p99", "p99.9", "max"]
            .map(|name| report["latency_us"][name].as_f64().unwrap_or_else(|| panic!("{name}: {report}")))
            .into();
        assert!(latency.is_sorted() && latency[0] > 0.0, "{report}");
        assert_eq!(report["interrupted"], false);
        assert_eq!(report["clients"], 2);
        assert_eq!(report["binary"], extra.contains(&"--binary"));
    }
}

/// Checks that a load works of which more is in flight than all buffers on the way hold.
#[track_caller]
fn overfill(wrapper: &[&str], server: SocketAddr) {
    let url = url(server);
    // A busy machine needs longer for the first message.
    let came_back = ["2s", "10s"].into_iter().any(|duration| {
        let load =
            ["--json", "--duration", duration, "--clients", "1", "--size", "1MiB", "--in-flight", "24", &url];
        let output = run_below(wrapper, &load);
        output.status.success() && json(&output)["messages"].as_u64() >= Some(1)
    });
    assert!(came_back, "no message came back");
}

#[test]
fn more_messages_in_flight_than_the_buffers_hold() {
    let _watchdog = watchdog(40);
    let server = TestServer::new(echo);
    overfill(&[], server.addr());
}

/// The socket buffers are so small that they take no message whole.
#[test]
fn more_messages_in_flight_than_tiny_buffers_hold() {
    let _watchdog = watchdog(60);
    let Some(network) = Network::new() else { return };
    let little = "for buffer in tcp_wmem tcp_rmem; do echo 4096 4096 4096 >/proc/sys/net/ipv4/$buffer; done; exec \"$@\"";
    let wrapper = network.wrapper_after(little);
    let server = Process::threadws_under(&wrapper, &["--echo", "--every", "0"]);
    overfill(&wrapper, server.addr());
    server.stop();
}

#[test]
fn an_answer_that_is_not_an_echo_is_noticed() {
    let _watchdog = watchdog(40);
    let another = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            client.send(message.as_text().unwrap_or_default().replace('z', "y"))?;
        }
        Ok(())
    });
    let twice = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            client.write(&message)?;
            client.write(message)?;
        }
        Ok(())
    });
    let other_kind = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            client.write(message.into_bytes())?;
        }
        Ok(())
    });
    for server in [another, twice, other_kind] {
        let output = run(&["--clients", "2", &url(server.addr())]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("not the one that was sent"));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_silent_or_closing_server_is_a_failure() {
    let _watchdog = watchdog(40);
    let silent = TestServer::new(|client| Ok(client.ignore()?));
    let output = run(&["--clients", "2", "--duration", "200ms", &url(silent.addr())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no message came back"));

    let leaves = TestServer::new(|client| {
        client.recv()?;
        Ok(())
    });
    let output = run(&["--clients", "2", &url(leaves.addr())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the server closed a connection"));
}

#[test]
fn a_url_that_is_not_allowed_is_refused_before_connecting() {
    let _watchdog = watchdog(40);
    // 192.0.2.0/24 is for documentation (RFC 5737), so no host has these addresses.
    for (args, part) in [
        (&["ws://192.0.2.1/"][..], "--allow-remote"),
        (&["http://127.0.0.1/"], "ws://"),
        (&["ws:// /"], "not a URL"),
        (&["ws://user:secret@192.0.2.1/"], "--allow-remote"),
    ] {
        let began = Instant::now();
        let output = run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr.contains(part) && stderr.contains("threadws bench --help"), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
        assert!(began.elapsed() < PATIENCE, "it tried to connect");
    }
}

#[test]
fn a_closed_port_is_a_failure() {
    let _watchdog = watchdog(40);
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let output = run(&[&url(free)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot connect"));
}

#[test]
fn an_interrupt_ends_it_early_with_a_report() {
    let _watchdog = watchdog(40);
    let server = TestServer::new(echo);
    let began = Instant::now();
    let mut bench =
        Process::spawn(bench(&[], &["--json", "--duration", "1h", "--clients", "2", &url(server.addr())]));
    bench.wait_for_line(&["2 clients connected"]);
    // More than both may have in flight, so some messages have come back.
    eventually("it is under load", || server.stats().traffic.messages_received > 10);
    bench.signal(Signal::INT);
    bench.wait_for_success(PATIENCE);
    let stdout = bench.stdout();
    let report: serde_json::Value = serde_json::from_str(&stdout[0]).expect("JSON");
    assert_eq!(report["interrupted"], true);
    assert!(report["messages"].as_u64() >= Some(1));
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_load_that_memory_cannot_hold_is_refused() {
    let _watchdog = watchdog(40);
    let numbers: [&[&str]; 4] = [
        &["--clients", "18446744073709551615"],
        &["--clients", "100000000"],
        &["--size", "1000MiB", "--clients", "1000000000"],
        &["--in-flight", "1000000", "--clients", "1000000000"],
    ];
    for numbers in numbers {
        let output = run(&[numbers, &["ws://127.0.0.1:1/"]].concat());
        assert_eq!(output.status.code(), Some(2), "{numbers:?}");
        let error = text(&output.stderr);
        assert!(error.contains("MiB of memory, which the system does not give"), "{error}");
    }
    let output = run(&["--size", "16GiB", "ws://127.0.0.1:1/"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("take more than 1 GiB for each client"));
    let Some(prlimit) = program("prlimit") else { return };
    let wrapper = [&prlimit.to_string_lossy(), "--as=2000000000"];
    let server = Process::threadws(&["--echo", "--every", "0", "--max-message", "100MiB"]);
    let output = run_below(&wrapper, &["--size", "100MiB", &server.url()]);
    assert_eq!(output.status.code(), Some(2));
    let output = run_below(&wrapper, &["--size", "64KiB", "--duration", "2s", &server.url()]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_report_that_cannot_be_printed_is_a_failure() {
    let _watchdog = watchdog(40);
    let server = TestServer::new(echo);
    let (reader, writer) = UnixStream::pair().expect("a pair");
    drop(reader);
    let mut command = bench(&[], &["-q", "--duration", "300ms", "--clients", "2", &url(server.addr())]);
    let output = command.stdout(OwnedFd::from(writer)).output().expect("the binary runs");
    let error = text(&output.stderr);
    assert_eq!(
        (output.status.code(), error.contains("cannot write to stdout: ")),
        (Some(1), true),
        "{error}"
    );
}
