//! The integration tests, one program.

mod abi;
mod cli;
mod pipeline;
mod refusals;
mod source;
mod tidy;
mod walls;
mod world;
