//! Who makes the inputs of a transfer up, and what throws them out, by what was asked for and what
//! is at hand.

use std::path::PathBuf;

use super::job::Job;
use super::journal::blob_name;
use super::rounds::Maker;
use super::transfer::Given;
use super::{PipelineError, Stage, TransferPlan};
use crate::engine::{AdapterId, With};
use crate::filter::{Discriminator, Judge, Rules};
use crate::kit::{DiscriminatorCard, Kit, KitError, Seed};
use crate::request::{FilterChoice, GeneratorChoice};

/// `auto` asks a discriminator that tells held-out inputs apart at least this well.
const AUC_MIN: f64 = 0.85;

/// What a target is asked that was fitted on inputs it made.
const TUNED_QUESTION: &str = "Write an input.";

/// Makers, judge and rules of one transfer.
pub(super) struct Hands {
    pub judge: Judge,
    /// The filter's name, for the report.
    pub filter: &'static str,
    pub makers: Vec<Maker>,
    pub rules: Rules,
    /// What the source model needs for them: the teacher first.
    pub adapters: Vec<PathBuf>,
}

/// Refuse a filter that the kit cannot serve.
pub(super) fn check(plan: &TransferPlan, kit: &Kit) -> Result<(), PipelineError> {
    let needs = matches!(plan.filter, FilterChoice::Kit | FilterChoice::Both);
    if needs && kit.discriminator().is_none() {
        let path = plan.inputs().path().to_owned();
        return Err(KitError::NoDiscriminator { path }.into());
    }
    Ok(())
}

impl Hands {
    /// Lay ready what makes and judges inputs.
    pub fn of(plan: &TransferPlan, given: &Given, job: &Job<'_>) -> Result<Self, PipelineError> {
        let mut adapters = vec![plan.source_lora.clone()];
        let mut lay = |name: &str, bytes: &[u8]| -> Result<AdapterId, PipelineError> {
            let name = blob_name(name);
            job.journal.replace(&name, &[bytes])?;
            adapters.push(job.journal.path(&name));
            Ok(AdapterId(adapters.len() - 1))
        };
        let kit = given.kit.as_ref();
        let filter = chosen(plan, kit);
        let discriminator = match kit.and_then(|kit| {
            Some((
                kit,
                kit.discriminator()?,
                kit.manifest().discriminator.as_ref()?,
            ))
        }) {
            Some((kit, bytes, card))
                if matches!(filter, FilterChoice::Kit | FilterChoice::Both) =>
            {
                let question = kit.manifest().question.clone();
                Some((
                    Discriminator {
                        adapter: lay("discriminator", bytes)?,
                        question,
                        threshold: card.threshold,
                    },
                    card,
                ))
            }
            _ => None,
        };
        let makers = makers(plan, kit, filter != FilterChoice::None, &mut lay)?;
        if let Some((_, card)) = &discriminator {
            tell(job, card, &makers);
        }
        let (teacher, tokens_max) = (AdapterId(0), plan.answer.answer_tokens);
        let judge = match (filter, discriminator) {
            (FilterChoice::None, _) => Judge::None,
            (FilterChoice::Kit, Some((discriminator, _))) => Judge::Discriminator(discriminator),
            (FilterChoice::Both, Some((discriminator, _))) => Judge::Both {
                teacher,
                tokens_max,
                discriminator,
            },
            _ => Judge::Contrast {
                teacher,
                tokens_max,
            },
        };
        Ok(Self {
            judge,
            filter: filter.name(),
            makers,
            rules: rules(plan, given),
            adapters,
        })
    }
}

/// What `auto` stands for.
fn chosen(plan: &TransferPlan, kit: Option<&Kit>) -> FilterChoice {
    if plan.filter != FilterChoice::Auto {
        return plan.filter;
    }
    let auc = kit.and_then(|kit| kit.manifest().discriminator.as_ref()?.auc);
    // What an input model writes is of the task.
    let made_of_pieces = kit.is_none_or(|kit| kit.input_model().is_none())
        || plan.generator != GeneratorChoice::Auto;
    if made_of_pieces && auc.is_some_and(|auc| auc >= AUC_MIN) {
        FilterChoice::Both
    } else {
        FilterChoice::Contrast
    }
}

/// Lays the bytes of an adapter into the journal under a name, and opens it.
type Lay<'a> = dyn FnMut(&str, &[u8]) -> Result<AdapterId, PipelineError> + 'a;

/// Who makes inputs up, in turns; `judged`: and some of what they make is thrown out.
fn makers(
    plan: &TransferPlan,
    kit: Option<&Kit>,
    judged: bool,
    lay: &mut Lay<'_>,
) -> Result<Vec<Maker>, PipelineError> {
    let base = |name, target| Maker {
        name,
        target,
        with: With::Base,
        question: None,
        shown: true,
        tuned: false,
    };
    Ok(match (plan.generator, kit.and_then(Kit::input_model)) {
        (GeneratorChoice::Auto, Some((bytes, question))) => {
            let with = With::Adapter(lay("inputs", bytes)?);
            vec![Maker {
                with,
                question: Some(question.to_owned()),
                ..base("input_model", false)
            }]
        }
        (GeneratorChoice::Auto, _) if judged => {
            let tuned = Maker {
                question: Some(TUNED_QUESTION.to_owned()),
                shown: false,
                tuned: true,
                ..base("tuned_target", true)
            };
            vec![base("target", true), tuned]
        }
        (GeneratorChoice::Auto | GeneratorChoice::Target, _) => vec![base("target", true)],
        (GeneratorChoice::Source, _) => vec![base("source", false)],
        (GeneratorChoice::SourceLora, _) => vec![Maker {
            with: With::Adapter(AdapterId(0)),
            ..base("source_lora", false)
        }],
        (GeneratorChoice::Mix, _) => vec![base("target", true), base("source", false)],
        (GeneratorChoice::Anything, _) => vec![Maker {
            shown: false,
            ..base("anything", true)
        }],
    })
}

/// Say how good the discriminator is, and warn where it meets what it was not trained against.
fn tell(job: &Job<'_>, card: &DiscriminatorCard, makers: &[Maker]) {
    let auc = card.auc.map_or("unknown".into(), |auc| format!("{auc:.3}"));
    let passed = card.passed.map_or(String::new(), |[real, made_up]| {
        format!(
            ", lets {:.0} % of real and {:.0} % of made-up inputs pass",
            100.0 * real,
            100.0 * made_up
        )
    });
    let events = &job.context.events;
    events.note(
        Stage::Filter,
        format!(
            "the kit's discriminator: AUC {auc} on {} held-out inputs{passed}",
            card.held_out
        ),
    );
    let by = card.made_up_by.as_deref().unwrap_or("source");
    let others: Vec<&str> = makers
        .iter()
        .map(|maker| maker.name)
        .filter(|name| *name != by)
        .collect();
    if !others.is_empty() {
        let (others, by) = (others.join(", ").replace('_', " "), by.replace('_', " "));
        events.warn(
            Stage::Filter,
            format!("the discriminator was trained against inputs by: {by}. Those of this run are by: {others}; what it was worth there it need not be worth here"),
        );
    }
}

/// Bounds from the kit's statistics where it has them, else from the seeds.
fn rules(plan: &TransferPlan, given: &Given) -> Rules {
    let mut rules = Rules::from_seeds(given.seeds.iter().map(Seed::text));
    if let Some(inputs) = given
        .kit
        .as_ref()
        .and_then(|kit| kit.manifest().inputs.as_ref())
    {
        [rules.chars_min, rules.chars_max] = inputs.chars_bounds();
    }
    rules.near = if plan.near > 0.0 {
        f64::from(plan.near)
    } else {
        2.0
    };
    Rules {
        numbers_masked: plan.ignore_numbers,
        seed_run: f64::from(plan.seed_run),
        ..rules
    }
}
