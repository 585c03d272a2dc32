//! A reader of Rust text, just good enough for the house rules: code without comments and literals,
//! paths, function lengths.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The repository that the tests run in. Asked when they run: a build folder may serve two
/// checkouts.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
    })
}

/// Every file below `folder` (of the repository) with one of these extensions, as (path from the
/// root, text), sorted.
pub fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root().join(folder), extensions, &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| {
        entry
            .expect("a folder of the repository is readable")
            .path()
    }) {
        let name = path
            .file_name()
            .expect("an entry has a name")
            .to_string_lossy()
            .into_owned();
        // A folder, or in a worktree a file.
        if name == ".git" {
            continue;
        }
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".cache" | "fixtures" | "shared") {
                walk(&path, extensions, found);
            }
        } else if extensions.contains(&path.extension().map_or("", |e| e.to_str().unwrap_or(""))) {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let from_root: PathBuf = path
                .strip_prefix(root())
                .expect("found below the root")
                .into();
            found.push((from_root.to_string_lossy().into_owned(), text));
        }
    }
}

/// The code alone: comments and the contents of string and character literals become spaces, lines
/// stay where they are.
pub fn code(source: &str) -> String {
    let bytes: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < bytes.len() {
        let end = literal_or_comment(&bytes, i);
        if end > i {
            out.extend(
                bytes[i..end]
                    .iter()
                    .map(|&c| if c == '\n' { '\n' } else { ' ' }),
            );
            i = end;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}

/// Where the literal or comment that starts at `i` ends, or `i` if none does.
fn literal_or_comment(text: &[char], i: usize) -> usize {
    let at = |k: usize| text.get(k).copied().unwrap_or('\0');
    let in_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
    match at(i) {
        '/' if at(i + 1) == '/' => (i..text.len())
            .find(|&k| at(k) == '\n')
            .unwrap_or(text.len()),
        '/' if at(i + 1) == '*' => block_comment(text, i),
        '"' => quoted(text, i, '"'),
        'b' | 'c' if at(i + 1) == '"' && !in_word => quoted(text, i + 1, '"'),
        'b' if at(i + 1) == '\'' && !in_word => quoted(text, i + 1, '\''),
        'r' | 'b' | 'c' if !in_word => raw_string(text, i).unwrap_or(i),
        // A lifetime is a quote and a name with no quote after it.
        '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => quoted(text, i, '\''),
        _ => i,
    }
}

fn block_comment(text: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn quoted(text: &[char], open: usize, quote: char) -> usize {
    let mut i = open + 1;
    while i < text.len() && text[i] != quote {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(text.len())
}

fn raw_string(text: &[char], start: usize) -> Option<usize> {
    let mut i = start;
    i += usize::from(matches!(text[i], 'b' | 'c'));
    if text.get(i) != Some(&'r') {
        return None;
    }
    let hashes = text[i + 1..].iter().take_while(|&&c| c == '#').count();
    i += 1 + hashes;
    if text.get(i) != Some(&'"') {
        return None;
    }
    let close = |k: usize| {
        text[k] == '"'
            && text[k + 1..]
                .iter()
                .take(hashes)
                .filter(|&&c| c == '#')
                .count()
                == hashes
    };
    Some(
        (i + 1..text.len())
            .find(|&k| close(k))
            .map_or(text.len(), |k| k + 1 + hashes),
    )
}

/// Words, `::` and single signs.
pub fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            let mut word = String::from(c);
            while let Some(&c) = chars.peek().filter(|c| c.is_alphanumeric() || **c == '_') {
                word.push(c);
                chars.next();
            }
            tokens.push(word);
        } else if c == ':' && chars.peek() == Some(&':') {
            chars.next();
            tokens.push("::".into());
        } else if !c.is_whitespace() {
            tokens.push(c.into());
        }
    }
    tokens
}

/// Every path of two or more segments in the code, in `use` lines and elsewhere, with groups
/// written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
pub fn paths(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if is_word(&tokens[i]) && tokens.get(i + 1).is_some_and(|t| t == "::") {
            i = path(&tokens, i, &[], &mut found);
        } else {
            i += 1;
        }
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Read the path that starts at `i`; answer where it ends.
fn path(tokens: &[String], mut i: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut segments = prefix.to_vec();
    loop {
        match tokens.get(i).map(String::as_str) {
            Some("{") => {
                i += 1;
                while let Some(token) = tokens.get(i).filter(|t| *t != "}") {
                    i = if is_word(token) || token == "*" || token == "{" {
                        path(tokens, i, &segments, found)
                    } else {
                        i + 1
                    };
                }
                return i + 1;
            }
            Some(token) if is_word(token) || token == "*" => segments.push(token.into()),
            _ => break,
        }
        i += 1;
        if tokens.get(i).is_none_or(|t| t != "::") {
            break;
        }
        i += 1;
    }
    found.push(segments);
    i
}

#[test]
fn code_leaves_out_comments_and_literals() {
    let source = "a // unsafe\nb /* x /* y */ z */ c \"un\\\"safe\" r#\"q\"q\"# b\"x\" 'x' '\\'' &'a str br\"y\" d";
    assert_eq!(
        tokens(&code(source)),
        ["a", "b", "c", "&", "'", "a", "str", "d"]
    );
    assert_eq!(code("\"a\nb\"").lines().count(), 2);
    assert_eq!(
        tokens(&code("for r in b {}")),
        ["for", "r", "in", "b", "{", "}"]
    );
}

#[test]
fn paths_are_written_out() {
    let seen = |code: &str| paths(code).iter().map(|p| p.join("::")).collect::<Vec<_>>();
    assert_eq!(
        seen("use crate::{a, b::{self, C}, d::*}; x(crate::e::f::<T>(), g)"),
        [
            "crate::a",
            "crate::b::self",
            "crate::b::C",
            "crate::d::*",
            "crate::e::f"
        ]
    );
    assert_eq!(
        seen("pub(crate) fn f(a: std::fs::File) {}"),
        ["std::fs::File"]
    );
}
