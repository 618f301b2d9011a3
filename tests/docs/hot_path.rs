//! The hot-path table of the performance guide has a row for each attribute that changes the compiler's own choice of
//! layout or inlining, and no row without its attribute.

use std::collections::BTreeSet;
use std::path::Path;

/// A plain `inline` is only permission to inline across crates, so it needs no figure.
const ATTRIBUTES: [&str; 4] = ["repr(C)", "inline(never)", "inline(always)", "cold"];

/// An attribute, the item that has it, and the file below `src/`.
type Row = (String, String, String);

#[test]
fn attributes_and_rows_of_the_hot_path_are_the_same() {
    let (code, table) = (attributes(), rows());
    assert!(!code.is_empty() && !table.is_empty(), "found {} attributes, {} rows", code.len(), table.len());
    let missing: Vec<_> = code.difference(&table).collect();
    assert!(missing.is_empty(), "no row in the hot-path table of src/guide/performance.md: {missing:#?}");
    let stale: Vec<_> = table.difference(&code).collect();
    assert!(stale.is_empty(), "rows without their attribute: {stale:#?}");
}

/// Returns the attributes in the code of the library and the binary.
fn attributes() -> BTreeSet<Row> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    for file in crate::files_below(&src, "rs") {
        let name = file.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
        if name.starts_with("verify") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("UTF-8");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            for attribute in attributes_of(line) {
                let item = lines[number + 1..].iter().find_map(|line| item(line));
                let item = item.unwrap_or_else(|| panic!("{name}:{}: an attribute of what?", number + 1));
                found.insert((attribute.to_owned(), item, name.clone()));
            }
        }
    }
    found
}

/// Returns the attributes in a line such as `#[repr(C)]` or `#[cfg_attr(unix, inline(never))]`.
fn attributes_of(line: &str) -> impl Iterator<Item = &'static str> {
    ATTRIBUTES.into_iter().filter(move |attribute| line.starts_with("#[") && line.contains(attribute))
}

/// Returns the name of the function or type that a line declares.
fn item(line: &str) -> Option<String> {
    let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    if line.starts_with("//") || line.starts_with('#') {
        return None;
    }
    words.find(|word| ["fn", "struct", "enum", "union"].contains(word))?;
    words.next().map(str::to_owned)
}

/// Returns the attributes in the first two columns of the table: "`inline(never)` on `a`, `b`" and "`file.rs`".
fn rows() -> BTreeSet<Row> {
    let guide = include_str!("../../src/guide/performance.md");
    let (_, section) = guide.split_once("\n## The hot path\n").expect("the section of the table");
    let section = section.split("\n## ").next().unwrap_or(section);
    let mut rows = BTreeSet::new();
    for line in section.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (what, place) = (quoted(cells[1]), quoted(cells[2]));
        let (attributes, items): (Vec<_>, Vec<_>) =
            what.into_iter().partition(|name| ATTRIBUTES.contains(&name.as_str()));
        for attribute in attributes {
            for item in &items {
                let item = item.rsplit("::").next().unwrap_or(item);
                rows.extend(place.iter().map(|file| (attribute.clone(), item.to_owned(), file.clone())));
            }
        }
    }
    rows
}

/// Returns the texts in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
