use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use translora::control::{Server, Socket, Token};

use crate::failure::Failure;
use crate::log::Log;
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// The variable with the token.
pub const TOKEN: &str = "TRANSLORA_CONTROL_TOKEN";
const TOKEN_BYTES: usize = 24;

/// Serve transfers and adapters of a running llama-server over HTTP
///
/// The server has to run with libtranslora.so in it (`translora attach`). Clients send a token as
/// `Authorization: Bearer TOKEN`: the one in TRANSLORA_CONTROL_TOKEN, or a random one that is
/// printed once. Paths: /v1/transfers, /v1/adapters.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora control --attach /run/user/1000/translora-4711.sock \
        --port 8090"
)]
pub struct Control {
    /// The server's socket
    #[arg(long, value_name = "SOCKET")]
    attach: PathBuf,

    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    port: u16,

    /// Address to listen on. One that other machines reach needs TRANSLORA_CONTROL_TOKEN
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,

    #[command(flatten)]
    log: Log,
}

impl Control {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        self.log.start(verbosity.quiet);
        let token = token()?;
        let backend = Arc::new(Socket::new(self.attach));
        let server = Server::start(backend, &self.host, self.port, &token)?;
        out::say(&notice(&server, &token));
        let address = format!("http://{}", server.address());
        out::data(&if verbosity.json {
            serde_json::json!({ "listening": [address] }).to_string()
        } else {
            format!("listening on {address}")
        })?;
        server.run()?;
        Ok(Outcome::Done)
    }
}

/// The token that clients have to send.
pub fn token() -> Result<Token, Failure> {
    match std::env::var(TOKEN) {
        Ok(token) if !token.is_empty() => return Ok(Token::Chosen(token)),
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Failure::Usage {
                message: format!("{TOKEN} is not UTF-8"),
                hint: "a token is sent in a header: letters and digits are safe".into(),
            });
        }
        _ => {}
    }
    let mut bytes = [0; TOKEN_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| Failure::Usage {
            message: format!("no random token: /dev/urandom: {error}"),
            hint: format!("set {TOKEN}"),
        })?;
    let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Token::Random(text))
}

/// Where the router is, and the token where nobody else knows it.
pub fn notice(server: &Server, token: &Token) -> String {
    let token = match token {
        Token::Chosen(_) => format!("of {TOKEN}"),
        Token::Random(token) => token.clone(),
    };
    format!(
        "control  http://{} with the token {token}",
        server.address()
    )
}
