//! Grammars of answers that call functions.

use std::fmt::Write;

use super::{Grammar, Json, SchemaError, literal};
use crate::engine::host::CallForm;

/// A function that an answer may call.
pub(in crate::serve) struct Function {
    pub name: String,
    /// What it is for.
    pub description: String,
    /// A JSON schema of its arguments; any object where it is left out.
    pub parameters: Option<Json>,
}

/// Calls as a template writes them or, where nothing has to be called, any text that does not begin
/// as they do. Without such a form `{"tool_calls": [{"name": …, "arguments": …}]}`, or
/// `{"response": "…"}`.
///
/// fails: the schema of a function demands what a grammar cannot say
pub(in crate::serve) fn of_calls(
    functions: &[Function],
    must_call: bool,
    several: bool,
    form: Option<&CallForm>,
) -> Result<String, SchemaError> {
    let mut grammar = Grammar::new(&Json::Null);
    grammar.primitive("space");
    let keys = form.map_or(("name", "arguments"), |form| {
        (form.name.as_str(), form.arguments.as_str())
    });
    let mut calls = Vec::new();
    for function in functions {
        calls.push(of_function(&mut grammar, function, keys)?);
    }
    let call = grammar.rule(calls.join(" | "))?;
    let root = match form {
        Some(form) => native(&mut grammar, form, &call, must_call, several)?,
        None => plain(&mut grammar, &call, must_call, several)?,
    };
    Ok(grammar.finish(root))
}

/// The rule of one call.
fn of_function<'j>(
    grammar: &mut Grammar<'j>,
    function: &'j Function,
    (name_key, arguments_key): (&str, &str),
) -> Result<String, SchemaError> {
    let arguments = match &function.parameters {
        Some(schema) => {
            // Each schema refers to itself only.
            grammar.root = schema;
            grammar.references.clear();
            grammar.visit(schema, 0)?
        }
        None => grammar.primitive("object"),
    };
    let name = literal(&serde_json::Value::from(function.name.as_str()).to_string());
    let name = grammar.pair(name_key, &name)?;
    let arguments = grammar.pair(arguments_key, &arguments)?;
    grammar.rule(format!(
        "\"{{\" space {name} space \",\" space {arguments} \"}}\""
    ))
}

fn plain(
    grammar: &mut Grammar<'_>,
    call: &str,
    must_call: bool,
    several: bool,
) -> Result<String, SchemaError> {
    let more = if several {
        format!("(\",\" space {call} space)*")
    } else {
        String::new()
    };
    let list = format!("\"[\" space {call} space {more} \"]\" space");
    let list = grammar.pair("tool_calls", &list)?;
    let calls = format!("\"{{\" space {list} \"}}\" space");
    if must_call {
        return Ok(calls);
    }
    let text = grammar.primitive("string");
    let response = grammar.pair("response", &text)?;
    Ok(format!("{calls} | \"{{\" space {response} \"}}\" space"))
}

fn native(
    grammar: &mut Grammar<'_>,
    form: &CallForm,
    call: &str,
    must_call: bool,
    several: bool,
) -> Result<String, SchemaError> {
    let more = match form.between.as_ref().filter(|_| several) {
        Some(between) => format!("({} {call})*", literal(between)),
        None => String::new(),
    };
    let (open, close) = (literal(&form.open), literal(&form.close));
    let calls = format!("{open} {call} {more} {close}");
    if must_call {
        return Ok(calls);
    }
    // What opens a call alone says that one comes.
    let open = if form.open.is_empty() {
        "{"
    } else {
        &form.open
    };
    let other = grammar.rule(other_than(open))?;
    Ok(format!("{calls} | {other}"))
}

/// Texts that do not begin with this one; they may be its beginning.
fn other_than(open: &str) -> String {
    let (mut rule, mut closing) = (String::new(), String::new());
    for (at, c) in open.chars().enumerate() {
        let code = u32::from(c);
        let go_on = if at > 0 {
            _ = write!(
                rule,
                " | \"\\U{before:08X}\" (",
                before = code_before(open, at)
            );
            closing.push(')');
            "\"\" | "
        } else {
            "\"\" | "
        };
        _ = write!(rule, "{go_on}[^\\U{code:08X}] .*");
    }
    rule + &closing
}

fn code_before(text: &str, at: usize) -> u32 {
    text.chars().nth(at - 1).map_or(0, u32::from)
}
