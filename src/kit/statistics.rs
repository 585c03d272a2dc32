use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A generated input may be this much longer than the longest of the data, and shorter than the
/// shortest.
const SLACK: f64 = 1.25;

/// What the inputs of a data set look like, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputStatistics {
    /// Distinct inputs.
    pub rows: usize,
    /// Least, median and greatest length. units: characters
    pub chars: [usize; 3],
    /// The same in words.
    pub words: [usize; 3],
    /// Share of the inputs that hold a digit, that hold a line end, and that end in punctuation.
    pub with_digits: f64,
    /// Share of the inputs that hold a line end.
    pub with_lines: f64,
    /// Share of the inputs that end in punctuation.
    pub with_end_mark: f64,
    /// Words that stand at one place, counted from the start, in each input (`fixed`), and other
    /// places up to the median length (`slots`).
    pub fixed: usize,
    /// Other places, up to the median length.
    pub slots: usize,
}

impl InputStatistics {
    /// Count; none where there is no input.
    pub fn of(inputs: &[String]) -> Option<Self> {
        let spread = |of: &dyn Fn(&String) -> usize| -> Option<[usize; 3]> {
            let mut all: Vec<usize> = inputs.iter().map(of).collect();
            all.sort_unstable();
            Some([*all.first()?, all[all.len() / 2], *all.last()?])
        };
        let share = |is: &dyn Fn(&String) -> bool| {
            inputs.iter().filter(|input| is(input)).count() as f64 / inputs.len() as f64
        };
        let words = spread(&|input| input.split_whitespace().count())?;
        let at = |place: usize| {
            inputs
                .iter()
                .map(|input| input.split_whitespace().nth(place))
                .collect::<BTreeSet<_>>()
        };
        let fixed = (0..words[1]).filter(|&place| at(place).len() == 1).count();
        Some(Self {
            rows: inputs.len(),
            chars: spread(&|input| input.chars().count())?,
            words,
            with_digits: share(&|input| input.contains(|c: char| c.is_ascii_digit())),
            with_lines: share(&|input| input.contains('\n')),
            with_end_mark: share(&|input| input.ends_with(|c: char| c.is_ascii_punctuation())),
            fixed,
            slots: words[1] - fixed,
        })
    }

    /// Bounds of length for what is made up, with some room. units: characters
    pub fn chars_bounds(&self) -> [usize; 2] {
        [
            (self.chars[0] as f64 / SLACK).floor() as usize,
            (self.chars[2] as f64 * SLACK).ceil() as usize,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted() {
        let inputs = ["at 7 go.", "at noon stay", "at 12 walk on home"].map(str::to_owned);
        let counted = InputStatistics::of(&inputs).unwrap();
        assert_eq!(
            (counted.rows, counted.chars, counted.words),
            (3, [8, 12, 18], [3, 3, 5])
        );
        assert_eq!(
            (counted.fixed, counted.slots, counted.with_lines),
            (1, 2, 0.0)
        );
        assert!(
            (counted.with_digits - 2.0 / 3.0).abs() < 1e-12
                && (counted.with_end_mark - 1.0 / 3.0).abs() < 1e-12
        );
        assert_eq!(counted.chars_bounds(), [6, 23]);
        assert_eq!(InputStatistics::of(&[]), None);
    }
}
