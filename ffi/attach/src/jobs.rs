//! Transfers in a server: carried out by whoever registered ([`register`]).

use std::sync::OnceLock;

use crate::command::{Command, Refusal, Reply};
use crate::error::AttachError;

/// What carries out the commands about transfers. An adapter that is accepted is put in with
/// [`crate::load()`].
///
/// thread: any, and several at once
pub trait Transfers: Send + Sync {
    /// Carry out one command.
    ///
    /// fails: with the reason; then nothing has changed
    fn carry(&self, command: Command) -> Result<Reply, Refusal>;
}

type Make = fn() -> Result<Box<dyn Transfers>, Refusal>;

static MAKE: OnceLock<Make> = OnceLock::new();
static TRANSFERS: OnceLock<Result<Box<dyn Transfers>, Refusal>> = OnceLock::new();

/// Say who carries out transfers.
pub fn register(make: Make) {
    _ = MAKE.set(make);
}

/// Carry out a command about transfers.
pub fn carry(command: Command) -> Result<Reply, AttachError> {
    let make = MAKE.get().ok_or(AttachError::NoTransfers)?;
    match TRANSFERS.get_or_init(make) {
        Ok(transfers) => Ok(transfers.carry(command)?),
        Err(refusal) => Err(refusal.clone().into()),
    }
}
