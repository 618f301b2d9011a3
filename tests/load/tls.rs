//! The memory of clients with TLS: of idle ones, and of those that do not read.
#![cfg(all(feature = "cli", feature = "tls"))]

use support::{Process, can_open_sockets, certificate, eventually_within, ms, take_turn, watchdog};
use threadws::tls::ClientTls;
use threadws::{Connect, Connection};

fn server(options: &[&str]) -> Process {
    let [certificate, key] = ["server.pem", "server.key"].map(certificate);
    Process::threadws(
        &[&["--every", "0", "--log", "warn", "--cert", &certificate, "--key", &key], options].concat(),
    )
}

fn connect(server: &Process) -> Connection {
    let url = format!("wss://localhost:{}/", server.addr().port());
    Connect::new(url).tls(ClientTls::new().ca_file(certificate("ca.pem"))).connect().expect("a connection")
}

/// The most bytes that the first clients take from the allocator.
const FIRST: usize = 16 << 20;
/// The most bytes that each idle client takes in addition.
const IDLE: usize = 40 << 10;
/// rustls keeps buffers of this size after a large message, until it next reads one (rustls#794).
const KEPT: usize = 36 << 10;

#[test]
fn idle_clients_with_tls_give_back_what_messages_took() {
    const CLIENTS: usize = 150;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    if !can_open_sockets(2 * CLIENTS) {
        return;
    }
    let server = server(&["--echo", "--ping", "0", "--message-timeout", "2s"]);
    drop(connect(&server));
    let before = server.usage();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(&server)).collect();
    let growth = server.usage().growth_since(&before);
    println!("{growth} bytes for {CLIENTS} idle clients");
    assert!(growth <= FIRST + CLIENTS * IDLE, "{growth} bytes");
    for client in &mut clients {
        client.send(vec![7; 256 << 10]).expect("it is open");
        assert_eq!(client.recv().expect("open").map(|echo| echo.as_bytes().len()), Some(256 << 10));
    }
    // Other buffers are freed when the peer is idle again.
    eventually_within(ms(20_000), "the memory is given back", || {
        let growth = server.usage().growth_since(&before);
        growth <= FIRST + CLIENTS * (IDLE + KEPT)
    });
    for mut client in clients {
        client.close(1000, "").expect("it is still open");
    }
}

/// The large frames of a broadcast are shared, so each client that does not read adds the bytes that are sealed for it.
#[test]
fn a_client_that_does_not_read_adds_the_sealed_bytes() {
    const CLIENTS: usize = 30;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let server = server(&["--broadcast", "--slow-peer", "skip", "--ping", "0"]);
    let mut publisher = connect(&server);
    let mut publish = |count| {
        for _ in 0..count {
            publisher.send(vec![7; 64 << 10]).expect("it is open");
            publisher.recv().expect("open").expect("its own message");
        }
    };
    publish(20);
    let before = server.usage();
    let deaf: Vec<_> = (0..CLIENTS).map(|_| connect(&server)).collect();
    // These are more bytes than the kernel takes for each client, and its backlog of 1 MiB.
    publish(150);
    let full = server.usage();
    let growth = full.growth_since(&before);
    println!("{growth} bytes for {CLIENTS} clients that do not read");
    // Their own backlogs would be 30 MiB.
    assert!(growth <= (4 << 20) + CLIENTS * (IDLE + (64 << 10)), "{growth} bytes");
    publish(100);
    let growth = server.usage().growth_since(&full);
    assert!(growth <= 1 << 20, "{growth} bytes more");
    drop(deaf);
}
