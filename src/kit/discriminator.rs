use crate::record::{Pair, Question, Rng};

/// The examples a discriminator is fitted on and the ones it is judged on.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscriminatorData {
    /// Inputs that it is trained on, each with the answer to whether it is real.
    pub train: Vec<Pair>,
    /// Held out: half real, half made up, as in training.
    pub held_out: Vec<Pair>,
    /// Real inputs used, held-out ones included; as many made-up ones are.
    pub positives: usize,
}

/// Share of the rows kept back to judge the discriminator. units: 1 / share
const HELD_OUT_ONE_IN: usize = 10;

/// Pair real inputs with made-up ones, half and half, as questions answered yes or no.
///
/// source: Trans-LoRA, section 3.2
pub fn discriminator_data(
    question: &Question,
    real: &[String],
    made_up: &[String],
    rng: &mut Rng,
) -> DiscriminatorData {
    let positives = real.len().min(made_up.len());
    let (mut real, mut made_up) = (real.to_vec(), made_up.to_vec());
    rng.shuffle(&mut real);
    rng.shuffle(&mut made_up);
    let held = (positives / HELD_OUT_ONE_IN).max(1).min(positives / 2);
    let examples = |range: std::ops::Range<usize>| {
        let pair =
            |input: &String, answer: &String| Pair::new(question.ask(input), answer.as_str());
        range
            .flat_map(|i| {
                [
                    pair(&real[i], &question.yes),
                    pair(&made_up[i], &question.no),
                ]
            })
            .collect()
    };
    DiscriminatorData {
        held_out: examples(0..held),
        train: examples(held..positives),
        positives,
    }
}

/// Share of the real inputs that a threshold lets pass.
const REAL_PASSED: f64 = 0.95;

/// How a discriminator does on held-out inputs, by their log-odds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Chance that a real input has higher odds than a made-up one; 0.5 where it tells nothing.
    pub auc: f64,
    /// Log-odds above which an input passes. units: nats
    pub threshold: f64,
    /// Shares of the real and of the made-up inputs that pass.
    pub passed: [f64; 2],
}

/// Choose a threshold: even odds, or less where those would keep out more than one real input in
/// twenty.
pub fn calibrate(real: &[f64], made_up: &[f64]) -> Option<Calibration> {
    let mut sorted = real.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let last =
        *sorted.get(((sorted.len() as f64 * REAL_PASSED).ceil() as usize).checked_sub(1)?)?;
    let threshold = if last > 0.0 { 0.0 } else { last.next_down() };
    let passed = |odds: &[f64]| {
        odds.iter().filter(|&&odds| odds > threshold).count() as f64 / odds.len().max(1) as f64
    };
    Some(Calibration {
        auc: auc(real, made_up)?,
        threshold,
        passed: [passed(real), passed(made_up)],
    })
}

/// Chance that one of `high` is greater than one of `low`, ties half. source: Mann and Whitney 1947
pub fn auc(high: &[f64], low: &[f64]) -> Option<f64> {
    let pairs = high.iter().flat_map(|h| {
        low.iter().map(move |l| {
            if h == l {
                0.5
            } else {
                f64::from(u8::from(h > l))
            }
        })
    });
    (!high.is_empty() && !low.is_empty())
        .then(|| pairs.sum::<f64>() / (high.len() * low.len()) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_equal_and_nothing_is_in_both_parts() {
        let real: Vec<String> = (0..50).map(|i| format!("real {i}")).collect();
        let made_up: Vec<String> = (0..40).map(|i| format!("made up {i}")).collect();
        let data = discriminator_data(
            &Question::about("t"),
            &real,
            &made_up,
            &mut Rng::new(1, "t"),
        );
        assert_eq!(
            (data.positives, data.held_out.len(), data.train.len()),
            (40, 8, 72)
        );
        let yes = |pairs: &[Pair]| pairs.iter().filter(|pair| pair.completion == "yes").count();
        assert_eq!((yes(&data.train), yes(&data.held_out)), (36, 4));
        assert!(data.held_out.iter().all(|pair| !data.train.contains(pair)));
    }

    #[test]
    fn a_threshold_lets_the_real_pass_and_is_never_stricter_than_even_odds() {
        let real: Vec<f64> = (0..40).map(|i| f64::from(i) - 3.0).collect();
        let found = calibrate(&real, &[-9.0, -8.0, 5.0]).unwrap();
        assert_eq!(found.passed, [0.95, 1.0 / 3.0]);
        assert!(
            found.threshold < -1.0 && found.threshold > -2.0 - 1e-9,
            "{found:?}"
        );
        assert_eq!(
            calibrate(&[4.0, 5.0], &[1.0]).unwrap(),
            Calibration {
                auc: 1.0,
                threshold: 0.0,
                passed: [1.0, 1.0]
            }
        );
        assert_eq!(auc(&[1.0, 2.0], &[1.0, 0.0]), Some(0.875));
        assert_eq!((auc(&[], &[1.0]), calibrate(&[], &[1.0])), (None, None));
    }
}
