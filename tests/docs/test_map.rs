//! tests/README.md has every suite, few tests are ignored, and the names of tests are short.

use std::path::{Path, PathBuf};

/// Returns the Rust files of all suites.
fn files() -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let entries =
        |folder: &Path| std::fs::read_dir(folder).expect("a folder").map(|it| it.expect("an entry").path());
    let folders = entries(&tests).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| entries(&folder).collect::<Vec<_>>());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Returns the names of the tests in a text, and whether each is ignored.
fn tests(text: &str) -> Vec<(&str, bool)> {
    let test = |part| {
        let (attributes, function) = str::split_once(part, "fn ").expect("a function");
        let (name, _) = function.split_once('(').expect("parentheses");
        (name, attributes.contains("#[ignore"))
    };
    text.split("#[test]\n").skip(1).map(test).collect()
}

#[test]
fn every_suite_is_in_the_map() {
    let map = include_str!("../README.md");
    for file in files() {
        let suite = file.parent().and_then(Path::file_name).expect("a folder").to_string_lossy();
        assert!(map.contains(&format!("`{suite}/`")), "tests/README.md has no `{suite}/`");
    }
}

#[test]
fn few_tests_are_ignored_and_names_have_ten_words() {
    let (mut all, mut ignored) = (0, 0);
    for file in files() {
        let text = std::fs::read_to_string(&file).expect("UTF-8");
        for (name, is_ignored) in tests(&text) {
            all += 1;
            ignored += usize::from(is_ignored);
            assert!(name.split('_').count() <= 10, "{name} in {} is too long", file.display());
        }
    }
    assert!(all > 400 && ignored * 10 <= all, "{ignored} of {all} tests are ignored");
}
