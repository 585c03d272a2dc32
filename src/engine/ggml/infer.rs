//! Generate, label and score with a llama.cpp model.

use crate::record::{Pair, Prompt, Rng};

use super::decode::{self, Job, Reader, common_prefix};
use super::softmax::{argmax, draw, log_probability};
use super::{GgmlModel, internal};
use crate::engine::{
    Answer, CompletionScore, Continuation, EngineError, Generate, GenerateRequest, Label, Monitor,
    Score, Start, With,
};

impl Generate for GgmlModel {
    fn generate(
        &mut self,
        with: With,
        request: &GenerateRequest,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Continuation>, EngineError> {
        let (prefix, chat) = match &request.start {
            Start::Text(text) => (self.chat.raw(&self.model, text, false), false),
            Start::Chat(prompt) => (self.chat.prompt(&self.model, prompt), true),
        };
        let prefix = prefix.map_err(internal)?;
        let Some((last, shared)) = prefix.split_last() else {
            return Ok(Vec::new());
        };
        let count = request.openings.len();
        let mut jobs = Vec::with_capacity(count);
        for opening in &request.openings {
            // Words of a list are written with the space before them, those of an answer as they
            // are.
            let text = if opening.is_empty() || chat {
                opening.clone()
            } else {
                format!(" {opening}")
            };
            let opened = self.model.vocab().encode(&text, false).map_err(internal)?;
            jobs.push(Job {
                outputs_from: opened.len(),
                tokens: [&[*last][..], &opened].concat(),
            });
        }
        let longest = jobs.iter().map(|job| job.tokens.len()).max().unwrap_or(0);
        let model = self.weights(with)?.clone();
        let mut sampler = Sampler {
            random: (0..count)
                .map(|i| Rng::new(request.seed.wrapping_add(i as u64), "generate"))
                .collect(),
            texts: vec![Vec::new(); count],
            counts: vec![0; count],
            finished: vec![false; count],
            done: 0,
            vocab: model.vocab(),
            request,
            monitor,
        };
        decode::run(
            self.ready(with)?,
            shared,
            &jobs,
            longest + request.tokens_max,
            &mut sampler,
        )?;
        let ended = sampler
            .texts
            .into_iter()
            .zip(sampler.counts)
            .zip(sampler.finished);
        let text = |opening: &str, bytes: Vec<u8>| {
            let text = String::from_utf8_lossy(&bytes);
            let head = if request.stop.is_empty() {
                &text
            } else {
                text.split(&request.stop).next().unwrap_or_default()
            };
            format!("{opening}{head}")
        };
        let one = |(opening, ((bytes, tokens), finished)): (&String, ((Vec<u8>, usize), bool))| {
            Continuation {
                text: text(opening, bytes),
                tokens,
                finished,
            }
        };
        Ok(request.openings.iter().zip(ended).map(one).collect())
    }
}

struct Sampler<'a, 't> {
    random: Vec<Rng>,
    texts: Vec<Vec<u8>>,
    counts: Vec<usize>,
    finished: Vec<bool>,
    done: usize,
    vocab: translora_llama::Vocab<'a>,
    request: &'a GenerateRequest,
    monitor: &'a mut Monitor<'t>,
}

impl Reader for Sampler<'_, '_> {
    fn read(&mut self, job: usize, _: usize, logits: &[f32]) -> Option<i32> {
        if self.counts[job] == self.request.tokens_max {
            return None;
        }
        let token = draw(
            logits,
            self.request.temperature,
            self.request.min_p,
            &mut self.random[job],
        );
        self.counts[job] += 1;
        if self.vocab.is_end(token) {
            self.finished[job] = true;
            return None;
        }
        self.texts[job].extend(self.vocab.piece(token, false));
        let stop = self.request.stop.as_bytes();
        if !stop.is_empty()
            && self.texts[job]
                .windows(stop.len())
                .any(|window| window == stop)
        {
            self.finished[job] = true;
            return None;
        }
        Some(token)
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        self.done += 1;
        self.monitor.tick(self.done, self.request.openings.len())
    }
}

impl Label for GgmlModel {
    fn answer(
        &mut self,
        with: With,
        prompts: &[Prompt],
        tokens_max: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Answer>, EngineError> {
        let (prefix, jobs) = self.prompts(prompts)?;
        let longest = jobs.iter().map(|job| job.tokens.len()).max().unwrap_or(0);
        let model = self.weights(with)?.clone();
        let mut greedy = Greedy {
            starts: jobs.iter().map(|job| job.outputs_from).collect(),
            tokens: vec![Vec::new(); jobs.len()],
            answers: vec![
                Answer {
                    text: String::new(),
                    tokens: 0,
                    finished: false,
                    log_probability: 0.0
                };
                jobs.len()
            ],
            done: 0,
            vocab: model.vocab(),
            tokens_max,
            monitor,
        };
        decode::run(
            self.ready(with)?,
            &prefix,
            &jobs,
            longest + tokens_max,
            &mut greedy,
        )?;
        let (tokens, answers) = (greedy.tokens, greedy.answers);
        let texts = tokens
            .iter()
            .map(|tokens| String::from_utf8_lossy(&model.vocab().decode(tokens)).into_owned());
        Ok(texts
            .zip(answers)
            .map(|(text, answer)| Answer { text, ..answer })
            .collect())
    }
}

struct Greedy<'a, 't> {
    starts: Vec<usize>,
    tokens: Vec<Vec<i32>>,
    answers: Vec<Answer>,
    done: usize,
    vocab: translora_llama::Vocab<'a>,
    tokens_max: usize,
    monitor: &'a mut Monitor<'t>,
}

impl Reader for Greedy<'_, '_> {
    fn read(&mut self, job: usize, at: usize, logits: &[f32]) -> Option<i32> {
        debug_assert!(at >= self.starts[job]);
        let token = argmax(logits);
        let answer = &mut self.answers[job];
        answer.log_probability += log_probability(logits, token);
        answer.tokens += 1;
        if self.vocab.is_end(token) {
            answer.finished = true;
            return None;
        }
        self.tokens[job].push(token);
        (answer.tokens < self.tokens_max).then_some(token)
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        self.done += 1;
        self.monitor.tick(self.done, self.answers.len())
    }
}

impl Score for GgmlModel {
    fn score(
        &mut self,
        with: With,
        pairs: &[Pair],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<CompletionScore>, EngineError> {
        let prompts: Vec<Prompt> = pairs.iter().map(|pair| pair.prompt.clone()).collect();
        let (prefix, mut jobs) = self.prompts(&prompts)?;
        let targets = self.append(&mut jobs, pairs)?;
        let longest = jobs.iter().map(|job| job.tokens.len()).max().unwrap_or(0);
        let mut scorer = Scorer {
            targets,
            scores: vec![
                CompletionScore {
                    log_probability: 0.0,
                    tokens: 0
                };
                pairs.len()
            ],
            done: 0,
            monitor,
        };
        decode::run(self.ready(with)?, &prefix, &jobs, longest, &mut scorer)?;
        Ok(scorer.scores)
    }

    fn preference(
        &mut self,
        with: With,
        prompts: &[Prompt],
        a: &str,
        b: &str,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<f64>, EngineError> {
        let Some(prompt) = prompts.first() else {
            return Ok(Vec::new());
        };
        let first = |word: &str| {
            let pair = Pair::new(prompt.clone(), word);
            let encoded = self.chat.pair(&self.model, &pair);
            encoded
                .map(|encoded| encoded.completion()[0])
                .map_err(internal)
        };
        let words = [first(a)?, first(b)?];
        if words[0] == words[1] {
            return Err(EngineError::SameFirstToken {
                model: self.path(),
                words: [a.into(), b.into()],
            });
        }
        let (prefix, jobs) = self.prompts(prompts)?;
        let longest = jobs.iter().map(|job| job.tokens.len()).max().unwrap_or(0);
        let mut reader = Preference {
            words,
            margins: vec![0.0; prompts.len()],
            done: 0,
            monitor,
        };
        decode::run(self.ready(with)?, &prefix, &jobs, longest, &mut reader)?;
        Ok(reader.margins)
    }

    fn logits(&mut self, with: With, pair: &Pair) -> Result<Vec<Vec<f32>>, EngineError> {
        let (prefix, mut jobs) = self.prompts(std::slice::from_ref(&pair.prompt))?;
        let encoded = self.chat.pair(&self.model, pair).map_err(internal)?;
        let completion = encoded.completion();
        for job in &mut jobs {
            job.tokens.extend(&completion[..completion.len() - 1]);
        }
        let longest = jobs.iter().map(|job| job.tokens.len()).max().unwrap_or(0);
        let mut keeper = Keeper(Vec::with_capacity(completion.len()));
        // All by llama.cpp: what is compared with the trainer's must not come from the trainer's
        // kernels.
        decode::run(
            self.ready_by(None, with)?,
            &prefix,
            &jobs,
            longest,
            &mut keeper,
        )?;
        Ok(keeper.0)
    }
}

/// Keeps the logits of one job.
struct Keeper(Vec<Vec<f32>>);

impl Reader for Keeper {
    fn read(&mut self, _: usize, _: usize, logits: &[f32]) -> Option<i32> {
        self.0.push(logits.to_vec());
        None
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        Ok(())
    }
}

struct Scorer<'a, 't> {
    /// Where each job's completion is first predicted, and its tokens.
    targets: Vec<(usize, Vec<i32>)>,
    scores: Vec<CompletionScore>,
    done: usize,
    monitor: &'a mut Monitor<'t>,
}

impl Reader for Scorer<'_, '_> {
    fn read(&mut self, job: usize, at: usize, logits: &[f32]) -> Option<i32> {
        let (start, completion) = &self.targets[job];
        self.scores[job].log_probability += log_probability(logits, completion[at - start]);
        self.scores[job].tokens += 1;
        None
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        self.done += 1;
        self.monitor.tick(self.done, self.scores.len())
    }
}

struct Preference<'a, 't> {
    words: [i32; 2],
    margins: Vec<f64>,
    done: usize,
    monitor: &'a mut Monitor<'t>,
}

impl Reader for Preference<'_, '_> {
    fn read(&mut self, job: usize, _: usize, logits: &[f32]) -> Option<i32> {
        let logit = |token: i32| f64::from(logits[token as usize]);
        self.margins[job] = logit(self.words[0]) - logit(self.words[1]);
        None
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        self.done += 1;
        self.monitor.tick(self.done, self.margins.len())
    }
}

/// Reads the logits of completions, and greedy answers where those go another way.
struct Examiner<'a, 't> {
    rows: Vec<Examined>,
    done: usize,
    vocab: translora_llama::Vocab<'a>,
    tokens_max: usize,
    monitor: &'a mut Monitor<'t>,
}

struct Examined {
    /// Where the completion is first predicted, and its tokens.
    target: (usize, Vec<i32>),
    score: CompletionScore,
    answer: Answer,
    tokens: Vec<i32>,
    course: Course,
}

/// How an answer stands to the completion.
#[derive(Clone, Copy)]
enum Course {
    /// The same so far.
    Same,
    /// Another token follows this many tokens of the job.
    Parts(usize, i32),
    /// On its own way.
    Apart,
    Ended,
}

impl Examined {
    /// Take the answer's next token from logits; nothing where the answer ends.
    fn take(&mut self, token: i32, logits: &[f32], is_end: bool, tokens_max: usize) -> Option<i32> {
        self.answer.log_probability += log_probability(logits, token);
        self.answer.tokens += 1;
        self.answer.finished = is_end;
        if !is_end {
            self.tokens.push(token);
        }
        (!is_end && self.answer.tokens < tokens_max).then_some(token)
    }
}

impl Reader for Examiner<'_, '_> {
    fn read(&mut self, job: usize, at: usize, logits: &[f32]) -> Option<i32> {
        let row = &mut self.rows[job];
        let token = argmax(logits);
        let is_end = self.vocab.is_end(token);
        if let Course::Apart = row.course {
            return row.take(token, logits, is_end, self.tokens_max);
        }
        let wanted = row.target.1[at - row.target.0];
        row.score.log_probability += log_probability(logits, wanted);
        row.score.tokens += 1;
        if let Course::Same = row.course {
            row.course = match row.take(token, logits, is_end, self.tokens_max) {
                None => Course::Ended,
                Some(token) if token == wanted => Course::Same,
                Some(token) => Course::Parts(at + 1, token),
            };
        }
        None
    }

    fn back(&mut self, job: usize) -> Option<(usize, i32)> {
        let Course::Parts(at, token) = self.rows[job].course else {
            return None;
        };
        self.rows[job].course = Course::Apart;
        Some((at, token))
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        self.done += 1;
        self.monitor.tick(self.done, self.rows.len())
    }
}

impl GgmlModel {
    /// Read each prompt and its completion in one go, and go back to where the greedy answer parts
    /// from it, if it does.
    pub(super) fn examined(
        &mut self,
        with: With,
        pairs: &[Pair],
        tokens_max: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<(Answer, CompletionScore)>, EngineError> {
        let prompts: Vec<Prompt> = pairs.iter().map(|pair| pair.prompt.clone()).collect();
        let (prefix, mut jobs) = self.prompts(&prompts)?;
        let longest = jobs
            .iter()
            .map(|job| job.tokens.len() + tokens_max)
            .max()
            .unwrap_or(0);
        let targets = self.append(&mut jobs, pairs)?;
        let longest = jobs
            .iter()
            .map(|job| job.tokens.len())
            .max()
            .unwrap_or(0)
            .max(longest);
        let row = |target| Examined {
            target,
            score: CompletionScore {
                log_probability: 0.0,
                tokens: 0,
            },
            answer: Answer {
                text: String::new(),
                tokens: 0,
                finished: false,
                log_probability: 0.0,
            },
            tokens: Vec::new(),
            course: Course::Same,
        };
        let model = self.weights(with)?.clone();
        let rows = targets.into_iter().map(row).collect();
        let mut examiner = Examiner {
            rows,
            done: 0,
            vocab: model.vocab(),
            tokens_max,
            monitor,
        };
        decode::run(self.ready(with)?, &prefix, &jobs, longest, &mut examiner)?;
        let read = |row: Examined| {
            let text = String::from_utf8_lossy(&model.vocab().decode(&row.tokens)).into_owned();
            (Answer { text, ..row.answer }, row.score)
        };
        Ok(examiner.rows.into_iter().map(read).collect())
    }

    /// Let each job go on with the completion of its pair; returns where that is first predicted,
    /// and its tokens.
    fn append(
        &self,
        jobs: &mut [Job],
        pairs: &[Pair],
    ) -> Result<Vec<(usize, Vec<i32>)>, EngineError> {
        let one = |(job, pair): (&mut Job, &Pair)| {
            let encoded = self.chat.pair(&self.model, pair).map_err(internal)?;
            let completion = encoded.completion();
            job.tokens.extend(&completion[..completion.len() - 1]);
            Ok((job.outputs_from, completion.to_vec()))
        };
        jobs.iter_mut().zip(pairs).map(one).collect()
    }

    /// Encode chat prompts: what they all begin with, and a job for the rest of each that wants
    /// logits at its last token.
    pub(super) fn prompts(&self, prompts: &[Prompt]) -> Result<(Vec<i32>, Vec<Job>), EngineError> {
        let encode = |prompt: &Prompt| self.chat.prompt(&self.model, prompt).map_err(internal);
        let encoded = prompts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let slices: Vec<&[i32]> = encoded.iter().map(Vec::as_slice).collect();
        let shared = common_prefix(&slices);
        let job = |tokens: &&[i32]| Job {
            tokens: tokens[shared..].to_vec(),
            outputs_from: tokens.len() - shared - 1,
        };
        let prefix = slices
            .first()
            .map_or(Vec::new(), |first| first[..shared].to_vec());
        Ok((prefix, slices.iter().map(job).collect()))
    }
}
