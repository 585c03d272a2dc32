//! Every feature of templates renders as Jinja2 did when the table was written
//! (`scripts/check/templates --bless`).

use serde::Deserialize;
use serde_json::{Map, Value};
use translora_chat::{ChatTemplate, Rendering, TemplateError};

#[derive(Deserialize)]
struct Row {
    feature: String,
    template: String,
    messages: Value,
    #[serde(default)]
    answer: bool,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    kwargs: Map<String, Value>,
    text: Option<String>,
    refused: Option<bool>,
}

/// Noon of the first of January 1970, which is the same day in nearly all time zones.
const NOON: u64 = 43_200;

#[test]
fn features_render_as_in_jinja2() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("features.json")).unwrap();
    let mut wrong = Vec::new();
    for row in &rows {
        assert!(
            row.text.is_some() != (row.refused == Some(true)),
            "{}",
            row.feature
        );
        let rendering = Rendering {
            answer: row.answer,
            tools: row.tools.clone(),
            kwargs: row.kwargs.clone(),
            now: NOON,
        };
        let rendered = ChatTemplate::new(&row.template, "<s>", "</s>")
            .and_then(|template| template.render_with(&row.messages, &rendering));
        if rendered.as_ref().ok() != row.text.as_ref() {
            wrong.push(format!(
                "{}\n    wanted {:?}\n    got    {rendered:?}",
                row.feature, row.text
            ));
        }
        assert_ne!(rendered, Err(TemplateError::Messages), "{}", row.feature);
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
