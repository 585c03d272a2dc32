//! Each token of an answer, with the words that a llama.cpp model holds for likeliest there.

use std::collections::{BTreeMap, HashMap};

use super::decode::{self, Job, Reader};
use super::softmax::log_total;
use super::{GgmlModel, internal};
use crate::engine::{
    EngineError, Lesson, LogsOf, Monitor, Spelling, Spoken, Teach, Token, With, WordsOf,
};
use crate::record::{ContentHash, Pair, Prompt};

impl Teach for GgmlModel {
    fn vocabulary(&self) -> ContentHash {
        let vocab = self.model.vocab();
        let chunk = |token: i32| {
            let piece = vocab.piece(token, true);
            let flags = u8::from(vocab.is_end(token)) | u8::from(vocab.is_control(token)) << 1;
            Ok::<_, std::convert::Infallible>(
                [&(piece.len() as u32).to_le_bytes()[..], &[flags], &piece].concat(),
            )
        };
        let words = i32::try_from(vocab.len()).unwrap_or(i32::MAX);
        let end: Vec<u8> = self
            .chat
            .end()
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        let Ok(hash) = ContentHash::of_chunks((0..words).map(chunk).chain([Ok(end)]));
        hash
    }

    fn tokens(&self, pair: &Pair) -> Result<Vec<Token>, EngineError> {
        let encoded = self.chat.pair(&self.model, pair).map_err(internal)?;
        let end = &encoded.tokens[encoded.end..];
        let completion = pair.completion.as_str();
        let text = &encoded.tokens[encoded.start..encoded.end];
        let mut tokens = self.spans(text, completion.as_bytes());
        let last = (completion.len(), completion.len());
        // Only an end that is one token means the same everywhere.
        let bytes = (end.len() == 1).then_some(last);
        tokens.extend(end.iter().map(|&id| Token {
            id,
            bytes,
            ends: end.len() == 1,
            spaced: false,
        }));
        Ok(tokens)
    }

    fn word(&self, spelling: &Spelling) -> Option<i32> {
        self.spelled
            .get_or_init(|| self.spell())
            .get(spelling)
            .copied()
    }

    fn teach(
        &mut self,
        with: With,
        pairs: &[Pair],
        words: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Lesson, EngineError> {
        let scored = self.score_words(with, pairs, &Words::Likeliest(words), monitor)?;
        let mut lesson = Lesson::default();
        for (pair, scored) in pairs.iter().zip(scored) {
            let spoken = self
                .tokens(pair)?
                .into_iter()
                .zip(scored)
                .map(|(token, words)| Spoken { token, words });
            lesson.answers.push(spoken.collect());
        }
        let named = lesson
            .answers
            .iter()
            .flatten()
            .flat_map(|spoken| &spoken.words)
            .map(|(word, _)| *word);
        let mut named: Vec<i32> = named.collect();
        named.sort_unstable();
        named.dedup();
        lesson.spelling = named
            .into_iter()
            .map(|word| (word, self.spelling(word)))
            .collect::<BTreeMap<_, _>>();
        Ok(lesson)
    }

    fn weigh(
        &mut self,
        with: With,
        pairs: &[Pair],
        words: &[WordsOf],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<LogsOf>, EngineError> {
        let scored = self.score_words(with, pairs, &Words::These(words), monitor)?;
        let logs = |tokens: Vec<Vec<(i32, f32)>>| {
            tokens
                .into_iter()
                .map(|words| words.into_iter().map(|(_, log)| log).collect())
                .collect()
        };
        Ok(scored.into_iter().map(logs).collect())
    }
}

impl GgmlModel {
    /// Where the tokens of a text lie in it; nowhere if they do not spell it.
    fn spans(&self, ids: &[i32], text: &[u8]) -> Vec<Token> {
        let vocab = self.model.vocab();
        let pieces: Vec<Vec<u8>> = ids.iter().map(|id| vocab.piece(*id, false)).collect();
        let spelled = pieces.concat();
        // Sentence-piece vocabularies write a space in front.
        let spaced = spelled.len() == text.len() + 1
            && spelled.first() == Some(&b' ')
            && spelled[1..] == *text;
        let known = spaced || spelled == text;
        let mut at = 0;
        let mut one = |(i, (id, piece)): (usize, (&i32, &Vec<u8>))| {
            let spaced = spaced && i == 0;
            let from = at;
            at += piece.len() - usize::from(spaced);
            Token {
                id: *id,
                bytes: known.then_some((from, at)),
                ends: false,
                spaced,
            }
        };
        ids.iter().zip(&pieces).enumerate().map(&mut one).collect()
    }

    fn spelling(&self, word: i32) -> Spelling {
        let ends = self.chat.end() == [word];
        Spelling {
            bytes: if ends {
                Vec::new()
            } else {
                self.model.vocab().piece(word, false)
            },
            ends,
        }
    }

    /// Every word by how it is spelled. Of words that are spelled alike the one that the tokenizer
    /// writes.
    fn spell(&self) -> HashMap<Spelling, i32> {
        let vocab = self.model.vocab();
        let mut found: HashMap<Spelling, i32> = HashMap::new();
        let mut doubtful = Vec::new();
        for word in 0..i32::try_from(vocab.len()).unwrap_or(i32::MAX) {
            let spelling = self.spelling(word);
            if spelling.bytes.is_empty() && !spelling.ends {
                continue;
            }
            if found.insert(spelling.clone(), word).is_some() {
                doubtful.push(spelling);
            }
        }
        for spelling in doubtful {
            let written = std::str::from_utf8(&spelling.bytes)
                .ok()
                .and_then(|text| vocab.encode(text, false).ok());
            match written.as_deref() {
                Some([word]) if self.spelling(*word) == spelling => found.insert(spelling, *word),
                _ => found.remove(&spelling),
            };
        }
        found
    }

    /// Read the completions and note words with ln p at each token.
    fn score_words(
        &mut self,
        with: With,
        pairs: &[Pair],
        which: &Words<'_>,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Scored>, EngineError> {
        let prompts: Vec<Prompt> = pairs.iter().map(|pair| pair.prompt.clone()).collect();
        let (prefix, mut jobs) = self.prompts(&prompts)?;
        let mut targets = Vec::with_capacity(pairs.len());
        for (job, pair) in jobs.iter_mut().zip(pairs) {
            let encoded = self.chat.pair(&self.model, pair).map_err(internal)?;
            let completion = encoded.completion();
            job.tokens.extend(&completion[..completion.len() - 1]);
            targets.push((job.outputs_from, completion.to_vec()));
        }
        check_words(which, &targets)?;
        let longest = jobs
            .iter()
            .map(|job: &Job| job.tokens.len())
            .max()
            .unwrap_or(0);
        let mut collector = Collector {
            which,
            scored: vec![Vec::new(); pairs.len()],
            targets,
            done: 0,
            monitor,
        };
        decode::run(self.ready(with)?, &prefix, &jobs, longest, &mut collector)?;
        Ok(collector.scored)
    }
}

/// ln p of a word that a model rules out.
const LOG_MIN: f64 = -1e4;

/// Words with ln p at each token of one completion.
type Scored = Vec<Vec<(i32, f32)>>;

/// Which words are scored at each token.
enum Words<'a> {
    Likeliest(usize),
    These(&'a [WordsOf]),
}

fn check_words(which: &Words<'_>, targets: &[(usize, Vec<i32>)]) -> Result<(), EngineError> {
    let Words::These(words) = which else {
        return Ok(());
    };
    let fit = words.len() == targets.len()
        && words
            .iter()
            .zip(targets)
            .all(|(words, (_, tokens))| words.len() == tokens.len());
    if fit {
        Ok(())
    } else {
        Err(EngineError::Internal(
            "words for other tokens than these completions have".into(),
        ))
    }
}

struct Collector<'a, 't> {
    which: &'a Words<'a>,
    scored: Vec<Scored>,
    /// Where each job's completion is first predicted, and its tokens.
    targets: Vec<(usize, Vec<i32>)>,
    done: usize,
    monitor: &'a mut Monitor<'t>,
}

impl Reader for Collector<'_, '_> {
    fn read(&mut self, job: usize, at: usize, logits: &[f32]) -> Option<i32> {
        let (start, completion) = &self.targets[job];
        let place = at - start;
        let words = match self.which {
            Words::Likeliest(count) => likeliest(logits, *count, completion[place]),
            Words::These(words) => words[job][place].clone(),
        };
        let total = log_total(logits);
        let log = |word: i32| {
            let logit = usize::try_from(word)
                .ok()
                .and_then(|word| logits.get(word))
                .copied()
                .unwrap_or(f32::NEG_INFINITY);
            // A word that cannot be is written as a number all the same.
            (f64::from(logit) - total).max(LOG_MIN) as f32
        };
        self.scored[job].push(words.into_iter().map(|word| (word, log(word))).collect());
        None
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        self.done += 1;
        self.monitor.tick(self.done, self.scored.len())
    }
}

/// The `count` likeliest words, likeliest first, `own` in place of the last where it is not among
/// them. Of equals the lower number.
fn likeliest(logits: &[f32], count: usize, own: i32) -> Vec<i32> {
    let count = count.clamp(1, logits.len());
    let mut best: Vec<usize> = Vec::with_capacity(count + 1);
    for (word, logit) in logits.iter().enumerate() {
        if best.len() == count && best.last().is_some_and(|&last| logits[last] >= *logit) {
            continue;
        }
        let place = best.partition_point(|&other| logits[other] >= *logit);
        best.insert(place, word);
        best.truncate(count);
    }
    let mut words: Vec<i32> = best.into_iter().map(|word| word as i32).collect();
    if let (false, Some(last)) = (words.contains(&own), words.last_mut()) {
        *last = own;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_words_are_those_of_a_sorted_list_and_the_tokens_own() {
        let mut random = crate::record::Rng::new(1, "likeliest");
        for size in [1, 5, 100] {
            let logits: Vec<f32> = (0..size).map(|_| random.below(20) as f32).collect();
            let mut sorted: Vec<i32> = (0..size).collect();
            sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            for count in [1, 3, 16, 200] {
                let count = count.min(sorted.len());
                assert_eq!(likeliest(&logits, count, sorted[0]), sorted[..count]);
                let own = sorted[sorted.len() - 1];
                let found = likeliest(&logits, count, own);
                assert!(found.contains(&own), "{found:?}");
                assert!(found[..count - 1] == sorted[..count - 1], "{found:?}");
            }
        }
    }
}
