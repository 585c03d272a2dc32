//! Choose what the new adapter is fitted to, and bring what that needs from the teacher to the
//! student's tokens.
//!
//! `auto` takes what measured best on the lab's tasks and the real pair (docs/tried.md), which is
//! `text` for any two models. Where rows with known answers show that the bare target is right more
//! often than the source with its adapter (McNemar's exact test), the reason says so. The teacher's
//! probabilities for each token are computed once, kept in the journal, and bounded by `Limits`;
//! source and target are open one after the other.

use serde::{Deserialize, Serialize};

use super::job::{Done, Job, Session};
use super::{Context, PipelineError, Stage, TransferPlan};
use crate::engine::{
    EngineError, Lesson, LogsOf, Model, Monitor, Objective, SoftLabels, Spelling, Spoken, Token,
    With, WordsOf,
};
use crate::evaluate::{self, Arm};
use crate::label::{self, Aligned, Labeled};
use crate::record::Pair;
use crate::request::{ObjectiveChoice, TokenWeights};

/// p of McNemar's test below which the bare target is held for the stronger.
const P_MAX: f64 = 0.05;

/// What the adapter was fitted to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveReport {
    /// What was chosen.
    pub objective: ObjectiveChoice,
    /// What the request names.
    pub requested: ObjectiveChoice,
    /// Why, in a sentence.
    pub reason: String,
    /// Whether the two models have the same words.
    pub same_vocabulary: bool,
    /// How tokens of the answers are weighed.
    pub token_weights: TokenWeights,
    /// Tokens of the answers, held-out ones included, and those of them that were fitted to more
    /// than their text; 0 for `text`.
    pub tokens: u64,
    /// Of [`ObjectiveReport::tokens`], those that were fitted to more than their text.
    pub tokens_taught: u64,
    /// From what was fitted to, on held-out inputs.
    pub divergence: Option<Divergences>,
}

/// KL(soft label ‖ model), mean over the tokens of held-out answers; the words that a label leaves
/// out taken as one. units: nats
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergences {
    /// Tokens that were compared.
    pub tokens: u64,
    /// Of the bare target.
    pub target: f64,
    /// Of the target with the new adapter.
    pub transferred: f64,
}

/// What is known about the two models.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub same_vocabulary: bool,
    /// Bytes of all labelled answers.
    pub answer_bytes: usize,
    /// Source with its adapter, and bare target, on these rows with known answers.
    pub arms: Option<(&'a Arm, &'a Arm, &'a [Pair])>,
}

/// Choose by the rule above.
///
/// fails: what is requested cannot be done with these models
pub(super) fn choose(
    plan: &TransferPlan,
    known: Known<'_>,
) -> Result<ObjectiveReport, PipelineError> {
    let requested = plan.objective;
    let report = |objective: ObjectiveChoice, reason: &str| ObjectiveReport {
        objective,
        requested,
        reason: reason.to_owned(),
        same_vocabulary: known.same_vocabulary,
        token_weights: plan.token_weights,
        tokens: 0,
        tokens_taught: 0,
        divergence: None,
    };
    if requested == ObjectiveChoice::Kl && !known.same_vocabulary {
        return Err(PipelineError::OtherVocabulary);
    }
    let (limit, bytes) = (plan.limits.teacher_bytes_max, known.answer_bytes);
    let asks_tokens = plan.token_weights != TokenWeights::None
        || !matches!(requested, ObjectiveChoice::Auto | ObjectiveChoice::Text);
    if bytes > limit && asks_tokens {
        return Err(PipelineError::LongAnswers {
            bytes,
            bytes_max: limit,
        });
    }
    if requested != ObjectiveChoice::Auto {
        return Ok(report(requested, "as requested"));
    }
    if bytes > limit {
        return Ok(report(
            ObjectiveChoice::Text,
            "the answers are too long to keep more of them",
        ));
    }
    let weaker = known.arms.map(is_weaker).transpose()?.unwrap_or(false);
    let reason = if weaker {
        "what measured best; but the bare target is right more often than the source with its \
        adapter: the objective \"delta\" keeps nearer to it"
    } else if known.same_vocabulary {
        "what measured best for two models of one vocabulary"
    } else {
        "what measured best for two models of different vocabularies"
    };
    Ok(report(ObjectiveChoice::Text, reason))
}

/// The source with its adapter is shown to be right less often than the bare target.
fn is_weaker((source, target, rows): (&Arm, &Arm, &[Pair])) -> Result<bool, PipelineError> {
    let all: Vec<usize> = (0..rows.len()).collect();
    let found = evaluate::compare(source, target, rows, &all, 1.0)?;
    Ok(found.wins > found.losses && found.p_value < P_MAX)
}

impl ObjectiveReport {
    /// What a training step minimizes.
    pub(super) fn minimized(&self) -> Objective {
        if self.objective == ObjectiveChoice::Text {
            Objective::Text
        } else {
            Objective::Match
        }
    }

    /// The source's probabilities without its adapter are needed, too.
    fn needs_bare(&self) -> bool {
        self.objective == ObjectiveChoice::Delta || self.token_weights == TokenWeights::Contrast
    }
}

/// The teacher's part for one answer: its tokens, and ln p of the same words without the adapter.
#[derive(Serialize, Deserialize)]
struct Signal {
    spoken: Vec<Spoken>,
    bare: Option<LogsOf>,
}

/// The teacher's part and the student's.
pub(super) struct Teaching<'a, 's> {
    pub plan: &'a TransferPlan,
    /// The source base; its first adapter is the teacher's.
    pub source: Session<'a>,
    pub target: &'s mut Session<'a>,
}

impl Teaching<'_, '_> {
    /// Add to every labelled input what the student is to learn of its tokens. Where that is the
    /// text alone, no model is opened.
    pub fn run(
        mut self,
        job: &mut Job<'_>,
        labeled: Vec<Labeled>,
        report: &mut ObjectiveReport,
    ) -> Result<Vec<Labeled>, PipelineError> {
        if report.objective == ObjectiveChoice::Text && report.token_weights == TokenWeights::None {
            return Ok(labeled);
        }
        let pairs: Vec<Pair> = labeled.iter().map(Labeled::pair).collect();
        if let Some(found) = job.journal.finished::<[u64; 2], SoftLabels>("align")? {
            return Ok(with_labels(labeled, found.head, found.rows, report));
        }
        let (lesson, off) = self.teach(job, &pairs, report)?;
        self.source.close();
        let (plan, target) = (self.plan, &mut *self.target);
        let done = job.stage("align", Stage::Label, |monitor, _| {
            let (model, _) = target.get()?;
            let (counts, rows) = to_student(model, &pairs, &lesson, &off, report, plan, monitor)?;
            let summary = format!(
                "{} of {} tokens have more than their text",
                counts[1], counts[0]
            );
            Ok(Done {
                head: counts,
                rows,
                blob: None,
                summary,
            })
        })?;
        Ok(with_labels(labeled, done.head, done.rows, report))
    }

    fn teach(
        &mut self,
        job: &mut Job<'_>,
        pairs: &[Pair],
        report: &ObjectiveReport,
    ) -> Result<(Lesson, Vec<Option<LogsOf>>), PipelineError> {
        let (source, words) = (&mut self.source, self.plan.limits.teacher_words_max);
        let done = job.stage("teach", Stage::Label, |monitor, _| {
            let (model, adapters) = source.get()?;
            let Lesson { spelling, answers } =
                model.teach(With::Adapter(adapters[0]), pairs, words, monitor)?;
            let named = |spoken: &Spoken| spoken.words.iter().map(|(word, _)| *word).collect();
            let named: Vec<WordsOf> = answers
                .iter()
                .map(|tokens| tokens.iter().map(named).collect())
                .collect();
            let off = if report.needs_bare() {
                model
                    .weigh(With::Base, pairs, &named, monitor)?
                    .into_iter()
                    .map(Some)
                    .collect()
            } else {
                Vec::new()
            };
            let off = off.into_iter().chain(std::iter::repeat(None));
            let tokens: usize = answers.iter().map(Vec::len).sum();
            let rows: Vec<Signal> = answers
                .into_iter()
                .zip(off)
                .map(|(spoken, bare)| Signal { spoken, bare })
                .collect();
            let summary = format!("the teacher on {tokens} tokens of {} answers", rows.len());
            Ok(Done {
                head: spelling.into_iter().collect::<Vec<(i32, Spelling)>>(),
                rows,
                blob: None,
                summary,
            })
        })?;
        let (answers, off) = done
            .rows
            .into_iter()
            .map(|Signal { spoken, bare }| (spoken, bare))
            .unzip();
        Ok((
            Lesson {
                spelling: done.head.into_iter().collect(),
                answers,
            },
            off,
        ))
    }
}

fn with_labels(
    labeled: Vec<Labeled>,
    counts: [u64; 2],
    rows: Vec<SoftLabels>,
    report: &mut ObjectiveReport,
) -> Vec<Labeled> {
    [report.tokens, report.tokens_taught] = counts;
    labeled
        .into_iter()
        .zip(rows)
        .map(|(labeled, labels)| labeled.with_labels(labels))
        .collect()
}

/// Soft labels for the student's tokens; how many tokens there are, and how many of them have more
/// than their text.
fn to_student(
    model: &mut dyn Model,
    pairs: &[Pair],
    lesson: &Lesson,
    off: &[Option<LogsOf>],
    report: &ObjectiveReport,
    plan: &TransferPlan,
    monitor: &mut Monitor<'_>,
) -> Result<([u64; 2], Vec<SoftLabels>), PipelineError> {
    let by_number = report.same_vocabulary && report.objective != ObjectiveChoice::Aligned;
    let students = align(model, pairs, lesson, by_number)?;
    let own = if report.objective == ObjectiveChoice::Delta {
        let words: Vec<WordsOf> = students
            .iter()
            .map(|student| label::words_of(&student.aligned))
            .collect();
        model.weigh(With::Base, pairs, &words, monitor)?
    } else {
        Vec::new()
    };
    let mut counts = [0, 0];
    let mut rows = Vec::with_capacity(pairs.len());
    for (i, Student { tokens, aligned }) in students.iter().enumerate() {
        let spoken: &[Spoken] = &lesson.answers[i];
        let bare = off.get(i).and_then(Option::as_ref);
        let words = match report.objective {
            ObjectiveChoice::Text | ObjectiveChoice::Auto => Vec::new(),
            ObjectiveChoice::Kl | ObjectiveChoice::Aligned => {
                label::matched(aligned, spoken, tokens)
            }
            ObjectiveChoice::Delta => {
                let missing =
                    || EngineError::Internal("the source's bare probabilities are missing".into());
                let (bare, budget) = (bare.ok_or_else(missing)?, f64::from(plan.kl_budget));
                label::shifted(aligned, spoken, bare, tokens, &own[i], budget)
            }
        };
        counts[0] += tokens.len() as u64;
        counts[1] += if words.is_empty() {
            0
        } else {
            aligned.iter().filter(|aligned| aligned.is_some()).count() as u64
        };
        rows.push(SoftLabels {
            words,
            weights: label::weights(report.token_weights, spoken, bare, tokens),
        });
    }
    Ok((counts, rows))
}

/// The student's tokens of one answer, and which of the teacher's each of them is.
struct Student {
    tokens: Vec<Token>,
    aligned: Vec<Option<Aligned>>,
}

/// Align the tokens of each answer: by number where that can be, else by the bytes that they stand
/// for.
fn align(
    model: &mut dyn Model,
    pairs: &[Pair],
    lesson: &Lesson,
    by_number: bool,
) -> Result<Vec<Student>, PipelineError> {
    let mut students = Vec::with_capacity(pairs.len());
    for (pair, spoken) in pairs.iter().zip(&lesson.answers) {
        let tokens = model.tokens(pair)?;
        let found = if by_number {
            label::same(spoken, &tokens)
        } else {
            None
        };
        let by_bytes = || {
            label::align(
                &pair.completion,
                spoken,
                &lesson.spelling,
                &tokens,
                &|spelling| model.word(spelling),
            )
        };
        let aligned = found.unwrap_or_else(by_bytes);
        students.push(Student { tokens, aligned });
    }
    Ok(students)
}

/// How far the bare target and the new adapter are from what was fitted to, on inputs that were not
/// trained on.
pub(super) fn divergence(
    model: &mut dyn Model,
    adapter: With,
    held_out: &[Labeled],
    monitor: &mut Monitor<'_>,
) -> Result<Option<Divergences>, PipelineError> {
    let rows = held_out.iter().filter_map(|labeled| {
        Some((
            labeled.pair(),
            labeled.labels().filter(|labels| !labels.words.is_empty())?,
        ))
    });
    let (pairs, labels): (Vec<Pair>, Vec<&SoftLabels>) = rows.unzip();
    let tokens: usize = labels.iter().map(|labels| labels.words.len()).sum();
    if tokens == 0 {
        return Ok(None);
    }
    let named = |words: &Vec<(i32, f32)>| words.iter().map(|(word, _)| *word).collect();
    let words: Vec<WordsOf> = labels
        .iter()
        .map(|labels| labels.words.iter().map(named).collect())
        .collect();
    let mut mean = |with: With| -> Result<f64, PipelineError> {
        let logs = model.weigh(with, &pairs, &words, monitor)?;
        Ok(labels
            .iter()
            .zip(&logs)
            .map(|(labels, logs)| label::divergence_from(&labels.words, logs))
            .sum::<f64>()
            / tokens as f64)
    };
    Ok(Some(Divergences {
        tokens: tokens as u64,
        target: mean(With::Base)?,
        transferred: mean(adapter)?,
    }))
}

/// Say what was chosen.
pub(super) fn announce(context: &Context<'_>, report: &ObjectiveReport) {
    context.events.note(
        Stage::Label,
        format!("objective {}: {}", report.objective.name(), report.reason),
    );
}
