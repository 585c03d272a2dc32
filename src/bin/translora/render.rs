use std::io;

use clap::Args;
use translora::engine::renderer;

use crate::Outcome;
use crate::failure::Failure;

/// Render conversations with one chat template: questions on standard input, answers on standard
/// output
///
/// Started by the other commands, not by people. It ends with its standard input, and what the
/// template does to it ends nothing else.
#[derive(Args, Debug)]
pub struct Render {}

impl Render {
    pub fn run(self) -> Result<Outcome, Failure> {
        let Self {} = self;
        let lost = |error: io::Error| Failure::Bug(format!("rendering: {error}"));
        renderer::confine().map_err(lost)?;
        renderer::render(io::stdin().lock(), io::stdout().lock()).map_err(lost)?;
        Ok(Outcome::Done)
    }
}
