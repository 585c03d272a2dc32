//! Trains an adapter: packing, steps, optimizer state, snapshots.

use std::collections::HashMap;

use translora_gguf::Gguf;
use translora_llama::{Adapter as LoadedAdapter, Backend, Compute, Context, Dtype, Model, Storage, Trace};

use crate::adapter::Adapter;
use crate::error::TrainError;
use crate::modules::{self, Target};
use crate::optimizer::{AdamW, Moments};
use crate::pack::{Example, Packed, shared_prefix, split};
use crate::program::{AdapterIndex, Outcome, Program, Purpose, wanted};
use crate::snapshot;
use crate::weights::{ForwardWeights, Weights};

/// What to train, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    pub rank: usize,
    pub alpha: f32,
    /// See `modules::targets`.
    pub modules: String,
    pub seed: u64,
    pub optimizer: AdamW,
    /// Global gradient norm above which a step is scaled down; 0 switches it off.
    pub clip_norm: f32,
    pub forward: ForwardWeights,
    pub threads: u32,
}

/// What one step (or one look at the loss) did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Mean over completion tokens. units: nats.
    pub loss: f64,
    /// Of the mean loss, before clipping.
    pub gradient_norm: f64,
    /// Tokens that went through the model, padding not counted.
    pub tokens: usize,
    pub completion_tokens: usize,
}

/// Logits and probabilities stay below this many numbers in one run. units: F32 elements.
const LOGITS_MAX: usize = 16 << 20;
/// Gradients are multiplied by this inside the graph: F16 products lose what is below 2⁻²⁴.
const SCALE: f32 = 16.0;
/// Packed sequences are padded to a multiple of this.
const TOKENS_STEP: usize = 32;
/// Tokens of one packed sequence, unless a single example is longer.
const TOKENS_MAX: usize = 256;
/// The two context sizes that are traced; llama.cpp pads contexts to multiples of 256.
const TRACED: [u32; 2] = [256, 512];

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
    /// By number of outputs, one for each of `TRACED`.
    traces: HashMap<usize, [Trace; 2]>,
    template: LoadedAdapter,
    examples: Vec<Example>,
    prefix: usize,
    vocabulary: usize,
}

impl Trainer {
    /// Prepare a fresh adapter on `model` and prove that gradients can reach all of it, before any work is done.
    ///
    /// fails: unknown modules, or an operation without a backward rule in the way.
    pub fn new(backend: Backend, model: &Model, spec: &TrainSpec) -> Result<Self, TrainError> {
        let targets = find_targets(model, &spec.modules)?;
        let mut compute = Compute::cpu(backend, spec.threads)?;
        let adapter = Adapter::fresh(&targets, spec.rank, spec.alpha, spec.seed);
        let template = load(model, &adapter)?;
        let (shapes, index) = layout(&adapter);
        let storage = Storage::new(&compute, &shapes)?;
        upload(&mut compute, &storage, &adapter)?;
        let moments = adapter.pairs.iter().flat_map(|pair| [Moments::zero(pair.a.len()), Moments::zero(pair.b.len())]).collect();
        let mut trainer = Self {
            model: model.clone(),
            spec: spec.clone(),
            compute,
            adapter,
            moments,
            steps: 0,
            scale: SCALE,
            storage,
            index,
            weights: None,
            programs: HashMap::new(),
            traces: HashMap::new(),
            template,
            examples: Vec::new(),
            prefix: 0,
            vocabulary: model.vocab().len(),
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
            && adapter
                .pairs
                .iter()
                .zip(&self.adapter.pairs)
                .all(|(a, b)| a.target == b.target && a.a.len() == b.a.len() && a.b.len() == b.b.len());
        if !same {
            return Err(TrainError::Snapshot("the adapter has other matrices".into()));
        }
        upload(&mut self.compute, &self.storage, &adapter)?;
        self.adapter = adapter;
        Ok(())
    }

    /// Optimizer steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// units: bytes of weight copies, adapter, optimizer state and work memory.
    pub fn bytes(&self) -> usize {
        let state = self.adapter.parameters() * 4 * 3;
        self.weights.as_ref().map_or(0, Weights::bytes) + self.storage.bytes() + state + self.compute.work_bytes()
    }

    /// Take the examples that later calls name by index.
    pub fn load(&mut self, examples: Vec<Example>) {
        self.prefix = shared_prefix(&examples);
        self.examples = examples;
    }

    /// Take one optimizer step on the mean completion-token loss of `batch`.
    ///
    /// fails: a loss or gradient that is not finite, even with smaller gradient scales.
    pub fn step(&mut self, batch: &[usize], learning_rate: f32) -> Result<StepReport, TrainError> {
        let (mut report, mut gradients) = self.gradients(batch)?;
        let norm = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        report.gradient_norm = norm;
        let clip = f64::from(self.spec.clip_norm);
        if clip > 0.0 && norm > clip {
            let factor = (clip / norm) as f32;
            gradients.iter_mut().flatten().for_each(|g| *g *= factor);
        }
        self.steps += 1;
        let tensors = self.adapter.pairs.iter_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
        for ((values, gradient), moments) in tensors.zip(&gradients).zip(&mut self.moments) {
            self.spec.optimizer.step(values, gradient, moments, learning_rate, self.steps);
        }
        upload(&mut self.compute, &self.storage, &self.adapter)?;
        Ok(report)
    }

    /// The mean loss of `batch` and its gradient for each A and B in turn.
    pub fn gradients(&mut self, batch: &[usize]) -> Result<(StepReport, Vec<Vec<f32>>), TrainError> {
        loop {
            let scale = self.scale;
            let (report, mut gradients) = self.run(batch, Purpose::Gradients)?;
            if !report.loss.is_finite() {
                return Err(TrainError::NotFinite { what: "loss", step: self.steps + 1 });
            }
            if gradients.iter().flatten().all(|g| g.is_finite()) {
                let factor = 1.0 / (scale * report.completion_tokens.max(1) as f32);
                gradients.iter_mut().flatten().for_each(|g| *g *= factor);
                return Ok((report, gradients));
            }
            self.scale /= 4.0;
            if self.scale < 1e-3 {
                return Err(TrainError::NotFinite { what: "gradient", step: self.steps + 1 });
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
        let (outcome, _) = self.run_packed(&[&example], Purpose::Logits)?;
        Ok(outcome.logits.chunks(self.vocabulary).take(example.outputs()).map(<[f32]>::to_vec).collect())
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

    fn run(&mut self, batch: &[usize], purpose: Purpose) -> Result<(StepReport, Vec<Vec<f32>>), TrainError> {
        let chosen = batch.iter().map(|index| self.example(*index).cloned()).collect::<Result<Vec<_>, _>>()?;
        let chosen: Vec<&Example> = chosen.iter().collect();
        let mut report = StepReport::default();
        let mut total: Vec<Vec<f32>> = Vec::new();
        for run in split(&chosen, self.prefix, TOKENS_MAX, self.outputs_max()) {
            let (outcome, used) = self.run_packed(&run, purpose)?;
            report.loss += outcome.loss;
            report.tokens += used;
            report.completion_tokens += run.iter().map(|example| example.outputs()).sum::<usize>();
            if total.is_empty() {
                total = outcome.gradients;
            } else {
                for (sum, more) in total.iter_mut().flatten().zip(outcome.gradients.iter().flatten()) {
                    *sum += more;
                }
            }
        }
        report.loss /= report.completion_tokens.max(1) as f64;
        Ok((report, total))
    }

    fn run_packed(&mut self, run: &[&Example], purpose: Purpose) -> Result<(Outcome, usize), TrainError> {
        let needed = self.prefix + run.iter().map(|example| example.inputs() - self.prefix).sum::<usize>();
        let outputs = run.iter().map(|example| example.outputs()).sum::<usize>() + 1;
        let tokens = needed.next_multiple_of(TOKENS_STEP).max(outputs.next_multiple_of(TOKENS_STEP));
        let outputs = outputs.next_power_of_two().max(16).min(tokens);
        let packed = Packed::new(run, self.prefix, tokens, outputs);
        let scale = self.scale;
        self.program(tokens, outputs, purpose)?;
        let Some(program) = self.programs.get_mut(&(tokens, outputs, purpose)) else {
            return Err(TrainError::Snapshot("a program vanished".into()));
        };
        let outcome = program.run(&mut self.compute, &packed, scale)?;
        Ok((outcome, packed.used))
    }

    /// Build the program for these sizes unless it exists.
    fn program(&mut self, tokens: usize, outputs: usize, purpose: Purpose) -> Result<(), TrainError> {
        if self.programs.contains_key(&(tokens, outputs, purpose)) {
            return Ok(());
        }
        let trace = self.trace(tokens, outputs)?;
        if self.weights.is_none() {
            // A dry run first: a missing rule must cost neither time nor memory.
            Program::new(&trace, &Weights::dry(), &self.storage, &self.index, Purpose::Gradients)?;
            let copies = wanted(&trace, &self.index, self.spec.forward);
            self.weights = Some(Weights::prepare(&trace, &mut self.compute, &copies, self.spec.forward)?);
        }
        if let Some(weights) = &self.weights {
            let program = Program::new(&trace, weights, &self.storage, &self.index, purpose)?;
            self.programs.insert((tokens, outputs, purpose), program);
        }
        Ok(())
    }

    fn trace(&mut self, tokens: usize, outputs: usize) -> Result<Trace, TrainError> {
        if !self.traces.contains_key(&outputs) {
            let trace = |size: u32| -> Result<Trace, TrainError> {
                let mut context = Context::training(&self.model, size.max(outputs as u32 + 1), self.spec.threads)?;
                context.set_adapters(&[(self.template.clone(), 1.0)])?;
                Ok(context.trace(outputs as u32)?)
            };
            let [one, two] = TRACED;
            // More tokens than outputs: llama.cpp leaves out the choice of rows where every token is wanted.
            let step = (outputs as u32 + 1).next_multiple_of(one);
            let pair = [trace(one.max(step))?, trace(two.max(step + one))?];
            self.traces.insert(outputs, pair);
        }
        let [one, two] = &self.traces[&outputs];
        Ok(one.resized(two, tokens as u32)?)
    }

    fn outputs_max(&self) -> usize {
        (LOGITS_MAX / self.vocabulary.max(1)).clamp(16, TOKENS_MAX)
    }

    fn example(&self, index: usize) -> Result<&Example, TrainError> {
        self.examples.get(index).ok_or_else(|| TrainError::Example { index, reason: format!("only {} are loaded", self.examples.len()) })
    }
}

fn find_targets(model: &Model, asked: &str) -> Result<Vec<Target>, TrainError> {
    let bytes = translora_llama::map_file(model.path())?;
    modules::targets(&Gguf::parse(&bytes)?, asked)
}

/// Load an adapter through llama.cpp, by way of a temporary file.
fn load(model: &Model, adapter: &Adapter) -> Result<LoadedAdapter, TrainError> {
    let file = tempfile::Builder::new().prefix("translora-").suffix(".gguf").tempfile()?;
    std::fs::write(file.path(), adapter.to_gguf(&model.architecture(), &[])?)?;
    Ok(LoadedAdapter::load(model, file.path())?)
}

type Shapes = Vec<(Dtype, [i64; 2], String)>;

fn layout(adapter: &Adapter) -> (Shapes, AdapterIndex) {
    let (mut shapes, mut index) = (Vec::new(), HashMap::new());
    for pair in &adapter.pairs {
        let (rank, inputs, outputs) = (adapter.rank as i64, pair.target.inputs as i64, pair.target.outputs as i64);
        for (suffix, shape) in [("lora_a", [inputs, rank]), ("lora_b", [rank, outputs])] {
            let name = format!("{}.{suffix}", pair.target.name);
            index.insert(name.clone(), shapes.len());
            shapes.push((Dtype::F32, shape, name));
        }
    }
    (shapes, index)
}

fn upload(compute: &mut Compute, storage: &Storage, adapter: &Adapter) -> Result<(), TrainError> {
    for (index, values) in adapter.pairs.iter().flat_map(|pair| [&pair.a, &pair.b]).enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        compute.write_stored(storage, index, &bytes)?;
    }
    Ok(())
}
