//! Rows to learn from, as people write them.

use std::collections::BTreeSet;

use super::run;
use crate::source::root;
use crate::toy::World;

/// A file, the exit status of `train`, and what is said of the file.
const CASES: &str = r#"
01-encodings/blank-end.jsonl               | 0 | 8 rows of prompt and completion
01-encodings/blank-middle.jsonl            | 0 | 8 rows of prompt and completion
01-encodings/bom.jsonl                     | 0 | 8 rows of prompt and completion
01-encodings/comment.jsonl                 | 2 | :1: not JSON: a comment, and JSON has none
01-encodings/cr.jsonl                      | 0 | 8 rows of prompt and completion
01-encodings/crlf.jsonl                    | 0 | 8 rows of prompt and completion
01-encodings/latin1.jsonl                  | 2 | :1: not UTF-8 at byte 14 of the line: it may be Latin-1
01-encodings/lone-surrogate.jsonl          | 2 | :1: not JSON: unexpected end of hex escape at byte 24
01-encodings/nan.jsonl                     | 2 | :1: not JSON: NaN and Infinity are no numbers
01-encodings/nel.jsonl                     | 0 | 1 rows of prompt and completion
01-encodings/nul.jsonl                     | 0 | 1 rows of prompt and completion
01-encodings/plain.jsonl                   | 0 | 8 rows of prompt and completion
01-encodings/single-quotes.jsonl           | 2 | :1: not JSON: single quotes, and JSON has double
01-encodings/trailing-comma.jsonl          | 2 | :1: a comma after the row
01-encodings/unicode.jsonl                 | 0 | 2 rows of prompt and completion
01-encodings/utf16.jsonl                   | 2 | this is UTF-16 text, and no rows
01-encodings/utf16be.jsonl                 | 2 | this is UTF-16 text, and no rows
02-messages/chosen-rejected.jsonl          | 2 | :1: a row of preferences: answers with a judgement
02-messages/multi.jsonl                    | 0 | 8 rows of messages, 4.0 turns on average
02-messages/sharegpt.jsonl                 | 0 | 8 rows of conversations
02-messages/single.jsonl                   | 0 | 8 rows of messages
02-messages/system.jsonl                   | 0 | 8 rows of messages, system prompt in 100 %
02-messages/tools.jsonl                    | 2 | :1: tool calls, which cannot be learnt
02-messages/trl-prompt-list.jsonl          | 0 | 8 rows of prompt and completion
03-alpaca-array/alpaca.json                | 0 | 8 rows of instruction, input and output
03-alpaca-array/alpaca.jsonl               | 0 | 8 rows of instruction, input and output
03-alpaca-array/array-pretty.json          | 0 | 8 rows of prompt and completion
03-alpaca-array/array.json                 | 0 | 8 rows of prompt and completion
03-alpaca-array/capital.jsonl              | 0 | 8 rows of prompt and completion
03-alpaca-array/input-output.jsonl         | 0 | 8 rows of input and output
03-alpaca-array/pretty-object.jsonl        | 0 | 8 rows of prompt and completion
03-alpaca-array/prompt-response.jsonl      | 0 | 8 rows of prompt and response
03-alpaca-array/question-answer.jsonl      | 0 | 8 rows of question and answer
03-alpaca-array/rows.csv                   | 0 | 8 rows of prompt and completion (CSV)
03-alpaca-array/rows.jsonl.gz              | 2 | this is gzip, and no rows
03-alpaca-array/rows.parquet               | 2 | this is Parquet, and no rows
04-text-only/raw.txt                       | 2 | :1: not JSON: expected value at byte 1 of the line
04-text-only/templated-text.jsonl          | 2 | :1: only a "text": nothing says which part of it
04-text-only/text.jsonl                    | 2 | :1: only a "text": nothing says which part of it
05-number-labels/bool.jsonl                | 2 | :1: "completion" is a boolean, expected a string
05-number-labels/empty-prompt.jsonl        | 2 | :1: "prompt" is blank
05-number-labels/empty.jsonl               | 2 | :1: "completion" is blank
05-number-labels/float.jsonl               | 2 | :1: "completion" is a number, expected a string
05-number-labels/int.jsonl                 | 2 | :1: "completion" is a number, expected a string
05-number-labels/list.jsonl                | 2 | :1: "completion" is an array, expected a string
05-number-labels/null.jsonl                | 2 | :1: there is no answer to learn
05-number-labels/number-text.jsonl         | 0 | 8 rows of prompt and completion
05-number-labels/object.jsonl              | 2 | :1: "completion" is an object, expected a string
05-number-labels/seeds-null.jsonl          | 2 | :1: there is no answer to learn
05-number-labels/space.jsonl               | 2 | :1: "completion" is blank
06-duplicate-keys/two-completions.jsonl    | 2 | :1: the key "completion" is there twice
06-duplicate-keys/two-objects-a-line.jsonl | 2 | :1: a second row on the line
06-duplicate-keys/two-prompts.jsonl        | 2 | :1: the key "prompt" is there twice
07-extra-columns/id.jsonl                  | 0 | of rows that have them: "id" (8)
07-extra-columns/meta.jsonl                | 0 | that have them: "metadata" (8), "source" (8)
07-extra-columns/null-column.jsonl         | 0 | 8 rows of prompt and completion
07-extra-columns/system.jsonl              | 0 | prompt and completion, system prompt in 100 %
08-templated-rows/end-only.jsonl           | 0 | 8 of 8 rows hold markup of another template, such as "<|"
08-templated-rows/markup-in-prompt.jsonl   | 0 | 8 of 8 rows hold markup of another template, such as "<|"
08-templated-rows/s-end.jsonl              | 0 | 8 of 8 rows hold markup of another template, such as "</s>"
08-templated-rows/whole.jsonl              | 0 | 8 of 8 rows hold markup of another template, such as "<|"
09-long-rows/long-answer.jsonl             | 0 | 4 rows of prompt and completion
09-long-rows/one-long.jsonl                | 2 | :9: a row of 1602 tokens does not fit a context
09-long-rows/over-64k.jsonl                | 0 | 1 rows of prompt and completion
10-answer-whitespace/both.jsonl            | 0 | 8 rows of prompt and completion
10-answer-whitespace/crlf.jsonl            | 0 | 8 rows of prompt and completion
10-answer-whitespace/lead.jsonl            | 0 | 8 rows of prompt and completion
10-answer-whitespace/nbsp.jsonl            | 0 | 8 rows of prompt and completion
10-answer-whitespace/newline.jsonl         | 0 | 8 rows of prompt and completion
10-answer-whitespace/prompt-trail.jsonl    | 0 | 8 rows of prompt and completion
10-answer-whitespace/trail.jsonl           | 0 | 8 rows of prompt and completion
"#;

fn cases() -> Vec<(&'static str, i32, &'static str)> {
    let case = |line: &'static str| {
        let mut cells = line.splitn(3, '|').map(str::trim);
        let mut cell = || cells.next().expect("three cells");
        (cell(), cell().parse().expect("a status"), cell())
    };
    CASES.trim().lines().map(case).collect()
}

#[test]
fn data_is_taken_or_refused_by_name() {
    let world = World::new();
    for (name, status, says) in cases() {
        let file = root().join("tests/fixtures/cases").join(name);
        let file = file.to_str().expect("the repository's path is text");
        let out = name.replace(['/', '.'], "-") + ".gguf";
        let line = [
            "train", "-m", "old.json", "--epochs", "1", "--data", file, "--out", &out,
        ];
        let (code, said) = run(&world, &line);
        assert_eq!(code, status, "{name}: {said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(file)).collect();
        assert!(
            lines.iter().any(|line| line.contains(says)),
            "{name}: {said}"
        );
        assert_eq!(world.path(&out).exists(), code == 0, "{name}");
        assert!(code == 0 || said.contains("hint: "), "{name}: {said}");
    }
}

#[test]
fn every_file_of_data_has_a_case() {
    let folder = root().join("tests/fixtures/cases");
    let names = |of: &std::path::Path| -> Vec<String> {
        let entries = of.read_dir().expect("the cases are in the repository");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        names
            .map(|name| name.into_string().expect("a plain name"))
            .collect()
    };
    let files: BTreeSet<String> = names(&folder)
        .iter()
        .flat_map(|case| {
            let files = names(&folder.join(case)).into_iter();
            files.map(move |file| format!("{case}/{file}"))
        })
        .collect();
    let cases: BTreeSet<String> = cases()
        .iter()
        .map(|(name, ..)| (*name).to_owned())
        .collect();
    assert_eq!(files, cases);
}
