//! GnuTLS's command as a client: a second implementation of key updates, and of TLS 1.2.
#![cfg(feature = "cli")]

use crate::server_tls;
use std::process::Command;
use std::sync::mpsc;
use support::{Process, TestServer, certificate, ms, next, program, upgrade_request, watchdog};

/// A frame with the text "hi!". The command sends whole lines of text, so the mask is chosen for a frame that ends with a line
/// feed, and contains neither another line feed nor a zero byte.
const HI: &[u8] = b"\x81\x83\x01\x01\x2b\x01\x69\x68\x0a";

#[test]
fn gnutls_updates_keys_between_ticks_and_messages() {
    let _dog = watchdog(60);
    let Some(gnutls) = program("gnutls-cli") else { return };
    let (report, reports) = mpsc::channel();
    let server = TestServer::with(
        |server| server.tls(server_tls("server")),
        move |client| {
            let mut number = 0;
            client.every_with(ms(20), move || {
                number += 1;
                Some(format!("tick {number}.\n"))
            });
            while let Some(message) = client.recv()? {
                report.send(message.to_string())?;
            }
            Ok(())
        },
    );
    // `rekey` asks the server for new keys, too.
    for (version, commands) in
        [("VERS-TLS1.3", &["^rekey^\n", "^rekey1^\n", "^rekey^\n"][..]), ("VERS-TLS1.2", &[])]
    {
        let mut command = Command::new(&gnutls);
        command.args(["--inline-commands", "--x509cafile", &certificate("ca.pem")]);
        command.args(["--verify-hostname", "localhost", "--sni-hostname", "localhost"]);
        command.args(["--priority", &format!("NORMAL:-VERS-ALL:+{version}"), "--alpn", "http/1.1"]);
        command.args(["--port", &server.addr().port().to_string(), "127.0.0.1"]);
        let mut peer = Process::with_pipe(command);
        peer.wait_for_stdout("The certificate is trusted");
        peer.wait_for_stdout(&version["VERS-".len()..]);
        peer.wait_for_stdout("Handshake was completed");
        peer.write(upgrade_request(server.addr(), "/", &[]));
        peer.wait_for_stdout("101 Switching Protocols");
        peer.wait_for_stdout("tick 1.");
        peer.write(HI);
        assert_eq!(next(&reports, "the message"), "hi!");
        let mut seen = 1;
        for command in commands {
            peer.write(command);
            seen += 5;
            peer.wait_for_stdout(&format!("tick {seen}."));
            peer.write(HI);
            assert_eq!(next(&reports, "the message"), "hi!", "after {command}");
        }
        let rekeyed = peer.stdout().iter().filter(|line| line.contains("Rekey was completed")).count();
        assert_eq!(rekeyed, commands.len(), "{:?}", peer.stdout());
    }
}
