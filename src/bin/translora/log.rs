//! The log of a server on standard error: lines for people, or JSON for programs.

use std::fmt;
use std::io;

use clap::{Args, ValueEnum};
use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Where the lines of requests come from.
const ACCESS: &str = "translora::access";

/// What the log of a server is like.
#[derive(Args, Debug)]
pub struct Log {
    /// How the log is written: lines for people, or a JSON object a line
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "plain",
        help_heading = "Output"
    )]
    log_format: Format,

    /// The least of what is logged. `info` has a line for each request; --quiet is `warn`
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Output"
    )]
    log_level: Least,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Format {
    Plain,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Least {
    Error,
    Warn,
    Info,
    Debug,
}

impl Log {
    /// Log from now on to standard error. What other crates say of themselves is left out: it may
    /// hold what clients sent.
    pub fn start(&self, quiet: bool) {
        let least = match self.log_level {
            Least::Error => LevelFilter::ERROR,
            Least::Warn => LevelFilter::WARN,
            Least::Info if quiet => LevelFilter::WARN,
            Least::Info => LevelFilter::INFO,
            Least::Debug => LevelFilter::DEBUG,
        };
        let ours = Targets::new().with_target("translora", least);
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
        let registry = tracing_subscriber::registry().with(ours);
        // A second server in one process goes on with the first one's log.
        _ = match self.log_format {
            Format::Plain => {
                let values = format::debug_fn(value).delimited(" ");
                let lines = lines.fmt_fields(values).event_format(Plain);
                registry.with(lines).try_init()
            }
            Format::Json => registry
                .with(lines.json().flatten_event(true).with_span_list(false))
                .try_init(),
        };
    }
}

/// A value without its name.
fn value(to: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "ms" => write!(to, "{value:?} ms"),
        "id" => write!(to, "[{value:?}]"),
        _ => write!(to, "{value:?}"),
    }
}

/// Say a line that a part of the server has for people. Some begin with `warning: `.
pub fn say(line: &str) {
    match line.strip_prefix("warning: ") {
        Some(line) => tracing::warn!("{line}"),
        None => tracing::info!("{line}"),
    }
}

/// A line as a person reads it: what is worse than usual says so first.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let of_request = event.metadata().target() == ACCESS;
        match *event.metadata().level() {
            Level::ERROR => write!(to, "error: ")?,
            Level::WARN if !of_request => write!(to, "warning: ")?,
            _ => {}
        }
        // Method and path belong to the request as a whole.
        if let Some(request) = context.lookup_current().filter(|_| of_request)
            && let Some(values) = request.extensions().get::<FormattedFields<N>>()
        {
            write!(to, "{values} ")?;
        }
        context.field_format().format_fields(to.by_ref(), event)?;
        writeln!(to)
    }
}
