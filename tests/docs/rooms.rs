//! The boundaries of the modules: the names that each file of `src/` may use, as `guide/design.md` describes them.

use std::collections::BTreeMap;
use std::path::Path;

/// The modules of the crate that a module's code may use, apart from those in "base" below. Each module may use only
/// modules that are above it here, so there are no circles.
const DOORS: &[(&str, &[&str])] = &[
    // The words that every module may use.
    ("addr", &[]),
    ("message", &[]),
    ("error", &[]),
    ("config", &[]),
    ("deflate", &[]),
    ("sync", &[]),
    ("logging", &[]),
    ("request", &[]),
    ("stats", &[]),
    // The pure module, and the module of sockets.
    ("protocol", &["addr", "message", "error", "deflate"]),
    ("net", &["error", "sync"]),
    ("deflate_pool", &["protocol"]),
    // `timer` and `flush_thread` know their clients only as a `Weak<dyn ...>`.
    ("timer", &[]),
    ("flush_thread", &["net"]),
    ("outbox", &["net", "flush_thread", "protocol", "deflate_pool"]),
    ("sender", &["outbox", "net", "flush_thread", "protocol"]),
    // It knows the clients of its server only as a `Weak<dyn LocalClients>`.
    ("backplane", &["protocol"]),
    // It encodes a message once for all clients.
    ("hub", &["sender", "outbox", "protocol", "backplane"]),
    // `every` returns it. The timer calls it.
    ("tick", &["timer", "outbox", "protocol"]),
    // Limits for one client address: counters, and their own clocks.
    ("quota", &[]),
    ("connection", &["net", "protocol", "outbox", "sender", "timer", "tick", "hub", "flush_thread", "quota"]),
    ("handshake", &["net", "protocol", "quota"]),
    (
        "server",
        &[
            "handshake",
            "connection",
            "sender",
            "outbox",
            "hub",
            "backplane",
            "timer",
            "flush_thread",
            "net",
            "protocol",
            "quota",
            "deflate_pool",
        ],
    ),
    (
        "client",
        &[
            "handshake",
            "connection",
            "sender",
            "outbox",
            "hub",
            "timer",
            "flush_thread",
            "net",
            "protocol",
            "deflate_pool",
        ],
    ),
    ("guide", &[]),
    // Only exports.
    ("tls", &["net"]),
];
/// Modules that are in no build of the library. They may use all others.
const TEST_ROOMS: [&str; 1] = ["verify"];
const BASE: [&str; 9] =
    ["addr", "message", "error", "config", "deflate", "sync", "logging", "request", "stats"];

/// A longer file, without its tests, has to become two files.
const MOST_LINES: usize = 500;

/// One source file: its path below `src/`, its module, and its code without comments and tests.
struct Source {
    path: String,
    room: String,
    code: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    crate::files_below(&src, "rs")
        .into_iter()
        .map(|file| {
            let path = file.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
            let text = std::fs::read_to_string(&file).expect("UTF-8");
            let room = path.split('/').next().unwrap_or(&path).trim_end_matches(".rs").to_owned();
            let is_tests = path.ends_with("tests.rs")
                || path.ends_with("models.rs")
                || path.contains("/tests/")
                || TEST_ROOMS.contains(&room.as_str());
            let own = if is_tests { "" } else { without_tests(&text) };
            Source { room, code: without_comments(&without_models(own)), lines: own.lines().count(), path }
        })
        .collect()
}

/// Returns the text before the module of tests, which is a file's last item.
fn without_tests(text: &str) -> &str {
    let markers = ["#[cfg(test)]\nmod tests", "#[cfg(all(test, not(model)))]\nmod tests"];
    markers.iter().find_map(|marker| text.find(marker)).map_or(text, |at| &text[..at])
}

/// Returns the text without the lines that are built only for a model.
fn without_models(text: &str) -> String {
    let mut lines = text.lines();
    let mut own = String::new();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(all(test, model))]" {
            // The item behind the attribute is one line in each of these places.
            lines.next();
        } else {
            own.push_str(line);
            own.push('\n');
        }
    }
    own
}

/// Blanks out comments and keeps the lines. A `//` in a string is taken for a comment too, which hides only the rest of
/// its line.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or(line).to_owned() + "\n").collect()
}

/// Returns the lines that have any of these words.
fn named(source: &Source, words: &[&str]) -> Vec<String> {
    let lines = source.code.lines().enumerate();
    lines
        .flat_map(|(number, line)| {
            words.iter().filter(|word| has_word(line, word)).map(move |word| (number, line, word))
        })
        .map(|(number, line, word)| {
            format!("src/{}:{}: `{word}` in `{}`", source.path, number + 1, line.trim())
        })
        .collect()
}

/// Returns whether the word is there, and is not a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part) && word.starts_with(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part) && word.ends_with(part);
        !before && !after
    })
}

#[track_caller]
fn nothing(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

fn in_room<'a>(sources: &'a [Source], room: &'a str) -> impl Iterator<Item = &'a Source> {
    sources.iter().filter(move |source| source.room == room)
}

#[test]
fn every_file_has_a_room() {
    let homeless = sources()
        .into_iter()
        .filter(|source| !matches!(source.room.as_str(), "lib" | "bin"))
        .filter(|source| !TEST_ROOMS.contains(&source.room.as_str()))
        .filter(|source| !DOORS.iter().any(|(room, _)| *room == source.room))
        .map(|source| format!("src/{}", source.path));
    nothing(homeless.collect(), "files of rooms that the table in this test does not have");
}

#[test]
fn the_doors_of_the_table_make_no_circle() {
    for (place, (room, doors)) in DOORS.iter().enumerate() {
        for door in *doors {
            let before = DOORS[..place].iter().any(|(earlier, _)| earlier == door);
            assert!(before, "{room} may enter {door}, which is not above it");
        }
    }
}

#[test]
fn every_room_keeps_to_its_doors() {
    let sources = sources();
    let mut found = Vec::new();
    for (room, doors) in DOORS.iter().filter(|(room, _)| !BASE.contains(room)) {
        // The protocol may use nothing else, because its limits are arguments.
        let base = if *room == "protocol" { &[][..] } else { &BASE };
        for source in in_room(&sources, room) {
            for (name, line) in rooms_named(source) {
                let may = name == *room || doors.contains(&name.as_str()) || base.contains(&name.as_str());
                if !may {
                    found.push(format!("{line}: {room} has no door to {name}"));
                }
            }
        }
    }
    for room in BASE {
        for source in in_room(&sources, room) {
            let beyond = rooms_named(source).into_iter().filter(|(name, _)| !BASE.contains(&name.as_str()));
            found.extend(beyond.map(|(name, line)| format!("{line}: {room} has no door to {name}")));
        }
    }
    nothing(found, "doors that are none");
}

/// Returns the modules that a file uses by `crate::module` or `crate::{module, ...}`, and where.
fn rooms_named(source: &Source) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let word =
        |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    for (at, _) in source.code.match_indices("crate::") {
        let number = source.code[..at].matches('\n').count() + 1;
        let place = format!("src/{}:{number}", source.path);
        let rest = &source.code[at + "crate::".len()..];
        let mut names = Vec::new();
        if let Some(group) = rest.strip_prefix('{') {
            // Only the first level of the group counts: `{error::{Error, Result}, message}` names two modules.
            let (mut depth, mut start) = (0_usize, 0);
            for (index, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => {
                        names.push(word(group[start..index].trim()));
                        break;
                    }
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        names.push(word(group[start..index].trim()));
                        start = index + 1;
                    }
                    _ => {}
                }
            }
        } else {
            names.push(word(rest));
        }
        // A capital letter begins an item that lib.rs exports, which hides its module.
        found.extend(
            names.into_iter().filter(|name| !name.is_empty()).map(|name| (home(&name), place.clone())),
        );
    }
    found
}

/// Returns the module of an item that `lib.rs` exports. The name of a module is its own.
fn home(name: &str) -> String {
    let lib =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    let lib = without_comments(&lib);
    let mut homes = BTreeMap::new();
    for export in lib.split("pub use ").skip(1) {
        let (export, _) = export.split_once(';').unwrap_or((export, ""));
        if let Some((room, items)) = export.split_once("::") {
            for item in items.split(|c: char| !c.is_alphanumeric() && c != '_') {
                homes.insert(item.to_owned(), room.trim().to_owned());
            }
        }
    }
    homes.get(name).cloned().unwrap_or_else(|| name.to_owned())
}

#[test]
fn the_protocol_is_pure() {
    let words = [
        "std::net",
        "std::thread",
        "std::sync",
        "std::io::Read",
        "std::io::Write",
        "Instant",
        "SystemTime",
        "TcpStream",
        "rustix",
        "spawn",
        "log",
    ];
    let found = in_room(&sources(), "protocol").flat_map(|source| named(source, &words)).collect();
    nothing(found, "protocol/ takes bytes and gives events: no sockets, threads, locks or clocks");
}

#[test]
fn sockets_know_no_protocol_and_start_no_threads() {
    let words = ["spawn", "std::thread", "WebSocket", "Opcode", "CloseCode", "Frame"];
    let found = in_room(&sources(), "net").flat_map(|source| named(source, &words)).collect();
    nothing(found, "net/ moves bytes: no threads of its own, no words of the protocol");
}

#[test]
fn only_net_tls_names_rustls() {
    let sources = sources();
    let others = sources.iter().filter(|source| !source.path.starts_with("net/tls"));
    let words = ["rustls::", "use rustls", "webpki", "rustls_native_certs"];
    let found = others.flat_map(|source| named(source, &words)).collect();
    nothing(found, "only net/tls names rustls, so that another version changes one place");
}

#[test]
fn only_the_codec_names_zlib_rs() {
    let sources = sources();
    let others = sources.iter().filter(|source| source.path != "protocol/deflate/codec.rs");
    let found = others.flat_map(|source| named(source, &["zlib_rs"])).collect();
    nothing(found, "only protocol/deflate/codec.rs names zlib-rs, so that another version changes one place");
}

#[test]
fn only_sync_names_locks_and_threads() {
    let found = sources()
        .iter()
        .filter(|source| !matches!(source.room.as_str(), "sync" | "bin"))
        .flat_map(|source| {
            named(source, &["std::sync", "core::sync", "thread::spawn", "thread::Builder", "thread::scope"])
        })
        .collect();
    nothing(
        found,
        "sync.rs is the only place that names std::sync or starts threads: a model checker swaps it there",
    );
}

#[test]
fn threads_start_only_in_these_rooms() {
    let found = sources()
        .iter()
        .filter(|source| {
            !matches!(
                source.room.as_str(),
                "sync" | "server" | "timer" | "flush_thread" | "backplane" | "bin"
            )
        })
        // One more thread is in a client that looks up a name, because the system's resolver has no deadline.
        .filter(|source| source.path != "client/resolve.rs")
        .flat_map(|source| named(source, &["sync::spawn", "spawn("]))
        .collect();
    nothing(found, "threads start in server, timer, flush and backplane alone");
}

#[test]
fn the_hub_knows_no_sockets() {
    let words = ["std::net::TcpStream", "TcpStream", "TcpListener", "rustix", "net::Stream"];
    let found = in_room(&sources(), "hub").flat_map(|source| named(source, &words)).collect();
    nothing(found, "hub.rs knows senders, not sockets");
}

#[test]
fn the_binary_uses_only_what_is_public() {
    let sources = sources();
    let library = sources.iter().filter(|source| source.room != "bin");
    let mut found: Vec<_> = library
        .flat_map(|source| named(source, &["bin::", "mod bin", "simplelog", "lexopt", "signal_hook"]))
        .collect();
    for source in in_room(&sources, "bin") {
        found.extend(named(source, &["#[path", "include!("]));
    }
    nothing(found, "bin -> lib, by its public API, and never back");
}

#[test]
fn the_library_does_not_print_or_exit() {
    let macros = ["println", "eprintln", "print", "eprint", "dbg", "todo", "unimplemented"]
        .map(|name| format!("{name}!"));
    let words: Vec<_> =
        macros.iter().map(String::as_str).chain(["process::exit", "process::abort"]).collect();
    let found = sources()
        .iter()
        .filter(|source| source.room != "bin")
        .flat_map(|source| named(source, &words))
        .collect();
    nothing(found, "a library logs through `log` and leaves its host alone");
}

#[test]
fn what_is_logged_is_contained() {
    let words = ["log::error!", "log::warn!", "log::info!", "log::debug!", "log::trace!", "log::log!"];
    let sources = sources();
    let library = sources.iter().filter(|source| !["bin", "logging"].contains(&source.room.as_str()));
    let found = library.flat_map(|source| named(source, &words)).collect();
    nothing(found, "a logger may panic: `log_line!` ends no thread");
}

#[test]
fn lib_has_no_logic() {
    let found = in_room(&sources(), "lib")
        .flat_map(|source| named(source, &["fn", "impl", "struct", "enum"]))
        .collect();
    nothing(found, "lib.rs is the front page: mod and pub use");
}

#[test]
fn a_long_file_is_two_files() {
    let long = sources()
        .into_iter()
        .filter(|source| source.lines > MOST_LINES)
        .map(|source| format!("src/{}: {} lines", source.path, source.lines));
    nothing(long.collect(), "files of more than 500 lines, tests aside");
}
