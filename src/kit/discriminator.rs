use crate::record::{Pair, Question, Rng};

/// The examples a discriminator is fitted on and the ones it is judged on.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscriminatorData {
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
pub fn discriminator_data(question: &Question, real: &[String], made_up: &[String], rng: &mut Rng) -> DiscriminatorData {
    let positives = real.len().min(made_up.len());
    let (mut real, mut made_up) = (real.to_vec(), made_up.to_vec());
    rng.shuffle(&mut real);
    rng.shuffle(&mut made_up);
    let held = (positives / HELD_OUT_ONE_IN).max(1).min(positives / 2);
    let examples = |range: std::ops::Range<usize>| {
        let pair = |input: &String, answer: &String| Pair { prompt: question.ask(input), completion: answer.clone() };
        range.flat_map(|i| [pair(&real[i], &question.yes), pair(&made_up[i], &question.no)]).collect()
    };
    DiscriminatorData { held_out: examples(0..held), train: examples(held..positives), positives }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_equal_and_nothing_is_in_both_parts() {
        let real: Vec<String> = (0..50).map(|i| format!("real {i}")).collect();
        let made_up: Vec<String> = (0..40).map(|i| format!("made up {i}")).collect();
        let data = discriminator_data(&Question::about("t"), &real, &made_up, &mut Rng::new(1, "t"));
        assert_eq!((data.positives, data.held_out.len(), data.train.len()), (40, 8, 72));
        let yes = |pairs: &[Pair]| pairs.iter().filter(|pair| pair.completion == "yes").count();
        assert_eq!((yes(&data.train), yes(&data.held_out)), (36, 4));
        assert!(data.held_out.iter().all(|pair| !data.train.contains(pair)));
    }
}
