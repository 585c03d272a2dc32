//! What an input is written in: scripts and symbols that nothing known has are noise.
//!
//! A model with a vocabulary of hundreds of thousands has words of every script and every symbol,
//! and each now and then draws one where it does not belong.

use std::collections::HashSet;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_script::{Script, UnicodeScript};

/// What texts are written in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writing {
    scripts: HashSet<Script>,
    symbols: bool,
}

impl Writing {
    /// What `texts` are written in.
    pub(super) fn of<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut writing = Self::default();
        for c in texts.into_iter().flat_map(str::chars) {
            writing.scripts.insert(script(c));
            writing.symbols |= is_symbol(c);
        }
        writing
    }

    /// Whether a text has nothing but what these texts are written in. Names are written in Latin
    /// letters in texts of every script, so those are always known.
    pub(super) fn covers(&self, text: &str) -> bool {
        text.chars().all(|c| {
            let script = script(c);
            let is_shared = matches!(script, Script::Common | Script::Inherited | Script::Latin);
            (is_shared || self.scripts.contains(&script))
                && (self.symbols || !is_symbol(c))
                && !is_no_character(c)
        })
    }
}

/// The script of a character. Japanese, Korean and Chinese text mixes several, which count as one.
/// source: Unicode Technical Standard 39, augmented script sets
fn script(c: char) -> Script {
    match c.script() {
        Script::Hiragana | Script::Katakana | Script::Hangul | Script::Bopomofo => Script::Han,
        script => script,
    }
}

/// Emoji, dingbats, box drawing; not what arithmetic and money need.
fn is_symbol(c: char) -> bool {
    c.general_category() == GeneralCategory::OtherSymbol
}

/// Private use, unassigned, or the mark of bytes that are no text.
fn is_no_character(c: char) -> bool {
    use GeneralCategory::{PrivateUse, Unassigned};
    matches!(c.general_category(), PrivateUse | Unassigned) || c == char::REPLACEMENT_CHARACTER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_known_is_written_in_is_noise() {
        let cases = [
            ("play a song", "play Stereo at 5 PM for $3 + 4 €", true),
            ("play a song", "café à São Paulo", true),
            ("play a song", "at 5 PM𒂂", false),
            ("play a song", "play песня", false),
            ("play a song", "play it ★", false),
            ("rate it ★★", "play it 🙂", true),
            ("включи песню", "включи Netflix", true),
            ("включи песню", "включи 音楽", false),
            ("音楽をかけて", "カタカナ", true),
            ("노래 틀어", "音樂", true),
            ("play a song", "play \u{e000}", false),
            ("play a song", "play \u{fffd}", false),
        ];
        for (known, text, covered) in cases {
            assert_eq!(
                Writing::of([known]).covers(text),
                covered,
                "{known}: {text}"
            );
        }
    }
}
