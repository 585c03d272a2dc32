//! What two texts can have in common.

/// The words of a text and its pairs of neighbouring words.
///
/// Digits are all the same: numbers are drawn anew anyway.
pub fn words_and_pairs(text: &str) -> Vec<String> {
    let masked: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let words: Vec<&str> = masked.split_whitespace().collect();
    words
        .iter()
        .map(|word| (*word).to_owned())
        .chain(words.windows(2).map(|pair| pair.join(" ")))
        .collect()
}
