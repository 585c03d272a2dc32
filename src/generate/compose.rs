//! Put JSON objects together of what others hold, to draw inputs for.
//!
//! A few inputs show a few objects. Their keys and values put together anew are many, and an input
//! that a model writes for one of them says something that none has said yet.
//! source: compositional augmentation, Andreas, *Good-Enough Compositional Data Augmentation*, 2020

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::record::Rng;

/// Inputs that must share a value before it is held for one of the task's although no input says
/// it word for word. What a teacher invents, it seldom invents twice.
const SHARED_MIN: usize = 3;
/// Keys of two objects that are joined at most.
const KEYS_MAX: usize = 4;
/// Inputs that must have a key.
const KEY_MIN: usize = 2;

type Object = Map<String, Value>;

/// A key with its values and how often each was taken.
struct Key {
    name: String,
    values: Vec<(Value, usize)>,
}

/// Put up to `count` objects together that none of `shots` (answer and input each) has: every other
/// one has the keys of one that is there, the rest have pairs of keys or the keys of two. Keys and
/// values are taken in turns; `drawn` are more values by key, as text. None where the answers are no
/// objects.
pub fn compose(
    shots: &[(&str, &str)],
    drawn: &[(String, String)],
    count: usize,
    rng: &mut Rng,
) -> Vec<String> {
    let objects = objects(shots);
    let mut keys = keys(&objects);
    for key in &mut keys {
        let own = drawn.iter().filter(|(name, _)| *name == key.name);
        let more: Vec<Value> = own.filter_map(|(_, text)| key.value(text)).collect();
        key.values.extend(more.into_iter().map(|value| (value, 0)));
    }
    let known = |object: &Object| {
        let at = |name: &String| keys.iter().position(|key| key.name == *name);
        object.keys().map(at).collect::<Option<Vec<usize>>>()
    };
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for set in objects.iter().filter_map(|(object, _)| known(object)) {
        if !set.is_empty() && !sets.contains(&set) {
            sets.push(set);
        }
    }
    let mut joined: Vec<Vec<usize>> = (0..keys.len())
        .flat_map(|second| (0..second).map(move |first| vec![first, second]))
        .collect();
    for (i, set) in sets.iter().enumerate() {
        let disjoint = |other: &&Vec<usize>| other.iter().all(|key| !set.contains(key));
        let two = sets[..i].iter().filter(disjoint);
        joined.extend(two.map(|other| [set.as_slice(), other].concat()));
    }
    joined.retain(|set| set.len() <= KEYS_MAX && !sets.contains(set));
    rng.shuffle(&mut sets);
    rng.shuffle(&mut joined);
    let mut seen: HashSet<String> = objects.iter().map(|(object, _)| spelled(object)).collect();
    let mut out = Vec::new();
    // Where there are few of both, the same ones come again, and end it.
    for turn in 0..2 * count {
        let list = if turn % 2 == 0 || joined.is_empty() {
            &sets
        } else {
            &joined
        };
        if list.is_empty() || out.len() == count {
            break;
        }
        let set = &list[(turn / 2) % list.len()];
        let object: Object = set.iter().map(|&key| keys[key].take(rng)).collect();
        let object = spelled(&object);
        if seen.insert(object.clone()) {
            out.push(object);
        }
    }
    out
}

/// Keys with a value each that an input says: what a list of values shows.
pub fn values(shots: &[(&str, &str)]) -> Vec<(String, String)> {
    let keys = keys(&objects(shots)).into_iter();
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    keys.flat_map(|key| {
        let texts: Vec<String> = key
            .values
            .iter()
            .filter_map(|(value, _)| text(value))
            .collect();
        texts.into_iter().map(move |text| (key.name.clone(), text))
    })
    .collect()
}

fn objects<'t>(shots: &[(&str, &'t str)]) -> Vec<(Object, &'t str)> {
    shots
        .iter()
        .filter_map(|(answer, input)| Some((serde_json::from_str(answer).ok()?, *input)))
        .collect()
}

/// What several inputs have, with the values that can be trusted.
fn keys(objects: &[(Object, &str)]) -> Vec<Key> {
    let mut keys: Vec<(Key, usize)> = Vec::new();
    for (name, value, input) in objects.iter().flat_map(|(object, input)| {
        object
            .iter()
            .map(move |(name, value)| (name, value, *input))
    }) {
        let at = keys.iter().position(|(key, _)| key.name == *name);
        let at = at.unwrap_or_else(|| {
            let values = Vec::new();
            let name = name.clone();
            keys.push((Key { name, values }, 0));
            keys.len() - 1
        });
        let (key, inputs) = &mut keys[at];
        *inputs += 1;
        // Said word for word, it counts at once.
        let votes = if is_said(value, input) { SHARED_MIN } else { 1 };
        match key.values.iter_mut().find(|(known, _)| known == value) {
            Some((_, count)) => *count += votes,
            None => key.values.push((value.clone(), votes)),
        }
    }
    keys.retain_mut(|(key, inputs)| {
        key.values.retain(|(_, votes)| *votes >= SHARED_MIN);
        *inputs >= KEY_MIN && !key.values.is_empty()
    });
    let fresh = |(mut key, _): (Key, usize)| {
        key.values.iter_mut().for_each(|(_, taken)| *taken = 0);
        key
    };
    keys.into_iter().map(fresh).collect()
}

/// The input says the value.
fn is_said(value: &Value, input: &str) -> bool {
    let text = match value {
        Value::String(text) => text.to_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => return false,
    };
    !text.trim().is_empty() && input.to_lowercase().contains(&text)
}

impl Key {
    /// A text as a value like those that are there, and none of them.
    fn value(&self, text: &str) -> Option<Value> {
        let text = text.trim();
        let value = match self.values.first()?.0 {
            Value::String(_) => Value::from(text),
            Value::Number(_) => Value::Number(text.parse().ok()?),
            _ => return None,
        };
        let is_new = self.values.iter().all(|(known, _)| *known != value);
        (!text.is_empty() && is_new).then_some(value)
    }

    /// One of the values that were taken least.
    fn take(&mut self, rng: &mut Rng) -> (String, Value) {
        let least = self.values.iter().map(|(_, taken)| *taken).min();
        let mut due: Vec<&mut (Value, usize)> = self
            .values
            .iter_mut()
            .filter(|(_, taken)| Some(*taken) == least)
            .collect();
        let chosen = rng.below(due.len());
        due[chosen].1 += 1;
        (self.name.clone(), due[chosen].0.clone())
    }
}

/// An object on one line, with a space behind each colon and comma, as most write it.
fn spelled(object: &Object) -> String {
    let one = |(key, value): (&String, &Value)| format!("{}: {value}", Value::from(key.as_str()));
    let all: Vec<String> = object.iter().map(one).collect();
    format!("{{{}}}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_put_together_of_what_inputs_say() {
        let shots = [
            (r#"{"city": "Rome", "day": "friday"}"#, "to rome on Friday"),
            (r#"{"city": "Oslo", "seats": 2}"#, "Oslo, 2 seats"),
            (r#"{"day": "monday", "seats": 4}"#, "monday, 4 seats"),
            (r#"{"city": "Bonn", "odd": "x"}"#, "to Bonn, x"),
            (r#"{"city": "invented"}"#, "somewhere"),
            ("no object", "to Paris"),
        ];
        let made = compose(&shots, &[], 100, &mut Rng::new(1, "t"));
        let all: HashSet<&String> = made.iter().collect();
        assert_eq!(all.len(), made.len());
        // Three pairs of keys, in the order that is there or the other, and the city alone.
        assert!((10..=40).contains(&made.len()), "{made:?}");
        for object in &made {
            let object: Object = serde_json::from_str(object).unwrap();
            assert!(!object.contains_key("odd"), "{object:?}");
            assert!(object.values().all(|value| value != "invented"));
        }
        assert!(made.contains(&r#"{"city": "Oslo", "day": "monday"}"#.to_owned()));
        assert!(
            shots
                .iter()
                .all(|(shot, _)| !made.contains(&(*shot).to_owned()))
        );
        assert_eq!(compose(&shots, &[], 3, &mut Rng::new(1, "t")).len(), 3);
        assert!(compose(&[("text", "in")], &[], 3, &mut Rng::new(1, "t")).is_empty());
        assert!(compose(&[], &[], 3, &mut Rng::new(1, "t")).is_empty());
    }

    #[test]
    fn drawn_values_are_like_those_that_are_there() {
        let shots = [
            (r#"{"city": "Rome", "seats": 2}"#, "Rome, 2"),
            (r#"{"city": "Oslo", "seats": 4}"#, "Oslo, 4"),
        ];
        let drawn = [
            ("city", " Bonn"),
            ("city", "Rome"),
            ("city", " "),
            ("seats", "7"),
            ("seats", "many"),
            ("other", "x"),
        ];
        let drawn = drawn.map(|(key, text)| (key.to_owned(), text.to_owned()));
        let made = compose(&shots, &drawn, 99, &mut Rng::new(1, "t"));
        let all: HashSet<String> = made.into_iter().collect();
        let mut expected = HashSet::new();
        for city in ["Rome", "Oslo", "Bonn"] {
            for seats in [2, 4, 7] {
                expected.insert(format!("{{\"city\": \"{city}\", \"seats\": {seats}}}"));
            }
        }
        let (first, second) = (shots[0].0.to_owned(), shots[1].0.to_owned());
        assert!(expected.remove(&first) && expected.remove(&second));
        assert_eq!(all, expected);
        let shown = values(&shots);
        assert!(
            shown.contains(&("seats".into(), "4".into())) && shown.len() == 4,
            "{shown:?}"
        );
    }

    #[test]
    fn a_value_that_no_input_says_must_be_shared() {
        let shots = [(r#"{"size": "large"}"#, "the big one"); 3];
        let pairs = [
            shots[0],
            shots[1],
            shots[2],
            (r#"{"size": "small", "name": "Jo"}"#, "small, for Jo"),
            (r#"{"name": "Al"}"#, "for Al"),
        ];
        let made = compose(&pairs, &[], 50, &mut Rng::new(1, "t"));
        assert!(
            made.contains(&r#"{"size": "large", "name": "Jo"}"#.to_owned()),
            "{made:?}"
        );
        assert!(
            compose(&pairs[2..], &[], 50, &mut Rng::new(1, "t"))
                .iter()
                .all(|object| !object.contains("large"))
        );
    }
}
