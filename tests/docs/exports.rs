//! The public API stays small and regular: the exported names, their number, and one name for one type.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The types and functions at the root of the crate.
const ROOT: [&str; 20] = [
    "Addr",
    "BoxError",
    "CloseCode",
    "CloseFrame",
    "Closed",
    "Config",
    "Connect",
    "Connection",
    "Error",
    "Event",
    "Hub",
    "IntoMessage",
    "Message",
    "MessageRef",
    "Result",
    "Sender",
    "Server",
    "ServerHandle",
    "Timeout",
    "connect",
];

/// The public modules with their types. `guide` holds only text, and `http` is the crate of that name.
const MODULES: [(&str, &[&str]); 11] = [
    (
        "backplane",
        &[
            "Backplane",
            "Engine",
            "Gap",
            "LinkEvent",
            "LinkReader",
            "LinkState",
            "LinkWriter",
            "Memory",
            "Status",
        ],
    ),
    ("connection", &["Arrival", "Received", "State", "Tick"]),
    ("deflate", &["Deflate", "Saved", "Uncompressed"]),
    ("error", &["Violation"]),
    ("guide", &[]),
    (
        "handshake",
        &["ForwardedHeader", "HandshakeError", "Reject", "Request", "Response", "accept_key", "parse_head"],
    ),
    ("http", &[]),
    ("hub", &["Client", "Delivery", "SlowPeer"]),
    ("server", &["Capacity", "Events", "HandlerFailure", "HandlerResult", "ShutdownReport"]),
    ("stats", &["ClientStats", "Meter", "Stats", "Traffic"]),
    ("tls", &["ClientTls", "ServerTls", "rustls"]),
];

/// Methods and constants of all public types: 160, and those that the first programs missed: `bind_unix`, `body`, `on_open`,
/// `wait_count`, `on_close`, `raise_panics`, `raise` and `adopt`. `max_head_size` and `max_close_time` have a setter and a
/// getter. And 17 for TLS: `Connect::tls`, `Server::tls`, `set_tls`, `peer_certificate`, 7 of `ClientTls` and 6 of
/// `ServerTls`. And 9 for compression: 6 of `Deflate`, `Config::with_deflate` with its getter, and `Connection::extensions`.
/// And 7 for serving with events: `run_events`, `spawn_events`, `workers`, `max_callback_threads`,
/// `max_handshake_threads`, `Arrival::lend` and `take`. And 13 for other servers: 6 of `Backplane`, 2 of `Gap`, `Memory::new`,
/// `Server::backplane` and `on_gap`, `Hub::local` and `backplane`.
const MOST_METHODS: usize = 218;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each file of `src/` with its path below it.
fn files() -> Vec<(String, String)> {
    let name = |path: &Path| path.strip_prefix(src()).expect("below src").display().to_string();
    crate::files_below(&src(), "rs").iter().map(|path| (name(path), read(path))).collect()
}

/// The names that a module's file exports: by `pub use`, and by public items of its own.
fn exports(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for statement in text.split("\npub use ").skip(1) {
        let (path, _) = statement.split_once(';').expect("a statement ends");
        let list = path.rsplit_once("::").map_or(path, |(_, list)| list);
        let list = path.split_once('{').map_or(list, |(_, list)| list);
        names.extend(list.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
    }
    for line in text.lines() {
        for keyword in ["pub struct ", "pub enum ", "pub trait ", "pub type ", "pub fn ", "pub const "] {
            if let Some(rest) = line.strip_prefix(keyword) {
                names.push(
                    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(rest).into(),
                );
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names.sort();
    names
}

fn public_modules(lib: &str) -> Vec<String> {
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut modules: Vec<_> = modules.filter(|module| *module != "verify").map(str::to_owned).collect();
    modules.push("http".to_owned());
    modules.sort();
    modules
}

#[test]
fn the_public_names_are_these() {
    let lib = read(&src().join("lib.rs"));
    let mut root = exports(&lib);
    let http = root.iter().position(|name| name == "http").expect("the crate http is re-exported");
    root.remove(http);
    assert_eq!(root, ROOT, "the names at the root of the crate");
    assert_eq!(public_modules(&lib), MODULES.map(|(module, _)| module), "the public modules");
    for (module, names) in MODULES.iter().filter(|(module, _)| !["guide", "http"].contains(module)) {
        let file = [format!("{module}.rs"), format!("{module}/mod.rs")].map(|file| src().join(file));
        let file = file.iter().find(|file| file.exists()).expect("a module has a file");
        assert_eq!(exports(&read(file)), *names, "the names of {module}");
    }
}

#[test]
fn public_types_have_few_methods_and_constants() {
    let mut counts = BTreeMap::new();
    for (file, text) in files() {
        if file.starts_with("bin/") || file.starts_with("verify") {
            continue;
        }
        // Types that are not exported have no `pub` methods: the lint `unreachable_pub` sees to that.
        let is_public =
            |line: &&str| ["    pub fn ", "    pub const "].iter().any(|start| line.starts_with(start));
        let count = text.lines().filter(is_public).count();
        if count > 0 {
            counts.insert(file, count);
        }
    }
    let sum: usize = counts.values().sum();
    println!("{} names at the root, {sum} methods and constants: {counts:#?}", ROOT.len());
    assert!(sum <= MOST_METHODS, "{sum} methods and constants: {counts:#?}");
}

#[test]
fn each_type_has_a_name_of_its_own() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in files() {
        for line in text.lines() {
            let line = line.trim_start();
            let item = ["pub(crate) ", "pub(super) ", "pub(in ", "pub "]
                .iter()
                .find_map(|visibility| line.strip_prefix(visibility))
                .unwrap_or(line);
            for keyword in ["struct ", "enum ", "trait ", "union "] {
                let Some(rest) = item.strip_prefix(keyword) else { continue };
                let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(rest);
                // A model, or a build without a feature, replaces these types by types of the same name.
                let twins = file == "sync.rs" && name == "Condvar"
                    || ["protocol/deflate/off.rs", "verify/models/toy_codec.rs"].contains(&file.as_str());
                if name.starts_with(char::is_uppercase) && !twins {
                    homes.entry(name.to_owned()).or_default().push(file.clone());
                }
            }
        }
    }
    let twice: Vec<_> = homes.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "types of one name: {twice:#?}");
}

#[test]
fn no_import_renames_a_type_of_ours() {
    let mut found = Vec::new();
    for (file, text) in files() {
        for (at, word) in text.match_indices("use ") {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            // Indented in a module of tests, or re-exported.
            let before = text[line..at].trim();
            if !before.is_empty() && !before.starts_with("pub") {
                continue;
            }
            let statement = &text[at + word.len()..];
            let (path, _) = statement.split_once(';').unwrap_or((statement, ""));
            let is_ours =
                ["crate::", "super::", "self::", "threadws::"].iter().any(|start| path.starts_with(start));
            if is_ours && path.replace(" as _", "").contains(" as ") {
                found.push(format!("src/{file}: use {path}"));
            }
        }
    }
    assert!(found.is_empty(), "imports that rename our own types:\n{}", found.join("\n"));
}
