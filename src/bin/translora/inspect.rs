use std::path::PathBuf;

use clap::Args;
use translora::engine::ChatOptions;
use translora::fetch::Wanted;
use translora::pipeline::{self, Against, Inspection};

use crate::args::template_arguments;
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// Say what a file is: an adapter, a kit or a model, and what it fits
///
/// Reads the file's header and hash, and every number of an adapter: exit status 1 says that it is
/// unsound. A model is also loaded and its graph traced, without running
/// it, to say how much of it can be trained: `all`, `layers A..B` or `none`, and the operation in
/// the way.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  translora inspect tickets.kit")]
pub struct Inspect {
    /// The file
    #[arg(value_name = "FILE", required_unless_present = "list_devices")]
    file: Option<PathBuf>,

    /// Base model (GGUF) that an adapter is to fit; one of PEFT or MLX can be judged with it only
    #[arg(short = 'm', long, visible_alias = "model", value_name = "M.gguf")]
    base: Option<PathBuf>,

    /// Chat template that a model is to take: a file with a Jinja text, or a name of llama.cpp's
    #[arg(long, value_name = "TEMPLATE")]
    chat_template: Option<String>,

    /// Variables of that template as a JSON object
    #[arg(long, value_name = "JSON", value_parser = template_arguments, requires = "chat_template")]
    chat_template_kwargs: Option<serde_json::Map<String, serde_json::Value>>,

    /// Read every weight of a model, too: exit status 1 says that one is no number
    #[arg(long, requires = "file")]
    check: bool,

    /// List the devices that models can run on, by the names that --device takes
    #[arg(long, conflicts_with = "file")]
    list_devices: bool,
}

impl Inspect {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let Some(file) = self.file else {
            return list_devices(verbosity);
        };
        let file = crate::files::local(&file, Wanted::Any)?;
        let base = self
            .base
            .map(|base| crate::files::local(&base, Wanted::Model));
        let base = base.transpose()?;
        let engine = base.as_deref().map(crate::job::engine).transpose()?;
        let against = Against {
            engine: engine.as_deref(),
            base,
            chat: ChatOptions {
                template: self.chat_template,
                kwargs: self.chat_template_kwargs.unwrap_or_default(),
                ..ChatOptions::default()
            },
            numbers: self.check,
        };
        let found = pipeline::inspect_against(&file, &against)?;
        let mut object = serde_json::to_value(&found)
            .map_err(|error| Failure::Bug(format!("a report is not JSON: {error}")))?;
        let is_model = object["what"] == "model";
        let is_adapter = matches!(found, Inspection::Adapter(_) | Inspection::Foreign(_));
        for (flag, set, read) in [
            ("--base", against.base.is_some(), is_adapter),
            ("--chat-template", against.chat.template.is_some(), is_model),
        ] {
            if set && !read {
                let what = if is_model {
                    "a model"
                } else if is_adapter {
                    "an adapter"
                } else {
                    "a kit"
                };
                return Err(Failure::Usage {
                    message: format!("{flag} changes nothing here: {} is {what}", file.display()),
                    hint: format!("leave {flag} out"),
                });
            }
        }
        if is_model {
            add_trainable(&file, &mut object);
        }
        let mut rows = out::rows(&object);
        rows.sort_by_key(|(name, _)| !matches!(name.as_str(), "what" | "path"));
        out::data(&if verbosity.json {
            object.to_string()
        } else {
            out::columns(&rows).join("\n")
        })?;
        Ok(if found.is_sound() {
            Outcome::Done
        } else {
            Outcome::Refused
        })
    }
}

#[cfg(feature = "ggml")]
fn list_devices(verbosity: Verbosity) -> Result<Outcome, Failure> {
    let devices = translora::engine::ggml::GgmlEngine::new()?.devices();
    if verbosity.json {
        let list = serde_json::to_value(&devices)
            .map_err(|error| Failure::Bug(format!("a report is not JSON: {error}")))?;
        out::data(&list.to_string())?;
        return Ok(Outcome::Done);
    }
    let row = |device: &translora::engine::ggml::DeviceInfo| {
        let (free, total) = (device.memory_free >> 20, device.memory_total >> 20);
        (
            device.name.clone(),
            format!(
                "{}, {}, {free} of {total} MiB free",
                device.kind, device.description
            ),
        )
    };
    out::data(&out::columns(&devices.iter().map(row).collect::<Vec<_>>()).join("\n"))?;
    Ok(Outcome::Done)
}

#[cfg(not(feature = "ggml"))]
fn list_devices(_: Verbosity) -> Result<Outcome, Failure> {
    out::data("CPU")?;
    Ok(Outcome::Done)
}

/// A model that llama.cpp does not load is still a file to speak of.
#[cfg(feature = "ggml")]
fn add_trainable(file: &std::path::Path, object: &mut serde_json::Value) {
    let found = match translora::engine::ggml::check::trainable(file) {
        Ok(found) => serde_json::to_value(found).unwrap_or_default(),
        Err(error) => {
            serde_json::json!({ "trainable": "none", "matrices": 0, "in_the_way": error.to_string() })
        }
    };
    for (key, name) in [
        ("trainable", "trainable"),
        ("matrices", "trainable_matrices"),
        ("in_the_way", "in_the_way"),
    ] {
        object[name] = found[key].clone();
    }
}

#[cfg(not(feature = "ggml"))]
fn add_trainable(_: &std::path::Path, _: &mut serde_json::Value) {}
