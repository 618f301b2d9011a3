//! The tables of options in the guide to the command line are those of `--help`.

#![cfg(feature = "cli")]

use std::collections::BTreeMap;

const GUIDE: &str = include_str!("../../src/guide/command_line.md");

/// The default of each option; `None` for an option without one.
type Options = BTreeMap<String, Option<String>>;

/// Rows such as ``| `--listen ADDR` | `127.0.0.1:8005` | ... |`` under the heading of a command.
fn in_guide(command: &str) -> Options {
    let heading = format!("## `threadws {command}`\n");
    let (_, section) = GUIDE.split_once(&heading).unwrap_or_else(|| panic!("no {heading}"));
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let rows = section.lines().filter(|line| line.starts_with("| `-"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
        (name(&cells[1]), Some(cells[2].clone()).filter(|default| !default.is_empty()))
    })
    .collect()
}

/// Entries such as `  --listen ADDR  ... [default: 127.0.0.1:8005]`, over several lines.
fn in_help(command: &str) -> Options {
    let help = crate::help(command);
    let mut entries: Vec<String> = Vec::new();
    for line in help.lines() {
        if line.starts_with("  -") {
            entries.push(line.trim().to_owned());
        } else if line.starts_with("      ") {
            let entry = entries.last_mut().expect("an entry goes before");
            entry.push(' ');
            entry.push_str(line.trim());
        }
    }
    entries.iter().map(|entry| (name(entry), default(entry))).collect()
}

/// The part before the explanation: `-h, --help` or `--listen ADDR`.
fn name(entry: &str) -> String {
    let is_name = |word: &&str| word.starts_with('-') || word.chars().all(|c| c.is_ascii_uppercase());
    entry.split(' ').take_while(|word| !word.is_empty() && is_name(word)).collect::<Vec<_>>().join(" ")
}

fn default(entry: &str) -> Option<String> {
    let (_, rest) = entry.split_once("[default: ")?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[test]
fn the_guide_has_the_options_of_help_with_their_defaults() {
    for (command, least) in [("serve", 20), ("connect", 12), ("bench", 10)] {
        let help = in_help(command);
        assert!(help.len() > least, "{help:?}");
        assert_eq!(in_guide(command), help, "threadws {command}");
    }
}
