//! The same faults over TLS: a server that is stopped, and one without descriptors.

#![cfg(all(feature = "cli", feature = "tls"))]

use rustix::process::Signal;
use std::net::TcpStream;
use std::time::Duration;
use support::{Process, certificate, eventually, ms, watchdog};
use threadws::tls::ClientTls;
use threadws::{Config, Connect, Connection, Result};

/// The size of the largest message.
const MESSAGE: usize = 8 << 20;

fn server(wrapper: &[&str]) -> Process {
    let [certificate, key] = ["server.pem", "server.key"].map(certificate);
    let limit = ["--max-message", "8MiB"];
    let options = ["--echo", "--every", "0", "--ping", "0", "--cert", &certificate, "--key", &key];
    Process::threadws_under(wrapper, &[&options[..], &limit].concat())
}

fn connect(server: &Process) -> Result<Connection> {
    let url = format!("wss://localhost:{}/", server.addr().port());
    let config = Config::new().with_max_message_size(MESSAGE);
    Connect::new(url).tls(ClientTls::new().ca_file(certificate("ca.pem"))).config(config).connect()
}

#[test]
fn a_server_stopped_inside_a_record_goes_on_with_it() {
    let _dog = watchdog(60);
    let server = server(&[]);
    let mut connection = connect(&server).expect("a connection");
    let message: Vec<u8> = (0..1_u64 << 20).flat_map(u64::to_le_bytes).collect();
    let sending = std::thread::spawn({
        let (sender, message) = (connection.sender(), message.clone());
        move || sender.send(message)
    });
    // With pauses in which it is at different places of the message.
    for run in 0..8 {
        std::thread::sleep(ms(run));
        server.signal(Signal::STOP);
        std::thread::sleep(ms(20));
        server.signal(Signal::CONT);
    }
    let echo = connection.recv().expect("open").expect("open");
    assert!(echo.as_bytes() == message, "the echo differs");
    sending.join().expect("no panic").expect("sent");
    connection.close(1000, "").expect("a clean end");
    server.expect_no_panic();
}

#[test]
fn a_tls_server_without_descriptors_does_not_spin_and_recovers() {
    let _dog = watchdog(60);
    // Less than the server's own reserve, so it is full at once with connections that it cannot even accept.
    let server = server(&["prlimit", "--nofile=24:24"]);
    let start = server.usage();
    let peers: Vec<_> = (0..40).map(|_| TcpStream::connect(server.addr()).expect("it listens")).collect();
    std::thread::sleep(Duration::from_secs(1));
    let load = server.usage().load_since(&start);
    assert!(load < 0.3, "it spins: {load:.2} of a processor");
    drop(peers);
    eventually("it serves again", || connect(&server).is_ok());
    server.stop();
}
