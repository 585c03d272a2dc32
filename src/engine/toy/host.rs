//! Serve a toy base. A token is a byte; each cell of a sequence remembers the adapters that made
//! it, so that a server that mixes them is found out: the answer is then `mixed`.

use std::path::Path;

use serde_json::Map;

use super::{Base, Head, ToyModel, read_adapter};
use crate::engine::chat::ChatOrigin;
use crate::engine::host::{Conversations, Decoder, Grammar, Host, Rendering, Row, Token, Weights};
use crate::engine::{ChatInfo, ChatOptions, EngineError, ModelInfo, unrender};
use crate::record::Prompt;

/// The token after the bytes.
const END: Token = 256;
const USER: &str = "user: ";
const ASSISTANT: &str = "\nassistant: ";
const TEMPLATE: &str = "{% for m in messages %}{{ '' if loop.first else '\\n' }}\
    {{ m.role + ': ' + m.content }}{% endfor %}\
    {% if add_generation_prompt %}{{ '\\nassistant: ' }}{% endif %}";
const ROWS_MAX: usize = 64;
/// Logit of the token that comes, where all others have 0.
const CERTAIN: f32 = 20.0;

pub(super) struct ToyHost {
    base: Base,
    info: ModelInfo,
    options: ChatOptions,
    chat: Conversations,
}

impl ToyHost {
    /// fails: the template that was asked for cannot be found.
    pub(super) fn new(
        base: Base,
        info: ModelInfo,
        options: &ChatOptions,
    ) -> Result<Self, EngineError> {
        let chat = ChatInfo::choose(options, Some(TEMPLATE.into()))?;
        Ok(Self {
            base,
            info: ModelInfo {
                vocabulary: END as usize + 1,
                ..info
            },
            options: options.clone(),
            chat: Conversations::new(chat, ["", ""], &options.kwargs),
        })
    }
}

impl Host for ToyHost {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn encode(&self, text: &str, _markup: bool) -> Result<Vec<Token>, EngineError> {
        Ok(text.bytes().map(Token::from).collect())
    }

    fn bos(&self) -> Option<Token> {
        None
    }

    fn piece(&self, token: Token, _markup: bool) -> Vec<u8> {
        u8::try_from(token)
            .map(|byte| vec![byte])
            .unwrap_or_default()
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn chat(&self) -> &Conversations {
        &self.chat
    }

    fn grammar(&self, _: &str) -> Result<Box<dyn Grammar>, EngineError> {
        Err(EngineError::Grammar("the toy engine has none".into()))
    }

    fn load(&self, adapter: &Path) -> Result<Weights, EngineError> {
        let bytes = read_adapter(adapter)?;
        let head = Head::from_gguf(adapter, &bytes, self.base.width)?;
        let chat = self.options.of_adapter(adapter, &bytes, ["", ""])?;
        let made_for = head.made_for.clone();
        Ok(Weights::new(&bytes, made_for.as_deref(), chat, head))
    }
}

/// The conversation that the template of a served toy writes as this text.
pub(super) fn conversation(text: &str) -> Option<Prompt> {
    let info = ChatInfo {
        text: TEMPLATE.into(),
        origin: ChatOrigin::Model,
    };
    let chat = Conversations::new(info, ["", ""], &Map::new());
    let rendering = Rendering {
        answer: true,
        ..Rendering::default()
    };
    unrender::conversation(text, "", &|turns| {
        chat.render(&serde_json::to_value(turns).ok()?, &rendering)
            .ok()
    })
}

/// A decoded token and the adapters it was decoded under.
#[derive(Clone)]
struct Cell {
    token: Token,
    with: Vec<(Weights, f32)>,
}

pub(super) struct ToyDecoder {
    model: ToyModel,
    sequences: Vec<Vec<Cell>>,
}

impl ToyDecoder {
    pub(super) fn new(model: ToyModel, sequences: usize) -> Self {
        Self {
            model,
            sequences: vec![Vec::new(); sequences + 1],
        }
    }

    fn next(&self, cells: &[Cell]) -> Token {
        let bytes: Vec<u8> = cells
            .iter()
            .filter_map(|cell| u8::try_from(cell.token).ok())
            .collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let with = cells.last().map_or(&[][..], |cell| &cell.with);
        let mixed = cells.iter().any(|cell| !same(&cell.with, with));
        let Some((before, said)) = text.rsplit_once(ASSISTANT) else {
            return goes_on(&bytes, mixed);
        };
        let prompt = before
            .rsplit_once(USER)
            .map_or(before, |(_, prompt)| prompt);
        let head = with
            .iter()
            .find(|(_, scale)| *scale != 0.0)
            .and_then(|(weights, _)| weights.inner::<Head>());
        let answer = if mixed {
            "mixed".to_owned()
        } else {
            self.model.greedy(head, prompt, usize::MAX).text
        };
        answer
            .as_bytes()
            .get(said.len())
            .map_or(END, |byte| Token::from(*byte))
    }
}

fn same(a: &[(Weights, f32)], b: &[(Weights, f32)]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.0.is(&b.0) && a.1.to_bits() == b.1.to_bits())
}

/// Text outside of a conversation repeats its last word for ever.
fn goes_on(text: &[u8], mixed: bool) -> Token {
    if mixed {
        return Token::from(b'!');
    }
    let mut words = text.rsplit(|byte| *byte == b' ');
    let (begun, word) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    Token::from(
        word.strip_prefix(begun)
            .and_then(|rest| rest.first().copied())
            .unwrap_or(b' '),
    )
}

impl Decoder for ToyDecoder {
    fn rows_max(&self) -> usize {
        ROWS_MAX
    }

    fn spare(&self) -> usize {
        self.sequences.len() - 1
    }

    fn step(
        &mut self,
        with: &[(Weights, f32)],
        rows: &[Row],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut outputs = Vec::new();
        for row in rows {
            let cells = self
                .sequences
                .get_mut(row.sequence)
                .ok_or_else(|| EngineError::Internal(format!("sequence {}", row.sequence)))?;
            if cells.len() != row.position {
                return Err(EngineError::Internal(format!(
                    "position {} of a sequence of {}",
                    row.position,
                    cells.len()
                )));
            }
            cells.push(Cell {
                token: row.token,
                with: with.to_vec(),
            });
            if row.output {
                // It grows with the scale and overflows as a real one does.
                let scale = with
                    .iter()
                    .fold(1.0, |most, (_, scale)| scale.abs().max(most));
                let mut logits = vec![0.0; END as usize + 1];
                let heads = with.iter().filter_map(|(weights, scale)| {
                    Some(scale * weights.inner::<Head>()?.strength())
                });
                let next = self.next(&self.sequences[row.sequence]);
                logits[next as usize] = CERTAIN * scale + heads.sum::<f32>();
                outputs.push(logits);
            }
        }
        Ok(outputs)
    }

    fn truncate(&mut self, sequence: usize, from: usize) {
        self.sequences[sequence].truncate(from);
    }

    fn fork(&mut self, from: usize, to: usize, tokens: usize) {
        self.sequences[to] = self.sequences[from][..tokens].to_vec();
    }
}
