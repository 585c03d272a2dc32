use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::JobsError;
use crate::engine::OpenOptions;
use crate::pipeline::{
    FilterChoice, GeneratorChoice, Inputs, LabelChoice, ObjectiveChoice, RESTARTS, RecipePlan,
    Repeats, Schedule, TokenWeights, TransferPlan, flip_budget, kl_budget,
};
use crate::record::{Layers, Limits, Remedy, Step};

/// A transfer as a program asks for it: the flags of `translora transfer` as JSON, `--source-lora`
/// being `source_lora`. What is left out has the command's default; a name that is not known is
/// refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferRequest {
    pub source: PathBuf,
    pub source_lora: PathBuf,
    pub target: PathBuf,
    /// This, or `seeds`.
    pub kit: Option<PathBuf>,
    pub seeds: Option<PathBuf>,
    pub out: PathBuf,
    pub samples: usize,
    pub filter: FilterChoice,
    pub generator: GeneratorChoice,
    pub label: LabelChoice,
    pub objective: ObjectiveChoice,
    pub token_weights: TokenWeights,
    /// units: nats
    pub kl_budget: f32,
    pub eval: Option<PathBuf>,
    pub oracle: Option<PathBuf>,
    pub flip_budget: f32,
    pub allow_weak_source: bool,
    pub temperature: f32,
    pub input_tokens: usize,
    pub answer_tokens: usize,
    pub near: f32,
    pub ignore_numbers: bool,
    pub seed_run: f32,
    pub epochs: f32,
    pub restarts: u32,
    pub rank: usize,
    pub alpha: f32,
    pub rslora: bool,
    pub modules: String,
    /// Such as `"12..24"`.
    pub layers: Option<Layers>,
    /// Left out: by the target's width.
    pub lr: Option<f32>,
    pub lora_plus: f32,
    pub schedule: Schedule,
    pub warmup: f32,
    pub batch: usize,
    pub micro_batch: usize,
    /// units: bytes
    pub memory: Option<u64>,
    pub weight_decay: f32,
    pub lora_dropout: f32,
    pub clip: f32,
    pub early_stop: usize,
    pub threads: usize,
    pub gpu_layers: i32,
    /// llama.cpp's `--device`
    pub device: Option<String>,
    pub ctx_size: usize,
    pub seed: u64,
    pub resume: bool,
}

impl Default for TransferRequest {
    fn default() -> Self {
        let recipe = RecipePlan::default();
        let open = OpenOptions::default();
        let repeats = Repeats::default();
        Self {
            source: PathBuf::new(),
            source_lora: PathBuf::new(),
            target: PathBuf::new(),
            kit: None,
            seeds: None,
            out: PathBuf::new(),
            samples: 250,
            filter: FilterChoice::Auto,
            generator: GeneratorChoice::Auto,
            label: LabelChoice::Greedy,
            objective: ObjectiveChoice::Auto,
            token_weights: TokenWeights::None,
            kl_budget: kl_budget(),
            eval: None,
            oracle: None,
            flip_budget: flip_budget(),
            allow_weak_source: false,
            temperature: 1.0,
            input_tokens: Limits::default().input_tokens_max,
            answer_tokens: Limits::default().completion_tokens_max,
            near: repeats.near,
            ignore_numbers: repeats.numbers,
            seed_run: repeats.seed_run,
            epochs: 4.0,
            restarts: RESTARTS,
            rank: recipe.rank,
            alpha: recipe.alpha,
            rslora: recipe.rslora,
            modules: recipe.modules,
            layers: recipe.layers,
            lr: recipe.learning_rate,
            lora_plus: recipe.b_rate,
            schedule: recipe.schedule,
            warmup: recipe.warmup,
            batch: recipe.batch,
            micro_batch: recipe.micro_batch,
            memory: recipe.memory,
            weight_decay: recipe.weight_decay,
            lora_dropout: recipe.dropout,
            clip: recipe.clip_norm,
            early_stop: recipe.patience,
            threads: open.threads,
            gpu_layers: open.gpu_layers,
            device: open.device,
            ctx_size: open.context,
            seed: 1,
            resume: false,
        }
    }
}

impl TransferRequest {
    /// Read a request.
    ///
    /// fails: not JSON, a name that is not known, a value of the wrong type
    pub fn parse(json: &str) -> Result<Self, JobsError> {
        serde_json::from_str(json).map_err(|error| {
            JobsError::request(
                format!("the request cannot be read: {error}"),
                Step::JsonRequest,
            )
        })
    }

    /// The plan that is asked for.
    ///
    /// fails: a file that must be named is not, or a number is out of bounds
    pub fn plan(&self) -> Result<TransferPlan, JobsError> {
        self.check()?;
        let inputs = match (&self.kit, &self.seeds) {
            (Some(kit), None) => Inputs::Kit(kit.clone()),
            (None, Some(_)) if matches!(self.filter, FilterChoice::Kit | FilterChoice::Both) => {
                let what = format!("\"filter\": \"{}\" needs a kit", self.filter.name());
                return Err(JobsError::request(
                    what,
                    Remedy::or([Remedy::add("kit"), Remedy::set("filter", "contrast")]),
                ));
            }
            (None, Some(seeds)) => Inputs::Seeds(seeds.clone()),
            _ => {
                return Err(JobsError::request(
                    "give \"kit\" or \"seeds\", and one only",
                    Remedy::or([Remedy::add("kit"), Remedy::add("seeds")]),
                ));
            }
        };
        Ok(TransferPlan {
            source: self.source.clone(),
            source_lora: self.source_lora.clone(),
            target: self.target.clone(),
            inputs,
            out: self.out.clone(),
            samples: self.samples,
            filter: self.filter,
            generator: self.generator,
            label: self.label,
            objective: self.objective,
            token_weights: self.token_weights,
            kl_budget: self.kl_budget,
            temperature: self.temperature,
            repeats: Repeats {
                near: self.near,
                numbers: self.ignore_numbers,
                seed_run: self.seed_run,
            },
            eval: self.eval.clone(),
            oracle: self.oracle.clone(),
            flip_budget: self.flip_budget,
            allow_weak_source: self.allow_weak_source,
            recipe: self.recipe(),
            open: OpenOptions {
                threads: self.threads,
                gpu_layers: self.gpu_layers.max(-1),
                device: self.device.clone(),
                context: self.ctx_size,
                repack: false,
            },
            limits: Limits {
                input_tokens_max: self.input_tokens,
                completion_tokens_max: self.answer_tokens,
                ..Limits::default()
            },
            seed: self.seed,
            resume: self.resume,
        })
    }

    fn recipe(&self) -> RecipePlan {
        RecipePlan {
            rank: self.rank,
            alpha: self.alpha,
            rslora: self.rslora,
            modules: self.modules.clone(),
            layers: self.layers,
            epochs: self.epochs,
            restarts: self.restarts,
            learning_rate: self.lr,
            b_rate: self.lora_plus,
            schedule: self.schedule,
            warmup: self.warmup,
            batch: self.batch,
            micro_batch: self.micro_batch,
            memory: self.memory,
            weight_decay: self.weight_decay,
            dropout: self.lora_dropout,
            clip_norm: self.clip,
            patience: self.early_stop,
        }
    }

    /// The bounds of the command line's flags.
    fn check(&self) -> Result<(), JobsError> {
        let paths = [
            ("source", &self.source),
            ("source_lora", &self.source_lora),
            ("target", &self.target),
            ("out", &self.out),
        ];
        if let Some((name, _)) = paths
            .iter()
            .find(|(_, path)| path.as_path() == Path::new(""))
        {
            return Err(JobsError::request(
                format!("\"{name}\" is missing"),
                Remedy::add(*name),
            ));
        }
        let whole = [
            ("samples", self.samples, 1, 1_000_000),
            ("input_tokens", self.input_tokens, 1, 65_536),
            ("answer_tokens", self.answer_tokens, 1, 65_536),
            ("rank", self.rank, 1, 1024),
            ("batch", self.batch, 1, 4096),
            ("micro_batch", self.micro_batch, 0, 4096),
            ("early_stop", self.early_stop, 0, 1000),
            ("restarts", self.restarts as usize, 0, 100),
            ("threads", self.threads, 0, 1024),
            ("ctx_size", self.ctx_size, 0, 1_048_576),
        ];
        if let Some((name, n, least, most)) = whole
            .iter()
            .find(|(_, n, least, most)| n < least || n > most)
        {
            return Err(JobsError::request(
                format!("\"{name}\" is {n}"),
                Remedy::takes(*name, format!("a whole number from {least} to {most}")),
            ));
        }
        let above_zero = f32::MIN_POSITIVE;
        let real = [
            ("temperature", self.temperature, above_zero, 5.0),
            ("kl_budget", self.kl_budget, above_zero, 100.0),
            ("epochs", self.epochs, above_zero, 1000.0),
            ("alpha", self.alpha, above_zero, f32::MAX),
            ("lr", self.lr.unwrap_or(1.0), above_zero, f32::MAX),
            ("lora_plus", self.lora_plus, above_zero, f32::MAX),
            ("warmup", self.warmup, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, f32::MAX),
            ("lora_dropout", self.lora_dropout, 0.0, 1.0 - f32::EPSILON),
            ("clip", self.clip, 0.0, f32::MAX),
        ];
        // Written so that what is no number is out of bounds.
        match real
            .iter()
            .find(|(_, x, least, most)| !(x >= least && x <= most))
        {
            Some((name, x, least, most)) => {
                let least = if *least == above_zero {
                    "above 0".to_owned()
                } else {
                    format!("{least} or more")
                };
                Err(JobsError::request(
                    format!("\"{name}\" is {x}"),
                    Remedy::takes(*name, format!("a number {least}, and at most {most}")),
                ))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Blame;

    const LEAST: &str =
        r#"{"source": "a", "source_lora": "b", "target": "c", "seeds": "s", "out": "o"}"#;

    fn with(more: &str) -> Result<TransferPlan, JobsError> {
        TransferRequest::parse(&LEAST.replace('}', &format!(", {more}}}")))
            .and_then(|request| request.plan())
    }

    #[test]
    fn what_is_left_out_has_the_commands_default() {
        let plan = TransferRequest::parse(LEAST).unwrap().plan().unwrap();
        assert_eq!(
            (
                plan.samples,
                plan.recipe.epochs,
                plan.recipe.rank,
                plan.seed
            ),
            (250, 4.0, 16, 1)
        );
        assert_eq!(plan.inputs, Inputs::Seeds("s".into()));
        assert_eq!(
            with(r#""rank": 8, "filter": "contrast", "schedule": "linear""#)
                .unwrap()
                .recipe
                .rank,
            8
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let cases = [
            (r#""sample": 3"#, "sample"),
            (r#""samples": 0"#, "samples"),
            (r#""rank": 1025"#, "rank"),
            (r#""rank": -1"#, "-1"),
            (r#""layers": "7..7""#, "7..7"),
            (r#""lr": 0"#, "lr"),
            (r#""epochs": 1e9"#, "epochs"),
            (r#""lora_dropout": 1"#, "lora_dropout"),
            (r#""kit": "k""#, "one only"),
            (r#""filter": "kit""#, "needs a kit"),
            (r#""filter": "best""#, "best"),
            (r#""objective": "best""#, "best"),
            (r#""kl_budget": 0"#, "kl_budget"),
            (r#""out": """#, "out"),
        ];
        for (more, named) in cases {
            let error = with(more).unwrap_err();
            assert!(
                error.to_string().contains(named) && error.remedy().is_some(),
                "{more}: {error}"
            );
        }
        for bad in [
            "",
            "[]",
            "{",
            "3",
            r#"{"source": 1}"#,
            r#"{"source": "a", "source_lora": "b", "target": "c", "out": "o"}"#,
        ] {
            assert!(
                TransferRequest::parse(bad)
                    .and_then(|request| request.plan())
                    .is_err(),
                "{bad}"
            );
        }
    }
}
