//! Reads fields of a JSON body; what is of the wrong kind or out of range is refused by name.

use serde_json::{Map, Value};

use crate::serve::error::ApiError;

/// A JSON object that somebody sent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'v>(&'v Map<String, Value>);

impl<'v> Fields<'v> {
    pub(super) fn of(value: &'v Value) -> Result<Self, ApiError> {
        value
            .as_object()
            .map(Self)
            .ok_or_else(|| ApiError::input("expected a JSON object"))
    }

    /// A field that is there and not null.
    pub(super) fn get(self, name: &str) -> Option<&'v Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Refuse fields that are not among `known`.
    pub(super) fn only(self, known: &[&str]) -> Result<Self, ApiError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ApiError::input(format!(
                "unknown field {key:?}: this endpoint reads {}",
                known.join(", ")
            ))),
            None => Ok(self),
        }
    }

    pub(super) fn text(self, name: &str) -> Result<Option<&'v str>, ApiError> {
        self.read(name, "a string", Value::as_str)
    }

    pub(super) fn needed(self, name: &str) -> Result<&'v str, ApiError> {
        self.text(name)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| ApiError::input(format!("{name:?} is missing")))
    }

    pub(super) fn truth(self, name: &str) -> Result<Option<bool>, ApiError> {
        self.read(name, "true or false", Value::as_bool)
    }

    pub(super) fn whole(self, name: &str) -> Result<Option<i64>, ApiError> {
        // Some clients write 8.0.
        let read = |value: &Value| {
            value.as_i64().or_else(|| {
                value
                    .as_f64()
                    .filter(|x| x.fract() == 0.0 && x.abs() < 1e15)
                    .map(|x| x as i64)
            })
        };
        self.read(name, "a whole number", read)
    }

    /// A number between two bounds, both allowed.
    pub(super) fn number(self, name: &str, least: f32, most: f32) -> Result<Option<f32>, ApiError> {
        let what = format!("a number from {least} to {most}");
        self.read(name, &what, |value| {
            value
                .as_f64()
                .map(|x| x as f32)
                .filter(|x| (least..=most).contains(x))
        })
    }

    fn read<T>(
        self,
        name: &str,
        what: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| ApiError::input(format!("{name:?} must be {what}")))
    }
}
