use super::*;
use crate::record::Blame;

fn limits() -> Limits {
    Limits {
        line_bytes_max: 400,
        rows_max: 3,
        ..Limits::default()
    }
}

fn reading(limits: &Limits) -> Reading<'_> {
    Reading {
        completion: Completion::Required,
        format: RowFormat::Auto,
        learn: Learn::Last,
        limits,
    }
}

fn read(text: &[u8], change: impl FnOnce(&mut Reading<'_>)) -> Result<Rows, String> {
    let limits = limits();
    let mut reading = reading(&limits);
    change(&mut reading);
    read_from(text, Path::new("d"), &reading).map_err(|error| {
        assert!(error.remedy().is_some(), "{error} has no remedy");
        error.to_string()
    })
}

/// A prompt as a short text: each turn with the first letter of who speaks.
fn short(pair: &Pair) -> String {
    let turn = |turn: &Turn| format!("{}:{} ", &turn.role.name()[..1], turn.content);
    let turns: String = pair.prompt.turns().iter().map(turn).collect();
    format!("{turns}a:{}", pair.completion)
}

#[test]
fn every_format_is_read_as_what_it_says() {
    let cases: [(&str, &str, &str); 19] = [
        (
            r#"{"prompt":"p","completion":" c"}"#,
            "u:p a: c",
            "prompt and completion",
        ),
        (
            r#"{"prompt":"p","response":"c"}"#,
            "u:p a:c",
            "prompt and response",
        ),
        (
            r#"{"question":"p","answer":"c"}"#,
            "u:p a:c",
            "question and answer",
        ),
        (
            r#"{"input":"p","output":"c"}"#,
            "u:p a:c",
            "input and output",
        ),
        (
            r#"{"Prompt":"p","Completion":"c"}"#,
            "u:p a:c",
            "prompt and completion",
        ),
        (
            r#"{"prompt":"p","completion":"c","system":"s"}"#,
            "s:s u:p a:c",
            "prompt and completion, system prompt in 100 %",
        ),
        (
            r#"{"prompt":"p","completion":"c","system":null}"#,
            "u:p a:c",
            "prompt and completion",
        ),
        (
            r#"{"instruction":"i","input":"p","output":"c"}"#,
            "u:i\n\np a:c",
            "instruction, input and output",
        ),
        (
            r#"{"instruction":"i","input":"","output":"c","history":[["q","r"]]}"#,
            "u:q a:r u:i a:c",
            "instruction, input and output, 4.0 turns on average",
        ),
        (
            r#"{"messages":[{"role":"user","content":"p"},{"role":"assistant","content":"c"}]}"#,
            "u:p a:c",
            "messages",
        ),
        (
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"p"}]},{"role":"assistant","content":"c","tool_calls":[]}],"tools":[]}"#,
            "s:s u:p a:c",
            "messages, system prompt in 100 %",
        ),
        (
            r#"{"conversations":[{"from":"human","value":"p"},{"from":"gpt","value":"c"}]}"#,
            "u:p a:c",
            "conversations",
        ),
        (
            r#"{"prompt":[{"role":"user","content":"p"}],"completion":[{"role":"assistant","content":"c"}]}"#,
            "u:p a:c",
            "prompt and completion",
        ),
        (
            "prompt,completion\r\np,\"c, d\"\r\n",
            "u:p a:c, d",
            "prompt and completion (CSV)",
        ),
        (
            "Question\tAnswer\np\tc\n",
            "u:p a:c",
            "question and answer (CSV)",
        ),
        (
            "[\n {\n  \"prompt\": \"p\",\n  \"completion\": \"c\"\n }\n]\n",
            "u:p a:c",
            "prompt and completion",
        ),
        (
            "{\n \"prompt\": \"p\",\n \"completion\": \"c\"\n}\n",
            "u:p a:c",
            "prompt and completion",
        ),
        (
            "\u{feff}{\"prompt\":\"p\",\"completion\":\"c\"}\r\n\r\n",
            "u:p a:c",
            "prompt and completion",
        ),
        (
            "{\"prompt\":\"a\\u0000b\u{2028}\",\"completion\":\"c\"}\n\n",
            "u:a\0b\u{2028} a:c",
            "prompt and completion",
        ),
    ];
    for (text, expected, format) in cases {
        let rows = read(text.as_bytes(), |_| {}).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(rows.pairs.len(), 1, "{text}");
        assert_eq!(short(&rows.pairs[0]), expected, "{text}");
        assert_eq!(rows.in_words(), format!("1 rows of {format}"), "{text}");
        assert_eq!(rows.warnings(), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn rows_know_their_lines_however_they_lie() {
    let cases = [
        "\n{\"prompt\":\"a\"}\n\n{\"prompt\":\"b\"}",
        "[\n{\"prompt\":\"a\"},\n\n{\"prompt\":\"b\"}]",
        "prompt\na\n\nb\n",
        "\r{\"prompt\":\"a\"}\r\r{\"prompt\":\"b\"}\r",
    ];
    for text in cases {
        let rows = read(text.as_bytes(), |reading| {
            reading.completion = Completion::Optional;
        });
        assert_eq!(rows.unwrap().lines, [2, 4], "{text:?}");
    }
}

#[test]
fn all_answers_are_learnt_where_that_is_asked_for() {
    let text = r#"{"messages":[{"role":"assistant","content":"hi"},{"role":"user","content":"p"},{"role":"assistant","content":"c"},{"role":"user","content":"q"},{"role":"assistant","content":"d"}]}"#;
    let all = read(text.as_bytes(), |reading| reading.learn = Learn::All).unwrap();
    let found: Vec<String> = all.pairs.iter().map(short).collect();
    assert_eq!(found, ["a:hi u:p a:c", "a:hi u:p a:c u:q a:d"]);
    assert!(
        all.in_words().ends_with("2 answers to learn"),
        "{}",
        all.in_words()
    );
    assert!(all.warnings()[0].starts_with("1 turns of the model follow no turn"));
    let last = read(text.as_bytes(), |_| {}).unwrap();
    assert_eq!(last.pairs, all.pairs[1..]);
}

#[test]
fn what_is_not_read_is_counted_and_named() {
    let text = "{\"id\":1,\"prompt\":\"a\",\"completion\":\"b\"}\n{\"id\":2,\"src\":\"x\",\"prompt\":\"c\",\"completion\":\"d\"}";
    assert_eq!(
        read(text.as_bytes(), |_| {}).unwrap().warnings(),
        ["keys that are not read, with the number of rows that have them: \"id\" (2), \"src\" (1)"]
    );
}

#[test]
fn a_format_can_be_named() {
    let text = r#"{"prompt":"x","completion":"y","question":"p","answer":"c"}"#;
    let rows = read(text.as_bytes(), |reading| {
        reading.format = RowFormat::QuestionAnswer;
    })
    .unwrap();
    assert_eq!(short(&rows.pairs[0]), "u:p a:c");
    let error = read(text.as_bytes(), |reading| {
        reading.format = RowFormat::Messages;
    });
    assert_eq!(error, Err("d:1: no \"messages\"".into()));
}

#[test]
fn seeds_need_no_answer_and_null_is_none() {
    let text = "{\"prompt\":\"a\",\"completion\":null}\n{\"prompt\":\"b\"}\n{\"prompt\":\"c\",\"completion\":\"d\"}";
    let rows = read(text.as_bytes(), |reading| {
        reading.completion = Completion::Optional;
    })
    .unwrap();
    let found: Vec<String> = rows.pairs.iter().map(short).collect();
    assert_eq!(found, ["u:a a:", "u:b a:", "u:c a:d"]);
    let error = read(text.as_bytes(), |_| {}).unwrap_err();
    assert_eq!(error, "d:1: there is no answer to learn");
}

#[test]
fn every_bad_row_is_named_with_its_line() {
    let long = format!("{{\"prompt\":\"{}\"}}", "x".repeat(400));
    let good = r#"{"prompt":"a","completion":"b"}"#;
    let messages = |turns: &str| format!(r#"{{"messages":[{turns}]}}"#);
    let user = r#"{"role":"user","content":"p"}"#;
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "d: it has no rows"),
        ("\n \n".into(), "d: it has no rows"),
        (
            format!("{good}\n\n{long}"),
            "d:3: the row is longer than 400 bytes",
        ),
        ("prompt,completion\n".into(), "d: it has no rows"),
        (
            "hello world\n".into(),
            "d:1: not JSON: expected value at byte 1",
        ),
        ("[1]".into(), "d:1: not an object but a number"),
        ("\"a\"".into(), "d:1: not an object but a string"),
        (
            "{\"completion\":\"a\"}".into(),
            "d:1: no known format: its keys are completion",
        ),
        ("{\"text\":\"a\"}".into(), "d:1: only a \"text\""),
        (
            "{\"prompt\":7,\"completion\":\"b\"}".into(),
            "d:1: \"prompt\" is a number, expected a string",
        ),
        (
            "{\"prompt\":\"a\",\"completion\":[\"b\"]}".into(),
            "d:1: \"completion\" is an array, expected a string",
        ),
        (
            "{\"prompt\":\" \",\"completion\":\"b\"}".into(),
            "d:1: \"prompt\" is blank",
        ),
        (
            "{\"prompt\":\"a\",\"completion\":\"\"}".into(),
            "d:1: \"completion\" is blank",
        ),
        (
            format!("{good}\n{{\"prompt\""),
            "d:2: not JSON: the row does not end",
        ),
        (format!("{good}{good}"), "d:1: a second row on the line"),
        (format!("{good},\n{good},"), "d:1: a comma after the row"),
        (
            format!("[{good}\n{good}]"),
            "d:2: not JSON: a comma is missing between two rows",
        ),
        (
            format!("[{good}"),
            "d:1: not JSON: the list of rows does not end",
        ),
        (
            format!("// mine\n{good}"),
            "d:1: not JSON: a comment, and JSON has none",
        ),
        ("{'prompt': 'a'}".into(), "d:1: not JSON: single quotes"),
        (
            "{\"prompt\": NaN}".into(),
            "d:1: not JSON: NaN and Infinity",
        ),
        (
            "{\"prompt\": None}".into(),
            "d:1: not JSON: JSON writes true, false and null",
        ),
        (
            "{\"prompt\":\"a\",\"completion\":\"x\",\"completion\":\"b\"}".into(),
            "d:1: the key \"completion\" is there twice",
        ),
        (
            "{\"prompt\":\"a\",\"Prompt\":\"b\"}".into(),
            "d:1: the key \"prompt\" is there twice, in capitals and without",
        ),
        (
            "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}".into(),
            "d:1: a row of preferences",
        ),
        (
            "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":false}".into(),
            "d:1: a row of preferences",
        ),
        (
            "{\"question\":\"a\"}".into(),
            "d:1: there is no answer to learn",
        ),
        (messages(user), "d:1: there is no answer to learn"),
        (
            messages(&format!(
                r#"{user},{{"role":"assistant","content":null,"tool_calls":[{{}}]}}"#
            )),
            "d:1: tool calls",
        ),
        (
            messages(&format!(r#"{user},{{"role":"tool","content":"x"}}"#)),
            "d:1: tool calls",
        ),
        (
            messages(&format!(r#"{user},{{"role":"judge","content":"x"}}"#)),
            "d:1: turn 2 has the unknown role \"judge\"",
        ),
        (
            messages(r#"{"role":"user","content":[{"type":"image"}]}"#),
            "d:1: turn 1 holds a part of the type \"image\"",
        ),
        (
            messages(r#"{"role":"user"}"#),
            "d:1: turn 1 has no \"content\"",
        ),
        (messages(""), "d:1: \"messages\" is blank"),
        (
            "prompt,completion\na,b\nc\n".into(),
            "d:3: 1 columns, and the header has 2",
        ),
        (
            "prompt,prompt\na,b\n".into(),
            "d:1: the column \"prompt\" is there twice",
        ),
        (
            format!("{good}\n{good}\n{good}\n{good}"),
            "d: more than 3 rows",
        ),
    ];
    for (text, expected) in cases {
        let error = read(text.as_bytes(), |_| {}).unwrap_err();
        assert!(
            error.starts_with(expected),
            "{text}: {error:?} is not {expected:?}"
        );
    }
}

#[test]
fn files_that_hold_no_rows_are_named_for_what_they_are() {
    let utf16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
        "{\"prompt\"".encode_utf16().flat_map(unit).collect()
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"\x1f\x8b\x08\0".to_vec(), "gzip"),
        (b"PK\x03\x04".to_vec(), "a zip archive or a spreadsheet"),
        (b"PAR1\x15".to_vec(), "Parquet"),
        (b"ARROW1\0\0".to_vec(), "Arrow"),
        (b"SQLite format 3\0".to_vec(), "a SQLite database"),
        (b"\x80\x04\x95".to_vec(), "a Python pickle"),
        (b"GGUF\x03".to_vec(), "a GGUF"),
        (b"\n<!DOCTYPE html><html>".to_vec(), "an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "a Git LFS pointer, which stands for the file",
        ),
        (utf16(u16::to_le_bytes), "UTF-16 text"),
        (utf16(u16::to_be_bytes), "UTF-16 text"),
        (
            [b"\xff\xfe".to_vec(), utf16(u16::to_le_bytes)].concat(),
            "UTF-16 text",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(
            read(&bytes, |_| {}),
            Err(format!("d: this is {expected}, and no rows"))
        );
    }
    assert_eq!(
        read(
            b"{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"\xe9\"}",
            |_| {}
        ),
        Err("d:2: not UTF-8 at byte 11 of the line: it may be Latin-1 or Windows-1252".into())
    );
    let limits = limits();
    let error = read_rows(Path::new("-"), &reading(&limits)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("data cannot come from a pipe"),
        "{error}"
    );
}

#[test]
fn seeds_must_differ() {
    let rows = |prompts: &[&str]| Rows {
        pairs: prompts
            .iter()
            .map(|prompt| Pair::new(*prompt, ""))
            .collect(),
        lines: (1..=prompts.len()).collect(),
        ..Rows::default()
    };
    let check = |prompts: &[&str]| {
        check_distinct(Path::new("s"), &rows(prompts)).map_err(|error| error.to_string())
    };
    assert_eq!(check(&["a"]), Ok(()));
    assert_eq!(check(&["a", "b"]), Ok(()));
    assert_eq!(
        check(&["a", "a "]),
        Err("s: all 2 seeds are the same text".into())
    );
    assert_eq!(
        check(&["a", "b", "a"]),
        Err("s:3: the same prompt as line 1".into())
    );
}
