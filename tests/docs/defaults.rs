//! The numbers in the guide, the README and the comments are the constants in the code.

use std::collections::BTreeMap;
use std::path::Path;
use threadws::Config;

const GUIDE: &str = include_str!("../../src/guide/defaults.md");
const README: &str = include_str!("../../README.md");

/// Returns the numbers in a text: sizes in bytes, durations in milliseconds, and others as they are.
fn numbers(text: &str) -> Vec<u64> {
    let words: Vec<_> = text.split([' ', ',', ';', ':', '(', ')', '`', '.']).collect();
    let number = |at: usize| {
        let number: u64 = words[at].parse().ok()?;
        Some(match words.get(at + 1) {
            Some(&"KiB") => number << 10,
            Some(&"MiB") => number << 20,
            Some(&"s") => number * 1000,
            _ => number,
        })
    };
    (0..words.len()).filter_map(number).collect()
}

/// Returns the rows of the table under a heading: the contents of the cells, without backticks.
fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, text) = text.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
    let table = text.lines().skip_while(|line| !line.starts_with("| --- ")).skip(1);
    let rows = table.take_while(|line| line.starts_with("| "));
    rows.map(|row| row.split('|').skip(1).map(|cell| cell.trim().replace('`', "")).collect()).collect()
}

/// Returns the value of each setting, as `Debug` shows it.
fn defaults() -> BTreeMap<String, String> {
    let shown = format!("{:?}", Config::default());
    let fields = shown.trim_start_matches("Config {").trim_end_matches('}');
    let fields = fields.split(", ").map(|field| field.trim().split_once(": ").expect("a field"));
    // A timeout that can be turned off is an option: `Some(20s)` is 20 s.
    let value = |text: &str| text.trim_start_matches("Some(").trim_end_matches(')').to_owned();
    fields.map(|(name, text)| (name.to_owned(), value(text))).collect()
}

/// Asserts that a text such as "1 MiB" or "None: no limit" begins with this value.
#[track_caller]
fn expect_value(name: &str, text: &str, value: &str) {
    let is_said = match value.strip_suffix("ns").or_else(|| value.strip_suffix('s')) {
        Some(seconds) => {
            numbers(text).first() == seconds.parse().ok().map(|seconds: u64| seconds * 1000).as_ref()
        }
        None => match value.parse::<u64>() {
            Ok(number) => numbers(text).first() == Some(&number),
            Err(_) => text.starts_with(value),
        },
    };
    assert!(is_said, "{name} is {value}, but the text is: {text}");
}

#[test]
fn the_guide_has_every_connection_setting_with_its_default() {
    let (mut defaults, rows) = (defaults(), rows(GUIDE, "## Of a connection"));
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let value = defaults.remove(&row[0]).unwrap_or_else(|| panic!("no setting {}", row[0]));
        expect_value(&row[0], &row[1], &value);
    }
    assert!(defaults.is_empty(), "the guide leaves out {defaults:?}");
}

#[test]
fn the_comment_of_every_connection_setting_has_its_default() {
    let mut comment = String::new();
    let mut defaults = defaults();
    for line in include_str!("../../src/config.rs").lines() {
        if let Some(text) = line.strip_prefix("    ///") {
            comment.push_str(text);
            continue;
        }
        let name =
            line.strip_prefix("    pub fn with_").and_then(|line| line.split_once('(')).map(|(name, _)| name);
        if let Some((name, value)) = name.and_then(|name| Some((name, defaults.remove(name)?))) {
            let (_, text) = comment.split_once("Defaults to ").unwrap_or_else(|| panic!("{name} has none"));
            expect_value(name, &text.replace('`', ""), &value);
        }
        comment.clear();
    }
    assert!(defaults.is_empty(), "no setter has {defaults:?}");
}

/// Returns the value of a constant in a file of `src`; durations are in milliseconds.
#[track_caller]
fn constant(file: &str, name: &str) -> u64 {
    array(file, name)[0]
}

/// Returns the values of an array constant.
#[track_caller]
fn array(file: &str, name: &str) -> Vec<u64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let source = std::fs::read_to_string(&path).expect("a file of the library");
    let (_, rest) = source
        .split_once(&format!("const {name}: "))
        .unwrap_or_else(|| panic!("no constant {name} in {file}"));
    // The type of an array contains a semicolon, so it is skipped first.
    let (_, value) = rest.split_once(" = ").expect("a value");
    let (value, _) = value.split_once(';').expect("its end");
    value.trim_matches(['[', ']']).split(", ").map(evaluated).collect()
}

/// Evaluates the expressions that the constants use: numbers, products, shifts and durations.
#[track_caller]
fn evaluated(text: &str) -> u64 {
    let both = |operator: &str| text.split_once(operator).map(|(a, b)| (evaluated(a), evaluated(b)));
    let time = |unit: &str| text.strip_prefix(unit).and_then(|text| text.strip_suffix(')')).map(evaluated);
    if let Some(seconds) = time("Duration::from_secs(") {
        seconds * 1000
    } else if let Some(milliseconds) = time("Duration::from_millis(") {
        milliseconds
    } else if let Some((a, b)) = both(" << ") {
        a << b
    } else if let Some((a, b)) = both(" * ") {
        a * b
    } else {
        text.replace('_', "").parse().unwrap_or_else(|_| panic!("cannot evaluate {text:?}"))
    }
}

#[test]
fn the_guide_has_the_fixed_bounds_of_the_code() {
    let (c, control) = (constant, constant("protocol/decoder.rs", "MAX_CONTROL"));
    // In the order of the rows. The numbers of a row are in the order of its text.
    let bounds: [&[u64]; 18] = [
        &[c("config.rs", "MAX_HEADERS"), 431],
        &[
            c("protocol/proxy_header.rs", "MAX_LINE"),
            1,
            c("protocol/proxy_header.rs", "FIXED"),
            c("protocol/proxy_header.rs", "MAX_REST"),
            2,
            400,
        ],
        // The versions of TLS, and a number that the machine decides.
        &[1, 2, 1, 3],
        &[],
        &[c("quota/rate.rs", "MAX_REMEMBERED")],
        &[64, 1009],
        &[c("deflate_pool.rs", "COMPRESSORS_PER_PROCESSOR")],
        &[
            c("protocol/decoder/partial_message.rs", "FREE_FRAGMENTS"),
            c("protocol/decoder/partial_message.rs", "BYTES_PER_FRAGMENT"),
            1008,
        ],
        &[control, control - 2],
        &[c("connection/cork.rs", "MAX_CORK")],
        &[1, c("hub/topics.rs", "MAX_TOPIC")],
        &[
            c("connection/reader.rs", "RESTING_BUFFER"),
            c("connection/reader.rs", "IDLE_BUFFER"),
            c("connection/reader.rs", "BULK_BUFFER"),
        ],
        &[
            c("connection/close.rs", "DRAIN_TIME"),
            c("handshake.rs", "LINGER"),
            c("net/stream.rs", "FULL_FLOW"),
            c("handshake.rs", "LINGER"),
        ],
        &[c("server/failures.rs", "MAX_KEPT"), c("server/failures.rs", "MAX_TEXT")],
        &[c("server/thread_pool.rs", "MAX_IDLE"), c("server/thread_pool.rs", "IDLE_TIMEOUT")],
        &[c("server/accept.rs", "LISTEN_BACKLOG")],
        &array("server/accept.rs", "BACK_OFF"),
        &[c("client.rs", "MAX_INTERIM"), c("client.rs", "MAX_BODY")],
    ];
    let rows = rows(GUIDE, "## Fixed");
    assert_eq!(rows.len(), bounds.len(), "the test has to know every row");
    for (row, bounds) in rows.iter().zip(bounds) {
        assert!(numbers(&row[1]).starts_with(bounds), "expected {bounds:?} in {row:?}");
    }
}

#[test]
fn the_guide_has_the_numbers_of_a_server() {
    let rows = rows(GUIDE, "## Of a server");
    let of =
        |setting: &str| rows.iter().find(|row| row[0] == setting).unwrap_or_else(|| panic!("no {setting}"));
    assert_eq!(numbers(&of("stack_size")[1]), [constant("sync.rs", "STACK")]);
    assert_eq!(numbers(&of("max_clients")[3]), [503, constant("server/accept.rs", "MAX_LINGERING")]);
    assert_eq!(numbers(&of("max_clients_per_address")[3]), [429]);
}

#[test]
fn the_readme_has_the_same_numbers() {
    let defaults = defaults();
    let write_timeout = defaults["write_timeout"].strip_suffix('s').expect("a duration");
    let write_timeout = write_timeout.parse::<u64>().expect("whole seconds") * 1000;
    let max_backlog = defaults["max_backlog"].parse().expect("a number");
    let calls = rows(README, "## Send from another thread");
    for (call, expected) in [("send", write_timeout), ("try_send", max_backlog), ("broadcast", max_backlog)] {
        let row =
            calls.iter().find(|row| row[0].starts_with(call)).unwrap_or_else(|| panic!("no row {call}"));
        assert_eq!(numbers(&row[2]), [expected], "{row:?}");
    }
}
