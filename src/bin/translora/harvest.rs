//! Look at the prompts that a server kept, and erase them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use translora::record::{Clock, SystemClock};
use translora_harvest::{Asked, Row, Summary, erase, erase_expired, file_of, list, read};

use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// List, show and erase the prompts that a server kept
///
/// A server that was started with --harvest keeps them. What is erased under a running server is
/// gone, and the server goes on with what is left.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  translora harvest list kept/\n  \
        translora harvest show kept/ ticket > seeds.jsonl\n  \
        translora harvest erase kept/ ticket")]
pub struct Harvest {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Say of which adapters prompts are kept, how many, and for how long
    List {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print the prompts of an adapter, a row of data a line
    Show {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,

        /// The name that the adapter is served under
        #[arg(value_name = "ADAPTER")]
        adapter: String,
    },
    /// Erase what is kept of an adapter, or of all
    Erase {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,

        /// The name that the adapter is served under; all if left out
        #[arg(value_name = "ADAPTER", conflicts_with = "expired")]
        adapter: Option<String>,

        /// Only prompts whose time is over, as a server that runs does every hour
        #[arg(long)]
        expired: bool,
    },
}

impl Harvest {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let now = SystemClock::default().unix_seconds();
        match self.command {
            What::List { folder } => listed(&folder, now, verbosity.json)?,
            What::Show { folder, adapter } => {
                let path = folder.join(file_of(&adapter));
                if !path.exists() {
                    return Err(unknown(&folder, &adapter, now)?);
                }
                let rows = read(&path, now)?.rows;
                let lines: Vec<String> = rows.iter().map(|row| shown(row).to_string()).collect();
                out::data(&lines.join("\n"))?;
            }
            What::Erase {
                folder,
                expired: true,
                ..
            } => {
                let rows = erase_expired(&folder, now)?;
                erased(
                    &json!({ "rows": rows }),
                    verbosity.json,
                    &format!("{rows} prompts"),
                )?;
            }
            What::Erase {
                folder, adapter, ..
            } => {
                let done = erase(&folder, adapter.as_deref())?;
                for path in &done.left {
                    let path = path.display();
                    out::say(&format!("warning: {path} stays: no file of kept prompts"));
                }
                if let Some(adapter) = adapter.filter(|_| done.files == 0) {
                    return Err(unknown(&folder, &adapter, now)?);
                }
                let words = format!("what was kept of {} adapters", done.files);
                erased(&json!({ "adapters": done.files }), verbosity.json, &words)?;
            }
        }
        Ok(Outcome::Done)
    }
}

fn erased(object: &Value, json: bool, words: &str) -> Result<(), Failure> {
    out::data(&if json {
        object.to_string()
    } else {
        format!("erased: {words}")
    })
}

/// Nothing is kept under this name.
fn unknown(folder: &Path, adapter: &str, now: u64) -> Result<Failure, Failure> {
    let listed = list(folder, now)?;
    let known = listed.into_iter().filter_map(|(_, summary)| summary.ok());
    let known: Vec<String> = known.map(|summary| summary.adapter).collect();
    Ok(Failure::Usage {
        message: format!("{}: nothing is kept of {adapter:?}", folder.display()),
        hint: if known.is_empty() {
            "nothing is kept there at all".into()
        } else {
            format!("there are prompts of {}", known.join(", "))
        },
    })
}

fn listed(folder: &Path, now: u64, json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for (path, summary) in list(folder, now)? {
        match summary {
            Ok(summary) => {
                objects.push(object(&path, &summary));
                rows.push((summary.adapter.clone(), words(&summary, now)));
            }
            Err(error) if json => objects.push(json!({
                "path": path.display().to_string(), "error": error.to_string(),
            })),
            Err(error) => out::say(&format!("warning: {error}")),
        }
    }
    if json {
        return out::data(&Value::from(objects).to_string());
    }
    if rows.is_empty() {
        rows.push(("nothing".into(), "is kept there".into()));
    }
    out::data(&out::columns(&rows).join("\n"))
}

fn object(path: &Path, summary: &Summary) -> Value {
    json!({
        "adapter": summary.adapter,
        "path": path.display().to_string(),
        "rows": summary.rows,
        "answers": summary.answers,
        "bytes": summary.bytes,
        "first": summary.between.map(|[first, _]| first),
        "last": summary.between.map(|[_, last]| last),
        "until": summary.until,
    })
}

fn words(summary: &Summary, now: u64) -> String {
    let Summary {
        rows,
        answers,
        bytes,
        ..
    } = summary;
    let mut words = format!("{rows} prompts, {answers} answers, {bytes} bytes");
    if let (Some([first, last]), Some(until)) = (summary.between, summary.until) {
        words += &format!(
            "; from {} to {} ago, erased within {}",
            age(now.saturating_sub(first)),
            age(now.saturating_sub(last)),
            age(until.saturating_sub(now))
        );
    }
    words
}

/// A time in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A prompt as a row of data; one that is no conversation as the text that it is.
fn shown(row: &Row) -> Value {
    let mut object = match &row.asked {
        Asked::Turns(turns) => match &turns[..] {
            [one] => json!({ "prompt": one.content }),
            turns => json!({ "prompt": turns }),
        },
        Asked::Text(text) => json!({ "text": text }),
    };
    if let Some(answer) = &row.answer {
        object["completion"] = answer.as_str().into();
    }
    object
}
