//! Which tokens of a student stand where a teacher's stand, and which of its words are the
//! teacher's.
//!
//! Strict: a student's token is aligned only where a token of the teacher covers exactly the same
//! bytes of the answer, and a word only where both vocabularies have one of the same bytes. Numbers
//! of several digits never are: where one tokenizer cuts a number into digits, the other's numbers
//! that begin with the same digit are not the same choice.

use std::collections::BTreeMap;

use crate::engine::{Spelling, Spoken, Token};

/// Where less of what the teacher's words hold can be said in the student's, the token is not
/// aligned.
const SAID_MIN: f64 = 0.9;

/// A student's token that stands where one of the teacher's does.
#[derive(Clone, Debug, PartialEq)]
pub struct Aligned {
    /// The teacher's token.
    pub at: usize,
    /// Words of the student, each once, with their places among the teacher's words. What is not
    /// here belongs to the rest.
    pub words: Vec<(i32, usize)>,
}

/// Align by identity, for a teacher and a student of one vocabulary; nothing where they cut the
/// answer differently all the same.
pub fn same(teacher: &[Spoken], student: &[Token]) -> Option<Vec<Option<Aligned>>> {
    let equal = teacher.len() == student.len()
        && teacher
            .iter()
            .zip(student)
            .all(|(spoken, token)| spoken.token.id == token.id);
    let words = |spoken: &Spoken| {
        spoken
            .words
            .iter()
            .enumerate()
            .map(|(place, (word, _))| (*word, place))
            .collect()
    };
    equal.then(|| {
        teacher
            .iter()
            .enumerate()
            .map(|(at, spoken)| {
                Some(Aligned {
                    at,
                    words: words(spoken),
                })
            })
            .collect()
    })
}

/// Align by bytes. `word` finds the student's word that is spelled so.
///
/// shapes: one for each of `student`; nothing where no token of the teacher covers the same bytes
pub fn align(
    answer: &str,
    teacher: &[Spoken],
    spelling: &BTreeMap<i32, Spelling>,
    student: &[Token],
    word: &dyn Fn(&Spelling) -> Option<i32>,
) -> Vec<Option<Aligned>> {
    let places: BTreeMap<(usize, usize, bool), usize> = teacher
        .iter()
        .enumerate()
        .filter_map(|(at, spoken)| Some((place(&spoken.token)?, at)))
        .collect();
    let one = |token: &Token| {
        let at = *places.get(&place(token)?)?;
        let (from, to) = token.bytes?;
        if is_number(answer.as_bytes().get(from..to)?) {
            return None;
        }
        let words = words(&teacher[at], spelling, token, word);
        let said = |places: &mut dyn Iterator<Item = usize>| {
            places
                .map(|place| f64::from(teacher[at].words[place].1).exp())
                .sum::<f64>()
        };
        let (all, mapped) = (
            said(&mut (0..teacher[at].words.len())),
            said(&mut words.iter().map(|(_, place)| *place)),
        );
        (mapped >= SAID_MIN * all).then_some(Aligned { at, words })
    };
    student.iter().map(one).collect()
}

/// What must be equal for two tokens to stand in the same place. A token that covers nothing is in
/// no place, except for the end.
fn place(token: &Token) -> Option<(usize, usize, bool)> {
    let (from, to) = token.bytes?;
    (from < to || token.ends).then_some((from, to, token.ends))
}

fn words(
    spoken: &Spoken,
    spelling: &BTreeMap<i32, Spelling>,
    token: &Token,
    word: &dyn Fn(&Spelling) -> Option<i32>,
) -> Vec<(i32, usize)> {
    let own = spoken
        .words
        .iter()
        .position(|(theirs, _)| *theirs == spoken.token.id);
    let mut found: Vec<(i32, usize)> = own.map(|place| (token.id, place)).into_iter().collect();
    for (place, (theirs, _)) in spoken
        .words
        .iter()
        .enumerate()
        .filter(|(place, _)| Some(*place) != own)
    {
        let spelled = spelling
            .get(theirs)
            .and_then(|spelled| respelled(spelled, spoken.token.spaced, token.spaced));
        let ours = spelled.and_then(|spelled| word(&spelled));
        // Of two that are spelled alike the first is the likelier.
        if let Some(ours) = ours.filter(|ours| found.iter().all(|(other, _)| other != ours)) {
            found.push((ours, place));
        }
    }
    found
}

/// How the student would write a word of the teacher, where one of them puts a space before the
/// answer; nothing for a number.
fn respelled(spelled: &Spelling, teacher_spaced: bool, student_spaced: bool) -> Option<Spelling> {
    if spelled.ends {
        return Some(spelled.clone());
    }
    let mut bytes = spelled.bytes.as_slice();
    if teacher_spaced {
        bytes = bytes.strip_prefix(b" ")?;
    }
    let bytes = if student_spaced {
        [b" ", bytes].concat()
    } else {
        bytes.to_vec()
    };
    (!bytes.is_empty() && !is_number(&bytes)).then_some(Spelling { bytes, ends: false })
}

/// Several digits in a row, in whatever script.
fn is_number(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let digits: Vec<bool> = text.chars().map(char::is_numeric).collect();
    digits.windows(2).any(|pair| pair[0] && pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Rng;

    /// A vocabulary of byte strings; the number of a word is `base` and its place.
    struct Words {
        base: i32,
        words: Vec<Vec<u8>>,
    }

    const END: i32 = 1_000_000;

    impl Words {
        fn word(&self, spelling: &Spelling) -> Option<i32> {
            let at = self
                .words
                .iter()
                .position(|word| *word == spelling.bytes && !spelling.ends);
            if spelling.ends {
                Some(END + self.base)
            } else {
                at.map(|at| self.base + at as i32)
            }
        }

        /// Cut bytes at these places into tokens, with words made up as they come.
        fn cut(&mut self, text: &[u8], cuts: &[usize], spaced: bool) -> Vec<Token> {
            let mut tokens = Vec::new();
            let mut from = 0;
            for &to in cuts.iter().chain([&text.len()]) {
                let mut bytes = text[from..to].to_vec();
                let spaced = spaced && from == 0;
                if spaced {
                    bytes.insert(0, b' ');
                }
                if !self.words.contains(&bytes) {
                    self.words.push(bytes.clone());
                }
                let id = self.word(&Spelling { bytes, ends: false }).unwrap();
                tokens.push(Token {
                    id,
                    bytes: Some((from, to)),
                    ends: false,
                    spaced,
                });
                from = to;
            }
            let end = text.len();
            tokens.push(Token {
                id: END + self.base,
                bytes: Some((end, end)),
                ends: true,
                spaced: false,
            });
            tokens
        }

        fn spelling(&self) -> BTreeMap<i32, Spelling> {
            let words = self.words.iter().enumerate();
            let words = words.map(|(at, word)| {
                (
                    self.base + at as i32,
                    Spelling {
                        bytes: word.clone(),
                        ends: false,
                    },
                )
            });
            words
                .chain([(
                    END + self.base,
                    Spelling {
                        bytes: Vec::new(),
                        ends: true,
                    },
                )])
                .collect()
        }
    }

    fn cuts(length: usize, share: f64, random: &mut Rng) -> Vec<usize> {
        (1..length).filter(|_| random.unit() < share).collect()
    }

    /// Each token with words drawn from the teacher's vocabulary, its own among them, probabilities
    /// that add up to 1.
    fn speak(words: &Words, tokens: &[Token], random: &mut Rng) -> Vec<Spoken> {
        let all: Vec<i32> = words.spelling().into_keys().collect();
        let speak = |token: &Token| {
            let mut named = vec![token.id];
            named.extend((0..4).map(|_| all[random.below(all.len())]));
            named.sort_unstable();
            named.dedup();
            let share = (1.0 / named.len() as f32).ln();
            Spoken {
                token: *token,
                words: named.into_iter().map(|word| (word, share)).collect(),
            }
        };
        tokens.iter().map(speak).collect()
    }

    #[test]
    fn any_two_tokenizations_agree_only_where_they_cover_the_same_bytes() {
        let texts = [
            "Zürich 2024-03-07",
            "naïve → 東京 🙂 ok",
            "a",
            "12345",
            "  two  spaces ",
            "ééé",
            "x1y22z",
        ];
        let mut aligned_tokens = 0;
        for seed in 0..400 {
            let mut random = Rng::new(seed, "align");
            let text = texts[random.below(texts.len())];
            let bytes = text.as_bytes();
            // Cuts fall inside characters too, as those of byte-level vocabularies do.
            let (mut ours, mut theirs) = (
                Words {
                    base: 0,
                    words: Vec::new(),
                },
                Words {
                    base: 10_000,
                    words: Vec::new(),
                },
            );
            let [shares_one, shares_two] = [random.unit(), random.unit()];
            let (one, two) = (
                cuts(bytes.len(), shares_one, &mut random),
                cuts(bytes.len(), shares_two, &mut random),
            );
            let (spaced_one, spaced_two) = (random.below(2) == 0, random.below(2) == 0);
            let student = ours.cut(bytes, &one, spaced_one);
            let tokens = theirs.cut(bytes, &two, spaced_two);
            let teacher = speak(&theirs, &tokens, &mut random);
            let spelling = theirs.spelling();
            let found = align(text, &teacher, &spelling, &student, &|spelling| {
                ours.word(spelling)
            });
            assert_eq!(found.len(), student.len());
            for (token, aligned) in student.iter().zip(&found) {
                let Some(Aligned { at, words }) = aligned else {
                    continue;
                };
                aligned_tokens += 1;
                let (from, to) = token.bytes.unwrap();
                assert_eq!(teacher[*at].token.bytes, token.bytes, "{text:?}");
                assert_eq!(teacher[*at].token.ends, token.ends, "{text:?}");
                assert!(!is_number(&bytes[from..to]), "{text:?}");
                assert!(words.iter().any(|(word, place)| *word == token.id
                    && teacher[*at].words[*place].0 == teacher[*at].token.id));
                for (i, (word, place)) in words.iter().enumerate() {
                    assert!(
                        words[..i]
                            .iter()
                            .all(|(other, before)| other != word && before != place),
                        "each once"
                    );
                    let theirs = &spelling[&teacher[*at].words[*place].0];
                    let ours = ours.spelling()[word].clone();
                    let plain = |spelled: &Spelling, spaced: bool| {
                        spelled.bytes[usize::from(spaced && !spelled.ends)..].to_vec()
                    };
                    assert_eq!(
                        plain(theirs, teacher[*at].token.spaced),
                        plain(&ours, token.spaced),
                        "{text:?}"
                    );
                    assert!(!is_number(&ours.bytes), "{text:?}");
                    assert!(theirs.ends == ours.ends, "{text:?}");
                }
            }
            let end = found.last().unwrap();
            assert!(
                end.is_none() || end.as_ref().unwrap().at == teacher.len() - 1,
                "the end is the end"
            );
        }
        assert!(aligned_tokens > 100, "{aligned_tokens}");
    }

    #[test]
    fn equal_tokenizations_are_aligned_token_by_token() {
        let text = "Grüße 🙂 aus 東京";
        for spaced in [false, true] {
            let mut random = Rng::new(3, "equal");
            let (mut ours, mut theirs) = (
                Words {
                    base: 0,
                    words: Vec::new(),
                },
                Words {
                    base: 10_000,
                    words: Vec::new(),
                },
            );
            let cut = cuts(text.len(), 0.5, &mut random);
            let student = ours.cut(text.as_bytes(), &cut, false);
            let tokens = theirs.cut(text.as_bytes(), &cut, spaced);
            let teacher = speak(&theirs, &tokens, &mut random);
            let plain = |spoken: &Spoken| Spoken {
                words: vec![(spoken.token.id, 0.0)],
                ..spoken.clone()
            };
            let teacher: Vec<Spoken> = teacher.iter().map(plain).collect();
            let found = align(text, &teacher, &theirs.spelling(), &student, &|spelling| {
                ours.word(spelling)
            });
            assert!(
                found
                    .iter()
                    .enumerate()
                    .all(|(i, aligned)| aligned.as_ref().is_some_and(|aligned| aligned.at == i)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_word_that_the_student_cannot_say_leaves_the_token_to_its_text() {
        let (mut ours, mut theirs) = (
            Words {
                base: 0,
                words: Vec::new(),
            },
            Words {
                base: 10_000,
                words: vec![b"other".to_vec()],
            },
        );
        let student = ours.cut(b"ab", &[1], false);
        let tokens = theirs.cut(b"ab", &[1], false);
        let spoken = |own: f32| Spoken {
            token: tokens[0],
            words: vec![(tokens[0].id, own.ln()), (10_000, (1.0 - own).ln())],
        };
        let found = |own| {
            align(
                "ab",
                &[spoken(own)],
                &theirs.spelling(),
                &student,
                &|spelling| ours.word(spelling),
            )[0]
            .clone()
        };
        assert_eq!(
            found(0.95),
            Some(Aligned {
                at: 0,
                words: vec![(student[0].id, 0)]
            })
        );
        assert_eq!(found(0.5), None);
    }

    #[test]
    fn numbers_are_several_digits_in_a_row() {
        assert!(
            [" 12", "2024", "x10", "١٢"]
                .iter()
                .all(|text| is_number(text.as_bytes()))
        );
        assert!(
            ["1", " 7", "a1b2", "-", "1.", ""]
                .iter()
                .all(|text| !is_number(text.as_bytes()))
        );
    }
}
