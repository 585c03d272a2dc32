use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use translora_abi::host::referee::{CHECKS, Seen};

use crate::args::between;
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, out};

mod machine;

/// Say what this machine has, and judge a plugin build
///
/// Tells the processor, memory, devices and llama.cpp of this build. With a library, it is also
/// judged by the C ABI that `translora.h` lays down: each check runs in a process of its own, so
/// that a crash or a hang is a result like any other. The exit status is 1 if a check fails.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  translora doctor\n  translora doctor libtranslora.so --json")]
pub struct Doctor {
    /// A plugin to judge
    #[arg(value_name = "LIBRARY")]
    library: Option<PathBuf>,

    /// Seconds after which a check counts as hung
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = between::<1, 3600>)]
    limit: usize,

    /// Run one check in this process, or look at the machine
    #[arg(long, value_name = "CHECK", hide = true)]
    probe: Option<String>,
}

/// The name of the probe that looks at the machine.
const MACHINE: &str = "machine";
/// How often a child is asked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a child prints as its last line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome", content = "said")]
enum Verdict {
    Passed(String),
    Absent,
    Failed(String),
    Crashed(String),
    Hung,
}

impl Verdict {
    fn is_good(&self) -> bool {
        matches!(self, Self::Passed(_) | Self::Absent)
    }

    /// In a word, and in more.
    fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Passed(said) => ("passed", said),
            Self::Absent => ("absent", "the library does not have it"),
            Self::Failed(said) => ("failed", said),
            Self::Crashed(said) => ("crashed", said),
            Self::Hung => ("hung", "it did not end and was killed"),
        }
    }
}

#[derive(Serialize)]
struct Checked {
    name: &'static str,
    what: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Serialize)]
struct Report {
    machine: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    library: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conforms: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Checked>,
}

impl Doctor {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        if let Some(probe) = &self.probe {
            return self.probe(probe);
        }
        if let Some(library) = &self.library
            && !library.is_file()
        {
            let message = format!("{}: there is no such file", library.display());
            return Err(Failure::Usage {
                message,
                hint: "give the path of a libtranslora".into(),
            });
        }
        let seen = self.child(MACHINE)?;
        let machine = match &seen {
            Verdict::Passed(said) => serde_json::from_str(said).unwrap_or_default(),
            other => {
                serde_json::json!({ "problem": format!("looking at the machine {}: \
                    {}", other.words().0, other.words().1) })
            }
        };
        let checks = if self.library.is_some() {
            self.judge()?
        } else {
            Vec::new()
        };
        let conforms = self
            .library
            .is_some()
            .then(|| checks.iter().all(|checked| checked.verdict.is_good()));
        let report = Report {
            machine,
            library: self.library,
            conforms,
            checks,
        };
        // Not `crate::report`: it adds this process's memory, which nobody asked for.
        let object =
            serde_json::to_value(&report).map_err(|error| Failure::Bug(error.to_string()))?;
        out::data(&if verbosity.json {
            object.to_string()
        } else {
            lines(&report).join("\n")
        })?;
        let good = seen.is_good() && conforms != Some(false);
        Ok(if good {
            Outcome::Done
        } else {
            Outcome::Refused
        })
    }

    fn judge(&self) -> Result<Vec<Checked>, Failure> {
        CHECKS
            .iter()
            .map(|check| {
                Ok(Checked {
                    name: check.name,
                    what: check.what,
                    verdict: self.child(check.name)?,
                })
            })
            .collect()
    }

    /// Do one thing here and print what came of it.
    fn probe(&self, name: &str) -> Result<Outcome, Failure> {
        let verdict = match (
            CHECKS.iter().find(|check| check.name == name),
            &self.library,
        ) {
            _ if name == MACHINE => Verdict::Passed(
                serde_json::to_string(&machine::look())
                    .map_err(|error| Failure::Bug(error.to_string()))?,
            ),
            (Some(check), Some(library)) => match check.run(library) {
                Ok(Seen::Right(said)) => Verdict::Passed(said),
                Ok(Seen::Absent) => Verdict::Absent,
                Err(said) => Verdict::Failed(said),
            },
            _ => return Err(Failure::Bug(format!("there is no check {name:?}"))),
        };
        out::data(
            &serde_json::to_string(&verdict).map_err(|error| Failure::Bug(error.to_string()))?,
        )?;
        Ok(Outcome::Done)
    }

    /// Run a probe in a child and make a verdict of whatever becomes of it.
    fn child(&self, probe: &str) -> Result<Verdict, Failure> {
        let started = |error: std::io::Error| {
            Failure::Bug(format!("the check {probe} does not start: {error}"))
        };
        let program = std::env::current_exe().map_err(started)?;
        let mut command = Command::new(program);
        command
            .args(["doctor", "--probe", probe])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.args(self.library.as_deref().map(Path::as_os_str));
        let mut child = command.spawn().map_err(started)?;
        let (stdout, stderr) = (
            last_line(child.stdout.take()),
            last_line(child.stderr.take()),
        );
        let looks = Duration::from_secs(self.limit as u64).as_millis() / LOOK_EVERY.as_millis();
        let mut status = None;
        for _ in 0..looks {
            status = child.try_wait().map_err(started)?;
            if status.is_some() {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        let Some(status) = status else {
            child.kill().and_then(|()| child.wait()).map_err(started)?;
            return Ok(Verdict::Hung);
        };
        let (said, last_words) = (
            stdout.join().unwrap_or_default(),
            stderr.join().unwrap_or_default(),
        );
        // Only what was said to the end counts: a plugin may also end the process as if all were
        // well.
        match serde_json::from_str(&said) {
            Ok(verdict) if status.success() => Ok(verdict),
            _ => Ok(Verdict::Crashed(how(status, &last_words))),
        }
    }
}

/// Read a stream to its end; its last line that is not empty.
fn last_line(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            _ = stream.read_to_end(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        text.lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default()
            .trim()
            .to_owned()
    })
}

fn how(status: ExitStatus, last_words: &str) -> String {
    let name = match status.signal() {
        Some(4) => " (SIGILL)",
        Some(6) => " (SIGABRT)",
        Some(8) => " (SIGFPE)",
        Some(9) => " (SIGKILL)",
        Some(11) => " (SIGSEGV)",
        _ => "",
    };
    let end = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}{name}"),
        (None, code) => format!(
            "the process ended by itself with {code:?}",
            code = code.unwrap_or(-1)
        ),
    };
    if last_words.is_empty() {
        end
    } else {
        format!("{end}; last words: {last_words}")
    }
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = out::columns(&out::rows(&report.machine));
    let Some(library) = &report.library else {
        return lines;
    };
    lines.push(String::new());
    lines.push(format!(
        "{}, judged by translora.h {}.{}",
        library.display(),
        translora_abi::c::ABI_MAJOR,
        translora_abi::c::ABI_MINOR
    ));
    for checked in &report.checks {
        let (word, said) = checked.verdict.words();
        lines.push(format!("  {word:7}  {:12}  {}", checked.name, checked.what));
        if !checked.verdict.is_good() {
            lines.push(format!("                         {said}"));
        }
    }
    lines.push(
        match report
            .checks
            .iter()
            .filter(|checked| !checked.verdict.is_good())
            .count()
        {
            0 => "it conforms".into(),
            n => format!("it does not conform: {n} of {} checks", report.checks.len()),
        },
    );
    lines
}
