//! The prose of the project is plain English. The habits below make a sentence hard to understand at the first reading,
//! so no comment, string or document has them, except the files in `NOT_YET`, which still have to be rewritten.
//!
//! CONTRIBUTING.md has the rules. Quotations in a comment that names an RFC, and code in backticks, are left alone.

use std::path::{Path, PathBuf};

/// Files that still have one of the habits. This list only shrinks: the test fails when a file in it has none left.
const NOT_YET: &[&str] = &[];

/// Habits at the beginning of a comment line, of a line of Markdown or of a table cell in it.
const BEGINNINGS: [&str; 6] = ["What", "Who", "Whoever", "Whom", "Apart", "Not"];

/// Habits anywhere in a comment, a string or a document, in small or capital letters.
const ANYWHERE: [&str; 15] = [
    "is told",
    "are told",
    "so much",
    "so many",
    "so long",
    "nobody",
    "somebody",
    "whoever",
    "likewise",
    "for the same reason",
    "for ever",
    "but for",
    "shall",
    "octet",
    "octets",
];

/// This file names the habits.
const SELF: &str = "tests/docs/prose.rs";

/// Lines of prose that belong together: a sentence may go on from one to the next.
struct Block {
    /// The number of its first line.
    line: usize,
    text: String,
    /// A string in code can begin with any word, because it can be data.
    is_string: bool,
}

/// One word, or one character of punctuation.
struct Token {
    line: usize,
    text: String,
}

#[test]
fn no_prose_has_the_habits_except_in_the_listed_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut total = 0;
    let (mut remaining, mut found) = (Vec::new(), Vec::new());
    for path in files(root) {
        let name =
            path.strip_prefix(root).expect("a file of the project").to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let blocks = if name.ends_with(".md") { markdown(&text) } else { rust(&text) };
        let habits: Vec<_> = blocks.iter().flat_map(habits).collect();
        total += habits.len();
        if !habits.is_empty() {
            remaining.push(name.clone());
        }
        if !NOT_YET.contains(&name.as_str()) {
            found.extend(habits.iter().map(|(line, habit)| format!("{name}:{line}: {habit:?}")));
        }
    }
    println!("{total} patterns in {} files", remaining.len());
    assert!(found.is_empty(), "see CONTRIBUTING.md, Prose:\n{}", found.join("\n"));
    let done: Vec<_> = NOT_YET.iter().filter(|name| !remaining.iter().any(|file| file == *name)).collect();
    assert!(done.is_empty(), "take these out of NOT_YET, because they have no pattern left: {done:#?}");
}

fn files(root: &Path) -> Vec<PathBuf> {
    let folders = ["src", "tests", "examples"].map(|folder| root.join(folder));
    let below = |extension| folders.iter().flat_map(move |folder| crate::files_below(folder, extension));
    let mut files: Vec<_> = below("rs").chain(below("md")).collect();
    let top = std::fs::read_dir(root).expect("the project").map(|entry| entry.expect("an entry").path());
    files.extend(top.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    files.retain(|path| !path.ends_with(SELF));
    files.sort();
    files
}

/// The habits in a block, and the lines they are in.
fn habits(block: &Block) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    if !block.is_string {
        for (number, line) in block.text.lines().enumerate() {
            // Cells of a table, and without the marks of headings, lists and emphasis.
            for start in
                line.split(" | ").map(|start| start.trim_start_matches(|c: char| !c.is_alphanumeric()))
            {
                let habit = BEGINNINGS.iter().find(|habit| {
                    start.strip_prefix(*habit).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
                });
                found.extend(habit.map(|habit| (block.line + number, *habit)));
            }
        }
    }
    let tokens = prose(block);
    for at in 0..tokens.len() {
        for habit in ANYWHERE {
            let words = habit.split(' ');
            if words.clone().zip(&tokens[at..]).all(|(word, token)| word == token.text)
                && words.count() <= tokens.len() - at
            {
                found.push((tokens[at].line, habit));
            }
        }
    }
    found
}

/// The words of a block in small letters, without code in backticks and without what is quoted from an RFC.
fn prose(block: &Block) -> Vec<Token> {
    let may_quote = block.is_string || block.text.contains("RFC");
    let (mut is_code, mut is_quoted) = (false, false);
    let mut tokens: Vec<Token> = Vec::new();
    let mut line = block.line;
    let mut in_word = false;
    for c in block.text.chars() {
        let is_word = c.is_alphanumeric() || c == '_';
        match c {
            '\n' => line += 1,
            '`' if !block.is_string => is_code = !is_code,
            '"' if may_quote => is_quoted = !is_quoted,
            c if c.is_whitespace() || is_code || is_quoted => {}
            c => match tokens.last_mut() {
                Some(token) if in_word && is_word => token.text.extend(c.to_lowercase()),
                _ => tokens.push(Token { line, text: c.to_lowercase().collect() }),
            },
        }
        in_word = is_word;
    }
    tokens
}

/// Paragraphs, without the fences of code blocks: comments in code are prose, too.
fn markdown(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut is_new = true;
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with("```") {
            is_new = true;
        } else if is_new || line.starts_with('|') {
            blocks.push(Block { line: number + 1, text: line.to_owned(), is_string: false });
            is_new = false;
        } else if let Some(block) = blocks.last_mut() {
            block.text.push('\n');
            block.text.push_str(line);
        }
    }
    blocks
}

/// The comments and strings of a Rust file.
fn rust(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let (length, block) = if rest.starts_with("//") {
            let length = rest.find('\n').unwrap_or(rest.len());
            let comment = rest[..length].trim_start_matches(['/', '!']).to_owned();
            (length, Some((comment, false)))
        } else if let Some((start, hashes)) =
            raw_string(rest).filter(|_| !before.is_alphanumeric() && before != '_')
        {
            let close = format!("\"{hashes}");
            let length = rest[start..].find(&close).expect("a raw string has an end");
            (start + length + close.len(), Some((rest[start..start + length].to_owned(), true)))
        } else if c == '"' {
            let (length, string) = string(rest);
            (length, Some((string, true)))
        } else if c == '\'' {
            (character(rest), None)
        } else {
            (c.len_utf8(), None)
        };
        match (block, blocks.last_mut()) {
            (Some((comment, false)), Some(last))
                if !last.is_string && last.line + last.text.matches('\n').count() + 1 == line =>
            {
                last.text.push('\n');
                last.text.push_str(&comment);
            }
            (Some((text, is_string)), _) => blocks.push(Block { line, text, is_string }),
            (None, _) => {}
        }
        line += rest[..length].matches('\n').count();
        before = rest[..length].chars().next_back().unwrap_or(' ');
        rest = &rest[length..];
    }
    blocks
}

/// Where the contents of a raw string begin, and its hashes.
fn raw_string(text: &str) -> Option<(usize, &str)> {
    let behind = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let (hashes, _) = behind.split_once('"').filter(|(hashes, _)| hashes.chars().all(|c| c == '#'))?;
    Some((text.len() - behind.len() + hashes.len() + 1, hashes))
}

/// How long a string literal is, and its contents with a space for each escape.
fn string(text: &str) -> (usize, String) {
    let mut contents = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (at + 1, contents),
            '\\' => {
                let escaped = chars.next().map(|(_, c)| c);
                contents.push(if escaped == Some('\n') { '\n' } else { ' ' });
            }
            c => contents.push(c),
        }
    }
    panic!("a string without an end: {text}");
}

/// How long a character literal is, or the mark of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, c))) => {
            let behind = at + c.len_utf8();
            behind + text[behind..].find('\'').expect("a character literal has an end") + 1
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

#[test]
fn habits_are_found_only_in_comments_strings_and_markdown() {
    let found = |blocks: Vec<Block>| blocks.iter().flat_map(habits).collect::<Vec<_>>();
    let code = "/// Not so\n/// much. RFC 1: \"an octet SHALL\", `nobody`\nfn nobody() { let c = '\"'; // who\n\
                let s = \"Who\\nobody shall\\\n shall\"; let r = r#\"\"likewise\"\"#; }";
    assert_eq!(
        found(rust(code)),
        [(1, "Not"), (1, "so much"), (4, "shall"), (5, "shall")],
        "a quotation, code, and an escape"
    );
    let text = "# What it is\n\n| Who | is `told` |\n\n```\nx; // is\n   // nobody\n```\nfor\never, so long.";
    assert_eq!(
        found(markdown(text)),
        [(1, "What"), (3, "Who"), (7, "nobody"), (9, "for ever"), (10, "so long")]
    );
}
