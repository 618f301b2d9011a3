//! The binary as a service: the sockets that a service manager passes to it, and its notifications. The test itself is
//! the manager.

#![cfg(feature = "systemd")]

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Folder, PATIENCE, Process, RawPeer, eventually, watchdog};

/// The same as `systemd.service(5)` does before it starts a program: the socket becomes descriptor 3, and the variables
/// name the process that they are for.
const LAUNCHER: &str = r#"exec 3<&0 </dev/null; LISTEN_PID=${PID_OF_OTHERS-$$} exec "$@""#;

/// Returns the command of `threadws` with a socket that was passed to it.
fn activated(handed: impl Into<OwnedFd>, options: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", LAUNCHER, "sh", env!("CARGO_BIN_EXE_threadws")]).args(options);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "threadws.socket").stdin(handed.into());
    command
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    (listener, addr)
}

fn clone(listener: &TcpListener) -> TcpListener {
    listener.try_clone().expect("a descriptor")
}

/// A service manager that receives notifications of its service.
struct Manager(UnixDatagram);

impl Manager {
    /// Returns the manager and the value of `NOTIFY_SOCKET` for it.
    #[track_caller]
    fn new() -> (Self, String) {
        let name = format!("threadws-test-{}-{}", std::process::id(), support::time::test_name());
        let address = UnixAddr::from_abstract_name(&name).expect("a short name");
        (Self::at(&address), format!("@{name}"))
    }

    #[track_caller]
    fn at(address: &UnixAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).expect("a name of our own");
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        Self(socket)
    }

    /// Returns its next notification.
    #[track_caller]
    fn notification(&self) -> BTreeMap<String, String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a notification");
        let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
        let pairs = text.lines().map(|line| line.split_once('=').expect("an assignment"));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Returns the next notification that has this variable.
    #[track_caller]
    fn notification_with(&self, name: &str) -> BTreeMap<String, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let notification = self.notification();
            if notification.contains_key(name) {
                return notification;
            }
        }
        panic!("never notified of {name}")
    }
}

#[test]
fn the_managers_socket_is_served_with_or_without_the_option() {
    let _dog = watchdog(30);
    for options in [&["--echo"][..], &["--echo", "--listen", "systemd"]] {
        let (listener, addr) = listener();
        let server = Process::spawn_with_stdin(activated(listener, options)).listening();
        assert_eq!(server.addr(), addr, "{options:?}");
        let mut peer = RawPeer::open(addr);
        peer.send_text("by activation");
        peer.expect_text("by activation");
        peer.close(1000);
        server.stop();
    }
}

#[test]
fn the_managers_socket_may_be_a_unix_socket() {
    let _dog = watchdog(30);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    for options in [&["--echo", "--every", "0"][..], &["--echo", "--every", "0", "--listen", "systemd"]] {
        let listener = UnixListener::bind(&socket).expect("the path is free");
        let mut server = Process::spawn_with_stdin(activated(listener, options));
        server.wait_for_stdout(&format!("threadws listening on unix:{}", socket.display()));
        let mut connection =
            threadws::connect(format!("ws+unix:{}:/", socket.display())).expect("it listens");
        server.wait_for_line(&["connected from unix socket"]);
        connection.send("by activation").expect("sent");
        assert_eq!(connection.recv().expect("open"), Some("by activation".into()));
        connection.close(1000, "").expect("clean");
        server.signal(Signal::TERM);
        server.wait_for_success(PATIENCE);
        std::fs::remove_file(&socket).expect("the file is the manager's");
    }
}

#[test]
fn a_client_that_connects_during_a_restart_is_served() {
    let _dog = watchdog(30);
    let (listener, addr) = listener();
    let mut first = Process::spawn_with_stdin(activated(clone(&listener), &["--echo"])).listening();
    let mut peer = RawPeer::open(addr);
    first.signal(Signal::TERM);
    peer.expect_close(1001);
    peer.send(&support::Frame::close(1001, ""));
    peer.expect_eof();
    first.wait_for_success(PATIENCE);
    // No process accepts now, and no client is refused, because the queue is the manager's.
    let mut waiting = RawPeer::connect(addr);
    waiting.ask("/", &[]);
    let second = Process::spawn_with_stdin(activated(listener, &["--echo"])).listening();
    assert_eq!(waiting.answer().status, 101);
    waiting.send_text("still here");
    waiting.expect_text("still here");
    waiting.close(1000);
    second.stop();
}

#[test]
fn a_socket_for_another_process_is_not_used() {
    let _dog = watchdog(30);
    let (listener, addr) = listener();
    // A missing process id does not mean this process.
    for others in ["1", ""] {
        let mut command = activated(clone(&listener), &["--listen", "127.0.0.1:0"]);
        command.env("PID_OF_OTHERS", others);
        let server = Process::spawn_with_stdin(command).listening();
        assert_ne!(server.addr(), addr);
        RawPeer::open(server.addr()).close(1000);
        server.stop();
    }
}

#[test]
fn an_unusable_socket_is_refused_with_the_reason() {
    let _dog = watchdog(60);
    let (listening, addr) = listener();
    let connected = TcpStream::connect(addr).expect("its queue has room");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let file = std::fs::File::open("/dev/null").expect("a device");
    let cases: [(OwnedFd, &[&str], &str); 4] = [
        (connected.into(), &[], "Accept=yes"),
        (datagrams.into(), &[], "cannot use the socket"),
        (file.into(), &[], "cannot use the socket"),
        (clone(&listening).into(), &["--listen", "127.0.0.1:0"], "--listen 127.0.0.1:0"),
    ];
    for (handed, options, reason) in cases {
        let mut process = Process::spawn_with_stdin(activated(handed, options));
        assert_eq!(process.wait(PATIENCE).code(), Some(1), "{reason}");
        process.wait_for_line(&["threadws: ", reason]);
    }
    for (count, reason) in [("2", "2 sockets"), ("4000000000", "4000000000 sockets")] {
        let mut command = activated(clone(&listening), &[]);
        command.env("LISTEN_FDS", count);
        let mut process = Process::spawn_with_stdin(command);
        assert_eq!(process.wait(PATIENCE).code(), Some(1), "{reason}");
        process.wait_for_line(&["threadws: ", reason]);
    }
    let mut alone = Command::new(env!("CARGO_BIN_EXE_threadws"));
    alone.args(["--listen", "systemd"]);
    let mut process = Process::spawn(alone);
    assert_eq!(process.wait(PATIENCE).code(), Some(1));
    process.wait_for_line(&["threadws: the service manager passed no socket"]);
}

#[test]
fn the_manager_is_notified_of_start_status_and_stop() {
    let _dog = watchdog(60);
    let (manager, name) = Manager::new();
    let (listener, addr) = listener();
    let mut command = activated(listener, &["--echo", "--every", "0"]);
    // Notifications come at half of the watchdog's interval, also those of the status.
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "200000");
    let mut server = Process::spawn_with_stdin(command);
    let ready = manager.notification();
    assert_eq!(ready.get("READY").map(String::as_str), Some("1"), "{ready:?}");
    assert!(ready["STATUS"].starts_with("0 clients, "), "{ready:?}");
    let mut peer = RawPeer::open(addr);
    let status = loop {
        let notification = manager.notification_with("WATCHDOG");
        assert_eq!(notification["WATCHDOG"], "1", "{notification:?}");
        if !notification["STATUS"].starts_with("0 clients, ") {
            break notification["STATUS"].clone();
        }
    };
    assert!(status.starts_with("1 clients, ") && status.contains("capacity "), "{status}");
    server.signal(Signal::TERM);
    let stopping = manager.notification_with("STOPPING");
    assert_eq!(stopping["STOPPING"], "1");
    assert!(!stopping.contains_key("WATCHDOG"), "{stopping:?}");
    peer.expect_close(1001);
    peer.send(&support::Frame::close(1001, ""));
    peer.expect_eof();
    server.wait_for_success(PATIENCE);
}

#[test]
fn the_watchdog_is_notified_unless_the_process_is_stopped() {
    let _dog = watchdog(60);
    let (manager, name) = Manager::new();
    let (listener, _) = listener();
    let mut command = activated(listener, &[]);
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "1000000");
    let server = Process::spawn_with_stdin(command);
    manager.notification_with("READY");
    let began = Instant::now();
    for _ in 0..4 {
        manager.notification_with("WATCHDOG");
    }
    // One each half second, and not a stream of them.
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    server.signal(Signal::STOP);
    manager.0.set_read_timeout(Some(Duration::from_millis(1200))).expect("not zero");
    // One notification may have been on its way.
    let silent = (0..2).any(|_| match manager.0.recv(&mut [0; 4096]) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    });
    server.signal(Signal::CONT);
    assert!(silent, "a process that is stopped goes on telling that it lives");
    manager.0.set_read_timeout(Some(PATIENCE)).expect("not zero");
    manager.notification_with("WATCHDOG");
    server.stop();
}

#[test]
fn the_watchdog_of_another_process_is_not_notified() {
    let _dog = watchdog(60);
    let (manager, name) = Manager::new();
    let (listener, _) = listener();
    let mut command = activated(listener, &[]);
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "200000").env("WATCHDOG_PID", "1");
    let server = Process::spawn_with_stdin(command);
    manager.notification_with("READY");
    // Ten times as long as this test's watchdog waits, and a tenth of the interval of the status.
    manager.0.set_read_timeout(Some(Duration::from_secs(1))).expect("not zero");
    let silence = manager.0.recv(&mut [0; 4096]).expect_err("nothing comes");
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    server.stop();
}

#[test]
fn the_notify_socket_may_be_a_path_gone_or_full() {
    let _dog = watchdog(60);
    // The path of a socket holds 108 bytes. The target folder's path may be longer.
    let folder = std::env::temp_dir().join(format!("threadws-systemd-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("notify");
    let manager = Manager::at(&UnixAddr::from_pathname(&path).expect("a short path"));
    let start = |path: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
        command.args(["--listen", "127.0.0.1:0"]);
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "4000");
        Process::spawn(command).listening()
    };
    let deaf = start(&path);
    manager.notification_with("READY");
    // It reads no more, so its queue is full and stays full.
    let filler = UnixDatagram::unbound().expect("a descriptor");
    filler.set_nonblocking(true).expect("O_NONBLOCK");
    eventually("a full queue", || filler.send_to(b"", &path).is_err());
    RawPeer::open(deaf.addr()).close(1000);
    deaf.stop();
    while manager.0.set_nonblocking(true).is_ok() && manager.0.recv(&mut [0; 4096]).is_ok() {}
    manager.0.set_nonblocking(false).expect("O_NONBLOCK");
    let forsaken = start(&path);
    manager.notification_with("READY");
    drop(manager);
    std::fs::remove_file(&path).expect("it was there");
    RawPeer::open(forsaken.addr()).close(1000);
    forsaken.stop();
    let server = start(&folder.join("missing"));
    server.wait_for_line(&["WARN", "cannot reach the service manager"]);
    RawPeer::open(server.addr()).close(1000);
    server.stop();
    std::fs::remove_dir_all(&folder).expect("it was there");
}
