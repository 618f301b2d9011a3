//! An echo server that reports how each connection ended.

use super::{TestServer, echo, next};
use std::sync::mpsc::{self, Receiver};
use threadws::{Closed, Config};

/// The last result of a handler, and its connection's report of the end.
pub type End = (Result<(), String>, Option<Closed>);

/// Starts an echo server that reports the end of each connection.
pub fn reporting_echo(config: Config) -> (TestServer, Receiver<End>) {
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config),
        move |client| {
            let result = echo(client);
            let end = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            tx.send((end, client.closed().cloned())).unwrap_or(());
            result
        },
    );
    (server, rx)
}

#[track_caller]
pub fn reported_end(rx: &Receiver<End>) -> (Result<(), String>, Closed) {
    let (result, closed) = next(rx, "the handler's end");
    (result, closed.expect("a report of the end"))
}
