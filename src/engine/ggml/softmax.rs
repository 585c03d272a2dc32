//! Passes over the logits of a vocabulary: the likeliest token, a log probability, a draw. Some
//! hundred thousand numbers are read for each token of each sequence while the model waits, so they
//! are read in vectors: sums have lanes of their own, which the compiler may keep side by side, and
//! no machine sums in another order.

use crate::record::Rng;

/// Logits that are summed before the sum is kept.
const CHUNK: usize = 1024;
/// Sums side by side.
const LANES: usize = 16;
/// e to anything below this counts as nothing: it is 1e-37.
const LEAST: f32 = -85.0;

/// The likeliest token; of equals the first.
pub(super) fn argmax(logits: &[f32]) -> i32 {
    let highest = highest(logits);
    logits
        .iter()
        .position(|logit| *logit == highest)
        .unwrap_or(0) as i32
}

/// The natural log of the probability that `logits` give `token`.
pub(super) fn log_probability(logits: &[f32], token: i32) -> f64 {
    let highest = highest(logits);
    let total: f64 = logits
        .chunks(CHUNK)
        .map(|chunk| sum(chunk, highest, 1.0, f32::NEG_INFINITY))
        .sum();
    f64::from(logits[token as usize] - highest) - total.ln()
}

/// The natural log of Σ e^logit: what a logit has to lose to be a log probability.
pub(super) fn log_total(logits: &[f32]) -> f64 {
    let highest = highest(logits);
    let total: f64 = logits
        .chunks(CHUNK)
        .map(|chunk| sum(chunk, highest, 1.0, f32::NEG_INFINITY))
        .sum();
    f64::from(highest) + total.ln()
}

/// Draw from softmax(logits / temperature); the likeliest token at temperature 0. A token that is
/// less likely than `min_p` times the likeliest one, at temperature 1, is never drawn.
pub(super) fn draw(logits: &[f32], temperature: f32, min_p: f32, random: &mut Rng) -> i32 {
    if temperature <= 0.0 {
        return argmax(logits);
    }
    let (highest, sharpness, floor) = (highest(logits), 1.0 / temperature, min_p.ln());
    let sums: Vec<f64> = logits
        .chunks(CHUNK)
        .map(|chunk| sum(chunk, highest, sharpness, floor))
        .collect();
    let mut left = random.unit() * sums.iter().sum::<f64>();
    for (chunk, sum) in sums.iter().enumerate() {
        if left > *sum {
            left -= sum;
            continue;
        }
        let first = chunk * CHUNK;
        let mut last = None;
        for (token, logit) in (first..).zip(&logits[first..logits.len().min(first + CHUNK)]) {
            let weight = f64::from(weight(logit - highest, sharpness, floor));
            if weight > 0.0 {
                last = Some(token);
                left -= weight;
                if left <= 0.0 {
                    break;
                }
            }
        }
        // What is left by rounding is the last one's.
        if let Some(token) = last {
            return token as i32;
        }
    }
    argmax(logits)
}

fn highest(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for part in whole {
        for (lane, logit) in lanes.iter_mut().zip(part) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes
        .into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, larger)
}

/// Σ e^((x − highest) · sharpness) over the logits x that are not more than −`floor` below the
/// highest.
fn sum(chunk: &[f32], highest: f32, sharpness: f32, floor: f32) -> f64 {
    let (whole, rest) = chunk.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for part in whole {
        for (lane, logit) in lanes.iter_mut().zip(part) {
            *lane += weight(logit - highest, sharpness, floor);
        }
    }
    let rest = rest
        .iter()
        .map(|logit| weight(logit - highest, sharpness, floor));
    lanes.into_iter().chain(rest).map(f64::from).sum()
}

/// What a logit that is `below` the highest weighs; nothing where that is below the floor.
#[inline(always)]
fn weight(below: f32, sharpness: f32, floor: f32) -> f32 {
    let weight = exp(below * sharpness);
    if below >= floor { weight } else { 0.0 }
}

/// e^x for x ≤ 0, to two units in the last place; nothing below `LEAST`. Without a branch and
/// without a table, so that it goes into vectors.
///
/// source: Cephes, `expf`
#[inline(always)]
fn exp(x: f32) -> f32 {
    // What is added to this is rounded to a whole number, which stands in its lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    let kept = if x > LEAST { x } else { LEAST };
    let rounded = kept * std::f32::consts::LOG2_E + ROUNDING;
    let whole = rounded - ROUNDING;
    // ln 2 in two parts, of which the first times a small whole number is exact.
    let rest = kept - whole * 0.693_359_4 - whole * -2.121_944_4e-4;
    let tail = ((((1.987_569_1e-4 * rest + 1.398_199_9e-3) * rest + 8.333_452e-3) * rest
        + 4.166_579_6e-2)
        * rest
        + 0.166_666_66)
        * rest
        + 0.5;
    let power = f32::from_bits(
        rounded
            .to_bits()
            .wrapping_sub(ROUNDING.to_bits())
            .wrapping_add(127)
            << 23,
    );
    let value = (tail * rest * rest + rest + 1.0) * power;
    if x > LEAST { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(count: usize, spread: f64) -> Vec<f32> {
        let mut rng = Rng::new(7, "logits");
        (0..count).map(|_| (spread * rng.normal()) as f32).collect()
    }

    #[test]
    fn powers_are_right() {
        for step in 0..=170_000 {
            let x = -step as f32 * 5e-4;
            let right = f64::from(x).exp();
            let error = (f64::from(exp(x)) - right).abs() / right;
            assert!(
                x <= LEAST || error < 2.5e-7,
                "e^{x}: {} is off by {error}",
                exp(x)
            );
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(LEAST), 0.0);
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn the_likeliest_is_the_first_of_the_largest() {
        for count in [1, 5, 16, 33, 5000] {
            let mut logits = random(count, 3.0);
            let right = (0..count).fold(0, |best, token| {
                if logits[token] > logits[best] {
                    token
                } else {
                    best
                }
            });
            assert_eq!(argmax(&logits), right as i32);
            let highest = logits[right];
            logits[count - 1] = highest;
            assert_eq!(argmax(&logits), right as i32);
        }
        assert_eq!(argmax(&[f32::NAN, 2.0, f32::NAN, 1.0]), 1);
        assert_eq!(argmax(&[f32::NAN]), 0);
    }

    #[test]
    fn log_probabilities_are_those_of_a_plain_sum() {
        let logits = random(50_021, 4.0);
        let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        for token in [0, 17, 1024, 50_020] {
            let right = f64::from(logits[token]) - total.ln();
            assert!((log_probability(&logits, token as i32) - right).abs() < 1e-6);
        }
    }

    #[test]
    fn draws_are_as_frequent_as_they_are_likely() {
        const DRAWS: usize = 20_000;
        let (mut logits, temperature) = (random(3000, 1.0), 0.7);
        (logits[5], logits[1023], logits[2047], logits[2999]) = (7.0, 6.5, 7.5, 7.2);
        logits[1500] = f32::NEG_INFINITY;
        let weights: Vec<f64> = logits
            .iter()
            .map(|x| (f64::from(*x) / f64::from(temperature)).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let mut rng = Rng::new(3, "draws");
        let mut counts = vec![0_usize; logits.len()];
        (0..DRAWS).for_each(|_| counts[draw(&logits, temperature, 0.0, &mut rng) as usize] += 1);
        for token in [5, 1023, 2047, 2999] {
            let expected = DRAWS as f64 * weights[token] / total;
            assert!(
                (counts[token] as f64 - expected).abs() < 5.0 * expected.sqrt(),
                "{token}: {} of {expected:.0}",
                counts[token]
            );
        }
        assert_eq!(counts[1500], 0);
        assert_eq!(draw(&logits, 0.0, 0.0, &mut rng), 2047);
    }

    #[test]
    fn what_is_much_less_likely_than_the_likeliest_is_never_drawn() {
        // A tail of 50 000 words with as much probability as the three that are likely.
        let mut logits = vec![0.0_f32; 50_000];
        (logits[7], logits[1024], logits[49_999]) = (10.0, 9.5, 9.0);
        let mut rng = Rng::new(1, "draws");
        let mut tail = |min_p: f32| {
            let drawn = (0..1000).map(|_| draw(&logits, 1.0, min_p, &mut rng));
            drawn
                .filter(|token| ![7, 1024, 49_999].contains(token))
                .count()
        };
        assert!(tail(0.0) > 300);
        assert_eq!(tail(0.02), 0);
        // e^−1 of the likeliest is 0.37: only two are left.
        assert!((0..200).all(|_| draw(&logits, 2.0, 0.5, &mut rng) != 49_999));
    }
}
