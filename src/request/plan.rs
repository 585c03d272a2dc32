use std::ops::Deref;
use std::path::Path;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Eval, Fields, FilterChoice, Kit, Refusal, Train, Transfer};
use crate::record::{Limits, json};

/// A request within its bounds, and the limits it runs under. Printed first, journalled, hashed for
/// `resume`: as JSON it is the request's object with `limits` beside the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<T> {
    request: T,
    /// Not the user's to choose.
    pub limits: Limits,
}

impl<T> Deref for Plan<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.request
    }
}

/// Something that can be asked for.
pub trait Request: Fields {
    /// Check what one field alone does not say.
    ///
    /// fails: fields that do not go together
    fn rules(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// The plan that is asked for.
    ///
    /// fails: a value out of bounds, a field that is missing, fields that do not go together
    fn plan(self) -> Result<Plan<Self>, Refusal> {
        self.within()?;
        self.rules()?;
        Ok(Plan {
            request: self,
            limits: Limits::default(),
        })
    }

    /// The plan that a JSON object asks for. A field that is null has its default.
    ///
    /// fails: not an object, a name that is not known or is there twice, and as [`Request::plan`]
    fn from_json(text: &str) -> Result<Plan<Self>, Refusal> {
        let refuse = |reason: String| Refusal::Json { reason };
        match json::parse(text).map_err(|error| refuse(error.to_string()))? {
            Value::Object(values) => Self::of(values)?.plan(),
            other => Err(refuse(format!(
                "it is {}, and no object",
                json::kind(&other)
            ))),
        }
    }
}

impl Request for Train {}
impl Request for Kit {}
impl Request for Eval {}

impl Request for Transfer {
    fn rules(&self) -> Result<(), Refusal> {
        let needs = |field, value: &str, needed| {
            Err(Refusal::Needs {
                field,
                value: value.to_owned(),
                needed,
            })
        };
        let both = self.kit.is_some() && self.seeds.is_some();
        let none = self.kit.is_none() && self.seeds.is_none() && self.harvest.is_none();
        if both || none {
            return Err(Refusal::OneOf {
                fields: ["kit", "seeds"],
            });
        }
        if matches!(self.filter, FilterChoice::Kit | FilterChoice::Both) && self.kit.is_none() {
            return needs("filter", self.filter.name(), "kit");
        }
        match &self.oracle {
            Some(oracle) if self.eval.is_none() => {
                needs("oracle", &oracle.display().to_string(), "eval")
            }
            _ => Ok(()),
        }
    }
}

/// Where the seed inputs of a transfer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs<'a> {
    /// A kit.
    Kit(&'a Path),
    /// A file of seeds.
    Seeds(&'a Path),
    /// Prompts that a server kept.
    Harvest(&'a Path),
}

impl<'a> Inputs<'a> {
    /// What it is called among the files of a run.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kit(_) => "kit",
            Self::Seeds(_) => "seeds",
            Self::Harvest(_) => "harvest",
        }
    }

    /// The file.
    pub fn path(self) -> &'a Path {
        match self {
            Self::Kit(path) | Self::Seeds(path) | Self::Harvest(path) => path,
        }
    }
}

impl Plan<Transfer> {
    /// The kit, the seeds, or what stands for them.
    pub fn inputs(&self) -> Inputs<'_> {
        match (&self.kit, &self.seeds, &self.harvest) {
            (Some(kit), ..) => Inputs::Kit(kit),
            (None, None, Some(harvest)) => Inputs::Harvest(harvest),
            (None, seeds, _) => Inputs::Seeds(seeds.as_deref().unwrap_or_else(|| Path::new(""))),
        }
    }

    /// Keep the plan within a share of the machine. units: threads, bytes
    pub fn cap(&mut self, threads: usize, memory: Option<u64>) {
        let machine = &mut self.request.machine;
        machine.threads = match machine.threads {
            0 => threads,
            own => own.min(threads),
        };
        let bytes = &mut self.request.training.shape.memory;
        *bytes = match (*bytes, memory) {
            (Some(own), Some(share)) => Some(own.min(share)),
            (own, share) => own.or(share),
        };
    }
}

impl<T: Fields> Serialize for Plan<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = self.request.values();
        let limits = serde_json::to_value(&self.limits).map_err(serde::ser::Error::custom)?;
        object.insert("limits".into(), limits);
        object.serialize(serializer)
    }
}

impl<'de, T: Request> Deserialize<'de> for Plan<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Map::deserialize(deserializer)?;
        let limits = object.remove("limits").unwrap_or_default();
        let plan = T::of(object).and_then(T::plan);
        let mut plan = plan.map_err(D::Error::custom)?;
        plan.limits = Limits::deserialize(limits).map_err(D::Error::custom)?;
        Ok(plan)
    }
}
