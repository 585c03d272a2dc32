use super::*;

fn grammar(schema: &str) -> Result<String, SchemaError> {
    of_schema(&Json::read(schema.as_bytes()).expect("JSON"))
}

/// Schemas with texts that they allow and texts that they do not.
const CASES: &[(&str, &[&str], &[&str])] = &[
    (
        r#"{"type": "boolean"}"#,
        &["true", "false"],
        &["null", "\"true\"", "tru"],
    ),
    (r#"{"type": "null"}"#, &["null"], &["0"]),
    (
        r#"{"type": "integer"}"#,
        &["0", "-5", "120"],
        &["1.5", "01", "\"1\""],
    ),
    (r#"{"type": "integer", "minimum": 0}"#, &["0", "7"], &["-1"]),
    (
        r#"{"type": "integer", "minimum": -1, "maximum": 11}"#,
        &["-1", "0", "11"],
        &["-2", "12", "110"],
    ),
    (
        r#"{"type": "number"}"#,
        &["0", "-1.5e3", "2.25"],
        &["+1", "1.", "NaN"],
    ),
    (
        r#"{"type": "string", "maxLength": 3}"#,
        &[r#""""#, r#""abc""#, r#""é\n""#],
        &[r#""abcd""#, "abc"],
    ),
    (
        r#"{"type": "string", "format": "date"}"#,
        &[r#""2024-02-29""#],
        &[r#""2024-13-01""#, r#""today""#],
    ),
    (
        r#"{"type": "string", "format": "email", "title": "only described"}"#,
        &[r#""a@b""#],
        &["a@b"],
    ),
    (
        r#"{"enum": ["a", 1, null]}"#,
        &["\"a\"", "1", "null"],
        &["\"b\"", "2"],
    ),
    (
        r#"{"const": {"b": 1, "a": [2]}}"#,
        &[r#"{"b":1,"a":[2]}"#],
        &[r#"{"b":1}"#],
    ),
    (
        r#"{"type": ["string", "null"]}"#,
        &["\"a\"", "null"],
        &["1"],
    ),
    (
        r#"{"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}"#,
        &["1", "[]", "[1, 2]"],
        &["[[1]]", "\"1\""],
    ),
    (
        r#"{"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}"#,
        &["[true]", "[true,false]"],
        &["[]", "[true,true,true]"],
    ),
    (
        r#"{"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}"#,
        &[r#"[1,"a"]"#],
        &[r#"["a",1]"#, "[1]"],
    ),
    (
        r#"{"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}"#,
        &[r#"[1,"a"]"#],
        &[r#"["a",1]"#, "[1]"],
    ),
    // The required ones first, in the order of the schema, then any of the others in theirs.
    (
        r#"{"type": "object", "properties": {"z": {"type": "integer"}, "m": {"type": "integer"},
            "a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["z", "a"]}"#,
        &[
            r#"{"z":1,"a":2}"#,
            r#"{"z": 1, "a": 2, "m": 3}"#,
            r#"{"z":1,"a":2,"b":4}"#,
            r#"{"z":1,"a":2,"m":3,"b":4}"#,
        ],
        &[r#"{"a":2,"z":1}"#, r#"{"z":1}"#, r#"{"z":1,"a":2,"x":3}"#],
    ),
    (
        r#"{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}"#,
        &["{}", r#"{"a":1}"#, r#"{"b":1}"#, r#"{"a":1,"b":2}"#],
        &[r#"{"c":1}"#, r#"{"b":2,"a":1}"#],
    ),
    (
        r#"{"type": "object", "additionalProperties": {"type": "integer"}}"#,
        &["{}", r#"{"x":1,"y":2}"#],
        &[r#"{"x":"1"}"#],
    ),
    (
        r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]}"#,
        &[r#"{"b":[1]}"#, r#"{"b":"x","a":1}"#],
        &["{}", r#"{"a":1}"#],
    ),
    (
        r##"{"$defs": {"node": {"type": "object", "properties": {"next": {"anyOf":
            [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["next"]}},
            "$ref": "#/$defs/node"}"##,
        &[r#"{"next":null}"#, r#"{"next":{"next":null}}"#],
        &["{}", r#"{"next":1}"#],
    ),
    (
        r##"{"$defs": {"a": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}},
            "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {"type": "null"}},
            "required": ["b"]}]}"##,
        &[r#"{"a":1,"b":null}"#],
        &[r#"{"a":1}"#, r#"{"b":null}"#],
    ),
    ("true", &["1", "{\"a\":[]}"], &["x"]),
    (
        r#"{"type": "object"}"#,
        &["{}", r#"{"a":{"b":[1,"x"]}}"#],
        &["[]"],
    ),
];

#[test]
fn what_no_grammar_says_is_refused_by_name() {
    for (schema, says) in [
        (r#"{"type": "string", "pattern": "a+"}"#, "\"pattern\""),
        (
            r#"{"type": "array", "uniqueItems": true}"#,
            "\"uniqueItems\"",
        ),
        (r#"{"type": "number", "multipleOf": 5}"#, "\"multipleOf\""),
        (r#"{"type": "integer", "minimum": 5}"#, "\"minimum\""),
        (r#"{"type": "number", "maximum": 5}"#, "\"minimum\""),
        (r#"{"not": {"type": "null"}}"#, "\"not\""),
        (
            r#"{"type": "string", "minLength": 100000}"#,
            "\"minLength\"",
        ),
        (r#"{"type": "strange"}"#, "strange"),
        (r#"{"properties": {"a": 3}}"#, "not 3"),
        (r#"{"$ref": "http://example.com/x.json"}"#, "leads nowhere"),
        (r##"{"$ref": "#/$defs/none"}"##, "leads nowhere"),
        (
            r#"{"allOf": [{"type": "string"}, {"type": "null"}]}"#,
            "\"allOf\"",
        ),
        ("3", "not 3"),
    ] {
        let error = grammar(schema).expect_err(schema).to_string();
        assert!(error.contains(says), "{schema}: {error}");
    }
    let deep = "{\"items\":".repeat(100) + "true" + &"}".repeat(100);
    assert!(matches!(grammar(&deep), Err(SchemaError::TooLarge(_))));
}

#[test]
fn each_rule_that_is_used_is_there() {
    for (schema, allowed, refused) in CASES {
        assert!(!allowed.is_empty() && !refused.is_empty(), "{schema}");
        let rules = grammar(schema).unwrap_or_else(|error| panic!("{error}: {schema}"));
        let known: Vec<&str> = rules
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert!(known.contains(&"root"), "{rules}");
        for (_, rule) in rules.lines().filter_map(|line| line.split_once(" ::= ")) {
            // What stands in quotes or brackets is text.
            let text = rule.split('"').step_by(2).collect::<String>();
            let made = |word: &&str| word.starts_with('r') && word[1..].parse::<u32>().is_ok();
            for word in text
                .split(|c: char| !c.is_alphanumeric() && c != '-')
                .filter(made)
            {
                assert!(known.contains(&word), "{word} is not in {rules}");
            }
        }
    }
}

/// A model that reads grammars.
#[cfg(feature = "ggml")]
struct Reader {
    host: std::sync::Arc<dyn crate::engine::host::Host>,
    ends: Vec<i32>,
}

#[cfg(feature = "ggml")]
impl Reader {
    fn new() -> Self {
        use crate::engine::{OpenOptions, of_base};

        let base = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/lab/branch.f16.gguf");
        let engine = of_base(&base).expect("a GGUF");
        let hosted = engine.host(&base, &OpenOptions::default(), 1);
        let host = hosted.expect("it opens").host;
        let all = 0..host.info().vocabulary as i32;
        let ends = all.filter(|token| host.is_end(*token)).collect();
        Self { host, ends }
    }

    /// Whether the rules let a whole text through.
    fn fits(&self, rules: &str, text: &str) -> bool {
        let grammar = self.host.grammar(rules);
        let mut grammar = grammar.unwrap_or_else(|error| panic!("{error}: {rules}"));
        let tokens = self.host.encode(text, false).expect("it encodes");
        let all = tokens.iter().all(|token| grammar.accept(*token).is_ok());
        all && self.ends.iter().any(|end| grammar.allows(*end))
    }
}

/// A function that wants a day.
#[cfg(feature = "ggml")]
fn book() -> [Function; 1] {
    let schema = r##"{"properties": {"day": {"$ref": "#/$defs/day"}}, "required": ["day"],
        "$defs": {"day": {"enum": ["mon", "tue"]}}}"##;
    [Function {
        name: "book".into(),
        description: String::new(),
        parameters: Some(Json::read(schema.as_bytes()).expect("JSON")),
    }]
}

/// llama.cpp reads every grammar, and takes and refuses what the schema does.
#[cfg(feature = "ggml")]
#[test]
fn llama_cpp_takes_what_the_schema_allows_and_nothing_else() {
    let reader = Reader::new();
    for (schema, allowed, refused) in CASES {
        let rules = grammar(schema).unwrap_or_else(|error| panic!("{error}: {schema}"));
        for text in *allowed {
            assert!(
                reader.fits(&rules, text),
                "{schema} refuses {text}:\n{rules}"
            );
        }
        for text in *refused {
            assert!(
                !reader.fits(&rules, text),
                "{schema} takes {text}:\n{rules}"
            );
        }
    }
    assert!(reader.fits(&any_object(), r#"{"a": [1, {"b": null}]}"#));
    for bad in [
        "",
        "root ::= x",
        "roots ::= \"a\"",
        "root ::= root \"a\"",
        "\0",
    ] {
        assert!(reader.host.grammar(bad).is_err(), "{bad:?}");
    }
    assert!(
        reader
            .host
            .grammar(&format!("root ::= {}", "(".repeat(100_000)))
            .is_err()
    );
}

#[cfg(feature = "ggml")]
#[test]
fn llama_cpp_takes_calls_that_fit_and_responses() {
    use crate::engine::host::CallForm;

    let reader = Reader::new();
    let call = r#"{"name":"book","arguments":{"day":"mon"}}"#;
    let one = format!(r#"{{"tool_calls":[{call}]}}"#);
    let two = format!(r#"{{"tool_calls":[{call},{call}]}}"#);
    let response = r#"{"response":"no"}"#;
    for (must_call, several, right) in [
        (false, true, [true, true, true]),
        (true, true, [true, true, false]),
        (true, false, [true, false, false]),
    ] {
        let rules = of_calls(&book(), must_call, several, None).expect("a grammar");
        let taken = [&one, &two, response].map(|text| reader.fits(&rules, text));
        assert_eq!(taken, right, "{must_call} {several}");
        assert!(!reader.fits(&rules, &one.replace("mon", "sun")));
    }
    let form = |open: &str| CallForm {
        open: open.into(),
        between: Some(", ".into()),
        close: "|>".into(),
        name: "name".into(),
        arguments: "parameters".into(),
    };
    let call = call.replace("arguments", "parameters");
    for (open, must_call, several, right) in [
        ("<c|", false, true, [true, true, true, true, false]),
        ("<c|", true, true, [true, true, false, false, false]),
        ("<c|", true, false, [true, false, false, false, false]),
        ("", false, true, [true, true, true, true, true]),
        ("", true, true, [true, true, false, false, false]),
    ] {
        let form = form(open);
        let rules = of_calls(&book(), must_call, several, Some(&form)).expect("a grammar");
        let texts = [
            format!("{open}{call}|>"),
            format!("{open}{call}, {call}|>"),
            "any text\n{}".to_owned(),
            "<b>".to_owned(),
            "<c|no".to_owned(),
        ];
        let taken = texts.map(|text| reader.fits(&rules, &text));
        assert_eq!(taken, right, "{open:?} {must_call} {several}: {rules}");
        assert!(!reader.fits(&rules, &format!("{open}{call}|>").replace("mon", "sun")));
    }
}
