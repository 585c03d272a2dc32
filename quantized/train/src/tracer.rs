//! Traces llama.cpp's graph of a model with an adapter, for any number of tokens.

use std::collections::{HashMap, HashSet};

use translora_llama::{Adapter as LoadedAdapter, Context, Dtype, Model, Trace};

use crate::adapter::Adapter;
use crate::error::TrainError;
use crate::inputs::Tables;
use crate::reach::{AdapterIndex, Reach, replace_stores};

/// The two context sizes that are traced; llama.cpp pads contexts to multiples of 256.
pub(crate) const TRACED: [u32; 2] = [256, 512];
/// Outputs of the traces that only look.
pub(crate) const OUTPUTS: usize = 16;

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
            self.broken = replace_stores(&mut trace);
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

    /// A sequence has to run alone: its tokens meet others than by attention, or
    /// see later ones.
    pub fn keeps_sequences_apart(&self) -> bool {
        let recurrent = |pair: &[Trace; 2]| pair[0].nodes.iter().any(|node| node.op.is_recurrent());
        self.traces.values().any(recurrent) || self.tables.keeps_sequences_apart()
    }
}

/// A trace for the sizes of one program, and the two it comes from.
pub(crate) struct Traced<'a> {
    pub trace: Trace,
    pub pair: &'a [Trace; 2],
    /// Nodes that read a memory of llama.cpp after a part of it was written.
    pub broken: &'a HashSet<usize>,
}

/// Load an adapter into llama.cpp, by way of a temporary file.
/// Its shapes are all that is traced, and one that changes nothing would be refused: so B is one.
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
