use crate::engine::EngineError;
use crate::record::{Blame, Fault, Remedy, Step};

/// Why nothing could be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The engine could not do it.
    #[error("generating inputs: {0}")]
    Engine(#[from] EngineError),
    /// There is nothing to start from.
    #[error("there are no seed inputs to start from")]
    NoSeeds,
}

impl Blame for GenerateError {
    fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::NoSeeds => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Engine(EngineError::Context { .. }) => Some(Remedy::or([
                Remedy::raise("ctx_size"),
                Step::ShorterSeeds.into(),
            ])),
            Self::Engine(error) => error.remedy(),
            Self::NoSeeds => Some(Step::VariedSeeds.into()),
        }
    }
}
