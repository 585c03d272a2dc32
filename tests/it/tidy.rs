//! Size and cleanliness of the repository's texts.

use crate::source::{files, root};

const FILE_LINES_MAX: usize = 600;

fn long_files(file: &str, source: &str) -> Vec<String> {
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        vec![format!("{file}: {lines} lines")]
    } else {
        Vec::new()
    }
}

/// What must not stand in any text of the repository. The words are put together here so that this
/// file passes itself.
fn dirt(file: &str, source: &str) -> Vec<String> {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    let mut found = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let mut say = |what: &str| found.push(format!("{file}:{}: {what}", number + 1));
        if line.ends_with([' ', '\t']) {
            say("white space at the end");
        }
        if file.ends_with(".rs") && line.contains('\t') {
            say("a tab");
        }
        let mut parts = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if parts.any(|part| words.contains(&part)) {
            say("unfinished business");
        }
        if places.iter().any(|place| starts_a_path(line, place)) {
            say("a path of somebody's machine");
        }
    }
    if !source.is_empty() && !source.ends_with('\n') {
        found.push(format!("{file}: no line end at the end"));
    }
    found
}

fn starts_a_path(line: &str, place: &str) -> bool {
    let inside_a_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '/');
    line.match_indices(place)
        .any(|(at, _)| !line[..at].ends_with(inside_a_path))
}

fn rust() -> Vec<(String, String)> {
    ["src", "ffi", "quantized", "examples", "tests"]
        .iter()
        .flat_map(|folder| files(folder, &["rs"]))
        .collect()
}

#[test]
fn files_are_short() {
    let found: Vec<String> = rust()
        .iter()
        .flat_map(|(file, source)| long_files(file, source))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn texts_are_clean() {
    let texts = files("", &["rs", "toml", "md", "h", "c", "cpp", "py", "yml", ""]);
    let found: Vec<String> = texts
        .iter()
        .flat_map(|(file, source)| dirt(file, source))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// docs/laboratory.md has the tables of the rows that it names.
#[test]
fn the_lab_is_told_as_it_was_measured() {
    let document = std::fs::read_to_string(root().join("docs/laboratory.md"))
        .expect("docs/laboratory.md is there");
    let Ok(printed) = std::process::Command::new("python3")
        .arg(root().join("scripts/lab/transfers"))
        .arg("--recorded")
        .output()
    else {
        return crate::skipped("no python3, so the lab's tables are not printed");
    };
    let printed = String::from_utf8(printed.stdout).expect("tables are text");
    let lines: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with(['|', '-']))
        .collect();
    assert!(lines.len() > 18, "{printed}");
    let missing: Vec<&str> = lines
        .into_iter()
        .filter(|line| !document.lines().any(|of| of == *line))
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/laboratory.md:\n{}",
        missing.join("\n")
    );
}

/// The numbers of the forecast are those that are fitted to the recorded runs, and the laboratory
/// says how well they foretell.
#[test]
fn the_forecast_is_what_was_fitted() {
    let Ok(printed) = std::process::Command::new("python3")
        .arg(root().join("scripts/lab/forecast"))
        .arg("--recorded")
        .output()
    else {
        return crate::skipped("no python3, so the forecast is not fitted");
    };
    let printed = String::from_utf8(printed.stdout).expect("it is text");
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("it is there");
    let (code, document) = (read("src/evaluate/forecast.rs"), read("docs/laboratory.md"));
    let (constants, quality): (Vec<&str>, Vec<&str>) =
        printed.lines().partition(|line| line.starts_with("const"));
    assert!(constants.len() == 3 && quality.len() == 1, "{printed}");
    for constant in constants {
        assert!(code.contains(constant), "not in the code: {constant}");
    }
    assert!(
        document.contains(quality[0]),
        "not in the document: {}",
        quality[0]
    );
}

#[test]
fn each_check_can_fail() {
    let bad = [
        ("a.rs", "x \n"),
        ("a.rs", "\tx\n"),
        ("a.md", concat!("TO", "DO: later\n")),
        ("a.rs", concat!("// see /ho", "me/me/x\n")),
        ("a.toml", concat!("path = \"/wo", "rk/x\"\n")),
        ("a.rs", "x"),
    ];
    for (file, text) in bad {
        assert_eq!(dirt(file, text).len(), 1, "{text:?}");
    }
    let clean = concat!(
        "// a to",
        "do list in target/wo",
        "rk/x and $HOME/wo",
        "rk/y\n"
    );
    assert_eq!(dirt("a.rs", clean), Vec::<String>::new());
    assert_eq!(long_files("a.rs", &"x\n".repeat(601)).len(), 1);
}
