//! Adapters and transfers under control: one router for them, over whatever has them.
//!
//! [`router`] turns HTTP into a [`Command`] and its [`Reply`] into JSON. A [`Backend`] carries
//! commands out: the adapters of `serve` itself, or a [`Socket`] of a llama-server with the module in
//! it. [`Transfers`] is what the commands about transfers mean for both: a queue, and an adapter
//! that goes live when it is accepted. [`Server`] puts the router on a port, behind a token.
//!
//! Refuses to know: models, slots, generations. Called by `serve`, the plugin and the program.

mod access;
mod connections;
mod door;
mod error;
mod http;
mod inputs;
mod json;
pub mod openapi;
mod server;
mod socket;
mod transfers;

pub use translora_attach::command::{
    Adapter, AdapterList, Command, Effect, Event, Expected, Generation, Job, Kind, LeftOut, Load,
    Problem, Refusal, Reply, State, Swapped,
};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use translora_attach::place;

pub use crate::pipeline::sweep;
pub use access::{AnsweredBy, REQUEST_ID, observed};
pub use connections::Bounds;
pub use door::{Door, Inside, OpenDoor};
pub use error::ControlError;
pub use http::{GENERATION, Segment, documented, refused, router};
pub use inputs::Inputs;
pub use json::parse;
pub use server::{Server, Token};
pub use socket::Socket;
pub use transfers::{Kept, Lasting, Say, Transfers, of_jobs, request};

/// What has adapters and transfers.
///
/// thread: any, and several at once
pub trait Backend: Send + Sync + 'static {
    /// Carry out one command. Blocks until it is done.
    ///
    /// fails: with the reason; then nothing has changed
    fn carry(&self, command: Command) -> Result<Reply, Refusal>;

    /// True where streams of events are to end, because the server does.
    fn is_stopping(&self) -> bool {
        false
    }
}
