use std::collections::{BTreeSet, HashMap};

/// Neighbouring units that make a shingle.
const SHINGLE: usize = 3;
/// Bands of a signature and hashes in each: of two texts that share four fifths of their shingles,
/// 4 in 10 000 are not compared.
const BANDS: u64 = 20;
const BAND_HASHES: u64 = 5;

/// Likeness from which on two inputs are nearly the same.
pub const NEAR: f64 = 0.8;

/// A text as the hashes of its shingles, ends included, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shingles(Vec<u64>);

impl Shingles {
    /// Words, or characters where there is no white space, three at a time, in lower case.
    pub fn of(text: &str) -> Self {
        let lower = text.to_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let characters = || {
            lower
                .trim()
                .char_indices()
                .map(|(at, c)| &lower.trim()[at..at + c.len_utf8()])
                .collect()
        };
        let units: Vec<&str> = if words.len() > 1 { words } else { characters() };
        let ends = || std::iter::repeat_n("", SHINGLE - 1);
        let all: Vec<&str> = ends().chain(units).chain(ends()).collect();
        Self(
            all.windows(SHINGLE)
                .map(hash)
                .collect::<BTreeSet<u64>>()
                .into_iter()
                .collect(),
        )
    }

    /// Jaccard's index: what both have as a share of what either has.
    pub fn likeness(&self, other: &Self) -> f64 {
        let (mut i, mut j, mut both) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            both += usize::from(a == b);
            i += usize::from(a <= b);
            j += usize::from(b <= a);
        }
        both as f64 / (self.0.len() + other.0.len() - both).max(1) as f64
    }

    /// One hash of `BAND_HASHES` least hashes for each band.
    ///
    /// source: Broder 1997; in bands: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
    /// section 3.4
    fn bands(&self) -> impl Iterator<Item = u64> + '_ {
        let least = |i: u64| {
            self.0
                .iter()
                .map(|&shingle| mix(shingle ^ mix(i + 1)))
                .min()
                .unwrap_or(0)
        };
        (0..BANDS).map(move |band| {
            (0..BAND_HASHES).fold(band, |all, i| mix(all ^ least(band * BAND_HASHES + i)))
        })
    }
}

/// Texts that were taken, so that what is near one of them is found without looking at all.
pub(super) struct Taken {
    least: f64,
    texts: Vec<Shingles>,
    by_band: HashMap<u64, Vec<usize>>,
}

impl Taken {
    /// Texts are near from a likeness of `least` on.
    pub fn new(least: f64) -> Self {
        Self {
            least,
            texts: Vec::new(),
            by_band: HashMap::new(),
        }
    }

    /// Take a text, unless one that is near it was taken before.
    pub fn take(&mut self, text: &str) -> bool {
        let shingles = Shingles::of(text);
        let is_new = !self.has_near(&shingles);
        if is_new {
            self.add(shingles);
        }
        is_new
    }

    fn has_near(&self, shingles: &Shingles) -> bool {
        let mut near = shingles
            .bands()
            .filter_map(|band| self.by_band.get(&band))
            .flatten();
        near.any(|&other| self.texts[other].likeness(shingles) >= self.least)
    }

    fn add(&mut self, shingles: Shingles) {
        for band in shingles.bands() {
            self.by_band.entry(band).or_default().push(self.texts.len());
        }
        self.texts.push(shingles);
    }
}

/// How many of `texts` are nearly one of `others`.
pub fn near_copies<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    others: impl IntoIterator<Item = &'t str>,
) -> usize {
    let mut taken = Taken::new(NEAR);
    others
        .into_iter()
        .for_each(|text| taken.add(Shingles::of(text)));
    texts
        .into_iter()
        .filter(|text| taken.has_near(&Shingles::of(text)))
        .count()
}

/// FNV-1a over the units, with a mark between them.
fn hash(units: &[&str]) -> u64 {
    let bytes = units.iter().flat_map(|unit| unit.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A permutation of 64-bit numbers. source: Stafford's variant 13 of MurmurHash3's finalizer
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_counts_shared_shingles() {
        let like = |a: &str, b: &str| Shingles::of(a).likeness(&Shingles::of(b));
        assert_eq!(like("one two three", "One  two three"), 1.0);
        assert_eq!(like("one two three", "four five six"), 0.0);
        // Of the five shingles of three words, the one in the middle and its neighbours differ.
        assert_eq!(like("a b c", "a b d"), 2.0 / 8.0);
        // Order counts, and so do characters where there is no white space.
        assert!(like("( [ ( ]", "( ] ( [") < 1.0);
        assert!(like("2024-05-01", "2024-05-02") > 0.5);
        assert_eq!(like("", ""), 1.0);
    }

    #[test]
    fn bands_find_what_comparing_all_finds() {
        // Texts of forty words, of which each differs from an earlier one in some.
        let word = |i: u64, at: u64| {
            if mix(i * 64 + at) % 17 < i % 5 {
                mix(i + at) % 1000
            } else {
                at + 100 * (i / 8)
            }
        };
        let texts: Vec<String> = (0..160)
            .map(|i| {
                (0..40)
                    .map(|at| word(i, at).to_string())
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        let mut taken = Taken::new(0.8);
        let mut naive: Vec<Shingles> = Vec::new();
        let mut repeated = 0;
        for text in &texts {
            let shingles = Shingles::of(text);
            let is_new = naive.iter().all(|other| other.likeness(&shingles) < 0.8);
            assert_eq!(taken.take(text), is_new, "{text}");
            repeated += usize::from(!is_new);
            naive.extend(is_new.then_some(shingles));
        }
        assert!((20..140).contains(&repeated), "{repeated}");
    }
}
