//! From a JSON schema to a grammar in llama.cpp's notation (GBNF).
//!
//! What a schema demands and a grammar of this kind cannot say is refused by name; what only
//! describes (`title`, `description`, `default`, most formats) is not read. Properties come in the
//! order of the schema, the required ones first.

use std::collections::BTreeMap;
use std::fmt::Write;

mod calls;
mod json;

pub(super) use calls::{Function, of_calls};
pub(super) use json::Json;

/// Rules of one grammar.
const RULES_MAX: usize = 2000;
/// Schemas in schemas.
const DEPTH_MAX: usize = 64;
/// Repetitions of an item or a character that a grammar can count.
const COUNT_MAX: f64 = 1000.0;
/// Whole numbers between two bounds that are written out.
const WRITTEN_OUT_MAX: f64 = 1000.0;

/// Why a schema makes no grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SchemaError {
    #[error("a JSON schema is an object or true, not {0}")]
    NoSchema(String),
    #[error("the schema's {keyword:?} is not supported: {why}")]
    Unsupported { keyword: String, why: &'static str },
    #[error(
        "the schema's \"$ref\" {0:?} leads nowhere: only \"#/…\" in the same schema is followed"
    )]
    Reference(String),
    #[error("the schema is too large: {0}")]
    TooLarge(&'static str),
}

/// Any JSON object.
pub(super) fn any_object() -> String {
    let mut grammar = Grammar::new(&Json::Null);
    let object = grammar.primitive("object");
    grammar.finish(object)
}

/// What a schema allows.
///
/// fails: the schema demands what a grammar cannot say
pub(super) fn of_schema(schema: &Json) -> Result<String, SchemaError> {
    let mut grammar = Grammar::new(schema);
    let root = grammar.visit(schema, 0)?;
    Ok(grammar.finish(root))
}

/// Rules that others use, with those that they use. Those of llama.cpp.
const PRIMITIVES: &[(&str, &str, &[&str])] = &[
    ("space", r#"| " " | "\n"{1,2} [ \t]{0,20}"#, &[]),
    ("null", r#""null" space"#, &["space"]),
    ("boolean", r#"("true" | "false") space"#, &["space"]),
    ("integral", r#"[0] | [1-9] [0-9]{0,15}"#, &[]),
    ("decimal", r#""." [0-9]{1,16}"#, &[]),
    ("exponent", r#"[eE] [-+]? integral"#, &["integral"]),
    (
        "number",
        r#""-"? integral decimal? exponent? space"#,
        &["integral", "decimal", "exponent", "space"],
    ),
    (
        "positive-number",
        r#"integral decimal? exponent? space"#,
        &["integral", "decimal", "exponent", "space"],
    ),
    ("integer", r#""-"? integral space"#, &["integral", "space"]),
    ("natural", r#"integral space"#, &["integral", "space"]),
    ("positive", r#"[1-9] [0-9]{0,15} space"#, &["space"]),
    (
        "char",
        r#"[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})"#,
        &[],
    ),
    ("string", r#""\"" char* "\"" space"#, &["char", "space"]),
    (
        "date",
        r#"[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [1-2] [0-9] | "3" [0-1])"#,
        &[],
    ),
    (
        "time",
        r#"([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{3})? ("Z" | ("+" | "-") ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])"#,
        &[],
    ),
    (
        "uuid",
        r#"hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}"#,
        &["hex"],
    ),
    ("hex", r#"[0-9a-fA-F]"#, &[]),
    (
        "value",
        r#"object | array | string | number | boolean | null"#,
        &["object", "array", "string", "number", "boolean", "null"],
    ),
    (
        "object",
        r#""{" space (string ":" space value ("," space string ":" space value)*)? "}" space"#,
        &["string", "value", "space"],
    ),
    (
        "array",
        r#""[" space (value ("," space value)*)? "]" space"#,
        &["value", "space"],
    ),
];

/// What describes and demands nothing.
const DESCRIBES: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "nullable",
    "strict",
    "discriminator",
    "format",
];

struct Grammar<'s> {
    root: &'s Json,
    rules: BTreeMap<String, String>,
    /// Rules of what `$ref` names.
    references: BTreeMap<String, String>,
    made: usize,
}

impl<'s> Grammar<'s> {
    fn new(root: &'s Json) -> Self {
        Self {
            root,
            rules: BTreeMap::new(),
            references: BTreeMap::new(),
            made: 0,
        }
    }

    fn finish(mut self, root: String) -> String {
        // White space before the first character of the answer would never be asked for.
        self.rules.insert("root".into(), root);
        self.rules
            .iter()
            .fold(String::new(), |mut text, (name, rule)| {
                _ = writeln!(text, "{name} ::= {rule}");
                text
            })
    }

    /// A rule of the table and all that it uses; its name.
    fn primitive(&mut self, name: &str) -> String {
        if let Some((name, rule, uses)) = PRIMITIVES.iter().find(|(known, ..)| *known == name)
            && self.rules.insert((*name).into(), (*rule).into()).is_none()
        {
            for used in *uses {
                self.primitive(used);
            }
        }
        name.into()
    }

    /// A new rule; its name.
    fn rule(&mut self, rule: String) -> Result<String, SchemaError> {
        if self.made >= RULES_MAX {
            return Err(SchemaError::TooLarge("it makes more than 2000 rules"));
        }
        let name = format!("r{}", self.made);
        self.made += 1;
        self.rules.insert(name.clone(), rule);
        Ok(name)
    }

    /// What a schema allows, as the name of a rule.
    fn visit(&mut self, schema: &Json, depth: usize) -> Result<String, SchemaError> {
        if depth > DEPTH_MAX {
            return Err(SchemaError::TooLarge("more than 64 schemas in one another"));
        }
        let entries = match schema {
            Json::Bool(true) => return Ok(self.primitive("value")),
            Json::Object(entries) => entries,
            other => return Err(SchemaError::NoSchema(other.to_string())),
        };
        let read = if let Some(reference) = schema.get("$ref") {
            return self.reference(reference, depth);
        } else if let Some(value) = schema.get("const") {
            self.alternatives(std::slice::from_ref(value))?
        } else if let Some(values) = schema.get("enum").and_then(Json::list) {
            self.alternatives(values)?
        } else if let Some(any) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)) {
            self.any(any.list().unwrap_or_default(), depth)?
        } else if let Some(all) = schema.get("allOf").and_then(Json::list) {
            let merged = self.merged(schema, all)?;
            return self.visit(&merged, depth + 1);
        } else {
            self.typed(schema, depth)?
        };
        for (keyword, _) in entries {
            if !read.1.contains(&keyword.as_str()) && !DESCRIBES.contains(&keyword.as_str()) {
                let (keyword, why) = (keyword.clone(), "no grammar says it");
                return Err(SchemaError::Unsupported { keyword, why });
            }
        }
        Ok(read.0)
    }

    fn reference(&mut self, reference: &Json, depth: usize) -> Result<String, SchemaError> {
        let text = reference.text().unwrap_or_default();
        if let Some(rule) = self.references.get(text) {
            return Ok(rule.clone());
        }
        let nowhere = || SchemaError::Reference(reference.to_string());
        let path: Vec<String> = match text {
            "#" => Vec::new(),
            text => {
                let steps = text.strip_prefix("#/").ok_or_else(nowhere)?.split('/');
                steps
                    .map(|step| step.replace("~1", "/").replace("~0", "~"))
                    .collect()
            }
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let found = self.root.at(&path).ok_or_else(nowhere)?;
        // The name is known before the rule, as a schema may contain itself.
        let name = self.rule(String::new())?;
        self.references.insert(text.into(), name.clone());
        let rule = self.visit(found, depth + 1)?;
        self.rules.insert(name.clone(), rule);
        Ok(name)
    }

    fn alternatives(&mut self, values: &[Json]) -> Result<Read, SchemaError> {
        self.primitive("space");
        let all: Vec<String> = values
            .iter()
            .map(|value| literal(&value.to_string()))
            .collect();
        let rule = self.rule(format!("({}) space", all.join(" | ")))?;
        Ok((rule, &["const", "enum", "type"]))
    }

    fn any(&mut self, schemas: &[Json], depth: usize) -> Result<Read, SchemaError> {
        let all = schemas.iter().map(|schema| self.visit(schema, depth + 1));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        Ok((self.rule(all.join(" | "))?, &["anyOf", "oneOf", "type"]))
    }

    /// One schema with the properties of all, those that are referred to as well.
    fn merged(&self, schema: &Json, all: &[Json]) -> Result<Json, SchemaError> {
        let mut entries: Vec<(String, Json)> = schema.entries().unwrap_or_default().to_vec();
        entries.retain(|(key, _)| key != "allOf");
        for part in all {
            let part = match part.get("$ref").and_then(Json::text) {
                Some(text) => {
                    let path: Vec<&str> = text.trim_start_matches("#/").split('/').collect();
                    let found = self.root.at(&path);
                    found.ok_or_else(|| SchemaError::Reference(text.into()))?
                }
                None => part,
            };
            for (key, value) in part.entries().unwrap_or_default() {
                match (entries.iter_mut().find(|(known, _)| known == key), value) {
                    (None, _) => entries.push((key.clone(), value.clone())),
                    (Some((_, Json::Object(all))), Json::Object(more)) => all.extend(more.clone()),
                    (Some((_, Json::List(all))), Json::List(more)) => all.extend(more.clone()),
                    (Some((_, known)), value) if known == value => {}
                    _ if DESCRIBES.contains(&key.as_str()) => {}
                    _ => {
                        let why = "its parts contradict each other";
                        let keyword = "allOf".into();
                        return Err(SchemaError::Unsupported { keyword, why });
                    }
                }
            }
        }
        Ok(Json::Object(entries))
    }

    fn typed(&mut self, schema: &Json, depth: usize) -> Result<Read, SchemaError> {
        let kind = match schema.get("type") {
            Some(Json::List(kinds)) => {
                let of = |kind: &Json| {
                    let mut one = schema.entries().unwrap_or_default().to_vec();
                    one.retain(|(key, _)| key != "type" && demands(kind, key));
                    one.push(("type".into(), kind.clone()));
                    self.visit(&Json::Object(one), depth + 1)
                };
                let all = kinds.iter().map(of).collect::<Result<Vec<_>, _>>()?;
                return Ok((self.rule(all.join(" | "))?, ALL));
            }
            Some(kind) => kind.text().unwrap_or_default(),
            None if schema.get("properties").is_some() => "object",
            None if schema.get("items").is_some() => "array",
            None => return Ok((self.primitive("value"), &[])),
        };
        match kind {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth),
            "string" => self.string(schema),
            "integer" => self.integer(schema),
            "number" => match (bound(schema, "minimum"), bound(schema, "maximum")) {
                (None, None) => Ok((self.primitive("number"), &["type"])),
                (Some(0.0), None) => Ok((self.primitive("positive-number"), &["type", "minimum"])),
                _ => Err(SchemaError::Unsupported {
                    keyword: "minimum".into(),
                    why: "a number may have the minimum 0 and no other bound",
                }),
            },
            "boolean" | "null" => Ok((self.primitive(kind), &["type"])),
            other => Err(SchemaError::NoSchema(format!("of the type {other:?}"))),
        }
    }

    fn object(&mut self, schema: &Json, depth: usize) -> Result<Read, SchemaError> {
        let keys: &[&str] = &["type", "properties", "required", "additionalProperties"];
        self.primitive("space");
        let properties = schema.get("properties").and_then(Json::entries);
        let properties = properties.unwrap_or_default();
        let required = schema
            .get("required")
            .and_then(Json::list)
            .unwrap_or_default();
        let more = match schema.get("additionalProperties") {
            Some(Json::Bool(false)) => None,
            Some(Json::Bool(true)) => Some(self.primitive("value")),
            Some(schema) => Some(self.visit(schema, depth + 1)?),
            None if properties.is_empty() && required.is_empty() => {
                return Ok((self.primitive("object"), keys));
            }
            None => None,
        };
        let is_required = |name: &str| required.iter().any(|key| key.text() == Some(name));
        let (mut needed, mut optional) = (Vec::new(), Vec::new());
        for (name, property) in properties {
            let value = self.visit(property, depth + 1)?;
            let pair = self.pair(name, &value)?;
            let list = if is_required(name) {
                &mut needed
            } else {
                &mut optional
            };
            list.push(pair);
        }
        for name in required.iter().filter_map(Json::text) {
            if !properties.iter().any(|(known, _)| known == name) {
                let value = self.primitive("value");
                needed.push(self.pair(name, &value)?);
            }
        }
        // From the last one on: each may be followed by those behind it.
        let mut rest = match more {
            None => self.rule("\"\"".into())?,
            Some(value) => {
                self.primitive("string");
                let pair = self.rule(format!("string \":\" space {value}"))?;
                let rest = self.rule(format!("(\",\" space {pair})*"))?;
                optional.push(pair);
                rest
            }
        };
        let mut beginnings = Vec::new();
        for (at, pair) in optional.iter().enumerate().rev() {
            beginnings.push(format!("{pair} {rest}"));
            if at > 0 || !needed.is_empty() {
                rest = self.rule(format!("(\",\" space {pair})? {rest}"))?;
            }
        }
        beginnings.reverse();
        let body = match (needed.is_empty(), beginnings.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!("({})?", beginnings.join(" | ")),
            (false, _) => format!("{} {rest}", needed.join(" \",\" space ")),
        };
        Ok((
            self.rule(format!("\"{{\" space {body} \"}}\" space"))?,
            keys,
        ))
    }

    /// A key with its value.
    fn pair(&mut self, key: &str, value: &str) -> Result<String, SchemaError> {
        let key = literal(&serde_json::Value::from(key).to_string());
        self.rule(format!("{key} space \":\" space {value}"))
    }

    fn array(&mut self, schema: &Json, depth: usize) -> Result<Read, SchemaError> {
        let keys: &[&str] = &["type", "items", "prefixItems", "minItems", "maxItems"];
        self.primitive("space");
        // Drafts before 2020-12 call it `items`, too.
        let list = |key| schema.get(key).and_then(Json::list);
        if let Some(items) = list("prefixItems").or_else(|| list("items")) {
            let all = items.iter().map(|item| self.visit(item, depth + 1));
            let all = all.collect::<Result<Vec<_>, _>>()?.join(" \",\" space ");
            return Ok((self.rule(format!("\"[\" space {all} \"]\" space"))?, keys));
        }
        let item = match schema.get("items") {
            Some(items) => self.visit(items, depth + 1)?,
            None => self.primitive("value"),
        };
        let (least, most) = (count(schema, "minItems")?, count(schema, "maxItems")?);
        let least = least.unwrap_or(0);
        let more = |taken: u32| match most {
            Some(most) => format!(
                "{{{},{}}}",
                least.saturating_sub(taken),
                most.saturating_sub(taken)
            ),
            None => format!("{{{},}}", least.saturating_sub(taken)),
        };
        let all = format!("{item} (\",\" space {item}){}", more(1));
        let body = match (least, most) {
            (_, Some(0)) => String::new(),
            (0, _) => format!("({all})?"),
            _ => all,
        };
        Ok((self.rule(format!("\"[\" space {body} \"]\" space"))?, keys))
    }

    fn string(&mut self, schema: &Json) -> Result<Read, SchemaError> {
        let keys: &[&str] = &["type", "minLength", "maxLength"];
        self.primitive("space");
        let (least, most) = (count(schema, "minLength")?, count(schema, "maxLength")?);
        let rule = match schema.get("format").and_then(Json::text) {
            Some(format @ ("date" | "time" | "uuid")) => self.primitive(format),
            Some("date-time") => {
                let (date, time) = (self.primitive("date"), self.primitive("time"));
                format!("{date} \"T\" {time}")
            }
            _ if least.is_none() && most.is_none() => return Ok((self.primitive("string"), keys)),
            _ => {
                let most = most.map_or(String::new(), |most| most.to_string());
                let char = self.primitive("char");
                format!("{char}{{{},{most}}}", least.unwrap_or(0))
            }
        };
        Ok((self.rule(format!("\"\\\"\" {rule} \"\\\"\" space"))?, keys))
    }

    fn integer(&mut self, schema: &Json) -> Result<Read, SchemaError> {
        let keys: &[&str] = &["type", "minimum", "maximum"];
        let least = bound(schema, "minimum").map(f64::ceil);
        let most = bound(schema, "maximum").map(f64::floor);
        let name = match (least, most) {
            (None, None) => "integer",
            (Some(0.0), None) => "natural",
            (Some(1.0), None) => "positive",
            (Some(least), Some(most)) if least <= most && most - least <= WRITTEN_OUT_MAX => {
                let all = (least as i64..=most as i64).map(|n| literal(&n.to_string()));
                let all: Vec<String> = all.collect();
                self.primitive("space");
                return Ok((self.rule(format!("({}) space", all.join(" | ")))?, keys));
            }
            _ => {
                return Err(SchemaError::Unsupported {
                    keyword: "minimum".into(),
                    why: "a whole number may have the minimum 0 or 1, or two bounds that are 1000 apart at most",
                });
            }
        };
        Ok((self.primitive(name), keys))
    }
}

/// A rule, and the keywords that it took into account.
type Read = (String, &'static [&'static str]);

/// What the branches of a list of types have looked at, each for itself.
const ALL: &[&str] = &[
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "pattern",
];

/// Whether a keyword says something about values of this type.
fn demands(kind: &Json, keyword: &str) -> bool {
    let of: &[&str] = match kind.text() {
        Some("object") => &["properties", "required", "additionalProperties"],
        Some("array") => &["items", "prefixItems", "minItems", "maxItems"],
        Some("string") => &["minLength", "maxLength", "format", "pattern"],
        Some("integer" | "number") => &["minimum", "maximum"],
        _ => &[],
    };
    of.contains(&keyword) || !ALL.contains(&keyword)
}

fn bound(schema: &Json, key: &str) -> Option<f64> {
    schema.get(key).and_then(Json::number)
}

fn count(schema: &Json, key: &str) -> Result<Option<u32>, SchemaError> {
    let Some(number) = bound(schema, key) else {
        return Ok(None);
    };
    if (0.0..=COUNT_MAX).contains(&number) && number.fract() == 0.0 {
        return Ok(Some(number as u32));
    }
    Err(SchemaError::Unsupported {
        keyword: key.into(),
        why: "it must be a whole number from 0 to 1000",
    })
}

/// A text as a literal of the grammar.
fn literal(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests;
