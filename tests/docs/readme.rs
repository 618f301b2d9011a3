//! The README's table of options is that of `--help`.

#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::process::Command;

/// From what an option is called to its default; what is "off" is not given, and so has none.
type Options = BTreeMap<String, Option<String>>;

/// Rows such as ``| `--listen ADDR` | `127.0.0.1:8005` | ... |``.
fn in_readme() -> Options {
    let mut options = Options::new();
    for row in include_str!("../../README.md").lines().filter(|line| line.starts_with("| `-")) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
        let default = (!cells[2].is_empty()).then(|| cells[2].clone());
        options.extend(cells[1].split(" and ").map(|name| (name.to_owned(), default.clone())));
    }
    options
}

/// Entries such as `  --listen ADDR  ... [default: 127.0.0.1:8005]`, over several lines.
fn in_help() -> Options {
    let output =
        Command::new(env!("CARGO_BIN_EXE_threadws")).arg("--help").output().expect("the binary runs");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let mut entries: Vec<String> = Vec::new();
    for line in help.lines() {
        if line.starts_with("  -") {
            entries.push(line.trim().to_owned());
        } else if line.starts_with("      ") {
            let entry = entries.last_mut().expect("an entry goes before");
            entry.push(' ');
            entry.push_str(line.trim());
        } else if !entries.is_empty() && !line.is_empty() && !line.ends_with(':') {
            // Text behind the options.
            break;
        }
    }
    entries.iter().map(|entry| (name(entry), default(entry))).collect()
}

/// `-h, --help` or `--listen ADDR`: what goes before the text.
fn name(entry: &str) -> String {
    let is_name = |word: &&str| word.starts_with('-') || word.chars().all(|c| c.is_ascii_uppercase());
    entry.split(' ').take_while(|word| !word.is_empty() && is_name(word)).collect::<Vec<_>>().join(" ")
}

fn default(entry: &str) -> Option<String> {
    let (_, rest) = entry.split_once("[default: ")?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[test]
fn the_readme_has_the_options_of_help_with_their_defaults() {
    let (readme, help) = (in_readme(), in_help());
    assert!(help.len() > 12, "{help:?}");
    assert_eq!(readme, help);
}
