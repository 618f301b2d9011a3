//! `threadws connect`: sends stdin to a server, and prints the messages from it on stdout.
//!
//! There are three threads: the main thread receives and prints, one reads stdin and sends, one waits for a signal.

use crate::CommandError;
use crate::args::connect::ConnectOptions;
use crate::args::values;
use crate::escape;
use crate::signals::{INTERRUPTED, StopSignal};
#[cfg(feature = "tls")]
use crate::tls;
use log::{info, warn};
use std::fs::File;
use std::io::{self, BufRead, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use threadws::{Config, Connect, Connection, Error, Message, Sender, Timeout};

/// The longest closing handshake: the library's default.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest header file, in bytes: four times the request head that this library's server accepts.
const MAX_HEADER_FILE: u64 = 64 * 1024;

/// Connects, and exchanges messages until either side closes the connection.
pub(crate) fn connect(options: &ConnectOptions, stop: StopSignal) -> Result<(), CommandError> {
    let settings = settings(options)?;
    let interrupt = Interrupt::watch(stop)?;
    // All of stdin is read before connecting, so that a message that the server sends earlier is not taken for the reply.
    let whole = if options.once { Some(read_whole(options.binary)?) } else { None };
    let mut connection = settings.connect().map_err(not_connected)?;
    interrupt.close_instead(connection.sender());
    match connection.subprotocol() {
        Some(name) => info!("connected to {}, subprotocol {name}", connection.peer_addr()),
        None => info!("connected to {}", connection.peer_addr()),
    }
    let sender = connection.sender();
    let closes = options.expect.is_none() && whole.is_none();
    spawn("threadws-stdin", move || match whole {
        // The main thread reports the error, because its `recv` fails, too.
        Some(message) => drop(sender.send(message)),
        None => send_lines(&sender, closes),
    })?;
    let result = print_messages(&mut connection, options);
    if let Some(closed) = connection.closed() {
        info!("disconnected after {:.1}s: {closed}", closed.lifetime().as_secs_f64());
    }
    result
}

fn settings(options: &ConnectOptions) -> Result<Connect, CommandError> {
    let mut config = Config::new()
        .with_handshake_timeout(options.timeout)
        .with_max_message_size(options.max_message)
        .with_message_timeout(options.message_timeout)
        .with_ping_interval(options.ping);
    if let Some(ping) = options.ping {
        config = config.with_ping_timeout(ping);
    }
    if options.has_deadline() {
        // A script that gives a deadline does not want to wait much longer for the closing handshake.
        config = config.with_close_timeout(options.timeout.min(CLOSE_TIMEOUT));
    }
    let mut settings = Connect::new(&options.url).subprotocols(&options.subprotocols).config(config);
    #[cfg(feature = "tls")]
    {
        settings = settings.tls(tls::client(&options.tls));
    }
    if let Some(origin) = &options.origin {
        settings = settings.header("origin", origin);
    }
    for (name, value) in options.headers.iter().chain(&headers_of_file(options)?) {
        settings = settings.header(name, value);
    }
    Ok(settings)
}

fn headers_of_file(options: &ConnectOptions) -> Result<Vec<(String, String)>, CommandError> {
    let Some(file) = &options.header_file else { return Ok(Vec::new()) };
    let mut text = String::new();
    // Limited, because the file may be a device without an end.
    let read = File::open(file).and_then(|opened| opened.take(MAX_HEADER_FILE + 1).read_to_string(&mut text));
    let bytes = read
        .map_err(|error| CommandError::Failed(format!("cannot read the --header-file {file:?}: {error}")))?;
    if bytes as u64 > MAX_HEADER_FILE {
        let error = format!("--header-file {file:?}: larger than {MAX_HEADER_FILE} bytes");
        return Err(CommandError::Usage(error));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = |(index, line)| {
        values::header(line).map_err(|error| {
            CommandError::Usage(format!("--header-file {file:?}: line {}: {error}", index + 1))
        })
    };
    lines.map(header).collect()
}

/// Explains why there is no connection. The text never contains the URL or a header.
fn not_connected(error: Error) -> CommandError {
    match error {
        Error::Invalid(what) => CommandError::Usage(what.into_owned()),
        Error::Timeout(timeout) => CommandError::Failed(format!("cannot connect: {timeout}")),
        error => CommandError::Failed(error.to_string()),
    }
}

/// Handles the first signal: it ends the process, or closes the connection if there is one.
#[derive(Debug)]
struct Interrupt(Mutex<Option<Sender>>);

impl Interrupt {
    /// Starts the thread that waits for the signal.
    fn watch(stop: StopSignal) -> Result<Arc<Self>, CommandError> {
        let interrupt = Arc::new(Self(Mutex::new(None)));
        let watching = Arc::clone(&interrupt);
        spawn("threadws-signal", move || {
            if let Err(error) = stop.wait() {
                warn!("cannot wait for signals: {error}");
                return;
            }
            let sender = watching.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match sender {
                // The main thread sees the peer's Close, or that there is none.
                Some(sender) => drop(sender.close(1000, "")),
                None => std::process::exit(INTERRUPTED),
            }
        })?;
        Ok(interrupt)
    }

    /// Makes a signal close this connection instead of ending the process.
    fn close_instead(&self, sender: Sender) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    // The threads are not joined, because they may wait forever: for stdin, or for a signal.
    match std::thread::Builder::new().name(name.to_owned()).spawn(body) {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError::Failed(format!("cannot start a thread: {error}"))),
    }
}

fn read_whole(binary: bool) -> Result<Message, CommandError> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| CommandError::Failed(format!("cannot read stdin: {error}")))?;
    Ok(if binary { Message::Binary(bytes) } else { line_message(bytes) })
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

fn send_lines(sender: &Sender, closes: bool) {
    let mut stdin = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match stdin.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                warn!("cannot read stdin: {error}");
                break;
            }
        }
        if sender.send(line_message(line)).is_err() {
            return; // The main thread reports the error.
        }
    }
    if closes {
        // Never fails: the code and the empty reason are valid.
        drop(sender.close(1000, ""));
    }
}

/// Prints messages until `--once` or `--expect` has its message, or the connection ends.
fn print_messages(connection: &mut Connection, options: &ConnectOptions) -> Result<(), CommandError> {
    let deadline = options.has_deadline().then(|| Instant::now() + options.timeout);
    let printer = Printer { raw: options.binary, escaped: io::stdout().is_terminal() };
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = loop {
        let message = match receive(connection, &mut out, deadline) {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return missed(options, "the server closed the connection"),
            Ok(Err(Error::Timeout(Timeout::Recv))) => {
                let unmet = missed(options, &format!("within {:?}", options.timeout));
                close(connection);
                return unmet;
            }
            Ok(Err(error)) => return Err(CommandError::Failed(error.to_string())),
            Err(error) => break Err(error),
        };
        if let Err(error) = printer.print(&mut out, &message) {
            break Err(error);
        }
        let is_last = match &options.expect {
            Some(expected) => message.as_text().is_some_and(|text| text.contains(expected)),
            None => options.once,
        };
        if is_last {
            break out.flush();
        }
    };
    match printed {
        Ok(()) => {
            close(connection);
            Ok(())
        }
        // A reader that closes the pipe has read enough. Dropping the connection closes it with 1001.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CommandError::Failed(format!("cannot write to stdout: {error}"))),
    }
}

/// Reports that the connection ended, or the time was over, before the expected message.
fn missed(options: &ConnectOptions, how: &str) -> Result<(), CommandError> {
    match (&options.expect, options.once) {
        (Some(_), _) => Err(CommandError::Unmet(format!("no message with the expected text: {how}"))),
        (None, true) => Err(CommandError::Failed(format!("no reply: {how}"))),
        (None, false) => Ok(()),
    }
}

/// Closes the connection. An error is only a warning, because the command has done its work.
fn close(connection: &mut Connection) {
    if let Err(error) = connection.close(1000, "") {
        warn!("not closed cleanly: {error}");
    }
}

/// Receives the next message. Flushes the output before it waits. The outer error is one of the output.
fn receive(
    connection: &mut Connection,
    out: &mut impl Write,
    deadline: Option<Instant>,
) -> io::Result<threadws::Result<Option<Message>>> {
    // Checked first, because with an endless stream of messages the calls below never time out.
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return out.flush().map(|()| Err(Error::Timeout(Timeout::Recv)));
    }
    match connection.try_recv() {
        Err(Error::Empty) => out.flush()?,
        received => {
            if !matches!(received, Ok(Some(_))) {
                out.flush()?;
            }
            return Ok(received);
        }
    }
    Ok(match deadline {
        Some(deadline) => connection.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        None => connection.recv(),
    })
}

/// Prints messages.
#[derive(Debug, Clone, Copy)]
struct Printer {
    /// Prints binary messages as raw bytes, otherwise in hexadecimal.
    raw: bool,
    /// Escapes control characters in text, because a terminal would execute them.
    escaped: bool,
}

impl Printer {
    fn print(self, out: &mut impl Write, message: &Message) -> io::Result<()> {
        match message {
            Message::Text(text) if self.escaped => writeln!(out, "{}", escape::one_line(text, usize::MAX)),
            Message::Text(text) => writeln!(out, "{text}"),
            Message::Binary(bytes) if self.raw => out.write_all(bytes),
            Message::Binary(bytes) => {
                for byte in bytes {
                    write!(out, "{byte:02x}")?;
                }
                writeln!(out)
            }
        }
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

    #[test]
    fn text_is_escaped_for_a_terminal_and_unchanged_for_a_file() {
        let printed = |printer: Printer, message: &str| {
            let mut out = Vec::new();
            printer.print(&mut out, &Message::from(message)).expect("memory");
            String::from_utf8(out).expect("UTF-8")
        };
        let file = Printer { raw: false, escaped: false };
        let terminal = Printer { escaped: true, ..file };
        let text = "안녕\u{1b}[2J\r\nmore";
        assert_eq!(printed(file, text), "안녕\u{1b}[2J\r\nmore\n");
        assert_eq!(printed(terminal, text), "안녕\\u{1b}[2J\\r\\nmore\n");
    }
}
