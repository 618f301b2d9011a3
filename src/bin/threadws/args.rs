//! Parses the command line, and refuses a wrong one before anything starts. No I/O. Each command has a file; this one
//! has the parts that all commands share.

pub(crate) mod bench;
pub(crate) mod connect;
pub(crate) mod serve;
pub(crate) mod tls;
pub(crate) mod values;

use crate::log_filter::LogFilter;
use lexopt::Arg;
use lexopt::prelude::{Long, Short, ValueExt};
use log::LevelFilter;
use std::ffi::OsString;

/// A parsed command line.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Prints the help or the version.
    Print(&'static str),
    Serve(Box<serve::ServeOptions>),
    Connect(Box<connect::ConnectOptions>),
    Bench(Box<bench::BenchOptions>),
}

pub(crate) const VERSION: &str = concat!("threadws ", env!("CARGO_PKG_VERSION"), "\n");

/// Parses the command line, without the program's name, and the value of `THREADWS_LOG`.
///
/// # Errors
///
/// One line that says which argument is wrong.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    env_log: Option<OsString>,
) -> Result<Command, String> {
    type Parse = fn(lexopt::Parser, Option<OsString>) -> Result<Command, String>;
    let mut args = args.into_iter().peekable();
    let command: Option<Parse> = match args.peek().and_then(|word| word.to_str()) {
        Some("serve") => Some(serve::parse),
        Some("connect") => Some(connect::parse),
        Some("bench") => Some(bench::parse),
        _ => None,
    };
    if command.is_some() {
        args.next();
    }
    command.unwrap_or(serve::parse)(lexopt::Parser::from_args(args), env_log)
}

/// The options about the log, which every command has.
enum LogOption {
    Log,
    Quiet,
    Verbose,
}

impl LogOption {
    fn of(arg: &Arg<'_>) -> Option<Self> {
        match arg {
            Long("log") => Some(Self::Log),
            Short('q') | Long("quiet") => Some(Self::Quiet),
            Short('v') | Long("verbose") => Some(Self::Verbose),
            _ => None,
        }
    }
}

/// Finds the log filter: the last log option, otherwise `THREADWS_LOG`, otherwise `info`.
#[derive(Default)]
struct LogChoice {
    filter: Option<LogFilter>,
    verbose: u32,
}

impl LogChoice {
    fn take(&mut self, option: LogOption, parser: &mut lexopt::Parser) -> Result<(), String> {
        self.filter = Some(match option {
            LogOption::Log => value(parser, "log", LogFilter::parse)?,
            LogOption::Quiet => LogFilter::level(LevelFilter::Warn),
            LogOption::Verbose => {
                self.verbose += 1;
                LogFilter::level(if self.verbose == 1 { LevelFilter::Debug } else { LevelFilter::Trace })
            }
        });
        Ok(())
    }

    fn resolve(self, env_log: Option<OsString>) -> Result<LogFilter, String> {
        match (self.filter, env_log.filter(|value| !value.is_empty())) {
            (Some(filter), _) => Ok(filter),
            (None, Some(text)) => {
                LogFilter::parse(&text.to_string_lossy()).map_err(|error| format!("THREADWS_LOG: {error}"))
            }
            (None, None) => Ok(LogFilter::level(LevelFilter::Info)),
        }
    }
}

fn check_deflate(deflate: bool) -> Result<(), String> {
    if deflate && !cfg!(feature = "deflate") {
        Err("this binary was built without the feature deflate".to_owned())
    } else {
        Ok(())
    }
}

fn value<T>(
    parser: &mut lexopt::Parser,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, String> {
    let text = parser.value().map_err(one_line)?.string().map_err(one_line)?;
    read(&text).map_err(|error| format!("--{name}: {error}"))
}

/// Takes the URL of a command, which needs no scheme. A second URL is an error.
fn only_url(before: Option<String>, word: OsString) -> Result<Option<String>, String> {
    if before.is_some() {
        return Err("more than one URL".to_owned());
    }
    word.string().map(values::url).map(Some).map_err(|_| "the URL is not UTF-8".to_owned())
}

/// Keeps the error on one line: it may show an argument, which may contain a line break.
fn one_line(error: lexopt::Error) -> String {
    error.to_string().replace(|c: char| c.is_control(), "?")
}

fn unknown_option(name: &str, options: &[&'static str]) -> String {
    let shown = name.escape_debug();
    match nearest(name, options) {
        Some(near) => format!("unknown option '--{shown}'; did you mean '--{near}'?"),
        None => format!("unknown option '--{shown}'"),
    }
}

/// Returns the option that begins with `name`, otherwise the one that differs from it by the fewest typing errors.
fn nearest(name: &str, options: &[&'static str]) -> Option<&'static str> {
    let options = options.iter().copied();
    let by_start = options.clone().find(|option| name.len() >= 2 && option.starts_with(name));
    by_start.or_else(|| {
        let near = options.map(|option| (typing_errors(name, option), option)).min()?;
        // More than one error in three letters is another word.
        (near.0 <= near.1.len().div_ceil(3)).then_some(near.1)
    })
}

/// Counts the letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn typing_errors(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn command(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from), None)
    }

    /// Checks that the help has every option, and fits into a terminal.
    pub(super) fn check_help(help: &str, start: &str, options: &[&str]) {
        assert!(help.starts_with(start));
        for name in options {
            assert!(help.contains(&format!("--{name}")), "{name}");
        }
        for line in help.lines() {
            assert!(line.chars().count() < 80, "{line}");
        }
    }

    #[test]
    fn an_unknown_option_is_answered_with_the_nearest_one() {
        let cases = [
            ("--ehco", "--echo"),
            ("--eco", "--echo"),
            ("--boradcast", "--broadcast"),
            ("--trust-proxies", "--trust-proxy"),
            ("--max-messages", "--max-message"),
            ("--verb", "--verbose"),
            ("--no-pages", "--no-page"),
            ("--lisen=x", "--listen"),
        ];
        for (line, near) in cases {
            let error = command(line).expect_err(line);
            assert!(error.ends_with(&format!("did you mean '{near}'?")), "{error}");
        }
        assert_eq!(command("--xyzzy"), Err("unknown option '--xyzzy'".to_owned()));
        let error = command("--new\u{1b}[2J").expect_err("unknown");
        assert!(!error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_default() {
        let log = |line: &str, env: &str| match parse(
            line.split_whitespace().map(OsString::from),
            Some(env.into()),
        )
        .expect(line)
        {
            Command::Serve(options) => options.log,
            other => panic!("{other:?}"),
        };
        assert_eq!(log("", "debug"), LogFilter::level(LevelFilter::Debug));
        assert_eq!(log("", ""), LogFilter::level(LevelFilter::Info));
        assert_eq!(log("--log error", "debug"), LogFilter::level(LevelFilter::Error));
        assert_eq!(log("-q", "debug"), LogFilter::level(LevelFilter::Warn));
        assert_eq!(log("-v", "error"), LogFilter::level(LevelFilter::Debug));
        assert_eq!(log("-vv", "error"), LogFilter::level(LevelFilter::Trace));
        assert_eq!(log("-v --log off", "error"), LogFilter::level(LevelFilter::Off));
        let error = parse([], Some("inof".into())).expect_err("a misspelt level");
        assert!(error.starts_with("THREADWS_LOG: "), "{error}");
    }
}
