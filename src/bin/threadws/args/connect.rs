//! The command line of `threadws connect`. No I/O.

use super::{Command, LogChoice, LogOption, check_deflate, one_line, only_url, unknown_option, value};
use crate::args::tls::{TlsOption, TlsOptions};
use crate::args::values;
use crate::log_filter::LogFilter;
use lexopt::prelude::{Long, Short, Value};
use std::ffi::OsString;
use std::time::Duration;

/// The options of `threadws connect`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConnectOptions {
    /// May contain a password, so it is never shown.
    pub(crate) url: String,
    /// Names and values. The values are never shown.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) header_file: Option<OsString>,
    pub(crate) origin: Option<String>,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) max_redirects: usize,
    pub(crate) deflate: bool,
    /// Messages to send first.
    pub(crate) execute: Vec<String>,
    pub(crate) times: bool,
    pub(crate) timeout: Duration,
    pub(crate) ping: Option<Duration>,
    pub(crate) max_message: usize,
    pub(crate) message_timeout: Duration,
    pub(crate) once: bool,
    pub(crate) expect: Option<String>,
    pub(crate) no_close: bool,
    pub(crate) binary: bool,
    pub(crate) tls: TlsOptions,
    pub(crate) log: LogFilter,
}

pub(crate) const HELP: &str = concat!(
    "\
Usage: threadws connect [OPTIONS] URL

Connects to a WebSocket server. Each line of stdin is sent as a text message,
or as a binary message if it is not UTF-8. Each message from the server is
printed on stdout: text as it is, with control characters escaped if stdout is
a terminal; binary as hexadecimal digits. At the end of stdin, the connection
is closed; replies are printed as long as they keep arriving.

If stdin and stdout are a terminal, the line can be edited while messages
arrive, and has a history. '>' is a sent message, '<' a received one. A line
that begins with a slash is a command: /ping, /close CODE REASON, /help, or
//TEXT to send /TEXT. Ctrl-D on an empty line ends the input.

URL is ws://HOST:PORT/PATH or ws+unix:/SOCKET:/PATH. Without a scheme it is
ws://, and a port alone is one of this machine.

Examples:
  threadws connect ws://127.0.0.1:8005/
  threadws connect :8005/chat
  echo hello | threadws connect --once ws://127.0.0.1:8005/
  threadws connect --expect ready --timeout 30s ws://127.0.0.1:8005/
  echo subscribe | threadws connect --no-close ws://127.0.0.1:8005/
  threadws connect ws+unix:/run/app.sock:/path
  threadws connect --cacert ca.pem wss://intranet.example/

Messages:
  --once                send all of stdin as one message, without the last
                        line end; print one reply, then close [default: off]
  --expect TEXT         print messages until a text message contains TEXT,
                        then close; the end of stdin does not close
                        [default: none]
  --no-close            stay connected at the end of stdin, until the server
                        closes or a signal arrives [default: off]
  --binary              print binary messages as raw bytes with nothing
                        between them; with --once, send stdin as a binary
                        message [default: off]
  -x, --execute TEXT    send TEXT before the lines of stdin; with --once,
                        instead of stdin; repeatable [default: none]
  --times               print the time before each message, in UTC
                        [default: off]

Handshake:
  -c, --connect URL     the same as URL alone
  -H, --header 'NAME: VALUE'
                        add a header to the request; repeatable
                        [default: none]
  --header-file FILE    add the headers in a file, one per line; other users
                        of the machine can see arguments, but not this file
                        [default: none]
  -o, --origin ORIGIN   send an Origin header, as a browser does
                        [default: none]
  -s, --subprotocol NAME
                        offer a subprotocol, the preferred one first;
                        repeatable [default: none]
  --max-redirects N     follow up to this many redirects; Authorization and
                        Cookie are not sent to another origin [default: 0]
  --deflate             offer compression (permessage-deflate); both sides
                        compress if the server accepts it [default: off]

The short options mean the same as in wscat. Some differ from curl, where -s is
--silent (here -q), -o names an output file, and -x a proxy.

A user and password in the URL are sent as Basic authorization: percent-encode
special characters in them. To hide them from other users of the machine, use
--header-file instead.

",
    super::tls::tls_help!(),
    "
Limits:
  --timeout DURATION    for the handshake, for the message that --once or
                        --expect waits for, and for each message after the
                        end of stdin: 500ms, 3s, 1m [default: 10s]
  --max-message SIZE    largest message to accept: 64KiB, 16MiB, or a number
                        of bytes; a larger one closes with 1009
                        [default: 1MiB]
  --message-timeout DURATION
                        how long a message may take for each MiB of it that
                        has begun to arrive, before the connection is closed
                        with 1008 [default: 30s]
  --ping DURATION       how long the server may be silent before it gets a
                        ping, and how long it has to answer; 0 turns it off
                        [default: 20s]

Log, on stderr:
  --log LEVEL           off, error, warn, info, debug or trace, or a list such
                        as info,threadws=debug
                        [env: THREADWS_LOG] [default: info]
  -q, --quiet           same as --log warn
  -v, --verbose         same as --log debug; -vv is --log trace

Other:
  -h, --help            print this help

Exit status:
  0    success; also after SIGINT or SIGTERM, which close the connection
  1    the connection was refused or failed, --once got no reply, part of stdin
       was not sent, or a received message was not printed
  2    the command line is wrong
  3    --expect: no message contained the text
  130  stopped at once, by a second signal or by one before it was connected
"
);

const OPTIONS: [&str; 26] = [
    "once",
    "expect",
    "no-close",
    "binary",
    "execute",
    "times",
    "connect",
    "header",
    "header-file",
    "origin",
    "subprotocol",
    "max-redirects",
    "deflate",
    "timeout",
    "max-message",
    "message-timeout",
    "ping",
    "cacert",
    "cert",
    "key",
    "insecure",
    "server-name",
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
            max_redirects: 0,
            deflate: false,
            execute: Vec::new(),
            times: false,
            timeout: Duration::from_secs(10),
            ping: Some(Duration::from_secs(20)),
            max_message: 1 << 20,
            message_timeout: Duration::from_secs(30),
            once: false,
            expect: None,
            no_close: false,
            binary: false,
            tls: TlsOptions::default(),
            log: LogFilter::level(log::LevelFilter::Info),
        }
    }

    /// Whether the command waits for a certain message, and so for `timeout` at most.
    pub(crate) fn has_deadline(&self) -> bool {
        self.once || self.expect.is_some()
    }
}

/// Parses the arguments after `connect`. No error shows the URL, a header's value, or an argument that may be either.
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
        if let Some(option) = TlsOption::of(&arg) {
            options.tls.take(option, &mut parser)?;
            continue;
        }
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(HELP)),
            Long("once") => options.once = true,
            Long("expect") => options.expect = Some(value(&mut parser, "expect", text)?),
            Long("no-close") => options.no_close = true,
            Long("max-redirects") => {
                options.max_redirects = value(&mut parser, "max-redirects", values::number)?;
            }
            Long("deflate") => options.deflate = true,
            Long("binary") => options.binary = true,
            Long("times") => options.times = true,
            Short('x') | Long("execute") => options.execute.push(value(&mut parser, "execute", text)?),
            Short('H') | Long("header") => {
                options.headers.push(value(&mut parser, "header", values::header)?)
            }
            Long("header-file") => options.header_file = Some(parser.value().map_err(one_line)?),
            Short('o') | Long("origin") => {
                options.origin = Some(value(&mut parser, "origin", values::origin)?)
            }
            Short('s') | Long("subprotocol") => {
                options.subprotocols.push(value(&mut parser, "subprotocol", text)?);
            }
            Short('c') | Long("connect") => url = only_url(url, parser.value().map_err(one_line)?)?,
            Long("timeout") => options.timeout = value(&mut parser, "timeout", values::timeout)?,
            Long("max-message") => options.max_message = value(&mut parser, "max-message", values::size)?,
            Long("message-timeout") => {
                options.message_timeout = value(&mut parser, "message-timeout", values::timeout)?;
            }
            Long("ping") => options.ping = value(&mut parser, "ping", values::duration_or_off)?,
            Long(name) => match elsewhere(name) {
                Some(meant) => return Err(format!("unknown option '--{name}'; {meant}")),
                None => return Err(unknown_option(name, &OPTIONS)),
            },
            // If the user forgets a quote, part of a header's value arrives here.
            Value(word) => url = only_url(url, word)?,
            Short(letter) => {
                let meant = elsewhere(letter.encode_utf8(&mut [0; 4])).map(|meant| format!("; {meant}"));
                return Err(format!(
                    "unknown option '-{}'{}",
                    letter.escape_debug(),
                    meant.unwrap_or_default()
                ));
            }
        }
    }
    if options.once && options.no_close {
        return Err("--once closes after the reply: --no-close cannot be used with it".to_owned());
    }
    options.url = url.ok_or("no URL: threadws connect ws://127.0.0.1:8005/")?;
    options.tls.check()?;
    check_deflate(options.deflate)?;
    options.log = log.resolve(env_log)?;
    Ok(Command::Connect(Box::new(options)))
}

/// Returns how this command does what an option of another client does: of wscat, curl or websocat.
fn elsewhere(option: &str) -> Option<&'static str> {
    Some(match option {
        "1" | "one-message" => "use --once",
        "A" | "user-agent" | "b" | "cookie" | "e" | "referer" => "use --header 'NAME: VALUE'",
        "n" | "no-check" => "use --insecure",
        "ca" => "use --cacert FILE",
        "L" | "location" => "use --max-redirects N",
        "l" | "listen" => "a server is 'threadws --listen PORT'",
        "m" | "max-time" | "w" | "wait" => "use --timeout DURATION",
        "no-color" => "set the variable NO_COLOR",
        "P" | "show-ping-pong" => "-vv logs pings and pongs",
        "slash" => "the commands are always there on a terminal",
        "u" | "user" | "auth" => "put the user into the URL, or use --header-file FILE",
        _ => return None,
    })
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
    fn every_option_is_parsed() {
        assert_eq!(options("connect ws://a/"), ConnectOptions::new("ws://a/".to_owned()));
        let line = "connect --once --expect yes --binary --header=x-a:1 --header X-B:2:3 ws://a/ --header-file f \
                    --origin https://a.example --subprotocol b --subprotocol a --max-redirects 5 --timeout 3s --ping 0 \
                    --max-message 64KiB --message-timeout 2m --log threadws=debug \
                    --execute hi -x there --times --deflate \
                    --cacert ca.pem --cert a.pem --key a.key --server-name b.example";
        let expected = ConnectOptions {
            url: "ws://a/".to_owned(),
            headers: vec![("x-a".to_owned(), "1".to_owned()), ("X-B".to_owned(), "2:3".to_owned())],
            header_file: Some("f".into()),
            origin: Some("https://a.example".to_owned()),
            subprotocols: vec!["b".to_owned(), "a".to_owned()],
            max_redirects: 5,
            deflate: true,
            execute: vec!["hi".to_owned(), "there".to_owned()],
            times: true,
            timeout: Duration::from_secs(3),
            ping: None,
            max_message: 64 * 1024,
            message_timeout: Duration::from_secs(120),
            once: true,
            expect: Some("yes".to_owned()),
            no_close: false,
            binary: true,
            tls: TlsOptions {
                cacert: Some("ca.pem".into()),
                cert: Some("a.pem".into()),
                key: Some("a.key".into()),
                insecure: false,
                server_name: Some("b.example".to_owned()),
            },
            log: LogFilter::parse("threadws=debug").expect("a filter"),
        };
        assert_eq!(options(line), expected);
        assert!(options("connect -k wss://a/").tls.insecure);
        for line in ["connect -h", "connect ws://a/ --help", "connect --once -h --nonsense"] {
            assert_eq!(command(line), Ok(Command::Print(HELP)), "{line}");
        }
        assert_eq!(
            command("--echo connect ws://a/").map_err(|_| ()),
            Err(()),
            "the command must be the first word"
        );
    }

    #[test]
    fn short_options_mean_what_they_mean_in_wscat() {
        let long = options("connect --connect a --header x:y --subprotocol b --origin https://c --execute d");
        assert_eq!(options("connect -c a -Hx:y -s b -o https://c -xd"), long);
        assert_eq!(long.url, "ws://a");
        assert!(command("connect -c a b").expect_err("two").contains("more than one URL"));
    }

    #[test]
    fn options_of_other_clients_are_answered_with_a_hint() {
        for (line, hint) in [
            ("-n", "unknown option '-n'; use --insecure"),
            ("--ca", "unknown option '--ca'; use --cacert FILE"),
            ("-u secret", "unknown option '-u'; put the user into the URL, or use --header-file FILE"),
            (
                "--auth=secret",
                "unknown option '--auth'; put the user into the URL, or use --header-file FILE",
            ),
            ("-L", "unknown option '-L'; use --max-redirects N"),
            ("-Z", "unknown option '-Z'"),
            ("--protocol b", "unknown option '--protocol'; did you mean '--subprotocol'?"),
        ] {
            assert_eq!(command(&format!("connect a {line}")), Err(hint.to_owned()), "{line}");
        }
    }

    #[test]
    fn help_names_every_option_with_its_default_in_less_than_80_columns() {
        check_help(HELP, "Usage: threadws connect ", &OPTIONS);
        let defaults = ConnectOptions::new(String::new());
        assert!(HELP.contains(&format!("1m [default: {}s]", defaults.timeout.as_secs())));
        assert!(HELP.contains(&format!("another origin [default: {}]", defaults.max_redirects)));
        assert!(options("connect --no-close ws://a/").no_close);
        assert!(HELP.contains(&format!("[default: {}s]", defaults.ping.expect("on").as_secs())));
        assert!(HELP.contains(&format!("[default: {}MiB]", defaults.max_message >> 20)));
        assert!(HELP.contains(&format!("with 1008 [default: {}s]", defaults.message_timeout.as_secs())));
    }

    #[test]
    fn no_error_of_the_command_line_shows_a_secret() {
        let lines = [
            "connect",
            "connect --once",
            "connect ws://a/ secret",
            "connect ws://user:secret@a/ ws://user:secret@b/",
            "connect --header secret ws://a/",
            "connect --header :secret ws://a/",
            "connect --heder=Authorization:secret ws://a/",
            "connect --key secret wss://a/",
            "connect --insecure --cacert secret wss://a/",
            "connect --timeout 0 ws://a/",
            "connect --timeout 3 ws://a/",
            "connect --origin a ws://a/",
            "connect --once --no-close ws://a/",
            "connect --max-redirects -1 ws://a/",
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
