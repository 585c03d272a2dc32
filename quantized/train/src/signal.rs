//! An objective as graph nodes: from the logits of a few outputs to their loss and the gradient for
//! them.
//!
//! p is the student's softmax (at the objective's temperature t), q the teacher's. Every gradient
//! is a multiple of p, with other values at the words that the signal names: written there instead
//! of adding up one-hot vectors.

use translora_llama::{Compute, Dtype, Graph, LlamaError, Tensor};

use crate::error::TrainError;
use crate::goal::Goal;
use crate::objective::{Condensed, Divergence, Objective, PROBABILITY_MIN, TINY, Teacher};
use crate::pack::{Example, Packed};

/// The inputs and results of one objective for a few outputs.
pub(crate) enum Signal {
    Text {
        /// Row of each label among these outputs' words in one column.
        rows: Tensor,
        /// shapes: [1, outputs]
        probability: Tensor,
    },
    Condensed {
        rows: Tensor,
        /// shapes: [hidden, outputs]
        vectors: Tensor,
        /// p and the logit of the label, and the vector times the hidden state. shapes: [1,
        /// outputs]
        probability: Tensor,
        logit: Tensor,
        product: Tensor,
    },
    Likeliest {
        rows: Tensor,
        divergence: Divergence,
        temperature: f32,
        /// q of the named words. shapes: [width, outputs]; absent where no gradient is taken, as
        /// the two below.
        teacher: Option<Tensor>,
        /// 1, and 0 for words that only fill up the width; absent where nothing is summed over
        /// them.
        real: Option<Tensor>,
        /// q of all other words together. shapes: [1, outputs]
        teacher_rest: Option<Tensor>,
        /// p of the named words. shapes: [1, width · outputs]
        student: Tensor,
        student_rest: Tensor,
        width: usize,
    },
    All {
        temperature: f32,
        /// shapes: [vocabulary, outputs]
        teacher: Tensor,
        /// shapes: [1, outputs]
        loss: Tensor,
    },
}

/// The outputs of a program that one signal is for, with their examples.
pub(crate) struct Place<'a> {
    pub packed: &'a Packed,
    pub run: &'a [&'a Example],
    pub outputs: std::ops::Range<usize>,
    pub vocabulary: usize,
}

type Built = Result<(Signal, Option<Tensor>), LlamaError>;

impl Signal {
    /// Append the nodes of an objective. With `weights` ([1, outputs]) the second result is the
    /// gradient for the logits, times the weights unless `is_unweighted`.
    pub fn new(
        graph: &mut Graph,
        goal: Goal,
        logits: Tensor,
        hidden: Tensor,
        weights: Option<Tensor>,
    ) -> Built {
        match goal.objective {
            Objective::Text => text(graph, logits, weights.is_some()),
            Objective::Condensed => condensed(graph, logits, hidden, weights.is_some()),
            Objective::Match {
                divergence,
                temperature,
            } => {
                let logits = if temperature == 1.0 {
                    logits
                } else {
                    graph.scale(logits, 1.0 / temperature, 0.0)?
                };
                match goal.width {
                    0 => all(graph, divergence, temperature, logits, weights),
                    width => likeliest(graph, (divergence, temperature, width), logits, weights),
                }
            }
        }
    }

    /// The gradient for the logits does not have the weights in it yet.
    pub fn is_unweighted(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::Condensed { .. })
    }

    /// What a signal says of the hidden state itself, once the logits' gradient has come down to
    /// it. `weights` as far as that has them.
    pub fn at_hidden(
        &self,
        graph: &mut Graph,
        gradient: Tensor,
        weights: Option<Tensor>,
    ) -> Result<Tensor, LlamaError> {
        let Self::Condensed { vectors, .. } = self else {
            return Ok(gradient);
        };
        let vectors = weights.map_or(Ok(*vectors), |weights| graph.mul(*vectors, weights))?;
        let gradient = graph.dense(gradient)?;
        graph.sub(gradient, vectors)
    }

    pub fn fill(
        &self,
        compute: &mut Compute,
        graph: &Graph,
        place: &Place<'_>,
    ) -> Result<(), TrainError> {
        let words = place.vocabulary as i64 * place.outputs.len() as i64;
        match self {
            Self::Text { rows, .. } => compute.set_ids(graph, *rows, &place.label_rows(), words)?,
            Self::Condensed { rows, vectors, .. } => {
                compute.set_ids(graph, *rows, &place.label_rows(), words)?;
                let width = usize::try_from(graph.shape(*vectors)?[0]).unwrap_or(0);
                let mut values = vec![0.0; width * place.outputs.len()];
                for (values, at) in values.chunks_exact_mut(width).zip(place.outputs.clone()) {
                    let Some(token) = place.condensed(at) else {
                        continue;
                    };
                    if token.vector.len() != width {
                        let reason = format!(
                            "its teacher's vectors have {} numbers, this model's {width}",
                            token.vector.len()
                        );
                        return Err(TrainError::Objective { reason });
                    }
                    values.copy_from_slice(&token.vector);
                }
                compute.set_f32(graph, *vectors, &values)?;
            }
            Self::Likeliest {
                rows,
                teacher,
                real,
                teacher_rest,
                width,
                divergence,
                ..
            } => {
                let filled = place.likeliest(*width);
                compute.set_ids(graph, *rows, &filled.rows, words)?;
                let least = if *divergence == Divergence::Reverse {
                    PROBABILITY_MIN
                } else {
                    0.0
                };
                let floored =
                    |values: &[f32]| values.iter().map(|q| q.max(least)).collect::<Vec<f32>>();
                let (q, q_rest) = (floored(&filled.teacher), floored(&filled.rest));
                for (input, values) in
                    [(teacher, &q), (real, &filled.real), (teacher_rest, &q_rest)]
                {
                    if let Some(input) = input {
                        compute.set_f32(graph, *input, values)?;
                    }
                }
            }
            Self::All { teacher, .. } => {
                let mut values = Vec::with_capacity(place.vocabulary * place.outputs.len());
                for at in place.outputs.clone() {
                    match place.all(at) {
                        Some(token) => values.extend_from_slice(token),
                        None => values.resize(values.len() + place.vocabulary, 0.0),
                    }
                }
                compute.set_f32(graph, *teacher, &values)?;
            }
        }
        Ok(())
    }

    /// The loss of each output, before its weight. units: nats
    pub fn losses(
        &self,
        compute: &Compute,
        graph: &Graph,
        place: &Place<'_>,
    ) -> Result<Vec<f64>, LlamaError> {
        let log = |p: &f32| {
            if p.is_nan() {
                f64::NAN
            } else {
                f64::from(p.max(f32::MIN_POSITIVE)).ln()
            }
        };
        Ok(match self {
            Self::Text { probability, .. } => compute
                .get_f32(graph, *probability)?
                .iter()
                .map(|p| -log(p))
                .collect(),
            Self::Condensed {
                probability,
                logit,
                product,
                ..
            } => {
                let [probability, logit, product] = [
                    compute.get_f32(graph, *probability)?,
                    compute.get_f32(graph, *logit)?,
                    compute.get_f32(graph, *product)?,
                ];
                let one = |((at, p), (logit, product)): ((usize, &f32), (&f32, &f32))| {
                    let total = f64::from(*logit) - log(p);
                    place.condensed(at).map_or(0.0, |token| {
                        f64::from(token.negative_entropy) + total - f64::from(*product)
                    })
                };
                place
                    .outputs
                    .clone()
                    .zip(&probability)
                    .zip(logit.iter().zip(&product))
                    .map(one)
                    .collect()
            }
            Self::Likeliest {
                student,
                student_rest,
                width,
                divergence,
                temperature,
                ..
            } => {
                let (student, rest) = (
                    compute.get_f32(graph, *student)?,
                    compute.get_f32(graph, *student_rest)?,
                );
                let squared = f64::from(*temperature).powi(2);
                let one = |words: Vec<(f64, f64)>| squared * divergence.between(words.into_iter());
                let words = place.pairs(*width, &student, &rest);
                words.into_iter().map(one).collect()
            }
            Self::All {
                loss, temperature, ..
            } => {
                let squared = f64::from(*temperature).powi(2);
                compute
                    .get_f32(graph, *loss)?
                    .iter()
                    .map(|loss| squared * f64::from(*loss))
                    .collect()
            }
        })
    }
}

/// Gradient p − 1 at the label, p elsewhere.
fn text(graph: &mut Graph, logits: Tensor, wanted: bool) -> Built {
    let [vocabulary, count, ..] = graph.shape(logits)?;
    let rows = graph.input(Dtype::I32, &[count], "label_rows")?;
    let p = graph.soft_max(logits)?;
    let column = graph.reshape(p, [1, vocabulary * count, 1, 1])?;
    let probability = graph.get_rows(column, rows)?;
    graph.output(probability)?;
    let signal = Signal::Text { rows, probability };
    if !wanted {
        return Ok((signal, None));
    }
    let lower = graph.scale(probability, 1.0, -1.0)?;
    let column = graph.set_rows(column, lower, rows)?;
    Ok((
        signal,
        Some(graph.reshape(column, [vocabulary, count, 1, 1])?),
    ))
}

/// Gradient p; the teacher's part comes in at the hidden state. ln Σ exp of the logits is the
/// label's logit less ln p(label).
fn condensed(graph: &mut Graph, logits: Tensor, hidden: Tensor, wanted: bool) -> Built {
    let [vocabulary, count, ..] = graph.shape(logits)?;
    let [width, ..] = graph.shape(hidden)?;
    let rows = graph.input(Dtype::I32, &[count], "label_rows")?;
    let vectors = graph.input(Dtype::F32, &[width, count], "condensed")?;
    let column = graph.reshape(logits, [1, vocabulary * count, 1, 1])?;
    let logit = graph.get_rows(column, rows)?;
    graph.output(logit)?;
    let p = graph.soft_max(logits)?;
    let column = graph.reshape(p, [1, vocabulary * count, 1, 1])?;
    let probability = graph.get_rows(column, rows)?;
    graph.output(probability)?;
    let product = graph.mul(vectors, hidden)?;
    let product = graph.sum_rows(product)?;
    graph.output(product)?;
    Ok((
        Signal::Condensed {
            rows,
            vectors,
            probability,
            logit,
            product,
        },
        wanted.then_some(p),
    ))
}

/// ln of probabilities that may be zero.
fn log(graph: &mut Graph, p: Tensor, least: f32) -> Result<Tensor, LlamaError> {
    let p = graph.clamp(p, least, f32::MAX)?;
    graph.log(p)
}

/// Over the named words and the rest as one: with g the slope of the divergence by p, t p (g − Σ p
/// g) at a word, and the same multiple of p at all others, t (g − Σ p g) with the rest's g. For the
/// forward divergence that is t (p − q) and t (1 − q rest / p rest).
fn likeliest(
    graph: &mut Graph,
    what: (Divergence, f32, usize),
    logits: Tensor,
    weights: Option<Tensor>,
) -> Built {
    let (divergence, temperature, width) = what;
    let [vocabulary, count, ..] = graph.shape(logits)?;
    let k = i64::try_from(width).unwrap_or(1);
    let rows = graph.input(Dtype::I32, &[k * count], "words")?;
    let p = graph.soft_max(logits)?;
    let column = graph.reshape(p, [1, vocabulary * count, 1, 1])?;
    let student = graph.get_rows(column, rows)?;
    graph.output(student)?;
    // Summed without the named words: 1 − Σ p would lose a small rest to rounding.
    let nothing = graph.scale(student, 0.0, 0.0)?;
    let cleared = graph.set_rows(column, nothing, rows)?;
    let others = graph.reshape(cleared, [vocabulary, count, 1, 1])?;
    let student_rest = graph.sum_rows(others)?;
    graph.output(student_rest)?;
    let mut signal = Signal::Likeliest {
        rows,
        divergence,
        temperature,
        teacher: None,
        real: None,
        teacher_rest: None,
        student,
        student_rest,
        width,
    };
    let Some(weights) = weights else {
        return Ok((signal, None));
    };
    let (q, q_rest) = (
        graph.input(Dtype::F32, &[k, count], "teacher")?,
        graph.input(Dtype::F32, &[1, count], "teacher_rest")?,
    );
    if let Signal::Likeliest {
        teacher,
        teacher_rest,
        ..
    } = &mut signal
    {
        (*teacher, *teacher_rest) = (Some(q), Some(q_rest));
    }
    let own = graph.reshape(student, [k, count, 1, 1])?;
    let (values, multiple) = if divergence == Divergence::Forward {
        let values = graph.sub(own, q)?;
        let rest = graph.clamp(student_rest, TINY, f32::MAX)?;
        let ratio = graph.div(q_rest, rest)?;
        (values, graph.scale(ratio, -1.0, 1.0)?)
    } else {
        let counts = graph.input(Dtype::F32, &[k, count], "real")?;
        if let Signal::Likeliest { real, .. } = &mut signal {
            *real = Some(counts);
        }
        by_slopes(graph, divergence, [own, student_rest], [q, q_rest], counts)?
    };
    let weights = graph.scale(weights, temperature, 0.0)?;
    let (values, multiple) = (graph.mul(values, weights)?, graph.mul(multiple, weights)?);
    let gradient = graph.mul(others, multiple)?;
    let column = graph.reshape(gradient, [1, vocabulary * count, 1, 1])?;
    let values = graph.reshape(values, [1, k * count, 1, 1])?;
    let column = graph.set_rows(column, values, rows)?;
    Ok((
        signal,
        Some(graph.reshape(column, [vocabulary, count, 1, 1])?),
    ))
}

/// The gradient at the named words, and the multiple of p that it is at all others, by the slopes
/// of a divergence. p and q: of the named words, and of the rest. `counts`: 0 for words that only
/// fill up the width, else 1.
fn by_slopes(
    graph: &mut Graph,
    divergence: Divergence,
    [p, p_rest]: [Tensor; 2],
    [q, q_rest]: [Tensor; 2],
    counts: Tensor,
) -> Result<(Tensor, Tensor), LlamaError> {
    let slope = slope(graph, divergence, p, q)?;
    let slope_rest = self::slope(graph, divergence, p_rest, q_rest)?;
    let counted = graph.mul(p, counts)?;
    let each = graph.mul(counted, slope)?;
    let named = graph.sum_rows(each)?;
    let rest = graph.mul(p_rest, slope_rest)?;
    let mean = graph.add(named, rest)?;
    let centred = graph.sub(slope, mean)?;
    // g rest − Σ p g, as Σ over the named words of p (g rest − g): the rest is often nearly all
    // there is, and would cancel.
    let above = graph.sub(slope, slope_rest)?;
    let each = graph.mul(counted, above)?;
    let above = graph.sum_rows(each)?;
    Ok((graph.mul(p, centred)?, graph.scale(above, -1.0, 0.0)?))
}

/// The derivative of a divergence by p, up to a constant that cancels.
fn slope(
    graph: &mut Graph,
    divergence: Divergence,
    p: Tensor,
    q: Tensor,
) -> Result<Tensor, LlamaError> {
    let log_p = log(graph, p, TINY)?;
    match divergence {
        Divergence::JensenShannon { teacher } => {
            let middle = mixture(graph, teacher, p, q)?;
            let log_m = log(graph, middle, TINY)?;
            let ratio = graph.sub(log_p, log_m)?;
            graph.scale(ratio, 1.0 - teacher, 0.0)
        }
        _ => {
            let log_q = log(graph, q, PROBABILITY_MIN)?;
            graph.sub(log_p, log_q)
        }
    }
}

fn mixture(graph: &mut Graph, teacher: f32, p: Tensor, q: Tensor) -> Result<Tensor, LlamaError> {
    let (p, q) = (
        graph.scale(p, 1.0 - teacher, 0.0)?,
        graph.scale(q, teacher, 0.0)?,
    );
    graph.add(p, q)
}

/// Over all words: t (p − q) for the forward divergence, t p (g − Σ p g) for the others.
fn all(
    graph: &mut Graph,
    divergence: Divergence,
    temperature: f32,
    logits: Tensor,
    weights: Option<Tensor>,
) -> Built {
    let [vocabulary, count, ..] = graph.shape(logits)?;
    let q = graph.input(Dtype::F32, &[vocabulary, count], "teacher")?;
    let p = graph.soft_max(logits)?;
    let log_p = log(graph, p, TINY)?;
    let log_q = log(graph, q, PROBABILITY_MIN)?;
    let sum = |graph: &mut Graph, a: Tensor, b: Tensor| {
        let product = graph.mul(a, b)?;
        graph.sum_rows(product)
    };
    let (loss, difference) = match divergence {
        Divergence::Forward => {
            let ratio = graph.sub(log_q, log_p)?;
            (sum(graph, q, ratio)?, graph.sub(p, q)?)
        }
        Divergence::Reverse => {
            let ratio = graph.sub(log_p, log_q)?;
            let loss = sum(graph, p, ratio)?;
            let centred = graph.sub(ratio, loss)?;
            (loss, graph.mul(p, centred)?)
        }
        Divergence::JensenShannon { teacher } => {
            let middle = mixture(graph, teacher, p, q)?;
            let log_m = log(graph, middle, TINY)?;
            let (own, other) = (graph.sub(log_p, log_m)?, graph.sub(log_q, log_m)?);
            let (own_sum, other_sum) = (sum(graph, p, own)?, sum(graph, q, other)?);
            let centred = graph.sub(own, own_sum)?;
            let gradient = graph.mul(p, centred)?;
            (
                mixture(graph, teacher, own_sum, other_sum)?,
                graph.scale(gradient, 1.0 - teacher, 0.0)?,
            )
        }
    };
    graph.output(loss)?;
    let signal = Signal::All {
        temperature,
        teacher: q,
        loss,
    };
    let Some(weights) = weights else {
        return Ok((signal, None));
    };
    let weights = graph.scale(weights, temperature, 0.0)?;
    Ok((signal, Some(graph.mul(difference, weights)?)))
}

/// `Teacher::Likeliest` of some outputs, filled up to one width with copies of each output's first
/// word, which are written twice with the same value and counted once.
struct Filled {
    rows: Vec<i32>,
    teacher: Vec<f32>,
    real: Vec<f32>,
    rest: Vec<f32>,
}

impl Place<'_> {
    fn label_rows(&self) -> Vec<i32> {
        let labels = &self.packed.labels[self.outputs.clone()];
        labels
            .iter()
            .enumerate()
            .map(|(i, label)| (i * self.vocabulary) as i32 + label)
            .collect()
    }

    fn teacher(&self, output: usize) -> Option<(&Teacher, usize)> {
        let (example, token) = self.packed.origins[output]?;
        Some((self.run[example].teacher.as_ref()?, token))
    }

    fn condensed(&self, output: usize) -> Option<&Condensed> {
        let (Teacher::Condensed(tokens), token) = self.teacher(output)? else {
            return None;
        };
        tokens.get(token)
    }

    fn all(&self, output: usize) -> Option<&[f32]> {
        let (Teacher::All(tokens), token) = self.teacher(output)? else {
            return None;
        };
        tokens.get(token).map(Vec::as_slice)
    }

    /// For each output q and p of each named word, and of the rest.
    fn pairs(&self, width: usize, student: &[f32], rest: &[f32]) -> Vec<Vec<(f64, f64)>> {
        let filled = self.likeliest(width);
        let one = |i: usize| {
            let range = i * width..(i + 1) * width;
            let named = range
                .filter(|j| filled.real[*j] == 1.0)
                .map(|j| (filled.teacher[j], student[j]));
            named
                .chain([(filled.rest[i], rest[i])])
                .map(|(q, p)| (f64::from(q), f64::from(p)))
                .collect()
        };
        (0..self.outputs.len()).map(one).collect()
    }

    fn likeliest(&self, width: usize) -> Filled {
        let mut filled = Filled {
            rows: Vec::new(),
            teacher: Vec::new(),
            real: Vec::new(),
            rest: Vec::new(),
        };
        for (place, at) in self.outputs.clone().enumerate() {
            let words = match self.teacher(at) {
                Some((Teacher::Likeliest(tokens), token)) => {
                    tokens.get(token).map_or(&[][..], Vec::as_slice)
                }
                _ => &[],
            };
            let first = words.first().copied().unwrap_or((0, 0.0));
            for i in 0..width {
                let (word, q) = words.get(i).copied().unwrap_or(first);
                filled.rows.push((place * self.vocabulary) as i32 + word);
                filled.teacher.push(q);
                filled.real.push(if i < words.len() { 1.0 } else { 0.0 });
            }
            let named: f64 = words.iter().map(|(_, q)| f64::from(*q)).sum();
            filled.rest.push((1.0 - named).max(0.0) as f32);
        }
        filled
    }
}
