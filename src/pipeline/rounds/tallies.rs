//! Count what became of the inputs, for the report, and say what a reader should know.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::policy::Stock;
use super::pool::Pool;
use super::stages::Generated;
use crate::filter::{Judged, Reason, Valid, Validity};
use crate::generate::Yield;
use crate::label::Labeled;
use crate::pipeline::inputs::Generator;
use crate::pipeline::job::{count_rejections, named};
use crate::pipeline::{Events, GeneratedInput, PipelineError, RoundCounts, Stage};

/// Inputs that a report shows: of those kept, and of those rejected for each reason.
const KEPT_SHOWN_MAX: usize = 12;
const REJECTED_SHOWN_MAX: usize = 5;

pub(super) struct Tallies {
    /// The names of the generators.
    names: Vec<&'static str>,
    /// Whose each valid input is.
    origins: HashMap<String, usize>,
    /// What came of whose inputs.
    yields: BTreeMap<String, u64>,
    rejected: BTreeMap<String, u64>,
    pub rounds: Vec<RoundCounts>,
}

impl Tallies {
    /// All counts are 0.
    pub fn new(generators: &[Generator]) -> Self {
        Self {
            names: generators.iter().map(|generator| generator.name).collect(),
            origins: HashMap::new(),
            yields: BTreeMap::new(),
            rejected: BTreeMap::new(),
            rounds: Vec::new(),
        }
    }

    /// A generator had its turn.
    pub fn generated(&mut self, turn: usize, generated: &Generated) {
        self.count(turn, "drawn", generated.drawn.drawn);
        let texts = generated.valid.iter().map(Valid::text);
        self.origins
            .extend(texts.map(|text| (text.to_owned(), turn)));
    }

    /// A round is over.
    pub fn round(&mut self, turn: usize, given: Stock) {
        self.rounds.push(RoundCounts {
            by: self.names[turn].into(),
            drawn: given.drawn,
            valid: given.judged as u64,
            accepted: given.accepted as u64,
        });
    }

    /// Count what was rejected, by reason.
    pub fn rejected<K: Serialize>(&mut self, rejections: &BTreeMap<K, u64>) {
        count_rejections(&mut self.rejected, rejections);
    }

    /// What was repeated, and dropped before anything else.
    pub fn repeated(&mut self, drawn: &Yield) {
        let repeated = drawn.repeated + drawn.seeds_repeated;
        if repeated > 0 {
            *self.rejected.entry("rejected_repeated".into()).or_default() += repeated;
        }
    }

    /// The error that says why there are too few.
    pub fn not_enough(self, got: usize, needed: usize, drawn: u64) -> PipelineError {
        let strip =
            |(name, count): (String, u64)| (name.trim_start_matches("rejected_").to_owned(), count);
        PipelineError::NotEnough {
            got,
            needed,
            drawn,
            rejected: self.rejected.into_iter().map(strip).collect(),
        }
    }

    /// All counts, by name.
    pub fn counts(
        mut self,
        pool: &Pool<'_>,
        labeled: &[Labeled],
        eval_rows: usize,
    ) -> BTreeMap<String, u64> {
        let valid = pool.judged.iter().map(|judged| (judged.text(), "valid"));
        let accepted = pool.accepted().map(|judged| (judged.text(), "accepted"));
        let kept = labeled.iter().map(|labeled| (labeled.text(), "kept"));
        for (text, what) in valid.chain(accepted).chain(kept) {
            if let Some(&turn) = self.origins.get(text) {
                self.count(turn, what, 1);
            }
        }
        let mut counts = self.rejected;
        counts.append(&mut self.yields);
        let thoughts = labeled.iter().filter(|row| row.thought()).count();
        let numbers = [
            ("seeds", pool.seeds.len()),
            ("drawn", pool.drawn.drawn as usize),
            ("valid", pool.judged.len()),
            ("labeled", labeled.len()),
            ("thoughts_cut", thoughts),
            ("eval", eval_rows),
        ];
        counts.extend(numbers.map(|(name, count)| (name.to_owned(), count as u64)));
        counts
    }

    fn count(&mut self, turn: usize, what: &str, count: u64) {
        let name = format!("{}_{what}", self.names[turn]);
        *self.yields.entry(name).or_default() += count;
    }
}

/// The first inputs that were kept, and the first that were rejected for each reason.
pub(super) fn shown(
    judged: &[Judged],
    validity: &Validity,
    labeled: &[Labeled],
) -> Vec<GeneratedInput> {
    let input = |text: &str, answer: Option<String>, reason: Option<Reason>| GeneratedInput {
        text: text.into(),
        answer,
        rejected: reason.map(named),
    };
    let first = labeled.iter().take(KEPT_SHOWN_MAX);
    let mut shown: Vec<GeneratedInput> = first
        .map(|row| input(row.text(), Some(row.completion().to_owned()), None))
        .collect();
    let kept: HashSet<&str> = labeled.iter().map(Labeled::text).collect();
    let mut left: HashMap<Reason, usize> = HashMap::new();
    for judged in judged {
        let reason = judged.rejected().unwrap_or(Reason::Surplus);
        let left = left.entry(reason).or_insert(REJECTED_SHOWN_MAX);
        if *left > 0 && !kept.contains(judged.text()) {
            *left -= 1;
            let answer = judged.answer().map(|answer| answer.text.clone());
            shown.push(input(judged.text(), answer, Some(reason)));
        }
    }
    let invalid = validity.shown();
    shown.extend(invalid.map(|(reason, text)| input(text, None, Some(reason))));
    shown
}

/// Say how well inputs get the answer that they were generated for.
pub(super) fn note_agreement(events: &Events, kappa: f64) {
    let text = format!(
        "inputs that were asked for by an answer get it with a kappa of {kappa:.2} (1: all do, 0: \
        no more than by chance)"
    );
    events.note(Stage::Filter, text);
}

/// Warn that there are fewer samples than are needed.
pub(super) fn warn_few(events: &Events, got: usize, needed: usize, drawn: u64) {
    let text = format!(
        "only {got} of {needed} samples came out of {drawn} drawn inputs: going on with those"
    );
    events.warn(Stage::Filter, text);
}
