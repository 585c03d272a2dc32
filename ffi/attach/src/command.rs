//! The commands for adapters and transfers, and what is answered: one set for the socket, for HTTP
//! and for the command line.
//!
//! On the socket each is a line of JSON: `{"do":"load","path":"…"}` goes in, and out comes
//! `{"ok":{"swapped":{…}}}` or `{"error":{"kind":"…","message":"…","hint":"…"}}`, an [`Answer`].

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A command about the adapters and transfers of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Command {
    /// Make a LoRA file live. Answered when it is: requests that begin later are answered by it.
    Load(Load),
    /// Go back to the base, or to what the server was started with.
    Unload {
        /// The adapter that is to go. May be left out where there is one only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Go back to the adapter before the live one.
    Rollback {
        /// As in [`Command::Unload`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Say which adapters are live, and which were before.
    List {},
    /// Queue a transfer. Its adapter goes live if it is accepted.
    Transfer {
        /// The name it goes live under, where adapters have names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The fields of a transfer, as `translora transfer` names its flags.
        #[serde(deserialize_with = "each_once")]
        request: Map<String, Value>,
    },
    /// Say how far a transfer is.
    Job {
        /// Its number.
        job: u64,
    },
    /// Say how far every transfer is.
    Jobs {},
    /// Send the events of a transfer; waits a moment where there are none.
    Events {
        /// Its number.
        job: u64,
        /// The number of the last event that is known.
        #[serde(default)]
        after: u64,
    },
    /// Stop a transfer that has not ended; forget one that has.
    Cancel {
        /// Its number.
        job: u64,
    },
    /// Send the report of a transfer that is done.
    Report {
        /// Its number.
        job: u64,
    },
}

/// What is to be loaded, and what must be so for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The file. A server that keeps a folder of adapters looks there.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// The name it goes live under. A server with one live adapter takes the file's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Refuse where the base that is served is called otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model_name: Option<String>,
    /// Refuse where another generation is live; 0: where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_generation: Option<Expected>,
    /// Load it although it changes no answer, or was made for another base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// The number of a generation: as a number, or as answers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Expected(pub u64);

impl utoipa::PartialSchema for Expected {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::{ObjectBuilder, OneOfBuilder, Type};

        let number = ObjectBuilder::new().schema_type(Type::Integer);
        let text = ObjectBuilder::new().schema_type(Type::String);
        OneOfBuilder::new()
            .item(number.minimum(Some(0)))
            .item(text.pattern(Some("^[0-9]{1,19}$")))
            .description(Some(
                "The number of a generation, as a number or as answers have it.",
            ))
            .into()
    }
}

impl ToSchema for Expected {}

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let number = match &value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        number.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "\"expected_generation\" is {value}: it must be the number of one load"
            ))
        })
    }
}

impl Command {
    /// True for the commands about transfers.
    pub fn concerns_transfers(&self) -> bool {
        !matches!(
            self,
            Self::Load(_) | Self::Unload { .. } | Self::Rollback { .. } | Self::List {}
        )
    }
}

/// What a command is answered with where it was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// To `list`.
    Adapters(AdapterList),
    /// To `load`, `unload` and `rollback`.
    Swapped(Swapped),
    /// To `transfer`, `job` and `cancel`.
    Job(Box<Job>),
    /// To `jobs`.
    Jobs(Vec<Job>),
    /// To `events`.
    Events(Vec<Event>),
    /// To `report`: the object that `translora transfer --json` prints.
    Report(Value),
}

/// One line of the socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The command was carried out.
    Ok(Reply),
    /// It was not, and nothing has changed.
    Error(Refusal),
}

impl From<Result<Reply, Refusal>> for Answer {
    fn from(result: Result<Reply, Refusal>) -> Self {
        result.map_or_else(Self::Error, Self::Ok)
    }
}

impl From<Answer> for Result<Reply, Refusal> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Ok(reply) => Ok(reply),
            Answer::Error(refusal) => Err(refusal),
        }
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// What sort of reason it is.
    pub kind: Kind,
    /// The reason, as a sentence.
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// The sorts of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The command or a file it names is wrong.
    Input,
    /// There is no such adapter, file or transfer.
    NotFound,
    /// Not in the present state.
    Conflict,
    /// The server was started without the right to it.
    Forbidden,
    /// This server or build has no such command.
    Unsupported,
    /// The server cannot be reached, is busy, or stops.
    Unavailable,
    /// The machine failed, or this program.
    Internal,
}

impl Refusal {
    /// A reason without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: String::new(),
        }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }
}

/// The adapters of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdapterList {
    /// One for each name. A llama-server with the module has one live adapter.
    pub data: Vec<Adapter>,
    /// Files that were found at the start and left out.
    #[serde(default)]
    pub refused: Vec<LeftOut>,
}

/// A file that could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// The file.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// What a name is answered by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// How strongly it works on requests that name no adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// What answers now.
    pub live: Generation,
    /// What a rollback brings back.
    pub previous: Option<Generation>,
}

/// One load of an adapter file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Its number; none where only the live one has a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// The file; none for what the server was started with.
    #[serde(serialize_with = "as_text_or_null")]
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// How far its answers are from the base's; none where the server cannot compute that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
}

/// The largest differences that an adapter makes on one fixed prompt, at scale 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Effect {
    /// Of the logit of a token.
    pub logits: f32,
    /// Of the probability of a token.
    pub probabilities: f32,
}

impl Effect {
    /// Whether the adapter changes nothing at all.
    pub fn is_none(&self) -> bool {
        self.logits == 0.0
    }
}

/// What came of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Swapped {
    /// The adapter's name.
    pub name: String,
    /// The generation that answers now; `0` is the bare base.
    pub generation: String,
    /// The file behind it; none where that is the base alone.
    pub live: Option<Generation>,
    /// How long the exchange took.
    pub milliseconds: f64,
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// How far it is on the whole.
    pub state: State,
    /// The name it goes live under, where adapters have names.
    pub name: Option<String>,
    /// Jobs that come before it.
    pub ahead: usize,
    /// Where it is, and how far there.
    pub stage: Option<String>,
    /// Of `total`.
    pub done: u64,
    /// 0 where that is not known.
    pub total: u64,
    /// More about the present stage.
    pub note: String,
    /// The old base.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub source: PathBuf,
    /// The new base.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub target: PathBuf,
    /// The file of the new adapter, as requested.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub out: PathBuf,
    /// `accept`, `reject` or `inconclusive`, of one that is done.
    pub verdict: Option<String>,
    /// Where the adapter lies.
    #[serde(serialize_with = "as_text_or_null")]
    #[schema(value_type = Option<String>)]
    pub adapter: Option<PathBuf>,
    /// The generation that it became.
    pub generation: Option<String>,
    /// Why it is not live, of one that has ended.
    pub not_live: Option<String>,
    /// Of one that failed or was cancelled.
    pub problem: Option<Problem>,
    /// The worker, while it runs.
    pub process: Option<u32>,
    /// The number of the last event; 0 before the first.
    pub last_event: u64,
    /// units: seconds since 1970
    pub queued_at: u64,
    /// units: seconds since 1970
    pub began_at: Option<u64>,
    /// units: seconds since 1970
    pub ended_at: Option<u64>,
    /// The report of one that is done; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
}

/// The states of a transfer. It is done when its adapter is live, or will not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Others come before it.
    #[default]
    Waiting,
    /// It runs.
    Running,
    /// It has a report.
    Done,
    /// It has a problem.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl State {
    /// True where nothing more will happen.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// Why a transfer failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `input`, `machine`, `bug` or `cancelled`.
    pub cause: String,
    /// The reason, as a sentence.
    pub message: String,
    /// What to do about it, as data, for a program that words it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Value>,
    /// The same in words; may be empty.
    pub hint: String,
}

/// An event of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number, from 1.
    pub number: u64,
    /// What sort it is.
    pub event: String,
    /// What it says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Reads an object whose keys differ: serde_json's keeps the last of two in silence.
fn each_once<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    struct Once;

    impl<'de> Visitor<'de> for Once {
        type Value = Map<String, Value>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of fields")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            let mut fields = Map::new();
            while let Some((name, value)) = from.next_entry::<String, Value>()? {
                if fields.contains_key(&name) {
                    return Err(A::Error::custom(format!("the key {name:?} is there twice")));
                }
                fields.insert(name, value);
            }
            Ok(fields)
        }
    }

    from.deserialize_map(Once)
}

/// Write a path as a text; what is no UTF-8 in it is replaced, so that every answer can be written.
fn as_text<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

fn as_text_or_null<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => as_text(path, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_written_alike() {
        let request = Map::from_iter([("seed".to_owned(), 1.into())]);
        let name = Some("tickets".to_owned());
        let cases = [
            (
                r#"{"do":"load","path":"/a.gguf"}"#,
                Command::Load(Load {
                    path: "/a.gguf".into(),
                    ..Load::default()
                }),
            ),
            (
                r#"{"do":"load","path":"/a.gguf","base_model_name":"b","expected_generation":3,"force":true}"#,
                Command::Load(Load {
                    path: "/a.gguf".into(),
                    name: None,
                    base_model_name: Some("b".into()),
                    expected_generation: Some(Expected(3)),
                    force: Some(true),
                }),
            ),
            (r#"{"do":"unload"}"#, Command::Unload { name: None }),
            (
                r#"{"do":"rollback","name":"tickets"}"#,
                Command::Rollback { name: name.clone() },
            ),
            (r#"{"do":"list"}"#, Command::List {}),
            (
                r#"{"do":"transfer","name":"tickets","request":{"seed":1}}"#,
                Command::Transfer { name, request },
            ),
            (r#"{"do":"job","job":7}"#, Command::Job { job: 7 }),
            (r#"{"do":"jobs"}"#, Command::Jobs {}),
            (
                r#"{"do":"events","job":7,"after":3}"#,
                Command::Events { job: 7, after: 3 },
            ),
            (r#"{"do":"cancel","job":7}"#, Command::Cancel { job: 7 }),
            (r#"{"do":"report","job":7}"#, Command::Report { job: 7 }),
        ];
        for (text, command) in cases {
            assert_eq!(serde_json::from_str::<Command>(text).unwrap(), command);
            assert_eq!(serde_json::to_string(&command).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_command_is_refused_by_name() {
        for (text, named) in [
            (r#"{"do":"dance"}"#, "dance"),
            (r#"{"do":"load"}"#, "path"),
            (r#"{"do":"load","path":3}"#, "string"),
            (r#"{"do":"load","path":"a","paths":[]}"#, "paths"),
            (r#"{"do":"load","path":"a","path":"b"}"#, "duplicate field"),
            (
                r#"{"do":"load","path":"a","expected_generation":"1+2"}"#,
                "\"1+2\": it must be the number of one load",
            ),
            (r#"{"do":"list","all":true}"#, "all"),
            (r#"{"do":"job","job":-1}"#, "-1"),
            (r#"{"do":"job","job":1,"more":1}"#, "more"),
            (r#"{"do":"transfer","request":[]}"#, "map"),
            (
                r#"{"do":"transfer","request":{"seed":1,"lr":2,"seed":3}}"#,
                "the key \"seed\" is there twice",
            ),
            (r#"{"do":"job","job":1,"job":2}"#, "duplicate field"),
            (r#"{}"#, "do"),
            ("[]", ""),
        ] {
            let error = serde_json::from_str::<Command>(text).unwrap_err();
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn answers_come_back() {
        let refusal = Refusal::new(Kind::NotFound, "no such job").hint("ask for the list");
        for answer in [
            Answer::from(Err(refusal)),
            Answer::from(Ok(Reply::Events(Vec::new()))),
            Answer::from(Ok(Reply::Job(Box::default()))),
        ] {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
        }
    }
}
