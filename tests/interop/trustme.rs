//! Python's `websockets` with certificates that `trustme` makes, and which both ends demand of each other.
#![cfg(all(feature = "cli", feature = "tls"))]

use support::{Folder, PATIENCE, Process, programs, watchdog};
use threadws::Connect;
use threadws::tls::ClientTls;

/// The files of the CA, of a server and of a client.
fn certificates(folder: &Folder) -> Option<[String; 3]> {
    let path = folder.path("").to_string_lossy().into_owned();
    Process::spawn(programs::python("certificates.py", &[&path])?).wait_for_success(PATIENCE * 2);
    Some(["ca.pem", "server.pem", "client.pem"].map(|name| folder.path(name).to_string_lossy().into_owned()))
}

#[test]
#[ignore = "installs packages from the internet"]
fn a_client_of_websockets_has_a_certificate_of_trustme() {
    let _dog = watchdog(120);
    let folder = Folder::new();
    let Some([ca, certificate, clients]) = certificates(&folder) else { return };
    let options = ["--echo", "--every", "0", "--cert", &certificate, "--client-ca", &ca];
    let server = Process::threadws(&options);
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("wss://{host}:{}/", server.addr().port());
        let Some(mut command) = programs::python("client.py", &["talk", &url]) else { return };
        command.env("THREADWS_CA", &ca).env("THREADWS_CERT", &clients);
        Process::spawn(command).wait_for_success(PATIENCE * 2);
        server.wait_for_line(&["disconnected", "received 4001 (private use) \"done\""]);
    }
    server.stop();
}

#[test]
#[ignore = "installs packages from the internet"]
fn a_server_of_websockets_has_a_certificate_of_trustme() {
    let _dog = watchdog(120);
    let folder = Folder::new();
    let Some([ca, certificate, clients]) = certificates(&folder) else { return };
    let Some(mut command) = programs::python("server.py", &[]) else { return };
    command.env("THREADWS_CERT", &certificate).env("THREADWS_KEY", &certificate).env("THREADWS_CA", &ca);
    let server = Process::spawn(command);
    let url = format!("wss://localhost:{}/", server.wait_for_stdout("").trim());
    let tls = || ClientTls::new().ca_file(&ca);
    let mut connection = Connect::new(&url)
        .tls(tls().certificate_files(&clients, &clients))
        .connect()
        .expect("both have certificates");
    for size in [0, 16_385, 1 << 20] {
        connection.send(vec![7; size]).expect("sent");
        assert!(connection.recv().expect("open") == Some(vec![7; size].into()), "{size} bytes");
    }
    connection.close(4001, "done").expect("a clean end");
    server.wait_for_stdout("closed 4001");
    // With TLS 1.3 it finds out after the handshake.
    let error = Connect::new(&url).tls(tls()).connect().expect_err("no certificate");
    assert!(error.to_string().contains("demands a certificate"), "{error}");
}
