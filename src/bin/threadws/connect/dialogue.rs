//! The dialogue of a user on a terminal with a server: lines and commands go out, messages come in.

use super::printer::Printer;
use crate::CommandError;
use crate::args::connect::ConnectOptions;
use crate::escape;
use crate::terminal::{Echo, Entry, Terminal};
use std::time::{Duration, Instant};
use threadws::{Connection, Error, Event, Sender};

const HELP: &str = "\
* /ping               send a ping, and show how long its pong takes
* /close CODE REASON  close the connection; 1000 without a code
* /help               show this
* //TEXT              send a text that begins with a slash: /TEXT
* Ctrl-D on an empty line and Ctrl-C close the connection with 1000.
";

/// Exchanges messages until either side closes the connection.
pub(super) fn talk(connection: &mut Connection, options: &ConnectOptions) -> Result<(), CommandError> {
    let printer = Printer { raw: false, escaped: true, times: options.times, marks: true };
    let begin = Instant::now();
    let sender = connection.sender();
    let executed: String = options
        .execute
        .iter()
        .map(|text| printer.sent(text) + &note(sender.try_send(text.as_str())))
        .collect();
    let no_close = options.no_close;
    // Otherwise the log line of the connection may be written into the first prompt.
    log::logger().flush();
    let terminal = Terminal::start(move |entry| match entry {
        Entry::Line(line) => enter(&sender, &line, printer, begin),
        Entry::End if no_close => {
            Echo { text: "* no more input; Ctrl-C closes\n".to_owned(), goes_on: false }
        }
        Entry::End => close(&sender, "1000"),
    });
    let terminal =
        terminal.map_err(|error| CommandError::Failed(format!("cannot use the terminal: {error}")))?;
    terminal.print(executed.into_bytes());
    let end = loop {
        let mut lines = Vec::new();
        match connection.next_event() {
            // Never fails: memory takes everything.
            Ok(Some(Event::Message(message))) => drop(printer.print(&mut lines, &message)),
            Ok(Some(Event::Pong(payload))) => lines.extend(pong(&payload, begin).into_bytes()),
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            // The user chose another code than 1000.
            Err(Error::Closed(closed)) if closed.is_clean() && !closed.by_peer() => break Ok(()),
            Err(error) => break Err(CommandError::Failed(error.to_string())),
        }
        if !lines.is_empty() {
            terminal.print(lines);
        }
    };
    terminal.end();
    end
}

fn enter(sender: &Sender, line: &str, printer: Printer, begin: Instant) -> Echo {
    let mut shown = match line.strip_prefix('/') {
        Some(command) if !command.starts_with('/') => {
            let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
            match name {
                // The payload is when it was sent, so that the pongs of keepalive pings are not taken for its pong.
                "ping" => goes_on(note(sender.ping(begin.elapsed().as_micros().to_string().as_bytes()))),
                "close" => close(sender, rest.trim()),
                "help" => goes_on(HELP.to_owned()),
                _ => goes_on("* no such command, see /help; //TEXT sends /TEXT\n".to_owned()),
            }
        }
        with_slash => goes_on(note(sender.try_send(with_slash.unwrap_or(line)))),
    };
    shown.text.insert_str(0, &printer.sent(line));
    shown
}

fn goes_on(text: String) -> Echo {
    Echo { text, goes_on: true }
}

/// Closes the connection with a code and a reason, such as `4000 good bye`.
fn close(sender: &Sender, how: &str) -> Echo {
    let (code, reason) = how.split_once(' ').unwrap_or((how, ""));
    let code = if code.is_empty() { Ok(1000) } else { code.parse::<u16>() };
    let Ok(code) = code else { return goes_on("* /close CODE REASON: the code is a number\n".to_owned()) };
    let closed = sender.close(code, reason.trim());
    Echo { goes_on: matches!(closed, Err(Error::Invalid(_))), text: note(closed) }
}

fn note(result: threadws::Result<()>) -> String {
    match result {
        Ok(()) => String::new(),
        Err(error) => format!("* not sent: {}\n", escape::one_line(&error.to_string(), usize::MAX)),
    }
}

/// Returns how long the pong of a `/ping` took. Nothing for other pongs.
fn pong(payload: &[u8], begin: Instant) -> String {
    let sent = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
    let taken = sent.and_then(|sent| begin.elapsed().checked_sub(Duration::from_micros(sent)));
    taken.map_or(String::new(), |taken| format!("* pong after {:.1} ms\n", taken.as_secs_f64() * 1000.0))
}
