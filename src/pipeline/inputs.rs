//! Choose who generates the inputs of a transfer, and who judges them, from the plan and the kit.

use std::path::PathBuf;

use super::job::Job;
use super::journal::blob_name;
use super::transfer::TransferData;
use super::{PipelineError, Stage, TransferPlan};
use crate::engine::{AdapterId, With};
use crate::filter::{Discriminator, Judge, Rules};
use crate::generate::Instruction;
use crate::kit::{DiscriminatorCard, Kit, KitError, Seed};
use crate::request::{FilterChoice, GeneratorChoice};

/// `auto` asks a discriminator that tells held-out inputs apart at least this well.
const AUC_MIN: f64 = 0.85;

/// The question of a target that was fitted on the inputs of its own run.
const TUNED_QUESTION: &str = "Write an input.";

/// A model that generates inputs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Generator {
    pub name: &'static str,
    /// It is the target; else the source.
    pub target: bool,
    pub with: With,
    /// The question an input model answers; none for a list.
    pub question: Option<String>,
    /// The list shows the seeds.
    pub seeded: bool,
    /// It is fitted on the best of the rounds before.
    pub tuned: bool,
}

impl Generator {
    /// How the model is prompted for inputs.
    pub fn prompt(&self) -> Instruction<'_> {
        match &self.question {
            Some(question) if self.tuned => Instruction::Tuned(question),
            Some(question) => Instruction::Question(question),
            None if self.seeded => Instruction::List,
            None => Instruction::Anything,
        }
    }
}

/// Generators, judge and rules of one transfer.
pub(super) struct Roles {
    pub judge: Judge,
    /// The filter's name, for the report.
    pub filter: &'static str,
    pub generators: Vec<Generator>,
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

impl Roles {
    /// Choose, and write the adapters of a kit into the journal, where the source can load them.
    pub fn of(
        plan: &TransferPlan,
        data: &TransferData,
        job: &Job<'_>,
    ) -> Result<Self, PipelineError> {
        let mut adapters = vec![plan.source_lora.clone()];
        let mut store = |name: &str, bytes: &[u8]| -> Result<AdapterId, PipelineError> {
            let name = blob_name(name);
            job.journal.replace(&name, &[bytes])?;
            adapters.push(job.journal.path(&name));
            Ok(AdapterId(adapters.len() - 1))
        };
        let kit = data.kit.as_ref();
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
                        adapter: store("discriminator", bytes)?,
                        question,
                        threshold: card.threshold,
                    },
                    card,
                ))
            }
            _ => None,
        };
        let generators = generators(plan, kit, filter != FilterChoice::None, &mut store)?;
        if let Some((_, card)) = &discriminator {
            report_discriminator(job, card, &generators);
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
            generators,
            rules: rules(plan, data),
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
    let from_pieces = kit.is_none_or(|kit| kit.input_model().is_none())
        || plan.generator != GeneratorChoice::Auto;
    if from_pieces && auc.is_some_and(|auc| auc >= AUC_MIN) {
        FilterChoice::Both
    } else {
        FilterChoice::Contrast
    }
}

/// Writes the bytes of an adapter into the journal under a name; answers which adapter of the source
/// it is.
type Store<'a> = dyn FnMut(&str, &[u8]) -> Result<AdapterId, PipelineError> + 'a;

/// Who generates inputs, in turns; `judged`: and some of what they write is thrown out.
fn generators(
    plan: &TransferPlan,
    kit: Option<&Kit>,
    judged: bool,
    store: &mut Store<'_>,
) -> Result<Vec<Generator>, PipelineError> {
    let base = |name, target| Generator {
        name,
        target,
        with: With::Base,
        question: None,
        seeded: true,
        tuned: false,
    };
    Ok(match (plan.generator, kit.and_then(Kit::input_model)) {
        (GeneratorChoice::Auto, Some((bytes, question))) => {
            let with = With::Adapter(store("inputs", bytes)?);
            vec![Generator {
                with,
                question: Some(question.to_owned()),
                ..base("input_model", false)
            }]
        }
        (GeneratorChoice::Auto, _) if judged => {
            let tuned = Generator {
                question: Some(TUNED_QUESTION.to_owned()),
                seeded: false,
                tuned: true,
                ..base("tuned_target", true)
            };
            vec![base("target", true), tuned]
        }
        (GeneratorChoice::Auto | GeneratorChoice::Target, _) => vec![base("target", true)],
        (GeneratorChoice::Source, _) => vec![base("source", false)],
        (GeneratorChoice::SourceLora, _) => vec![Generator {
            with: With::Adapter(AdapterId(0)),
            ..base("source_lora", false)
        }],
        (GeneratorChoice::Mix, _) => vec![base("target", true), base("source", false)],
        (GeneratorChoice::Anything, _) => vec![Generator {
            seeded: false,
            ..base("anything", true)
        }],
    })
}

/// Say how good the discriminator is, and warn where it meets what it was not trained against.
fn report_discriminator(job: &Job<'_>, card: &DiscriminatorCard, generators: &[Generator]) {
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
    let others: Vec<&str> = generators
        .iter()
        .map(|generator| generator.name)
        .filter(|name| *name != by)
        .collect();
    if !others.is_empty() {
        let (others, by) = (others.join(", ").replace('_', " "), by.replace('_', " "));
        events.warn(
            Stage::Filter,
            format!(
                "the discriminator was trained against inputs by: {by}. Those of this run are \
                by: {others}; what it was worth there it need not be worth here"
            ),
        );
    }
}

/// Bounds from the kit's statistics where it has them, else from the seeds.
fn rules(plan: &TransferPlan, data: &TransferData) -> Rules {
    let mut rules = Rules::from_seeds(data.seeds.iter().map(Seed::text));
    if let Some(inputs) = data
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
