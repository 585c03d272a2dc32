//! Plans how a workshop trains on some examples, by measuring programs that it does not run.

use translora_llama::{Trace, WorkBytes};

use super::{Workshop, prepare};
use crate::error::TrainError;
use crate::frozen::{Cache, Cut, FrozenProgram};
use crate::goal::{Goal, Purpose};
use crate::pack::{Example, TOKENS_MAX};
use crate::plan::{DeviceMemory, Largest, Limits, Measured, Plan, Planner, Way, sizes};
use crate::program::Program;
use crate::reach::Reach;
use crate::spec::TrainSpec;
use crate::tracer::OUTPUTS;
use crate::weights::Transpose;

/// What a plan is for.
pub(crate) struct Work<'a> {
    pub examples: &'a [Example],
    /// Tokens that they all begin with.
    pub prefix: usize,
    pub goal: Goal,
    /// Numbers of the adapter.
    pub parameters: usize,
}

impl Workshop {
    /// The first way that fits. On a device Wᵀ may have to be smaller than it is, or not be kept at
    /// all; what has to change is changed.
    ///
    /// fails: none fits. Where a device refuses memory that it said it had, no program can be built
    /// any more.
    pub fn plan(&mut self, spec: &TrainSpec, work: &Work<'_>) -> Result<Plan, TrainError> {
        if self.device.is_some() {
            let (_, now) = self.reading();
            let larger = Transpose::ALL
                .into_iter()
                .skip_while(|transpose| *transpose != now);
            for transpose in larger.filter(|transpose| *transpose != Transpose::Scratch) {
                self.set_transpose(transpose)?;
                match self.plan_copies(spec, work, true) {
                    Err(TrainError::Memory { .. }) => {}
                    done => return done,
                }
            }
            self.set_transpose(Transpose::Scratch)?;
        }
        self.plan_copies(spec, work, false)
    }

    /// Have other copies of the weights, unless they are these already.
    fn set_transpose(&mut self, transpose: Transpose) -> Result<(), TrainError> {
        let (forward, now) = self.reading();
        if transpose == now {
            return Ok(());
        }
        self.programs.0.clear();
        // There may be no room for both.
        self.weights.drop_copies();
        let trace = self.tracer.trace(TOKENS_MAX, OUTPUTS, &self.index)?.trace;
        self.weights = prepare(
            &self.model,
            &mut self.compute,
            (&trace, &self.index),
            (forward, transpose),
            self.device.map(|device| device.room(&self.storage)),
        )?;
        Ok(())
    }

    /// The first way that fits with the copies of weights that there are.
    fn plan_copies(
        &mut self,
        spec: &TrainSpec,
        work: &Work<'_>,
        large_only: bool,
    ) -> Result<Plan, TrainError> {
        let Work {
            examples, prefix, ..
        } = *work;
        let micro = [spec.micro_batch, spec.batch, examples.len()]
            .into_iter()
            .find(|count| *count > 0)
            .unwrap_or(1);
        let apart = self.keeps_sequences_apart();
        let largest =
            |pack: usize| Largest::of(examples, prefix, micro, if apart { 0 } else { pack }, pack);
        let there = self.weights.device_bytes();
        let copies = self.weights.bytes() - there;
        let known = self.known.with(work.parameters, spec.snapshots, copies);
        let device = self.device.map(|device| DeviceMemory {
            copies: there,
            adapter: self.storage.device_bytes(),
            ..device.known
        });
        let limits = Limits {
            host: spec.memory,
            device: self.device.map(|device| device.limit),
            large_only,
        };
        let frozen = if spec.first_block.is_some() {
            self.frozen_bytes(examples)?
                .filter(|bytes| *bytes <= spec.frozen_bytes)
        } else {
            None
        };
        let longest = examples.iter().map(|example| sizes(&[example], 0)).max();
        let mut measure = |tokens, outputs, way: Way, frozen| {
            let goal = Goal {
                checkpoints: way.checkpoints,
                bytes: way.loss_bytes,
                frozen,
                ..work.goal
            };
            self.measure((tokens, outputs), longest.filter(|_| frozen), goal)
        };
        let free = Way {
            pack: TOKENS_MAX,
            checkpoints: spec.checkpoints,
            loss_bytes: spec.loss_bytes,
        };
        Planner {
            limits,
            known,
            device,
            rank: spec.rank,
            frozen,
            measure: &mut measure,
        }
        .choose(free, &largest)
    }

    /// units: bytes that the values at the end of the frozen part take; none where there is no such
    /// part.
    fn frozen_bytes(&mut self, examples: &[Example]) -> Result<Option<usize>, TrainError> {
        let trace = self.tracer.trace(TOKENS_MAX, OUTPUTS, &self.index)?.trace;
        let cut = Cut::find(&trace, &Reach::of(&trace, &self.index));
        Ok(cut.map(|cut| Cache::bytes(examples, &cut)))
    }

    /// What a program of this size takes, and with it that of the frozen part for examples of the
    /// size `below`, if there is one.
    fn measure(
        &mut self,
        (tokens, outputs): (usize, usize),
        below: Option<(usize, usize)>,
        goal: Goal,
    ) -> Result<Measured, TrainError> {
        let Self {
            tracer,
            index,
            compute,
            weights,
            storage,
            ..
        } = self;
        let traced = tracer.trace(tokens, outputs, index)?;
        let tracing = traced.pair.iter().map(Trace::state_bytes).max();
        let mut program = Program::new(&traced, weights, storage, index, Purpose::Gradients, goal)?;
        let (work, tensors) = program.measure(compute)?;
        let measured = Measured {
            work,
            tensors,
            tracing: tracing.unwrap_or(0),
        };
        let Some((tokens, outputs)) = below else {
            return Ok(measured);
        };
        let traced = tracer.trace(tokens, outputs, index)?;
        let (below, tensors) =
            FrozenProgram::new(&traced, weights, storage, index)?.measure(compute)?;
        Ok(Measured {
            work: WorkBytes {
                host: work.host.max(below.host),
                device: work.device.max(below.device),
            },
            tensors: measured.tensors + tensors,
            ..measured
        })
    }
}
