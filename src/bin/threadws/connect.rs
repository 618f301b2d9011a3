//! The client: stdin to the server, the server to stdout.
//!
//! Three threads: this one receives and prints, one reads stdin and sends, one waits for a signal.

use crate::CommandError;
use crate::args::connect::ConnectOptions;
use crate::args::values;
use crate::escape;
use crate::signals::StopSignal;
use log::{info, warn};
use std::fs::File;
use std::io::{self, BufRead, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use threadws::{Config, Connect, Connection, Error, Message, Response, Sender, Timeout};

/// As shells report a process ended by Ctrl-C: 128 and SIGINT.
const INTERRUPTED: i32 = 130;
/// What is shown of a refusal's body: enough for a sentence, not for a page.
const MAX_BODY: usize = 200;
/// How long the closing handshake may take at most: the library's default.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that a file of headers may hold, in bytes: four times what servers take.
const MAX_HEADER_FILE: u64 = 64 * 1024;

/// Connects, and talks until either side ends it.
pub(crate) fn connect(options: &ConnectOptions, stop: StopSignal) -> Result<(), CommandError> {
    let settings = settings(options)?;
    let interrupt = Interrupt::watch(stop)?;
    // All of it first: what a server says unasked, while stdin is still being written, is no reply.
    let whole = if options.once { Some(read_whole(options.binary)?) } else { None };
    let mut connection = settings.connect().map_err(not_connected)?;
    interrupt.reach(connection.sender());
    match connection.subprotocol() {
        Some(name) => info!("connected to {}, subprotocol {name}", connection.peer_addr()),
        None => info!("connected to {}", connection.peer_addr()),
    }
    let sender = connection.sender();
    let closes = options.expect.is_none() && whole.is_none();
    spawn("threadws-stdin", move || match whole {
        // Why it failed, if it does, is seen by who receives.
        Some(message) => drop(sender.send(message)),
        None => send_lines(&sender, closes),
    })?;
    let talked = talk(&mut connection, options);
    if let Some(closed) = connection.closed() {
        info!("disconnected after {:.1}s: {closed}", closed.lifetime().as_secs_f64());
    }
    talked
}

fn settings(options: &ConnectOptions) -> Result<Connect, CommandError> {
    let mut config = Config::new()
        .with_handshake_timeout(options.timeout)
        .with_max_message_size(options.max_message)
        .with_ping_interval(values::unless_zero(options.ping));
    if let Some(ping) = values::unless_zero(options.ping) {
        config = config.with_ping_timeout(ping);
    }
    if options.waits() {
        // A script that waits for so long does not want to wait much longer for the end.
        config = config.with_close_timeout(options.timeout.min(CLOSE_TIMEOUT));
    }
    let mut settings = Connect::new(&options.url).subprotocols(&options.subprotocols).config(config);
    if let Some(origin) = &options.origin {
        settings = settings.origin(origin);
    }
    for (name, value) in options.headers.iter().chain(&headers_of_file(options)?) {
        settings = settings.header(name, value);
    }
    Ok(settings)
}

fn headers_of_file(options: &ConnectOptions) -> Result<Vec<(String, String)>, CommandError> {
    let Some(file) = &options.header_file else { return Ok(Vec::new()) };
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MAX_HEADER_FILE + 1).read_to_string(&mut text));
    let bytes =
        read.map_err(|error| CommandError::Failed(format!("cannot read the --header-file: {error}")))?;
    if bytes as u64 > MAX_HEADER_FILE {
        return Err(CommandError::Usage(format!("--header-file: larger than {MAX_HEADER_FILE} bytes")));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = |(at, line)| {
        values::header(line)
            .map_err(|error| CommandError::Usage(format!("--header-file: line {}: {error}", at + 1)))
    };
    lines.map(header).collect()
}

/// Why there is no connection. Neither the URL nor a header is ever part of it.
fn not_connected(error: Error) -> CommandError {
    match error {
        Error::Invalid(what) => CommandError::Usage(what.into_owned()),
        Error::Refused(response) => CommandError::Failed(refusal(&response)),
        error => CommandError::Failed(format!("cannot connect: {error}")),
    }
}

fn refusal(response: &Response) -> String {
    match escape::line(String::from_utf8_lossy(response.body()).trim(), MAX_BODY).as_str() {
        "" => format!("refused with {}", response.status()),
        body => format!("refused with {}: {body}", response.status()),
    }
}

/// What a signal ends.
#[derive(Debug)]
struct Interrupt(Mutex<Option<Sender>>);

impl Interrupt {
    /// Ends the process at the first signal, as long as there is nothing to close.
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
                // The peer's Close, or the lack of it, is seen by who receives.
                Some(sender) => drop(sender.close(1000, "")),
                None => std::process::exit(INTERRUPTED),
            }
        })?;
        Ok(interrupt)
    }

    fn reach(&self, sender: Sender) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    // Nobody waits for these threads: what they wait for may never come.
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

/// Text without the line end; what is not UTF-8 is binary.
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
            return; // Why is seen by who receives.
        }
    }
    if closes {
        // Both are allowed: 1000, and no reason.
        drop(sender.close(1000, ""));
    }
}

/// Prints what comes, until it has come or there is no more of it.
fn talk(connection: &mut Connection, options: &ConnectOptions) -> Result<(), CommandError> {
    let deadline = options.waits().then(|| Instant::now() + options.timeout);
    let form = Printer { raw: options.binary, escaped: io::stdout().is_terminal() };
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = loop {
        let message = match next(connection, &mut out, deadline) {
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
        if let Err(error) = form.print(&mut out, &message) {
            break Err(error);
        }
        let wanted = match &options.expect {
            Some(expected) => message.as_text().is_some_and(|text| text.contains(expected)),
            None => options.once,
        };
        if wanted {
            break out.flush();
        }
    };
    match printed {
        Ok(()) => {
            close(connection);
            Ok(())
        }
        // Whoever has read enough may close the pipe. The server is told by 1001 when the connection is dropped.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CommandError::Failed(format!("cannot write to stdout: {error}"))),
    }
}

/// The end, or the last moment, before what was waited for.
fn missed(options: &ConnectOptions, how: &str) -> Result<(), CommandError> {
    match (&options.expect, options.once) {
        (Some(_), _) => Err(CommandError::Unmet(format!("no message had the expected text: {how}"))),
        (None, true) => Err(CommandError::Failed(format!("no reply: {how}"))),
        (None, false) => Ok(()),
    }
}

/// What was asked for is done: an end that is not clean is no failure of it.
fn close(connection: &mut Connection) {
    if let Err(error) = connection.close(1000, "") {
        warn!("not closed cleanly: {error}");
    }
}

/// The next message. What is printed leaves the buffer before anything is waited for; an error of that is the outer one.
fn next(
    connection: &mut Connection,
    out: &mut impl Write,
    deadline: Option<Instant>,
) -> io::Result<threadws::Result<Option<Message>>> {
    // Asked first: messages that never pause leave no other moment for it.
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

/// How messages are printed.
#[derive(Debug, Clone, Copy)]
struct Printer {
    /// Binary messages as they came, not in hexadecimal.
    raw: bool,
    /// Texts with their control characters escaped: a terminal would obey them.
    escaped: bool,
}

impl Printer {
    fn print(self, out: &mut impl Write, message: &Message) -> io::Result<()> {
        match message {
            Message::Text(text) if self.escaped => writeln!(out, "{}", escape::line(text, usize::MAX)),
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
    fn a_terminal_is_given_nothing_to_obey_and_a_file_what_came() {
        let printed = |form: Printer, message: &str| {
            let mut out = Vec::new();
            form.print(&mut out, &Message::from(message)).expect("memory");
            String::from_utf8(out).expect("UTF-8")
        };
        let file = Printer { raw: false, escaped: false };
        let terminal = Printer { escaped: true, ..file };
        let text = "안녕\u{1b}[2J\r\nmore";
        assert_eq!(printed(file, text), "안녕\u{1b}[2J\r\nmore\n");
        assert_eq!(printed(terminal, text), "안녕\\u{1b}[2J\\r\\nmore\n");
    }

    #[test]
    fn a_refusal_is_one_short_line() {
        let mut response = Response::new(b" no\r\n\x1b[31m\xff ".to_vec());
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        assert_eq!(refusal(&response), "refused with 401 Unauthorized: no\\r\\n\\u{1b}[31m\u{fffd}");
        response.body_mut().clear();
        assert_eq!(refusal(&response), "refused with 401 Unauthorized");
        *response.body_mut() = vec![b'x'; 64 * 1024];
        assert!(refusal(&response).len() < MAX_BODY + 80);
    }
}
