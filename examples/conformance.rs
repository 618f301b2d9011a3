//! A client for the Autobahn testsuite: asks its fuzzing server for the number of cases, and echoes the messages of each.
//!
//! ```sh
//! cargo run --example conformance ws://127.0.0.1:9001
//! ```
//!
//! You see: the number of cases. The fuzzing server writes the report. With a second argument, `takeover`, compressed
//! messages may refer to those before them.

use threadws::{Config, Connect, Connection, Result, deflate::Deflate};

const AGENT: &str = "threadws";

fn main() -> Result<()> {
    let server = std::env::args().nth(1).unwrap_or("ws://127.0.0.1:9001".into());
    let count = connect(&format!("{server}/getCaseCount"))?.recv()?;
    let cases = count.and_then(|count| count.as_text()?.parse().ok()).unwrap_or(0);
    for case in 1..=cases {
        let mut connection = connect(&format!("{server}/runCase?case={case}&agent={AGENT}"))?;
        // Most cases test an error, so an error here is expected.
        drop(echo(&mut connection));
    }
    connect(&format!("{server}/updateReports?agent={AGENT}"))?.ignore()?;
    println!("{cases} cases");
    Ok(())
}

fn connect(url: &str) -> Result<Connection> {
    let takeover = std::env::args().nth(2).is_some_and(|mode| mode == "takeover");
    let deflate = Deflate::new().threshold(0).context_takeover(takeover).peer_context_takeover(takeover);
    let config = Config::new().with_max_message_size(20 << 20).with_deflate(deflate);
    Connect::new(url).config(config).connect()
}

fn echo(connection: &mut Connection) -> Result<()> {
    while let Some(mut received) = connection.recv_ref()? {
        received.write(received.message)?;
    }
    Ok(())
}
