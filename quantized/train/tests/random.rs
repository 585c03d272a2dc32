//! Gradients of random models on random examples against the naive reference.
//!
//! `cargo test -p translora-train --test random` runs `CASES` of them; `TRANSLORA_CASES=10000`
//! as many as it says, and `TRANSLORA_SEED=…` begins elsewhere. Case n of seed s is case 0 of seed
//! s + n, so a failing case runs alone with the seed it prints and `TRANSLORA_CASES=1`.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

mod common;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use translora_gguf::TensorKind;
use translora_llama::{Backend, Model, ModelParams, quantize};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape, VOCABULARY, tiny_model};
use translora_train::{Example, ForwardWeights, Kernel, TrainSpec, Trainer};

const CASES: u64 = 200;
const SEED: u64 = 1;

/// Matrices are drawn in these; `llama-quantize` falls back to others where rows do not divide.
const PLAIN: [&str; 3] = ["f32", "f16", "bf16"];
const BLOCKS: [&str; 6] = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"];
const SUPERBLOCKS: [&str; 6] = ["q4_k_m", "q5_k_m", "q6_k", "q2_k", "q3_k_m", "iq4_xs"];
const MODULES: [&str; 7] = ["q", "k", "v", "o", "gate", "up", "down"];

/// What normalizing leaves of a head of two numbers is one direction, whose gradient is all
/// rounding.
const HEAD_LEAST: usize = 8;
/// The trainer takes probabilities in f32: none counts as less likely than its least number, 87
/// nats.
const PROBABILITY_MIN: f64 = f32::MIN_POSITIVE as f64;
/// Cases of a class from which on nine in ten say something.
const TYPICAL: usize = 20;

/// What rounds, and how far gradients may be from the reference: the norm of the difference as a
/// share of the norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Kernels of our own in f32, any weights; ggml's on F32 weights.
    Exact,
    /// Kernels of our own in words of 14 bits.
    Fast,
    /// ggml's on F16 and BF16 weights: activations and gradients are rounded to the same.
    Halves,
    /// ggml's on quantized weights: activations are quantized to 8 bits.
    Quantized,
}

impl Class {
    fn of(kind: &str, forward: ForwardWeights) -> Self {
        match forward {
            ForwardWeights::Direct(kernel) => match kernel.rounding() {
                Some(rounding) if rounding.most > 127.0 => Self::Fast,
                Some(_) if !PLAIN.contains(&kind) => Self::Quantized,
                _ => Self::Exact,
            },
            _ if kind == "f32" => Self::Exact,
            _ if PLAIN.contains(&kind) => Self::Halves,
            _ => Self::Quantized,
        }
    }

    /// A matrix whose gradient is a smaller share than this of the largest is measured against that
    /// share: what roundings leave of sums does not shrink where the sums cancel.
    fn floor(self) -> f64 {
        if self == Self::Exact { 1e-2 } else { 0.1 }
    }

    /// For every matrix of every case. A few tokens through layers of a few numbers leave nothing
    /// for roundings to average out in.
    fn worst(self) -> f64 {
        match self {
            Self::Exact => 1e-4,
            Self::Fast | Self::Halves | Self::Quantized => 0.4,
        }
    }

    /// For the loss of every case.
    fn loss(self) -> f64 {
        match self {
            Self::Exact => 1e-5,
            Self::Fast | Self::Halves => 0.1,
            Self::Quantized => 0.2,
        }
    }

    /// For all matrices together, of nine cases in ten.
    fn typical(self) -> f64 {
        match self {
            Self::Exact => 1e-5,
            Self::Fast | Self::Halves => 2e-2,
            Self::Quantized => 4e-2,
        }
    }
}

struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0.next_u32() as usize % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Between −1 and 1.
    fn signed(&mut self) -> f32 {
        (f64::from(self.0.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
    }

    fn kind(&mut self) -> &'static str {
        match self.below(6) {
            0 | 1 => self.one(&PLAIN),
            2..=4 => self.one(&BLOCKS),
            _ => self.one(&SUPERBLOCKS),
        }
    }

    fn forward(&mut self) -> ForwardWeights {
        match self.below(4) {
            0 => ForwardWeights::Native,
            1 => ForwardWeights::Direct(Kernel::exact()),
            2 => ForwardWeights::Direct(Kernel::fast()),
            _ => ForwardWeights::Direct(self.one(&Kernel::all())),
        }
    }

    fn shape(&mut self, architecture: TinyArchitecture, kind: &str) -> TinyShape {
        // Blocks of quantized rows: 32 numbers, or 256.
        let unit = if PLAIN.contains(&kind) { 8 } else { 32 };
        let heads = self.one(&[1, 2, 4]);
        let kv_heads = self.one(&[1, 2, 4].map(|kv: usize| kv.min(heads)));
        let large = SUPERBLOCKS.contains(&kind);
        let width = if large {
            256
        } else {
            unit * heads.max(1 + self.below(4))
        };
        let free = architecture == TinyArchitecture::Qwen3 && !large;
        let head_length = if free {
            (unit / heads * (1 + self.below(2))).max(HEAD_LEAST)
        } else {
            width / heads
        };
        TinyShape {
            width,
            blocks: if large { 1 } else { 1 + self.below(3) },
            heads,
            kv_heads,
            head_length,
            feed_forward: if large {
                256
            } else {
                unit * (1 + self.below(5))
            },
            vocabulary: VOCABULARY + self.below(60),
            tied: self.below(2) == 0,
            context: 256,
            kind: TensorKind::F32,
        }
    }

    fn spec(&mut self, blocks: usize) -> TrainSpec {
        let chosen: Vec<&str> = MODULES.into_iter().filter(|_| self.below(3) == 0).collect();
        let modules = if chosen.is_empty() {
            "all".into()
        } else {
            chosen.join(",")
        };
        TrainSpec {
            rank: 1 + self.below(8),
            alpha: (1 + self.below(16)) as f32,
            rslora: self.below(4) == 0,
            modules,
            first_block: (self.below(4) == 0).then(|| self.below(blocks) as u32),
            seed: u64::from(self.0.next_u32()),
            micro_batch: self.below(3),
            forward: self.forward(),
            loss_bytes: self.one(&[1, 1 << 14, 64 << 20]),
            ..TrainSpec::default()
        }
    }

    /// Examples that begin alike or not, with and without weights.
    fn examples(&mut self, vocabulary: usize) -> Vec<Example> {
        let shared: Vec<i32> = (0..self.below(8))
            .map(|_| self.below(vocabulary) as i32)
            .collect();
        let example = |_| {
            let (more, completion) = (2 + self.below(10), 1 + self.below(5));
            let mut tokens = shared.clone();
            tokens.extend((0..more + completion).map(|_| self.below(vocabulary) as i32));
            let example = Example::new(tokens, shared.len() + more, 0).unwrap();
            if self.below(2) == 0 {
                return example;
            }
            let mut weights: Vec<f32> = (0..completion)
                .map(|_| self.one(&[0.0, 0.25, 1.0, 3.0]))
                .collect();
            weights[completion - 1] = 1.5;
            example.with_weights(weights)
        };
        (0..5).map(example).collect()
    }
}

/// What a case found.
struct Found {
    class: Class,
    /// Of all matrices.
    worst: f64,
    /// Of all matrices together.
    whole: f64,
    /// Of the loss; of 1 where that is less.
    loss: f64,
    says: String,
}

/// Draw a case, run it, and compare.
fn check(backend: Backend, folder: &Path, seed: u64) -> Found {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
    let (architecture, kind) = (draw.one(&TinyArchitecture::ALL), draw.kind());
    let shape = draw.shape(architecture, kind);
    let spec = draw.spec(shape.blocks);
    let says = format!("{architecture:?} {kind} {shape:?} {spec:?}");
    let (plain, path) = (
        folder.join(format!("{seed}.plain.gguf")),
        folder.join(format!("{seed}.gguf")),
    );
    std::fs::write(&plain, tiny_model(architecture, seed, &shape)).unwrap();
    quantize(backend, &plain, &path, kind).unwrap();
    let model = Model::load(backend, &path, &ModelParams::default()).unwrap();
    let mut trainer = Trainer::new(backend, &model, &spec).unwrap();
    common::change_b(&mut trainer, |_| 0.1 * draw.signed());
    let examples = draw.examples(shape.vocabulary);
    trainer.load(examples.clone()).unwrap();
    let batch: Vec<usize> = (0..1 + draw.below(4))
        .map(|_| draw.below(examples.len()))
        .collect();
    let (report, gradients) = trainer.gradients(&batch).unwrap();
    let batch: Vec<Example> = batch.iter().map(|index| examples[*index].clone()).collect();
    let (loss, theirs) = common::by_reference(&path, &trainer, &batch, |e, token, logits| {
        let (nats, slopes) = common::cross_entropy(&batch[e], token, logits);
        (nats.min(-PROBABILITY_MIN.ln()), slopes)
    });
    let class = Class::of(kind, spec.forward);
    let (worst, whole) = errors(&gradients, &theirs, class.floor());
    for path in [plain, path] {
        std::fs::remove_file(path).unwrap();
    }
    Found {
        class,
        worst,
        whole,
        loss: (report.loss - loss).abs() / loss.max(1.0),
        says,
    }
}

/// The worst relative error of all matrices, and that of all together; not a number where one is
/// not.
fn errors(ours: &[Vec<f32>], theirs: &[Vec<f64>], floor: f64) -> (f64, f64) {
    assert_eq!(theirs.len(), ours.len());
    let norms: Vec<f64> = theirs
        .iter()
        .map(|theirs| common::length(theirs.iter().copied()))
        .collect();
    let largest = norms.iter().copied().fold(0.0, f64::max);
    assert!(largest > 0.0, "no gradient at all");
    let difference = |(ours, theirs): (&Vec<f32>, &Vec<f64>)| {
        assert_eq!(ours.len(), theirs.len());
        common::length(
            ours.iter()
                .zip(theirs.iter())
                .map(|(a, b)| f64::from(*a) - b),
        )
    };
    let differences: Vec<f64> = ours.iter().zip(theirs).map(difference).collect();
    let relative = differences
        .iter()
        .zip(&norms)
        .map(|(difference, norm)| difference / norm.max(floor * largest));
    let worst = relative.fold(0.0, |worst, error| {
        if error > worst || error.is_nan() {
            error
        } else {
            worst
        }
    });
    (worst, common::length(differences) / common::length(norms))
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// The errors of cases, by class, and what went wrong.
#[derive(Default)]
struct Tally {
    wholes: BTreeMap<Class, Vec<f64>>,
    worst: BTreeMap<Class, f64>,
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, seed: u64, found: Found) {
        let Found {
            class,
            worst,
            whole,
            loss,
            says,
        } = found;
        // A NaN is no pass.
        if !(worst <= class.worst() && loss <= class.loss()) {
            self.failures.push(format!(
                "TRANSLORA_SEED={seed}: gradients {worst:.1e}, loss {loss:.1e}, {class:?}: {says}"
            ));
        }
        self.wholes.entry(class).or_default().push(whole);
        let most = self.worst.entry(class).or_default();
        *most = most.max(worst);
    }

    fn judge(&mut self) {
        for (class, wholes) in &mut self.wholes {
            wholes.sort_unstable_by(f64::total_cmp);
            let at = |share: f64| wholes[(wholes.len() as f64 * share) as usize];
            let (median, typical) = (at(0.5), at(0.9));
            eprintln!(
                "{class:?}: {} cases, whole gradients {median:.1e} (nine in ten {typical:.1e} of {}), worst matrix {:.1e} of {}",
                wholes.len(),
                class.typical(),
                self.worst[class],
                class.worst()
            );
            if wholes.len() >= TYPICAL && typical > class.typical() {
                self.failures.push(format!(
                    "{class:?}: one case in ten is off by {typical:.1e}"
                ));
            }
        }
    }
}

#[test]
fn random_gradients_match_the_naive_reference() {
    let (cases, seed) = (
        variable("TRANSLORA_CASES", CASES),
        variable("TRANSLORA_SEED", SEED),
    );
    let (backend, folder) = (Backend::init().unwrap(), tempfile::tempdir().unwrap());
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    let work = || {
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && number < cases
        {
            let seed = seed.wrapping_add(number);
            let found = catch_unwind(AssertUnwindSafe(|| check(backend, folder.path(), seed)));
            let mut tally = tally.lock().unwrap();
            match found {
                Ok(found) => tally.add(seed, found),
                Err(_) => tally
                    .failures
                    .push(format!("TRANSLORA_SEED={seed} panicked")),
            }
        }
    };
    thread::scope(|scope| {
        (0..thread::available_parallelism().map_or(1, usize::from))
            .for_each(|_| drop(scope.spawn(work)));
    });
    let mut tally = tally.into_inner().unwrap();
    tally.judge();
    eprintln!(
        "{cases} cases from seed {seed}, {} failures",
        tally.failures.len()
    );
    assert!(tally.failures.is_empty(), "{}", tally.failures.join("\n"));
}
