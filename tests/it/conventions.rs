//! docs/reference/conventions.md names a test for each line, and each of those tests is there.

use std::fs;

use crate::source::root;

/// The tests that a line of a table names: file and function. The function may stand without its
/// file behind another of the same file.
fn tests_of(line: &str) -> Result<Vec<(String, String)>, String> {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
    let [.., last] = cells[..] else {
        return Err("no cells".into());
    };
    if cells.len() != 4 {
        return Err(format!("{} cells", cells.len()));
    }
    let (mut file, mut tests) = (None, Vec::new());
    for word in last.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            file = Some(word);
        } else {
            let file = file.ok_or("a function without a file")?;
            tests.push((file.to_owned(), word.to_owned()));
        }
    }
    if tests.is_empty() {
        return Err("no test".into());
    }
    Ok(tests)
}

/// Whether a source has a test of this name.
fn has(source: &str, name: &str) -> bool {
    let head = format!("fn {name}()");
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.starts_with(&head));
    at.is_some_and(|at| lines[at.saturating_sub(3)..at].contains(&"#[test]"))
}

#[test]
fn the_tests_that_conventions_name_exist() {
    let page = fs::read_to_string(root().join("docs/reference/conventions.md"));
    let page = page.expect("the page is in the repository");
    let is_row =
        |line: &&str| line.starts_with("| ") && !line.starts_with("| format or convention");
    let rows: Vec<&str> = page.lines().filter(is_row).collect();
    assert!(rows.len() > 50, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        match tests_of(row) {
            Err(why) => wrong.push(format!("{why}: {row}")),
            Ok(tests) => wrong.extend(tests.into_iter().filter_map(|(file, name)| {
                let source = fs::read_to_string(root().join(&file)).unwrap_or_default();
                (!has(&source, &name)).then(|| format!("{file} has no test {name}"))
            })),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_test_is_found() {
    let row = "| a | b | c | `x.rs`: `one`, `two`, `y.rs`: `three` |";
    let of = |file: &str, name: &str| (file.to_owned(), name.to_owned());
    let right = vec![of("x.rs", "one"), of("x.rs", "two"), of("y.rs", "three")];
    assert_eq!(tests_of(row), Ok(right));
    for bad in [
        "| a | b | c | `one` |",
        "| a | b | `x.rs`: `one` |",
        "| a | b | c | d |",
    ] {
        assert!(tests_of(bad).is_err(), "{bad}");
    }
    assert!(has("#[test]\nfn one() {\n", "one"));
    assert!(!has("fn one() {\n", "one") && !has("#[test]\nfn once() {\n", "one"));
}
