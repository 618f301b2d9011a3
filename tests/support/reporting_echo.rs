//! An echo server that reports how each connection ended.

use super::test_server::has_events;
use super::{TestServer, echo, next};
use std::sync::mpsc::{self, Receiver, Sender};
use threadws::server::Events;
use threadws::{BoxError, Closed, Config, Connection, Message};

/// The last result of a handler, and its connection's report of the end.
pub type End = (Result<(), String>, Option<Closed>);

/// Starts an echo server that reports the end of each connection.
pub fn reporting_echo(config: Config) -> (TestServer, Receiver<End>) {
    let (tx, rx) = mpsc::channel();
    if has_events() {
        let open = move |_: &mut Connection| Ok(ReportingEcho(tx.clone()));
        return (TestServer::with_events(|server| server.config(config), open), rx);
    }
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

/// The same with events.
struct ReportingEcho(Sender<End>);

impl Events for ReportingEcho {
    fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError> {
        Ok(client.send(message)?)
    }

    fn closed(&mut self, client: &mut Connection, closed: &Closed) {
        // It returns what a handler's last call has returned.
        let result = client.recv().map(drop).map_err(|error| error.to_string());
        self.0.send((result, Some(closed.clone()))).unwrap_or(());
    }
}

#[track_caller]
pub fn reported_end(rx: &Receiver<End>) -> (Result<(), String>, Closed) {
    let (result, closed) = next(rx, "the handler's end");
    (result, closed.expect("a report of the end"))
}
