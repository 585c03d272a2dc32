//! What the OpenAPI documents of both routers have in common: the shape of errors, the fields of a
//! transfer, and what every path may answer.
#![expect(
    unused_qualifications,
    reason = "what utoipa derives for a field names its type by a path"
)]

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{
    AdditionalProperties, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, PathItem, Ref, RefOr, SecurityRequirement};
use utoipa::{PartialSchema, ToSchema, openapi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::request::{Field, Fields, Kind, Transfer};

/// An error, as OpenAI has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorObject {
    /// The reason, as a sentence.
    pub message: String,
    /// The sort of reason, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Always null.
    #[schema(value_type = Option<String>)]
    pub param: (),
    /// A word for the reason, where OpenAI has one.
    pub code: Option<&'static str>,
    /// What belongs to this error alone, such as `hint` or `n_ctx`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl ErrorBody {
    /// An error without a word of OpenAI's.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            error: ErrorObject {
                message: message.into(),
                kind,
                param: (),
                code: None,
                more: Map::new(),
            },
        }
    }
}

/// The body of `POST /v1/transfers`: the fields of a transfer, from the table of requests.
pub enum TransferBody {}

impl PartialSchema for TransferBody {
    fn schema() -> RefOr<Schema> {
        let closed = AdditionalProperties::FreeForm(false);
        let mut all = ObjectBuilder::new().additional_properties(Some(closed));
        for (field, default) in Transfer::rows() {
            all = all.property(field.name, of_field(field, &default));
            if field.needed {
                all = all.required(field.name);
            }
        }
        let name = "What the adapter goes live under, where adapters have names.";
        let name = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some(name));
        all.property("name", name).into()
    }
}

impl ToSchema for TransferBody {
    fn name() -> Cow<'static, str> {
        "Transfer".into()
    }
}

fn of_field(field: &Field, default: &Value) -> Schema {
    let kind = match field.kind {
        Kind::Whole(..) | Kind::Size => Type::Integer,
        Kind::Real(..) => Type::Number,
        Kind::Object => Type::Object,
        Kind::Switch => Type::Boolean,
        Kind::Choice(_) | Kind::Modules | Kind::Layers | Kind::Path | Kind::Text => Type::String,
    };
    // What is null has its default; a word may stand for it.
    let null = (!field.needed).then_some(Type::Null);
    let word = (!field.words.is_empty()).then_some(Type::String);
    let kinds = [Some(kind), word, null].into_iter().flatten();
    let about = format!("{} Must be {}.", field.about(), field.expects());
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter(kinds))
        .description(Some(about));
    let schema = match default {
        Value::Null => schema,
        default => schema.default(Some(default.clone())),
    };
    let schema = match field.kind {
        Kind::Whole(from, to) => schema
            .minimum(Some(from as f64 as isize))
            .maximum(Some(to as f64 as isize)),
        Kind::Size => schema.minimum(Some(1)),
        Kind::Real(low, high) => real(schema, low, high),
        Kind::Choice(words) => {
            let null = (!field.needed).then_some(Value::Null);
            let words = words.iter().chain(field.words).map(|word| json!(word));
            schema.enum_values(Some(words.chain(null)))
        }
        Kind::Path | Kind::Text => schema.min_length(Some(1)),
        Kind::Modules | Kind::Layers | Kind::Object | Kind::Switch => schema,
    };
    schema.into()
}

fn real(schema: ObjectBuilder, low: Bound<f32>, high: Bound<f32>) -> ObjectBuilder {
    let number = |bound: f32| f64::from(bound);
    let schema = match low {
        Bound::Included(low) => schema.minimum(Some(number(low))),
        Bound::Excluded(low) => schema.exclusive_minimum(Some(number(low))),
        Bound::Unbounded => schema,
    };
    let schema = schema.format(Some(SchemaFormat::Custom("float".into())));
    match high {
        Bound::Included(high) => schema.maximum(Some(number(high))),
        Bound::Excluded(high) => schema.exclusive_maximum(Some(number(high))),
        Bound::Unbounded => schema,
    }
}

/// The document of `translora control`, as JSON.
pub fn document() -> Value {
    let mut api = super::documented();
    let own = OpenApiRouter::<()>::new().routes(routes!(send));
    api.merge(own.into_openapi());
    finish(api, "translora control", &[])
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "server", responses(
    (status = 200, description = "The document.", body = Value),
))]
async fn send() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, TEXT.as_str()).into_response()
}

/// The path of the document, for a router that has no other.
pub(super) fn routes_of_document() -> Router {
    OpenApiRouter::new().routes(routes!(send)).into()
}

/// Add statuses of refusals to the operations that `which` takes, by path.
pub fn refuse(api: &mut OpenApi, statuses: &[u16], which: impl Fn(&str, &Operation) -> bool) {
    for (path, item) in &mut api.paths.paths {
        for operation in operations(item).filter(|operation| which(path, operation)) {
            for status in statuses {
                add_error(operation, *status);
            }
        }
    }
}

/// Whether a request has a body.
pub fn has_body(_: &str, operation: &Operation) -> bool {
    operation.request_body.is_some()
}

/// The document as it is sent: who may send requests, and what any path may answer.
///
/// `open`: paths that need no key
pub fn finish(mut api: OpenApi, title: &str, open: &[&str]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    api.info = InfoBuilder::new().title(title).version(version).build();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(bearer));
    let error = (ErrorBody::name().into_owned(), ErrorBody::schema());
    let mut schemas = vec![error];
    ErrorBody::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let key = SecurityRequirement::new("key", Vec::<String>::new());
    for (path, item) in &mut api.paths.paths {
        let needs_key = !open.contains(&path.as_str());
        for operation in operations(item) {
            for status in [500, 503] {
                add_error(operation, status);
            }
            if needs_key {
                add_error(operation, 401);
                operation.security = Some(vec![key.clone()]);
            }
        }
    }
    let mut document = serde_json::to_value(api).unwrap_or_default();
    loosen(&mut document);
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

fn add_error(operation: &mut Operation, status: u16) {
    let about = match status {
        400 => "The body or a field of it is wrong.",
        401 => "The key is missing or wrong.",
        403 => "The page or the name of the server is none that may send requests.",
        408 => "The body did not arrive in time.",
        413 => "The body is too long.",
        415 => "The body is not announced as JSON.",
        500 => "The machine or the program failed.",
        _ => "The server stops, is busy, or cannot be reached.",
    };
    let mut response = openapi::Response::new(about);
    let body = Content::new(Some(Ref::from_schema_name(ErrorBody::name())));
    response.content.insert("application/json".into(), body);
    let all = &mut operation.responses.responses;
    all.entry(status.to_string()).or_insert(response.into());
}

/// What a value may be is decided by the first kind that it fits, so several may fit. A count goes
/// beyond what a format of signed integers has.
fn loosen(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let signed = fields.get("format").is_some_and(|format| format == "int64");
            if signed && fields.get("minimum").is_some_and(|least| *least == 0) {
                fields.remove("format");
            }
            if let Some(kinds) = fields.remove("oneOf") {
                fields.insert("anyOf".into(), kinds);
            }
            fields.values_mut().for_each(loosen);
        }
        Value::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

/// Take the fields out of the body of a path that the server sets by itself.
pub fn leave_out(api: &mut OpenApi, schema: &str, fields: &[&str]) {
    let schemas = api.components.as_mut().map(|all| &mut all.schemas);
    if let Some(RefOr::T(Schema::Object(object))) =
        schemas.and_then(|schemas| schemas.get_mut(schema))
    {
        for field in fields {
            object.properties.shift_remove(*field);
            object.required.retain(|needed| needed != field);
        }
    }
}
