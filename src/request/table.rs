//! The table: every field that a run can be asked for, once.
//!
//! A group holds the fields that several runs share. A row is a name, a type, a default, what the
//! value may be, and, as documentation, what it is for. From a row come the flag, the name in JSON,
//! the checks of both, the field of the plan, and the reference.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::field::{
    Field, Kind, Knob, above, at_least, choice, file, of, part, share, switch, up_to, whole,
};
use super::{
    FilterChoice, GeneratorChoice, LabelChoice, Learn, ObjectiveChoice, Refusal, RowFormat,
    Schedule, TokenWeights,
};
use crate::record::Layers;

/// Rows of the table with their values.
pub trait Fields: Clone + Default {
    /// Show each field with its value as JSON has it.
    fn visit(&self, see: &mut dyn FnMut(&'static Field, Value));

    /// Set a field to a value that [`Field::check`] passed. Another's name changes nothing.
    ///
    /// fails: the field's type cannot hold the value
    fn set(&mut self, field: &'static Field, value: &Value) -> Result<(), Refusal>;

    /// The values by the names of their fields.
    fn values(&self) -> Map<String, Value> {
        let mut values = Map::new();
        self.visit(&mut |field, value| _ = values.insert(field.name.to_owned(), value));
        values
    }

    /// Fields by their names. What is left out or null has its default.
    ///
    /// fails: a name that is not known, a value that is not what its row says
    fn of(mut values: Map<String, Value>) -> Result<Self, Refusal> {
        let (mut fields, rows) = (Self::default(), Self::rows());
        for (field, _) in &rows {
            let value = values.remove(field.name).unwrap_or_default();
            match field.check(&value) {
                Ok(Value::Null) => {}
                Ok(value) => fields.set(field, &value)?,
                Err(_) => return Err(Refusal::value(field, &value)),
            }
        }
        let known = || rows.iter().map(|(field, _)| field.name).collect();
        values.into_iter().next().map_or(Ok(fields), |(name, _)| {
            let known = known();
            Err(Refusal::Unknown { name, known })
        })
    }

    /// Check each value against its row.
    ///
    /// fails: a value out of bounds, or one that has no default and is missing
    fn within(&self) -> Result<(), Refusal> {
        let mut checked = Ok(());
        self.visit(&mut |field, value| {
            let this = if value.is_null() && field.needed {
                Err(Refusal::Missing { field })
            } else {
                let fits = field.check(&value);
                fits.map(|_| ()).map_err(|_| Refusal::value(field, &value))
            };
            if checked.is_ok() {
                checked = this;
            }
        });
        checked
    }

    /// The rows, with the defaults.
    fn rows() -> Vec<(&'static Field, Value)> {
        let mut rows = Vec::new();
        Self::default().visit(&mut |field, default| rows.push((field, default)));
        rows
    }
}

macro_rules! fields {
    ($(
        $(#[doc = $about:literal])+
        $name:ident ($($group:ident: $Group:ty),*) {
            $($heading:literal {
                $($(#[doc = $help:literal])+ $field:ident: $type:ty = $default:expr, $kind:expr;)+
            })*
        }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($($(#[doc = $help])+ pub $field: $type,)+)*
            $(#[doc = concat!("See [`", stringify!($Group), "`].")] pub $group: $Group,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($($field: $default,)+)*
                    $($group: <$Group>::default(),)*
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.values().serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::of(Map::deserialize(from)?).map_err(serde::de::Error::custom)
            }
        }

        impl Fields for $name {
            fn visit(&self, see: &mut dyn FnMut(&'static Field, Value)) {
                $($(
                    const { &Field {
                        name: stringify!($field),
                        needed: <$type as Knob>::NEEDED,
                        heading: $heading,
                        help: concat!($($help, "\n"),+),
                        ..$kind
                    } }.show(&self.$field, see);
                )+)*
                $(self.$group.visit(see);)*
            }

            fn set(&mut self, field: &'static Field, value: &Value) -> Result<(), Refusal> {
                match field.name {
                    $($(stringify!($field) => self.$field = field.hold(value)?,)+)*
                    _ => { $(self.$group.set(field, value)?;)* }
                }
                Ok(())
            }
        }
    )+};
}

impl Field {
    fn show<T: Knob>(&'static self, held: &T, see: &mut dyn FnMut(&'static Self, Value)) {
        see(self, held.value());
    }

    fn hold<T: Knob>(&'static self, value: &Value) -> Result<T, Refusal> {
        serde_json::from_value(value.clone()).map_err(|_| Refusal::value(self, value))
    }
}

fields! {
    /// The shape of an adapter, and how a step fits it.
    Shape () {
        "Adapter and training" {
            /// Rank of the adapter
            rank: usize = 16, whole(1, 1024);
            /// LoRA alpha. The adapter is scaled by alpha / rank
            alpha: f32 = 32.0, above(0.0);
            /// Scale by alpha / √rank instead (rsLoRA). A high rank then learns as fast as a low
            /// one. The file carries alpha · √rank, which llama.cpp divides by the rank
            rslora: bool = false, switch();
            /// Linear modules that get an adapter: `all`, `dense` (all but the experts of a
            /// mixture), or a list such as `q,v`
            modules: String = "all".into(), of(Kind::Modules, "LIST");
            /// Layers that get an adapter, such as `12..24` (12 to 23), `12..` or `..8`. Left out,
            /// all do. What lies below the first is computed once for each example
            layers: Option<Layers> = None, of(Kind::Layers, "A..B");
            /// Learning rate of B as a multiple of A's. LoRA+ recommends 4 to 16, with a lower
            /// --lr
            lora_plus: f32 = 1.0, above(0.0);
            /// Examples in one optimizer step
            batch: usize = 8, whole(1, 4096);
            /// Examples that go through the model at one time. Their gradients add up to the
            /// batch's, so that only memory changes. 0 takes as many as fit
            micro_batch: usize = 0, whole(0, 4096);
            /// The most that training may hold, with the model's file. Training is laid out to stay
            /// below, first in ways that cost no time. Where it cannot, it is refused before any
            /// work
            memory: Option<u64> = None, of(Kind::Size, "SIZE");
            /// Decoupled weight decay of A and B (AdamW)
            weight_decay: f32 = 0.0, at_least(0.0);
            /// Share of A's inputs that a step leaves out at random
            lora_dropout: f32 = 0.0, part();
            /// Gradient norm above which a step is scaled down. 0 never does
            clip: f32 = 1.0, at_least(0.0);
        }
    }

    /// How an adapter is trained, besides the number of epochs.
    Training (shape: Shape) {
        "Adapter and training" {
            /// Highest learning rate. --schedule says how it is reached and left. `auto` takes a
            /// higher rate for a narrower model: 5e-4 · (2000 / width)^0.78, which is 1.3e-3 at a
            /// width of 576 and 2.9e-4 at 4096
            lr: Option<f32> = None, above(0.0).or(&["auto"]);
            /// What follows the warm-up: `cosine` falls to a tenth, `linear` falls to nothing,
            /// `constant` stays
            schedule: Schedule = Schedule::Cosine, choice(Schedule::NAMES);
            /// Share of the steps in which the learning rate climbs
            warmup: f32 = 0.05, share();
            /// Hold out every tenth example, stop after N epochs in which its loss did not fall,
            /// and keep the best adapter. 0 trains on all, to the end
            early_stop: usize = 0, whole(0, 1000);
        }
    }

    /// How long a generated input may be.
    InputLength () {
        "Lengths" {
            /// Tokens of one generated input. One that is longer is dropped
            input_tokens: usize = 128, whole(1, 65_536);
        }
    }

    /// How long an answer may be.
    AnswerLength () {
        "Lengths" {
            /// Tokens of one answer. One that does not end before counts as no answer
            answer_tokens: usize = 96, whole(1, 65_536);
        }
    }

    /// How data is written.
    DataFormat () {
        "" {
            /// How the rows of the data are written: JSON lines, a JSON list, or CSV with a header,
            /// with these keys. `auto` finds it out from the first row and says it
            format: RowFormat = RowFormat::Auto, choice(RowFormat::NAMES);
        }
    }

    /// How conversations become text.
    Chat () {
        "Conversations" {
            /// Chat template: a file with a Jinja text, or a name of llama.cpp's, such as `chatml`
            /// or `llama3`. Left out, it is the one that the adapter was made with, else the
            /// model's own. A model without one takes `plain`: each message is a line
            chat_template: Option<String> = None, of(Kind::Text, "TEMPLATE");
            /// Variables of the chat template as a JSON object, such as `{"enable_thinking":
            /// false}`
            chat_template_kwargs: Option<Map<String, Value>> = None, of(Kind::Object, "JSON");
        }
    }

    /// Where a model runs, and how conversations become its text.
    Machine (chat: Chat) {
        "Machine" {
            /// Processor threads. 0 takes all physical cores
            threads: usize = 0, whole(0, 1024).also(Some('t'), None);
            /// Layers kept on the GPU (also written -ngl): a number, or `all`, which is -1
            gpu_layers: i32 = -1,
                whole(-1, 1_000_000).or(&["all", "auto"]).also(None, Some("n-gpu-layers"));
            /// Devices to run on (also written -dev): names with commas between, as `translora
            /// inspect --list-devices` lists them, or `none` for the CPU alone. Left out, all GPUs
            device: Option<String> = None, of(Kind::Text, "NAMES");
            /// Tokens of context for each sequence. 0 takes what the model was made for, 4096 at
            /// most
            ctx_size: usize = 0, whole(0, 1_048_576).also(Some('c'), None);
        }
    }

    /// What every run that leaves a journal has.
    Run () {
        "" {
            /// Seed of everything random. The same seed and thread count give the same bytes
            seed: u64 = 1, whole(0, u64::MAX as i128);
            /// Continue a run that was stopped, from its journal beside --out
            resume: bool = false, switch();
        }
    }

    /// `translora transfer`: move an adapter to another base model.
    Transfer (
        run: Run, rows: DataFormat, training: Training, input: InputLength, answer: AnswerLength,
        machine: Machine
    ) {
        "" {
            /// Base model that the adapter was made for (GGUF)
            source: PathBuf = PathBuf::new(), file("OLD.gguf");
            /// The adapter to move (GGUF)
            source_lora: PathBuf = PathBuf::new(), file("L.gguf");
            /// Base model to move it to (GGUF)
            target: PathBuf = PathBuf::new(), file("NEW.gguf");
            /// Kit of the adapter. This, or --seeds
            kit: Option<PathBuf> = None, file("K.kit");
            /// A few inputs of the task in place of a kit (JSON lines, a JSON list, or CSV). Answers
            /// are not needed
            seeds: Option<PathBuf> = None, file("S.jsonl");
            /// Prompts that a server kept of the adapter: the folder, or the file of one adapter. They
            /// are inputs before any that are generated, some are held out to judge on, and
            /// without a kit and seeds some stand for seeds
            harvest: Option<PathBuf> = None, file("DIR");
            /// The adapter to write. Nothing is overwritten
            out: PathBuf = PathBuf::new(), file("N.gguf");
            /// Generated inputs to learn from, after filtering. The seeds come on top
            samples: usize = 250, whole(1, 1_000_000);
            /// What decides which inputs are kept. `kit` is the discriminator in the kit; `both` is
            /// the contrast and then the discriminator. `auto` is `both` where the kit's
            /// discriminator is good, else `contrast`
            filter: FilterChoice = FilterChoice::Auto, choice(FilterChoice::NAMES);
            /// Which model generates inputs. `auto` is the kit's input model where it holds one,
            /// else the target base. `mix` is the target and the source base; `anything` is the
            /// target without any seeds
            generator: GeneratorChoice = GeneratorChoice::Auto, choice(GeneratorChoice::NAMES);
            /// What the new adapter is fitted to. `text`: the teacher's answers. `kl`: its
            /// distribution at each token of them (one vocabulary only). `aligned`: the same for
            /// the tokens and words that two vocabularies share. `delta`: the target base's own
            /// distribution, shifted by what the adapter does to the source's, for a target that is
            /// already better than the source with its adapter. The report says what `auto` took,
            /// and why
            objective: ObjectiveChoice = ObjectiveChoice::Auto, choice(ObjectiveChoice::NAMES);
            /// How the teacher answers. `consistent` draws eight answers at temperature 1 and keeps
            /// what most agree on. Inputs on which less than half agree are dropped
            label: LabelChoice = LabelChoice::Greedy, choice(LabelChoice::NAMES);
            /// Temperature at which inputs are generated
            temperature: f32 = 1.0, up_to(5.0);
            /// Rows with known answers to judge on (JSON lines, a JSON list, or CSV)
            eval: Option<PathBuf> = None, file("E.jsonl");
        }
        "Judging" {
            /// An adapter for the target trained on real data, to compare with on the rows of
            /// --eval
            oracle: Option<PathBuf> = None, file("O.gguf");
            /// Rows that the new adapter may break, as a share of the deciding ones. A row is
            /// broken where the bare target was right and the new adapter is wrong
            flip_budget: f32 = 0.05, share();
            /// Go on where the source adapter is not seen to beat its own base
            allow_weak_source: bool = false, switch();
        }
        "Conversations" {
            /// Chat template of the source, as --chat-template is the target's. Left out, it is
            /// the one that the adapter or the kit was made with, else the source's own
            source_chat_template: Option<String> = None, of(Kind::Text, "TEMPLATE");
        }
        "Inputs" {
            /// Share of word trigrams from which two inputs are the same. 0 turns this off
            near: f32 = 0.8, share();
            /// Inputs that differ in numbers only are the same
            ignore_numbers: bool = false, switch();
            /// Drop inputs with this part of a seed's words in a row. 0 turns this off
            seed_run: f32 = 0.0, share();
        }
        "Adapter and training" {
            /// Passes over the samples. Where more inputs were accepted than --samples, a pass takes
            /// others in place of the same again
            epochs: f32 = 4.0, up_to(1000.0);
            /// Run --epochs and the schedule again, so many times at most, while the new adapter
            /// has not learnt the answers
            restarts: u32 = 2, whole(0, 100);
            /// How much each token of an answer counts: all the same, by the teacher's confidence,
            /// or by the share of it that the adapter added
            token_weights: TokenWeights = TokenWeights::None, choice(TokenWeights::NAMES);
            /// How far `--objective delta` may take a token, in nats from the target base's own
            /// distribution
            kl_budget: f32 = 10.0, up_to(100.0);
        }
    }

    /// `translora train`: fit an adapter on rows with answers.
    Train (run: Run, rows: DataFormat, training: Training, machine: Machine) {
        "" {
            /// Base model (GGUF)
            model: PathBuf = PathBuf::new(), file("BASE.gguf").also(Some('m'), None);
            /// Rows to learn from (JSON lines, a JSON list, or CSV)
            data: PathBuf = PathBuf::new(), file("D.jsonl");
            /// Which answers of a conversation are learnt: the `last`, or `all` that follow a
            /// user's turn
            learn: Learn = Learn::Last, choice(Learn::NAMES);
            /// The adapter to write. Nothing is overwritten
            out: PathBuf = PathBuf::new(), file("L.gguf");
        }
        "Adapter and training" {
            /// Passes over the data
            epochs: f32 = 3.0, up_to(1000.0);
        }
    }

    /// `translora kit`: pack what a later transfer needs.
    Kit (run: Run, rows: DataFormat, training: Training, input: InputLength, machine: Machine) {
        "" {
            /// Base model of the adapter (GGUF)
            model: PathBuf = PathBuf::new(), file("BASE.gguf").also(Some('m'), None);
            /// The adapter (GGUF)
            lora: PathBuf = PathBuf::new(), file("L.gguf");
            /// The data that the adapter was trained on (JSON lines, a JSON list, or CSV)
            data: PathBuf = PathBuf::new(), file("D.jsonl");
            /// The kit to write. Nothing is overwritten
            out: PathBuf = PathBuf::new(), file("K.kit");
            /// Seed inputs to keep in the kit
            seeds: usize = 5, whole(1, 1000);
            /// Put a LoRA that generates inputs of the task into the kit, too. It remembers some of
            /// what it was trained on
            input_model: bool = false, switch();
        }
        "Adapter and training" {
            /// Passes over the discriminator's data
            epochs: f32 = 3.0, up_to(1000.0);
            /// Passes over the inputs for --input-model
            input_epochs: f32 = 4.0, up_to(1000.0);
        }
    }

    /// `translora eval`: judge a model on rows with known answers.
    Eval (rows: DataFormat, answer: AnswerLength, machine: Machine) {
        "" {
            /// Base model (GGUF)
            model: PathBuf = PathBuf::new(), file("M.gguf").also(Some('m'), None);
            /// Adapter (GGUF). Without one the bare base answers
            lora: Option<PathBuf> = None, file("L.gguf");
            /// Rows with known answers (JSON lines, a JSON list, or CSV)
            data: PathBuf = PathBuf::new(), file("E.jsonl");
            /// Write every row with its answer, and whether it is right, to this file (JSON lines).
            /// Nothing is overwritten
            answers: Option<PathBuf> = None, file("A.jsonl");
        }
    }
}
