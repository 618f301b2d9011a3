//! Logging can neither stall nor end the server, whatever stderr and stdout are: a file at its size limit, a pipe or a
//! terminal that is not read, or closed.

#![cfg(feature = "cli")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use support::process::threadws_command;
use support::{PATIENCE, Process, RawPeer, eventually, program, watchdog};

/// Each message is a line of the log.
const OPTIONS: [&str; 3] = ["--echo", "--every", "0"];

/// Writes more than 150 bytes to the log for each message.
#[track_caller]
fn talk(peer: &mut RawPeer, messages: usize) {
    let text = "x".repeat(150);
    for _ in 0..messages {
        peer.send_text(&text);
        peer.expect_text(&text);
    }
}

/// Sends SIGTERM, and expects exit code 0 without a wait for a reader of the log.
#[track_caller]
fn expect_to_end_at_once(server: Process) {
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < PATIENCE / 2, "the end took {:?}", start.elapsed());
}

/// Starts the server by a line of sh, in which `"$@"` is the server and descriptor 0 is `stdin`.
#[track_caller]
fn started_by(script: &str, stdin: OwnedFd) -> Process {
    let mut command = threadws_command("127.0.0.1:0", &["sh", "-c", script, "sh"], &OPTIONS);
    command.stdin(stdin).env_remove("THREADWS_LOG").env_remove("CLICOLOR_FORCE");
    Process::spawn_with_stdin(command)
}

/// A file that is removed when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

#[test]
fn a_log_at_its_size_limit_ends_nothing_and_resumes() {
    const LIMIT: usize = 16 << 10;
    let _dog = watchdog(60);
    let Some(prlimit) = program("prlimit") else { return };
    let log = Scratch(std::env::temp_dir().join(format!("threadws-test-{}-log", std::process::id())));
    let script = format!("exec \"$@\" 2>>{}", log.0.display());
    let limit = format!("--fsize={LIMIT}");
    let wrapper = [&prlimit.to_string_lossy(), limit.as_str(), "sh", "-c", &script, "sh"];
    let server = Process::threadws_under(&wrapper, &OPTIONS);
    let mut peer = RawPeer::open(server.addr());
    talk(&mut peer, 500);
    let size = || fs::metadata(&log.0).expect("the log").len();
    eventually("the file is as large as it may be", || size() == LIMIT as u64);
    let (mut goes_on, mut counted) = (false, false);
    eventually("the log goes on, and says how much was lost", || {
        peer.send_text("room again");
        peer.expect_text("room again");
        let logged = fs::read_to_string(&log.0).expect("the log");
        goes_on |= logged.contains("room again");
        counted |= logged.contains(" lines dropped");
        // The lines that still waited for the disk fill it again.
        if logged.len() == LIMIT {
            fs::File::options()
                .write(true)
                .open(&log.0)
                .and_then(|file| file.set_len(0))
                .expect("room is made");
        }
        goes_on && counted
    });
    peer.close(1000);
    server.stop();
}

/// Returns a socket that takes no further byte, and its other end.
fn full() -> (UnixStream, UnixStream) {
    let (mut writer, reader) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("O_NONBLOCK");
    while writer.write(&[b'\n'; 1024]).is_ok() {}
    (writer, reader)
}

/// stderr is full and has O_NONBLOCK, so a write fails instead of waiting.
#[test]
fn a_full_nonblocking_stderr_stalls_nothing_and_drops_are_counted() {
    let _dog = watchdog(60);
    // More lines than the queue holds, and nearly as many.
    const MESSAGES: usize = 1500;
    const QUEUED: usize = 1000;
    let (writer, reader) = full();
    // O_NONBLOCK is shared by all descriptors of the same open file description.
    let server = started_by("exec \"$@\" 2>&0 </dev/null", writer.into()).listening();
    let mut peer = RawPeer::open(server.addr());
    talk(&mut peer, MESSAGES);
    reader.set_read_timeout(Some(PATIENCE)).expect("not zero");
    // Its reader comes back.
    let reading = std::thread::spawn(move || {
        let (mut logged, mut dropped) = (0, 0);
        for line in BufReader::new(reader).lines() {
            let line = line.expect("a line in time");
            if line.contains("client 1 sent text: here again") {
                break;
            }
            logged += usize::from(line.contains("client 1 sent text: ") && line.ends_with("xxx"));
            let words: Vec<_> = line.split(' ').collect();
            if let [.., number, "lines", "dropped"] = words[..] {
                dropped += number.parse::<usize>().expect("a number");
            }
        }
        (logged, dropped)
    });
    let mut again = 0;
    eventually("the log goes on", || {
        again += 1;
        peer.send_text("here again");
        peer.expect_text("here again");
        reading.is_finished()
    });
    let (logged, dropped) = reading.join().expect("the reader");
    // The socket loses no line of the queue, and those that did not fit are counted.
    assert!(logged >= QUEUED && dropped > 0, "{logged} lines, {dropped} dropped");
    let all = MESSAGES..MESSAGES + again;
    assert!(all.contains(&(logged + dropped)), "{logged} + {dropped} of {all:?}");
    peer.close(1000);
    expect_to_end_at_once(server);
}

/// Returns a program in Python that runs the server with a terminal as its stderr. `setup` is done with the ends of the
/// terminal, `reader` in a child process. The terminal is closed when the reader ends.
fn in_a_terminal(setup: &str, reader: &str) -> String {
    format!(
        r#"
import os, sys
master, slave = os.openpty()
{setup}
if os.fork() == 0:
    os.close(slave)
    os.close(2)
{reader}
    os._exit(0)
os.dup2(slave, 2)
os.close(slave)
os.close(master)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
os.execv(sys.argv[1], sys.argv[1:])
"#
    )
}

/// Reads the first words, and no more. Ends with the input of the process.
const FIRST_WORDS: &str = r#"
    os.write(1, b"the terminal shows " + repr(os.read(master, 60)).encode() + b"\n")
    os.close(1)
    os.read(0, 1)
"#;

/// Starts a server whose log is in colours, on a terminal that is not read.
#[track_caller]
fn on_a_terminal() -> Option<Process> {
    let python = program("python3")?;
    let mut command = Command::new(python);
    let terminal = in_a_terminal("", FIRST_WORDS);
    command.args(["-c", &terminal, env!("CARGO_BIN_EXE_threadws"), "--listen", "127.0.0.1:0"]).args(OPTIONS);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    let server = Process::with_pipe(command).listening();
    server.wait_for_stdout(r"the terminal shows b'20");
    let shown = server.wait_for_stdout("the terminal shows ");
    assert!(shown.contains(r"\x1b["), "no colours: {shown}");
    Some(server)
}

#[test]
fn a_terminal_that_is_not_read_stalls_nothing() {
    let _dog = watchdog(60);
    let Some(server) = on_a_terminal() else { return };
    let mut peer = RawPeer::open(server.addr());
    talk(&mut peer, 3000);
    peer.close(1000);
    expect_to_end_at_once(server);
}

#[test]
fn a_terminal_that_hangs_up_ends_nothing() {
    let _dog = watchdog(60);
    let Some(mut server) = on_a_terminal() else { return };
    let mut peer = RawPeer::open(server.addr());
    talk(&mut peer, 10);
    server.end_input();
    let terminal = PathBuf::from(format!("/proc/{}/fd/2", server.pid()));
    eventually("it has hung up", || fs::File::options().write(true).open(&terminal).is_err());
    talk(&mut peer, 3000);
    peer.close(1000);
    expect_to_end_at_once(server);
}

/// Copies the terminal to stdout, after the end of the process's input.
const LATE_COPY: &str = r#"
    os.read(0, 1)
    try:
        while True:
            os.write(1, os.read(master, 4096))
    except OSError:
        os._exit(0)
"#;

/// Another process that shares the terminal can set this mode.
#[test]
fn a_terminal_in_nonblocking_mode_loses_no_line() {
    let _dog = watchdog(60);
    const MESSAGES: usize = 700; // fewer than the queue holds, and more than the terminal
    let Some(python) = program("python3") else { return };
    let mut command = Command::new(python);
    let terminal = in_a_terminal("os.set_blocking(slave, False)", LATE_COPY);
    command.args(["-c", &terminal, env!("CARGO_BIN_EXE_threadws"), "--listen", "127.0.0.1:0"]);
    command.args(OPTIONS).env("TERM", "xterm").env_remove("NO_COLOR");
    let mut server = Process::with_pipe(command).listening();
    let mut peer = RawPeer::open(server.addr());
    for number in 0..MESSAGES {
        let text = format!("{}{number:04}.", "x".repeat(150));
        peer.send_text(&text);
        peer.expect_text(&text);
    }
    server.end_input();
    for number in 0..MESSAGES {
        let line = server.wait_for_stdout(&format!("x{number:04}."));
        assert!(line.contains("[INFO] \u{1b}[0mclient 1 sent text: x"), "{line}");
    }
    peer.close(1000);
    expect_to_end_at_once(server);
}

/// Checks that the server works although only the log has its address, and that it ends when it is stopped.
#[track_caller]
fn expect_to_serve(server: Process) {
    let line = server.wait_for_line(&["listening on "]);
    let (_, address) = line.split_once("listening on ").expect("just found");
    let (address, _) = address.split_once(',').expect("the capacity follows");
    let mut peer = RawPeer::open(address.parse().expect("an address"));
    talk(&mut peer, 10);
    peer.close(1000);
    expect_to_end_at_once(server);
}

#[test]
fn a_failing_stdout_does_not_end_the_server() {
    let _dog = watchdog(60);
    let nothing = || OwnedFd::from(fs::File::open("/dev/null").expect("/dev/null"));
    expect_to_serve(started_by("exec \"$@\" >&-", nothing()));
    let full = started_by("exec \"$@\" >/dev/full", nothing());
    full.wait_for_line(&["[WARN]", "cannot write the address to stdout: "]);
    expect_to_serve(full);
    let (reader, writer) = UnixStream::pair().expect("a pair");
    drop(reader);
    expect_to_serve(started_by("exec \"$@\" >&0 </dev/null", writer.into()));
}

#[test]
fn a_full_stdout_stalls_nothing() {
    let _dog = watchdog(60);
    let (writer, _reader) = full();
    writer.set_nonblocking(false).expect("no O_NONBLOCK");
    expect_to_serve(started_by("exec \"$@\" >&0 </dev/null", writer.into()));
}
