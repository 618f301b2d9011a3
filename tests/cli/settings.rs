//! Every option of the binary refuses the values that can never work: by its name, with exit status 2, and at the start.

#![cfg(feature = "cli")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use support::{PATIENCE, Process, watchdog};

/// An option, and arguments that must fail. The error has the option's name, or the word that follows it after a colon. An
/// option without arguments can be given no wrong value.
type Row = (&'static str, &'static [&'static [&'static str]]);

const SERVE: &[Row] = &[
    ("every", &[&["--every", "3"], &["--every", "9000h"], &["--every", "-1s"]]),
    // Any text can be sent.
    ("message", &[]),
    ("echo", &[&["--echo", "--broadcast"]]),
    ("broadcast", &[&["--broadcast", "--topics"]]),
    ("topics", &[&["--topics", "--path", "/ws"]]),
    ("no-page", &[]),
    ("listen", &[&["--listen", "65536"], &["--listen", "127.0.0.1"], &["--listen", "127.0.0.1:65536"]]),
    (
        "path",
        &[
            &["--path", "ws"],
            &["--path", "/a b"],
            &["--path", "/a<b"],
            &["--path", "/{room}"],
            &["--path", "/a/../b"],
            &["--path", "/healthz"],
            &["--path", "/metrics"],
        ],
    ),
    (
        "subprotocol",
        &[&["--subprotocol", "a b"], &["--subprotocol", ""], &["--subprotocol", "a", "--subprotocol", "a"]],
    ),
    (
        "allow-origin: origin",
        &[
            &["--allow-origin", "example.com"],
            &["--allow-origin", "*"],
            &["--allow-origin", "https://*"],
            &["--allow-origin", "https://"],
            &["--allow-origin", "https://a.example/*"],
            &["--allow-origin", "https://a.example:http"],
        ],
    ),
    (
        "trust-proxy",
        &[
            &["--trust-proxy", "localhost"],
            &["--trust-proxy", "10.0.0.0/33"],
            &["--trust-proxy", "any", "--trust-proxy", "loopback"],
        ],
    ),
    // A file that cannot be used is a failure (exit status 1).
    ("cert", &[]),
    ("key", &[&["--key", "key.pem"]]),
    ("client-ca", &[&["--client-ca", "ca.pem"]]),
    ("proxy-protocol: proxy_protocol", &[&["--proxy-protocol", "--trust-proxy", "none"]]),
    ("max-clients", &[&["--max-clients", "0"], &["--max-clients", "-1"]]),
    ("max-per-address", &[&["--max-per-address", "0"]]),
    (
        "handshake-rate: rate",
        &[
            &["--handshake-rate", "0/1s"],
            &["--handshake-rate", "1/0"],
            &["--handshake-rate", "4294967295/1ms"],
            &["--handshake-rate", "1/9000h"],
        ],
    ),
    ("message-rate: rate", &[&["--message-rate", "0/1s"], &["--message-rate", "4294967295/1ms"]]),
    ("max-lifetime", &[&["--max-lifetime", "9000h"]]),
    ("message-timeout", &[&["--message-timeout", "0"], &["--message-timeout", "9000h"]]),
    ("idle-timeout", &[&["--idle-timeout", "9000h"]]),
    ("max-message", &[&["--max-message", "0"], &["--max-message", "1M"]]),
    ("max-head: max_head_size", &[&["--max-head", "0"], &["--max-head", "1023"]]),
    ("slow-peer", &[&["--slow-peer", "wait"]]),
    ("ping", &[&["--ping", "9000h"]]),
    ("events", &[]),
    ("workers", &[&["--events", "--workers", "0"], &["--workers", "2"]]),
    ("deflate", &[]),
    ("deflate-threshold", &[&["--deflate-threshold", "1"], &["--deflate", "--deflate-threshold", "0"]]),
    ("deflate-takeover", &[&["--deflate-takeover"]]),
    ("log", &[&["--log", "inof"]]),
    ("quiet", &[]),
    ("verbose", &[]),
    ("help", &[]),
    ("version", &[]),
];

const CONNECT: &[Row] = &[
    ("once", &[]),
    ("expect", &[]),
    ("no-close", &[&["--once", "--no-close"]]),
    ("max-redirects", &[&["--max-redirects", "-1"], &["--max-redirects", "18446744073709551616"]]),
    ("binary", &[]),
    ("connect: URL", &[&["--connect", "ws://a.example/"]]),
    ("execute", &[]),
    ("times", &[]),
    ("deflate", &[]),
    (
        "header",
        &[
            &["--header", "x"],
            &["--header", "bad name: x"],
            &["--header", "Host: x"],
            &["--origin", "https://a.example", "--header", "Origin: https://b.example"],
        ],
    ),
    ("header-file", &[&["--header-file", "/dev/zero"]]),
    ("origin", &[&["--origin", "a.example"], &["--origin", "https://a b"]]),
    (
        "subprotocol",
        &[&["--subprotocol", "a b"], &["--subprotocol", ""], &["--subprotocol", "a", "--subprotocol", "a"]],
    ),
    ("timeout", &[&["--timeout", "0"], &["--timeout", "9000h"]]),
    ("max-message", &[&["--max-message", "0"]]),
    ("message-timeout", &[&["--message-timeout", "0"]]),
    ("ping", &[&["--ping", "9000h"]]),
    ("cacert", &[&["--cacert", "ca.pem", "--insecure"]]),
    ("cert", &[]),
    ("key", &[&["--key", "key.pem"]]),
    ("server-name", &[&["--server-name", "a b"], &["--server-name", ""]]),
    ("insecure", &[&["-k", "--cacert", "ca.pem"]]),
    ("log", &[&["--log", "inof"]]),
    ("quiet", &[]),
    ("verbose", &[]),
    ("help", &[]),
];

const BENCH: &[Row] = &[
    ("clients", &[&["--clients", "0"]]),
    ("size", &[&["--size", "0"], &["--size", "18446744073709551615"], &["--size", "999999999999GiB"]]),
    ("in-flight", &[&["--in-flight", "0"], &["--in-flight", "18446744073709551615"]]),
    ("duration", &[&["--duration", "0"], &["--duration", "9000h"]]),
    ("binary", &[]),
    ("allow-remote", &[]),
    ("json", &[]),
    ("cacert", &[&["--cacert", "ca.pem", "--insecure"]]),
    ("cert", &[]),
    ("key", &[&["--key", "key.pem"]]),
    ("server-name", &[&["--server-name", "a b"], &["--server-name", ""]]),
    ("insecure", &[&["-k", "--cacert", "ca.pem"]]),
    ("log", &[&["--log", "inof"]]),
    ("quiet", &[]),
    ("verbose", &[]),
    ("help", &[]),
];

fn threadws(command: &str) -> Command {
    let mut threadws = Command::new(env!("CARGO_BIN_EXE_threadws"));
    threadws.arg(command).env_remove("THREADWS_LOG").stdin(Stdio::null());
    threadws
}

/// Returns the long options that the help of a command has.
fn options(command: &str) -> BTreeSet<String> {
    let output = threadws(command).arg("--help").output().expect("the binary runs");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let entries = help.lines().filter(|line| line.starts_with("  -"));
    let names = entries.filter_map(|line| line.split_once("--")?.1.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn values_that_can_never_work_are_refused_by_name() {
    let _dog = watchdog(120);
    for (command, table) in [("serve", SERVE), ("connect", CONNECT), ("bench", BENCH)] {
        let rows: BTreeSet<_> =
            table.iter().map(|(name, _)| name.split(':').next().unwrap_or(name).to_owned()).collect();
        assert_eq!(rows, options(command), "which values of an option of {command} can never work?");
        for (name, calls) in table {
            let (name, word) = name.split_once(": ").unwrap_or((name, name));
            for arguments in *calls {
                let mut threadws = threadws(command);
                // A free port, unless the row has another address.
                match command {
                    "serve" => threadws.args(["--listen", "127.0.0.1:0"]),
                    _ => threadws.arg("ws://127.0.0.1:1/"),
                };
                threadws.args(*arguments);
                println!("{command} {arguments:?}");
                let mut process = Process::spawn(threadws);
                let status = process.wait(PATIENCE);
                let error = process.log().join("\n");
                assert_eq!((status.code(), process.stdout()), (Some(2), Vec::new()), "{error}");
                assert!(error.contains(name) || error.contains(word), "{error}");
            }
        }
    }
}
