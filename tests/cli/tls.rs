//! TLS from the outside: `--cert` and SIGHUP of the server, `--cacert` and the other options of `connect` and `bench`.
#![cfg(all(feature = "cli", feature = "tls"))]

use rustix::process::Signal;
use std::process::Command;
use support::{Folder, PATIENCE, Process, certificate, eventually, program, watchdog};

fn server(options: &[&str]) -> Process {
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    Process::threadws(&[&["--echo", "--every", "0", "--cert", &cert, "--key", &key], options].concat())
}

fn wss(server: &Process) -> String {
    format!("wss://localhost:{}/", server.addr().port())
}

/// Sends "hello" by `threadws connect`. Returns what it printed on stdout, or its error.
fn hello(url: &str, options: &[&str]) -> Result<String, String> {
    let ended = crate::connect::run(&[&["-q", "--once"], options, &[url]].concat(), "hello");
    match ended.code {
        Some(0) => Ok(String::from_utf8(ended.stdout).expect("UTF-8")),
        Some(1) => Err(ended.stderr),
        other => panic!("status {other:?}: {}", ended.stderr),
    }
}

#[test]
fn connect_trusts_a_ca_or_anything_but_nothing_by_itself() {
    let _dog = watchdog(60);
    let server = server(&[]);
    let ca = certificate("ca.pem");
    assert_eq!(server.stdout(), [format!("threadws listening on https://{0}/ (wss://{0}/)", server.addr())]);
    assert_eq!(hello(&wss(&server), &["--cacert", &ca]), Ok("hello\n".to_owned()));
    assert_eq!(hello(&wss(&server), &["-k"]), Ok("hello\n".to_owned()));
    assert_eq!(
        hello(&wss(&server), &["--cacert", &ca, "--server-name", "a.threadws.test"]),
        Ok("hello\n".to_owned())
    );
    let error = hello(&wss(&server), &[]).expect_err("an unknown issuer");
    assert!(error.contains("--cacert") && error.lines().count() == 1, "{error}");
    let error = hello(&format!("ws://{}/", server.addr()), &[]).expect_err("no TLS");
    assert!(error.contains("wss:// instead of ws://"), "{error}");
    server.stop();
}

#[test]
fn a_client_certificate_is_demanded_and_presented() {
    let _dog = watchdog(60);
    let ca = certificate("ca.pem");
    let server = server(&["--client-ca", &ca]);
    let (cert, key) = (certificate("client.pem"), certificate("client.key"));
    let trust = ["--cacert", ca.as_str()];
    let with = [&trust[..], &["--cert", &cert, "--key", &key]].concat();
    assert_eq!(hello(&wss(&server), &with), Ok("hello\n".to_owned()));
    let error = hello(&wss(&server), &trust).expect_err("no certificate");
    assert!(error.contains("demands a certificate"), "{error}");
    server.stop();
}

#[test]
fn one_file_can_hold_the_certificate_and_its_key() {
    let _dog = watchdog(60);
    let folder = Folder::new();
    let both = folder.path("both.pem");
    let parts = ["server.pem", "server.key"].map(|file| std::fs::read(certificate(file)).expect("a file"));
    std::fs::write(&both, parts.concat()).expect("written");
    let both = both.to_str().expect("UTF-8");
    let server = Process::threadws(&["--echo", "--every", "0", "--cert", both]);
    assert_eq!(hello(&wss(&server), &["--cacert", &certificate("ca.pem")]), Ok("hello\n".to_owned()));
    server.stop();
}

#[test]
fn sighup_renews_the_certificate_if_the_new_one_works() {
    let _dog = watchdog(60);
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).to_str().expect("UTF-8").to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let install = |name: &str| {
        std::fs::copy(certificate(&format!("{name}.pem")), &cert).expect("copied");
        std::fs::copy(certificate(&format!("{name}.key")), &key).expect("copied");
    };
    install("server");
    let server = Process::threadws(&["--echo", "--every", "0", "--cert", &cert, "--key", &key]);
    let ca = certificate("ca.pem");
    let other_name = ["--cacert", ca.as_str(), "--server-name", "other.example"];
    hello(&wss(&server), &other_name).expect_err("the first certificate is for another name");
    install("other_name");
    server.signal(Signal::HUP);
    server.wait_for_line(&["new clients get the certificate", "cert.pem"]);
    assert_eq!(hello(&wss(&server), &other_name), Ok("hello\n".to_owned()));
    std::fs::write(&cert, "broken").expect("written");
    server.signal(Signal::HUP);
    server.wait_for_line(&["[WARN]", "the old certificate stays", "cert.pem has no certificate"]);
    assert_eq!(hello(&wss(&server), &other_name), Ok("hello\n".to_owned()));
    server.stop();
}

#[test]
fn a_certificate_that_cannot_be_used_ends_the_server() {
    let _dog = watchdog(60);
    let rows = [
        (["--cert", "/no/such.pem"], "cannot read /no/such.pem"),
        (["--cert", &certificate("ca.pem")], "ca.pem has no private key"),
    ];
    for (options, expected) in rows {
        let output = Command::new(env!("CARGO_BIN_EXE_threadws"))
            .args(["--listen", "127.0.0.1:0"])
            .args(options)
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn bench_loads_a_server_over_tls() {
    let _dog = watchdog(60);
    let server = server(&["-q"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
    command.args(["bench", "-q", "--json", "--clients", "3", "--duration", "300ms"]);
    command.args(["--cacert", &certificate("ca.pem"), &wss(&server)]);
    let output = command.output().expect("the binary runs");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && report.contains("\"messages\""), "{report}");
    server.stop();
}

#[test]
fn curl_gets_the_page_over_tls_and_a_word_without() {
    let _dog = watchdog(60);
    let Some(curl) = program("curl") else { return };
    let server = server(&[]);
    let get = |url: String| {
        let output = Command::new(&curl)
            .args(["-s", "-i", "--noproxy", "*", "--cacert", &certificate("ca.pem")])
            .arg(url)
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let port = server.addr().port();
    let page = get(format!("https://localhost:{port}/"));
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("</html>\n"), "{page}");
    let answer = get(format!("http://localhost:{port}/"));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("this port speaks TLS"), "{answer}");
    server.stop();
}

#[test]
fn a_shutdown_during_handshakes_is_as_quick_as_without() {
    let _dog = watchdog(60);
    let mut server = server(&[]);
    let peers: Vec<_> = (0..20)
        .map(|_| {
            use std::io::Write as _;
            let mut peer = std::net::TcpStream::connect(server.addr()).expect("it listens");
            peer.write_all(&[22, 3, 1, 2, 0, 1]).expect("sent");
            peer
        })
        .collect();
    eventually("all have a thread", || server.usage().threads >= 20);
    server.signal(Signal::TERM);
    server.wait_for_success(PATIENCE);
    drop(peers);
}
