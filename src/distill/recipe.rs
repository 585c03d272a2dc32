use serde::{Deserialize, Serialize};

use super::DistillError;
use crate::engine::LoraSpec;
use crate::record::Rng;
use crate::request::{self, Fields, Refusal, Schedule};

/// Share of the learning rate that a cosine leaves at the end.
const FLOOR: f64 = 0.1;
/// Passes over the examples.
const EPOCHS_MAX: f32 = 10_000.0;

/// The highest learning rate that suits adapters with alpha 32 on a model so wide, where nobody has
/// tried others.
///
/// source: Schulman and Thinking Machines Lab, "LoRA Without Regret" (2025), appendix on learning
/// rates, as fitted to Llama models
pub fn learning_rate(width: usize) -> f32 {
    (5e-4 * (2000.0 / width.max(1) as f64).powf(0.781)) as f32
}

/// Everything that decides how an adapter is fitted, besides the examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The adapter's shape, the objective and the optimizer's constants.
    pub spec: LoraSpec,
    /// Passes over the examples; need not be whole.
    pub epochs: f32,
    /// How often the whole schedule starts again at most, while what it is fitted to is not learnt.
    ///
    /// source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts"
    /// (2017); when to stop is ours
    pub restarts: u32,
    /// The highest learning rate of the schedule.
    pub learning_rate: f32,
    /// How it falls after the warm-up.
    pub schedule: Schedule,
    /// Share of the steps spent warming up.
    pub warmup: f32,
    /// Steps between checkpoints; 0 means none.
    pub checkpoint_every: u64,
    /// None takes all steps.
    pub early_stop: Option<EarlyStop>,
    /// Decides the order of the examples.
    pub seed: u64,
}

/// Stop when the loss on a slice of the examples, which is then not trained on, has stopped
/// falling; keep the adapter that was best on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyStop {
    /// One example in this many is held out.
    pub one_in: usize,
    /// Epochs without improvement that are endured.
    pub patience: usize,
}

impl Recipe {
    /// Refuse numbers that no run could follow.
    pub(super) fn check(&self) -> Result<(), DistillError> {
        let above_zero = |x: f32| x.is_finite() && x > 0.0;
        let rules = [
            (
                "epochs",
                self.epochs,
                above_zero(self.epochs) && self.epochs <= EPOCHS_MAX,
                "a number above 0, and at most 10000",
            ),
            (
                "lr",
                self.learning_rate,
                above_zero(self.learning_rate),
                "a number above 0",
            ),
            (
                "warmup",
                self.warmup,
                (0.0..=1.0).contains(&self.warmup),
                "a number from 0 to 1",
            ),
        ];
        if let Some((field, value, _, takes)) = rules.iter().find(|(_, _, holds, _)| !holds) {
            return Err(DistillError::Recipe {
                field,
                value: value.to_string(),
                takes: (*takes).to_owned(),
            });
        }
        match self.spec.shape.within() {
            Err(Refusal::Value { field, value }) => Err(DistillError::Recipe {
                field: field.name,
                value: request::text(&value),
                takes: field.expects(),
            }),
            _ => Ok(()),
        }
    }

    /// The same for more examples in fewer epochs, so that no more than `passes` examples are seen.
    #[must_use]
    pub fn of_passes(mut self, passes: f64, examples: usize) -> Self {
        self.epochs = self.epochs.min((passes / examples.max(1) as f64) as f32);
        self
    }

    /// Steps of one schedule for `examples` examples; at least one.
    pub fn steps(&self, examples: usize) -> u64 {
        let passes = f64::from(self.epochs) * examples as f64;
        ((passes / self.spec.shape.batch as f64).ceil() as u64).max(1)
    }

    /// The learning rate of a step: a linear climb, then what the schedule says.
    pub fn rate(&self, step: u64, steps: u64) -> f32 {
        let warm = (f64::from(self.warmup) * steps as f64).round();
        let progress = (step as f64 - warm) / (steps as f64 - warm).max(1.0);
        let share = match self.schedule {
            _ if (step as f64) < warm => (step + 1) as f64 / warm,
            Schedule::Cosine => {
                FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            Schedule::Linear => 1.0 - progress,
            Schedule::Constant => 1.0,
        };
        (f64::from(self.learning_rate) * share) as f32
    }
}

/// Deals the examples in an order that depends on the seed and the epoch only, so that any step can
/// be dealt again.
pub(super) struct Deck {
    seed: u64,
    examples: usize,
    order: Vec<usize>,
    epoch: Option<usize>,
}

impl Deck {
    pub(super) fn new(seed: u64, examples: usize) -> Self {
        Self {
            seed,
            examples,
            order: (0..examples).collect(),
            epoch: None,
        }
    }

    /// The examples of one step. A step may reach into the next epoch.
    pub(super) fn batch(&mut self, step: u64, size: usize) -> Vec<usize> {
        let first = step as usize * size;
        (first..first + size.min(self.examples))
            .map(|pass| self.at(pass / self.examples, pass % self.examples))
            .collect()
    }

    fn at(&mut self, epoch: usize, place: usize) -> usize {
        if self.epoch != Some(epoch) {
            self.order = (0..self.examples).collect();
            Rng::new(self.seed, &format!("distill epoch {epoch}")).shuffle(&mut self.order);
            self.epoch = Some(epoch);
        }
        self.order[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Blame;
    use crate::request::Shape;

    #[test]
    fn the_narrower_the_model_the_higher_the_rate() {
        for (width, expected) in [(192, 3.1e-3), (576, 1.32e-3), (2000, 5e-4), (4096, 2.86e-4)] {
            assert!(
                (learning_rate(width) / expected - 1.0).abs() < 0.01,
                "{width}: {}",
                learning_rate(width)
            );
        }
        assert!(learning_rate(0).is_finite());
    }

    #[test]
    fn schedules_share_the_climb_and_part_after_it() {
        let rates = |schedule| {
            (0..20)
                .map(|step| {
                    Recipe {
                        schedule,
                        ..recipe()
                    }
                    .rate(step, 20)
                })
                .collect::<Vec<f32>>()
        };
        let (linear, constant) = (rates(Schedule::Linear), rates(Schedule::Constant));
        assert_eq!(&linear[..3], &[0.5, 1.0, 1.0][..]);
        assert_eq!(&constant[..3], &[0.5, 1.0, 1.0][..]);
        assert!(constant[2..].iter().all(|rate| *rate == 1.0));
        let fall = linear[2] - linear[3];
        assert!(
            linear[2..]
                .windows(2)
                .all(|pair| (pair[0] - pair[1] - fall).abs() < 1e-6)
        );
        assert!((linear[19] - fall).abs() < 1e-6);
    }

    fn spec(batch: usize) -> LoraSpec {
        LoraSpec {
            shape: Shape {
                batch,
                ..Shape::default()
            },
            ..LoraSpec::default()
        }
    }

    fn recipe() -> Recipe {
        Recipe {
            spec: spec(4),
            epochs: 2.0,
            learning_rate: 1.0,
            schedule: Schedule::Cosine,
            warmup: 0.1,
            checkpoint_every: 0,
            early_stop: None,
            restarts: 0,
            seed: 3,
        }
    }

    #[test]
    fn every_example_is_dealt_once_an_epoch() {
        let mut deck = Deck::new(3, 10);
        let mut dealt: Vec<usize> = (0..5).flat_map(|step| deck.batch(step, 4)).collect();
        let mut first: Vec<usize> = dealt.drain(..10).collect();
        assert_ne!(first, dealt);
        first.sort_unstable();
        dealt.sort_unstable();
        assert_eq!((first, dealt), ((0..10).collect(), (0..10).collect()));
        assert_eq!(Deck::new(3, 10).batch(3, 4), deck.batch(3, 4));
    }

    #[test]
    fn a_batch_larger_than_the_examples_holds_each_once() {
        let mut batch = Deck::new(1, 3).batch(0, 8);
        batch.sort_unstable();
        assert_eq!(batch, [0, 1, 2]);
    }

    #[test]
    fn the_rate_climbs_then_falls_to_a_tenth() {
        let recipe = recipe();
        assert_eq!(recipe.steps(40), 20);
        let rates: Vec<f32> = (0..20).map(|step| recipe.rate(step, 20)).collect();
        assert_eq!((rates[0], rates[1], rates[2]), (0.5, 1.0, 1.0));
        assert!(rates[2..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!((0.1..0.12).contains(&rates[19]), "{}", rates[19]);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let bad = [
            Recipe {
                spec: spec(0),
                ..recipe()
            },
            Recipe {
                epochs: 0.0,
                ..recipe()
            },
            Recipe {
                epochs: f32::NAN,
                ..recipe()
            },
            Recipe {
                learning_rate: -1.0,
                ..recipe()
            },
            Recipe {
                warmup: 1.5,
                ..recipe()
            },
        ];
        for recipe in bad {
            assert!(
                recipe.check().is_err_and(|error| error.remedy().is_some()),
                "{recipe:?}"
            );
        }
        assert!(recipe().check().is_ok());
    }
}
