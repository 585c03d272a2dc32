use std::fmt;

use serde_json::Value;

use super::Field;

/// Who asks, and so what a field is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// HTTP, the C ABI, the socket.
    Json,
    /// The command line.
    Flags,
}

impl Door {
    /// A field as this door knows it.
    pub fn name(self, field: &str) -> String {
        match self {
            Self::Json => format!("\"{field}\""),
            Self::Flags => format!("--{}", field.replace('_', "-")),
        }
    }
}

/// Why a request was refused. Displayed in the words of [`Door::Json`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not one JSON object.
    Json { reason: String },
    /// There is no such field.
    Unknown {
        name: String,
        known: Vec<&'static str>,
    },
    /// A field's value is of the wrong type or out of bounds.
    Value { field: &'static Field, value: Value },
    /// A field that has no default.
    Missing { field: &'static Field },
    /// Just one of two fields must be there.
    OneOf { fields: [&'static str; 2] },
    /// A value makes sense only beside another field.
    Needs {
        field: &'static str,
        value: String,
        needed: &'static str,
    },
}

impl Refusal {
    pub(super) fn value(field: &'static Field, value: &Value) -> Self {
        Self::Value {
            field,
            value: value.clone(),
        }
    }

    /// What was wrong, in a door's words.
    pub fn what(&self, door: Door) -> String {
        match self {
            Self::Json { reason } => format!("the request cannot be read: {reason}"),
            Self::Unknown { name, .. } => format!("there is no field {}", door.name(name)),
            Self::Value { field, value } => {
                let (name, must) = (door.name(field.name), field.expects());
                format!("{name} is {value}; it must be {must}")
            }
            Self::Missing { field } => format!("{} is missing", door.name(field.name)),
            Self::OneOf { fields } => {
                let [one, other] = fields.map(|field| door.name(field));
                format!("give {one} or {other}, and one only")
            }
            Self::Needs {
                field,
                value,
                needed,
            } => format!("{} {value} needs {}", door.name(field), door.name(needed)),
        }
    }

    /// What to do about it, in a door's words.
    pub fn hint(&self, door: Door) -> String {
        match self {
            Self::Json { .. } => {
                "a request is one JSON object, such as {\"source\": \"old.gguf\", \"samples\": 250}"
                    .into()
            }
            Self::Unknown { name, known } => {
                let meant = name.replace('-', "_");
                if known.contains(&meant.as_str()) {
                    format!("write {}", door.name(&meant))
                } else {
                    format!("the fields are {}", known.join(", "))
                }
            }
            Self::Value { field, .. } if field.needed => field.about(),
            Self::Value { .. } => "leave it out for the default".into(),
            Self::Missing { field } => format!("name a file: {}", field.about()),
            Self::OneOf { .. } => {
                "a kit holds seeds; without one, seeds are a few inputs of the task in JSON lines"
                    .into()
            }
            Self::Needs { field, needed, .. } => {
                format!(
                    "give {}, or leave {} out",
                    door.name(needed),
                    door.name(field)
                )
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what(Door::Json))
    }
}

impl std::error::Error for Refusal {}
