//! Says what a sound LoRA adapter file is. No other crate of the project decides that.
//!
//! [`Lora::read`] takes the bytes of a GGUF file and checks all that can be checked without the base
//! model: types of the metadata, alpha, pairs, ranks, and that every number is finite.
//! [`Lora::fits`] compares it with a [`Base`], matrix by matrix. llama.cpp asserts, crashes or goes on
//! in silence on much of what is refused here, so nothing reaches it that has not passed both.
//!
//! [`gguf_path`] takes what is no GGUF: a folder of PEFT or MLX becomes a GGUF file for its base.
//!
//! Refuses to know: which door a file came through, and llama.cpp.
//!
//! ```
//! use translora_gguf::{Gguf, Writer};
//! use translora_lora::{Base, Lora};
//!
//! let mut model = Writer::new();
//! model.set("general.architecture", "llama");
//! model.tensor_f32("blk.0.attn_q.weight", &[4, 6], &[0.0; 24]);
//! let model = model.to_bytes()?;
//!
//! let mut adapter = Writer::new();
//! adapter.set("general.type", "adapter").set("adapter.type", "lora");
//! adapter.set("general.architecture", "llama").set("adapter.lora.alpha", 16.0_f32);
//! adapter.tensor_f32("blk.0.attn_q.weight.lora_a", &[4, 2], &[0.5; 8]);
//! adapter.tensor_f32("blk.0.attn_q.weight.lora_b", &[2, 6], &[0.5; 12]);
//! let adapter = adapter.to_bytes()?;
//!
//! let lora = Lora::read(&adapter)?;
//! lora.fits(&Base::of(&*Gguf::parse(&model)?))?;
//! assert_eq!((lora.rank(), lora.alpha(), lora.pairs().len()), (2, 16.0, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod base;
mod cache;
mod error;
mod foreign;
mod numbers;
mod read;

pub use base::Base;
pub use cache::kept;
pub use error::{Half, LoraError};
pub use foreign::{
    Difference, Files, Foreign, ForeignError, Part, SAMPLES, gguf_path, merging_path, to_peft,
};
pub use numbers::{NotFinite, finite};
pub use read::{Lora, MAGNITUDE, Pair};

/// The limits on what a file may say.
pub mod limits {
    /// The largest file. Rank 256 on every matrix of a large model stays below it. units: bytes
    pub const FILE_BYTES_MAX: u64 = 16 << 30;
    /// The largest alpha, to either side. Above it the product leaves the range of a float.
    pub const ALPHA_MAX: f32 = 1e6;
}
