//! Fit a LoRA: the engine's `Trainer` over `translora_train`.

use std::collections::HashMap;
use std::path::Path;

use translora_gguf::Parts;
use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_llama::map_file;
use translora_lora::finite;
use translora_train::{
    AdamW, Checkpoints, Divergence, Example, ForwardWeights, Kernel, LOSS_BYTES, Teacher,
    TrainError, TrainSpec,
};

use super::{GgmlModel, internal};
use crate::engine::{
    EngineError, LoraSpec, MemoryPlan, Objective, SoftLabels, StepReport, Train, Trainer,
    TrainerInfo, With,
};
use crate::record::Pair;

/// States that a run holds at one time: the last good one, and one that is taken or on its way to
/// the journal.
const SNAPSHOTS: usize = 2;
/// Where it keeps its best: that, and the best before it, which the last good state still has.
const SNAPSHOTS_BEST: usize = 2;

impl Train for GgmlModel {
    fn trainer(&mut self, spec: &LoraSpec) -> Result<Box<dyn Trainer + '_>, EngineError> {
        // Inference memory is of no use meanwhile.
        self.context = None;
        self.weights(With::Base)?;
        let shape = &spec.shape;
        let optimizer = AdamW {
            beta1: spec.beta1,
            beta2: spec.beta2,
            epsilon: spec.epsilon,
            weight_decay: shape.weight_decay,
        };
        let plan = TrainSpec {
            rank: shape.rank,
            alpha: shape.alpha,
            modules: shape.modules.clone(),
            first_block: shape.layers.map(|layers| layers.first),
            end_block: shape.layers.and_then(|layers| layers.end),
            seed: spec.seed,
            objective: minimized(spec.objective),
            optimizer,
            rslora: shape.rslora,
            lora_plus_ratio: shape.lora_plus,
            dropout: shape.lora_dropout,
            max_grad_norm: shape.clip,
            micro_batch: shape.micro_batch,
            batch: shape.batch,
            memory: shape
                .memory
                .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            snapshots: SNAPSHOTS + if spec.keeps_best { SNAPSHOTS_BEST } else { 0 },
            forward: ForwardWeights::Direct(Kernel::fast()),
            loss_bytes: LOSS_BYTES,
            threads: self.threads,
            ..TrainSpec::default()
        };
        let trainer = translora_train::Trainer::new(self.backend, &self.readable()?, &plan)
            .map_err(|error| self.translate(error))?;
        Ok(Box::new(GgmlTrainer {
            trainer,
            objective: spec.objective,
            model: self,
        }))
    }
}

impl GgmlModel {
    fn translate(&self, error: TrainError) -> EngineError {
        let model = self.path();
        match error {
            TrainError::Llama(error) => internal(error),
            TrainError::Module { modules, reason } => EngineError::Modules {
                model,
                modules,
                reason,
            },
            TrainError::NoRule { .. } | TrainError::Blocked { .. } => EngineError::Untrainable {
                model,
                reason: error.to_string(),
            },
            TrainError::Example { index, reason } => EngineError::Example {
                index,
                reason: format!("a row is unfit: {reason}"),
            },
            error @ TrainError::Memory { .. } => EngineError::TooLarge(error.to_string()),
            TrainError::NotFinite { what, step } => EngineError::NotFinite { what, step },
            TrainError::Snapshot(reason) => EngineError::Snapshot(reason),
            TrainError::Internal { what } => EngineError::Internal(what),
            TrainError::Io(source) => EngineError::File {
                path: std::env::temp_dir(),
                source: source.into(),
            },
            other => EngineError::Internal(other.to_string()),
        }
    }
}

struct GgmlTrainer<'m> {
    trainer: translora_train::Trainer,
    objective: Objective,
    model: &'m GgmlModel,
}

fn minimized(objective: Objective) -> translora_train::Objective {
    match objective {
        Objective::Text => translora_train::Objective::Text,
        Objective::Match => translora_train::Objective::Match {
            divergence: Divergence::Forward,
            temperature: 1.0,
        },
    }
}

impl GgmlTrainer<'_> {
    fn encode(&self, index: usize, pair: &Pair) -> Result<Example, EngineError> {
        let (chat, model) = (&self.model.chat, &self.model.model);
        let encoded = chat.pair(model, pair).map_err(internal)?;
        let needed = encoded.tokens.len();
        if needed > self.model.info.context {
            let reason = format!(
                "a row of {needed} tokens does not fit the context of {}",
                self.model.info.context
            );
            return Err(EngineError::Example { index, reason });
        }
        Example::new(encoded.tokens, encoded.start, index)
            .map_err(|error| self.model.translate(error))
    }
}

/// Put a teacher's words beside an example; plain labels where there are none and the objective
/// needs some.
fn taught(objective: Objective, example: Example, labels: &SoftLabels) -> Example {
    let example = match &labels.weights {
        Some(weights) => example.with_weights(weights.clone()),
        None => example,
    };
    if objective == Objective::Text {
        return example;
    }
    let words = if labels.words.is_empty() {
        example.tokens[example.completion..]
            .iter()
            .map(|token| vec![(*token, 1.0)])
            .collect()
    } else {
        labels.words.clone()
    };
    example.with_teacher(Teacher::Likeliest(words))
}

impl Trainer for GgmlTrainer<'_> {
    fn describe(&self) -> TrainerInfo {
        let adapter = self.trainer.adapter();
        let mut modules: Vec<String> = Vec::new();
        for pair in &adapter.pairs {
            let module = pair
                .target
                .name
                .split('.')
                .nth(2)
                .unwrap_or_default()
                .to_owned();
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
        let device = match (self.trainer.device().as_str(), self.trainer.forward()) {
            ("CPU", (ForwardWeights::Direct(kernel), _)) => {
                format!("CPU, {} threads, {}", self.model.threads, kernel.name())
            }
            (name, (_, transpose)) => format!(
                "{name}, gradients by Wᵀ as {transpose:?}, {} threads beside it",
                self.model.threads
            ),
        };
        let plan = self.trainer.plan().map(|plan| MemoryPlan {
            pack: plan.pack,
            tokens: plan.tokens,
            blocks_again: plan.checkpoints == Checkpoints::Blocks,
            loss_bytes: plan.loss_bytes as u64,
            frozen_bytes: plan.memory.frozen as u64,
            predicted_bytes: plan.memory.peak() as u64,
            device_bytes: plan.device.map(|memory| memory.peak() as u64),
        });
        let placement = self
            .trainer
            .placement()
            .map(super::placement_lines)
            .unwrap_or_default();
        TrainerInfo {
            matrices: adapter.pairs.len(),
            parameters: adapter.parameters() as u64,
            modules,
            device,
            placement,
            plan,
        }
    }

    fn load(&mut self, examples: &[Pair]) -> Result<(), EngineError> {
        self.load_taught(examples, &vec![SoftLabels::default(); examples.len()])
    }

    fn load_taught(&mut self, examples: &[Pair], labels: &[SoftLabels]) -> Result<(), EngineError> {
        if examples.len() != labels.len() {
            return Err(EngineError::Internal(format!(
                "{} examples and labels for {}",
                examples.len(),
                labels.len()
            )));
        }
        let mut encoded = Vec::with_capacity(examples.len());
        for (index, (pair, labels)) in examples.iter().zip(labels).enumerate() {
            encoded.push(taught(self.objective, self.encode(index, pair)?, labels));
        }
        self.trainer
            .load(encoded)
            .map(drop)
            .map_err(|error| self.model.translate(error))
    }

    fn step(&mut self, batch: &[usize], learning_rate: f32) -> Result<StepReport, EngineError> {
        self.trainer
            .step(batch, learning_rate)
            .map(report)
            .map_err(|error| self.model.translate(error))
    }

    fn loss(&mut self, batch: &[usize]) -> Result<StepReport, EngineError> {
        self.trainer
            .loss(batch)
            .map(report)
            .map_err(|error| self.model.translate(error))
    }

    fn blame_base(&mut self, batch: &[usize]) -> Result<(), EngineError> {
        for &index in batch {
            let bare = self.trainer.base_loss(&[index]);
            let bare = bare.map_err(|error| self.model.translate(error))?;
            if !bare.loss.is_finite() {
                return Err(EngineError::BaseNotFinite {
                    index,
                    model: self.model.path(),
                    cause: no_number(&self.model.info.path)
                        .map_or_else(String::new, |weight| format!(": {weight}")),
                });
            }
        }
        Ok(())
    }

    fn logits(&mut self, example: usize) -> Result<Vec<Vec<f32>>, EngineError> {
        self.trainer
            .logits(example)
            .map_err(|error| self.model.translate(error))
    }

    fn snapshot(&self) -> Result<Vec<u8>, EngineError> {
        Ok(self.trainer.snapshot())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), EngineError> {
        self.trainer
            .restore(snapshot)
            .map_err(|error| self.model.translate(error))
    }

    fn adapter(&self, metadata: &[(String, String)]) -> Result<Vec<u8>, EngineError> {
        self.trainer
            .to_gguf(metadata)
            .map_err(|error| self.model.translate(error))
    }
}

/// The first weight of a model that is no number, in words; nothing where all are, or where the file
/// cannot be read any more.
fn no_number(base: &Path) -> Option<String> {
    let parts = Parts::open(base, MODEL_HEADER_BYTES_MAX).ok()?;
    let mut maps = HashMap::new();
    for path in parts.paths() {
        maps.insert(path.as_path(), map_file(path).ok()?);
    }
    let tensors = parts.tensors().iter().enumerate();
    tensors.into_iter().find_map(|(number, tensor)| {
        let range = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
        let data = maps.get(parts.path_of(number)?)?.get(range)?;
        let found = finite(tensor.kind, data).ok()?.err()?;
        Some(format!("its tensor {} holds {found}", tensor.name))
    })
}

fn report(step: translora_train::StepReport) -> StepReport {
    StepReport {
        loss: step.loss,
        gradient_norm: step.gradient_norm,
        tokens: step.tokens,
        completion_tokens: step.completion_tokens,
    }
}
