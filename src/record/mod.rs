//! The words every room shares: hashes, prompts and pairs, strict JSON, limits, blame and remedy, randomness, time,
//! cancellation.
//!
//! Knows no model and performs no I/O. Any room may use it; it uses none.

mod blame;
mod cancel;
mod clock;
mod hash;
pub mod json;
mod layers;
mod limits;
mod markup;
mod mersenne;
mod origin;
mod pair;
mod paths;
mod prompt;
mod question;
mod remedy;
mod restore;
mod rng;
mod thoughts;
mod words;

pub use blame::{Blame, Fault};
pub use cancel::{Cancel, Cancelled};
pub use clock::{Clock, SystemClock, TestClock};
pub use hash::ContentHash;
pub use layers::Layers;
pub use limits::Limits;
pub use markup::chat_marker;
pub use mersenne::Mersenne;
pub use origin::Origin;
pub use pair::Pair;
pub use paths::{path_as_text, path_as_text_or_null};
pub use prompt::{Prompt, Role, Turn};
pub use question::Question;
pub use remedy::{Field, InJson, Remedy, Step, Wording};
pub use restore::{Restore, Restored};
pub use rng::Rng;
pub use thoughts::without_thoughts;
pub use words::words_and_pairs;
