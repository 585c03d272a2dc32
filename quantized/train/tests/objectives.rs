//! Each objective against a naive one in f64, and against finite differences, on tiny models.

use std::path::PathBuf;

use translora_gguf::Gguf;
use translora_llama::{Backend, Model, ModelParams, quantize};
use translora_train::testing::reference::{ReferenceLora, ReferenceModel, causal};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape, VOCABULARY, tiny_model};
use translora_train::{
    Divergence, Example, ForwardWeights, Kernel, Objective, Teacher, TrainSpec, Trainer,
};

const DIVERGENCES: [Divergence; 4] = [
    Divergence::Forward,
    Divergence::Reverse,
    Divergence::JensenShannon { teacher: 0.5 },
    Divergence::JensenShannon { teacher: 0.9 },
];

struct Lab {
    _folder: tempfile::TempDir,
    path: PathBuf,
    backend: Backend,
    model: Model,
}

impl Lab {
    fn new() -> Self {
        Self::of("f32")
    }

    fn of(kind: &str) -> Self {
        Self::made(TinyArchitecture::Llama, kind)
    }

    fn made(architecture: TinyArchitecture, kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (plain, path) = (
            folder.path().join("plain.gguf"),
            folder.path().join("tiny.gguf"),
        );
        std::fs::write(&plain, tiny_model(architecture, 3, &TinyShape::default())).unwrap();
        let backend = Backend::init().unwrap();
        quantize(backend, &plain, &path, kind).unwrap();
        let model = Model::load(backend, &path, &ModelParams::default()).unwrap();
        Self {
            _folder: folder,
            path,
            backend,
            model,
        }
    }

    /// A trainer whose B has numbers, so that every gradient is alive. A small budget: several
    /// chunks a pack.
    fn trainer(&self, objective: Objective) -> Trainer {
        self.trainer_by(objective, ForwardWeights::Native)
    }

    fn trainer_by(&self, objective: Objective, forward: ForwardWeights) -> Trainer {
        let spec = TrainSpec {
            rank: 4,
            alpha: 8.0,
            seed: 7,
            forward,
            loss_bytes: 64 << 10,
            objective,
            threads: 2,
            ..TrainSpec::default()
        };
        let mut trainer = Trainer::new(self.backend, &self.model, &spec).unwrap();
        let mut adapter = trainer.adapter().clone();
        let mut random = Random(1);
        adapter
            .pairs
            .iter_mut()
            .flat_map(|pair| &mut pair.b)
            .for_each(|b| *b = (random.unit() as f32 - 0.5) * 0.1);
        trainer.set_adapter(adapter).unwrap();
        trainer
    }
}

struct Random(u32);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 8) / f64::from(1 << 24)
    }
}

/// Three examples with a shared prefix, different lengths, and weights (one of them zero).
fn examples() -> Vec<Example> {
    let mut random = Random(11);
    let example = |(prompt, completion): (usize, usize)| {
        let mut tokens = vec![5, 9, 12];
        tokens.extend((3..prompt + completion).map(|_| (random.unit() * 250.0) as i32));
        let weights = (0..completion)
            .map(|i| [1.0, 0.25, 2.0, 0.0][i % 4])
            .collect();
        Example::new(tokens, prompt, 0)
            .unwrap()
            .with_weights(weights)
    };
    [(6, 5), (9, 4), (7, 8)].map(example).into()
}

fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = logits
        .iter()
        .map(|z| ((z - top) / temperature).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// Peaked random distributions, as a teacher's are, one for each completion token.
fn distributions(examples: &[Example], temperature: f64) -> Vec<Vec<Vec<f32>>> {
    let mut random = Random(5);
    let mut one = || {
        let logits: Vec<f64> = (0..VOCABULARY)
            .map(|_| 8.0 * random.unit().powi(2))
            .collect();
        softmax(&logits, temperature)
            .iter()
            .map(|p| *p as f32)
            .collect()
    };
    examples
        .iter()
        .map(|example| (0..example.outputs()).map(|_| one()).collect())
        .collect()
}

/// The `width` likeliest words of a distribution; every second token has one less, so that widths
/// differ.
fn likeliest(distribution: &[f32], width: usize) -> Vec<(i32, f32)> {
    let mut words: Vec<(i32, f32)> = distribution
        .iter()
        .enumerate()
        .map(|(word, p)| (word as i32, *p))
        .collect();
    words.sort_by(|a, b| b.1.total_cmp(&a.1));
    words.truncate(width);
    words
}

fn uneven(distributions: &[Vec<f32>], width: usize) -> Teacher {
    Teacher::Likeliest(
        distributions
            .iter()
            .enumerate()
            .map(|(i, row)| likeliest(row, width - (i % 2).min(width - 1)))
            .collect(),
    )
}

/// A loss of one token's logits, written out: over the buckets a teacher names and one for the
/// rest.
fn naive(divergence: Divergence, temperature: f64, logits: &[f64], words: &[(i32, f32)]) -> f64 {
    let p = softmax(logits, temperature);
    let mut buckets: Vec<(f64, f64)> = words
        .iter()
        .map(|(word, q)| (f64::from(*q), p[*word as usize]))
        .collect();
    let mut others = p.clone();
    words
        .iter()
        .for_each(|(word, _)| others[*word as usize] = 0.0);
    let rest: f64 = others.iter().sum();
    let q_rest = 1.0 - words.iter().map(|(_, q)| f64::from(*q)).sum::<f64>();
    if words.len() < p.len() {
        buckets.push((q_rest.max(0.0), rest));
    }
    let kl = |pairs: &[(f64, f64)]| {
        pairs
            .iter()
            .map(|(a, b)| if *a == 0.0 { 0.0 } else { a * (a / b).ln() })
            .sum::<f64>()
    };
    let swapped: Vec<(f64, f64)> = buckets.iter().map(|(q, p)| (*p, *q)).collect();
    let divergence = match divergence {
        Divergence::Forward => kl(&buckets),
        Divergence::Reverse => kl(&swapped),
        Divergence::JensenShannon { teacher } => {
            let b = f64::from(teacher);
            let against = |pairs: &[(f64, f64)], own: f64| {
                kl(&pairs
                    .iter()
                    .map(|(x, y)| (*x, own * x + (1.0 - own) * y))
                    .collect::<Vec<_>>())
            };
            b * against(&buckets, b) + (1.0 - b) * against(&swapped, 1.0 - b)
        }
    };
    temperature * temperature * divergence
}

/// Mean loss and gradients by the reference, with derivatives by the logits from differences of the
/// naive loss.
fn by_reference(
    lab: &Lab,
    trainer: &Trainer,
    examples: &[Example],
    loss_of: &dyn Fn(usize, usize, &[f64]) -> f64,
) -> (f64, Vec<Vec<f64>>) {
    let bytes = std::fs::read(&lab.path).unwrap();
    let reference = ReferenceModel::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap();
    let adapter = trainer.to_gguf(&[]).unwrap();
    let lora = ReferenceLora::from_gguf(&Gguf::parse(&adapter).unwrap()).unwrap();
    let weight = |example: &Example, token: usize| {
        example
            .weights
            .as_ref()
            .map_or(1.0, |weights| f64::from(weights[token]))
    };
    let total: f64 = examples
        .iter()
        .map(|example| {
            (0..example.outputs())
                .map(|token| weight(example, token))
                .sum::<f64>()
        })
        .sum();
    let (mut loss, mut sums) = (0.0, Vec::new());
    for (e, example) in examples.iter().enumerate() {
        let tokens: Vec<u32> = example.tokens[..example.inputs()]
            .iter()
            .map(|token| *token as u32)
            .collect();
        let positions: Vec<i32> = (0..tokens.len() as i32).collect();
        let judge = |at: usize, logits: &[f64]| {
            let token = (at + 1).checked_sub(example.completion)?;
            let share = weight(example, token) / total;
            let mut logits = logits.to_vec();
            let mut slopes = Vec::new();
            for j in 0..logits.len() {
                let (z, size) = (logits[j], 1e-4);
                let mut at = |z: f64| {
                    logits[j] = z;
                    loss_of(e, token, &logits)
                };
                let slope = (at(z + size) - at(z - size)) / (2.0 * size);
                logits[j] = z;
                slopes.push(share * slope);
            }
            Some((share * loss_of(e, token, &logits), slopes))
        };
        let (part, gradients) = reference
            .loss_and_gradients_by(&lora, &tokens, &positions, &causal, &judge)
            .unwrap();
        loss += part;
        let flat: Vec<Vec<f64>> = trainer
            .adapter()
            .pairs
            .iter()
            .flat_map(|pair| {
                let (a, b) = gradients[&pair.target.name].clone();
                [a, b]
            })
            .collect();
        if sums.is_empty() {
            sums = flat;
        } else {
            sums.iter_mut()
                .flatten()
                .zip(flat.iter().flatten())
                .for_each(|(sum, more)| *sum += more);
        }
    }
    (loss, sums)
}

fn norm<'a>(values: impl IntoIterator<Item = &'a f32>) -> f64 {
    values
        .into_iter()
        .map(|g| f64::from(*g).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// The worst norm of a difference, as a share of the norm.
fn worst(ours: &[Vec<f32>], theirs: &[Vec<f64>]) -> f64 {
    let error = |(ours, theirs): (&Vec<f32>, &Vec<f64>)| {
        let norm = theirs.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(norm > 0.0);
        ours.iter()
            .zip(theirs)
            .map(|(a, b)| (f64::from(*a) - b).powi(2))
            .sum::<f64>()
            .sqrt()
            / norm
    };
    ours.iter().zip(theirs).map(error).fold(0.0, f64::max)
}

/// Along the gradient the loss rises by the gradient's norm.
fn check_slope(trainer: &mut Trainer, gradients: &[Vec<f32>], what: &str) {
    let base = trainer.adapter().clone();
    let norm = norm(gradients.iter().flatten());
    let mut at = |step: f64| {
        let mut adapter = base.clone();
        let values = adapter
            .pairs
            .iter_mut()
            .flat_map(|pair| [&mut pair.a, &mut pair.b]);
        for (value, g) in values.flatten().zip(gradients.iter().flatten()) {
            *value += (step * f64::from(*g) / norm) as f32;
        }
        trainer.set_adapter(adapter).unwrap();
        trainer.loss(&[0, 1, 2]).unwrap().loss
    };
    let mut quotient = |size: f64| (at(size) - at(-size)) / (2.0 * size);
    // Two sizes cancel the third derivative; smaller ones drown in the rounding of the loss.
    let slope = (4.0 * quotient(1e-2) - quotient(2e-2)) / 3.0;
    trainer.set_adapter(base).unwrap();
    assert!(
        (slope - norm).abs() < 2e-2 * norm,
        "{what}: {slope} against {norm}"
    );
}

#[test]
fn divergences_are_those_of_the_naive_reference() {
    let lab = Lab::new();
    for (divergence, temperature) in DIVERGENCES.into_iter().zip([1.0_f32, 2.0, 0.7, 1.0]) {
        let mut trainer = lab.trainer(Objective::Match {
            divergence,
            temperature,
        });
        let plain = examples();
        let teachers = distributions(&plain, f64::from(temperature));
        for width in [1, 3, 40, VOCABULARY, 0] {
            let signal = |rows: &Vec<Vec<f32>>| {
                if width == 0 {
                    Teacher::All(rows.clone())
                } else {
                    uneven(rows, width)
                }
            };
            let taught: Vec<Example> = plain
                .iter()
                .zip(&teachers)
                .map(|(example, rows)| example.clone().with_teacher(signal(rows)))
                .collect();
            trainer.load(taught.clone()).unwrap();
            let (report, ours) = trainer.gradients(&[0, 1, 2]).unwrap();
            let loss_of = |e: usize, token: usize, logits: &[f64]| {
                let words = match &taught[e].teacher {
                    Some(Teacher::Likeliest(tokens)) => tokens[token].clone(),
                    _ => likeliest(&teachers[e][token], VOCABULARY),
                };
                naive(divergence, f64::from(temperature), logits, &words)
            };
            let (loss, theirs) = by_reference(&lab, &trainer, &plain, &loss_of);
            let error = worst(&ours, &theirs);
            let what = format!("{divergence:?}, temperature {temperature}, width {width}");
            eprintln!(
                "{what}: loss {:.6} against {loss:.6}, worst gradient error {error:.1e}",
                report.loss
            );
            assert!(
                (report.loss - loss).abs() < 1e-4 * loss,
                "{what}: {} against {loss}",
                report.loss
            );
            assert!(error < 1e-3, "{what}: {error}");
            check_slope(&mut trainer, &ours, &what);
        }
    }
}

#[test]
fn text_with_token_weights_is_that_of_the_naive_reference() {
    let lab = Lab::new();
    let mut trainer = lab.trainer(Objective::Text);
    let examples = examples();
    trainer.load(examples.clone()).unwrap();
    let (report, ours) = trainer.gradients(&[0, 1, 2]).unwrap();
    let loss_of = |e: usize, token: usize, logits: &[f64]| {
        -softmax(logits, 1.0)[examples[e].tokens[examples[e].completion + token] as usize].ln()
    };
    let (loss, theirs) = by_reference(&lab, &trainer, &examples, &loss_of);
    assert!(
        (report.loss - loss).abs() < 1e-5 * loss,
        "{} against {loss}",
        report.loss
    );
    assert!(worst(&ours, &theirs) < 1e-3);
    assert_eq!(report.completion_tokens, 17);
    assert!((report.weight - 14.0).abs() < 1e-6, "{}", report.weight);
    // A token of weight zero may be anything.
    let mut other = examples;
    let token = other[1].completion + 3;
    other[1].tokens[token] += 1;
    trainer.load(other).unwrap();
    assert_eq!(trainer.loss(&[0, 1, 2]).unwrap().loss, report.loss);
}

#[test]
fn condensed_is_the_divergence_over_the_whole_vocabulary() {
    let (exact, fast) = (
        ForwardWeights::Direct(Kernel::exact()),
        ForwardWeights::Direct(Kernel::fast()),
    );
    for (kind, forward, tolerance) in [
        ("f32", ForwardWeights::Native, 1e-4),
        ("q8_0", ForwardWeights::Native, 1e-2),
        ("q8_0", exact, 1e-4),
        ("q8_0", fast, 2e-2),
    ] {
        let lab = Lab::of(kind);
        let plain = examples();
        let teachers = distributions(&plain, 1.0);
        let mut whole = lab.trainer_by(
            Objective::Match {
                divergence: Divergence::Forward,
                temperature: 1.0,
            },
            forward,
        );
        whole
            .load(
                plain
                    .iter()
                    .zip(&teachers)
                    .map(|(example, rows)| example.clone().with_teacher(Teacher::All(rows.clone())))
                    .collect(),
            )
            .unwrap();
        let mut condensed = lab.trainer_by(Objective::Condensed, forward);
        let taught = plain.iter().zip(&teachers).map(|(example, rows)| {
            example
                .clone()
                .with_teacher(Teacher::Condensed(condensed.condense(rows).unwrap()))
        });
        let taught = taught.collect();
        condensed.load(taught).unwrap();
        let (one, left) = whole.gradients(&[0, 1, 2]).unwrap();
        let (two, right) = condensed.gradients(&[0, 1, 2]).unwrap();
        let left: Vec<Vec<f64>> = left
            .iter()
            .map(|g| g.iter().map(|x| f64::from(*x)).collect())
            .collect();
        eprintln!(
            "{kind} {forward:?}: loss {} and {}, worst gradient error {:.1e}",
            one.loss,
            two.loss,
            worst(&right, &left)
        );
        assert!(
            (one.loss - two.loss).abs() < tolerance * one.loss,
            "{} against {}",
            one.loss,
            two.loss
        );
        assert!(worst(&right, &left) < tolerance, "{}", worst(&right, &left));
        if kind == "f32" {
            check_slope(&mut condensed, &right, "condensed");
        }
    }
}

/// Where the teacher is the student there is nothing to learn.
#[test]
fn a_teacher_like_the_student_gives_no_gradient() {
    let lab = Lab::new();
    let mut text = lab.trainer(Objective::Text);
    let plain = examples();
    text.load(plain.clone()).unwrap();
    let wide = |row: Vec<f32>| row.into_iter().map(f64::from).collect::<Vec<f64>>();
    let logits: Vec<Vec<Vec<f64>>> = (0..3)
        .map(|i| text.logits(i).unwrap().into_iter().map(wide).collect())
        .collect();
    let own = |temperature: f64| -> Vec<Vec<Vec<f32>>> {
        let row = |row: &Vec<f64>| {
            softmax(row, temperature)
                .into_iter()
                .map(|p| p as f32)
                .collect()
        };
        logits
            .iter()
            .map(|rows| rows.iter().map(row).collect())
            .collect()
    };
    let strangers = distributions(&plain, 1.0);
    let compare = |objective: Objective,
                   signal: &mut dyn FnMut(&mut Trainer, &[Vec<f32>]) -> Teacher,
                   temperature: f64| {
        let mut trainer = lab.trainer(objective);
        let mut norm_with = |teachers: &[Vec<Vec<f32>>]| {
            let taught = plain
                .iter()
                .zip(teachers)
                .map(|(example, rows)| example.clone().with_teacher(signal(&mut trainer, rows)))
                .collect();
            trainer.load(taught).unwrap();
            let (report, gradients) = trainer.gradients(&[0, 1, 2]).unwrap();
            (report.loss, norm(gradients.iter().flatten()))
        };
        let ((loss, here), (_, there)) = (norm_with(&own(temperature)), norm_with(&strangers));
        eprintln!("{objective:?}: loss {loss:.1e}, gradient {here:.1e} against {there:.1e}");
        assert!(loss.abs() < 1e-5, "{objective:?}: {loss}");
        assert!(here < 1e-4 * there, "{objective:?}: {here} against {there}");
    };
    for divergence in DIVERGENCES {
        let objective = Objective::Match {
            divergence,
            temperature: 1.0,
        };
        compare(objective, &mut |_, rows| Teacher::All(rows.to_vec()), 1.0);
        compare(objective, &mut |_, rows| uneven(rows, 8), 1.0);
    }
    compare(
        Objective::Match {
            divergence: Divergence::Forward,
            temperature: 3.0,
        },
        &mut |_, rows| uneven(rows, 8),
        3.0,
    );
    compare(
        Objective::Condensed,
        &mut |trainer, rows| Teacher::Condensed(trainer.condense(rows).unwrap()),
        1.0,
    );
}

/// The mean loss of logits that the trainer gives, by the naive losses.
fn by_logits(
    trainer: &mut Trainer,
    examples: &[Example],
    loss_of: &dyn Fn(usize, usize, &[f64]) -> f64,
) -> f64 {
    let (mut sum, mut total) = (0.0, 0.0);
    for (e, example) in examples.iter().enumerate() {
        for (token, row) in trainer.logits(e).unwrap().iter().enumerate() {
            let weight = example
                .weights
                .as_ref()
                .map_or(1.0, |weights| f64::from(weights[token]));
            sum += weight
                * loss_of(
                    e,
                    token,
                    &row.iter().map(|z| f64::from(*z)).collect::<Vec<f64>>(),
                );
            total += weight;
        }
    }
    sum / total
}

/// Logits that are scaled after the product with the output matrix, or go through a tanh: the
/// gradient passes all of it.
#[test]
fn heads_with_a_tail_are_differentiated_too() {
    let plain = examples();
    let teachers = distributions(&plain, 2.0);
    let whole = distributions(&plain, 1.0);
    for architecture in [TinyArchitecture::Granite, TinyArchitecture::Gemma2] {
        for forward in [
            ForwardWeights::Native,
            ForwardWeights::Direct(Kernel::exact()),
        ] {
            let lab = Lab::made(architecture, "f32");
            let mut text = lab.trainer_by(Objective::Text, forward);
            text.load(plain.clone()).unwrap();
            let label = |e: usize, token: usize, z: &[f64]| {
                -softmax(z, 1.0)[plain[e].tokens[plain[e].completion + token] as usize].ln()
            };
            let objective = Objective::Match {
                divergence: Divergence::Reverse,
                temperature: 2.0,
            };
            let mut reverse = lab.trainer_by(objective, forward);
            reverse
                .load(
                    plain
                        .iter()
                        .zip(&teachers)
                        .map(|(example, rows)| example.clone().with_teacher(uneven(rows, 5)))
                        .collect(),
                )
                .unwrap();
            let words = |e: usize, token: usize| likeliest(&teachers[e][token], 5 - token % 2);
            let divergence = |e: usize, token: usize, z: &[f64]| {
                naive(Divergence::Reverse, 2.0, z, &words(e, token))
            };
            type Naive<'a> = &'a dyn Fn(usize, usize, &[f64]) -> f64;
            for (trainer, naive, what) in [
                (&mut text, &label as Naive<'_>, "text"),
                (&mut reverse, &divergence, "reverse"),
            ] {
                let (report, gradients) = trainer.gradients(&[0, 1, 2]).unwrap();
                let loss = by_logits(trainer, &plain, naive);
                eprintln!(
                    "{architecture:?} {forward:?} {what}: loss {:.6} against {loss:.6}",
                    report.loss
                );
                assert!(
                    (report.loss - loss).abs() < 1e-5 * loss,
                    "{architecture:?} {what}: {} against {loss}",
                    report.loss
                );
                check_slope(trainer, &gradients, what);
            }
            let spec = TrainSpec {
                objective: Objective::Condensed,
                forward,
                ..TrainSpec::default()
            };
            let condensed = Trainer::new(lab.backend, &lab.model, &spec);
            if architecture == TinyArchitecture::Gemma2 {
                let error = condensed.err().unwrap().to_string();
                assert!(
                    error.contains("TANH") && error.contains("likeliest"),
                    "{error}"
                );
                continue;
            }
            let mut condensed = lab.trainer_by(Objective::Condensed, forward);
            let signal: Vec<Teacher> = whole
                .iter()
                .map(|rows| Teacher::Condensed(condensed.condense(rows).unwrap()))
                .collect();
            condensed
                .load(
                    plain
                        .iter()
                        .zip(signal)
                        .map(|(example, signal)| example.clone().with_teacher(signal))
                        .collect(),
                )
                .unwrap();
            let (report, gradients) = condensed.gradients(&[0, 1, 2]).unwrap();
            let kl = |e: usize, token: usize, z: &[f64]| {
                naive(
                    Divergence::Forward,
                    1.0,
                    z,
                    &likeliest(&whole[e][token], VOCABULARY),
                )
            };
            let loss = by_logits(&mut condensed, &plain, &kl);
            assert!(
                (report.loss - loss).abs() < 1e-4 * loss,
                "{} against {loss}",
                report.loss
            );
            check_slope(&mut condensed, &gradients, "condensed");
        }
    }
}

#[test]
fn signals_that_do_not_fit_are_refused() {
    let lab = Lab::new();
    let one = || Example::new(vec![1, 2, 3, 4], 2, 0).unwrap();
    let likeliest = |words: &[(i32, f32)]| Teacher::Likeliest(vec![words.to_vec(); 2]);
    let mut trainer = lab.trainer(Objective::Match {
        divergence: Divergence::Forward,
        temperature: 1.0,
    });
    trainer
        .load(vec![one().with_teacher(likeliest(&[(3, 0.5), (1, 0.5)]))])
        .unwrap();
    for (example, word) in [
        (one(), "needs a teacher"),
        (
            one().with_teacher(Teacher::Condensed(Vec::new())),
            "another kind",
        ),
        (
            one().with_teacher(Teacher::Likeliest(vec![vec![(1, 0.5)]])),
            "number of tokens",
        ),
        (one().with_teacher(likeliest(&[])), "says nothing"),
        (
            one().with_teacher(likeliest(&[(1, 0.5), (1, 0.1)])),
            "twice",
        ),
        (
            one().with_teacher(likeliest(&[(259, 0.5)])),
            "another vocabulary",
        ),
        (
            one().with_teacher(likeliest(&[(-1, 0.5)])),
            "another vocabulary",
        ),
        (
            one().with_teacher(likeliest(&[(1, 0.6), (2, 0.6)])),
            "add up",
        ),
        (one().with_teacher(likeliest(&[(1, f32::NAN)])), "add up"),
        (
            one().with_teacher(Teacher::All(vec![vec![0.001; VOCABULARY]; 2])),
            "add up",
        ),
        (
            one().with_teacher(Teacher::All(vec![vec![1.0]; 2])),
            "another vocabulary",
        ),
        (
            one()
                .with_weights(vec![1.0])
                .with_teacher(likeliest(&[(1, 0.5)])),
            "number of weights",
        ),
        (
            one()
                .with_weights(vec![1.0, -1.0])
                .with_teacher(likeliest(&[(1, 0.5)])),
            "below zero",
        ),
    ] {
        let error = trainer.load(vec![example.clone()]).unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains("example 0"),
            "{error} for {example:?}"
        );
    }
    let mixed = vec![
        one().with_teacher(likeliest(&[(1, 0.5)])),
        one().with_teacher(Teacher::All(vec![vec![1.0 / 259.0; VOCABULARY]; 2])),
    ];
    assert!(
        trainer
            .load(mixed)
            .unwrap_err()
            .to_string()
            .contains("example 1")
    );
    // What was loaded before is still there.
    assert!(trainer.loss(&[0]).unwrap().loss.is_finite());
    let spec = |objective| TrainSpec {
        objective,
        ..TrainSpec::default()
    };
    for objective in [
        Objective::Match {
            divergence: Divergence::Forward,
            temperature: 0.0,
        },
        Objective::Match {
            divergence: Divergence::JensenShannon { teacher: 1.0 },
            temperature: 1.0,
        },
    ] {
        assert!(Trainer::new(lab.backend, &lab.model, &spec(objective)).is_err());
    }
    assert!(
        trainer
            .condense(&[vec![1.0]])
            .unwrap_err()
            .to_string()
            .contains("vocabulary of 259")
    );
}
