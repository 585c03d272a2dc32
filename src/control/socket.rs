use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use translora_attach::command::Answer;

use super::{Backend, Command, Kind, Refusal, Reply};

/// A server that says nothing for this long counts as gone. It may be in the middle of a long batch.
const SILENCE_MAX: Duration = Duration::from_secs(300);
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The socket of a llama-server with the module in it.
#[derive(Clone, Debug)]
pub struct Socket {
    path: PathBuf,
}

impl Socket {
    /// The socket at a path. Each command opens a connection of its own, so the server may come
    /// later, and come again.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn exchange(&self, command: &Command) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        writeln!(stream, "{}", serde_json::to_string(command)?)?;
        let mut line = String::new();
        BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
        Ok(line)
    }
}

impl Backend for Socket {
    fn carry(&self, command: Command) -> Result<Reply, Refusal> {
        let place = self.path.display();
        let line = self.exchange(&command).map_err(|error| {
            Refusal::new(Kind::Unavailable, format!("{place}: {error}"))
                .hint("is the server running? its log has a line `translora: socket PATH`")
        })?;
        let answer: Answer = serde_json::from_str(&line).map_err(|_| {
            let message = format!("{place} gives no answer that translora understands");
            Refusal::new(Kind::Unavailable, message)
                .hint("is this the socket of a llama-server with this version of translora in it?")
        })?;
        answer.into()
    }
}
