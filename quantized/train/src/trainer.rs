//! Trains an adapter: packing, steps, optimizer state, snapshots.

use std::collections::HashMap;

use translora_llama::{
    Backend, Compute, Kernel, Model, Operation, Placement, Storage, Trace, WorkBytes,
};

use crate::adapter::Adapter;
use crate::dropout;
use crate::error::TrainError;
use crate::frozen::{Below, Cache, Cut, FROZEN_BYTES};
use crate::goal::{Goal, Purpose};
use crate::keep::Keep;
use crate::loss::{Condenser, LOSS_BYTES};
use crate::objective::{Condensed, Objective};
use crate::optimizer::{AdamW, Moments};
use crate::pack::{Example, Packed, TOKENS_MAX, shared_prefix, split};
use crate::plan::{
    self, DeviceMemory, Largest, Limits, Measured, Memory, PROGRAMS_MAX, Plan, Planner,
};
use crate::profile::StepTimes;
use crate::program::{Outcome, Pass, Program};
use crate::reach::{AdapterIndex, Reach};
use crate::snapshot;
use crate::survey::survey;
use crate::tracer::{Tracer, layout};
use crate::weights::{ForwardWeights, Turned, Weights, wanted};

/// What to train, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    pub rank: usize,
    /// The adapter is scaled by alpha / rank, or by alpha / √rank where `rslora` is set.
    pub alpha: f32,
    /// Rank-stabilized scale. llama.cpp knows alpha / rank only, so the file carries alpha · √rank.
    ///
    /// source: Kalajdzievski 2023
    pub rslora: bool,
    /// See `modules::targets`.
    pub modules: String,
    /// Adapt this block and those above it only; `None` means all, and an error where that is not
    /// possible.
    pub first_block: Option<u32>,
    /// Adapt no block from this one on; `None` means to the last.
    pub end_block: Option<u32>,
    /// units: bytes of values that may be kept of what lies below the first adapted block, instead
    /// of computing it anew for each step; 0: none are.
    pub frozen_bytes: usize,
    pub seed: u64,
    pub objective: Objective,
    pub optimizer: AdamW,
    /// B learns at this multiple of the learning rate of A.
    ///
    /// source: LoRA+ (Hayou, Ghosh, Yu 2024)
    pub b_rate: f32,
    /// Share of the inputs of each A that a training step leaves out; what is left counts more by
    /// as much. While it is on, masks take 4 bytes for each input of each A and each token of a
    /// pack.
    pub dropout: f32,
    /// Global gradient norm above which a step is scaled down; 0 switches it off.
    pub clip_norm: f32,
    /// Examples that go through the model at one time at most; their gradients add up to the
    /// batch's. 0: as many as fit one pack.
    pub micro_batch: usize,
    /// On a device always `Native`.
    pub forward: ForwardWeights,
    /// How `Native` gradients read Wᵀ; on a device the first of this and those after it that fits.
    pub turned: Turned,
    /// What may be held on the device at most, its share of the model among it; left out, what is
    /// free there. units: bytes.
    pub device_memory: Option<usize>,
    /// What is kept between forward and backward. Changes memory and time, not a bit of the
    /// gradients.
    pub keep: Keep,
    /// units: bytes that logits and their gradients may take at one time (`LOSS_BYTES`).
    pub loss_bytes: usize,
    /// What the process may hold at most, the model's pages among it; `keep`, `loss_bytes` and the
    /// tokens of a pack are then chosen so that it does. units: bytes.
    pub memory: Option<usize>,
    /// Examples of one step, where that is known; for predicting memory only.
    pub batch: usize,
    /// Snapshots that the caller holds at one time; for predicting memory only.
    pub snapshots: usize,
    pub threads: u32,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            rslora: false,
            modules: "all".into(),
            first_block: None,
            end_block: None,
            frozen_bytes: FROZEN_BYTES,
            seed: 0,
            objective: Objective::Text,
            optimizer: AdamW::default(),
            b_rate: 1.0,
            dropout: 0.0,
            clip_norm: 1.0,
            micro_batch: 0,
            forward: ForwardWeights::Direct(Kernel::fast()),
            turned: Turned::F16,
            device_memory: None,
            keep: Keep::Most,
            loss_bytes: LOSS_BYTES,
            memory: None,
            batch: 0,
            snapshots: 0,
            threads: 1,
        }
    }
}

impl TrainSpec {
    /// The alpha that yields the wanted scale when it is divided by the rank.
    pub fn written_alpha(&self) -> f32 {
        if self.rslora {
            self.alpha * (self.rank as f32).sqrt()
        } else {
            self.alpha
        }
    }
}

/// What one step (or one look at the loss) did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Mean over completion tokens by their weights. units: nats.
    pub loss: f64,
    /// Sum of those weights.
    pub weight: f64,
    /// Of the mean loss, before clipping.
    pub gradient_norm: f64,
    /// Tokens that went through the model, padding not counted.
    pub tokens: usize,
    pub completion_tokens: usize,
}

/// Gradients are multiplied by this inside the graph: F16 products lose what is below 2⁻²⁴.
const SCALE: f32 = 16.0;
/// An adapter under training on one model.
pub struct Trainer {
    model: Model,
    spec: TrainSpec,
    compute: Compute,
    adapter: Adapter,
    moments: Vec<Moments>,
    steps: u64,
    scale: f32,
    storage: Storage,
    index: AdapterIndex,
    weights: Option<Weights>,
    programs: HashMap<(usize, usize, Purpose), Program>,
    tracer: Tracer,
    examples: Vec<Example>,
    goal: Goal,
    /// Values below the first adapted block, where `goal.frozen`.
    frozen: Cache,
    prefix: usize,
    vocabulary: usize,
    /// What was there before the trainer.
    known: Memory,
    /// The same of the device, where training is on one, and what there may be.
    device: Option<(DeviceMemory, usize)>,
    plan: Option<Plan>,
    placement: Option<Placement>,
    /// While time is taken.
    times: Option<StepTimes>,
}

impl Trainer {
    /// Prepare a fresh adapter on `model` and prove that gradients can reach all of it, before any
    /// work is done.
    ///
    /// fails: unknown modules, or an operation without a backward rule in the way.
    pub fn new(backend: Backend, model: &Model, spec: &TrainSpec) -> Result<Self, TrainError> {
        spec.objective.check()?;
        let file = std::fs::metadata(model.path())
            .map_or(0, |data| usize::try_from(data.len()).unwrap_or(usize::MAX));
        let mut known = Memory::before(file, usize::try_from(model.bytes()).unwrap_or(file));
        let found = survey(backend, model, &spec.modules, spec.threads)?;
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
        if let (true, Some((first, last))) = (
            targets.is_empty(),
            found
                .blocks
                .filter(|_| spec.first_block.or(spec.end_block).is_some()),
        ) {
            let reason = format!(
                "no matrix of these layers can be trained; those that can are in layers {first} to {last}"
            );
            return Err(TrainError::Module {
                asked: spec.modules.clone(),
                reason,
            });
        }
        if targets.is_empty() {
            let reason = "none of these matrices can be trained: llama.cpp applies no adapter to them, or no gradient reaches them".into();
            return Err(TrainError::Module {
                asked: spec.modules.clone(),
                reason,
            });
        }
        let mut compute = Compute::of(backend, model, spec.threads)?;
        let (mut spec, mut device) = (spec.clone(), None);
        if compute.is_scheduled() {
            spec.forward = ForwardWeights::Native;
            let (weights, free) = (model.device_bytes(), compute.device_free().unwrap_or(0));
            device = Some((
                DeviceMemory {
                    model: weights,
                    ..DeviceMemory::default()
                },
                spec.device_memory.unwrap_or(free + weights),
            ));
            known.model = known.model.saturating_sub(weights);
        }
        let adapter = Adapter::fresh(&targets, spec.rank, spec.written_alpha(), spec.seed);
        let tracer = Tracer::new(&model.on_cpu(backend)?, &adapter, spec.threads)?;
        let (shapes, index) = layout(&adapter);
        let places: Vec<_> = adapter
            .pairs
            .iter()
            .flat_map(|pair| [compute.beside(model, &pair.target.name); 2])
            .collect();
        let storage = Storage::placed(&compute, &shapes, &places)?;
        upload(&mut compute, &storage, &adapter)?;
        let moments = adapter
            .pairs
            .iter()
            .flat_map(|pair| [Moments::zero(pair.a.len()), Moments::zero(pair.b.len())])
            .collect();
        let mut trainer = Self {
            model: model.clone(),
            compute,
            adapter,
            moments,
            steps: 0,
            scale: SCALE,
            storage,
            index,
            weights: None,
            programs: HashMap::new(),
            tracer,
            examples: Vec::new(),
            goal: Goal {
                objective: spec.objective,
                width: 1,
                bytes: spec.loss_bytes,
                dropout: spec.dropout,
                keep: spec.keep,
                direct: matches!(spec.forward, ForwardWeights::Direct(_)),
                frozen: false,
            },
            frozen: Cache::default(),
            prefix: 0,
            vocabulary: model.vocab().len(),
            known,
            device,
            plan: None,
            placement: None,
            times: None,
            spec,
        };
        trainer.program(TOKENS_MAX, 16, Purpose::Gradients)?;
        Ok(trainer)
    }

    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Replace the adapter's numbers, keeping its shape.
    pub fn set_adapter(&mut self, adapter: Adapter) -> Result<(), TrainError> {
        let same = adapter.pairs.len() == self.adapter.pairs.len()
            && adapter.pairs.iter().zip(&self.adapter.pairs).all(|(a, b)| {
                a.target == b.target && a.a.len() == b.a.len() && a.b.len() == b.b.len()
            });
        if !same {
            return Err(TrainError::Snapshot(
                "the adapter has other matrices".into(),
            ));
        }
        upload(&mut self.compute, &self.storage, &adapter)?;
        self.adapter = adapter;
        Ok(())
    }

    /// Words that a token can be.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Optimizer steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// units: bytes of weight copies, adapter, optimizer state and work memory.
    pub fn bytes(&self) -> usize {
        let state = self.adapter.parameters() * 4 * 3;
        self.weights.as_ref().map_or(0, Weights::bytes)
            + self.storage.bytes()
            + state
            + self.work_bytes()
    }

    /// units: bytes that the device holds for training, its share of the model among them; none
    /// where all is the CPU's.
    pub fn device_bytes(&self) -> Option<usize> {
        let (DeviceMemory { model, .. }, _) = self.device?;
        let copies = self.weights.as_ref().map_or(0, Weights::device_bytes);
        Some(model + copies + self.storage.device_bytes() + self.compute.work_bytes().device)
    }

    /// The devices that training runs on, with commas between.
    pub fn device(&self) -> String {
        self.model.device_names()
    }

    /// What of the last step ran where; none before the first step, and where all is the CPU's.
    pub fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    /// What the programs built so far consist of.
    pub fn operations(&self) -> Vec<Operation> {
        self.programs
            .values()
            .flat_map(Program::operations)
            .collect()
    }

    /// How gradients read the frozen weights.
    pub fn forward(&self) -> (ForwardWeights, Turned) {
        (self.spec.forward, self.spec.turned)
    }

    /// units: bytes of work memory that the programs run so far have needed at most.
    pub fn work_bytes(&self) -> usize {
        let work = self.compute.work_bytes();
        work.host + work.device
    }

    /// Take the time of what later steps compute.
    pub fn time(&mut self) {
        self.compute.time(true);
        self.times = Some(StepTimes::default());
    }

    /// Times since `time`.
    pub fn times(&self) -> Option<&StepTimes> {
        self.times.as_ref()
    }

    /// Take the examples that later calls name by index.
    ///
    /// fails: weights or a teacher's signal that do not fit the example, or not the objective.
    pub fn load(&mut self, examples: Vec<Example>) -> Result<(), TrainError> {
        let goal = self.goal.with(&examples, self.vocabulary)?;
        self.tracer.positions = examples.iter().map(Example::inputs).max().unwrap_or(1);
        let prefix = if self.tracer.keeps_sequences_apart() {
            0
        } else {
            shared_prefix(&examples)
        };
        let plan = self.choose(&examples, prefix, goal)?;
        let goal = Goal {
            keep: plan.keep,
            bytes: plan.loss_bytes,
            frozen: plan.frozen,
            ..goal
        };
        if goal != self.goal {
            self.programs.clear();
        }
        self.frozen = Cache::default();
        (self.goal, self.prefix, self.examples, self.plan) = (goal, prefix, examples, Some(plan));
        Ok(())
    }

    /// How the loaded examples are trained on, and the memory that this is predicted to take.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The first way that fits. On a device Wᵀ may have to be smaller than asked for, or not be
    /// kept at all.
    fn choose(
        &mut self,
        examples: &[Example],
        prefix: usize,
        goal: Goal,
    ) -> Result<Plan, TrainError> {
        let smaller = Turned::ALL
            .into_iter()
            .skip_while(|turned| *turned != self.spec.turned);
        let choices: Vec<Turned> = if self.device.is_some() {
            smaller.collect()
        } else {
            vec![self.spec.turned]
        };
        let last = choices.len() - 1;
        for (number, turned) in choices.into_iter().enumerate() {
            if turned != self.spec.turned {
                (self.spec.turned, self.weights) = (turned, None);
                self.programs.clear();
                self.prepare()?;
            }
            match self.choose_way(examples, prefix, goal, number < last) {
                Err(TrainError::Memory { .. }) if number < last => {}
                done => return done,
            }
        }
        Err(TrainError::Snapshot("no way to train".into()))
    }

    fn choose_way(
        &mut self,
        examples: &[Example],
        prefix: usize,
        goal: Goal,
        large_only: bool,
    ) -> Result<Plan, TrainError> {
        let spec = &self.spec;
        let micro = [spec.micro_batch, spec.batch, examples.len()]
            .into_iter()
            .find(|count| *count > 0)
            .unwrap_or(1);
        let apart = self.tracer.keeps_sequences_apart();
        let largest =
            |pack: usize| Largest::of(examples, prefix, micro, if apart { 0 } else { pack }, pack);
        let (rank, free) = (spec.rank, (TOKENS_MAX, spec.keep, spec.loss_bytes));
        let [copies, there] = self
            .weights
            .as_ref()
            .map_or([0, 0], |weights| [weights.bytes(), weights.device_bytes()]);
        let known = self
            .known
            .with(self.adapter.parameters(), spec.snapshots, copies - there);
        let adapter = self.storage.device_bytes();
        let device = self.device.map(|(known, limit)| {
            (
                DeviceMemory {
                    copies: there,
                    adapter,
                    ..known
                },
                limit,
            )
        });
        let limits = Limits {
            host: spec.memory,
            device: device.map(|(_, limit)| limit),
            large_only,
        };
        let (most, wanted) = (spec.frozen_bytes, spec.first_block.is_some());
        let Self {
            tracer,
            index,
            compute,
            weights,
            storage,
            ..
        } = self;
        let mut frozen = None;
        if wanted {
            let trace = tracer.trace(TOKENS_MAX, 16, index)?.trace;
            let cut = Cut::find(&trace, &Reach::of(&trace, index));
            frozen = cut
                .map(|cut| Cache::bytes(examples, &cut))
                .filter(|bytes| *bytes <= most);
        }
        let longest = examples
            .iter()
            .map(|example| plan::sizes(&[example], 0))
            .max();
        let mut measure =
            |tokens: usize, outputs: usize, keep: Keep, bytes: usize, frozen: bool| {
                let Some(weights) = weights else {
                    return Err(TrainError::Snapshot("no weights were prepared".into()));
                };
                let goal = Goal {
                    keep,
                    bytes,
                    frozen,
                    ..goal
                };
                let traced = tracer.trace(tokens, outputs, index)?;
                let tracing = traced
                    .pair
                    .iter()
                    .map(Trace::state_bytes)
                    .max()
                    .unwrap_or(0);
                let (work, tensors) =
                    Program::new(&traced, weights, storage, index, Purpose::Gradients, goal)?
                        .measure(compute)?;
                let Some((tokens, outputs)) = longest.filter(|_| frozen) else {
                    return Ok(Measured {
                        work,
                        tensors,
                        tracing,
                    });
                };
                let below = Below::new(
                    &tracer.trace(tokens, outputs, index)?,
                    weights,
                    storage,
                    index,
                )?
                .measure(compute)?;
                let work = WorkBytes {
                    host: work.host.max(below.0.host),
                    device: work.device.max(below.0.device),
                };
                Ok(Measured {
                    work,
                    tensors: tensors + below.1,
                    tracing,
                })
            };
        Planner {
            limits,
            known,
            device: device.map(|(known, _)| known),
            rank,
            frozen,
            measure: &mut measure,
        }
        .choose(free, &largest)
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
        let clip = f64::from(self.spec.clip_norm);
        if clip > 0.0 && norm > clip {
            let factor = (clip / norm) as f32;
            gradients.iter_mut().flatten().for_each(|g| *g *= factor);
        }
        self.steps += 1;
        self.descend(&gradients, learning_rate);
        upload(&mut self.compute, &self.storage, &self.adapter)?;
        Ok(report)
    }

    /// Let the optimizer take its step on each tensor; the threads share them.
    fn descend(&mut self, gradients: &[Vec<f32>], learning_rate: f32) {
        let (adam, steps, rates) = (
            self.spec.optimizer,
            self.steps,
            [learning_rate, learning_rate * self.spec.b_rate],
        );
        let threads = usize::try_from(self.spec.threads).unwrap_or(1).max(1);
        let each = self.adapter.pairs.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let shares = self
                .adapter
                .pairs
                .chunks_mut(each)
                .zip(self.moments.chunks_mut(2 * each))
                .zip(gradients.chunks(2 * each));
            for ((pairs, moments), gradients) in shares {
                scope.spawn(move || {
                    let tensors = pairs.iter_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
                    for (((values, gradient), moments), rate) in tensors
                        .zip(gradients)
                        .zip(moments)
                        .zip(rates.into_iter().cycle())
                    {
                        adam.step(values, gradient, moments, rate, steps);
                    }
                });
            }
        });
    }

    /// The mean loss of `batch` and its gradient for each A and B in turn, with the dropout of the
    /// next step.
    pub fn gradients(
        &mut self,
        batch: &[usize],
    ) -> Result<(StepReport, Vec<Vec<f32>>), TrainError> {
        loop {
            let scale = self.scale;
            let (report, mut gradients) = self.run(batch, Purpose::Gradients)?;
            if !report.loss.is_finite() {
                return Err(TrainError::NotFinite {
                    what: "loss",
                    step: self.steps + 1,
                });
            }
            if gradients.iter().flatten().all(|g| g.is_finite()) {
                let factor = 1.0
                    / (scale
                        * if report.weight > 0.0 {
                            report.weight as f32
                        } else {
                            1.0
                        });
                gradients.iter_mut().flatten().for_each(|g| *g *= factor);
                return Ok((report, gradients));
            }
            self.scale /= 4.0;
            if self.scale < 1e-3 {
                return Err(TrainError::NotFinite {
                    what: "gradient",
                    step: self.steps + 1,
                });
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
        let example = self.example(example)?.clone();
        let (outcome, packed) = self.run_packed(&[&example], Purpose::Logits, 0)?;
        let row = |row: usize| {
            outcome.logits[row * self.vocabulary..(row + 1) * self.vocabulary].to_vec()
        };
        Ok(packed.rows().map(row).collect())
    }

    /// Condense distributions over this model's vocabulary into what its head makes of them, for
    /// `Objective::Condensed`.
    ///
    /// shapes: rows of vocabulary
    ///
    /// fails: the logits are not a multiple of one product.
    pub fn condense(&mut self, probabilities: &[Vec<f32>]) -> Result<Vec<Condensed>, TrainError> {
        let trace = self.tracer.trace(TOKENS_MAX, 16, &self.index)?.trace;
        let Some(weights) = &self.weights else {
            return Err(TrainError::Snapshot("no weights were prepared".into()));
        };
        let needs = Reach::of(&trace, &self.index).needs;
        let condenser = Condenser {
            trace: &trace,
            needs: &needs,
            weights,
            goal: self.goal,
        };
        let vectors = condenser.run(&mut self.compute, probabilities)?;
        let nats = |p: &f32| {
            if *p > 0.0 {
                f64::from(*p) * f64::from(*p).ln()
            } else {
                0.0
            }
        };
        let entropies = probabilities
            .iter()
            .map(|row| row.iter().map(nats).sum::<f64>() as f32);
        Ok(vectors
            .into_iter()
            .zip(entropies)
            .map(|(vector, negative_entropy)| Condensed {
                vector,
                negative_entropy,
            })
            .collect())
    }

    /// Weights and optimizer state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        snapshot::write(&self.adapter, &self.moments, self.steps, self.scale)
    }

    /// Continue exactly where `snapshot` was taken.
    ///
    /// fails: damaged bytes, or a snapshot of another shape.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        let (adapter, moments, steps, scale) = snapshot::read(bytes, &self.adapter)?;
        self.set_adapter(adapter)?;
        (self.moments, self.steps, self.scale) = (moments, steps, scale);
        Ok(())
    }

    /// The adapter as a GGUF.
    pub fn to_gguf(&self, metadata: &[(String, String)]) -> Result<Vec<u8>, TrainError> {
        self.adapter.to_gguf(&self.model.architecture(), metadata)
    }

    fn run(
        &mut self,
        batch: &[usize],
        purpose: Purpose,
    ) -> Result<(StepReport, Vec<Vec<f32>>), TrainError> {
        let chosen = batch
            .iter()
            .map(|index| self.example(*index).cloned())
            .collect::<Result<Vec<_>, _>>()?;
        let chosen: Vec<&Example> = chosen.iter().collect();
        let mut report = StepReport::default();
        let mut total: Vec<Vec<f32>> = Vec::new();
        let micro = if self.spec.micro_batch == 0 {
            chosen.len().max(1)
        } else {
            self.spec.micro_batch
        };
        // With no room at all, every example stands alone.
        let pack = self.plan.map_or(TOKENS_MAX, |plan| plan.pack);
        let room = if self.tracer.keeps_sequences_apart() {
            0
        } else {
            pack
        };
        let runs = chosen
            .chunks(micro)
            .flat_map(|some| split(some, self.prefix, room, pack))
            .collect::<Vec<_>>();
        for (number, run) in runs.into_iter().enumerate() {
            let (outcome, packed) = self.run_packed(&run, purpose, number as u64)?;
            report.loss += outcome.loss;
            report.weight += outcome.weight;
            report.tokens += packed.used;
            report.completion_tokens += run.iter().map(|example| example.outputs()).sum::<usize>();
            if total.is_empty() {
                total = outcome.gradients;
            } else {
                for (sum, more) in total
                    .iter_mut()
                    .flatten()
                    .zip(outcome.gradients.iter().flatten())
                {
                    *sum += more;
                }
            }
        }
        report.loss /= if report.weight > 0.0 {
            report.weight
        } else {
            1.0
        };
        Ok((report, total))
    }

    fn run_packed(
        &mut self,
        run: &[&Example],
        purpose: Purpose,
        number: u64,
    ) -> Result<(Outcome, Packed), TrainError> {
        let (tokens, outputs) = plan::sizes(run, self.prefix);
        let pass = Pass {
            scale: self.scale,
            draw: dropout::key(&[self.spec.seed, self.steps, number]),
        };
        if self.goal.frozen {
            self.freeze(run)?;
        }
        self.program(tokens, outputs, purpose)?;
        let Some(program) = self.programs.get_mut(&(tokens, outputs, purpose)) else {
            return Err(TrainError::Snapshot("a program vanished".into()));
        };
        let packed = Packed::new(run, self.prefix, tokens, outputs);
        let packed = if program.outputs() == outputs {
            packed
        } else {
            packed.with_all_outputs()
        };
        let outcome = program.run(
            &mut self.compute,
            &packed,
            &self.tracer.tables,
            run,
            &self.frozen,
            pass,
        )?;
        if let Some(times) = &mut self.times {
            program.add_times(&self.compute, times);
        }
        self.placement = program.placement(&self.compute).or(self.placement.take());
        Ok((outcome, packed))
    }

    /// Compute what lies below the first adapted block for those of these examples that it was not
    /// computed for before.
    fn freeze(&mut self, run: &[&Example]) -> Result<(), TrainError> {
        for example in run {
            if self.frozen.holds(example) {
                continue;
            }
            let size = plan::sizes(&[example], 0);
            let Self {
                tracer,
                index,
                compute,
                weights,
                storage,
                frozen,
                ..
            } = self;
            if !frozen.knows(size) {
                let traced = tracer.trace(size.0, size.1, index)?;
                let Some(weights) = weights else {
                    return Err(TrainError::Snapshot("no weights were prepared".into()));
                };
                frozen.learn(size, Below::new(&traced, weights, storage, index)?);
            }
            frozen.add(compute, example, size, &tracer.tables)?;
        }
        if self
            .examples
            .iter()
            .all(|example| self.frozen.holds(example))
        {
            self.frozen.forget_programs();
        }
        Ok(())
    }

    /// Build the program for these sizes unless it exists.
    fn program(
        &mut self,
        tokens: usize,
        outputs: usize,
        purpose: Purpose,
    ) -> Result<(), TrainError> {
        if self.programs.contains_key(&(tokens, outputs, purpose)) {
            return Ok(());
        }
        if self.programs.len() >= PROGRAMS_MAX {
            self.programs.clear();
        }
        self.prepare()?;
        let traced = self.tracer.trace(tokens, outputs, &self.index)?;
        if let Some(weights) = &self.weights {
            let program = Program::new(
                &traced,
                weights,
                &self.storage,
                &self.index,
                purpose,
                self.goal,
            )?;
            self.programs.insert((tokens, outputs, purpose), program);
        }
        Ok(())
    }

    /// Make what is needed beside the weights, unless it was. On a device, the first choice for Wᵀ
    /// that leaves room for anything else.
    fn prepare(&mut self) -> Result<(), TrainError> {
        if self.weights.is_some() {
            return Ok(());
        }
        let trace = self.tracer.trace(TOKENS_MAX, 16, &self.index)?.trace;
        let copies = wanted(&trace, &self.index);
        if let Some((known, limit)) = self.device {
            let room = limit.saturating_sub(known.model + self.storage.device_bytes());
            let fits = |turned: &Turned| {
                Weights::bytes_of(&trace, &self.compute, &copies, *turned, &self.model) <= room
            };
            let mut choices = Turned::ALL
                .into_iter()
                .skip_while(|turned| *turned != self.spec.turned);
            self.spec.turned = choices.find(fits).unwrap_or(Turned::Scratch);
        }
        let home = self.compute.is_scheduled().then(|| self.model.clone());
        let how = (self.spec.forward, self.spec.turned);
        self.weights = Some(Weights::prepare(
            &trace,
            &mut self.compute,
            &copies,
            how,
            home,
        )?);
        Ok(())
    }

    fn example(&self, index: usize) -> Result<&Example, TrainError> {
        self.examples.get(index).ok_or_else(|| TrainError::Example {
            index,
            reason: format!("only {} are loaded", self.examples.len()),
        })
    }
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

fn upload(compute: &mut Compute, storage: &Storage, adapter: &Adapter) -> Result<(), TrainError> {
    for (index, values) in adapter
        .pairs
        .iter()
        .flat_map(|pair| [&pair.a, &pair.b])
        .enumerate()
    {
        compute.write_floats(storage, index, values)?;
    }
    Ok(())
}
