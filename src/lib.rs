//! Keep a LoRA adapter alive when the base model under it changes.
//!
//! The old base with its adapter teaches a new adapter for the new base, on inputs that are made up
//! here: the data the adapter was trained on is not needed. source: Trans-LoRA (arXiv 2405.17258).
//!
//! # The map of the house
//! Each room makes one noun and passes it to its right-hand neighbour; nothing else passes between
//! them.
//!
//! | room | does | result |
//! |---|---|---|
//! | [`record`] | shared words: hashes, pairs, limits, seeded randomness, clock, cancellation; no I/O, no model | |
//! | [`request`] | the table of what a run can be asked for; flags, JSON and reference come from it | [`request::Plan`] |
//! | [`fetch`] | finds the file that a name stands for: on a hub, the web, in another program's store | |
//! | [`engine`] | what a stage may ask of a model; [`engine::toy`] is deterministic and pure Rust | |
//! | [`kit`] | reads every input; opens, checks and packs kits | [`kit::Seed`] |
//! | [`generate`] | new inputs: the target base continues a list of seeds | [`generate::Candidate`] |
//! | [`filter`] | keeps the inputs the adapter is for, with a reason for every rejection | [`filter::Kept`] |
//! | [`label`] | asks the teacher: source base with its adapter | [`label::Labeled`] |
//! | [`distill`] | the recipe: batches, schedule, stopping, checkpoints | [`distill::Trained`] |
//! | [`evaluate`] | paired comparison; proof that the gate held | [`evaluate::Passed`] |
//! | [`publish`] | writes every output, whole or not at all | |
//! | [`pipeline`] | plans, events, journal; the only room that sees every stage | |
//! | [`jobs`] | a queue of transfers for hosts that go on serving; each in a process of its own | |
//! | [`adapters`] | which adapter answers in a host that serves: check, exchange in two phases, go back | |
//! | [`control`] | one router for adapters and transfers, over `serve` or over a socket | |
//! | [`serve`] | the reference host: one model, several adapters, HTTP | |
//! | [`plugin`] | the C-shaped door | |
//!
//! # Invariants
//! - Only `kit` reads inputs, only `publish` writes outputs, only `pipeline` writes the journal.
//!   (An engine opens the models and adapters that it is asked for.)
//! - A noun has private fields and no public constructor: what was not filtered cannot be labelled,
//!   what was not judged cannot be published under the name that was asked for.
//! - No room reads a clock. None draws randomness but from its caller's seed, except `serve` for a
//!   request without one.
//! - Nothing is overwritten.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    test,
    allow(clippy::too_many_lines, reason = "tables of cases are long")
)]

pub mod adapters;
pub mod control;
pub mod distill;
pub mod engine;
pub mod evaluate;
pub mod fetch;
pub mod filter;
pub mod generate;
pub mod jobs;
pub mod kit;
pub mod label;
pub mod pipeline;
pub mod plugin;
pub mod publish;
pub mod record;
pub mod request;
pub mod serve;

translora_abi::export!(plugin::Instance);
#[cfg(target_os = "linux")]
translora_attach::transfers!(plugin::transfers);
