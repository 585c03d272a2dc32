//! Soft labels for a student's tokens, from what a teacher says of its own.

use super::Aligned;
use crate::engine::{LogsOf, Spoken, Token, WordsOf};
use crate::request::TokenWeights;

/// Steps that look for the largest share of a difference within its budget.
const HALVINGS: usize = 24;
/// The least that a token counts, so that no example counts nothing.
const WEIGHT_MIN: f32 = 0.05;

/// The teacher's own probabilities; plain text where a token is not aligned.
pub fn matched(
    aligned: &[Option<Aligned>],
    teacher: &[Spoken],
    student: &[Token],
) -> Vec<Vec<(i32, f32)>> {
    let one = |(token, aligned): (&Token, &Option<Aligned>)| match aligned {
        None => vec![(token.id, 1.0)],
        Some(Aligned { at, words }) => words
            .iter()
            .map(|(word, place)| (*word, teacher[*at].words[*place].1.exp().min(1.0)))
            .collect(),
    };
    student.iter().zip(aligned).map(one).collect()
}

/// The words of the student that [`shifted`] wants ln p of.
pub fn words_of(aligned: &[Option<Aligned>]) -> WordsOf {
    let words = |aligned: &Option<Aligned>| {
        aligned
            .iter()
            .flat_map(|aligned| &aligned.words)
            .map(|(word, _)| *word)
            .collect()
    };
    aligned.iter().map(words).collect()
}

/// What the student's own base holds for likely, shifted by what the adapter does to the teacher's:
/// q ∝ p · (on / off)^b.
///
/// A token's difference counts only where the adapter made the token of the answer likelier (else
/// the label is the student's own distribution), and b is the largest up to 1 with KL(q ‖ p) within
/// `budget`. Plain text where a token is not aligned.
///
/// `off`: ln p of the teacher's words without the adapter, as `teacher` has them with it; `own`:
/// those of [`words_of`] by the student's base. units: budget in nats a token
pub fn shifted(
    aligned: &[Option<Aligned>],
    teacher: &[Spoken],
    off: &LogsOf,
    student: &[Token],
    own: &LogsOf,
    budget: f64,
) -> Vec<Vec<(i32, f32)>> {
    let one = |((token, aligned), own): ((&Token, &Option<Aligned>), &Vec<f32>)| {
        let Some(Aligned { at, words }) = aligned else {
            return vec![(token.id, 1.0)];
        };
        let with_rest = |logs: &mut dyn Iterator<Item = f32>| {
            let mut p: Vec<f64> = logs.map(|log| f64::from(log).exp()).collect();
            p.push((1.0 - p.iter().sum::<f64>()).max(f64::from(f32::MIN_POSITIVE)));
            p
        };
        let on = with_rest(&mut words.iter().map(|(_, place)| teacher[*at].words[*place].1));
        let off = with_rest(&mut words.iter().map(|(_, place)| off[*at][*place]));
        let own = with_rest(&mut own.iter().copied());
        let floor = |p: &f64| p.max(f64::from(f32::MIN_POSITIVE));
        let difference: Vec<f64> = on
            .iter()
            .zip(&off)
            .map(|(on, off)| (floor(on) / floor(off)).ln())
            .collect();
        let raised = words
            .iter()
            .position(|(word, _)| *word == token.id)
            .is_some_and(|place| difference[place] > 0.0);
        let q = if raised {
            within(&own, &difference, budget)
        } else {
            own
        };
        words
            .iter()
            .zip(q)
            .map(|((word, _), q)| (*word, (q as f32).clamp(0.0, 1.0)))
            .collect()
    };
    student.iter().zip(aligned).zip(own).map(one).collect()
}

/// p · e^(b difference), made to add up to 1, with the largest b up to 1 whose divergence from p is
/// within the budget.
fn within(p: &[f64], difference: &[f64], budget: f64) -> Vec<f64> {
    let highest = difference.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let tilted = |b: f64| {
        let raw: Vec<f64> = p
            .iter()
            .zip(difference)
            .map(|(p, d)| p * (b * (d - highest)).exp())
            .collect();
        let sum: f64 = raw.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        raw.into_iter().map(|q| q / sum).collect::<Vec<f64>>()
    };
    if divergence(&tilted(1.0), p) <= budget {
        return tilted(1.0);
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if divergence(&tilted(middle), p) <= budget {
            low = middle;
        } else {
            high = middle;
        }
    }
    tilted(low)
}

/// KL(q ‖ p). units: nats
fn divergence(q: &[f64], p: &[f64]) -> f64 {
    q.iter()
        .zip(p)
        .map(|(q, p)| {
            if *q > 0.0 {
                q * (q / p.max(f64::MIN_POSITIVE)).ln()
            } else {
                0.0
            }
        })
        .sum()
}

/// KL(label ‖ model) summed over the tokens of an example, what a label leaves over taken as one
/// word. `logs`: ln p of its words.
pub fn divergence_from(labels: &[Vec<(i32, f32)>], logs: &LogsOf) -> f64 {
    let token = |(words, logs): (&Vec<(i32, f32)>, &Vec<f32>)| {
        let rest = |sum: f64| (1.0 - sum).max(0.0);
        let mut q: Vec<f64> = words.iter().map(|(_, q)| f64::from(*q)).collect();
        let mut p: Vec<f64> = logs.iter().map(|log| f64::from(*log).exp()).collect();
        q.push(rest(q.iter().sum()));
        p.push(rest(p.iter().sum()).max(f64::from(f32::MIN_POSITIVE)));
        divergence(&q, &p)
    };
    labels.iter().zip(logs).map(token).sum()
}

/// How much each token of the student counts: as much as the teacher's tokens that cover some of
/// the same bytes, on the mean.
///
/// `off`: ln p of the teacher's words without the adapter, where that is wanted.
pub fn weights(
    how: TokenWeights,
    teacher: &[Spoken],
    off: Option<&LogsOf>,
    student: &[Token],
) -> Option<Vec<f32>> {
    let own = |at: usize| {
        teacher[at]
            .words
            .iter()
            .position(|(word, _)| *word == teacher[at].token.id)
    };
    let weight = |at: usize| {
        let place = own(at)?;
        let on = teacher[at].words[place].1;
        let weight = match how {
            TokenWeights::None => return None,
            TokenWeights::Confidence => on.exp(),
            TokenWeights::Contrast => 1.0 - (off?[at][place] - on).exp(),
        };
        Some(weight.clamp(WEIGHT_MIN, 1.0))
    };
    let weights: Vec<Option<f32>> = (0..teacher.len()).map(weight).collect();
    let shares = |token: &Token, spoken: &Spoken| match (token.bytes, spoken.token.bytes) {
        _ if token.ends || spoken.token.ends => token.ends && spoken.token.ends,
        (Some((from, to)), Some((start, end))) => from < end && start < to,
        _ => false,
    };
    let one = |token: &Token| {
        let those = teacher
            .iter()
            .zip(&weights)
            .filter(|(spoken, _)| shares(token, spoken))
            .filter_map(|(_, weight)| *weight);
        let those: Vec<f32> = those.collect();
        if those.is_empty() {
            1.0
        } else {
            those.iter().sum::<f32>() / those.len() as f32
        }
    };
    (how != TokenWeights::None).then(|| student.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: i32, from: usize, to: usize) -> Token {
        Token {
            id,
            bytes: Some((from, to)),
            ends: false,
            spaced: false,
        }
    }

    fn spoken(token: Token, words: &[(i32, f32)]) -> Spoken {
        Spoken {
            token,
            words: words.iter().map(|(word, p)| (*word, p.ln())).collect(),
        }
    }

    fn logs(p: &[f32]) -> LogsOf {
        vec![p.iter().map(|p| p.ln()).collect()]
    }

    fn near(found: &[Vec<(i32, f32)>], wanted: &[(i32, f32)]) {
        assert_eq!(found[0].len(), wanted.len());
        for ((word, q), (same, p)) in found[0].iter().zip(wanted) {
            assert!(word == same, "{found:?}, not {wanted:?}");
            assert!((q - p).abs() < 1e-4, "{found:?}, not {wanted:?}");
        }
    }

    /// The teacher says 5 and 6 where the student says 50 and 60.
    fn world() -> (Vec<Option<Aligned>>, Vec<Spoken>, Vec<Token>) {
        let teacher = vec![spoken(token(5, 0, 1), &[(5, 0.6), (6, 0.3)])];
        (
            vec![Some(Aligned {
                at: 0,
                words: vec![(50, 0), (60, 1)],
            })],
            teacher,
            vec![token(50, 0, 1)],
        )
    }

    #[test]
    fn a_matched_token_has_the_teachers_probabilities_and_others_their_text() {
        let (aligned, teacher, student) = world();
        near(
            &matched(&aligned, &teacher, &student),
            &[(50, 0.6), (60, 0.3)],
        );
        assert_eq!(matched(&[None], &teacher, &student), [[(50, 1.0)]]);
    }

    #[test]
    fn the_difference_shifts_the_students_own_distribution() {
        let (aligned, teacher, student) = world();
        assert_eq!(words_of(&aligned), [[50, 60]]);
        // On over off: 2 for 50, 1 for 60, 1/4 for the rest.
        let (off, own) = (logs(&[0.3, 0.3]), logs(&[0.2, 0.4]));
        let sum = 0.2 * 2.0 + 0.4 + 0.4 * 0.25;
        near(
            &shifted(&aligned, &teacher, &off, &student, &own, 10.0),
            &[(50, 0.4 / sum), (60, 0.4 / sum)],
        );
        // An adapter that makes the answer less likely says nothing.
        near(
            &shifted(&aligned, &teacher, &logs(&[0.7, 0.1]), &student, &own, 10.0),
            &[(50, 0.2), (60, 0.4)],
        );
        near(
            &shifted(&aligned, &teacher, &off, &student, &own, 0.0),
            &[(50, 0.2), (60, 0.4)],
        );
    }

    #[test]
    fn the_budget_is_kept_and_used() {
        let (p, difference) = ([0.01, 0.2, 0.79], [6.0, -1.0, -2.0]);
        let all = divergence(&within(&p, &difference, f64::INFINITY), &p);
        for budget in [0.01, 0.1, 0.5, 1.0] {
            let spent = divergence(&within(&p, &difference, budget), &p);
            assert!(spent <= budget, "{spent} of {budget}");
            assert!(spent > 0.999 * budget.min(all), "{spent} of {budget}");
        }
    }

    #[test]
    fn weights_follow_the_bytes() {
        let teacher = [
            spoken(token(1, 0, 2), &[(1, 0.8), (9, 0.1)]),
            spoken(token(2, 2, 4), &[(2, 0.4)]),
        ];
        let student = [
            token(7, 0, 1),
            token(8, 1, 4),
            Token {
                ends: true,
                ..token(0, 4, 4)
            },
        ];
        let found = weights(TokenWeights::Confidence, &teacher, None, &student).unwrap();
        assert!(
            found
                .iter()
                .zip([0.8, 0.6, 1.0])
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        let off: LogsOf = vec![vec![0.2_f32.ln(), 0.0], vec![0.5_f32.ln()]];
        let found = weights(TokenWeights::Contrast, &teacher, Some(&off), &student[..2]).unwrap();
        assert!(
            found
                .iter()
                .zip([0.75, 0.4])
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        assert_eq!(weights(TokenWeights::None, &teacher, None, &student), None);
    }

    #[test]
    fn a_model_that_says_the_label_does_not_diverge_from_it() {
        let labels = vec![vec![(1, 0.5), (2, 0.25)], vec![(3, 1.0)]];
        let same: LogsOf = vec![vec![0.5_f32.ln(), 0.25_f32.ln()], vec![0.0]];
        assert!(divergence_from(&labels, &same).abs() < 1e-6);
        let other: LogsOf = vec![vec![0.25_f32.ln(), 0.5_f32.ln()], vec![0.5_f32.ln()]];
        let wanted = 0.5 * 2_f64.ln() - 0.25 * 2_f64.ln() + 2_f64.ln();
        assert!((divergence_from(&labels, &other) - wanted).abs() < 1e-6);
    }
}
