//! Compression with other implementations, at both ends, with and without context takeover: npm's `ws`, Python's `websockets`,
//! and Chromium, which compress by C zlib. The tests run one after the other, because these programs need a processor of their own to start in
//! time.
#![cfg(all(feature = "cli", feature = "deflate"))]

use std::process::Command;
use support::chromium::Chromium;
use support::{PATIENCE, Process, programs, take_turn, watchdog};
use threadws::deflate::{Deflate, Uncompressed};
use threadws::{Config, Connect, Message};

const MODES: [&str; 2] = ["takeover", "fresh"];
/// The server's ticks are compressed once for all clients, between its other messages.
const TICK: &str = "tick, which is long enough to be worth it, worth it, worth it";
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvw";

fn arguments(takeover: bool) -> Vec<&'static str> {
    let mut arguments =
        vec!["-q", "--echo", "--every", "5ms", "--message", TICK, "--deflate", "--deflate-threshold", "1"];
    arguments.extend(takeover.then_some("--deflate-takeover"));
    arguments
}

/// The client offers takeover or not, the server agrees or not, and the window of the server has each size.
fn clients(client: fn(&[&str]) -> Option<Command>) {
    let _turn = take_turn();
    let _dog = watchdog(300);
    for takeover in [true, false] {
        let server = Process::threadws(&arguments(takeover));
        for (mode, bits) in
            [("takeover", "15"), ("takeover", "10"), ("takeover", "9"), ("takeover", "8"), ("fresh", "12")]
        {
            let Some(command) = client(&["deflate", &server.url(), mode, bits]) else { return };
            Process::spawn(command).wait_for_success(PATIENCE * 4);
        }
        server.stop();
    }
}

#[test]
#[ignore = "installs packages from the internet"]
fn ws_clients() {
    clients(|arguments| programs::node("client.mjs", arguments));
}

#[test]
#[ignore = "installs packages from the internet"]
fn websockets_clients() {
    clients(|arguments| programs::python("client.py", arguments));
}

/// C zlib makes noise longer. A message of the limit is not too big because of that.
#[test]
#[ignore = "installs packages from the internet"]
fn websockets_client_with_every_level_and_noise() {
    let _turn = take_turn();
    let _dog = watchdog(120);
    let server = Process::threadws(&[&arguments(true)[..], &["--max-message", "20KiB"]].concat());
    let Some(command) = programs::python("client.py", &["noise", &server.url(), "20480"]) else { return };
    Process::spawn(command).wait_for_success(PATIENCE * 4);
    server.stop();
}

#[cfg(feature = "tls")]
#[test]
#[ignore = "installs packages from the internet"]
fn ws_client_over_tls() {
    use support::certificate;
    let _turn = take_turn();
    let _dog = watchdog(120);
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    let server = Process::threadws(&[&arguments(true)[..], &["--cert", &cert, "--key", &key]].concat());
    let url = format!("wss://localhost:{}/", server.addr().port());
    let Some(mut command) = programs::node("client.mjs", &["deflate", &url, "takeover"]) else { return };
    command.env("THREADWS_CA", certificate("ca.pem"));
    Process::spawn(command).wait_for_success(PATIENCE * 4);
    server.stop();
}

/// Echoes of all sizes, compressed or not.
fn servers(server: fn() -> Option<Command>) {
    let _turn = take_turn();
    let _dog = watchdog(300);
    for theirs in MODES {
        let Some(mut command) = server() else { return };
        command.env("THREADWS_DEFLATE", theirs);
        let server = Process::spawn(command);
        let url = format!("ws://127.0.0.1:{}/", server.wait_for_stdout("").trim());
        for (takeover, bits) in [(true, 15), (true, 9), (false, 12)] {
            let deflate = Deflate::new()
                .threshold(0)
                .window_bits(bits)
                .context_takeover(takeover)
                .peer_context_takeover(takeover);
            let config = Config::new().with_deflate(deflate).with_max_message_size(4 << 20);
            let mut connection = Connect::new(&url).config(config).connect().expect("it opens");
            let extensions = connection.extensions().expect("agreed").to_owned();
            for number in 0..300_usize {
                let len = [0, 1, 60, 300, 900, 3000, 20_000, 300_000][number % 8];
                let letter = |at| char::from(LETTERS[at * (number + 1) % LETTERS.len()]);
                let text: String = (0..len).map(letter).collect();
                let message = Message::from(text);
                if number % 4 == 3 {
                    connection.send(Uncompressed(&message)).expect("open");
                } else {
                    connection.send(&message).expect("open");
                }
                assert!(connection.recv().expect("valid") == Some(message), "{number}, {extensions}");
            }
            let stats = connection.stats();
            assert!(stats.saved_sent.messages > 100 && stats.saved_received.messages > 100, "{stats:?}");
            connection.close(1000, "").expect("clean");
        }
    }
}

#[test]
#[ignore = "installs packages from the internet"]
fn ws_servers() {
    servers(|| programs::node("server.mjs", &[]));
}

#[test]
#[ignore = "installs packages from the internet"]
fn websockets_servers() {
    servers(|| programs::python("server.py", &[]));
}

#[test]
#[ignore = "starts a browser"]
fn chromium_client() {
    let _turn = take_turn();
    let _dog = watchdog(120);
    let Some(mut browser) = Chromium::start() else { return };
    for takeover in [true, false] {
        let server = Process::threadws(&arguments(takeover));
        browser.open(&format!("http://{}/", server.addr()));
        let script = format!(
            r#"new Promise((done) => {{
  const socket = new WebSocket("ws://{}/");
  socket.binaryType = "arraybuffer";
  const json = (number) => JSON.stringify(Array.from(
    {{ length: [0, 1, 3, 15, 45, 150, 1000][number % 7] }}, (_, at) => ({{ id: (at * number) % 97, name: "a user" }})));
  let number = 0, ticks = 0;
  socket.onopen = () => socket.send(json(0));
  socket.onmessage = ({{ data }}) => {{
    if (data.startsWith("tick")) {{ ticks += 1; return; }}
    if (data !== json(number)) done(`message ${{number}} came back as ${{data.slice(0, 100)}}`);
    number += 1;
    if (number < 200) socket.send(json(number)); else socket.close(1000);
  }};
  socket.onclose = ({{ code, reason }}) => done(`${{code}} ${{number}} ${{socket.extensions}}`);
}})"#,
            server.addr()
        );
        let extensions = if takeover {
            "client_max_window_bits=12"
        } else {
            "server_no_context_takeover; client_no_context_takeover"
        };
        assert_eq!(browser.text(&script), format!("1000 200 permessage-deflate; {extensions}"));
        server.stop();
    }
}
