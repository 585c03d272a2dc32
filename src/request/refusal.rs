use std::fmt;

use serde_json::Value;

use super::Field;
use crate::record::{Blame, Fault, InJson, Remedy, Step, Wording};

/// Why a request was refused. Displayed in the words of JSON; see [`Refusal::what`] for others.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not one JSON object.
    Json {
        /// Why.
        reason: String,
    },
    /// There is no such field.
    Unknown {
        /// The name that stands there.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// A field's value is of the wrong type or out of bounds.
    Value {
        /// The field.
        field: &'static Field,
        /// The value.
        value: Value,
    },
    /// A field that has no default.
    Missing {
        /// The field.
        field: &'static Field,
    },
    /// Just one of two fields must be there.
    OneOf {
        /// Their names.
        fields: [&'static str; 2],
    },
    /// A value makes sense only beside another field.
    Needs {
        /// The field that has the value.
        field: &'static str,
        /// Its value.
        value: String,
        /// The field that must be there too.
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

    /// What was wrong, in the words of a door.
    pub fn what(&self, door: &dyn Wording) -> String {
        let name = |field: &'static str| door.field(&field.into());
        match self {
            Self::Json { reason } => format!("the request cannot be read: {reason}"),
            Self::Unknown { name, known } => {
                let meant = name.replace('-', "_");
                let known = if known.contains(&meant.as_str()) {
                    format!("it is {meant:?}")
                } else {
                    format!("the fields are {}", known.join(", "))
                };
                format!("there is no field {name:?}; {known}")
            }
            Self::Value { field, value } => {
                let (name, must) = (name(field.name), field.expects());
                format!("{name} is {value}; it must be {must}")
            }
            Self::Missing { field } => format!("{} is missing", name(field.name)),
            Self::OneOf { fields } => {
                let [one, other] = fields.map(name);
                format!("it takes {one} or {other}, and one only")
            }
            Self::Needs {
                field,
                value,
                needed,
            } => {
                let set = door.set(&(*field).into(), &value.as_str().into());
                format!("{set} needs {}", name(needed))
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what(&InJson))
    }
}

impl std::error::Error for Refusal {}

impl Blame for Refusal {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Json { .. } | Self::Unknown { .. } => Step::JsonRequest.into(),
            Self::Value { field, .. } if field.needed => Remedy::takes(field.name, field.expects()),
            Self::Value { field, .. } => Remedy::leave_out(field.name),
            Self::Missing { field } => Remedy::add(field.name),
            Self::OneOf { fields } => Remedy::or(fields.map(Remedy::add)),
            Self::Needs { field, needed, .. } => {
                Remedy::or([Remedy::add(*needed), Remedy::leave_out(*field)])
            }
        })
    }
}
