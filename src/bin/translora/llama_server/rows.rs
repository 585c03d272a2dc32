//! llama-server's flags, as `flags.txt` has them: what each is here.

use std::sync::LazyLock;

use super::{Here, Row, Takes};

const TABLE: &str = include_str!("flags.txt");

pub(super) static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| lines().filter_map(row).collect());

fn lines() -> impl Iterator<Item = &'static str> {
    TABLE.lines().filter(|line| !line.starts_with('#'))
}

fn row(line: &'static str) -> Option<Row> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let [names, variable, takes, here] = cells[..] else {
        return None;
    };
    let takes = match takes.split_once(' ') {
        Some(("maybe", words)) => Takes::Maybe(words.split(' ').collect()),
        None if takes == "value" => Takes::Value,
        None if takes.is_empty() => Takes::Nothing,
        _ => return None,
    };
    let here = match here.split_once(' ')? {
        ("as", flag) => Here::As(flag),
        ("noted:", why) => Here::Noted(why),
        ("refused:", why) => Here::Refused(why),
        ("only", rest) => {
            let (values, why) = rest.split_once(": ")?;
            Here::Only(values.split(' ').collect(), why)
        }
        _ => return None,
    };
    Some((names.split(' ').collect(), variable, takes, here))
}

#[test]
fn each_line_is_a_row() {
    let wrong: Vec<&str> = lines().filter(|line| row(line).is_none()).collect();
    assert_eq!(wrong, Vec::<&str>::new());
    assert_eq!(ROWS.len(), 98);
}
