//! The command line of `threadws connect`. No I/O.

use super::{Command, LogChoice, LogOption, one_line, only_url, unknown_option, value};
use crate::args::values;
use crate::log_filter::LogFilter;
use lexopt::prelude::{Long, Short, Value};
use std::ffi::OsString;
use std::time::Duration;

/// What a client shall do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConnectOptions {
    /// It may hold a password: never to be shown.
    pub(crate) url: String,
    /// Names and values, these never to be shown either.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) header_file: Option<OsString>,
    pub(crate) origin: Option<String>,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) timeout: Duration,
    /// Zero: never.
    pub(crate) ping: Duration,
    pub(crate) max_message: usize,
    pub(crate) once: bool,
    pub(crate) expect: Option<String>,
    pub(crate) binary: bool,
    pub(crate) log: LogFilter,
}

pub(crate) const HELP: &str = "\
Usage: threadws connect [OPTIONS] URL

Connects to a WebSocket server: sends each line of stdin as a text message
(one that is not UTF-8 as a binary one), and prints each message on stdout:
text as it is (with control characters escaped if stdout is a terminal),
binary as hexadecimal digits. At the end of stdin it closes, and prints what
still comes.

Examples:
  threadws connect ws://127.0.0.1:8005/
  echo hello | threadws connect --once ws://127.0.0.1:8005/
  threadws connect --expect ready --timeout 30s ws://127.0.0.1:8005/

What is said:
  --once                send all of stdin as one message (but for its last
                        line end), print one reply, close [default: off]
  --expect TEXT         print messages until a text has this in it, then
                        close; the end of stdin does not [default: none]
  --binary              print binary messages as they are, with nothing
                        between them; with --once, send all of stdin as a
                        binary message [default: off]

The handshake:
  --header 'NAME: VALUE'
                        a header of the request; can be repeated
                        [default: none]
  --header-file FILE    more of them, one a line: what other users of this
                        machine are not to see in the list of processes
                        [default: none]
  --origin ORIGIN       the page it would come from, were it a browser
                        [default: none]
  --subprotocol NAME    one it speaks, the preferred one first; can be
                        repeated [default: none]

A user and password in the URL are sent as Basic authorization. Percent-encode
what has a meaning there, and see --header-file.

Limits:
  --timeout DURATION    for the handshake; and with --once and --expect, for
                        what is waited for: 500ms, 3s, 1m [default: 10s]
  --max-message SIZE    largest message: 64KiB, 16MiB, plain bytes
                        [default: 1MiB]
  --ping DURATION       after how long a silence to send a ping, and how long
                        to wait for the answer; 0 for never [default: 20s]

Logs, on stderr:
  --log LEVEL           off, error, warn, info, debug or trace, or a list
                        such as info,threadws=debug
                        [env: THREADWS_LOG] [default: info]
  -q, --quiet           warnings and errors only
  -v, --verbose         debug; twice for trace

Other:
  -h, --help            print this help

Exit status: 0 when all went well, also after SIGINT or SIGTERM, which close
the connection; 1 when it was refused, failed, or got no reply; 2 for a command
line it does not understand; 3 when what is expected did not come; 130 at once
on a second signal, or on one before it is connected.
";

const OPTIONS: [&str; 14] = [
    "once",
    "expect",
    "binary",
    "header",
    "header-file",
    "origin",
    "subprotocol",
    "timeout",
    "max-message",
    "ping",
    "log",
    "quiet",
    "verbose",
    "help",
];

impl ConnectOptions {
    fn new(url: String) -> Self {
        Self {
            url,
            headers: Vec::new(),
            header_file: None,
            origin: None,
            subprotocols: Vec::new(),
            timeout: Duration::from_secs(10),
            ping: Duration::from_secs(20),
            max_message: 1 << 20,
            once: false,
            expect: None,
            binary: false,
            log: LogFilter::level(log::LevelFilter::Info),
        }
    }

    /// Whether something is waited for, so that there is an end to it.
    pub(crate) fn waits(&self) -> bool {
        self.once || self.expect.is_some()
    }
}

/// Reads what stands behind `connect`. No error shows the URL, a header's value, or what may be one of both.
pub(super) fn parse(mut parser: lexopt::Parser, env_log: Option<OsString>) -> Result<Command, String> {
    let mut options = ConnectOptions::new(String::new());
    let mut url = None;
    let mut log = LogChoice::default();
    let text = |text: &str| Ok(text.to_owned());
    while let Some(arg) = parser.next().map_err(one_line)? {
        if let Some(option) = LogOption::of(&arg) {
            log.take(option, &mut parser)?;
            continue;
        }
        match arg {
            Short('h') | Long("help") => return Ok(Command::ConnectHelp),
            Long("once") => options.once = true,
            Long("expect") => options.expect = Some(value(&mut parser, "expect", text)?),
            Long("binary") => options.binary = true,
            Long("header") => options.headers.push(value(&mut parser, "header", values::header)?),
            Long("header-file") => options.header_file = Some(parser.value().map_err(one_line)?),
            Long("origin") => options.origin = Some(value(&mut parser, "origin", values::origin)?),
            Long("subprotocol") => options.subprotocols.push(value(&mut parser, "subprotocol", text)?),
            Long("timeout") => options.timeout = value(&mut parser, "timeout", values::timeout)?,
            Long("max-message") => options.max_message = value(&mut parser, "max-message", values::size)?,
            Long("ping") => options.ping = value(&mut parser, "ping", values::duration)?,
            Long(name) => return Err(unknown_option(name, &OPTIONS)),
            // A forgotten quote makes a second one of a header's value.
            Value(word) => url = only_url(url, word)?,
            other => return Err(one_line(other.unexpected())),
        }
    }
    options.url = url.ok_or("no URL: threadws connect ws://127.0.0.1:8005/")?;
    options.log = log.resolve(env_log)?;
    Ok(Command::Connect(Box::new(options)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_help, command};
    use super::*;

    fn options(line: &str) -> ConnectOptions {
        match command(line) {
            Ok(Command::Connect(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_option_is_understood() {
        assert_eq!(options("connect ws://a/"), ConnectOptions::new("ws://a/".to_owned()));
        let line = "connect --once --expect yes --binary --header=x-a:1 --header X-B:2:3 ws://a/ --header-file f \
                    --origin https://a.example --subprotocol b --subprotocol a --timeout 3s --ping 0 \
                    --max-message 64KiB --log threadws=debug";
        let expected = ConnectOptions {
            url: "ws://a/".to_owned(),
            headers: vec![("x-a".to_owned(), "1".to_owned()), ("X-B".to_owned(), "2:3".to_owned())],
            header_file: Some("f".into()),
            origin: Some("https://a.example".to_owned()),
            subprotocols: vec!["b".to_owned(), "a".to_owned()],
            timeout: Duration::from_secs(3),
            ping: Duration::ZERO,
            max_message: 64 * 1024,
            once: true,
            expect: Some("yes".to_owned()),
            binary: true,
            log: LogFilter::parse("threadws=debug").expect("a filter"),
        };
        assert_eq!(options(line), expected);
        for line in ["connect -h", "connect ws://a/ --help", "connect --once -h --nonsense"] {
            assert_eq!(command(line), Ok(Command::ConnectHelp), "{line}");
        }
        assert_eq!(
            command("--echo connect ws://a/").map_err(|_| ()),
            Err(()),
            "it is the first word or none"
        );
    }

    #[test]
    fn help_names_every_option_with_its_default_in_less_than_80_columns() {
        check_help(HELP, "Usage: threadws connect ", &OPTIONS);
        let defaults = ConnectOptions::new(String::new());
        assert!(HELP.contains(&format!("1m [default: {}s]", defaults.timeout.as_secs())));
        assert!(HELP.contains(&format!("[default: {}s]", defaults.ping.as_secs())));
        assert!(HELP.contains(&format!("[default: {}MiB]", defaults.max_message >> 20)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_a_secret_in_the_error() {
        let lines = [
            "connect",
            "connect --once",
            "connect ws://a/ secret",
            "connect ws://user:secret@a/ ws://user:secret@b/",
            "connect --header secret ws://a/",
            "connect --header :secret ws://a/",
            "connect --heder=Authorization:secret ws://a/",
            "connect --timeout 0 ws://a/",
            "connect --timeout 3 ws://a/",
            "connect --origin a ws://a/",
            "connect --echo ws://a/",
            "connect -V",
            "ws://user:secret@a/",
            "serve ws://user:secret@a/",
        ];
        for line in lines {
            let error = command(line).expect_err(line);
            assert!(
                !error.contains("secret") && !error.contains('\n') && !error.is_empty(),
                "{line}: {error}"
            );
        }
        let error = command("connect --heder=x ws://a/").expect_err("misspelt");
        assert!(error.ends_with("did you mean '--header'?"), "{error}");
        assert!(command("ws://a/").expect_err("no command").contains("threadws connect"));
    }
}
