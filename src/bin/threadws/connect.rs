//! `threadws connect`: sends stdin to a server, and prints the messages from it on stdout.
//!
//! There are three threads: the main thread receives and prints, one reads stdin and sends, one waits for a signal. On a
//! terminal, `dialogue.rs` replaces the second one.

mod dialogue;
mod header_file;
mod printer;
mod stdin;

use crate::args::connect::ConnectOptions;
use crate::escape;
use crate::signals::{INTERRUPTED, StopSignal};
use crate::stdio::Blocking;
use crate::terminal;
#[cfg(feature = "tls")]
use crate::tls;
use crate::{CommandError, FAILED, fail};
use header_file::HeaderFile;
use log::{info, warn};
use printer::Printer;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use stdin::Missing;
use threadws::deflate::Deflate;
use threadws::http::HeaderMap;
use threadws::http::header::{LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use threadws::{Config, Connect, Connection, Error, Message, Sender, Timeout};

/// The longest closing handshake after a signal, `--once` or `--expect`: the library's default.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may take for each started MiB of stdin. A server that works on each message may read nothing for a
/// minute. It may take longer if a pager holds back stdout, because its replies are then not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How many headers of a name are shown of a refusal, and how many bytes of each.
const MAX_ADVICE: usize = 3;
const MAX_ADVICE_LENGTH: usize = 200;

/// Connects, and exchanges messages until either side closes the connection.
pub(crate) fn connect(options: &ConnectOptions, stop: StopSignal) -> Result<(), CommandError> {
    let file = header_file::read(options)?;
    let settings = settings(options, &file);
    let interrupt = Interrupt::watch(stop)?;
    // All of stdin is read before connecting, so that a message that the server sends earlier is not taken for the reply.
    let whole = match options.once && options.execute.is_empty() {
        true => Some(stdin::read_whole(options.binary)?),
        false => None,
    };
    let mut connection = settings.connect().map_err(|error| not_connected(error, &file))?;
    interrupt.close_instead(connection.sender());
    match connection.subprotocol() {
        Some(name) => info!("connected to {}, subprotocol {name}", connection.peer_addr()),
        None => info!("connected to {}", connection.peer_addr()),
    }
    if !options.has_deadline() && !options.binary && terminal::is_usable() {
        let talked = dialogue::talk(&mut connection, options);
        log_end(&connection);
        return talked;
    }
    let sender = connection.sender();
    let closes = !options.has_deadline() && !options.no_close;
    let (execute, once) = (options.execute.clone(), options.once);
    let (report, stdin_end) = mpsc::channel();
    spawn("threadws-stdin", move || {
        let send = |message: Message| sender.send(message).map_err(|_| Missing::Unsent);
        let executed = execute.into_iter().try_for_each(|text| send(text.into()));
        let end = executed.and_then(|()| match whole {
            Some(message) => send(message),
            None if once => Ok(()),
            None => stdin::send_lines(&sender),
        });
        if let (Err(Missing::Unread(error)), false) = (&end, closes) {
            warn!("cannot read stdin: {error}");
        }
        // Sent before the Close, because the main thread waits for this report once the connection has ended. Fails if the
        // main thread no longer receives.
        drop(report.send(end));
        if closes {
            // Never fails: the code and the empty reason are valid.
            drop(sender.close(1000, ""));
        }
    })?;
    let result = print_messages(&mut connection, options);
    let by_peer = connection.closed().is_some_and(|closed| closed.by_peer());
    log_end(&connection);
    // Unsent lines are an error with --once, and if the server closed the connection. With --expect they are not.
    let needs_all = options.once || by_peer && options.expect.is_none();
    result.and_then(|()| stdin::check(&stdin_end, needs_all))
}

fn log_end(connection: &Connection) {
    if let Some(closed) = connection.closed() {
        info!("disconnected after {:.1}s: {closed}", closed.lifetime().as_secs_f64());
    }
}

fn settings(options: &ConnectOptions, file: &HeaderFile) -> Connect {
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
    } else {
        // Replies are printed as long as they arrive. The user has chosen the server, and can press Ctrl-C.
        config = config.with_close_timeout(options.timeout).with_max_close_time(None);
        config = config.with_write_timeout(WRITE_TIMEOUT);
    }
    if options.deflate {
        config = config.with_deflate(Deflate::new());
    }
    let mut settings = Connect::new(&options.url)
        .subprotocols(&options.subprotocols)
        .max_redirects(options.max_redirects)
        .config(config);
    #[cfg(feature = "tls")]
    {
        settings = settings.tls(tls::client(&options.tls));
    }
    if let Some(origin) = &options.origin {
        settings = settings.header("origin", origin);
    }
    for (name, value) in options.headers.iter().chain(file.headers()) {
        settings = settings.header(name, value);
    }
    settings
}

/// Explains why there is no connection. The text never contains the URL or a header.
fn not_connected(error: Error, file: &HeaderFile) -> CommandError {
    match error {
        Error::Invalid(what) => CommandError::Usage(file.locate(&what)),
        Error::Timeout(timeout) => CommandError::Failed(format!("cannot connect: {timeout}")),
        Error::Refused(response) => {
            let advice = advice(response.headers());
            CommandError::Failed(format!("{}{advice}", Error::Refused(response)))
        }
        error => CommandError::Failed(error.to_string()),
    }
}

/// Returns the headers of a refusal that say how to do better, each escaped and cut off.
fn advice(headers: &HeaderMap) -> String {
    let names =
        [("Location", LOCATION), ("Retry-After", RETRY_AFTER), ("WWW-Authenticate", WWW_AUTHENTICATE)];
    let mut text = String::new();
    for (shown, name) in names {
        for value in headers.get_all(name).iter().take(MAX_ADVICE) {
            let value = escape::one_line(&String::from_utf8_lossy(value.as_bytes()), MAX_ADVICE_LENGTH);
            text.push_str(&format!("; {shown}: {value}"));
        }
    }
    text
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
                Some(sender) => {
                    // From now on Ctrl-C and the like act at once.
                    terminal::stop_editing();
                    drop(sender.close(1000, ""));
                    // Longer than the library's close timeout with --once and --expect, so that the main thread reports
                    // that one first, with the same text.
                    std::thread::sleep(CLOSE_TIMEOUT + CLOSE_TIMEOUT / 10);
                    // The server is silent, or sends messages without end, or stdout takes none.
                    fail(FAILED, &Error::Timeout(Timeout::Close).to_string());
                    std::process::exit(i32::from(FAILED));
                }
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

/// Prints messages until `--once` or `--expect` has its message, or the connection ends.
fn print_messages(connection: &mut Connection, options: &ConnectOptions) -> Result<(), CommandError> {
    let deadline = options.has_deadline().then(|| Instant::now() + options.timeout);
    let printer = Printer {
        raw: options.binary,
        escaped: io::stdout().is_terminal(),
        times: options.times,
        marks: false,
    };
    let mut out = BufWriter::new(Blocking(io::stdout()));
    let printed = loop {
        let message = match receive(connection, &mut out, deadline) {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return missed(options, ": the server closed the connection"),
            Ok(Err(Error::Timeout(Timeout::Recv))) => {
                let unmet = missed(options, &format!(" within {:?}", options.timeout));
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
        // As for curl, a reader that closes the pipe before the end is a failure, too.
        Err(error) => Err(CommandError::Failed(format!("cannot write to stdout: {error}"))),
    }
}

/// Reports that the connection ended, or the time was over, before the expected message.
fn missed(options: &ConnectOptions, how: &str) -> Result<(), CommandError> {
    match (&options.expect, options.once) {
        (Some(_), _) => Err(CommandError::Unmet(format!("no message with the expected text{how}"))),
        (None, true) => Err(CommandError::Failed(format!("no reply{how}"))),
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
