//! The table as a document prints it.

use serde_json::Value;

use super::{Eval, Field, Fields, Kit, Train, Transfer};

/// Rows of the table with their defaults.
pub type Rows = Vec<(&'static Field, Value)>;

/// What there is a request for.
const VERBS: [&str; 4] = ["transfer", "train", "kit", "eval"];

/// The rows that a command has; none where it has no request.
pub fn rows_of(command: &str) -> Option<Rows> {
    match command {
        "transfer" => Some(Transfer::rows()),
        "train" => Some(Train::rows()),
        "kit" => Some(Kit::rows()),
        "eval" => Some(Eval::rows()),
        _ => None,
    }
}

/// The page `docs/reference/transfer.md`.
pub fn page() -> String {
    let head = "# What a run can be asked for\n\n\
        The command line takes these as flags. HTTP, the C ABI and the socket take a transfer as \
        one JSON object \
        with the same names, in which `-` is `_`. A value out of bounds or a name that is not \
        here is refused before \
        any work. In JSON a field that is `null` has its default.\n\n\
        This page is printed from `src/request/table.rs`. The test \
        `the_reference_is_what_the_table_prints` compares it, and \
        writes it where `TRANSLORA_BLESS` is set.\n";
    let sections = VERBS.map(|verb| {
        let rows = rows_of(verb).unwrap_or_default();
        format!("\n## translora {verb}\n{}", tables(&rows))
    });
    head.to_owned() + &sections.concat()
}

/// A table for each heading, in the order in which they come first.
fn tables(rows: &Rows) -> String {
    let mut headings: Vec<&str> = Vec::new();
    for (field, _) in rows {
        if !headings.contains(&field.heading) {
            headings.push(field.heading);
        }
    }
    let table = |heading: &&str| {
        let title = if heading.is_empty() {
            String::new()
        } else {
            format!("\n### {heading}\n")
        };
        let lines: String = rows
            .iter()
            .filter(|(field, _)| field.heading == *heading)
            .map(|(field, default)| line(field, default))
            .collect();
        format!("{title}\n| flag | JSON | must be | default | |\n|---|---|---|---|---|\n{lines}")
    };
    headings.iter().map(table).collect()
}

fn line(field: &Field, default: &Value) -> String {
    let short = field
        .short
        .map_or(String::new(), |short| format!("-{short}, "));
    let flag = format!("{short}{} {}", field.flag(), field.value_name);
    let default = match field.default_text(default) {
        _ if field.needed => "needed".into(),
        default if default.is_empty() => default,
        default => code(&default),
    };
    format!(
        "| {} | {} | {} | {default} | {} |\n",
        code(flag.trim()),
        code(field.name),
        field.expects(),
        field.about()
    )
}

fn code(text: &str) -> String {
    format!("`{text}`")
}
