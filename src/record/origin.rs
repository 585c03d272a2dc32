use serde::{Deserialize, Serialize};

/// Where an input is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The model wrote the line, or all but its beginning.
    Line,
    /// Words of the model in an input that was there.
    Splice,
    /// Pieces of inputs that were there.
    Chain,
    /// A user asked it.
    Asked,
    /// A model fitted on inputs that were made before wrote it.
    Tuned,
}
