//! The binary on a Unix socket: the server and the client.

#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::process::Command;
use support::{Folder, PATIENCE, Process, watchdog};

fn threadws(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
    command.args(args);
    command
}

#[test]
fn a_unix_socket_is_served_announced_and_removed() {
    let _dog = watchdog(30);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    let listen = format!("unix:{}", socket.display());
    let mut server =
        Process::spawn(threadws(&["--listen", &listen, "--echo", "--every", "0", "--trust-proxy", "unix"]));
    let url = format!("ws+unix:{}:/", socket.display());
    server.wait_for_stdout(&format!("threadws listening on {listen} ({url})"));
    server.wait_for_line(&["listening on ", &listen]);
    let mut client =
        Process::with_pipe(threadws(&["connect", "--header", "X-Forwarded-For: 203.0.113.7", &url]));
    client.wait_for_line(&["connected to unix socket"]);
    server.wait_for_line(&["connected from 203.0.113.7 via unix socket"]);
    client.write("hello\n");
    client.wait_for_stdout("hello");
    client.end_input();
    client.wait_for_success(PATIENCE);

    let mut second = Process::spawn(threadws(&["--listen", &listen]));
    assert_eq!(second.wait(PATIENCE).code(), Some(1));
    second.wait_for_line(&["threadws: cannot listen on ", &listen, "in use"]);
    server.signal(Signal::TERM);
    server.wait_for_success(PATIENCE);
    assert!(!socket.exists(), "the file is still there");
    let mut late = Process::spawn(threadws(&["connect", &url]));
    assert_eq!(late.wait(PATIENCE).code(), Some(1));
    late.wait_for_line(&["threadws: cannot connect", &format!("unix:{}", socket.display())]);
}

#[test]
fn a_killed_server_can_be_started_again_on_its_path() {
    let _dog = watchdog(30);
    let folder = Folder::new();
    let listen = format!("unix:{}", folder.path("ws.sock").display());
    let mut first = Process::spawn(threadws(&["--listen", &listen]));
    first.wait_for_stdout("threadws listening on ");
    first.signal(Signal::KILL);
    first.wait(PATIENCE);
    let mut second = Process::spawn(threadws(&["--listen", &listen]));
    second.wait_for_stdout("threadws listening on ");
    second.signal(Signal::TERM);
    second.wait_for_success(PATIENCE);
}
