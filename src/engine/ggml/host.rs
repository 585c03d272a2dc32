//! Serve a llama.cpp model: its text half for all threads, its context for one.

use std::path::Path;

use translora_llama::{Adapter, Batch, Context, ContextParams, Kernel, LlamaError, Model};

use super::chat::ends;
use super::{internal, of_path};
use crate::engine::chat::MODEL_KEY;
use crate::engine::host::{
    Conversations, Decoder, Grammar, Host, Row, SPARE_TOKENS, Token, Weights,
};
use crate::engine::{ChatInfo, ChatOptions, EngineError, MemoryOptions, ModelInfo, OpenOptions};

pub(super) struct GgmlHost {
    model: Model,
    info: ModelInfo,
    /// One that does not compile is no reason to stop: texts without a conversation are served.
    chat: Conversations,
    options: ChatOptions,
    bos: Option<Token>,
}

impl GgmlHost {
    /// fails: the template that was asked for cannot be found.
    pub(super) fn new(
        model: Model,
        info: ModelInfo,
        options: &OpenOptions,
    ) -> Result<Self, EngineError> {
        let chat = ChatInfo::choose(&options.chat, model.metadata(MODEL_KEY))?;
        let [begin, end] = ends(&model);
        let chat = Conversations::new(chat, [&begin, &end], &options.chat.kwargs);
        let bos = model.vocab().bos().filter(|_| model.vocab().adds_bos());
        Ok(Self {
            model,
            info,
            chat,
            options: options.chat.clone(),
            bos,
        })
    }
}

impl Host for GgmlHost {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn encode(&self, text: &str, markup: bool) -> Result<Vec<Token>, EngineError> {
        self.model.vocab().encode(text, markup).map_err(internal)
    }

    fn bos(&self) -> Option<Token> {
        self.bos
    }

    fn piece(&self, token: Token, markup: bool) -> Vec<u8> {
        self.model.vocab().piece(token, markup)
    }

    fn is_end(&self, token: Token) -> bool {
        self.model.vocab().is_end(token)
    }

    fn chat(&self) -> &Conversations {
        &self.chat
    }

    fn grammar(&self, text: &str) -> Result<Box<dyn Grammar>, EngineError> {
        let grammar = translora_llama::Grammar::new(&self.model, text).map_err(of_grammar)?;
        Ok(Box::new(Constrained(grammar)))
    }

    fn load(&self, adapter: &Path) -> Result<Weights, EngineError> {
        let unfit = |error| of_path(adapter, error);
        let read = Adapter::read(&self.model, adapter).map_err(unfit)?;
        let [begin, end] = ends(&self.model);
        let chat = self
            .options
            .of_adapter(adapter, &read.bytes, [&begin, &end])?;
        let loaded = Adapter::of(&self.model, adapter, &read).map_err(unfit)?;
        let made_for = read.lora.made_for();
        Ok(Weights::new(&read.bytes, made_for, chat, loaded))
    }
}

struct Constrained(translora_llama::Grammar);

impl Grammar for Constrained {
    fn allows(&self, token: Token) -> bool {
        self.0.allows(token)
    }

    fn mask(&self, logits: &mut [f32]) {
        self.0.mask(logits);
    }

    fn accept(&mut self, token: Token) -> Result<(), EngineError> {
        self.0.accept(token).map_err(of_grammar)
    }
}

fn of_grammar(error: LlamaError) -> EngineError {
    match error {
        LlamaError::Grammar(reason) => EngineError::Grammar(reason),
        error => internal(error),
    }
}

pub(super) struct GgmlDecoder {
    context: Context,
    active: Vec<(Weights, f32)>,
    batch: Batch,
    rows_max: usize,
    spare: usize,
}

impl GgmlDecoder {
    /// fails: too little memory.
    pub(super) fn new(
        model: &Model,
        context: usize,
        sequences: usize,
        threads: u32,
        memory: MemoryOptions,
    ) -> Result<Self, EngineError> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let params = ContextParams {
            context: number(
                context
                    .saturating_mul(sequences)
                    .saturating_add(SPARE_TOKENS),
            ),
            batch: number(memory.batch),
            ubatch: number(memory.ubatch.min(memory.batch)),
            sequences: number(sequences + 1),
            threads,
            exact: false,
            kernel: Some(Kernel::for_graphs()),
        };
        let context =
            Context::new(model, &params).map_err(|error| EngineError::Memory(error.to_string()))?;
        Ok(Self {
            context,
            active: Vec::new(),
            batch: Batch::default(),
            rows_max: memory.batch,
            spare: sequences,
        })
    }

    fn activate(&mut self, with: &[(Weights, f32)]) -> Result<(), EngineError> {
        let same = |(a, b): (&(Weights, f32), &(Weights, f32))| {
            a.0.is(&b.0) && a.1.to_bits() == b.1.to_bits()
        };
        if self.active.len() == with.len() && self.active.iter().zip(with).all(same) {
            return Ok(());
        }
        let foreign = || EngineError::Internal("an adapter of another engine".into());
        let of = |(weights, scale): &(Weights, f32)| {
            weights
                .inner::<Adapter>()
                .map(|adapter| (adapter.clone(), *scale))
                .ok_or_else(foreign)
        };
        let adapters = with.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        self.context.switch_adapters(&adapters).map_err(internal)?;
        self.active = with.to_vec();
        Ok(())
    }
}

impl Decoder for GgmlDecoder {
    fn rows_max(&self) -> usize {
        self.rows_max
    }

    fn spare(&self) -> usize {
        self.spare
    }

    fn step(
        &mut self,
        with: &[(Weights, f32)],
        rows: &[Row],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.activate(with)?;
        self.batch.clear();
        for row in rows {
            self.batch.push(
                row.token,
                row.position as i32,
                row.sequence as i32,
                row.output,
            );
        }
        self.context.decode(&self.batch).map_err(internal)?;
        let wanted = rows.iter().enumerate().filter(|(_, row)| row.output);
        wanted
            .map(|(at, _)| {
                self.context
                    .logits(at)
                    .map(<[f32]>::to_vec)
                    .map_err(internal)
            })
            .collect()
    }

    fn truncate(&mut self, sequence: usize, from: usize) {
        self.context.truncate(sequence as i32, from as i32);
    }

    fn fork(&mut self, from: usize, to: usize, tokens: usize) {
        self.context.truncate(to as i32, 0);
        self.context.fork(from as i32, to as i32);
        self.context.truncate(to as i32, tokens as i32);
    }
}
