//! Flags that several commands share, and the checks on their values.

use std::ffi::OsString;

use clap::Args;
use translora::engine::OpenOptions;
use translora::pipeline::{RecipePlan, Schedule};
use translora::record::{Layers, Limits};

/// Where a model runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Machine")]
pub struct Machine {
    /// Processor threads; 0 takes all physical cores
    #[arg(short = 't', long, value_name = "N", default_value_t = 0, value_parser = between::<0, 1024>)]
    threads: usize,

    /// Layers kept on the GPU (also written -ngl): a number, or `all`
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "all", value_parser = gpu_layers, allow_negative_numbers = true)]
    gpu_layers: i32,

    /// Devices to run on (also written -dev): names with commas between, as `translora inspect
    /// --list-devices` lists them, or `none` for the CPU alone; left out, all GPUs there are
    #[arg(long, value_name = "NAMES")]
    device: Option<String>,

    /// Tokens of context for each sequence; 0 takes what the model was made for, 4096 at most
    #[arg(short = 'c', long = "ctx-size", value_name = "N", default_value_t = 0, value_parser = between::<0, 1_048_576>)]
    context: usize,
}

impl Machine {
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            threads: self.threads,
            gpu_layers: self.gpu_layers,
            device: self.device.clone(),
            context: self.context,
            repack: false,
        }
    }
}

/// How long texts may be.
#[derive(Args, Debug)]
#[command(next_help_heading = "Lengths")]
pub struct Lengths {
    /// Tokens of one input that is made up; what runs on is no input
    #[arg(long, value_name = "N", default_value_t = Limits::default().input_tokens_max, value_parser = between::<1, 65_536>)]
    input_tokens: usize,

    /// Tokens of one answer; an answer that does not end before is none
    #[arg(long, value_name = "N", default_value_t = Limits::default().completion_tokens_max, value_parser = between::<1, 65_536>)]
    answer_tokens: usize,
}

impl Lengths {
    pub fn limits(&self) -> Limits {
        Limits {
            input_tokens_max: self.input_tokens,
            completion_tokens_max: self.answer_tokens,
            ..Limits::default()
        }
    }
}

/// The shape of an adapter and how it is fitted; the number of epochs is each command's own.
#[derive(Args, Debug)]
#[command(next_help_heading = "Adapter and training")]
pub struct Recipe {
    /// Rank of the adapter
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = between::<1, 1024>)]
    rank: usize,

    /// LoRA alpha; the adapter is scaled by alpha / rank
    #[arg(long, value_name = "X", default_value_t = 32.0, value_parser = positive)]
    alpha: f32,

    /// Scale by alpha / √rank instead (rsLoRA): a high rank then learns as fast as a low one. The
    /// file carries alpha · √rank, which llama.cpp divides by the rank
    #[arg(long)]
    rslora: bool,

    /// Linear modules that get an adapter: `all`, `dense` (all but the experts of a mixture), or a
    /// list such as `q,v` out of q k v o gate up down
    #[arg(long, value_name = "LIST", default_value = "all", value_parser = modules)]
    modules: String,

    /// Layers that get an adapter, such as `12..24` (12 to 23), `12..` or `..8`; all where left
    /// out. What lies below the first is computed once for each example
    #[arg(long, value_name = "A..B", value_parser = str::parse::<Layers>)]
    layers: Option<Layers>,

    /// Highest learning rate; --schedule says how it is reached and left. `auto` takes the higher
    /// rate the narrower the model: 5e-4 · (2000 / width)^0.78, which is 1.3e-3 at a width of 576
    /// and 2.9e-4 at 4096
    #[arg(long = "lr", value_name = "X", default_value = "auto", value_parser = learning_rate)]
    learning_rate: LearningRate,

    /// Learning rate of B as a multiple of A's (LoRA+ recommends 4 to 16, with a lower --lr)
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    lora_plus: f32,

    /// After warming up: `cosine` falls to a tenth, `linear` to nothing, `constant` stays
    #[arg(long, value_name = "NAME", default_value = "cosine", value_parser = schedule)]
    schedule: Schedule,

    /// Share of the steps in which the learning rate climbs
    #[arg(long, value_name = "X", default_value_t = 0.05, value_parser = share)]
    warmup: f32,

    /// Examples in one optimizer step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = between::<1, 4096>)]
    batch: usize,

    /// Examples that go through the model at one time, their gradients added up to the batch's; 0
    /// takes as many as fit. For less memory
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<0, 4096>)]
    micro_batch: usize,

    /// The most that training may hold, the model's file among it, such as 512MiB or 2GiB. It is
    /// laid out to stay below that, at first in ways that cost no time, and refused before any work
    /// where it cannot
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<usize>,

    /// Decoupled weight decay of A and B (AdamW)
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = not_negative)]
    weight_decay: f32,

    /// Share of the inputs of A that a step leaves out at random, below 1
    #[arg(long = "lora-dropout", value_name = "X", default_value_t = 0.0, value_parser = below_one)]
    dropout: f32,

    /// Gradient norm above which a step is scaled down; 0 never does
    #[arg(long = "clip", value_name = "X", default_value_t = 1.0, value_parser = not_negative)]
    clip_norm: f32,

    /// Hold out every tenth example, stop after N epochs in which its loss did not fall, and keep
    /// the best adapter; 0 trains on all, to the end
    #[arg(long = "early-stop", value_name = "N", default_value_t = 0, value_parser = between::<0, 1000>)]
    patience: usize,
}

impl Recipe {
    pub fn plan(&self, epochs: f32) -> RecipePlan {
        RecipePlan {
            rank: self.rank,
            alpha: self.alpha,
            rslora: self.rslora,
            modules: self.modules.clone(),
            layers: self.layers,
            epochs,
            restarts: 0,
            learning_rate: self.learning_rate.0,
            b_rate: self.lora_plus,
            schedule: self.schedule,
            warmup: self.warmup,
            batch: self.batch,
            micro_batch: self.micro_batch,
            memory: self.memory.map(|bytes| bytes as u64),
            weight_decay: self.weight_decay,
            dropout: self.dropout,
            clip_norm: self.clip_norm,
            patience: self.patience,
        }
    }
}

/// Rewrite the spellings of llama.cpp that clap has no notion of: `-ngl N`, `-ngl=N`, and so for
/// `-dev` and `-np`.
pub fn with_llama_names(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let rewrite = |arg: OsString| match arg.to_str() {
        Some("-ngl") => "--gpu-layers".into(),
        Some("-dev") => "--device".into(),
        Some(text) if text.starts_with("-ngl=") => text.replacen("-ngl", "--gpu-layers", 1).into(),
        Some("-np") => "--parallel".into(),
        Some(text) if text.starts_with("-np=") => text.replacen("-np", "--parallel", 1).into(),
        _ => arg,
    };
    args.into_iter().map(rewrite).collect()
}

/// A whole number between two bounds, both allowed.
pub fn between<const LEAST: usize, const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (LEAST..=MOST).contains(&n) => Ok(n),
        _ => Err(format!("must be a whole number from {LEAST} to {MOST}")),
    }
}

/// `--lr`; none is `auto`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LearningRate(Option<f32>);

fn learning_rate(text: &str) -> Result<LearningRate, String> {
    if text == "auto" {
        Ok(LearningRate(None))
    } else {
        positive(text).map(|rate| LearningRate(Some(rate)))
    }
}

/// A finite number above zero.
pub fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err("must be a number above zero, and finite".into()),
    }
}

/// A number above zero and at most `MOST`.
pub fn at_most<const MOST: u32>(text: &str) -> Result<f32, String> {
    positive(text)
        .ok()
        .filter(|x| *x <= MOST as f32)
        .ok_or_else(|| format!("must be a number above zero and at most {MOST}"))
}

/// A size of memory: a whole number with KiB, MiB or GiB. units: bytes.
pub fn memory(text: &str) -> Result<usize, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let found = units.iter().find_map(|(unit, shift)| {
        Some((
            text.strip_suffix(unit)?.trim_end().parse::<usize>().ok()?,
            shift,
        ))
    });
    let bytes = found
        .and_then(|(count, shift)| count.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "must be a size such as 512MiB or 2GiB".into())
}

pub fn not_negative(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("must be zero or a number above it, and finite".into()),
    }
}

pub fn share(text: &str) -> Result<f32, String> {
    not_negative(text)
        .ok()
        .filter(|x| *x <= 1.0)
        .ok_or_else(|| "must be a number from 0 to 1".into())
}

fn below_one(text: &str) -> Result<f32, String> {
    not_negative(text)
        .ok()
        .filter(|x| *x < 1.0)
        .ok_or_else(|| "must be zero or a number above it, and below 1".into())
}

fn schedule(text: &str) -> Result<Schedule, String> {
    match text {
        "cosine" => Ok(Schedule::Cosine),
        "linear" => Ok(Schedule::Linear),
        "constant" => Ok(Schedule::Constant),
        _ => Err("must be cosine, linear or constant".into()),
    }
}

pub fn gpu_layers(text: &str) -> Result<i32, String> {
    match text.parse::<i32>() {
        Ok(n) => Ok(n.max(-1)),
        Err(_) if matches!(text, "all" | "auto") => Ok(-1),
        Err(_) => Err("must be a number of layers, or `all`".into()),
    }
}

pub fn modules(text: &str) -> Result<String, String> {
    const NAMES: [&str; 7] = ["q", "k", "v", "o", "gate", "up", "down"];
    if matches!(text, "all" | "dense") {
        return Ok(text.into());
    }
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    match names.iter().find(|name| !NAMES.contains(name)) {
        None => Ok(names.join(",")),
        Some(name) => Err(format!(
            "{name:?} is not a module; say `all`, `dense` (all but experts) or a list out of {}",
            NAMES.join(",")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(between::<1, 4>("4"), Ok(4));
        for bad in ["0", "5", "-1", "", "1.5", "99999999999999999999999"] {
            assert!(between::<1, 4>(bad).is_err(), "{bad}");
        }
        assert_eq!(positive("2e-4"), Ok(2e-4));
        assert_eq!(
            (
                at_most::<5>("5"),
                at_most::<5>("5.1").is_err(),
                at_most::<5>("x").is_err()
            ),
            (Ok(5.0), true, true)
        );
        for bad in ["0", "-1", "nan", "inf", "1e99", "x"] {
            assert!(positive(bad).is_err(), "{bad}");
        }
        assert_eq!(
            (not_negative("0"), share("1"), below_one("0.5")),
            (Ok(0.0), Ok(1.0), Ok(0.5))
        );
        assert!(
            not_negative("-0.1").is_err()
                && share("1.1").is_err()
                && below_one("1").is_err()
                && schedule("cos").is_err()
        );
    }

    #[test]
    fn memory_has_a_unit() {
        assert_eq!(
            [memory("3KiB"), memory("512MiB"), memory("2 GiB")],
            [Ok(3 << 10), Ok(512 << 20), Ok(2 << 30)]
        );
        for bad in [
            "",
            "2",
            "2GB",
            "GiB",
            "0MiB",
            "-1MiB",
            "1.5GiB",
            "99999999999GiB",
        ] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modules_are_known() {
        assert_eq!(modules("q, v").as_deref(), Ok("q,v"));
        assert_eq!(modules("all").as_deref(), Ok("all"));
        for bad in ["", "q,", "all,q", "attn", "q v"] {
            assert!(modules(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn llama_spellings() {
        let seen = with_llama_names(["x", "-ngl", "7", "-ngl=all", "-nglx"].map(OsString::from));
        assert_eq!(
            seen,
            ["x", "--gpu-layers", "7", "--gpu-layers=all", "-nglx"].map(OsString::from)
        );
        assert_eq!(
            (gpu_layers("all"), gpu_layers("-5"), gpu_layers("3")),
            (Ok(-1), Ok(-1), Ok(3))
        );
        assert!(gpu_layers("many").is_err());
    }
}
