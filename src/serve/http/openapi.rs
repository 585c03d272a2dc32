//! The OpenAPI document of `serve`: the bodies that its paths take, put together from the structs
//! that read them.

use std::borrow::Cow;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ArrayItems, Object, ObjectBuilder, OneOfBuilder, Schema,
    SchemaType, Type,
};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::body::{ACCEPTED, SAMPLERS, UNSUPPORTED};
use super::schema::{
    Chat, Common, Completion, Detokenize, LlamaCompletion, Load, Template, Tokenize, Unload,
};
use super::{ALIASES, pages, routes};
use crate::control::{self, openapi as shared};
use crate::serve::sampler::Sampling;

/// What the document is called.
const TITLE: &str = "translora serve";
/// Paths that need no key.
pub(super) const OPEN: [&str; 2] = ["/health", "/v1/health"];

/// A body: the fields of its endpoint, those that all share, and those of other servers.
macro_rules! bodies {
    ($($body:ident = $own:ty $(, $common:ty)?;)*) => {$(
        pub(super) enum $body {}

        impl PartialSchema for $body {
            fn schema() -> RefOr<Schema> {
                let parts = vec![<$own>::schema() $(, <$common>::schema())?];
                let generates = parts.len() > 1;
                body(parts, generates, stringify!($body))
            }
        }

        impl ToSchema for $body {
            fn name() -> Cow<'static, str> {
                stringify!($body).into()
            }

            fn schemas(all: &mut Vec<(String, RefOr<Schema>)>) {
                <$own>::schemas(all);
                $(<$common>::schemas(all);)?
            }
        }
    )*};
}

bodies! {
    ChatBody = Chat, Common;
    CompletionBody = Completion, Common;
    LlamaCompletionBody = LlamaCompletion, Common;
    TemplateBody = Template;
    TokenizeBody = Tokenize;
    DetokenizeBody = Detokenize;
    LoadBody = Load;
    UnloadBody = Unload;
}

/// One object of all fields. What is null is as if it were left out.
fn body(parts: Vec<RefOr<Schema>>, generates: bool, name: &str) -> RefOr<Schema> {
    let closed = AdditionalProperties::FreeForm(false);
    let mut all = ObjectBuilder::new()
        .additional_properties(Some(closed))
        .examples(example(name));
    for part in parts {
        let RefOr::T(Schema::Object(part)) = part else {
            continue;
        };
        for (name, property) in part.properties {
            if part.required.contains(&name) {
                all = all.property(&name, property).required(name);
            } else {
                let property = default(&name, nullable(property));
                all = all.property(name, property);
            }
        }
    }
    for name in ACCEPTED {
        let about = "Accepted, whatever it says, and not read.";
        let any = Object::builder().schema_type(SchemaType::AnyValue);
        all = all.property(*name, any.description(Some(about)));
    }
    if !generates {
        return all.into();
    }
    for (name, neutral) in UNSUPPORTED {
        let values: Vec<Value> = serde_json::from_str(neutral).unwrap_or_default();
        let about = "Not there; these values change nothing and are accepted.";
        let any = Object::builder().schema_type(SchemaType::AnyValue);
        let values = any.enum_values(Some(values.into_iter().chain([Value::Null])));
        all = all.property(*name, values.description(Some(about)));
    }
    let any = Object::builder().schema_type(SchemaType::AnyValue);
    let order = any.enum_values(Some([json!(SAMPLERS), Value::Null]));
    let about = "The samplers in the order in which they run; others may stand between them.";
    all.property("samplers", order.description(Some(about)))
        .into()
}

/// A body that any server answers.
fn example(name: &str) -> Option<Value> {
    let messages = json!([
        { "role": "system", "content": "Answer in one line." },
        { "role": "user", "content": [{ "type": "text", "text": "The grey bag is torn." }] },
    ]);
    Some(match name {
        "ChatBody" => json!({ "messages": messages, "max_tokens": 16, "temperature": 0 }),
        "CompletionBody" => json!({ "prompt": ["Once", "There"], "max_tokens": 4, "seed": 1 }),
        "LlamaCompletionBody" => json!({ "prompt": "Once", "n_predict": 4, "n_probs": 2 }),
        "TemplateBody" => json!({ "messages": messages }),
        "TokenizeBody" => json!({ "content": "Once", "with_pieces": true }),
        "DetokenizeBody" => json!({ "tokens": [1, 2] }),
        // These name what a server may not have.
        _ => return None,
    })
}

/// With what holds where a field is left out.
fn default(name: &str, mut property: RefOr<Schema>) -> RefOr<Schema> {
    let usual = Sampling::default();
    let real = |x: f32| x.to_string().parse::<f64>().ok().map(Value::from);
    let value = match name {
        "top_k" => Some(usual.top_k.into()),
        "top_p" => real(usual.top_p),
        "min_p" => real(usual.min_p),
        "repeat_last_n" => Some(usual.repeat_last_n.into()),
        "repeat_penalty" => real(usual.repeat_penalty),
        "presence_penalty" => real(usual.presence_penalty),
        "frequency_penalty" => real(usual.frequency_penalty),
        _ => None,
    };
    if let (RefOr::T(Schema::Object(object)), Some(value)) = (&mut property, value) {
        object.default = Some(value);
    }
    property
}

/// What [`Common::logit_bias`] may be.
pub(super) fn bias() -> Schema {
    let key = [Type::Integer, Type::String].into_iter().collect();
    let key = ObjectBuilder::new().schema_type(SchemaType::Array(key));
    let no = ObjectBuilder::new().schema_type(Type::Boolean);
    let number = ObjectBuilder::new().schema_type(Type::Number);
    let weight = OneOfBuilder::new()
        .item(number)
        .item(no.enum_values(Some([false])))
        .build();
    let pair = ArrayBuilder::new()
        .prefix_items([Schema::from(key.build()), Schema::from(weight.clone())])
        .items(ArrayItems::False)
        .min_items(Some(2));
    let object = ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(Schema::from(weight)));
    let about = "Added to logits: `{\"15043\": -100}` or `[[15043, -100], [\"text\", false]]`.";
    OneOfBuilder::new()
        .item(object)
        .item(ArrayBuilder::new().items(pair))
        .description(Some(about))
        .into()
}

/// One of these words.
fn words(words: &[&'static str]) -> Schema {
    let words = words.iter().copied();
    let schema = ObjectBuilder::new().schema_type(Type::String);
    schema.enum_values(Some(words)).into()
}

/// What the type of a tool may be.
pub(super) fn function() -> Schema {
    words(&["function"])
}

/// What the type of a part of a message may be.
pub(super) fn text() -> Schema {
    words(&["text"])
}

/// What the type of a `response_format` may be.
pub(super) fn format() -> Schema {
    words(&["text", "json_object", "json_schema"])
}

/// Nothing but null.
pub(super) fn nothing() -> Schema {
    ObjectBuilder::new().schema_type(Type::Null).into()
}

/// The same, or null.
fn nullable(property: RefOr<Schema>) -> RefOr<Schema> {
    let with_null = |kind: &SchemaType| match kind {
        SchemaType::Type(kind) => SchemaType::from_iter([kind.clone(), Type::Null]),
        other => other.clone(),
    };
    match property {
        RefOr::T(Schema::Object(mut object)) => {
            object.schema_type = with_null(&object.schema_type);
            Schema::Object(object).into()
        }
        RefOr::T(Schema::Array(mut array)) => {
            array.schema_type = with_null(&array.schema_type);
            Schema::Array(array).into()
        }
        // What utoipa makes of an optional reference or of a choice of kinds.
        RefOr::T(Schema::OneOf(mut several)) => {
            let null = Schema::from(ObjectBuilder::new().schema_type(Type::Null));
            if !several.items.contains(&null.clone().into()) {
                several.items.insert(0, null.into());
            }
            Schema::OneOf(several).into()
        }
        other => {
            let null = ObjectBuilder::new().schema_type(Type::Null);
            OneOfBuilder::new().item(null).item(other).into()
        }
    }
}

/// The document, as JSON.
pub fn openapi() -> Value {
    let mut api = OpenApiRouter::with_openapi(OpenApi::default())
        .merge(routes())
        .into_openapi();
    shared::refuse(&mut api, &[400, 408, 413], shared::has_body);
    let mut control = control::documented();
    shared::leave_out(&mut control, "Transfer", &["target", "out"]);
    api.merge(control);
    for (alias, path, _) in ALIASES {
        let item = api.paths.paths.get(path).cloned();
        let mut item = item.unwrap_or_default();
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation.operation_id = Some(alias.trim_matches('/').replace('/', "_"));
            operation.summary = Some(format!("As `{path}`"));
            operation.description = None;
        }
        api.paths.paths.insert(alias.into(), item);
    }
    shared::refuse(&mut api, &[403], |_, _| true);
    shared::refuse(&mut api, &[415], |path, operation| {
        pages::changes(path) && shared::has_body(path, operation)
    });
    let mut document = shared::finish(api, TITLE, &OPEN);
    let schemas = &mut document["components"]["schemas"];
    narrow(schemas);
    name_choices(schemas);
    events(&mut document["paths"]);
    document
}

/// The media type of a stream.
pub(super) const STREAM: &str = "text/event-stream";

/// Say of each stream of objects what its events are: the object or an error as text, and `[DONE]`.
fn events(paths: &mut Value) {
    let items = paths.as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in
        items.flat_map(|item| item.as_object_mut().into_iter().flat_map(Map::values_mut))
    {
        let Some(schema) =
            operation.pointer_mut("/responses/200/content/text~1event-stream/schema")
        else {
            continue;
        };
        if schema.get("$ref").is_none() {
            continue;
        }
        let error = json!({ "$ref": "#/components/schemas/ErrorBody" });
        let object = json!({
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": { "anyOf": [schema.take(), error] },
        });
        *schema = json!({
            "type": "object",
            "properties": { "data": { "anyOf": [{ "const": "[DONE]" }, object] } },
            "required": ["data"],
        });
    }
}

/// Name the schema of choices. utoipa writes what a generic struct holds in its place.
fn name_choices(schemas: &mut Value) {
    let all = schemas.clone();
    let schemas = schemas
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut);
    for choice in schemas.filter_map(|schema| schema.pointer_mut("/properties/choices/items")) {
        let mut named = all.as_object().into_iter().flatten();
        if let Some((name, _)) = named.find(|(_, schema)| *schema == choice) {
            *choice = json!({ "$ref": format!("#/components/schemas/{name}") });
        }
    }
}

/// Say of schemas what no attribute of a field says.
fn narrow(schemas: &mut Value) {
    // An assistant's message may have calls in place of a content.
    let content = json!({ "$ref": "#/components/schemas/Content" });
    schemas["Message"]["anyOf"] = json!([
        { "properties": { "role": { "const": "assistant" } } },
        { "required": ["content"], "properties": { "content": content } },
    ]);
    for list in ["Prompts", "Prompt"] {
        let kinds = schemas[list]["anyOf"].as_array_mut().into_iter().flatten();
        for kind in kinds.filter(|kind| kind["type"] == "array") {
            kind["minItems"] = 1.into();
        }
    }
    // Whole numbers are read whatever their size.
    for schema in schemas
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
    {
        let fields = schema.get_mut("properties");
        let fields = fields.and_then(Value::as_object_mut);
        for field in fields.into_iter().flat_map(Map::values_mut) {
            let whole = field.get("format").is_some_and(|format| format == "int64");
            if let Some(field) = field.as_object_mut().filter(|_| whole) {
                field.remove("format");
            }
        }
    }
    // Adapters have names here.
    let name = &mut schemas["Transfer"]["properties"]["name"];
    name["type"] = "string".into();
    name["minLength"] = 1.into();
    name["maxLength"] = 128.into();
    if let Some(needed) = schemas["Transfer"]["required"].as_array_mut() {
        needed.push("name".into());
    }
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi);

/// Whether there is a path.
pub(super) fn has(path: &str) -> bool {
    DOCUMENT["paths"].get(path).is_some()
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "server", responses(
    (status = 200, description = "The document.", body = Value),
))]
pub(super) async fn document() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, TEXT.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::serve::http::body::names;
    use crate::serve::http::schema::{
        CalledFunction, FunctionName, Message, NamedSchema, PromptString, ResponseFormat, Scale,
        StreamOptions, Tool, ToolByName, ToolCall, ToolFunction,
    };

    /// The fields of a schema, in order of their names, and whether there may be others.
    fn fields(schema: RefOr<Schema>) -> (Vec<String>, bool) {
        let RefOr::T(Schema::Object(object)) = schema else {
            panic!("no object");
        };
        let closed = AdditionalProperties::FreeForm(false);
        let open = object.additional_properties.as_deref() != Some(&closed);
        let mut names: Vec<String> = object.properties.into_keys().collect();
        names.sort_unstable();
        (names, open)
    }

    fn sorted(names: impl IntoIterator<Item = &'static str>) -> Vec<String> {
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_schema_has_the_fields_that_are_read_and_no_others() {
        fn same<T: DeserializeOwned + ToSchema>() {
            let read = sorted(names::<T>().iter().copied());
            assert_eq!(fields(T::schema()), (read, false), "{}", T::name());
        }
        fn body<T: DeserializeOwned, B: ToSchema>(generates: bool) {
            let own = names::<T>().iter().chain(ACCEPTED).copied();
            let others = UNSUPPORTED.iter().map(|(name, _)| *name);
            let others = others.chain(names::<Common>().iter().copied());
            let others = others.chain(["samplers"]).filter(|_| generates);
            let read = sorted(own.chain(others));
            assert_eq!(fields(B::schema()), (read, false), "{}", B::name());
        }
        body::<Chat, ChatBody>(true);
        body::<Completion, CompletionBody>(true);
        body::<LlamaCompletion, LlamaCompletionBody>(true);
        body::<Template, TemplateBody>(false);
        body::<Tokenize, TokenizeBody>(false);
        body::<Detokenize, DetokenizeBody>(false);
        body::<Load, LoadBody>(false);
        body::<Unload, UnloadBody>(false);
        same::<Common>();
        same::<ResponseFormat>();
        same::<NamedSchema>();
        same::<StreamOptions>();
        same::<Message>();
        same::<Scale>();
        same::<Tool>();
        same::<ToolFunction>();
        same::<ToolByName>();
        same::<FunctionName>();
        same::<ToolCall>();
        same::<CalledFunction>();
        same::<PromptString>();
    }
}
