//! The toy as a teacher. An answer is one token, whatever its length, and the end of the turn
//! another.

use std::collections::BTreeMap;

use super::ToyModel;
use super::head::Head;
use crate::engine::{
    EngineError, Lesson, LogsOf, Monitor, Spelling, Spoken, Teach, Token, With, WordsOf,
};
use crate::record::{ContentHash, Pair};

/// The word that ends a turn; it is certain.
const END: i32 = 0;

/// The number of an answer as a word: the same in every toy.
pub(super) fn number(answer: &str) -> i32 {
    let hash = answer.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash >> 2) as i32 + 1
}

fn spelling(answer: &str) -> Spelling {
    Spelling {
        bytes: answer.as_bytes().to_vec(),
        ends: false,
    }
}

impl Teach for ToyModel {
    fn vocabulary(&self) -> ContentHash {
        ContentHash::of(format!("toy {} {}", self.base.vocabulary, self.base.ascii).as_bytes())
    }

    fn tokens(&self, pair: &Pair) -> Result<Vec<Token>, EngineError> {
        let completion = pair.completion.as_str();
        let end = completion.len();
        let whole = Token {
            id: number(completion.trim()),
            bytes: Some((0, end)),
            ends: false,
            spaced: false,
        };
        Ok(vec![
            whole,
            Token {
                id: END,
                bytes: Some((end, end)),
                ends: true,
                spaced: false,
            },
        ])
    }

    fn word(&self, spelling: &Spelling) -> Option<i32> {
        if spelling.ends {
            Some(END)
        } else {
            std::str::from_utf8(&spelling.bytes).ok().map(number)
        }
    }

    fn teach(
        &mut self,
        with: With,
        pairs: &[Pair],
        words: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Lesson, EngineError> {
        let head = self.head(with)?;
        let mut lesson = Lesson {
            spelling: BTreeMap::from([(
                END,
                Spelling {
                    bytes: Vec::new(),
                    ends: true,
                },
            )]),
            answers: Vec::new(),
        };
        for (i, pair) in pairs.iter().enumerate() {
            monitor.tick(i, pairs.len())?;
            let own = pair.completion.trim();
            let mut answers: Vec<&str> = vec![own];
            answers.extend(
                head.iter()
                    .flat_map(|head: &&Head| &head.answers)
                    .map(String::as_str)
                    .filter(|answer| *answer != own),
            );
            let log =
                |answer: &&str| self.log_probability(head, &pair.prompt.whole(), answer) as f32;
            let mut logs: Vec<(&str, f32)> = answers
                .iter()
                .map(|answer| (*answer, log(answer)))
                .collect();
            // The token's own word stays first.
            logs[1..].sort_by(|a, b| b.1.total_cmp(&a.1));
            logs.truncate(words.max(1));
            lesson.spelling.extend(
                logs.iter()
                    .map(|(answer, _)| (number(answer), spelling(answer))),
            );
            let said = [
                logs.iter()
                    .map(|(answer, log)| (number(answer), *log))
                    .collect(),
                vec![(END, 0.0)],
            ];
            lesson.answers.push(
                self.tokens(pair)?
                    .into_iter()
                    .zip(said)
                    .map(|(token, words)| Spoken { token, words })
                    .collect(),
            );
        }
        Ok(lesson)
    }

    fn weigh(
        &mut self,
        with: With,
        pairs: &[Pair],
        words: &[WordsOf],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<LogsOf>, EngineError> {
        let head = self.head(with)?;
        let one = |(i, (pair, words)): (usize, (&Pair, &WordsOf))| {
            monitor.tick(i, pairs.len())?;
            let [answers, end] = words.as_slice() else {
                return Err(EngineError::Internal(
                    "words for other tokens than these completions have".into(),
                ));
            };
            let log = |word: &i32| {
                let known = head
                    .and_then(|head| head.answers.iter().find(|answer| number(answer) == *word));
                let own = pair.completion.trim();
                match known
                    .map(String::as_str)
                    .or_else(|| (number(own) == *word).then_some(own))
                {
                    Some(answer) => self.log_probability(head, &pair.prompt.whole(), answer) as f32,
                    // An answer of other toys: as likely as any word is to the base.
                    None => -2.0 * (self.base.vocabulary as f32).ln(),
                }
            };
            Ok(vec![
                answers.iter().map(log).collect(),
                vec![0.0; end.len()],
            ])
        };
        pairs.iter().zip(words).enumerate().map(one).collect()
    }
}
