//! The seed inputs of a kit: few inputs that stand for many.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::{KitError, Seed};
use crate::record::{Pair, Rng, words_and_pairs};

/// Rows of a data set that seeds are chosen from; of more, a random choice.
const ROWS_COMPARED: usize = 5000;

/// Choose `count` distinct inputs that stand for a data set; `path` is for the error.
///
/// One of each answer before a second of any: five seeds of one label tell nothing of the others.
/// Of those whose turn it is, the one that is most like the data on the mean and least like what
/// was chosen (kernel herding, Chen, Welling and Smola 2010, arXiv 1203.3472, with the cosine of
/// words and pairs of words), so that a phrasing is among the seeds as often as in the data.
pub fn choose_seeds(
    path: &Path,
    rows: &[Pair],
    count: usize,
    rng: &mut Rng,
) -> Result<Vec<Seed>, KitError> {
    let mut distinct: Vec<&Pair> = rows.iter().collect();
    distinct.sort_by(|a, b| a.prompt.cmp(&b.prompt));
    distinct.dedup_by(|a, b| a.prompt == b.prompt);
    let count = count.max(1);
    if distinct.len() < count {
        return Err(KitError::TooFewRows {
            path: path.to_owned(),
            distinct: distinct.len(),
            needed: count,
        });
    }
    rng.shuffle(&mut distinct);
    distinct.truncate(count.max(ROWS_COMPARED));
    let texts = Texts::of(distinct.iter().map(|row| row.prompt.text.as_str()));
    let to_data = texts.likeness(&texts.sum(0..distinct.len()));
    let mut to_chosen = vec![0.0; distinct.len()];
    let mut taken: HashMap<&str, usize> = HashMap::new();
    let mut open: Vec<usize> = (0..distinct.len()).collect();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let turn = |i: usize| {
            taken
                .get(distinct[i].completion.as_str())
                .copied()
                .unwrap_or(0)
        };
        let gain = |i: usize| {
            to_data[i] / distinct.len() as f64 - to_chosen[i] / (chosen.len() + 1) as f64
        };
        let best = (0..open.len()).min_by(|&a, &b| {
            let (a, b) = (open[a], open[b]);
            turn(a).cmp(&turn(b)).then(gain(b).total_cmp(&gain(a)))
        });
        let Some(next) = best.map(|place| open.remove(place)) else {
            break;
        };
        *taken.entry(&distinct[next].completion).or_default() += 1;
        for (sum, likeness) in to_chosen
            .iter_mut()
            .zip(texts.likeness(&texts.sum(next..next + 1)))
        {
            *sum += likeness;
        }
        chosen.push(Seed::new(&distinct[next].prompt));
    }
    Ok(chosen)
}

/// Texts as unit vectors over words and pairs of words.
struct Texts {
    features: Vec<Vec<usize>>,
    width: usize,
}

impl Texts {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut numbered = |text: &str| {
            let all: BTreeSet<usize> = words_and_pairs(text)
                .into_iter()
                .map(|feature| {
                    let next = numbers.len();
                    *numbers.entry(feature).or_insert(next)
                })
                .collect();
            all.into_iter().collect::<Vec<usize>>()
        };
        let features: Vec<Vec<usize>> = texts.map(&mut numbered).collect();
        Self {
            features,
            width: numbers.len(),
        }
    }

    /// Each feature of a text has this value.
    fn unit(features: &[usize]) -> f64 {
        1.0 / (features.len().max(1) as f64).sqrt()
    }

    /// The sum of some of the vectors. shapes: features
    fn sum(&self, which: std::ops::Range<usize>) -> Vec<f64> {
        let mut sum = vec![0.0; self.width];
        for features in &self.features[which] {
            features
                .iter()
                .for_each(|&feature| sum[feature] += Self::unit(features));
        }
        sum
    }

    /// Products of every vector with this one. shapes: texts
    fn likeness(&self, to: &[f64]) -> Vec<f64> {
        self.features
            .iter()
            .map(|features| {
                features.iter().map(|&feature| to[feature]).sum::<f64>() * Self::unit(features)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prompt: &str, completion: &str) -> Pair {
        Pair {
            prompt: prompt.into(),
            completion: completion.into(),
        }
    }

    fn choose(rows: &[Pair], count: usize) -> Vec<Seed> {
        choose_seeds(Path::new("d.jsonl"), rows, count, &mut Rng::new(1, "t")).unwrap()
    }

    #[test]
    fn every_answer_has_its_turn() {
        let mut rows: Vec<Pair> = (0..50)
            .map(|i| row(&format!("send the invoice {i}"), "BILL"))
            .collect();
        rows.extend((0..50).map(|i| row(&format!("where is it {i}"), "SHIP")));
        rows.push(row("turn it off", "STOP"));
        let seeds = choose(&rows, 5);
        let of = |start: &str| {
            seeds
                .iter()
                .filter(|seed| seed.text().starts_with(start))
                .count()
        };
        assert_eq!(
            (of("where"), of("send"), of("turn")),
            (2, 2, 1),
            "{seeds:?}"
        );
        assert!(choose_seeds(Path::new("d.jsonl"), &rows[..3], 4, &mut Rng::new(1, "t")).is_err());
    }

    #[test]
    fn phrasings_are_there_as_often_as_in_the_data() {
        let mut rows: Vec<Pair> = (0..40)
            .map(|i| {
                row(
                    &format!("on Monday, the {i}th of May or a little later"),
                    &format!("l{i}"),
                )
            })
            .collect();
        rows.extend((0..80).map(|i| row(&format!("May {i}"), &format!("s{i}"))));
        let long = choose(&rows, 12)
            .iter()
            .filter(|seed| seed.text().starts_with("on"))
            .count();
        assert!((3..=5).contains(&long), "{long}");
    }
}
