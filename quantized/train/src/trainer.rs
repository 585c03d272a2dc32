//! Trains an adapter: examples in, optimizer steps, numbers out.

use translora_llama::{Backend, Model, Operation, Placement};

use crate::adapter::Adapter;
use crate::dropout;
use crate::error::TrainError;
use crate::frozen::Cache;
use crate::goal::{Goal, Purpose};
use crate::modules::Target;
use crate::objective::Condensed;
use crate::pack::{Example, shared_prefix, split};
use crate::plan::Plan;
use crate::profile::StepTimes;
use crate::program::{Outcome, Pass};
use crate::spec::TrainSpec;
use crate::state::State;
use crate::survey::{Survey, survey};
use crate::weights::{ForwardWeights, Transpose};
use crate::workshop::{Work, Workshop};

/// What one step (or one look at the loss) did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Mean over completion tokens by their weights. units: nats.
    pub loss: f64,
    /// Sum of those weights.
    pub weight: f64,
    /// Of the mean loss, before clipping.
    pub gradient_norm: f64,
    /// Tokens that the model read, padding not counted.
    pub tokens: usize,
    /// Tokens that the loss was taken at.
    pub completion_tokens: usize,
}

/// An adapter under training on one model.
pub struct Trainer {
    spec: TrainSpec,
    state: State,
    workshop: Workshop,
    /// What `load` was last called with.
    loaded: Option<Loaded>,
    placement: Option<Placement>,
    /// While time is taken.
    times: Option<StepTimes>,
}

/// Examples, and how they are trained on.
struct Loaded {
    examples: Vec<Example>,
    /// Tokens that they all begin with.
    prefix: usize,
    plan: Plan,
    /// Values below the first adapted block, where the plan keeps them.
    frozen: Cache,
}

impl Trainer {
    /// Prepare a fresh adapter on `model` and prove that gradients can reach all of it, before any
    /// work is done.
    ///
    /// fails: unknown modules, or an operation without a backward rule in the way.
    pub fn new(backend: Backend, model: &Model, spec: &TrainSpec) -> Result<Self, TrainError> {
        spec.objective.check()?;
        let found = survey(backend, model, &spec.modules, spec.threads)?;
        let targets = chosen(found, spec)?;
        let adapter = Adapter::fresh(&targets, spec.rank, spec.written_alpha(), spec.seed);
        let workshop = Workshop::new(backend, model, spec, &adapter)?;
        Ok(Self {
            spec: spec.clone(),
            state: State::new(adapter),
            workshop,
            loaded: None,
            placement: None,
            times: None,
        })
    }

    /// The adapter as it is now.
    pub fn adapter(&self) -> &Adapter {
        self.state.adapter()
    }

    /// Replace the adapter's numbers.
    ///
    /// fails: an adapter of other matrices, or of another rank.
    pub fn set_adapter(&mut self, adapter: Adapter) -> Result<(), TrainError> {
        self.state.set_adapter(adapter)?;
        self.workshop.upload(self.state.adapter())
    }

    /// Words that a token can be.
    pub fn vocabulary(&self) -> usize {
        self.workshop.vocabulary()
    }

    /// Optimizer steps taken so far.
    pub fn steps(&self) -> u64 {
        self.state.steps()
    }

    /// units: bytes of weight copies, adapter, optimizer state and work memory.
    pub fn bytes(&self) -> usize {
        let state = self.adapter().parameters() * size_of::<f32>() * 3;
        self.workshop.bytes() + state
    }

    /// units: bytes that the device holds for training, its share of the model among them; none
    /// where all is the CPU's.
    pub fn device_bytes(&self) -> Option<usize> {
        self.workshop.device_bytes()
    }

    /// units: bytes of work memory that the programs run so far have needed at most.
    pub fn work_bytes(&self) -> usize {
        self.workshop.work_bytes()
    }

    /// The devices that training runs on, with commas between.
    pub fn device(&self) -> String {
        self.workshop.device_names()
    }

    /// What of the last step ran where; none before the first step, and where all is the CPU's.
    pub fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    /// What the programs built so far consist of.
    pub fn operations(&self) -> Vec<Operation> {
        self.workshop.operations()
    }

    /// How gradients read the frozen weights.
    pub fn forward(&self) -> (ForwardWeights, Transpose) {
        self.workshop.reading()
    }

    /// Take the time of what later steps compute.
    pub fn record_times(&mut self) {
        self.workshop.record_times();
        self.times = Some(StepTimes::default());
    }

    /// Times since `record_times`.
    pub fn times(&self) -> Option<&StepTimes> {
        self.times.as_ref()
    }

    /// Load the examples that later calls name by index, in place of those loaded before. Returns
    /// how they will be trained on, and the memory that this is predicted to take.
    ///
    /// fails: weights or a teacher's signal that do not fit the example, or not the objective; no
    /// way to train on them fits the memory.
    pub fn load(&mut self, examples: Vec<Example>) -> Result<Plan, TrainError> {
        let workshop = &mut self.workshop;
        let goal = workshop.goal().with(&examples, workshop.vocabulary())?;
        workshop.set_longest(examples.iter().map(Example::inputs).max().unwrap_or(1));
        let prefix = if workshop.keeps_sequences_apart() {
            0
        } else {
            shared_prefix(&examples)
        };
        let work = Work {
            examples: &examples,
            prefix,
            goal,
            parameters: self.state.adapter().parameters(),
        };
        let plan = workshop.plan(&self.spec, &work)?;
        workshop.set_goal(Goal {
            checkpoints: plan.checkpoints,
            bytes: plan.loss_bytes,
            frozen: plan.frozen,
            ..goal
        });
        self.loaded = Some(Loaded {
            frozen: Cache::of(&examples),
            examples,
            prefix,
            plan,
        });
        Ok(plan)
    }

    /// How the loaded examples are trained on, and the memory that this is predicted to take.
    pub fn plan(&self) -> Option<&Plan> {
        self.loaded.as_ref().map(|loaded| &loaded.plan)
    }

    /// Take one optimizer step on the mean completion-token loss of `batch`.
    ///
    /// fails: a loss or gradient that is not finite, even with smaller gradient scales.
    pub fn step(&mut self, batch: &[usize], learning_rate: f32) -> Result<StepReport, TrainError> {
        let (mut report, mut gradients) = self.gradients(batch)?;
        let norm = gradients
            .iter()
            .map(|gradient| squares(gradient))
            .sum::<f64>()
            .sqrt();
        report.gradient_norm = norm;
        let clip = f64::from(self.spec.max_grad_norm);
        if clip > 0.0 && norm > clip {
            let factor = (clip / norm) as f32;
            gradients.iter_mut().flatten().for_each(|g| *g *= factor);
        }
        let rates = [learning_rate, learning_rate * self.spec.lora_plus_ratio];
        let (optimizer, threads) = (self.spec.optimizer, self.spec.threads);
        self.state.descend(optimizer, &gradients, rates, threads);
        self.workshop.upload(self.state.adapter())?;
        Ok(report)
    }

    /// The mean loss of `batch` and its gradient for each A and B in turn, with the dropout of the
    /// next step.
    pub fn gradients(
        &mut self,
        batch: &[usize],
    ) -> Result<(StepReport, Vec<Vec<f32>>), TrainError> {
        let not_finite = |what, state: &State| TrainError::NotFinite {
            what,
            step: state.steps() + 1,
        };
        loop {
            let scale = self.state.scale();
            let (report, mut gradients) = self.run(batch, Purpose::Gradients)?;
            if !report.loss.is_finite() {
                return Err(not_finite("loss", &self.state));
            }
            if gradients.iter().flatten().all(|g| g.is_finite()) {
                let weight = if report.weight > 0.0 {
                    report.weight as f32
                } else {
                    1.0
                };
                let factor = 1.0 / (scale * weight);
                gradients.iter_mut().flatten().for_each(|g| *g *= factor);
                return Ok((report, gradients));
            }
            if !self.state.lower_scale() {
                return Err(not_finite("gradient", &self.state));
            }
        }
    }

    /// Mean completion-token loss of `batch`.
    pub fn loss(&mut self, batch: &[usize]) -> Result<StepReport, TrainError> {
        Ok(self.run(batch, Purpose::Loss)?.0)
    }

    /// Logits at every completion position of one loaded example.
    ///
    /// shapes: outputs rows of vocabulary
    pub fn logits(&mut self, example: usize) -> Result<Vec<Vec<f32>>, TrainError> {
        let pass = pass(&self.spec, &self.state, 0);
        let Loaded {
            examples,
            prefix,
            frozen,
            ..
        } = loaded(&mut self.loaded, example)?;
        let run = [find(examples, example)?];
        let times = self.times.as_mut();
        let (outcome, packed) =
            self.workshop
                .run(&run, *prefix, frozen, Purpose::Logits, pass, times)?;
        let words = self.workshop.vocabulary();
        let row = |row: usize| outcome.logits[row * words..][..words].to_vec();
        Ok(packed.rows().map(row).collect())
    }

    /// Condense distributions over this model's vocabulary into what its head makes of them, for
    /// `Objective::Condensed`.
    ///
    /// shapes: rows of vocabulary
    ///
    /// fails: the logits are not a multiple of one product.
    pub fn condense(&mut self, probabilities: &[Vec<f32>]) -> Result<Vec<Condensed>, TrainError> {
        self.workshop.condense(probabilities)
    }

    /// Weights and optimizer state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        self.state.to_bytes()
    }

    /// Continue exactly where `snapshot` was taken.
    ///
    /// fails: damaged bytes, or a snapshot of another shape.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.state = self.state.restored(bytes)?;
        self.workshop.upload(self.state.adapter())
    }

    /// The adapter as a GGUF.
    pub fn to_gguf(&self, metadata: &[(String, String)]) -> Result<Vec<u8>, TrainError> {
        self.adapter()
            .to_gguf(&self.workshop.architecture(), metadata)
    }

    /// Run a batch in packs: its mean loss, and the sums of its gradients.
    fn run(
        &mut self,
        batch: &[usize],
        purpose: Purpose,
    ) -> Result<(StepReport, Vec<Vec<f32>>), TrainError> {
        let first = batch.first().copied().unwrap_or(0);
        let Loaded {
            examples,
            prefix,
            plan,
            frozen,
        } = loaded(&mut self.loaded, first)?;
        let chosen = batch
            .iter()
            .map(|index| find(examples, *index))
            .collect::<Result<Vec<&Example>, _>>()?;
        let micro = if self.spec.micro_batch == 0 {
            chosen.len().max(1)
        } else {
            self.spec.micro_batch
        };
        // With no room at all, every example stands alone.
        let room = if self.workshop.keeps_sequences_apart() {
            0
        } else {
            plan.pack
        };
        let runs = chosen
            .chunks(micro)
            .flat_map(|some| split(some, *prefix, room, plan.pack));
        let mut report = StepReport::default();
        let mut total: Vec<Vec<f32>> = Vec::new();
        for (number, run) in runs.enumerate() {
            let pass = pass(&self.spec, &self.state, number);
            let times = self.times.as_mut();
            let (outcome, packed) = self
                .workshop
                .run(&run, *prefix, frozen, purpose, pass, times)?;
            report.tokens += packed.used;
            report.completion_tokens += run.iter().map(|example| example.outputs()).sum::<usize>();
            self.placement = outcome.placement.clone().or(self.placement.take());
            add(&mut report, &mut total, outcome);
        }
        report.loss /= if report.weight > 0.0 {
            report.weight
        } else {
            1.0
        };
        Ok((report, total))
    }
}

/// What is particular to pack `number` of the next step.
fn pass(spec: &TrainSpec, state: &State, number: usize) -> Pass {
    Pass {
        scale: state.scale(),
        draw: dropout::key(&[spec.seed, state.steps(), number as u64]),
    }
}

/// Add one pack's loss and gradients to a batch's.
fn add(report: &mut StepReport, total: &mut Vec<Vec<f32>>, outcome: Outcome) {
    report.loss += outcome.loss;
    report.weight += outcome.weight;
    if total.is_empty() {
        *total = outcome.gradients;
        return;
    }
    let sums = total.iter_mut().flatten();
    for (sum, more) in sums.zip(outcome.gradients.iter().flatten()) {
        *sum += more;
    }
}

fn loaded(loaded: &mut Option<Loaded>, index: usize) -> Result<&mut Loaded, TrainError> {
    loaded.as_mut().ok_or_else(|| TrainError::Example {
        index,
        reason: "none are loaded".into(),
    })
}

fn find(examples: &[Example], index: usize) -> Result<&Example, TrainError> {
    examples.get(index).ok_or_else(|| TrainError::Example {
        index,
        reason: format!("only {} are loaded", examples.len()),
    })
}

/// Of what can be trained, what the spec chooses.
fn chosen(found: Survey, spec: &TrainSpec) -> Result<Vec<Target>, TrainError> {
    if let (Some((op, node)), None) = (&found.blocked, spec.first_block) {
        return Err(TrainError::Blocked {
            op: op.clone(),
            node: node.clone(),
            blocks: found.blocks,
        });
    }
    let within = |block: u32| {
        spec.first_block.is_none_or(|first| block >= first)
            && spec.end_block.is_none_or(|end| block < end)
    };
    // What stands in no block stands behind all of them.
    let behind = spec.end_block.is_none();
    let targets: Vec<_> = found
        .targets
        .into_iter()
        .filter(|target| target.block().map_or(behind, within))
        .collect();
    if !targets.is_empty() {
        return Ok(targets);
    }
    let layers = spec.first_block.or(spec.end_block).and(found.blocks);
    let reason = match layers {
        Some((first, last)) => format!(
            "no matrix of these layers can be trained; those that can are in layers {first} to {last}"
        ),
        None => "none of these matrices can be trained: llama.cpp applies no adapter to them, or no gradient reaches them".into(),
    };
    Err(TrainError::Module {
        modules: spec.modules.clone(),
        reason,
    })
}

/// Σ g², in sums side by side that the compiler can use vectors for.
fn squares(gradient: &[f32]) -> f64 {
    let (wide, rest) = gradient.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for chunk in wide {
        for (sum, g) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(*g).powi(2);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>()
}
