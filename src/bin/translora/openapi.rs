use clap::Args;
use translora::{control, serve};

use crate::failure::Failure;
use crate::{Outcome, out};

/// Print the OpenAPI document of `translora serve`, or of `translora control`
///
/// A running server has the same at /openapi.json. No model is opened.
#[derive(Args, Debug)]
pub struct Openapi {
    /// The document of `translora control`
    #[arg(long)]
    control: bool,
}

impl Openapi {
    pub fn run(self) -> Result<Outcome, Failure> {
        let document = if self.control {
            control::openapi::document()
        } else {
            serve::openapi()
        };
        out::data(&format!("{document:#}"))?;
        Ok(Outcome::Done)
    }
}
