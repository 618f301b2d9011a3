//! Sends stdin: each line as a message, or all of it as one. Reports what was not read or not sent.

use crate::CommandError;
use crate::stdio::{Blocking, is_ready};
use rustix::event::PollFlags;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::Receiver;
use std::time::Duration;
use threadws::{Message, Sender};

/// The largest message, in bytes. A line is in memory before it is sent, and stdin may be a device without an end.
const MAX_MESSAGE: usize = 256 << 20;
/// How long the end of the process waits for the thread that sends: it has a line that it cannot send, or reads one.
const HAS_LINE: Duration = Duration::from_secs(2);
/// The same if stdin has no more input now: the thread may have read the last line at this moment.
const HAS_NOTHING: Duration = Duration::from_millis(100);

/// The part of stdin that did not reach the server.
#[derive(Debug)]
pub(super) enum Missing {
    /// The rest, because it could not be read.
    Unread(String),
    /// A message that was read. The connection had ended.
    Unsent,
}

/// Reads all of stdin as one message.
pub(super) fn read_whole(binary: bool) -> Result<Message, CommandError> {
    let mut bytes = Vec::new();
    let limited = Blocking(io::stdin()).take(MAX_MESSAGE as u64 + 1);
    let read = { limited }.read_to_end(&mut bytes).map_err(|error| error.to_string());
    let checked = read.and_then(|_| check_size(&bytes));
    checked.map_err(|error| CommandError::Failed(format!("cannot read stdin: {error}")))?;
    Ok(if binary { Message::Binary(bytes) } else { line_message(bytes) })
}

/// Sends each line, until the end of stdin. Returns what is missing.
pub(super) fn send_lines(sender: &Sender) -> Result<(), Missing> {
    let mut stdin = BufReader::new(Blocking(io::stdin()));
    loop {
        let mut line = Vec::new();
        let read = (&mut stdin).take(MAX_MESSAGE as u64 + 1).read_until(b'\n', &mut line);
        let checked = read.map_err(|error| error.to_string()).and_then(|_| check_size(&line));
        checked.map_err(Missing::Unread)?;
        if line.is_empty() {
            return Ok(());
        }
        // A terminal ends only the read at which Ctrl-D was pressed, so another read would wait for a further Ctrl-D.
        let is_last = !line.ends_with(b"\n");
        sender.send(line_message(line)).map_err(|_| Missing::Unsent)?;
        if is_last {
            return Ok(());
        }
    }
}

fn check_size(message: &[u8]) -> Result<(), String> {
    let is_small = message.len() <= MAX_MESSAGE;
    is_small.then_some(()).ok_or_else(|| format!("a message of more than {} MiB", MAX_MESSAGE >> 20))
}

/// Makes a text message of a line without its line end, or a binary one if it is not UTF-8.
fn line_message(mut line: Vec<u8>) -> Message {
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    match String::from_utf8(line) {
        Ok(text) => Message::Text(text),
        Err(error) => Message::Binary(error.into_bytes()),
    }
}

/// Called at the end of a connection. Fails if part of stdin was not read. If `all` is set, it also fails if part of it was
/// not sent.
///
/// The thread that sends finds the end of the connection only when it has a line, and is not waited for if stdin has none.
pub(super) fn check(ended: &Receiver<Result<(), Missing>>, all: bool) -> Result<(), CommandError> {
    let wait = match all {
        true if is_ready(io::stdin(), PollFlags::IN) => HAS_LINE,
        true => HAS_NOTHING,
        false => Duration::ZERO,
    };
    match ended.recv_timeout(wait) {
        Ok(Err(Missing::Unread(error))) => Err(CommandError::Failed(format!("cannot read stdin: {error}"))),
        Ok(Err(Missing::Unsent)) if all => {
            let what = "the server closed the connection before all of stdin was sent";
            Err(CommandError::Failed(what.to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_text_without_its_end_or_binary() {
        for (line, text) in [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("\n", ""), ("a\r", "a\r"), ("", "")] {
            assert_eq!(line_message(line.into()), Message::from(text), "{line:?}");
        }
        assert_eq!(line_message(b"\xff\n".to_vec()), Message::Binary(vec![0xff]));
    }
}
