//! The commands in the README, the guides, the examples and `--help` can be typed as they are: the examples and the options
//! exist.

#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents(helps: &[(&str, String)]) -> Vec<(String, String)> {
    let below = |folder: &str, extension| crate::files_below(&root().join(folder), extension);
    let files: Vec<PathBuf> = below("src/guide", "md").into_iter().chain(below("examples", "rs")).collect();
    let readme = root().join("README.md");
    let texts = files
        .iter()
        .chain([&readme])
        .map(|path| (path.display().to_string(), std::fs::read_to_string(path).expect("UTF-8")));
    let helps = helps.iter().map(|(command, help)| (format!("{command} --help"), help.clone()));
    texts.chain(helps).collect()
}

/// The commands that begin with `start`, in blocks and between backticks, up to their end.
fn commands<'a>(text: &'a str, start: &'static str) -> impl Iterator<Item = Vec<&'a str>> {
    text.match_indices(start).filter_map(move |(at, _)| {
        let before = text[..at].trim_end_matches("//! ").chars().next_back();
        let begins = before.is_none_or(|c| "\n`'".contains(c))
            || text[..at].ends_with("| ")
            || text[..at].ends_with("  ");
        let line = text[at + start.len()..].split(['\n', '`', '|', '&', '#', ';', '>']).next()?;
        begins.then(|| line.split_whitespace().collect())
    })
}

/// Checks that `threadws` has these options.
fn check_options(helps: &[(&str, String)], place: &str, words: &[&str]) {
    let named = helps.iter().find(|(command, _)| words.first() == Some(command));
    let (_, help) = named.unwrap_or(&helps[0]); // serve
    for word in words.iter().map(|word| word.trim_end_matches(['\'', '.', ','])) {
        let is_option = word.starts_with('-') && word.len() > 1;
        let listed = help.split([' ', ',', '\n']).any(|known| known == word);
        assert!(!is_option || listed, "{place}: threadws {}: {word}", words.join(" "));
    }
}

#[test]
fn commands_in_documents_exist() {
    let (mut threadws, mut examples) = (0, 0);
    let helps = ["serve", "connect", "bench"].map(|command| (command, crate::help(command)));
    for (place, text) in documents(&helps) {
        for words in commands(&text, "threadws ") {
            check_options(&helps, &place, &words);
            threadws += 1;
        }
        for words in commands(&text, "cargo run") {
            if let Some(at) = words.iter().position(|word| *word == "--example") {
                let file = root().join("examples").join(words[at + 1]).with_extension("rs");
                assert!(file.exists(), "{place}: cargo run {}", words.join(" "));
                examples += 1;
            } else if let Some(at) = words.iter().position(|word| *word == "--") {
                check_options(&helps, &place, &words[at + 1..]);
                threadws += 1;
            }
        }
    }
    assert!(threadws > 25 && examples >= 9, "{threadws} and {examples} commands were found");
}

#[test]
fn a_reader_learns_where_the_command_is() {
    for file in ["README.md", "src/guide/command_line.md"] {
        let text = std::fs::read_to_string(root().join(file)).expect("UTF-8");
        assert!(text.contains("`cargo install --path .`") && text.contains("`~/.cargo/bin`"), "{file}");
    }
    for path in crate::files_below(&root().join("examples"), "rs") {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        assert!(!text.contains("npx"), "{}: this project has a client of its own", path.display());
    }
}
