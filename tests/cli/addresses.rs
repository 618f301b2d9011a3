//! `threadws connect` to names with several addresses, and to IPv6 addresses with a zone, in a network of its own; addresses
//! that are not whole.

#![cfg(feature = "cli")]

use std::process::Command;
use std::time::{Duration, Instant};
use support::{Folder, Network, PATIENCE, Process, watchdog};

/// Sends a line to an echo server from the namespace, and returns the time that it took.
#[track_caller]
fn echo_takes(wrapper: &[&str], url: &str) -> Duration {
    let words = [wrapper, &[env!("CARGO_BIN_EXE_threadws"), "connect", "-q", "--once", url]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    let begin = Instant::now();
    let mut client = Process::with_pipe(command);
    client.write("hello\n");
    client.end_input();
    client.wait_for_stdout("hello");
    client.wait_for_success(PATIENCE);
    begin.elapsed()
}

#[test]
fn dead_addresses_delay_a_client_by_less_than_a_second() {
    let _dog = watchdog(60);
    let Some(network) = Network::new() else { return };
    let folder = Folder::new();
    let hosts = folder.path("hosts");
    // Nothing has these addresses, and their packets are lost without an answer.
    let dead = ["2001:db8::97", "2001:db8::98", "2001:db8::99"];
    let names = dead.map(|address| format!("{address} three.test\n")).concat();
    let names = format!("{names}127.0.0.1 three.test\n{} one.test\n127.0.0.1 one.test\n", dead[0]);
    std::fs::write(&hosts, names).expect("a file");
    let neighbours =
        dead.map(|address| format!("ip neigh replace {address} lladdr 02:00:00:00:00:99 dev v1\n"));
    // The mounts of a command in the namespace are its own.
    let script = format!(
        "ip addr replace 2001:db8::2/64 dev v1 nodad\n{}mount --bind {} /etc/hosts\nexec \"$@\"",
        neighbours.concat(),
        hosts.display()
    );
    let server = Process::threadws_at("127.0.0.1:0", &network.wrapper(), &["--echo", "--every", "0"]);
    let port = server.addr().port();
    for name in ["one.test", "three.test"] {
        let took = echo_takes(&network.wrapper_after(&script), &format!("ws://{name}:{port}/"));
        println!("{name}: {took:?}");
        assert!(took < Duration::from_secs(1), "{name} took {took:?}");
    }
    server.stop();
}

#[test]
fn an_announced_address_with_a_zone_can_be_connected_to() {
    let _dog = watchdog(60);
    let Some(network) = Network::new() else { return };
    let script = "ip addr replace fe80::1/64 dev v1 nodad; exec \"$@\"";
    let index = Command::new(network.wrapper()[0])
        .args(&network.wrapper()[1..])
        .args(["cat", "/sys/class/net/v1/ifindex"])
        .output()
        .expect("ip starts");
    let index = String::from_utf8(index.stdout).expect("a number");
    let index = index.trim();
    // The address is announced with the number of the interface.
    let wrapper = network.wrapper_after(script);
    let server = Process::threadws_at("[fe80::1%v1]:0", &wrapper, &["--echo", "--every", "0"]);
    let line = server.wait_for_stdout("threadws listening on ");
    let (_, url) = line.split_once("(").expect("a URL for clients");
    let url = url.trim_end_matches(')');
    assert!(url.starts_with(&format!("ws://[fe80::1%25{index}]:")), "{url}");
    for zone in [format!("%25{index}"), format!("%{index}"), "%25v1".to_owned(), "%v1".to_owned()] {
        echo_takes(&network.wrapper(), &url.replace(&format!("%25{index}"), &zone));
    }
    server.stop();
}

#[test]
fn addresses_need_no_scheme_and_no_host() {
    let _dog = watchdog(30);
    let server = Process::threadws_at(":0", &[], &["--echo", "--every", "0"]);
    let port = server.addr().port();
    for url in [format!("{port}"), format!(":{port}/a"), format!("localhost:{port}"), format!("[::1]:{port}")]
    {
        echo_takes(&[], &url);
    }
    server.stop();
    let server = Process::threadws_at("0", &[], &["--echo", "--every", "0"]);
    assert!(server.addr().ip().is_loopback());
    server.stop();
}
