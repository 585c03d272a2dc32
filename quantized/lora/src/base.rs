//! What an adapter is compared with: the shapes of a base model's matrices.

use std::collections::BTreeMap;
use std::path::Path;

use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_gguf::{FileError, Header, Parts, Tensor, Value};

/// The table of words. llama.cpp looks rows up in it, so its adapters are transposed.
pub(crate) const EMBEDDING: &str = "token_embd.weight";

/// A base model as adapters see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    architecture: String,
    /// By the name of the tensor. shapes: (in, out, experts)
    shapes: BTreeMap<String, [u64; 3]>,
}

impl Base {
    /// The output matrix. A base without it takes the table of words for it.
    pub const OUTPUT: &str = "output.weight";

    /// Takes the shapes of the tensors that an engine holds. shapes: (in, out, experts)
    pub fn new(
        architecture: String,
        tensors: impl IntoIterator<Item = (String, [u64; 3])>,
    ) -> Self {
        Self {
            architecture,
            shapes: tensors.into_iter().collect(),
        }
    }

    /// Reads the header of a model file, of all its parts where it is split.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self::of(&*Parts::open(path, MODEL_HEADER_BYTES_MAX)?))
    }

    /// Takes architecture and shapes out of the header of a model.
    pub fn of(header: &Header) -> Self {
        let architecture = header.get("general.architecture").and_then(Value::as_str);
        let tensors = header.tensors().iter();
        Self::new(
            architecture.unwrap_or("unknown").to_owned(),
            tensors.map(|tensor| (tensor.name.clone(), shape(tensor))),
        )
    }

    /// Names its architecture as the file does, such as `llama`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Gives the shape of a tensor. shapes: (in, out, experts)
    pub fn shape(&self, name: &str) -> Option<[u64; 3]> {
        self.shapes.get(name).copied()
    }

    /// Says whether the table of words is the output matrix too.
    pub fn ties_output(&self) -> bool {
        !self.shapes.contains_key(Self::OUTPUT)
    }
}

/// Three sizes of a tensor, 1 where it has fewer; what a fourth one is has been looked at before.
pub(crate) fn shape(tensor: &Tensor) -> [u64; 3] {
    std::array::from_fn(|side| tensor.shape.get(side).copied().unwrap_or(1))
}
