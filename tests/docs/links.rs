//! Links from one document of the project to another lead to a file.

use std::path::Path;

const DOCUMENTS: [&str; 6] =
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "fuzz/README.md", "tests/README.md"];

/// The targets of `[text](target)` that are neither addresses nor places in the same document.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://") && !target.starts_with('#')).collect()
}

#[test]
fn links_between_documents_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for document in DOCUMENTS {
        let path = root.join(document);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
        for link in links(&text) {
            let (file, _) = link.split_once('#').unwrap_or((link, ""));
            assert!(path.with_file_name(file).exists(), "{document} links to {link}");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} links were found");
}

#[test]
fn the_readme_is_short_and_links_every_guide() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("UTF-8");
    assert!(readme.lines().count() <= 160, "{} lines", readme.lines().count());
    for entry in std::fs::read_dir(root.join("src/guide")).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if name.ends_with(".md") {
            assert!(links(&readme).contains(&format!("src/guide/{name}").as_str()), "no link to {name}");
        }
    }
}
