//! Two models are never open at once: whole runs on an engine that counts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use translora::engine::host::Hosted;
use translora::engine::toy::Toy;
use translora::engine::{
    AdapterId, CompletionScore, Engine, EngineError, Model, ModelInfo, Monitor, OpenOptions, Score,
    With,
};
use translora::pipeline;
use translora::record::{Pair, Prompt};
use translora::request::{
    self, FilterChoice, GeneratorChoice, Inputs, LabelChoice, ObjectiveChoice, TokenWeights,
    Transfer,
};

use crate::pipeline::{kit_plan, plan, sound, train, trained, with_context};
use crate::toy::World;
use crate::wrapped::pass_on;

/// The toy engine, and how many of its models are open, were open at most, and were opened.
#[derive(Clone, Default)]
struct Counting {
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Counting {
    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }
}

impl Engine for Counting {
    fn version(&self) -> String {
        Toy.version()
    }

    fn open(&self, base: &Path, options: &OpenOptions) -> Result<Box<dyn Model>, EngineError> {
        let model = Toy.open(base, options)?;
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        self.all.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Counted {
            model,
            open: Arc::clone(&self.open),
        }))
    }

    fn host(
        &self,
        base: &Path,
        options: &OpenOptions,
        sequences: usize,
    ) -> Result<Hosted, EngineError> {
        Toy.host(base, options, sequences)
    }
}

struct Counted {
    model: Box<dyn Model>,
    open: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Model for Counted {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn attach(&mut self, adapter: &Path) -> Result<AdapterId, EngineError> {
        self.model.attach(adapter)
    }

    fn check_text(&self, text: &str) -> Result<(), EngineError> {
        self.model.check_text(text)
    }
}

impl Score for Counted {
    fn score(
        &mut self,
        with: With,
        pairs: &[Pair],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<CompletionScore>, EngineError> {
        self.model.score(with, pairs, monitor)
    }

    fn preference(
        &mut self,
        with: With,
        prompts: &[Prompt],
        a: &str,
        b: &str,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<f64>, EngineError> {
        self.model.preference(with, prompts, a, b, monitor)
    }

    fn logits(&mut self, with: With, pair: &Pair) -> Result<Vec<Vec<f32>>, EngineError> {
        self.model.logits(with, pair)
    }
}

pass_on!(Generate for Counted);
pass_on!(Label for Counted);
pass_on!(Teach for Counted);
pass_on!(Train for Counted);

#[test]
fn the_count_is_right() {
    let (world, engine) = (World::new(), Counting::default());
    let open = |base| engine.open(base, &OpenOptions::default()).unwrap();
    drop(open(&world.source));
    let source = open(&world.source);
    assert_eq!((engine.most(), engine.all()), (1, 2));
    let target = open(&world.target);
    assert_eq!((engine.most(), engine.all()), (2, 3));
    drop((source, target));
    assert_eq!(engine.open.load(Ordering::SeqCst), 0);
}

#[test]
fn two_models_are_never_open_at_once() {
    let (world, lora) = trained();
    let oracle = train(&world, &world.target, &world.train, "oracle.gguf");
    let engine = Counting::default();
    let kit = request::Kit {
        input_model: true,
        ..kit_plan(&world, &lora)
    };
    let kit = with_context(|context| pipeline::kit(&engine, &sound(&kit), context)).unwrap();
    let kit = Inputs::Kit(&kit.kit);
    let seeds = Inputs::Seeds(&world.seeds);
    let of = |inputs: &Inputs<'_>, name: &str| plan(&world, &lora, *inputs, name);
    let runs = [
        Transfer {
            oracle: Some(oracle),
            ..of(&seeds, "tuned.gguf")
        },
        Transfer {
            generator: GeneratorChoice::Mix,
            label: LabelChoice::Consistent,
            ..of(&seeds, "mix.gguf")
        },
        Transfer {
            filter: FilterChoice::Both,
            ..of(&kit, "both.gguf")
        },
        Transfer {
            filter: FilterChoice::Kit,
            objective: ObjectiveChoice::Delta,
            token_weights: TokenWeights::Contrast,
            ..of(&kit, "delta.gguf")
        },
    ];
    for plan in runs {
        let (name, before) = (plan.out.display(), engine.all());
        with_context(|context| pipeline::transfer(&engine, &sound(&plan), context))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let opened = engine.all() - before;
        assert!(opened >= 6, "{name}: {opened} were opened");
        assert_eq!(engine.most(), 1, "{name}");
    }
}
