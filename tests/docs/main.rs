//! The documents and examples say what the code does.

mod chat;
mod commands;
mod defaults;
mod deploying;
mod examples;
mod exports;
mod guide;
mod hot_path;
mod links;
mod options;
mod prose;
mod reference;
mod rooms;
mod test_map;

use std::path::{Path, PathBuf};

/// Returns the files with this extension in a folder and the folders in it, sorted.
fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Returns the help of a command.
#[cfg(feature = "cli")]
fn help(command: &str) -> String {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_threadws")).args([command, "--help"]).output();
    String::from_utf8(output.expect("the binary runs").stdout).expect("UTF-8")
}
