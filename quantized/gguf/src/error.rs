//! The ways in which a file, or a request to write one, is refused.

use crate::{FileKind, TensorKind};

/// Says what is wrong with a GGUF file, and at which byte.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file does not begin with the format's four letters.
    #[error("this is {found}, and no GGUF file")]
    Magic {
        /// What the file is instead.
        found: FileKind,
    },
    /// The numbers are stored in the other byte order.
    #[error("byte 4: a big-endian GGUF file; only little-endian files are read")]
    BigEndian,
    /// The version is one that this reader does not know.
    #[error("byte 4: GGUF version {found}, expected 2 or 3")]
    Version {
        /// The number that stands there.
        found: u32,
    },
    /// The file ends before something that it promises.
    #[error(
        "byte {offset}: the file is truncated in {place}: at least {missing} more bytes expected"
    )]
    Truncated {
        /// What was being read, such as `the header` or a key by name.
        place: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// How many bytes are missing at least.
        missing: u64,
    },
    /// A count or a length is over the limit.
    #[error("byte {offset}: {place}: {found} {unit}, at most {limit} allowed")]
    Limit {
        /// What was being read, such as `the header` or a key by name.
        place: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// What is counted.
        unit: &'static str,
        /// What the file says.
        found: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// A string is not UTF-8.
    #[error("byte {offset}: {place}: not UTF-8")]
    Utf8 {
        /// What was being read, such as `the header` or a key by name.
        place: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// Where in the string, and why.
        source: std::str::Utf8Error,
    },
    /// A key or a tensor name is empty.
    #[error("byte {offset}: {place}: empty name")]
    EmptyName {
        /// What was being read, such as `the header` or a key by name.
        place: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
    },
    /// A value has a type number outside the format.
    #[error("byte {offset}: {place}: unknown value type {found}")]
    ValueKind {
        /// What was being read, such as `the header` or a key by name.
        place: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// The number that stands there.
        found: u32,
    },
    /// An array of arrays, which ggml refuses too.
    #[error("byte {offset}: {place}: an array of arrays")]
    NestedArray {
        /// What was being read, such as `the header` or a key by name.
        place: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("byte {offset}: {place}: boolean of value {found}, expected 0 or 1")]
    Bool {
        /// What was being read, such as `the header` or a key by name.
        place: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// The byte that stands there.
        found: u8,
    },
    /// The same key twice.
    #[error("byte {offset}: key {key:?} appears twice")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
    },
    /// The same tensor name twice.
    #[error("byte {offset}: tensor {name:?} appears twice")]
    DuplicateTensor {
        /// The name.
        name: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
    },
    /// `general.alignment` is not a u32 power of two within the limit.
    #[error("general.alignment: {found}, expected a u32 power of two, at most {limit}")]
    Alignment {
        /// What stands there, shortened.
        found: String,
        /// The largest that is allowed.
        limit: u32,
    },
    /// A tensor without dimensions, or with one of length zero.
    #[error("byte {offset}: tensor {tensor:?}: shape {shape:?} has no elements")]
    EmptyShape {
        /// The tensor.
        tensor: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// Its dimensions, the row first.
        shape: Vec<u64>,
    },
    /// The size of a tensor does not fit in 63 bits.
    #[error("byte {offset}: tensor {tensor:?}: shape {shape:?} overflows")]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// Its dimensions, the row first.
        shape: Vec<u64>,
    },
    /// A tensor type that ggml does not have, or no longer has.
    #[error("byte {offset}: tensor {tensor:?}: unknown tensor type {found}")]
    TensorKind {
        /// The tensor.
        tensor: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// The number that stands there.
        found: u32,
    },
    /// A row is not a whole number of blocks.
    #[error("byte {offset}: tensor {tensor:?}: rows of {row} elements, expected a multiple of {} for {}", kind.block_elements(), kind.name())]
    RowLength {
        /// The tensor.
        tensor: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
        /// The type.
        kind: TensorKind,
        /// Elements in a row.
        row: u64,
    },
    /// The data of a tensor does not begin on a multiple of the alignment.
    #[error("tensor {tensor:?}: data offset {found} is not a multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// What the file says.
        found: u64,
        /// The alignment of the file. units: bytes
        alignment: u64,
    },
    /// Two tensors share bytes.
    #[error("byte {offset}: tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins before the first has ended.
        second: String,
        /// Where in the file. units: bytes from the start
        offset: u64,
    },
    /// Data passed in for a tensor does not have the size that its shape and type say.
    #[error("tensor {tensor:?}: {got} bytes of data, expected {expected}")]
    DataSize {
        /// The tensor.
        tensor: String,
        /// What shape and type say. units: bytes
        expected: u64,
        /// What is there. units: bytes
        got: u64,
    },
    /// Blocks of this type cannot be turned into floats here.
    #[error("no conversion from {} to floats", kind.name())]
    NotDequantizable {
        /// The type.
        kind: TensorKind,
    },
    /// Bytes that are not a whole number of blocks.
    #[error("{got} bytes, expected a multiple of {} for {}", kind.block_bytes(), kind.name())]
    PartialBlock {
        /// The type.
        kind: TensorKind,
        /// What is there. units: bytes
        got: u64,
    },
    /// The output could not be written.
    #[error("writing GGUF: {0}")]
    Io(#[from] std::io::Error),
}
