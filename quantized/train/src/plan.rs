//! Chooses how to train within a limit of memory, before any of it is taken.
//!
//! The peak is predicted from parts: code and the vocabulary, the model's file, copies of weights,
//! the adapter with everything that is as large as it, graphs, and the work memory of the largest
//! pack, which ggml's allocator measures without allocating.

use translora_llama::WorkBytes;

use crate::checkpoints::Checkpoints;
use crate::error::{Nearest, TrainError};
use crate::pack::{Example, TOKENS_STEP, split};

/// Programs that are kept for their sizes at one time.
pub(crate) const PROGRAMS_MAX: usize = 6;
/// units: bytes of a tensor of a graph, its node in the trace and its place in the allocator.
const TENSOR_BYTES: usize = 900;
/// units: bytes of what fills a mask, for each pair of tokens.
const MASK_BYTES: usize = 12;
/// units: bytes; code, stacks, llama.cpp's own state.
const PROCESS_BYTES: usize = 17 << 20;
/// Bytes that a vocabulary takes in memory for two bytes of the file's header.
const HEADER_FACTOR: usize = 13;

/// A way to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Tokens that examples are packed up to.
    pub pack: usize,
    pub checkpoints: Checkpoints,
    /// units: bytes.
    pub loss_bytes: usize,
}

const fn way(pack: usize, checkpoints: Checkpoints, loss_mib: usize) -> Way {
    Way {
        pack,
        checkpoints,
        loss_bytes: loss_mib << 20,
    }
}

/// The ways to train, each slower and smaller than the one before it.
const WAYS: [Way; 11] = [
    way(512, Checkpoints::Most, 64),
    way(256, Checkpoints::Most, 64),
    way(512, Checkpoints::Blocks, 64),
    way(256, Checkpoints::Blocks, 64),
    way(128, Checkpoints::Blocks, 64),
    way(128, Checkpoints::Blocks, 32),
    way(128, Checkpoints::Blocks, 16),
    way(64, Checkpoints::Blocks, 16),
    way(64, Checkpoints::Blocks, 8),
    way(32, Checkpoints::Blocks, 4),
    SMALLEST,
];
const SMALLEST: Way = way(32, Checkpoints::Blocks, 1);

/// How a run is laid out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens that examples are packed up to; a longer one stands alone.
    pub pack: usize,
    /// Tokens of the largest pack.
    pub tokens: usize,
    /// Outputs of the largest pack.
    pub outputs: usize,
    /// What is kept between forward and backward.
    pub checkpoints: Checkpoints,
    /// units: bytes that logits and their gradients may take at one time.
    pub loss_bytes: usize,
    /// What lies below the lowest adapted block is computed once for each example.
    pub frozen: bool,
    /// What the process holds.
    pub memory: Memory,
    /// What the device holds, where training is on one.
    pub device: Option<DeviceMemory>,
}

/// A predicted peak of a device's memory by its parts. units: bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The model's weights that lie there.
    pub model: usize,
    /// Transposed copies of weights.
    pub copies: usize,
    /// A and B.
    pub adapter: usize,
    /// Activations, gradients, loss.
    pub work: usize,
}

impl DeviceMemory {
    /// units: bytes of all parts together.
    pub fn peak(&self) -> usize {
        self.model + self.copies + self.adapter + self.work
    }
}

/// A predicted peak by its parts. units: bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Code, stacks, the vocabulary.
    pub process: usize,
    /// The model's file, which is mapped.
    pub model: usize,
    /// Transposed copies of weights.
    pub copies: usize,
    /// A and B, their gradients and moments, and what a run keeps of them to go back to.
    pub adapter: usize,
    /// Nodes of the programs that are kept, and masks.
    pub graphs: usize,
    /// What llama.cpp holds while it traces a graph: the cache of the context that it does it in.
    pub tracing: usize,
    /// Values of the frozen part, kept for each example.
    pub frozen: usize,
    /// Activations, gradients, loss.
    pub work: usize,
}

impl Memory {
    /// units: bytes of all parts together.
    pub fn peak(&self) -> usize {
        self.process
            + self.model
            + self.copies
            + self.adapter
            + self.graphs
            + self.tracing
            + self.frozen
            + self.work
    }

    /// What there is before anything is built for a model of `tensors` bytes in a file of `file`
    /// bytes. Not read from the system, so that the same run makes the same plan again.
    pub(crate) fn before(file: usize, tensors: usize) -> Self {
        let header = file.saturating_sub(tensors);
        Self {
            process: PROCESS_BYTES + header / 2 * HEADER_FACTOR,
            model: file,
            ..Self::default()
        }
    }

    /// With an adapter of so many numbers of which a run keeps so many snapshots, and copies of
    /// weights.
    pub(crate) fn with(self, parameters: usize, snapshots: usize, copies: usize) -> Self {
        // llama.cpp's copy, ours, the graph's, two moments, and gradients outside the graph.
        Self {
            adapter: parameters * size_of::<f32>() * (6 + 3 * snapshots),
            copies,
            ..self
        }
    }
}

/// The largest pack of examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Largest {
    pub tokens: usize,
    pub outputs: usize,
    /// Different sizes that packs have.
    pub sizes: usize,
}

impl Largest {
    /// Of runs of `micro` examples in order, packed up to `pack` tokens (0: each alone).
    pub fn of(
        examples: &[Example],
        prefix: usize,
        micro: usize,
        pack: usize,
        outputs_max: usize,
    ) -> Self {
        let refs: Vec<&Example> = examples.iter().collect();
        let runs = refs
            .chunks(micro.max(1))
            .flat_map(|some| split(some, prefix, pack, outputs_max));
        let mut sizes: Vec<(usize, usize)> = runs.map(|run| sizes(&run, prefix)).collect();
        let most = |part: fn(&(usize, usize)) -> usize| {
            sizes.iter().map(part).max().unwrap_or(TOKENS_STEP)
        };
        let (tokens, outputs) = (most(|size| size.0), most(|size| size.1));
        sizes.sort_unstable();
        sizes.dedup();
        Self {
            tokens,
            outputs,
            sizes: sizes.len(),
        }
    }
}

/// Tokens and outputs of the program for one pack.
pub(crate) fn sizes(run: &[&Example], prefix: usize) -> (usize, usize) {
    let needed = prefix
        + run
            .iter()
            .map(|example| example.inputs() - prefix)
            .sum::<usize>();
    let outputs = run.iter().map(|example| example.outputs()).sum::<usize>() + 1;
    let tokens = needed
        .next_multiple_of(TOKENS_STEP)
        .max(outputs.next_multiple_of(TOKENS_STEP));
    // Few sizes for few outputs; for many, little padding: a padded output costs as much as
    // another.
    (
        tokens,
        outputs
            .next_power_of_two()
            .max(16)
            .min(outputs.next_multiple_of(TOKENS_STEP).max(2 * TOKENS_STEP))
            .min(tokens),
    )
}

/// What a plan must keep to. units: bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub host: Option<usize>,
    pub device: Option<usize>,
    /// Only ways that cost little time.
    pub large_only: bool,
}

/// Ways that cost little time.
const LARGE: usize = 3;

/// What a program takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    pub work: WorkBytes,
    pub tensors: usize,
    /// units: bytes; see `Memory::tracing`.
    pub tracing: usize,
}

/// What a plan is chosen by.
pub(crate) struct Planner<'a> {
    pub limits: Limits,
    pub known: Memory,
    /// What the device holds before anything is built; none where all is the CPU's.
    pub device: Option<DeviceMemory>,
    pub rank: usize,
    /// units: bytes of the frozen part's values, where they may be kept.
    pub frozen: Option<usize>,
    /// Measures a program for so many tokens and outputs, and whether its frozen part is an input.
    pub measure: &'a mut dyn FnMut(usize, usize, Way, bool) -> Result<Measured, TrainError>,
}

impl Planner<'_> {
    /// The first of the ways that fits; where nobody sets a limit to the process, `free` before
    /// them. `largest`: the largest pack, for tokens to pack up to.
    ///
    /// fails: none fits, with the least that would.
    pub fn choose(
        &mut self,
        free: Way,
        largest: &dyn Fn(usize) -> Largest,
    ) -> Result<Plan, TrainError> {
        let Limits {
            host,
            device,
            large_only,
        } = self.limits;
        if host.is_none() {
            let plan = self.plan(free, largest(free.pack), self.frozen.is_some())?;
            if self.over(&plan) == 0 {
                return Ok(plan);
            }
        }
        let mut least: Option<Plan> = None;
        let ways = WAYS
            .into_iter()
            .take(if large_only { LARGE } else { WAYS.len() });
        for (way, frozen) in ways.flat_map(|way| [(way, true), (way, false)]) {
            if frozen && self.frozen.is_none() {
                continue;
            }
            let plan = self.plan(way, largest(way.pack), frozen)?;
            if self.over(&plan) == 0 {
                return Ok(plan);
            }
            if least.is_none_or(|least| self.over(&plan) < self.over(&least)) {
                least = Some(plan);
            }
        }
        let Some(least) = least else {
            return Err(TrainError::internal("there is no way to train"));
        };
        // Where both are short, the host is named: it is what one can say something about.
        let on_host = host.is_some_and(|limit| least.memory.peak() > limit);
        let (limit, needed) = match (on_host, host, device, least.device) {
            (false, _, Some(limit), Some(memory)) => (limit, memory.peak()),
            (_, limit, ..) => (limit.unwrap_or(0), least.memory.peak()),
        };
        Err(TrainError::Memory {
            limit,
            least: needed,
            tokens: least.tokens,
            hint: self.nearest(&least)?,
        })
    }

    /// Bytes by which a plan is over its limits.
    fn over(&self, plan: &Plan) -> usize {
        let above =
            |limit: Option<usize>, peak: usize| limit.map_or(0, |limit| peak.saturating_sub(limit));
        above(self.limits.host, plan.memory.peak())
            + above(
                self.limits.device,
                plan.device.map_or(0, |memory| memory.peak()),
            )
    }

    fn plan(&mut self, way: Way, largest: Largest, frozen: bool) -> Result<Plan, TrainError> {
        let Largest {
            tokens,
            outputs,
            sizes,
        } = largest;
        let Measured {
            work,
            tensors,
            tracing,
        } = (self.measure)(tokens, outputs, way, frozen)?;
        // One more than there are sizes: the trainer's proof that it can train.
        let graphs =
            tensors * TENSOR_BYTES * (sizes + 1).min(PROGRAMS_MAX) + MASK_BYTES * tokens * tokens;
        let kept = if frozen { self.frozen.unwrap_or(0) } else { 0 };
        let device = self.device.map(|known| DeviceMemory {
            work: work.device,
            ..known
        });
        let memory = Memory {
            graphs,
            tracing,
            work: work.host,
            frozen: kept,
            ..self.known
        };
        Ok(Plan {
            pack: way.pack,
            tokens,
            outputs,
            checkpoints: way.checkpoints,
            loss_bytes: way.loss_bytes,
            frozen,
            memory,
            device,
        })
    }

    /// What would fit: a lower rank, or shorter examples.
    fn nearest(&mut self, least: &Plan) -> Result<Option<Nearest>, TrainError> {
        let over = self.over(least);
        // A rank changes little on a device; what of it is on the host is known.
        let host_only = least.device.is_none();
        let rank = (1..self.rank)
            .rev()
            .filter(|_| host_only)
            .find(|rank| least.memory.adapter / self.rank * (self.rank - rank) >= over);
        if let Some(rank) = rank {
            return Ok(Some(Nearest::Rank(rank)));
        }
        let mut tokens = least.tokens / 2;
        while tokens >= TOKENS_STEP {
            let tokens_even = tokens.next_multiple_of(TOKENS_STEP);
            let outputs = least.outputs.min(tokens_even);
            let plan = self.plan(
                SMALLEST,
                Largest {
                    tokens: tokens_even,
                    outputs,
                    sizes: 1,
                },
                false,
            )?;
            if self.over(&plan) == 0 {
                return Ok(Some(Nearest::Tokens(tokens_even)));
            }
            tokens /= 2;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose work memory is a MiB for each token, half of that with blocks kept, and whose
    /// loss takes what it may.
    fn chosen(limit: Option<usize>) -> Result<Plan, TrainError> {
        let known = Memory {
            process: 10 << 20,
            model: 100 << 20,
            adapter: 32 << 20,
            ..Memory::default()
        };
        let mut measure = |tokens: usize, _: usize, way: Way, _: bool| {
            let each = match way.checkpoints {
                Checkpoints::Most => 1 << 20,
                Checkpoints::Blocks => 1 << 19,
            };
            Ok(Measured {
                work: WorkBytes {
                    host: tokens * each + way.loss_bytes,
                    device: 0,
                },
                ..Measured::default()
            })
        };
        let limits = Limits {
            host: limit.map(|mib| mib << 20),
            ..Limits::default()
        };
        let mut planner = Planner {
            limits,
            known,
            device: None,
            rank: 16,
            frozen: None,
            measure: &mut measure,
        };
        planner.choose(way(256, Checkpoints::Most, 64), &|pack| Largest {
            tokens: pack.max(64),
            outputs: 16,
            sizes: 1,
        })
    }

    #[test]
    fn the_fastest_way_that_fits_is_chosen() {
        let chosen = |limit| {
            chosen(limit)
                .map(|plan| {
                    (
                        plan.pack,
                        plan.checkpoints,
                        plan.loss_bytes >> 20,
                        plan.memory.peak() >> 20,
                    )
                })
                .unwrap()
        };
        assert_eq!(chosen(None), (256, Checkpoints::Most, 64, 462));
        assert_eq!(chosen(Some(463)), (256, Checkpoints::Most, 64, 462));
        assert_eq!(chosen(Some(462)), (256, Checkpoints::Blocks, 64, 334));
        assert_eq!(chosen(Some(334)), (128, Checkpoints::Blocks, 64, 270));
        assert_eq!(chosen(Some(176)), (32, Checkpoints::Blocks, 1, 175));
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_nearest() {
        let refused = |limit| match chosen(Some(limit)) {
            Err(TrainError::Memory { least, hint, .. }) => (least >> 20, hint),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(175), (175, Some(Nearest::Rank(15))));
        assert_eq!(refused(146), (175, Some(Nearest::Rank(1))));
        assert_eq!(refused(145), (175, None));
        assert_eq!(refused(20), (175, None));
    }
}
