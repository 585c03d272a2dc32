//! Finds out what of a model can be trained, before any work is done.

use std::collections::{HashMap, HashSet};

use translora_gguf::Gguf;
use translora_llama::{
    Adapter as LoadedAdapter, Backend, Compute, Context, Dtype, Model, Storage, Trace,
};

use crate::adapter::Adapter;
use crate::error::TrainError;
use crate::inputs::Tables;
use crate::keep::Keep;
use crate::loss::LOSS_BYTES;
use crate::modules::{self, Target};
use crate::objective::{Goal, Objective};
use crate::program::{Program, Purpose, Traced};
use crate::reach::{AdapterIndex, Reach, settle, trained};
use crate::weights::Weights;

/// The two context sizes that are traced; llama.cpp pads contexts to multiples of 256.
const TRACED: [u32; 2] = [256, 512];
/// Outputs of the traces that only look.
const OUTPUTS: usize = 16;

/// The training graphs of one model with one adapter, for any number of tokens.
pub(crate) struct Tracer {
    model: Model,
    template: LoadedAdapter,
    threads: u32,
    /// By number of outputs, one for each of `TRACED`.
    traces: HashMap<usize, [Trace; 2]>,
    broken: HashSet<usize>,
    pub tables: Tables,
    /// Tokens of the longest sequence that will run.
    pub positions: usize,
}

impl Tracer {
    pub fn new(model: &Model, adapter: &Adapter, threads: u32) -> Result<Self, TrainError> {
        let template = load(model, adapter)?;
        let (traces, broken) = (HashMap::new(), HashSet::new());
        Ok(Self {
            model: model.clone(),
            template,
            threads,
            traces,
            broken,
            tables: Tables::default(),
            positions: OUTPUTS,
        })
    }

    /// The graph for `tokens` tokens with logits at `outputs` of them; its inputs can be filled
    /// afterwards.
    pub fn trace(
        &mut self,
        tokens: usize,
        outputs: usize,
        index: &AdapterIndex,
    ) -> Result<Traced<'_>, TrainError> {
        if !self.traces.contains_key(&outputs) {
            let pair = self.pair(outputs)?;
            self.traces.insert(outputs, pair);
        }
        let pair = &self.traces[&outputs];
        let live = Reach::of(&pair[0], index).live;
        self.tables
            .cover(&self.model, pair, &live, self.positions, self.threads)?;
        let trace = pair[0].resized(&pair[1], u32::try_from(tokens).unwrap_or(u32::MAX))?;
        Ok(Traced {
            trace,
            pair,
            broken: &self.broken,
        })
    }

    fn pair(&mut self, outputs: usize) -> Result<[Trace; 2], TrainError> {
        let mut trace = |size: u32| -> Result<Trace, TrainError> {
            let outputs = u32::try_from(outputs).unwrap_or(u32::MAX);
            let mut context = Context::training(
                &self.model,
                size.max(outputs.saturating_add(1)),
                self.threads,
            )?;
            context.set_adapters(&[(self.template.clone(), 1.0)])?;
            let mut trace = context.trace(outputs)?;
            self.broken = settle(&mut trace);
            Ok(trace)
        };
        let [one, two] = TRACED;
        // With an output at every token llama.cpp does not pick rows, and the two traces would
        // differ.
        let step = u32::try_from(outputs + 1)
            .unwrap_or(u32::MAX)
            .next_multiple_of(one);
        Ok([trace(one.max(step))?, trace(two.max(step + one))?])
    }

    /// A sequence has to run through the model alone: its tokens meet others than by attention, or
    /// see later ones.
    pub fn keeps_sequences_apart(&self) -> bool {
        let recurrent = |pair: &[Trace; 2]| pair[0].nodes.iter().any(|node| node.op.is_recurrent());
        self.traces.values().any(recurrent) || self.tables.keeps_sequences_apart()
    }
}

/// What of a model can be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// The matrices that were asked for and get their gradients.
    pub targets: Vec<Target>,
    /// The operation without a rule that keeps lower ones from getting theirs, and its node.
    pub blocked: Option<(String, String)>,
    /// Blocks that hold a target, from the first to the last.
    pub blocks: Option<(u32, u32)>,
    /// Blocks of the model that hold a matrix of those asked for.
    pub all_blocks: Option<(u32, u32)>,
}

/// Trace `model` with an adapter on everything that `asked` names (see `modules::targets`), and
/// build the training graph without running it.
///
/// Matrices that llama.cpp applies no adapter to, or whose adapters reach the logits through
/// choices only, are left out. Where an operation has no backward rule, so is everything below it.
///
/// fails: unknown modules, a model that cannot be traced
pub fn survey(
    backend: Backend,
    model: &Model,
    asked: &str,
    threads: u32,
) -> Result<Survey, TrainError> {
    let model = &model.on_cpu(backend)?;
    let candidates = find_targets(model, asked)?;
    let all_blocks = blocks(&candidates);
    let adapter = Adapter::fresh(&candidates, 1, 1.0, 0);
    let mut tracer = Tracer::new(model, &adapter, threads)?;
    let compute = Compute::cpu(backend, threads)?;
    let (_, index) = layout(&adapter);
    let first_use = match tracer.trace(TRACED[0] as usize, OUTPUTS, &index) {
        Ok(traced) => trained(&traced.trace, &index),
        // An input that nobody can fill.
        Err(TrainError::NoRule { op, node, .. }) => {
            return Ok(Survey {
                targets: Vec::new(),
                blocked: Some((op, node)),
                blocks: None,
                all_blocks,
            });
        }
        Err(other) => return Err(other),
    };
    let used = |target: &Target| {
        let at = |suffix: &str| first_use.get(&format!("{}.{suffix}", target.name)).copied();
        Some(at("lora_a")?.min(at("lora_b")?))
    };
    let mut targets: Vec<Target> = candidates
        .into_iter()
        .filter(|target| used(target).is_some())
        .collect();
    let mut blocked = None;
    let goal = Goal {
        objective: Objective::Text,
        width: 0,
        bytes: LOSS_BYTES,
        dropout: 0.0,
        keep: Keep::Most,
        direct: false,
        frozen: false,
    };
    while !targets.is_empty() {
        let (shapes, kept) = layout(&Adapter::fresh(&targets, 1, 1.0, 0));
        let storage = Storage::new(&compute, &shapes)?;
        let traced = tracer.trace(TRACED[0] as usize, OUTPUTS, &kept)?;
        match Program::new(
            &traced,
            &Weights::dry(),
            &storage,
            &kept,
            Purpose::Gradients,
            goal,
        ) {
            Ok(_) => break,
            Err(TrainError::NoRule { op, node, position }) => {
                let before = targets.len();
                targets.retain(|target| used(target).is_some_and(|at| at > position));
                if targets.len() == before {
                    // What is missing is not on the way of a gradient: an input that nobody can
                    // fill, say.
                    targets.clear();
                }
                blocked.get_or_insert((op, node));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(Survey {
        blocks: blocks(&targets),
        targets,
        blocked,
        all_blocks,
    })
}

fn blocks(targets: &[Target]) -> Option<(u32, u32)> {
    let blocks = || targets.iter().filter_map(Target::block);
    Some((blocks().min()?, blocks().max()?))
}

fn find_targets(model: &Model, asked: &str) -> Result<Vec<Target>, TrainError> {
    let bytes = translora_llama::map_file(model.path())?;
    modules::targets(&Gguf::parse(&bytes)?, asked)
}

/// Load an adapter through llama.cpp, by way of a temporary file. Its shapes are all that is traced,
/// and one whose numbers change nothing would be refused: so B is one.
fn load(model: &Model, adapter: &Adapter) -> Result<LoadedAdapter, TrainError> {
    let mut adapter = adapter.clone();
    adapter.pairs.iter_mut().for_each(|pair| pair.b.fill(1.0));
    let file = tempfile::Builder::new()
        .prefix("translora-")
        .suffix(".gguf")
        .tempfile()?;
    std::fs::write(file.path(), adapter.to_gguf(&model.architecture(), &[])?)?;
    Ok(LoadedAdapter::load(model, file.path())?)
}

pub(crate) type Shapes = Vec<(Dtype, [i64; 3], String)>;

/// The tensors of an adapter's storage: A and B of each pair in turn, and where each is.
pub(crate) fn layout(adapter: &Adapter) -> (Shapes, AdapterIndex) {
    let (mut shapes, mut index) = (Vec::new(), HashMap::new());
    for pair in &adapter.pairs {
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (rank, inputs, outputs) = (
            size(adapter.rank),
            size(pair.target.inputs),
            size(pair.target.outputs),
        );
        let experts = size(pair.target.experts);
        for (suffix, shape) in [
            ("lora_a", [inputs, rank, experts]),
            ("lora_b", [rank, outputs, experts]),
        ] {
            let name = format!("{}.{suffix}", pair.target.name);
            index.insert(name.clone(), shapes.len());
            shapes.push((Dtype::F32, shape, name));
        }
    }
    (shapes, index)
}
