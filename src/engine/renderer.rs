//! Where chat templates run: in a process of their own, where the program has set one.
//!
//! A template comes with a model or an adapter, from anywhere. One may double a text until memory
//! ends, or nest deeper than a stack. Steps can be counted from outside, memory and stacks cannot.
//! So a template runs in a child with limits, and what ends the child is an error of the template.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use translora_chat::{ChatTemplate, Rendering, TemplateError, ToolUse};
use translora_system::sandbox;

/// The subcommand of the program that renders.
pub const COMMAND: &str = "render";
/// The longest template. The largest of llama.cpp's collection has 17 kB. units: bytes
pub const TEMPLATE_BYTES_MAX: usize = 1 << 18;
/// The longest answer of a child: a text in JSON. units: bytes
const ANSWER_BYTES_MAX: u64 = 128 << 20;
/// What a child may hold. units: bytes
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// The longest that one rendering takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What would load a library of ours into the child.
const NOT_INHERITED: [&str; 2] = ["LD_PRELOAD", "DYLD_INSERT_LIBRARIES"];

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From now on templates run in children of this program, which has [`COMMAND`]. Without it they
/// run in this process, which is for what is a child itself.
pub fn apart(program: PathBuf) {
    // A second call says the same.
    _ = PROGRAM.set(program);
}

/// Give this process the limits of a child that renders: no file, no socket, little memory.
///
/// fails: the system refuses
pub fn confine() -> io::Result<()> {
    let limits = Rlimit {
        current: Some(MEMORY_BYTES_MAX),
        maximum: Some(MEMORY_BYTES_MAX),
    };
    _ = sandbox::confine::<&Path>(&[], &[]);
    Ok(setrlimit(Resource::Data, limits)?)
}

/// What a child is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Compile {
        text: String,
        bos: String,
        eos: String,
    },
    Render {
        messages: Value,
        rendering: Rendering,
    },
    Tools,
}

/// A chat template that compiles.
#[derive(Debug)]
pub struct Renderer(Place);

#[derive(Debug)]
enum Place {
    Here(Box<ChatTemplate>),
    Apart(Box<Apart>),
}

impl Renderer {
    /// Compile a Jinja text. `bos` and `eos` are the tokens that begin and end a text, as text.
    ///
    /// fails: it is too long, it does not compile, or it ends the process that compiles it
    pub fn new(text: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        match PROGRAM.get() {
            None => {
                fits(text)?;
                let template = ChatTemplate::new(text, bos, eos)?;
                Ok(Self(Place::Here(Box::new(template))))
            }
            Some(program) => Self::apart(program, text, [bos, eos]),
        }
    }

    /// The same in a child of this program.
    ///
    /// fails: as [`Self::new`], or the program does not start
    pub fn apart(program: &Path, text: &str, ends: [&str; 2]) -> Result<Self, TemplateError> {
        fits(text)?;
        let [bos, eos] = ends.map(str::to_owned);
        let compile = Question::Compile {
            text: text.to_owned(),
            bos,
            eos,
        };
        let apart = Apart {
            program: program.to_owned(),
            compile,
            running: Mutex::default(),
            tools: OnceLock::new(),
        };
        apart.lock().start(&apart)?;
        Ok(Self(Place::Apart(Box::new(apart))))
    }

    /// Render `messages` with tools and variables.
    ///
    /// fails: the template refuses them, takes too long, writes nothing or too much, or ends the
    /// process that renders
    pub fn render_with(
        &self,
        messages: &(impl Serialize + ?Sized),
        rendering: &Rendering,
    ) -> Result<String, TemplateError> {
        match &self.0 {
            Place::Here(template) => template.render_with(messages, rendering),
            Place::Apart(apart) => apart.ask(&Question::Render {
                messages: serde_json::to_value(messages).map_err(|_| TemplateError::Messages)?,
                rendering: rendering.clone(),
            }),
        }
    }

    /// What the template does with tools; none where it does not write them.
    pub fn tool_use(&self) -> Option<&ToolUse> {
        match &self.0 {
            Place::Here(template) => template.tool_use(),
            Place::Apart(apart) => {
                let tools = apart
                    .tools
                    .get_or_init(|| apart.ask(&Question::Tools).ok()?);
                tools.as_ref()
            }
        }
    }
}

fn fits(text: &str) -> Result<(), TemplateError> {
    if text.len() <= TEMPLATE_BYTES_MAX {
        return Ok(());
    }
    Err(TemplateError::Long {
        bytes: text.len(),
        bytes_max: TEMPLATE_BYTES_MAX,
    })
}

/// A template in a child, which is started anew where it has ended.
#[derive(Debug)]
struct Apart {
    program: PathBuf,
    compile: Question,
    running: Mutex<Running>,
    tools: OnceLock<Option<ToolUse>>,
}

#[derive(Debug, Default)]
struct Running(Option<(Child, BufReader<UnixStream>)>);

impl Apart {
    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T, TemplateError> {
        let mut running = self.lock();
        running.start(self)?;
        running.exchange(question)
    }
}

impl Running {
    /// A child that has compiled the template, where there is none.
    fn start(&mut self, of: &Apart) -> Result<(), TemplateError> {
        if self.0.is_some() {
            return Ok(());
        }
        let broken = |error: io::Error| {
            TemplateError::Process(format!("{} does not start: {error}", of.program.display()))
        };
        self.0 = Some(child(&of.program).map_err(broken)?);
        self.exchange(&of.compile).inspect_err(|_| self.end())
    }

    fn exchange<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T, TemplateError> {
        let Some((_, stream)) = &mut self.0 else {
            return Err(TemplateError::Process("it has ended".into()));
        };
        let answer = exchange(stream, question);
        answer.unwrap_or_else(|error| {
            let slow = matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            );
            Err(if slow {
                self.end();
                TemplateError::Endless(format!("it took longer than {} s", PATIENCE.as_secs()))
            } else {
                TemplateError::Process(self.last_words(&error))
            })
        })
    }

    /// How the child has ended.
    fn last_words(&mut self, error: &io::Error) -> String {
        let Some((mut child, _)) = self.0.take() else {
            return error.to_string();
        };
        // It is over already where its stream is; else its answer was none.
        _ = child.kill();
        match child.wait().map(|status| status.signal()) {
            Ok(Some(signal)) => format!("signal {signal}"),
            _ => error.to_string(),
        }
    }

    fn end(&mut self) {
        if let Some((mut child, _)) = self.0.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn child(program: &Path) -> io::Result<(Child, BufReader<UnixStream>)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    ours.set_write_timeout(Some(PATIENCE))?;
    let mut command = Command::new(program);
    command
        .arg(COMMAND)
        .stdin(OwnedFd::from(theirs.try_clone()?))
        .stdout(OwnedFd::from(theirs))
        .stderr(Stdio::null())
        // A signal of the terminal is for the program.
        .process_group(0);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    Ok((command.spawn()?, BufReader::new(ours)))
}

fn exchange<T: DeserializeOwned>(
    stream: &mut BufReader<UnixStream>,
    question: &Question,
) -> io::Result<Result<T, TemplateError>> {
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line)?;
    line.clear();
    stream
        .by_ref()
        .take(ANSWER_BYTES_MAX)
        .read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// What the child does: compile the template that comes first, and render until `input` ends.
///
/// fails: nobody reads, or a line is no question
pub fn render(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut template = Err(TemplateError::Process("no template was sent".into()));
    for line in input.lines() {
        let answer = match serde_json::from_str(&line?)? {
            Question::Compile { text, bos, eos } => {
                template = ChatTemplate::new(&text, &bos, &eos);
                template.as_ref().map(|_| Value::Null).map_err(Clone::clone)
            }
            Question::Render {
                messages,
                rendering,
            } => template
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|template| template.render_with(&messages, &rendering))
                .map(Value::String),
            Question::Tools => {
                let tools = template.as_ref().ok().and_then(ChatTemplate::tool_use);
                Ok(serde_json::to_value(tools)?)
            }
        };
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}
