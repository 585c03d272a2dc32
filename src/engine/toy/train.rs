use serde::{Deserialize, Serialize};

use super::Toy;
use super::base::Base;
use super::head::{Head, from_bytes, to_bytes};
use super::teach::number;
use crate::engine::{
    EngineError, LoraSpec, Objective, SoftLabels, StepReport, Trainer, TrainerInfo,
};
use crate::record::{Pair, Rng};
use crate::request::Shape;

/// Fits a toy head: exact softmax gradients, AdamW, global-norm clip.
pub(super) struct ToyTrainer<'m> {
    pub(super) base: &'m Base,
    spec: LoraSpec,
    pub(super) head: Head,
    examples: Vec<Example>,
    /// First and second moments of `a` then `b`.
    moments: [Vec<f32>; 2],
    steps: u64,
}

struct Example {
    features: Vec<usize>,
    answer: usize,
    tokens: usize,
    completion_tokens: usize,
    /// Answers as words, with their probabilities, in place of the one answer.
    soft: Option<Vec<(i32, f32)>>,
    weight: f64,
}

/// The readable first line of a snapshot; raw little-endian F32 follow: a, b, both moments.
#[derive(Serialize, Deserialize, PartialEq)]
struct SnapshotHeader {
    base: String,
    spec: LoraSpec,
    answers: Vec<String>,
    steps: u64,
}

impl<'m> ToyTrainer<'m> {
    pub(super) fn new(base: &'m Base, spec: &LoraSpec) -> Result<Self, EngineError> {
        check_spec(base, &spec.shape)?;
        let head = Head::fresh(base.width, spec.shape.rank, spec.written_alpha(), spec.seed);
        Ok(Self {
            base,
            spec: spec.clone(),
            head,
            examples: Vec::new(),
            moments: [Vec::new(), Vec::new()],
            steps: 0,
        })
    }

    fn prepare(
        &mut self,
        index: usize,
        pair: &Pair,
        labels: &SoftLabels,
    ) -> Result<Example, EngineError> {
        let completion_tokens = pair.completion.split_whitespace().count() + 1;
        let prompt = pair.prompt.whole();
        let tokens = prompt.split_whitespace().count() + completion_tokens;
        if completion_tokens == 1 || prompt.trim().is_empty() {
            return Err(EngineError::Example {
                index,
                reason: "a row is empty".into(),
            });
        }
        if tokens > self.base.context {
            let reason = format!(
                "a row of {tokens} tokens does not fit a context of {}",
                self.base.context
            );
            return Err(EngineError::Example { index, reason });
        }
        let answer = self.head.admit(pair.completion.trim());
        let weight = labels
            .weights
            .as_ref()
            .and_then(|weights| weights.first())
            .map_or(1.0, |weight| f64::from(*weight));
        let soft = labels
            .words
            .first()
            .filter(|_| self.spec.objective == Objective::Match)
            .cloned();
        Ok(Example {
            features: self.base.features(&prompt),
            answer,
            tokens,
            completion_tokens,
            soft,
            weight,
        })
    }

    /// The loss of an example and its derivative by each answer's logit.
    fn error(&self, example: &Example, log_p: &[f64], base: f64) -> (f64, Vec<f64>) {
        let Some(soft) = &example.soft else {
            let errors = log_p
                .iter()
                .enumerate()
                .map(|(answer, log_p)| log_p.exp() - f64::from(u8::from(answer == example.answer)));
            return (-log_p[example.answer], errors.collect());
        };
        let named = |answer: &String| {
            soft.iter()
                .find(|(word, _)| *word == number(answer))
                .map(|(_, q)| f64::from(*q))
        };
        let q: Vec<Option<f64>> = self.head.answers.iter().map(named).collect();
        let q_rest = (1.0 - q.iter().flatten().sum::<f64>()).max(0.0);
        let rest = base.exp()
            + q.iter()
                .zip(log_p)
                .filter(|(q, _)| q.is_none())
                .map(|(_, log_p)| log_p.exp())
                .sum::<f64>();
        let nats = |q: f64, log_p: f64| if q > 0.0 { q * (q.ln() - log_p) } else { 0.0 };
        let loss = q
            .iter()
            .zip(log_p)
            .filter_map(|(q, log_p)| q.map(|q| nats(q, *log_p)))
            .sum::<f64>()
            + nats(q_rest, rest.ln());
        let errors = q.iter().zip(log_p).map(|(q, log_p)| {
            log_p.exp() * (1.0 - q_rest / rest) * f64::from(u8::from(q.is_none()))
                + q.map_or(0.0, |q| log_p.exp() - q)
        });
        (loss, errors.collect())
    }

    /// The features of an example that this training step keeps; the factor makes up for the rest.
    fn kept(&self, index: usize) -> (Vec<usize>, f64) {
        let (dropout, features) = (
            f64::from(self.spec.shape.lora_dropout),
            &self.examples[index].features,
        );
        let mut random = Rng::new(
            self.spec.seed,
            &format!("toy dropout {} {index}", self.steps),
        );
        let kept = features
            .iter()
            .filter(|_| dropout == 0.0 || random.unit() >= dropout)
            .copied()
            .collect();
        (kept, 1.0 / (1.0 - dropout))
    }

    /// Mean completion-token loss of a batch and, when asked, its gradient for `a` then `b`.
    pub(super) fn pass(&self, batch: &[usize], mut gradient: Option<&mut [f64]>) -> StepReport {
        let completion_tokens: usize = batch
            .iter()
            .map(|&i| self.examples[i].completion_tokens)
            .sum();
        let weight = |example: &Example| example.weight * example.completion_tokens as f64;
        let weights: f64 = batch
            .iter()
            .map(|&i| weight(&self.examples[i]))
            .sum::<f64>()
            .max(f64::MIN_POSITIVE);
        let (mut nats, mut tokens, split) = (0.0, 0, self.head.a.len());
        for (index, example) in batch.iter().map(|&i| (i, &self.examples[i])) {
            let training = gradient.is_some();
            let (features, factor) = if training {
                self.kept(index)
            } else {
                (example.features.clone(), 1.0)
            };
            let opinion = self.head.opinion(&features, factor);
            let (loss, errors) = self.error(example, &opinion.answers, opinion.base);
            nats += example.weight * loss;
            tokens += example.tokens;
            let Some(gradient) = gradient.as_deref_mut() else {
                continue;
            };
            for (answer, error) in errors.into_iter().enumerate() {
                let error = self.head.scale() * example.weight / weights * error;
                for r in 0..self.head.rank {
                    gradient[split + answer * self.head.rank + r] += error * opinion.hidden[r];
                    let back = error * f64::from(self.head.b[answer * self.head.rank + r]);
                    for &f in &features {
                        gradient[r * self.head.width + f] += back * factor;
                    }
                }
            }
        }
        StepReport {
            loss: nats / weights,
            gradient_norm: 0.0,
            tokens,
            completion_tokens,
        }
    }

    fn adamw(&mut self, gradient: &[f64], learning_rate: f64) {
        let (beta1, beta2) = (f64::from(self.spec.beta1), f64::from(self.spec.beta2));
        let unbias = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let (unbias1, unbias2) = (unbias(beta1), unbias(beta2));
        let rate_of_b = learning_rate * f64::from(self.spec.shape.lora_plus);
        let rates = std::iter::repeat_n(learning_rate, self.head.a.len())
            .chain(std::iter::repeat(rate_of_b));
        let weights = self.head.a.iter_mut().chain(&mut self.head.b);
        let [first, second] = &mut self.moments;
        for ((((weight, m), v), g), learning_rate) in
            weights.zip(first).zip(second).zip(gradient).zip(rates)
        {
            *m = (beta1 * f64::from(*m) + (1.0 - beta1) * g) as f32;
            *v = (beta2 * f64::from(*v) + (1.0 - beta2) * g * g) as f32;
            let step = f64::from(*m)
                / unbias1
                / ((f64::from(*v) / unbias2).sqrt() + f64::from(self.spec.epsilon));
            *weight -= (learning_rate
                * (step + f64::from(self.spec.shape.weight_decay) * f64::from(*weight)))
                as f32;
        }
    }

    fn snapshot_header(&self) -> SnapshotHeader {
        SnapshotHeader {
            base: self.base.name.clone(),
            spec: self.spec.clone(),
            answers: self.head.answers.clone(),
            steps: self.steps,
        }
    }
}

impl Trainer for ToyTrainer<'_> {
    fn describe(&self) -> TrainerInfo {
        TrainerInfo {
            matrices: 1,
            parameters: (self.head.a.len() + self.head.b.len()) as u64,
            modules: vec!["up".into()],
            device: Toy::DEVICE.into(),
            placement: Vec::new(),
            plan: None,
        }
    }

    fn load(&mut self, examples: &[Pair]) -> Result<(), EngineError> {
        self.load_taught(examples, &vec![SoftLabels::default(); examples.len()])
    }

    fn load_taught(&mut self, examples: &[Pair], labels: &[SoftLabels]) -> Result<(), EngineError> {
        let rows = examples.iter().zip(labels).enumerate();
        self.examples = rows
            .map(|(i, (pair, labels))| self.prepare(i, pair, labels))
            .collect::<Result<_, _>>()?;
        let weights = self.head.a.len() + self.head.b.len();
        self.moments = [vec![0.0; weights], vec![0.0; weights]];
        Ok(())
    }

    fn step(&mut self, batch: &[usize], learning_rate: f32) -> Result<StepReport, EngineError> {
        let mut gradient = vec![0.0; self.moments[0].len()];
        let mut report = self.pass(batch, Some(&mut gradient));
        report.gradient_norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        self.steps += 1;
        if !report.loss.is_finite() || !report.gradient_norm.is_finite() {
            return Err(EngineError::NotFinite {
                what: "loss",
                step: self.steps,
            });
        }
        let clip = f64::from(self.spec.shape.clip);
        if clip > 0.0 && report.gradient_norm > clip {
            gradient
                .iter_mut()
                .for_each(|g| *g *= clip / report.gradient_norm);
        }
        self.adamw(&gradient, f64::from(learning_rate));
        Ok(report)
    }

    fn loss(&mut self, batch: &[usize]) -> Result<StepReport, EngineError> {
        Ok(self.pass(batch, None))
    }

    fn logits(&mut self, example: usize) -> Result<Vec<Vec<f32>>, EngineError> {
        let Some(Example {
            features, answer, ..
        }) = self.examples.get(example)
        else {
            return Err(EngineError::Internal(format!("no example {example}")));
        };
        Ok(vec![
            self.head.logits(features, &self.head.answers[*answer]),
        ])
    }

    fn snapshot(&self) -> Result<Vec<u8>, EngineError> {
        let mut bytes = serde_json::to_vec(&self.snapshot_header())
            .map_err(|error| EngineError::Internal(error.to_string()))?;
        bytes.push(b'\n');
        for values in [
            &self.head.a,
            &self.head.b,
            &self.moments[0],
            &self.moments[1],
        ] {
            bytes.extend(to_bytes(values));
        }
        Ok(bytes)
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), EngineError> {
        let bad = |reason: &str| EngineError::Snapshot(reason.to_owned());
        let end = snapshot
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| bad("it has no header"))?;
        let header: SnapshotHeader =
            serde_json::from_slice(&snapshot[..end]).map_err(|error| bad(&error.to_string()))?;
        if header
            != (SnapshotHeader {
                steps: header.steps,
                ..self.snapshot_header()
            })
        {
            return Err(bad("it is of another base, spec or set of examples"));
        }
        let values = from_bytes(&snapshot[end + 1..]);
        let (a, b) = (self.head.a.len(), self.head.b.len());
        if snapshot.len() - end - 1 != 4 * 3 * (a + b) {
            return Err(bad("it is damaged"));
        }
        self.head.a.copy_from_slice(&values[..a]);
        self.head.b.copy_from_slice(&values[a..a + b]);
        self.moments[0].copy_from_slice(&values[a + b..2 * (a + b)]);
        self.moments[1].copy_from_slice(&values[2 * (a + b)..]);
        self.steps = header.steps;
        Ok(())
    }

    fn adapter(&self, metadata: &[(String, String)]) -> Result<Vec<u8>, EngineError> {
        self.head.to_gguf(metadata)
    }
}

fn check_spec(base: &Base, shape: &Shape) -> Result<(), EngineError> {
    let refuse = |reason: &str| EngineError::Modules {
        model: base.name.clone(),
        modules: shape.modules.clone(),
        reason: reason.to_owned(),
    };
    let known = ["all", "dense", "q", "k", "v", "o", "gate", "up", "down"];
    if let Some(unknown) = shape
        .modules
        .split(',')
        .map(str::trim)
        .find(|module| !known.contains(module))
    {
        return Err(refuse(&format!(
            "{unknown:?} is none of {}",
            known.join(" ")
        )));
    }
    if shape.layers.is_some() {
        return Err(refuse("this model has no layers to choose from"));
    }
    if shape.rank == 0 || shape.rank > base.width {
        return Err(refuse(&format!(
            "rank {} is not between 1 and {}",
            shape.rank, base.width
        )));
    }
    Ok(())
}
