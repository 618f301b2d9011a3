//! A client for a fuzzing server, the Autobahn testsuite's for one: it asks for the number of cases, and echoes each.
//!
//! ```sh
//! cargo run --example conformance ws://127.0.0.1:9001
//! ```
//!
//! It prints how many cases there were; the verdicts are the fuzzing server's.

use threadws::{Config, Connect, Connection, Result};

const AGENT: &str = "threadws";

fn main() -> Result<()> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:9001".to_owned());
    let mut asked = connect(&format!("{server}/getCaseCount"))?;
    let cases = asked.recv()?.and_then(|count| count.as_text()?.parse().ok()).unwrap_or(0);
    for case in 1..=cases {
        let mut connection = connect(&format!("{server}/runCase?case={case}&agent={AGENT}"))?;
        // Most cases end in an error, because that is what they try.
        drop(echo(&mut connection));
    }
    connect(&format!("{server}/updateReports?agent={AGENT}"))?.ignore()?;
    println!("{cases} cases");
    Ok(())
}

fn connect(url: &str) -> Result<Connection> {
    Connect::new(url).config(Config::new().with_max_message_size(20 << 20)).connect()
}

fn echo(connection: &mut Connection) -> Result<()> {
    while let Some(mut received) = connection.recv_ref()? {
        received.write(received.message)?;
    }
    Ok(())
}
