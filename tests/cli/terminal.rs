//! `threadws connect` on a terminal: the rows that its user sees.
#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::process::Command;
use std::sync::mpsc;
use support::{Frame, PATIENCE, Process, Pty, RawServer, RawServerPeer, watchdog};

const COLUMNS: u16 = 60;

fn command(args: &[&str]) -> Command {
    let mut command = crate::connect::client(args);
    command.env_remove("NO_COLOR").env("TERM", "xterm");
    command
}

/// A server whose frames the test sends one by one.
struct Host {
    steps: mpsc::Sender<Step>,
    server: RawServer,
}

type Step = Box<dyn FnOnce(&mut RawServerPeer) + Send>;

impl Host {
    fn new() -> Self {
        let (steps, next) = mpsc::channel::<Step>();
        let server = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.accept_handshake("");
            for step in next {
                step(&mut peer);
            }
        });
        Self { steps, server }
    }

    fn then(&self, step: impl FnOnce(&mut RawServerPeer) + Send + 'static) {
        self.steps.send(Box::new(step)).expect("the server waits");
    }

    fn sends(&self, frame: Frame) {
        self.then(|peer| peer.send(frame));
    }

    fn expects(&self, text: &str) {
        let text = text.to_owned();
        self.then(move |peer| peer.expect_text(&text));
    }

    /// Connects a terminal, and waits for the prompt.
    fn terminal(&self, args: &[&str]) -> Option<Pty> {
        let url = self.server.url();
        let terminal = Pty::spawn(&command(&[args, &[&url]].concat()), COLUMNS)?;
        terminal.wait_for_last(&[">"]);
        Some(terminal)
    }

    fn ends_with(self, code: u16) {
        self.then(move |peer| {
            peer.expect_close(code);
            peer.send(Frame::close(code, ""));
            peer.fin();
            peer.expect_gone();
        });
        drop(self.steps);
        self.server.join();
    }
}

#[test]
fn a_message_does_not_break_the_typed_line() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q"]) else { return };
    user.keys("hel");
    user.wait_for_last(&["> hel"]);
    host.sends(Frame::text("one"));
    host.sends(Frame::text("two\u{1b}[2J\n"));
    host.sends(Frame::binary([0, 255]));
    user.wait_for_last(&["< one", "< two\\u{1b}[2J\\n", "< 00ff", "> hel"]);
    assert_eq!(user.column(), 5);
    user.keys("lo\x1b[D\x1b[D");
    user.wait_for_last(&["> hello"]);
    host.sends(Frame::text("three"));
    user.wait_for_last(&["< three", "> hello"]);
    assert_eq!(user.column(), 5);
    user.keys("\r");
    user.wait_for_last(&["< three", "> hello", ">"]);
    host.expects("hello");
    // The line of the history can be edited, and so can the one that was being typed.
    user.keys("new\x1b[A!\r\x1b[A\x1b[A\x1b[Ber\r");
    user.wait_for_last(&["> hello!", "> hello!er", ">"]);
    host.expects("hello!");
    host.expects("hello!er");
    user.keys("\x04");
    host.ends_with(1000);
    assert_eq!(user.wait().code(), Some(0));
    assert!(user.echoes());
    assert_eq!(user.rows().last().map(String::as_str), Some(""));
}

#[test]
fn commands_ping_close_and_explain() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q", "-x", "first", "-x", "/second"]) else { return };
    host.expects("first");
    host.expects("/second");
    user.wait_for_last(&["> first", "> /second", ">"]);
    user.keys("//me waves\r");
    host.expects("/me waves");
    user.keys("/me\r");
    user.wait_for_last(&["> /me", "* no such command, see /help; //TEXT sends /TEXT", ">"]);
    user.keys("/help\r");
    user.wait_for_row("* /close CODE REASON");
    user.keys("/ping\r");
    host.then(|peer| {
        let ping = peer.frame();
        assert_eq!(ping.opcode, support::frame::PING);
        peer.send(Frame::pong(b"not ours".to_vec()));
        peer.send(Frame::pong(ping.payload));
    });
    user.wait_for_row("* pong after ");
    for (close, why) in
        [("/close x", "the code is a number"), ("/close 1005", "not sent: "), ("/close 99999", "a number")]
    {
        user.keys(&format!("{close}\r"));
        user.wait_for_row(why);
    }
    user.keys("/close 4000 good bye\r");
    host.then(|peer| {
        let close = peer.frame();
        assert_eq!(close.payload, b"\x0f\xa0good bye");
        peer.send(Frame::text("last words"));
        peer.send(Frame::close(4000, ""));
        peer.fin();
        peer.expect_gone();
    });
    assert_eq!(user.wait().code(), Some(0));
    user.wait_for_last(&["> /close 4000 good bye", "< last words", ""]);
    drop(host.steps);
    host.server.join();
}

#[test]
fn log_lines_do_not_break_the_typed_line() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-vv"]) else { return };
    user.keys("typed");
    user.wait_for_last(&["> typed"]);
    for number in 0..20 {
        host.sends(Frame::text(&format!("message {number}")));
    }
    user.wait_for_row("< message 19");
    user.wait_for_last(&["> typed"]);
    // Each line of the log is whole: only the first row of one begins with a year.
    for row in user.rows().iter().filter(|row| row.contains("[TRACE]") || row.contains("[DEBUG]")) {
        assert!(row.starts_with("20"), "{row}");
    }
    for number in 0..20 {
        assert!(user.rows().contains(&format!("< message {number}")), "{number}");
    }
    user.keys("\x15\x04");
    host.ends_with(1000);
    user.wait();
    user.wait_for_row("disconnected after");
}

#[test]
fn a_lost_connection_keeps_the_typed_line_and_the_terminal() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q"]) else { return };
    user.keys("half a sentence");
    user.wait_for_last(&["> half a sentence"]);
    host.then(|peer| {
        peer.send(Frame::text("the last message"));
        peer.fin();
        peer.expect_gone();
    });
    assert_eq!(user.wait().code(), Some(1));
    user.wait_for_row("threadws: ");
    let rows = user.rows();
    let at = rows.iter().position(|row| row == "> half a sentence").expect("the typed line");
    assert!(rows[at - 1] == "< the last message" && rows[at + 1].starts_with("threadws: "), "{rows:?}");
    assert!(user.echoes());
    drop(host.steps);
    host.server.join();
}

#[test]
fn ctrl_c_closes_and_gives_the_terminal_back() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q"]) else { return };
    user.keys("half");
    user.wait_for_last(&["> half"]);
    user.keys("\x03");
    host.then(|peer| drop(peer.expect_close(1000)));
    host.sends(Frame::text("not yet"));
    user.wait_for_last(&["> half", "< not yet", ""]);
    assert!(user.echoes());
    // The server does not answer, so the second one ends it at once.
    user.keys("\x03");
    assert_eq!(user.wait().code(), Some(130));
    drop(host.steps);
    host.server.join();
}

/// Returns how often each thread of a process has waited so far.
fn switches(pid: u32) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let status =
        threads.map(|thread| std::fs::read_to_string(thread.expect("a thread").path().join("status")));
    let status = status.collect::<Result<String, _>>().expect("its threads stay");
    status.lines().filter(|line| line.starts_with("voluntary_ctxt_switches")).collect()
}

#[test]
fn a_signal_ends_it_while_the_terminal_takes_no_output() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q"]) else { return };
    user.keys("\x13"); // Ctrl-S
    let (written, flood) = mpsc::channel();
    host.then(move |peer| {
        // More than the buffers on the way to the screen hold.
        peer.write(Frame::text(&"x".repeat(100)).unmasked().encode().repeat(20_000));
        written.send(()).expect("the test waits");
    });
    support::next(&flood, "the flood");
    let (pid, mut before) = (user.pid(), String::new());
    support::eventually("all its threads wait", || {
        let now = switches(pid);
        std::mem::replace(&mut before, now.clone()) == now
    });
    user.signal(Signal::INT);
    host.then(|peer| drop(peer.expect_close(1000)));
    support::eventually("it gives the terminal back", || user.echoes());
    host.then(RawServerPeer::expect_gone);
    assert_eq!(user.wait().code(), Some(1));
    drop(host.steps);
    host.server.join();
}

#[test]
fn a_long_line_scrolls_and_a_resize_draws_it_again() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q"]) else { return };
    let line = "한글 ".repeat(40) + "end";
    user.keys(&line);
    user.wait_for_row(" end");
    assert!(user.rows().last().is_some_and(|row| row.starts_with("> …") && row.ends_with(" end")));
    host.sends(Frame::text("news"));
    user.wait_for_row("< news");
    user.resize(20);
    user.signal(Signal::WINCH);
    support::eventually("a narrower row", || {
        user.rows().last().is_some_and(|row| row.ends_with("글 end") && row.chars().count() < 20)
    });
    user.keys("\x01");
    user.wait_for_last(&["< news", "> 한글 한글 한글 …"]);
    assert_eq!(user.column(), 2);
    user.keys("\r");
    host.expects(&line);
    // The sent line is shown whole.
    user.wait_for_last(&[">"]);
    assert!(user.rows().concat().replace(' ', "").contains(&line.replace(' ', "")));
    user.keys("\x04");
    host.ends_with(1000);
    user.wait();
}

#[test]
fn times_are_shown_on_request() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q", "--times"]) else { return };
    user.keys("hello\r");
    host.expects("hello");
    host.sends(Frame::text("reply"));
    let is_time = |row: &str| row.len() == 28 && row.starts_with("20") && row.ends_with("Z ");
    for text in ["> hello", "< reply"] {
        let row = user.wait_for_row(text);
        assert!(is_time(row.strip_suffix(text).expect("the end")), "{row}");
    }
    user.keys("\x04");
    host.ends_with(1000);
    user.wait();
}

#[test]
fn a_flood_of_messages_leaves_the_typed_line_visible() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q"]) else { return };
    user.keys("typed");
    user.wait_for_last(&["> typed"]);
    host.then(|peer| {
        let flood: Vec<u8> =
            (0..5000).flat_map(|number| Frame::text(&format!("{number}")).unmasked().encode()).collect();
        peer.write(flood);
    });
    user.wait_for_last(&["< 4998", "< 4999", "> typed"]);
    assert_eq!(user.rows().len(), 5001);
    user.keys("\x15\x04");
    host.ends_with(1000);
    user.wait();
}

#[test]
fn texts_to_execute_and_times_work_for_pipes_too() {
    let _dog = watchdog(30);
    let server = crate::connect::echo_server();
    let url = server.url();
    let mut piped = Process::with_pipe(command(&["-q", "-x", "/one", "--execute", "two", &url]));
    piped.write("three\n");
    piped.end_input();
    piped.wait_for_success(PATIENCE);
    assert_eq!(piped.stdout(), ["/one", "two", "three"]);
    // With `--once` it replaces stdin, which stays open here.
    let mut once = Process::with_pipe(command(&["-q", "--once", "--times", "-x", "one", &url]));
    once.wait_for_success(PATIENCE);
    let line = once.stdout().concat();
    let shape = line.replace(|c: char| c.is_ascii_digit(), "9");
    assert_eq!(shape, "9999-99-99T99:99:99.999999Z one", "{line}");
    server.stop();
}

#[test]
fn ctrl_z_stops_it_and_fg_goes_on() {
    let _dog = watchdog(30);
    let host = Host::new();
    let Some(mut user) = host.terminal(&["-q"]) else { return };
    user.keys("half");
    user.wait_for_last(&["> half"]);
    user.keys("\x1a");
    let status = format!("/proc/{}/status", user.pid());
    support::eventually("it stops", || {
        std::fs::read_to_string(&status).expect("it is there").contains("State:\tT (stopped)")
    });
    user.wait_for_last(&[""]);
    assert!(user.echoes());
    user.signal(Signal::CONT);
    user.wait_for_last(&["> half"]);
    assert!(!user.echoes());
    user.keys(" done\r");
    host.expects("half done");
    user.keys("\x04");
    host.ends_with(1000);
    user.wait();
}

#[test]
fn a_dumb_terminal_and_a_pipe_have_no_prompt() {
    let _dog = watchdog(30);
    let server = crate::connect::echo_server();
    let url = server.url();
    let mut dumb = command(&["-q", &url]);
    dumb.env("TERM", "dumb");
    let Some(mut user) = Pty::spawn(&dumb, COLUMNS) else { return };
    user.keys("hello\n");
    user.wait_for_last(&["hello", "hello", ""]);
    // As for `cat`: on a line that is not empty, the second one ends the input.
    user.keys("half\x04");
    user.wait_for_last(&["hello", "hello", "half"]);
    user.keys("\x04");
    assert_eq!(user.wait().code(), Some(0));
    assert_eq!(user.rows().iter().filter(|row| row.ends_with("half")).count(), 1, "{:?}", user.rows());
    user.wait_for_row("halfhalf");
    for args in [&["-q", "--once"][..], &["-q", "--expect", "hello"], &["-q", "--binary", "-x", "hello"]] {
        let mut user = Pty::spawn(&command(&[args, &[&url]].concat()), COLUMNS).expect("the same");
        user.keys("hello\n\x04\x04");
        assert_eq!(user.wait().code(), Some(0), "{args:?}");
        assert!(user.rows().iter().all(|row| !row.contains(['<', '>'])), "{args:?}");
    }
    server.stop();
}
