//! What the teacher's answers to any text show of a task: the labels that no seed has.

use std::collections::{BTreeMap, HashMap};

use super::{Judged, Reason};

/// Texts that share an answer before it counts as one of the task's. How sure the teacher is of it
/// says nothing: it is often unsure of a rare label.
const SHARED_MIN: usize = 3;
/// Share of the texts whose answer others share too, from which on answers are labels and not text
/// of their own.
const LABELS_SHARE: f64 = 0.95;
/// Share of the answers that are JSON objects, from which on all are meant to be.
const OBJECTS_SHARE: f64 = 0.8;
/// Inputs generated for an answer that are enough to measure, and the kappa from which on they
/// agree; from 0.2 on agreement is called fair. source: Landis and Koch, 1977
const INTENDED_MIN: usize = 20;
const KAPPA_MIN: f64 = 0.2;

/// Answers that several texts share; none where answers are free text.
fn labels(seen: &[Judged]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut texts = 0;
    for answer in seen
        .iter()
        .filter_map(answer)
        .filter(|text| !text.is_empty())
    {
        *counts.entry(answer).or_default() += 1;
        texts += 1;
    }
    counts.retain(|_, count| *count >= SHARED_MIN);
    let of_labels: usize = counts.values().sum();
    if (of_labels as f64) < LABELS_SHARE * texts as f64 {
        return Vec::new();
    }
    counts.into_keys().map(str::to_owned).collect()
}

/// What the answers of a task are, as far as the teacher's answers show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Few answers that many texts share.
    Labels(Vec<String>),
    /// JSON objects; the keys that several of them have.
    Objects(Vec<String>),
    /// Text of its own for each input.
    Text,
}

impl Answers {
    /// The label that an answer is, or the keys that it has, as far as the task has them.
    pub fn of<'a>(&'a self, answer: &'a str) -> impl Iterator<Item = &'a str> {
        let has = move |name: &&str| match self {
            Self::Objects(_) => has_key(answer, name),
            _ => answer.trim() == *name,
        };
        self.names().iter().map(String::as_str).filter(has)
    }

    /// Two answers say the same of a label or of a key.
    pub fn agree(&self, name: &str, answer: &str, other: &str) -> bool {
        match self {
            Self::Objects(_) => value(answer, name) == value(other, name),
            _ => answer.trim() == other.trim(),
        }
    }

    /// Its labels or keys.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Labels(names) | Self::Objects(names) => names,
            Self::Text => &[],
        }
    }
}

/// Find out what the teacher answers.
pub fn answers(seen: &[Judged]) -> Answers {
    let labels = labels(seen);
    if !labels.is_empty() {
        return Answers::Labels(labels);
    }
    let (mut texts, mut objects) = (0, 0);
    let mut keys: BTreeMap<String, usize> = BTreeMap::new();
    for text in seen.iter().filter_map(answer) {
        texts += 1;
        let Some(object) = object(text) else { continue };
        objects += 1;
        object
            .into_iter()
            .for_each(|(key, _)| *keys.entry(key).or_default() += 1);
    }
    keys.retain(|_, count| *count >= SHARED_MIN);
    if keys.is_empty() || f64::from(objects) < OBJECTS_SHARE * f64::from(texts) {
        return Answers::Text;
    }
    Answers::Objects(keys.into_keys().collect())
}

/// Whether an answer is a JSON object with this key.
fn has_key(answer: &str, key: &str) -> bool {
    value(answer, key).is_some()
}

fn value(answer: &str, key: &str) -> Option<serde_json::Value> {
    object(answer)?.remove(key)
}

fn object(answer: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_str(answer.trim()).ok()
}

/// How well inputs get the answer that they were generated for: Cohen's kappa, 1 where all do and 0
/// where no more do than by chance; none where there are too few.
/// source: Cohen, 1960
///
/// `intended`: by input, the answer that it was generated for.
fn kappa(judged: &[Judged], intended: &HashMap<String, String>) -> Option<f64> {
    let pairs: Vec<(&str, &str)> = judged
        .iter()
        .filter_map(|judged| Some((intended.get(judged.text())?.as_str(), answer(judged)?)))
        .collect();
    if pairs.len() < INTENDED_MIN {
        return None;
    }
    let all = pairs.len() as f64;
    let mut shares: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for (wanted, got) in &pairs {
        shares.entry(wanted).or_default()[0] += 1.0 / all;
        shares.entry(got).or_default()[1] += 1.0 / all;
    }
    let by_chance: f64 = shares.values().map(|[wanted, got]| wanted * got).sum();
    let agreed = pairs.iter().filter(|(wanted, got)| wanted == got).count() as f64 / all;
    (by_chance < 1.0).then(|| (agreed - by_chance) / (1.0 - by_chance))
}

/// Reject what got another answer than it was generated for, where inputs agree with their answers;
/// let it pass again where it turns out that they do not. Returns the kappa.
///
/// Text that is not of the task gets some answer as well, and the adapter may be sure of it, but it
/// is hardly the intended one.
pub fn hold_to(judged: &mut [Judged], intended: &HashMap<String, String>) -> Option<f64> {
    let kappa = kappa(judged, intended);
    let telling = kappa.is_some_and(|kappa| kappa >= KAPPA_MIN);
    for judged in judged
        .iter_mut()
        .filter(|judged| matches!(judged.rejected, None | Some(Reason::OtherAnswer)))
    {
        let Some(wanted) = intended.get(judged.text()) else {
            continue;
        };
        let other = answer(judged).is_some_and(|got| got != wanted);
        judged.rejected = (telling && other).then_some(Reason::OtherAnswer);
    }
    kappa
}

/// The answer, where the teacher came to an end.
fn answer(judged: &Judged) -> Option<&str> {
    judged
        .answer
        .as_ref()
        .filter(|answer| answer.finished)
        .map(|answer| answer.text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(answer: &str, accepted: bool) -> Judged {
        Judged::example("x", answer, (!accepted).then_some(Reason::Contrast))
    }

    #[test]
    fn an_answer_to_what_was_thrown_out_is_a_label() {
        let mut seen: Vec<Judged> = (0..20).map(|_| judged("A", true)).collect();
        seen.extend((0..20).map(|_| judged("B", true)));
        seen.extend((0..3).map(|_| judged("C", false)));
        seen.extend((0..4).map(|i| judged("D", i == 0)));
        seen.push(judged("once", true));
        let labels = ["A", "B", "C", "D"].map(str::to_owned);
        assert_eq!(answers(&seen), Answers::Labels(labels.into()));
    }

    #[test]
    fn text_has_no_labels() {
        // Text repeats itself, too: nine in ten of short sequences do.
        let mut seen: Vec<Judged> = (0..10)
            .map(|i| judged(&format!("answer {i}"), true))
            .collect();
        seen.extend((0..90).map(|i| judged(&format!("again {}", i % 9), false)));
        assert_eq!(answers(&seen), Answers::Text);
        assert_eq!(answers(&[]), Answers::Text);
    }

    #[test]
    fn objects_have_keys() {
        let object = |i: usize| format!("{{\"name\": \"n{i}\", \"size\": {i}}}");
        let mut seen: Vec<Judged> = (0..8).map(|i| judged(&object(i), i % 2 == 0)).collect();
        seen.push(judged("{\"odd\": 1}", true));
        seen.push(judged("{\"broken", true));
        let keys = ["name", "size"].map(str::to_owned);
        assert_eq!(answers(&seen), Answers::Objects(keys.into()));
        seen.extend((0..3).map(|i| judged(&format!("text {i}"), true)));
        assert_eq!(answers(&seen), Answers::Text);
    }

    /// Inputs that were generated for `wanted` and got `got`, `count` of each.
    fn answered(pairs: &[(&str, &str, usize)]) -> (Vec<Judged>, HashMap<String, String>) {
        let (mut all, mut intended) = (Vec::new(), HashMap::new());
        for (wanted, got, count) in pairs {
            for i in 0..*count {
                let text = format!("{wanted} {got} {i}");
                intended.insert(text.clone(), (*wanted).to_owned());
                all.push(Judged {
                    prompt: text.into(),
                    ..judged(got, true)
                });
            }
        }
        (all, intended)
    }

    #[test]
    fn an_answer_has_its_label_or_its_keys() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let objects = r#"{"a": 1, "b": "x", "odd": 2}"#;
        let cases: [(Answers, &str, &[&str]); 5] = [
            (Answers::Labels(names(&["yes", "no"])), " yes\n", &["yes"]),
            (Answers::Labels(names(&["yes", "no"])), "perhaps", &[]),
            (
                Answers::Objects(names(&["a", "b", "c"])),
                objects,
                &["a", "b"],
            ),
            (Answers::Objects(names(&["a"])), "no object", &[]),
            (Answers::Text, "yes", &[]),
        ];
        for (answers, answer, expected) in cases {
            assert_eq!(answers.of(answer).collect::<Vec<_>>(), expected, "{answer}");
        }
        let keys = Answers::Objects(names(&["a", "b"]));
        let other = r#"{"b": "y", "a": 1}"#;
        assert!(keys.agree("a", objects, other) && !keys.agree("b", objects, other));
        assert!(!keys.agree("a", objects, "no object"));
        let labels = Answers::Labels(names(&["yes"]));
        assert!(labels.agree("yes", "yes ", "yes") && !labels.agree("yes", "yes", "no"));
    }

    fn other(all: &[Judged]) -> usize {
        all.iter()
            .filter(|judged| judged.rejected() == Some(Reason::OtherAnswer))
            .count()
    }

    #[test]
    fn another_answer_than_the_intended_one_rejects_where_inputs_agree() {
        // Three quarters agree.
        let (mut all, intended) = answered(&[("A", "A", 10), ("B", "B", 20), ("B", "A", 10)]);
        let by_chance = 0.25 * 0.5 + 0.75 * 0.5;
        assert!(
            (kappa(&all, &intended).unwrap() - (0.75 - by_chance) / (1.0 - by_chance)).abs()
                < 1e-12
        );
        all.push(judged("C", true));
        assert_eq!(hold_to(&mut all, &intended), kappa(&all, &intended));
        assert_eq!(other(&all), 10);
        // More of them, and it was chance: all pass again.
        let (more, intended_more) = answered(&[("C", "A", 60), ("C", "B", 60)]);
        let intended: HashMap<String, String> = intended.into_iter().chain(intended_more).collect();
        all.extend(more);
        assert!(hold_to(&mut all, &intended).unwrap() < KAPPA_MIN);
        assert_eq!(other(&all), 0);
    }

    #[test]
    fn a_few_answers_tell_nothing() {
        let (mut all, intended) = answered(&[("A", "A", 9), ("B", "B", 9), ("A", "B", 1)]);
        assert_eq!(hold_to(&mut all, &intended), None);
        assert_eq!(other(&all), 0);
    }
}
