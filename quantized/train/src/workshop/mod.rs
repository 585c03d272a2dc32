//! Where programs are built and run: the traces of one model with one adapter's shape, the weights'
//! copies, the memory, the programs. A workshop exists whole or not at all; what training changes
//! is not in it (`state`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use translora_llama::{Backend, Compute, Model, Operation, Storage, Trace};

use crate::adapter::Adapter;
use crate::error::TrainError;
use crate::frozen::{Cache, FrozenProgram};
use crate::goal::{Goal, Purpose};
use crate::loss::Condenser;
use crate::objective::Condensed;
use crate::pack::{Example, Packed, TOKENS_MAX};
use crate::plan::{DeviceMemory, Memory, PROGRAMS_MAX, sizes};
use crate::profile::StepTimes;
use crate::program::{Outcome, Pass, Program};
use crate::reach::{AdapterIndex, Reach};
use crate::spec::TrainSpec;
use crate::tracer::{OUTPUTS, Tracer, layout};
use crate::weights::{ForwardWeights, Transpose, Weights, wanted};

mod planning;

pub(crate) use planning::Work;

/// All that it takes to compute losses and gradients of one adapter on one model.
pub(crate) struct Workshop {
    model: Model,
    compute: Compute,
    tracer: Tracer,
    /// The adapter's numbers where the graphs read them.
    storage: Storage,
    index: AdapterIndex,
    weights: Weights,
    goal: Goal,
    programs: Programs,
    vocabulary: usize,
    /// What the process held before.
    known: Memory,
    /// The device's, where training is on one.
    device: Option<Device>,
}

/// A device that training is on. units: bytes.
#[derive(Clone, Copy)]
struct Device {
    /// What it held before.
    known: DeviceMemory,
    /// What it may hold at most.
    limit: usize,
}

/// Programs by their tokens, outputs and purpose.
#[derive(Default)]
struct Programs(HashMap<(usize, usize, Purpose), Program>);

impl Programs {
    fn get(
        &mut self,
        key: (usize, usize, Purpose),
        build: impl FnOnce() -> Result<Program, TrainError>,
    ) -> Result<&mut Program, TrainError> {
        if self.0.len() >= PROGRAMS_MAX && !self.0.contains_key(&key) {
            self.0.clear();
        }
        match self.0.entry(key) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(free) => Ok(free.insert(build()?)),
        }
    }
}

impl Workshop {
    /// Prepare everything, and prove that gradients can reach all of the adapter.
    ///
    /// fails: an operation without a backward rule in the way.
    pub fn new(
        backend: Backend,
        model: &Model,
        spec: &TrainSpec,
        adapter: &Adapter,
    ) -> Result<Self, TrainError> {
        let file = std::fs::metadata(model.path())
            .map_or(0, |data| usize::try_from(data.len()).unwrap_or(usize::MAX));
        let mut known = Memory::before(file, usize::try_from(model.bytes()).unwrap_or(file));
        let mut compute = Compute::of(backend, model, spec.threads)?;
        let device = Device::of(&compute, model, spec.device_memory);
        known.model = known
            .model
            .saturating_sub(device.map_or(0, |device| device.known.model));
        let forward = if device.is_some() {
            ForwardWeights::Native
        } else {
            spec.forward
        };
        let mut tracer = Tracer::new(&model.on_cpu(backend)?, adapter, spec.threads)?;
        let (shapes, index) = layout(adapter);
        let places: Vec<_> = adapter
            .pairs
            .iter()
            .flat_map(|pair| [compute.beside(model, &pair.target.name); 2])
            .collect();
        let storage = Storage::placed(&compute, &shapes, &places)?;
        let goal = Goal {
            objective: spec.objective,
            width: 1,
            bytes: spec.loss_bytes,
            dropout: spec.dropout,
            checkpoints: spec.checkpoints,
            direct: matches!(forward, ForwardWeights::Direct(_)),
            frozen: false,
        };
        let traced = tracer.trace(TOKENS_MAX, OUTPUTS, &index)?;
        let room = device.map(|device| device.room(&storage));
        let reading = (forward, spec.transpose);
        let weights = prepare(model, &mut compute, (&traced.trace, &index), reading, room)?;
        let purpose = Purpose::Gradients;
        let proof = Program::new(&traced, &weights, &storage, &index, purpose, goal)?;
        let mut workshop = Self {
            model: model.clone(),
            compute,
            tracer,
            storage,
            index,
            weights,
            goal,
            programs: Programs([((TOKENS_MAX, OUTPUTS, purpose), proof)].into()),
            vocabulary: model.vocab().len(),
            known,
            device,
        };
        workshop.upload(adapter)?;
        Ok(workshop)
    }

    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Build programs for this goal from now on.
    pub fn set_goal(&mut self, goal: Goal) {
        if goal != self.goal {
            self.programs.0.clear();
        }
        self.goal = goal;
    }

    /// Words that a token can be.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Expect sequences of so many tokens at most.
    pub fn set_longest(&mut self, tokens: usize) {
        self.tracer.positions = tokens;
    }

    /// A sequence has to run alone.
    pub fn keeps_sequences_apart(&self) -> bool {
        self.tracer.keeps_sequences_apart()
    }

    /// Copy the adapter's numbers to where the graphs read them.
    pub fn upload(&mut self, adapter: &Adapter) -> Result<(), TrainError> {
        let tensors = adapter.pairs.iter().flat_map(|pair| [&pair.a, &pair.b]);
        for (index, values) in tensors.enumerate() {
            self.compute.write_floats(&self.storage, index, values)?;
        }
        Ok(())
    }

    /// Run the examples of `run`, which share `prefix` tokens, as one packed sequence. `frozen`
    /// takes what it has not of what lies below the first adapted block.
    pub fn run(
        &mut self,
        run: &[&Example],
        prefix: usize,
        frozen: &mut Cache,
        purpose: Purpose,
        pass: Pass,
        times: Option<&mut StepTimes>,
    ) -> Result<(Outcome, Packed), TrainError> {
        if self.goal.frozen {
            self.freeze(run, frozen)?;
        }
        let Self {
            tracer,
            compute,
            weights,
            storage,
            index,
            goal,
            ..
        } = self;
        let (tokens, outputs) = sizes(run, prefix);
        let program = self.programs.get((tokens, outputs, purpose), || {
            let traced = tracer.trace(tokens, outputs, index)?;
            Program::new(&traced, weights, storage, index, purpose, *goal)
        })?;
        let packed = Packed::new(run, prefix, tokens, outputs);
        let packed = if program.outputs() == outputs {
            packed
        } else {
            packed.with_all_outputs()
        };
        let outcome = program.run(compute, &packed, &tracer.tables, run, frozen, pass)?;
        if let Some(times) = times {
            program.add_times(compute, times);
        }
        Ok((outcome, packed))
    }

    fn freeze(&mut self, run: &[&Example], frozen: &mut Cache) -> Result<(), TrainError> {
        for example in run {
            if frozen.holds(example) {
                continue;
            }
            let size = sizes(&[example], 0);
            if !frozen.has_program(size) {
                let traced = self.tracer.trace(size.0, size.1, &self.index)?;
                let below = FrozenProgram::new(&traced, &self.weights, &self.storage, &self.index)?;
                frozen.add_program(size, below);
            }
            frozen.compute(&mut self.compute, example, size, &self.tracer.tables)?;
        }
        Ok(())
    }

    /// What the head makes of distributions over the vocabulary.
    ///
    /// shapes: rows of vocabulary
    ///
    /// fails: the logits are not a multiple of one product.
    pub fn condense(&mut self, probabilities: &[Vec<f32>]) -> Result<Vec<Condensed>, TrainError> {
        let trace = self.tracer.trace(TOKENS_MAX, OUTPUTS, &self.index)?.trace;
        let needs = Reach::of(&trace, &self.index).needs;
        let condenser = Condenser {
            trace: &trace,
            needs: &needs,
            weights: &self.weights,
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
        let condensed = vectors.into_iter().zip(entropies);
        Ok(condensed
            .map(|(vector, negative_entropy)| Condensed {
                vector,
                negative_entropy,
            })
            .collect())
    }

    /// The name of the model's architecture.
    pub fn architecture(&self) -> String {
        self.model.architecture()
    }

    /// How gradients read the frozen weights.
    pub fn reading(&self) -> (ForwardWeights, Transpose) {
        self.weights.reading()
    }

    /// The devices that programs run on, with commas between.
    pub fn device_names(&self) -> String {
        self.model.device_names()
    }

    /// What the programs built so far consist of.
    pub fn operations(&self) -> Vec<Operation> {
        self.programs
            .0
            .values()
            .flat_map(Program::operations)
            .collect()
    }

    /// units: bytes of weight copies, of the graphs' adapter, and of work memory.
    pub fn bytes(&self) -> usize {
        self.weights.bytes() + self.storage.bytes() + self.work_bytes()
    }

    /// units: bytes of work memory that the programs run so far have needed at most.
    pub fn work_bytes(&self) -> usize {
        let work = self.compute.work_bytes();
        work.host + work.device
    }

    /// units: bytes that the device holds, its share of the model among them; none where all is the
    /// CPU's.
    pub fn device_bytes(&self) -> Option<usize> {
        let held = self.device?.known.model + self.storage.device_bytes();
        Some(held + self.weights.device_bytes() + self.compute.work_bytes().device)
    }

    /// Take the time of what later runs compute.
    pub fn record_times(&mut self) {
        self.compute.time(true);
    }
}

impl Device {
    /// Where `compute` runs, if not on the CPU alone; with `limit`, or what is free there.
    fn of(compute: &Compute, model: &Model, limit: Option<usize>) -> Option<Self> {
        if !compute.is_scheduled() {
            return None;
        }
        let (weights, free) = (model.device_bytes(), compute.device_free().unwrap_or(0));
        Some(Self {
            known: DeviceMemory {
                model: weights,
                ..DeviceMemory::default()
            },
            limit: limit.unwrap_or(free + weights),
        })
    }

    /// units: bytes that copies of weights may take.
    fn room(&self, adapter: &Storage) -> usize {
        self.limit
            .saturating_sub(self.known.model + adapter.device_bytes())
    }
}

/// Make what is needed beside the weights. Where there is a limit (`room`, in bytes), Wᵀ is the
/// first choice, from `first` on, that leaves room for anything else.
fn prepare(
    model: &Model,
    compute: &mut Compute,
    (trace, index): (&Trace, &AdapterIndex),
    (forward, first): (ForwardWeights, Transpose),
    room: Option<usize>,
) -> Result<Weights, TrainError> {
    let copies = wanted(trace, index);
    let fits = |transpose: &Transpose| {
        room.is_none_or(|room| {
            Weights::bytes_of(trace, compute, &copies, *transpose, model) <= room
        })
    };
    let transpose = Transpose::ALL
        .into_iter()
        .skip_while(|transpose| *transpose != first)
        .find(fits)
        .unwrap_or(Transpose::Scratch);
    let home = compute.is_scheduled().then(|| model.clone());
    let reading = (forward, transpose);
    Ok(Weights::prepare(trace, compute, &copies, reading, home)?)
}
