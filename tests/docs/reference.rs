//! The pages of the main types in the reference: grouped methods in the order in which a reader needs them, and examples.

use std::path::Path;

/// The files with methods of a type, in the order of the modules, which is rustdoc's order, and the headings of its page.
const PAGES: [(&str, &[&str], &[&str]); 6] = [
    (
        "Connection",
        &["connection/recv.rs", "connection/send.rs", "connection/close.rs", "connection/connection.rs"],
        &["Receive", "Send", "Close", "Ticks", "Topics and other clients", "About the connection"],
    ),
    (
        "Server",
        &["server/builder.rs", "server/callbacks.rs", "server/backplane.rs"],
        &[
            "Listen",
            "Run",
            "Settings",
            "Browsers and proxies",
            "Limits for each client address",
            "Requests",
            "Observe",
            "Other servers",
        ],
    ),
    ("Sender", &["sender.rs"], &["Send", "Close", "About the connection"]),
    ("Hub", &["hub/hub.rs"], &["Send", "Clients and topics", "Other servers"]),
    ("Connect", &["client.rs"], &["Connect", "Settings"]),
    ("Config", &["config.rs"], &["Sizes", "Compression", "Timeouts", "Keepalive and age", "Values"]),
];

/// The methods that a first program calls. The example of `Config` has `Server::config`, and
/// `Hub` and `Connect` have one for their methods.
const FIRST: [(&str, &[&str]); 7] = [
    ("connection/recv.rs", &["recv", "recv_timeout", "recv_ref"]),
    ("connection/send.rs", &["send", "sender", "write"]),
    ("connection/close.rs", &["close"]),
    ("connection/connection.rs", &["every", "every_with", "subscribe", "hub", "request"]),
    ("server/builder.rs", &["bind_unix", "run", "spawn"]),
    ("server/callbacks.rs", &["check_request", "serve_http", "on_open", "on_close"]),
    ("sender.rs", &["try_send", "close"]),
];

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The comment directly before this line, and attributes in between.
fn comment_before(text: &str, line: usize) -> Vec<&str> {
    let lines: Vec<_> = text.lines().take(line).map(str::trim_start).collect();
    let start = lines.iter().rposition(|line| !line.starts_with("///") && !line.starts_with("#["));
    lines[start.map_or(0, |at| at + 1)..].to_vec()
}

#[test]
fn methods_are_grouped_in_the_order_a_reader_needs() {
    for (name, files, expected) in PAGES {
        let mut headings = Vec::new();
        for file in files {
            let text = source(file);
            for (number, line) in text.lines().enumerate() {
                if line == format!("impl {name} {{") {
                    let is_public = text
                        .lines()
                        .skip(number)
                        .take_while(|line| *line != "}")
                        .any(|line| line.starts_with("    pub fn "));
                    let comment = comment_before(&text, number);
                    let heading = comment.first().and_then(|line| line.strip_prefix("/// # "));
                    assert_eq!(heading.is_some(), is_public, "{file}:{}: {comment:?}", number + 1);
                    headings.extend(heading.map(str::to_owned));
                }
            }
        }
        assert_eq!(headings, expected, "{name}");
    }
    let modules = source("connection.rs");
    let order: Vec<_> = ["recv", "send", "close", "connection"]
        .iter()
        .map(|name| modules.find(&format!("mod {name};")).expect("a module"))
        .collect();
    assert!(order.is_sorted(), "rustdoc lists the methods in the order of the modules");
}

#[test]
fn methods_of_a_first_program_have_an_example() {
    let mut missing = Vec::new();
    for (file, methods) in FIRST {
        let text = source(file);
        for method in methods {
            let is_method = |line: &str| {
                let rest = line.strip_prefix("    pub fn ").and_then(|line| line.strip_prefix(method));
                rest.is_some_and(|rest| rest.starts_with(['(', '<']))
            };
            let line = text.lines().position(is_method).unwrap_or_else(|| panic!("{file}: {method}"));
            if !comment_before(&text, line).iter().any(|line| line.starts_with("/// ```")) {
                missing.push(format!("{file}: {method}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
