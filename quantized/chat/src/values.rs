//! Values of a template that print as Python prints them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use serde_json::Map;

use crate::python;

/// The same value inside a template.
pub(crate) fn of(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Array(items) => Value::from_object(List(items.iter().map(of).collect())),
        serde_json::Value::Object(fields) => Value::from_object(Dictionary::of(fields)),
        other => Value::from_serialize(other),
    }
}

/// A list that prints as Python's does.
#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&python::repr(&Value::from_dyn_object(self.clone())))
    }
}

/// A list that prints as Python's tuples do.
#[derive(Debug)]
pub(crate) struct Tuple(Vec<Value>);

/// The same items as a tuple.
pub(crate) fn tuple(items: &Value) -> Value {
    Value::from_object(Tuple(items.try_iter().into_iter().flatten().collect()))
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&python::repr(&Value::from_dyn_object(self.clone())))
    }
}

/// A dictionary that keeps its order and prints as Python's does.
#[derive(Debug)]
struct Dictionary {
    keys: Vec<Value>,
    fields: Value,
}

impl Dictionary {
    fn of(fields: &Map<String, serde_json::Value>) -> Self {
        let keys = || fields.keys().map(|key| Value::from(key.as_str()));
        Self {
            keys: keys().collect(),
            fields: Value::from_iter(fields.iter().map(|(key, value)| (key.as_str(), of(value)))),
        }
    }
}

impl Object for Dictionary {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.fields
            .get_item(key)
            .ok()
            .filter(|value| !value.is_undefined())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.keys.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&python::repr(&Value::from_dyn_object(self.clone())))
    }
}

/// Values that can be read once.
#[derive(Debug)]
pub(crate) struct Generator(Mutex<std::vec::IntoIter<Value>>);

impl Generator {
    pub fn of(values: &Value) -> Self {
        let values: Vec<Value> = values.try_iter().into_iter().flatten().collect();
        Self(Mutex::new(values.into_iter()))
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Enumerator::Iter(Box::new(std::mem::take(&mut *left)))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}
