//! The page `docs/reference/http.md`: the OpenAPI document as tables, in a text written by hand.

use serde_json::{Map, Value};

use super::body::{ACCEPTED, UNSUPPORTED, names};
use super::openapi::{STREAM, openapi};
use super::schema::Common;

/// The text around the tables.
const TEXT: &str = include_str!("reference.md");
/// Sections of paths, by their tags in the document.
const TAGS: [&str; 5] = ["OpenAI", "llama-server", "adapters", "transfers", "server"];

/// The page.
pub fn reference() -> String {
    let document = openapi();
    let accepted: Vec<String> = ACCEPTED.iter().map(|name| code(name)).collect();
    let mut page = TEXT
        .replace("{accepted}", &accepted.join(", "))
        .replace("{unsupported}", &unsupported())
        .replace("{common}", &common(&document))
        .replace("{objects}", &objects(&document));
    for tag in TAGS {
        page = page.replace(&format!("{{{tag}}}"), &section(&document, tag));
    }
    page
}

/// Fields that are refused, and the values of them that are not.
fn unsupported() -> String {
    let row = |(name, neutral): &(&str, &str)| {
        let values: Vec<Value> = serde_json::from_str(neutral).unwrap_or_default();
        let values: Vec<String> = values
            .iter()
            .map(|value| code(&value.to_string()))
            .collect();
        format!("| {} | {} |\n", code(name), values.join(", "))
    };
    let rows: String = UNSUPPORTED.iter().map(row).collect();
    format!("| field | accepted, as it changes nothing |\n|---|---|\n{rows}")
}

/// The fields that all endpoints share that generate.
fn common(document: &Value) -> String {
    let shared = names::<Common>();
    let body = &document["components"]["schemas"]["ChatBody"];
    fields(body, |name| shared.contains(&name))
}

/// The paths of a section.
fn section(document: &Value, tag: &str) -> String {
    let mut text = String::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let summary = operation["summary"].as_str().unwrap_or_default();
            if operation["tags"][0] == tag && !summary.starts_with("As ") {
                text += &endpoint(document, path, method, operation);
            }
        }
    }
    text.trim_end().to_owned()
}

fn endpoint(document: &Value, path: &str, method: &str, operation: &Value) -> String {
    let method = method.to_uppercase();
    let mut text = format!("### `{method} {path}`\n\n");
    text += &format!("{}.", operation["summary"].as_str().unwrap_or_default());
    if let Some(more) = operation["description"].as_str() {
        text += &format!(" {}", more.replace('\n', " "));
    }
    let others = other_names(document, path);
    if !others.is_empty() {
        text += &format!(" Also as {}.", others.join(", "));
    }
    text += "\n\n";
    if let Some(kind) = content(&operation["requestBody"]) {
        text += &body(document, kind);
    }
    let answers = operation["responses"].as_object().into_iter().flatten();
    let answers: Vec<String> = answers
        .map(|(status, answer)| answered(status, answer))
        .collect();
    text + &format!("Answers: {}.\n\n", answers.join(", "))
}

fn other_names(document: &Value, path: &str) -> Vec<String> {
    let as_this = format!("As `{path}`");
    let paths = document["paths"].as_object().into_iter().flatten();
    let same = paths.filter(|(_, item)| {
        let mut operations = item.as_object().into_iter().flatten();
        operations.any(|(_, operation)| operation["summary"] == as_this)
    });
    same.map(|(path, _)| code(path)).collect()
}

/// The fields of a body that are its own.
fn body(document: &Value, schema: &Value) -> String {
    let Some(name) = name_of(schema) else {
        return format!("The body is {}.\n\n", kind(schema));
    };
    let object = &document["components"]["schemas"][name];
    // A transfer has a page of its own.
    if name == "Transfer" {
        return String::new();
    }
    let (shared, has) = (names::<Common>(), &object["properties"]);
    let generates = shared.iter().all(|name| has.get(name).is_some());
    let own = |name: &str| {
        let listed = UNSUPPORTED.iter().any(|(listed, _)| *listed == name);
        let common = generates && (shared.contains(&name) || name == "samplers");
        !(ACCEPTED.contains(&name) || listed || common)
    };
    let table = fields(object, own);
    if generates {
        table
            + "\nThe [fields of every request that generates](#fields-of-every-request-that-generates) too.\n\n"
    } else {
        table + "\n"
    }
}

fn answered(status: &str, answer: &Value) -> String {
    let contents = answer["content"].as_object().into_iter().flatten();
    let kinds: Vec<String> = contents
        .filter(|_| status.starts_with('2'))
        .map(|(media, content)| match media.as_str() {
            "application/json" => kind(&content["schema"]),
            STREAM if content["schema"].get("properties").is_some() => {
                let event = &content["schema"]["properties"]["data"]["anyOf"][1];
                let object = kind(&event["contentSchema"]["anyOf"][0]);
                format!("{} of {object}", code(STREAM))
            }
            other => code(other),
        })
        .collect();
    if kinds.is_empty() {
        status.to_owned()
    } else {
        format!("{status} ({})", kinds.join(" or "))
    }
}

fn content(body: &Value) -> Option<&Value> {
    body.get("content")?.get("application/json")?.get("schema")
}

/// The objects that bodies and answers hold.
fn objects(document: &Value) -> String {
    let all = document["components"]["schemas"].as_object();
    let mut text = String::new();
    for (name, schema) in all.into_iter().flatten() {
        if name.ends_with("Body") && name != "ErrorBody" || name == "Transfer" {
            continue;
        }
        let table = if schema.get("properties").is_some() {
            fields(schema, |_| true)
        } else {
            format!("{}.\n", kind(schema))
        };
        let about = match schema["description"].as_str() {
            Some(about) => format!("{}\n\n", about.replace('\n', " ")),
            None => String::new(),
        };
        text += &format!("### {name}\n\n{about}{table}\n");
    }
    text.trim_end().to_owned()
}

/// A table of those fields of an object whose name passes.
fn fields(object: &Value, passes: impl Fn(&str) -> bool) -> String {
    let none = Map::new();
    let properties = object["properties"].as_object().unwrap_or(&none);
    let needed = |name: &str| {
        let mut all = object["required"].as_array().into_iter().flatten();
        all.any(|needed| needed == name)
    };
    let row = |(name, schema): (&String, &Value)| {
        let default = match schema.get("default") {
            Some(default) => code(&default.to_string()),
            None if needed(name) => "needed".into(),
            None => String::new(),
        };
        let about = about(schema).replace('\n', " ");
        format!(
            "| {} | {} | {default} | {about} |\n",
            code(name),
            kind(schema)
        )
    };
    let rows: String = properties
        .iter()
        .filter(|(name, _)| passes(name))
        .map(row)
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("| field | | default | |\n|---|---|---|---|\n{rows}")
}

/// What a field is for; of an optional one it stands beside its kind.
fn about(schema: &Value) -> &str {
    let own = schema["description"].as_str();
    let mut kinds = schema["anyOf"].as_array().into_iter().flatten();
    own.or_else(|| kinds.find_map(|kind| kind["description"].as_str()))
        .unwrap_or_default()
}

fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// What a value may be.
fn kind(schema: &Value) -> String {
    if let Some(name) = name_of(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        let kinds = kinds.iter().filter(|kind| kind["type"] != "null");
        return kinds.map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter(|value| !value.is_null());
        return values
            .map(|value| code(&value.to_string()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let word = |kind: &&str| match *kind {
        "null" => None,
        "array" => Some(format!("list of {}", kind_of_items(schema))),
        "integer" => Some("whole number".into()),
        "string" => Some("text".into()),
        "boolean" => Some("true or false".into()),
        other => Some(other.into()),
    };
    let words: Vec<String> = kinds.iter().filter_map(word).collect();
    match words.len() {
        0 if kinds.is_empty() => "any JSON".into(),
        0 => "null".into(),
        _ => words.join(" or ") + &bounds(schema),
    }
}

fn kind_of_items(schema: &Value) -> String {
    match schema["items"].get("prefixItems").and_then(Value::as_array) {
        Some(items) => format!(
            "[{}]",
            items.iter().map(kind).collect::<Vec<_>>().join(", ")
        ),
        None => kind(&schema["items"]),
    }
}

fn bounds(schema: &Value) -> String {
    let (low, high) = (schema.get("minimum"), schema.get("maximum"));
    match (low, high) {
        (Some(low), Some(high)) => format!(" from {low} to {high}"),
        (Some(low), None) => format!(", {low} or more"),
        (None, Some(high)) => format!(", {high} or less"),
        (None, None) => schema["pattern"]
            .as_str()
            .map_or_else(String::new, |pattern| {
                let words = pattern
                    .trim_matches(['^', '$', '(', ')'])
                    .replace('|', "` or `");
                format!(": `{words}`")
            }),
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}
