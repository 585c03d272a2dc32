//! Renders conversations for `scripts/check/templates`: reads one JSON object a line with
//! `template`, `bos`, `eos`, `messages`, `rendering`, writes one with `text` or `error`.

use std::io::{self, BufRead, Write};

use serde::Deserialize;
use serde_json::{Value, json};
use translora_chat::{ChatTemplate, Rendering, TemplateError};

#[derive(Deserialize)]
struct Case {
    template: String,
    bos: String,
    eos: String,
    messages: Value,
    rendering: Rendering,
}

fn render(case: &Case) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(&case.template, &case.bos, &case.eos)?;
    template.render_with(&case.messages, &case.rendering)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let answer = match render(&case) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
