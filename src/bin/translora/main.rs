//! The human door: flags in, a plan to the pipeline, events to standard error, the result to
//! standard output.
//!
//! Knows how to ask and how to tell. Decides nothing about adapters.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(unix)]
mod adapters;
mod args;
#[cfg(target_os = "linux")]
mod attach;
#[cfg(feature = "ggml")]
mod bench;
#[cfg(unix)]
mod control;
mod doctor;
#[cfg(target_os = "linux")]
mod elf;
mod eval;
mod exchange;
mod failure;
mod files;
#[cfg(feature = "ggml")]
mod gradcheck;
mod harvest;
mod inspect;
mod job;
mod kept;
mod kit;
mod llama_server;
mod log;
mod openapi;
mod out;
mod progress;
#[cfg(unix)]
mod remote;
mod render;
mod serve;
mod train;
mod transfer;
mod worker;

use failure::Failure;
use progress::Verbosity;
use translora::engine::renderer;

#[cfg(feature = "ggml")]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (engine ggml: llama.cpp's models)"
);
#[cfg(not(feature = "ggml"))]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (engine toy: built without llama.cpp, for tests)"
);

/// Keep a LoRA adapter alive when the base model under it changes
///
/// The old base with its adapter teaches a new adapter for the new base, on inputs made up on this
/// machine: the data that the old adapter was trained on is not needed. The usual order is `train`
/// (if the adapter does not exist yet), `kit` (while the data still does), and `transfer` (when the
/// new base model is out).
#[derive(Parser, Debug)]
#[command(name = "translora", version = VERSION, arg_required_else_help = true, max_term_width = 120)]
#[command(
    after_help = "Exit status: 0 done, 1 refused by evidence (the new adapter did not prove \
        itself), 2 error.\n\
                        Results go to standard output, everything else to standard error. \
                        NO_COLOR is respected."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON object on standard output instead of text
    // The flags of all commands come last, however many a command has in a build.
    #[arg(long, global = true, help_heading = "Output", display_order = 1000)]
    json: bool,

    /// No plan and no progress; warnings and errors only
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Output",
        display_order = 1001
    )]
    quiet: bool,

    /// Print the whole plan with its limits, which operations run on a device, and the counts of a
    /// result
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "quiet",
        help_heading = "Output",
        display_order = 1002
    )]
    verbose: bool,

    /// Fetch nothing: names of hubs and of the web stand for what was fetched before (or set
    /// HF_HUB_OFFLINE)
    #[arg(long, global = true, help_heading = "Files")]
    offline: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    Train(train::Train),
    Kit(kit::Kit),
    Transfer(transfer::Transfer),
    Eval(eval::Eval),
    Import(exchange::Import),
    Export(exchange::Export),
    Merge(exchange::Merge),
    Inspect(inspect::Inspect),
    Serve(Box<serve::Serve>),
    Harvest(harvest::Harvest),
    #[cfg(unix)]
    Adapters(adapters::Adapters),
    #[cfg(target_os = "linux")]
    Attach(attach::Attach),
    #[cfg(unix)]
    Control(control::Control),
    Openapi(openapi::Openapi),
    Doctor(doctor::Doctor),
    #[command(hide = true)]
    Render(render::Render),
    #[command(hide = true)]
    Worker(worker::Worker),
    #[cfg(feature = "ggml")]
    Bench(bench::Bench),
    #[cfg(feature = "ggml")]
    #[command(name = "gradcheck")]
    GradCheck(gradcheck::GradCheck),
}

impl Command {
    fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        match self {
            Self::Train(command) => command.run(verbosity),
            Self::Kit(command) => command.run(verbosity),
            Self::Transfer(command) => command.run(verbosity),
            Self::Eval(command) => command.run(verbosity),
            Self::Import(command) => command.run(verbosity),
            Self::Export(command) => command.run(verbosity),
            Self::Merge(command) => command.run(verbosity),
            Self::Inspect(command) => command.run(verbosity),
            Self::Serve(command) => command.run(verbosity),
            Self::Harvest(command) => command.run(verbosity),
            #[cfg(unix)]
            Self::Adapters(command) => command.run(verbosity),
            #[cfg(target_os = "linux")]
            Self::Attach(command) => command.run(verbosity),
            #[cfg(unix)]
            Self::Control(command) => command.run(verbosity),
            Self::Openapi(command) => command.run(),
            Self::Doctor(command) => command.run(verbosity),
            Self::Render(command) => command.run(),
            Self::Worker(command) => command.run(),
            #[cfg(feature = "ggml")]
            Self::Bench(command) => command.run(verbosity),
            #[cfg(feature = "ggml")]
            Self::GradCheck(command) => command.run(verbosity),
        }
    }

    /// Whether this process runs a model itself.
    #[cfg(target_os = "linux")]
    fn computes(&self) -> bool {
        match self {
            Self::Train(_) | Self::Kit(_) | Self::Transfer(_) | Self::Eval(_) => true,
            Self::Merge(_) | Self::Serve(_) | Self::Worker(_) => true,
            #[cfg(feature = "ggml")]
            Self::Bench(_) | Self::GradCheck(_) => true,
            _ => false,
        }
    }
}

/// How a command ended that did not fail.
pub enum Outcome {
    Done,
    /// The evidence did not carry the result.
    Refused,
    /// With the exit status of the program that ran in its place.
    Ended(u8),
}

fn main() -> ExitCode {
    let (words, notes) = match args::with_llama_names(std::env::args_os()) {
        Ok(line) => line,
        Err(failure) => {
            failure.tell();
            return ExitCode::from(2);
        }
    };
    // Without it the process ends all the same, and says less.
    _ = translora_system::say_why_on_bus_error();
    #[cfg(unix)]
    if let Err(failure) = job::survive_limits() {
        failure.tell();
        return ExitCode::from(2);
    }
    let parsed = summarized(Cli::command()).try_get_matches_from(&words);
    let cli = match parsed.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)) {
        Ok(cli) => cli,
        Err(error) => match args::not_text(&error, &words) {
            Some(failure) => {
                failure.tell();
                return ExitCode::from(2);
            }
            None => error.exit(),
        },
    };
    let verbosity = Verbosity {
        quiet: cli.quiet,
        json: cli.json,
        verbose: cli.verbose,
    };
    if !cli.quiet {
        notes
            .iter()
            .for_each(|note| out::say(&format!("note: {note}")));
    }
    #[cfg(target_os = "linux")]
    if cli.command.computes() {
        job::wait_briefly();
    }
    // These are children themselves, whose end is nobody else's.
    let is_child = matches!(cli.command, Command::Render(_) | Command::Worker(_));
    if let (false, Ok(program)) = (is_child, std::env::current_exe()) {
        renderer::apart(program);
    }
    files::set(files::Fetching {
        offline: cli.offline,
        quiet: cli.quiet || cli.json,
    });
    match cli.command.run(verbosity) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Ok(Outcome::Ended(status)) => ExitCode::from(status),
        Err(failure) => {
            failure.tell();
            ExitCode::from(2)
        }
    }
}

/// Widest help of a command. units: columns
const COLUMNS: usize = 100;
/// What stands before the help of a flag, besides its name: blanks and a letter.
const MARGIN: usize = 8;

/// Give each flag one line in `-h`: as much of the first sentence of what `--help` says as fits.
fn summarized(command: clap::Command) -> clap::Command {
    let names = command.get_arguments().map(name_columns);
    let room = COLUMNS.saturating_sub(MARGIN + names.max().unwrap_or_default());
    command
        .mut_args(|arg| summary(arg, room))
        .mut_subcommands(summarized)
}

/// Columns of `--name <VALUE>`.
fn name_columns(arg: &clap::Arg) -> usize {
    let name = arg.get_long().map_or(0, |long| long.len() + 2);
    let values = arg.get_value_names().unwrap_or_default();
    name + values.iter().map(|value| value.len() + 3).sum::<usize>()
}

fn summary(arg: clap::Arg, room: usize) -> clap::Arg {
    let Some(help) = arg.get_help().map(ToString::to_string) else {
        return arg;
    };
    let mut long = arg
        .get_long_help()
        .map_or(help.clone(), ToString::to_string);
    let values = arg.get_possible_values();
    let takes_values = arg.get_action().takes_values();
    if takes_values && !values.is_empty() {
        let words: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        long += &format!("\n\n[possible values: {}]", words.join(", "));
    }
    let mut notes = String::new();
    if takes_values && let [default] = arg.get_default_values() {
        notes += &format!(" [default: {}]", default.display());
    }
    for alias in arg.get_visible_aliases().unwrap_or_default() {
        notes += &format!(" [alias: --{alias}]");
    }
    let first = help.split_once(". ").map_or(help.as_str(), |all| all.0);
    let short = clause(first, room.saturating_sub(notes.len())).to_owned();
    arg.help(short)
        .long_help(long)
        .hide_possible_values(takes_values)
}

/// The clauses of a sentence that fit; the first one in any case.
fn clause(sentence: &str, room: usize) -> &str {
    let ends = ["; ", ": ", ", ", " ("].map(|end| sentence.match_indices(end));
    let ends = ends.into_iter().flatten().map(|(at, _)| &sentence[..at]);
    let count = |part: &str, sign| part.matches(sign).count();
    let whole = |part: &&str| count(part, '(') == count(part, ')') && count(part, '`') % 2 == 0;
    let mut parts: Vec<&str> = ends.filter(whole).chain([sentence]).collect();
    parts.sort_by_key(|part| part.len());
    let fits = parts.iter().rfind(|part| part.chars().count() <= room);
    fits.or(parts.first()).copied().unwrap_or(sentence)
}

/// Write a report: the object itself with `--json`, else the lines made of it.
fn report<R: serde::Serialize>(
    verbosity: Verbosity,
    report: &R,
    lines: impl FnOnce() -> Vec<String>,
) -> Result<(), Failure> {
    if !verbosity.json {
        return out::data(&lines().join("\n"));
    }
    let mut object = serde_json::to_value(report)
        .map_err(|error| Failure::Bug(format!("a report is not JSON: {error}")))?;
    if let (Some(fields), Some(bytes)) = (object.as_object_mut(), out::memory_bytes_max()) {
        fields.insert("memory_bytes_max".into(), bytes.into());
    }
    out::data(&object.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{COLUMNS, summarized};

    /// Commands that not every build has, or that nobody calls.
    const LEFT_OUT: [&str; 5] = ["bench", "gradcheck", "render", "worker", "help"];

    #[test]
    fn the_flags_are_consistent() {
        super::Cli::command().debug_assert();
    }

    /// `-h` of each command: a flag, its first sentence and its default on one line.
    #[test]
    fn the_short_help_is_one_line_a_flag() {
        let mut cli = summarized(super::Cli::command());
        cli.build();
        let mut long = Vec::new();
        for command in cli
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        {
            let help = command
                .clone()
                .term_width(COLUMNS)
                .render_help()
                .to_string();
            let (_, flags) = help.split_once("\nOptions:\n").unwrap_or(("", &help));
            let flags = flags.split("\nExample").next().unwrap_or(flags);
            let wrong = flags.lines().filter(|line| {
                line.starts_with(' ') && !line.trim_start().starts_with('-') || line.len() > 100
            });
            long.extend(wrong.map(|line| format!("{}: {line}", command.get_name())));
        }
        assert!(long.is_empty(), "{}", long.join("\n"));
    }

    /// The help of each command, as the reference has it.
    fn sections() -> Vec<String> {
        let mut cli = summarized(super::Cli::command());
        cli.build();
        let commands = cli.get_subcommands().cloned();
        commands
            .filter(|command| !LEFT_OUT.contains(&command.get_name()))
            .map(|command| {
                let name = command.get_name().to_owned();
                let help = command.term_width(COLUMNS).render_long_help().to_string();
                let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
                format!(
                    "\n## translora {name}\n\n```text\n{}\n```\n",
                    lines.join("\n").trim_end()
                )
            })
            .collect()
    }

    #[test]
    fn the_reference_is_what_help_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/cli.md");
        if std::env::var_os("TRANSLORA_BLESS").is_some() {
            let head = "# The command line\n\n`translora COMMAND --help` prints these. The exit \
                status is 0 if \
                it is done, 1 if the evidence refused it, and 2 for an error.\n\n\
                This page is printed: `TRANSLORA_BLESS=1 cargo test --bin translora reference` \
                writes it.\n";
            std::fs::write(path, head.to_owned() + &sections().concat()).expect("it is writable");
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        // A system may have fewer commands than the reference.
        for section in sections() {
            assert!(
                found.contains(&section),
                "not in docs/reference/cli.md:{section}"
            );
        }
    }
}
