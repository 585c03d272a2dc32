//! Which adapter answers in a host that serves: check a file against the base, exchange it in two
//! phases, go back.
//!
//! [`check()`] reads; [`Adapters`] keeps what each name answers with and calls a [`Loader`] to
//! load, set and free. Nothing here touches a model: the host has its own.
//!
//! Refuses to know: stages, C. Called by the plugin.

mod check;
mod error;
mod name;
mod register;
mod swap;

pub use check::{Base, Checked, check};
pub use error::AdaptersError;
pub use name::check_name;
pub use register::{BARE, Held, Missing, Place, Register};
pub use swap::{Adapters, Answer, Generation, Loader, Refused, SwapId};
