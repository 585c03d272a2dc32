use std::path::PathBuf;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use translora_harvest::HarvestError;

use crate::adapters::AdaptersError;
use crate::control::openapi::ErrorBody;
use crate::control::{Kind, Refusal};
use crate::engine::EngineError;
use crate::record::{Blame, Fault, InJson, Remedy, Step};

/// Fewer tokens hold no question and no answer. units: tokens of a slot
pub(super) const SLOT_TOKENS_MIN: usize = 16;

/// Why a server did not start or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The model or an adapter does not load.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// An adapter cannot be served under its name.
    #[error("adapter {name:?}: {reason}")]
    Adapter {
        /// The name that it was to have.
        name: String,
        /// The rule that is broken.
        reason: String,
    },
    /// A context that leaves a slot nearly nothing.
    #[error(
        "a context of {context} tokens for {slots} slots: each has {}, and no conversation fits into \
        less than {SLOT_TOKENS_MIN}",
        context / slots
    )]
    Context {
        /// Tokens of all slots together.
        context: usize,
        /// Requests side by side.
        slots: usize,
    },
    /// The folder of adapters cannot be read.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Prompts cannot be kept where they are to be.
    #[error(transparent)]
    Harvest(#[from] HarvestError),
    /// The system refuses threads or signals.
    #[error("the server's threads do not start: {0}")]
    Threads(#[source] std::io::Error),
    /// A listener ended with an error of the system.
    #[error("serving stopped: {0}")]
    Stopped(#[source] std::io::Error),
}

impl Blame for ServeError {
    fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::Harvest(error) => error.fault(),
            Self::Listen { .. }
            | Self::Adapter { .. }
            | Self::Context { .. }
            | Self::Folder { .. } => Fault::Input,
            Self::Threads(_) | Self::Stopped(_) => Fault::Machine,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Listen { .. } => {
                Remedy::or([Remedy::choose_other("port"), Step::StopListener.into()])
            }
            Self::Adapter { .. } => Step::RenameFile.into(),
            Self::Context { .. } => {
                Remedy::or([Remedy::raise("ctx_size"), Remedy::lower("parallel")])
            }
            Self::Folder { .. } => Step::CheckPath.into(),
            Self::Engine(EngineError::Memory(_)) => {
                Remedy::or([Remedy::lower("ctx_size"), Remedy::lower("parallel")])
            }
            Self::Engine(error) => return error.remedy(),
            Self::Harvest(error) => return error.remedy(),
            Self::Threads(_) | Self::Stopped(_) => return None,
        })
    }
}

/// A refusal over HTTP, in OpenAI's shape.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(super) struct ApiError {
    pub status: StatusCode,
    kind: &'static str,
    message: String,
    code: Option<&'static str>,
    /// More fields of the error object.
    more: Map<String, Value>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: String) -> Self {
        Self {
            status,
            kind,
            message,
            code: None,
            more: Map::new(),
        }
    }

    pub(super) fn input(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            message.into(),
        )
    }

    pub(super) fn key() -> Self {
        let message =
            "the API key is missing or wrong: send it as `Authorization: Bearer KEY`".into();
        Self {
            code: Some("invalid_api_key"),
            ..Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
        }
    }

    pub(super) fn role() -> Self {
        Self::forbidden(
            "this key is for requests to models; adapters and transfers take one to manage with",
        )
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message.into())
    }

    pub(super) fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "this path wants the header `Content-Type: application/json`".into(),
        )
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message.into())
    }

    pub(super) fn no_model(name: &str) -> Self {
        let message = format!("no model is called {name:?}: GET /v1/models lists those there are");
        Self {
            code: Some("model_not_found"),
            ..Self::not_found(message)
        }
    }

    pub(super) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            "this path has other methods".into(),
        )
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict_error", message.into())
    }

    pub(super) fn too_large(bytes_max: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            format!("the body is longer than {bytes_max} bytes"),
        )
    }

    pub(super) fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            "the body did not arrive in time".into(),
        )
    }

    pub(super) fn busy(waiting: usize) -> Self {
        let message = format!("{waiting} requests are waiting already: come again later");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable_error",
            message,
        )
    }

    pub(super) fn changed() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable_error",
            "the file of the model was written to while it is served: replace files by rename, and \
             restart the server"
                .into(),
        )
    }

    pub(super) fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable_error",
            "the server is shutting down".into(),
        )
    }

    pub(super) fn ended() -> Self {
        Self::internal("the decode thread has ended: restart the server")
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            message.into(),
        )
    }

    /// A prompt that is too long to be encoded.
    pub(super) fn bytes(prompt: usize, context: usize) -> Self {
        let message = format!(
            "the prompt has {prompt} bytes, too many for the {context} tokens of a slot: shorten it"
        );
        Self {
            code: Some("context_length_exceeded"),
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "exceed_context_size_error",
                message,
            )
        }
    }

    pub(super) fn context(prompt: usize, context: usize) -> Self {
        let message = format!(
            "the prompt has {prompt} tokens, and the context of a slot is {context}: shorten it; only a server that is started with a larger context takes it"
        );
        let counts = [("n_prompt_tokens", prompt), ("n_ctx", context)];
        let more = counts.map(|(name, count)| (name.to_owned(), count.into()));
        let code = Some("context_length_exceeded");
        Self {
            more: more.into_iter().collect(),
            code,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "exceed_context_size_error",
                message,
            )
        }
    }

    /// The error as JSON.
    pub(super) fn body(&self) -> ErrorBody {
        let mut body = ErrorBody::new(self.kind, self.message.as_str());
        body.error.code = self.code;
        body.error.more.clone_from(&self.more);
        body
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let kind = match error.status {
            StatusCode::BAD_REQUEST => Kind::Input,
            StatusCode::FORBIDDEN => Kind::Forbidden,
            StatusCode::NOT_FOUND => Kind::NotFound,
            StatusCode::CONFLICT => Kind::Conflict,
            StatusCode::SERVICE_UNAVAILABLE => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, error.message)
    }
}

/// What to do about an error, as a field of it.
fn hint(remedy: Option<Remedy>) -> Map<String, Value> {
    let words = remedy.map(|remedy| remedy.words(&InJson).into());
    words
        .into_iter()
        .map(|words| ("hint".to_owned(), words))
        .collect()
}

impl From<AdaptersError> for ApiError {
    fn from(error: AdaptersError) -> Self {
        Self {
            more: hint(error.remedy()),
            ..Self::input(error.to_string())
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        // Where files lie here is nothing for a client.
        let error = error.without_folders();
        let message = error.to_string();
        let refused = match (&error, error.fault()) {
            (EngineError::File { source, .. }, _) if source.is_missing() => {
                Self::not_found(message)
            }
            (_, Fault::Input) | (EngineError::File { .. }, _) => Self::input(message),
            _ => Self::internal(message),
        };
        Self {
            more: hint(error.remedy()),
            ..refused
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.body())).into_response()
    }
}
