//! The command line of `threadws bench`. No I/O.

use super::{Command, LogChoice, LogOption, one_line, only_url, unknown_option, value};
use crate::args::tls::{TlsOption, TlsOptions};
use crate::args::values;
use crate::log_filter::LogFilter;
use lexopt::prelude::{Long, Short, Value};
use std::ffi::OsString;
use std::time::Duration;

/// The options of `threadws bench`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BenchOptions {
    /// May contain a password, so it is never shown.
    pub(crate) url: String,
    pub(crate) clients: usize,
    pub(crate) size: usize,
    pub(crate) in_flight: usize,
    pub(crate) duration: Duration,
    pub(crate) binary: bool,
    pub(crate) json: bool,
    pub(crate) allow_remote: bool,
    pub(crate) tls: TlsOptions,
    pub(crate) log: LogFilter,
}

/// The bytes in flight of one client, with about this much more for each message. They may all be in memory.
const MAX_IN_FLIGHT: usize = 1 << 30;
const PER_MESSAGE: usize = 256;

pub(crate) const HELP: &str = concat!(
    "\
Usage: threadws bench [OPTIONS] URL

Loads a WebSocket echo server and reports how many messages per second it sends
back, and how long each takes. Each client has a thread and keeps a number of
messages in flight. The order, the length and the content of each message that
comes back are checked. 'threadws --echo --every 0' is such a server.

Examples:
  threadws bench ws://127.0.0.1:8005/
  threadws bench --clients 500 --size 1KiB --duration 30s ws://127.0.0.1:8005/
  threadws bench --in-flight 64 --binary --json ws://127.0.0.1:8005/

Load:
  --clients N           connections at a time [default: 50]
  --size SIZE           payload of a message: 32, 64KiB, 16MiB [default: 32]
  --in-flight N         messages that each client has under way [default: 1]
  --duration DURATION   how long to send: 500ms, 30s, 1m [default: 10s]
  --binary              send binary messages instead of text [default: off]
  --allow-remote        allow a server on another machine: only load one whose
                        owner agrees [default: loopback only]

",
    super::tls::tls_help!(),
    "
Report:
  --json                print one JSON object instead of tables [default: off]

Log, on stderr:
  --log LEVEL           off, error, warn, info, debug or trace, or a list such
                        as info,threadws=debug
                        [env: THREADWS_LOG] [default: info]
  -q, --quiet           same as --log warn
  -v, --verbose         same as --log debug; -vv is --log trace

Other:
  -h, --help            print this help

Server and clients share the machine: compare two servers under the same load,
and not with figures from elsewhere. SIGINT or SIGTERM ends the load early and
reports the messages up to then.

Exit status:
  0    every message came back as it was sent
  1    a message did not come back as it was sent, or a connection failed
  2    the command line is wrong, the server may not be loaded, or the load may
       need more memory than there is
  130  stopped at once, by a second signal
"
);

const OPTIONS: [&str; 16] = [
    "clients",
    "size",
    "in-flight",
    "duration",
    "binary",
    "allow-remote",
    "json",
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

impl BenchOptions {
    fn new(url: String) -> Self {
        Self {
            url,
            clients: 50,
            size: 32,
            in_flight: 1,
            duration: Duration::from_secs(10),
            binary: false,
            json: false,
            allow_remote: false,
            tls: TlsOptions::default(),
            log: LogFilter::level(log::LevelFilter::Info),
        }
    }
}

/// Parses the arguments after `bench`. No error shows the URL.
pub(super) fn parse(mut parser: lexopt::Parser, env_log: Option<OsString>) -> Result<Command, String> {
    let mut options = BenchOptions::new(String::new());
    let mut url = None;
    let mut log = LogChoice::default();
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
            Long("clients") => options.clients = value(&mut parser, "clients", values::count)?,
            Long("size") => options.size = value(&mut parser, "size", values::size)?,
            Long("in-flight") => options.in_flight = value(&mut parser, "in-flight", values::count)?,
            Long("duration") => options.duration = value(&mut parser, "duration", values::timeout)?,
            Long("binary") => options.binary = true,
            Long("allow-remote") => options.allow_remote = true,
            Long("json") => options.json = true,
            Long(name) => return Err(unknown_option(name, &OPTIONS)),
            Value(word) => url = only_url(url, word)?,
            other => return Err(one_line(other.unexpected())),
        }
    }
    if options.size.saturating_add(PER_MESSAGE).saturating_mul(options.in_flight) > MAX_IN_FLIGHT {
        return Err("--in-flight messages of --size take more than 1 GiB for each client".to_owned());
    }
    options.url = url.ok_or("no URL: threadws bench ws://127.0.0.1:8005/")?;
    options.tls.check()?;
    options.log = log.resolve(env_log)?;
    Ok(Command::Bench(Box::new(options)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_help, command};
    use super::*;

    fn options(line: &str) -> BenchOptions {
        match command(line) {
            Ok(Command::Bench(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_option_is_parsed() {
        assert_eq!(options("bench ws://a/"), BenchOptions::new("ws://a/".to_owned()));
        let line = "bench --clients 9 --size 64KiB --in-flight 3 --duration 500ms --binary ws://a/ --json \
                    --allow-remote -q -k";
        let expected = BenchOptions {
            url: "ws://a/".to_owned(),
            clients: 9,
            size: 64 * 1024,
            in_flight: 3,
            duration: Duration::from_millis(500),
            binary: true,
            json: true,
            allow_remote: true,
            tls: TlsOptions { insecure: true, ..TlsOptions::default() },
            log: LogFilter::level(log::LevelFilter::Warn),
        };
        assert_eq!(options(line), expected);
        for line in ["bench -h", "bench ws://a/ --help", "bench --json -h --nonsense"] {
            assert_eq!(command(line), Ok(Command::Print(HELP)), "{line}");
        }
    }

    #[test]
    fn help_names_every_option_with_its_default_in_less_than_80_columns() {
        check_help(HELP, "Usage: threadws bench ", &OPTIONS);
        let defaults = BenchOptions::new(String::new());
        assert!(HELP.contains(&format!("at a time [default: {}]", defaults.clients)));
        assert!(HELP.contains(&format!("16MiB [default: {}]", defaults.size)));
        assert!(HELP.contains(&format!("under way [default: {}]", defaults.in_flight)));
        assert!(HELP.contains(&format!("1m [default: {}s]", defaults.duration.as_secs())));
    }

    #[test]
    fn a_wrong_command_line_is_refused_in_one_line() {
        let lines = [
            "bench",
            "bench --json",
            "bench ws://user:secret@a/ ws://user:secret@b/",
            "bench --clients 0 ws://a/",
            "bench --in-flight 0 ws://a/",
            "bench --size 0 ws://a/",
            "bench --size 1GiB ws://a/",
            "bench --size 18446744073709551615 ws://a/",
            "bench --in-flight 18446744073709551615 ws://a/",
            "bench --size 1KiB --in-flight 1000000 ws://a/",
            "bench --key secret wss://a/",
            "bench --duration 0 ws://a/",
            "bench --duration 3 ws://a/",
            "bench --echo ws://a/",
            "bench --json=yes ws://a/",
            "--echo bench ws://a/",
        ];
        for line in lines {
            let error = command(line).expect_err(line);
            assert!(
                !error.contains("secret") && !error.contains('\n') && !error.is_empty(),
                "{line}: {error}"
            );
        }
    }
}
