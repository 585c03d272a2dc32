//! Make variants of inputs: splice drawn words into them, cross two of them, redraw their numbers.
//!
//! A small base model that is asked for a whole line soon leaves the task. Asked for the next word
//! or two it is good: what is drawn takes the place of as many words of the parent, whose rest
//! follows. Nothing here knows a language; words are what white space separates (characters, where
//! there is no white space).

use std::collections::{BTreeMap, HashSet};

use crate::record::Rng;

/// Words one splice replaces at most.
pub(super) const SPLICED_MAX: usize = 3;
/// Units of a chain that are exchanged at most.
const EXCHANGED_MAX: usize = 3;
/// ASCII punctuation.
const MARKS: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
/// Digits of a number whose length may change.
const SHORT_NUMBER: usize = 2;

/// A text in units that can be exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Units {
    units: Vec<String>,
    joint: &'static str,
}

impl Units {
    /// Take a text apart: into words, or into characters where it is one word.
    pub fn of(text: &str) -> Self {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.len() > 1 {
            return Self {
                units: words,
                joint: " ",
            };
        }
        Self {
            units: text.trim().chars().map(String::from).collect(),
            joint: "",
        }
    }

    /// Count the units.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Units that all of `texts` begin with.
    pub fn shared_head(texts: &[Self]) -> usize {
        let Some(first) = texts.first() else { return 0 };
        let same = |at: usize| {
            texts
                .iter()
                .all(|text| text.units.get(at) == first.units.get(at))
        };
        (0..first.len()).take_while(|&at| same(at)).count()
    }

    /// How free the unit at `at` is: the share of `seeds` that have another one there, counted from
    /// the start and from the end. Numbers are always free.
    pub fn freedom(&self, at: usize, seeds: &[Self]) -> f64 {
        let unit = &self.units[at];
        if kind(unit) == Kind::Number {
            return 1.0;
        }
        let from_end = self.len() - at;
        let share = |same: &dyn Fn(&Self) -> bool| {
            seeds.iter().filter(|seed| same(seed)).count() as f64 / seeds.len().max(1) as f64
        };
        let start = share(&|seed| seed.units.get(at) == Some(unit));
        let end = share(&|seed| {
            seed.len()
                .checked_sub(from_end)
                .and_then(|i| seed.units.get(i))
                == Some(unit)
        });
        1.0 - start.max(end)
    }

    /// The first `count` units as text.
    pub fn head(&self, count: usize) -> String {
        self.units[..count.min(self.len())].join(self.joint)
    }

    /// Put the first of `drawn` in place of some units from `at` on. None where what was drawn is
    /// of another kind than what it would replace, or where nothing was drawn.
    pub fn splice(&self, at: usize, drawn: &str, out_max: usize, rng: &mut Rng) -> Option<String> {
        let drawn: Vec<String> = match self.joint {
            "" => drawn.chars().map(String::from).collect(),
            _ => drawn.split_whitespace().map(str::to_owned).collect(),
        };
        let left = self
            .len()
            .checked_sub(at)
            .filter(|&left| left > 0 && out_max > 0)?;
        let out = 1 + rng.below(left.min(out_max));
        let put = out.min(drawn.len());
        let (first, last) = (drawn.first()?, self.units.get(at + out - 1)?);
        if kind(first) != kind(&self.units[at]) {
            return None;
        }
        let mut units = self.units[..at].to_vec();
        units.extend_from_slice(&drawn[..put]);
        if let Some(end) = units.last_mut() {
            *end = with_edges_of(end, if out == 1 { last } else { "" }, last);
        }
        units.extend_from_slice(&self.units[at + out..]);
        Some(units.join(self.joint))
    }

    /// A text whose every unit follows the one before it somewhere in `texts`, begun and ended as
    /// one of them is and no longer than `longest` units. Up to `EXCHANGED_MAX` of its units then
    /// give way, each to another that is found beside the same neighbour.
    pub fn chain(texts: &[Self], longest: usize, rng: &mut Rng) -> Option<String> {
        let first = texts.get(rng.below(texts.len()))?;
        let mut units = vec![first.units.first()?.clone()];
        while units.len() <= longest {
            let last = units.last()?;
            let places = texts
                .iter()
                .flat_map(|text| (0..text.len()).map(move |at| (text, at)));
            let places: Vec<(&Self, usize)> = places
                .filter(|(text, at)| text.units[*at] == *last)
                .collect();
            let (text, at) = places.get(rng.below(places.len().max(1)))?;
            match text.units.get(at + 1) {
                Some(next) => units.push(next.clone()),
                None => {
                    for _ in 0..rng.below(EXCHANGED_MAX + 1) {
                        exchange(&mut units, texts, rng);
                    }
                    return Some(units.join(first.joint));
                }
            }
        }
        None
    }

    /// How much of an input is new with each input, reckoned from the words that only one of
    /// `texts` has.
    ///
    /// source: Good and Turing's estimate of the unseen
    pub fn unseen(texts: &[Self]) -> f64 {
        let mut holders: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            for unit in text.units.iter().filter(|unit| is_word(unit)) {
                let (texts, units, last) = holders.entry(unit).or_insert((0, 0, usize::MAX));
                *units += 1;
                *texts += usize::from(*last != i);
                *last = i;
            }
        }
        let all: usize = holders.values().map(|(_, units, _)| units).sum();
        let once: usize = holders
            .values()
            .filter(|(texts, ..)| *texts == 1)
            .map(|(_, units, _)| units)
            .sum();
        if all == 0 {
            0.0
        } else {
            once as f64 / all as f64
        }
    }

    /// Words of this text that `known` lacks.
    pub fn new_words(&self, known: &HashSet<String>) -> usize {
        self.units
            .iter()
            .filter(|unit| is_word(unit) && !known.contains(*unit))
            .count()
    }

    /// Its words, in order.
    pub fn words(&self) -> impl Iterator<Item = &String> {
        self.units.iter().filter(|unit| is_word(unit))
    }
}

/// Put another unit in place of one: one that stands in `texts` after the same left or before the
/// same right neighbour.
fn exchange(units: &mut [String], texts: &[Units], rng: &mut Rng) {
    let at = rng.below(units.len());
    let left = at.checked_sub(1).map(|left| units[left].clone());
    let right = units.get(at + 1).cloned();
    let fits = |text: &Units, i: usize| {
        let before = i.checked_sub(1).map(|before| &text.units[before]);
        before == left.as_ref() || text.units.get(i + 1) == right.as_ref()
    };
    let others = texts.iter().flat_map(|text| {
        (0..text.len())
            .filter(|&i| fits(text, i))
            .map(|i| &text.units[i])
    });
    let others: Vec<&String> = others.filter(|&unit| *unit != units[at]).collect();
    if !others.is_empty() {
        units[at] = others[rng.below(others.len())].clone();
    }
}

/// What a unit looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Capital,
    Letters,
    Marks,
}

fn kind(unit: &str) -> Kind {
    match unit.chars().find(|c| c.is_alphanumeric()) {
        None => Kind::Marks,
        Some(c) if c.is_numeric() => Kind::Number,
        Some(c) if c.is_uppercase() => Kind::Capital,
        Some(_) => Kind::Letters,
    }
}

/// Neither a number nor punctuation, which are redrawn.
fn is_word(unit: &str) -> bool {
    matches!(kind(unit), Kind::Capital | Kind::Letters)
}

/// `unit` without the punctuation around it, with the punctuation before `first` and after `last`
/// instead.
fn with_edges_of(unit: &str, first: &str, last: &str) -> String {
    let word = |c: char| c.is_alphanumeric();
    if !unit.contains(word) || !last.contains(word) {
        return unit.to_owned();
    }
    let before = first.find(word).map_or("", |at| &first[..at]);
    let after = &last[last.trim_end_matches(|c| !word(c)).len()..];
    format!("{before}{}{after}", unit.trim_matches(|c| !word(c)))
}

/// Draw some of a text anew that any other of its kind could stand for: every second number, and
/// seldom one unit of punctuation.
pub(super) fn redraw(text: &str, rng: &mut Rng) -> String {
    let mut units = Units::of(&redraw_numbers(text, rng));
    let marks: Vec<usize> = (0..units.len())
        .filter(|&at| kind(&units.units[at]) == Kind::Marks)
        .collect();
    if units.joint == " " && !marks.is_empty() && rng.below(4) == 0 {
        let mark = MARKS.as_bytes()[rng.below(MARKS.len())];
        units.units[marks[rng.below(marks.len())]] = char::from(mark).to_string();
    }
    units.units.join(units.joint)
}

/// Every second number anew, from a random digit on; short ones may also gain or lose a digit.
fn redraw_numbers(text: &str, rng: &mut Rng) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[start..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(rest.len(), |length| start + length);
        out += &rest[..start];
        match rng.below(2) {
            0 => out += &rest[start..end],
            _ => out += &other_number(&rest[start..end], rng),
        }
        rest = &rest[end..];
    }
    out + rest
}

fn other_number(number: &str, rng: &mut Rng) -> String {
    let mut length = number.len();
    if length <= SHORT_NUMBER && rng.below(3) == 0 {
        length = 1 + rng.below(SHORT_NUMBER);
    }
    let kept = rng.below(number.len()).min(length.saturating_sub(1));
    let mut digits = number[..kept].to_owned();
    for place in kept..length {
        // A number does not begin with 0 unless it did.
        let least = usize::from(place == 0 && length > 1 && !number.starts_with('0'));
        digits += &(least + rng.below(10 - least)).to_string();
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(texts: &[&str]) -> Vec<Units> {
        texts.iter().map(|text| Units::of(text)).collect()
    }

    #[test]
    fn a_splice_keeps_the_frame_and_its_punctuation() {
        let (text, mut rng) = (
            Units::of("ticket from Clara: the key broke"),
            Rng::new(1, "t"),
        );
        assert_eq!(
            text.splice(2, " Dan Max", 1, &mut rng).unwrap(),
            "ticket from Dan: the key broke"
        );
        assert_eq!(
            text.splice(4, "lamp.", 1, &mut rng).unwrap(),
            "ticket from Clara: the lamp broke"
        );
        // Another kind of word, nothing drawn, and no place.
        assert_eq!(text.splice(2, " 17", 1, &mut rng), None);
        assert_eq!(text.splice(2, " ", 1, &mut rng), None);
        assert_eq!(text.splice(6, " x", 1, &mut rng), None);
        assert_eq!(
            Units::of("日本語").splice(1, "月", 1, &mut rng).unwrap(),
            "日月語"
        );
    }

    #[test]
    fn a_chain_goes_only_where_a_text_went() {
        let texts = units(&["run left twice", "jump left and walk", "walk twice"]);
        let pairs: Vec<(String, String)> = texts
            .iter()
            .flat_map(|text| {
                text.units
                    .windows(2)
                    .map(|pair| (pair[0].clone(), pair[1].clone()))
            })
            .collect();
        let mut rng = Rng::new(1, "t");
        let chains: Vec<String> = (0..200)
            .filter_map(|_| Units::chain(&texts, 4, &mut rng))
            .collect();
        let follows = |chain: &&String| {
            Units::of(chain)
                .units
                .windows(2)
                .all(|pair| pairs.contains(&(pair[0].clone(), pair[1].clone())))
        };
        let strict = chains.iter().filter(follows).count();
        assert!(
            strict > chains.len() / 8 && strict < chains.len(),
            "{strict} of {}",
            chains.len()
        );
        assert!(chains.iter().any(|chain| chain == "run left and walk"));
        assert!(chains.iter().all(|chain| chain.split(' ').count() <= 4));
    }

    #[test]
    fn words_that_only_one_text_has_tell_how_much_is_unseen() {
        assert_eq!(
            Units::unseen(&units(&["True or False", "False or True"])),
            0.0
        );
        assert_eq!(Units::unseen(&units(&["one two", "three four"])), 1.0);
        assert_eq!(Units::unseen(&units(&["date May 3", "date June 4"])), 0.5);
        let known = HashSet::from(["date".to_owned()]);
        assert_eq!(Units::of("date June 4 , 12 May").new_words(&known), 2);
    }

    #[test]
    fn what_all_share_is_not_free() {
        let seeds = units(&["close: ( [", "close: { ("]);
        assert_eq!(Units::shared_head(&seeds), 1);
        assert_eq!(seeds[0].freedom(0, &seeds), 0.0);
        assert!(seeds[0].freedom(1, &seeds) > 0.0);
        assert_eq!(Units::of("at 7").freedom(1, &units(&["at 7", "at 7"])), 1.0);
    }

    #[test]
    fn numbers_keep_their_shape_and_marks_stay_marks() {
        let mut rng = Rng::new(1, "t");
        for _ in 0..200 {
            let text = redraw("date 1905, ( and 12", &mut rng);
            let [date, year, mark, and, day] = text.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{text}")
            };
            assert_eq!((date, and), ("date", "and"));
            assert!(
                year.len() == 5 && year.ends_with(',') && !year.starts_with('0'),
                "{text}"
            );
            assert!(mark.len() == 1 && MARKS.contains(mark), "{text}");
            assert!(
                (1..=2).contains(&day.len()) && day.parse::<u32>().is_ok(),
                "{text}"
            );
        }
        assert!((0..50).any(|_| redraw("in 1905", &mut rng) != "in 1905"));
    }
}
