//! The command `openssl` as a client and as a server: TLS 1.2 and 1.3, key updates, client certificates, ALPN.
#![cfg(feature = "cli")]

use crate::{client_tls, server_tls};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use support::{Process, TestServer, certificate, ms, program, upgrade_request, watchdog};
use threadws::{Connect, Error};

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// Starts a client, which prints the facts of the handshake and then everything that it receives.
fn client(openssl: &Path, server: &TestServer, options: &[&str]) -> Process {
    let mut command = Command::new(openssl);
    command.args(["s_client", "-connect", &server.addr().to_string(), "-servername", "localhost"]);
    command.args(["-CAfile", &certificate("ca.pem"), "-verify_return_error"]).args(options);
    Process::with_pipe(command)
}

#[test]
fn a_client_of_each_version_gets_ticks_and_sends() {
    let _dog = watchdog(60);
    let Some(openssl) = program("openssl") else { return };
    let (report, reports) = std::sync::mpsc::channel();
    let server = TestServer::with(
        |server| server.tls(server_tls("server")),
        move |client| {
            client.every(ms(20), "tick\n");
            if let Some(message) = client.recv()? {
                report.send(message.to_string())?;
            }
            Ok(())
        },
    );
    for version in VERSIONS {
        let mut peer = client(&openssl, &server, &[version, "-alpn", "h2,http/1.1"]);
        peer.wait_for_stdout("ALPN protocol: http/1.1");
        peer.wait_for_stdout(if version == "-tls1_2" { "TLSv1.2" } else { "TLSv1.3" });
        peer.write(upgrade_request(server.addr(), "/", &[]));
        peer.wait_for_stdout("101 Switching Protocols");
        peer.wait_for_stdout("tick");
        // "hi", masked with zeros.
        peer.write(b"\x81\x82\0\0\0\0hi");
        assert_eq!(support::next(&reports, "the message"), "hi");
    }
}

#[test]
fn key_updates_of_the_client_interrupt_no_ticks() {
    let _dog = watchdog(60);
    let Some(openssl) = program("openssl") else { return };
    let server = TestServer::with(
        |server| server.tls(server_tls("server")),
        |client| {
            let mut number = 0;
            client.every_with(ms(20), move || {
                number += 1;
                Some(format!("tick {number}.\n"))
            });
            Ok(client.ignore()?)
        },
    );
    let mut peer = client(&openssl, &server, &["-tls1_3"]);
    peer.wait_for_stdout("Verify return code: 0");
    peer.write(upgrade_request(server.addr(), "/", &[]));
    peer.wait_for_stdout("tick 1.");
    let mut seen = 1;
    // `K` asks the server for a key update, too.
    for command in ["K\n", "k\n", "K\n", "K\n", "k\n"] {
        peer.write(command);
        peer.wait_for_line(&["KEYUPDATE"]);
        seen += 5;
        peer.wait_for_stdout(&format!("tick {seen}."));
    }
    assert_eq!(server.stats().open, 1);
}

#[test]
fn only_h2_and_old_versions_are_refused_by_an_alert() {
    let _dog = watchdog(60);
    let Some(openssl) = program("openssl") else { return };
    let server = crate::serve(support::echo);
    let peer = client(&openssl, &server, &["-alpn", "h2"]);
    peer.wait_for_line(&["alert", "no application protocol"]);
    let peer = client(&openssl, &server, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    peer.wait_for_line(&["alert", "SSL alert number"]);
}

#[test]
fn a_server_of_each_version_sees_our_certificate() {
    let _dog = watchdog(60);
    let Some(openssl) = program("openssl") else { return };
    for version in VERSIONS {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let mut command = Command::new(&openssl);
        command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-www", version]);
        command.args(["-alpn", "http/1.1", "-Verify", "1", "-verify_return_error"]);
        command.args(["-CAfile", &certificate("ca.pem")]);
        command.args(["-cert", &certificate("server.pem"), "-key", &certificate("server.key")]);
        let server = Process::spawn(command);
        server.wait_for_stdout("ACCEPT");
        let url = format!("wss://localhost:{port}/");
        let tls = client_tls().certificate_files(certificate("client.pem"), certificate("client.key"));
        // It answers with a page about the connection.
        match Connect::new(&url).tls(tls).connect().expect_err("it speaks no WebSocket") {
            Error::Refused(response) => {
                let page = String::from_utf8_lossy(response.body()).into_owned();
                let name = if version == "-tls1_2" { "TLSv1.2" } else { "TLSv1.3" };
                assert!(page.contains(name) && page.contains("Client certificate"), "{page}");
                assert!(page.contains("threadws test client"), "{page}");
            }
            other => panic!("another error: {other}"),
        }
        let error = Connect::new(&url).tls(client_tls()).connect().expect_err("no certificate");
        assert!(matches!(error, Error::Tls(_) | Error::Io(_)), "{error}");
    }
}

#[test]
fn a_session_is_resumed_until_the_certificate_is_replaced() {
    let _dog = watchdog(60);
    let Some(openssl) = program("openssl") else { return };
    let folder = support::Folder::new();
    let session = folder.path("session").to_str().expect("UTF-8").to_owned();
    let server = crate::serve(support::echo);
    for version in VERSIONS {
        let connect = |options: &[&str]| {
            let mut peer = client(&openssl, &server, &[&[version], options].concat());
            // With TLS 1.3 the ticket comes with the 101.
            peer.write(upgrade_request(server.addr(), "/", &[]));
            peer.wait_for_stdout("101 Switching Protocols");
            peer
        };
        drop(std::fs::remove_file(&session));
        let first = connect(&["-sess_out", &session]);
        first.wait_for_stdout("New, TLSv1");
        support::eventually("a ticket", || std::fs::metadata(&session).is_ok_and(|file| file.len() > 0));
        drop(first);
        connect(&["-sess_in", &session]).wait_for_stdout("Reused, TLSv1");
        server.set_tls(server_tls("server")).expect("it is replaced");
        connect(&["-sess_in", &session]).wait_for_stdout("New, TLSv1");
    }
}
