//! Oracles and tiny models for tests; behind the feature `testing`.
//!
//! They depend on nothing else of the crate, so that what is checked cannot lean on what checks it.

pub mod architectures;
pub mod reference;
pub mod tiny;
