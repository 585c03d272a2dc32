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
    heads: Heads,
}

/// Attention heads of queries and of keys: one number for all layers, or one for each layer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Heads {
    queries: Vec<u64>,
    keys: Vec<u64>,
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
            heads: Heads::default(),
        }
    }

    /// Reads the header of a model file, of all its parts where it is split.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self::of(&*Parts::open(path, MODEL_HEADER_BYTES_MAX)?))
    }

    /// Takes architecture and shapes out of the header of a model.
    pub fn of(header: &Header) -> Self {
        let architecture = header.get("general.architecture").and_then(Value::as_str);
        let architecture = architecture.unwrap_or("unknown").to_owned();
        let heads = Heads::of(header, &architecture);
        let tensors = header.tensors().iter();
        let shapes = tensors.map(|tensor| (tensor.name.clone(), shape(tensor)));
        Self {
            heads,
            ..Self::new(architecture, shapes)
        }
    }

    /// Names its architecture as the file does, such as `llama`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Names its tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().map(String::as_str)
    }

    /// Gives the shape of a tensor. shapes: (in, out, experts)
    pub fn shape(&self, name: &str) -> Option<[u64; 3]> {
        self.shapes.get(name).copied()
    }

    /// Counts the attention heads of a layer: of its queries, and of its keys.
    pub(crate) fn heads(&self, layer: usize) -> Option<[u64; 2]> {
        let of = |counts: &[u64]| match counts {
            [same] => Some(*same),
            counts => counts.get(layer).copied(),
        };
        let queries = of(&self.heads.queries)?;
        Some([queries, of(&self.heads.keys).unwrap_or(queries)])
    }

    /// Says whether the table of words is the output matrix too.
    pub fn ties_output(&self) -> bool {
        !self.shapes.contains_key(Self::OUTPUT)
    }
}

impl Heads {
    fn of(header: &Header, architecture: &str) -> Self {
        let counts = |key: &str| match header.get(&format!("{architecture}.attention.{key}")) {
            Some(Value::Array(counts)) => counts.iter().filter_map(|n| n.as_u64()).collect(),
            count => count.and_then(Value::as_u64).into_iter().collect(),
        };
        Self {
            queries: counts("head_count"),
            keys: counts("head_count_kv"),
        }
    }
}

/// Three sizes of a tensor, 1 where it has fewer; what a fourth one is has been looked at before.
pub(crate) fn shape(tensor: &Tensor) -> [u64; 3] {
    std::array::from_fn(|side| tensor.shape.get(side).copied().unwrap_or(1))
}
