//! Reads and writes GGUF files (versions 2 and 3, little endian), and turns quantized blocks into
//! floats.
//!
//! The bytes may come from anyone: every length is checked before it is believed, every count has a
//! limit in [`limits`], and a [`Gguf`] that exists holds only tensors that lie inside the file,
//! aligned, named once and apart from each other.
//!
//! Refuses to know what a key or a tensor means; who reads a model or an adapter out of the file
//! decides that.
//! bounds: version 1, big endian, nested arrays, and tensor types that were removed from ggml are
//! refused by number.
//!
//! ```
//! use translora_gguf::{Gguf, TensorKind, Value, Writer, dequantize};
//!
//! let mut writer = Writer::new();
//! writer.set("general.architecture", "llama").set("llama.block_count", 1_u32);
//! writer.tensor_f32("output_norm.weight", &[3], &[1.0, 2.0, 0.5]);
//! let bytes = writer.to_bytes()?;
//!
//! let file = Gguf::parse(&bytes)?;
//! assert_eq!(file.get("llama.block_count").and_then(Value::as_u64), Some(1));
//! let tensor = file.tensor("output_norm.weight").expect("it was written");
//! assert_eq!((tensor.kind, &tensor.shape[..]), (TensorKind::F32, &[3][..]));
//! assert_eq!(dequantize(tensor.kind, file.data(tensor))?, [1.0, 2.0, 0.5]);
//! // A file that was cut is refused, and the error says where.
//! let error = Gguf::parse(&bytes[..bytes.len() - 32]).expect_err("it was cut");
//! assert!(error.to_string().contains("the data of \"output_norm.weight\""), "{error}");
//! # Ok::<(), translora_gguf::GgufError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cursor;
mod dequantize;
mod error;
mod file;
mod kind;
mod parts;
mod reader;
mod sniff;
mod value;
mod writer;

pub use dequantize::dequantize;
pub use error::GgufError;
pub use file::{FileError, open_file, read_file};
pub use kind::TensorKind;
pub use parts::{Parts, SplitError};
pub use reader::{Gguf, Header, Tensor};
pub use sniff::FileKind;
pub use value::{Array, Value, ValueKind};
pub use writer::{Pending, Writer};

/// The limits on what a file may ask the reader to hold.
pub mod limits {
    /// Most bytes of a model's header: vocabularies are long.
    pub const MODEL_HEADER_BYTES_MAX: u64 = 1 << 30;
    /// Most metadata keys in a file.
    pub const KEYS_MAX: u64 = 65_536;
    /// Most tensors in a file.
    pub const TENSORS_MAX: u64 = 65_536;
    /// Most bytes in a metadata key (the format's own limit).
    pub const KEY_BYTES_MAX: u64 = 65_535;
    /// Most bytes in a tensor name: ggml keeps 64, the last of them a zero.
    pub const NAME_BYTES_MAX: u64 = 63;
    /// Most bytes in a metadata string.
    pub const STRING_BYTES_MAX: u64 = 64 << 20;
    /// Most elements in a metadata array.
    pub const ARRAY_ELEMENTS_MAX: u64 = 16 << 20;
    /// Most dimensions of a tensor.
    pub const DIMENSIONS_MAX: u32 = 4;
    /// Largest alignment of tensor data, in bytes.
    pub const ALIGNMENT_MAX: u32 = 1 << 16;
    /// The alignment of tensor data where the file names none, in bytes.
    pub const ALIGNMENT_DEFAULT: u32 = 32;
}
