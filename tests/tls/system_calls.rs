//! The system calls of the command over TLS, as strace shows them.
#![cfg(feature = "cli")]

use crate::serve;
use crate::tls_peer::TlsPeer;
use std::fs;
use std::process::Command;
use support::{Folder, Frame, Process, certificate, eventually, program, watchdog};
use threadws::tls::rustls::version::{TLS12, TLS13};

/// strace, as a wrapper of a program. It writes what each system call has sent, and 0 for FIN.
struct Trace {
    strace: String,
    file: String,
    _folder: Folder,
}

impl Trace {
    fn new() -> Option<Self> {
        let strace = program("strace")?.to_string_lossy().into_owned();
        let folder = Folder::new();
        let file = folder.path("trace").to_string_lossy().into_owned();
        Some(Self { strace, file, _folder: folder })
    }

    fn wrapper(&self) -> [&str; 8] {
        // -D makes the program the child of this process, and not strace.
        [&self.strace, "-D", "-f", "-qq", "-e", "trace=sendto,sendmsg,writev,shutdown", "-o", &self.file]
    }

    fn sent(&self) -> Vec<usize> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().filter_map(|line| line.rsplit_once("= ")?.1.parse().ok()).collect()
    }
}

/// A close_notify, sealed.
const NOTIFY: usize = 2 + 22;

#[test]
fn a_server_seals_its_close_and_close_notify_together() {
    let _dog = watchdog(60);
    let Some(trace) = Trace::new() else { return };
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    let options = ["--echo", "--every", "0", "--log", "warn", "--cert", &cert, "--key", &key];
    let server = Process::threadws_under(&trace.wrapper(), &options);
    // A record of TLS 1.2 is 7 bytes longer.
    for (version, more) in [(&TLS13, 0), (&TLS12, 7)] {
        let mut peer = TlsPeer::open_with(server.addr(), version);
        peer.send_frame(Frame::close(1000, ""));
        assert_eq!(peer.next_frame().close_content().expect("a code").0, 1000);
        drop(peer);
        let close = 4 + 22 + more;
        // In one system call, and FIN. strace may be late.
        let both = [close + NOTIFY + more, 0];
        eventually("both", || trace.sent().windows(2).any(|pair| pair == both));
        assert!(!trace.sent().contains(&close), "{version:?}: {:?}", trace.sent());
    }
    server.stop();
}

#[test]
fn a_client_seals_its_close_and_close_notify_together() {
    let _dog = watchdog(60);
    let Some(trace) = Trace::new() else { return };
    let server = serve(|client| Ok(client.close(1000, "")?));
    let [strace, options @ ..] = trace.wrapper();
    let mut command = Command::new(strace);
    command.args(options).arg(env!("CARGO_BIN_EXE_threadws"));
    let url = format!("wss://localhost:{}/", server.addr().port());
    command.args(["connect", &url, "--cacert", &certificate("ca.pem")]);
    Process::spawn(command).wait_for_success(support::PATIENCE);
    // Its frame is masked.
    let close = 8 + 22;
    eventually("both", || trace.sent().contains(&(close + NOTIFY)));
    assert!(!trace.sent().contains(&close) && !trace.sent().contains(&NOTIFY), "{:?}", trace.sent());
}
