//! What an adapter is compared with: the shapes of a base model's matrices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use translora_gguf::{FileError, Header, Tensor, Value};

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

/// The longest header that is read of a model. units: bytes
const HEADER_BYTES_MAX: u64 = 1 << 30;

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
        let (header, _) = Header::open(path, HEADER_BYTES_MAX)?;
        let mut base = Self::of(&header);
        for part in Self::other_parts(path, &header) {
            base.extend(&Header::open(&part, HEADER_BYTES_MAX)?.0);
        }
        Ok(base)
    }

    /// Takes architecture and shapes out of the header of a model, or of the first part of a split
    /// one.
    pub fn of(header: &Header) -> Self {
        let architecture = header.get("general.architecture").and_then(Value::as_str);
        let architecture = architecture.unwrap_or("unknown").to_owned();
        let heads = Heads::of(header, &architecture);
        let mut base = Self {
            architecture,
            shapes: BTreeMap::new(),
            heads,
        };
        base.extend(header);
        base
    }

    /// Adds the tensors of another part of a split model.
    pub fn extend(&mut self, part: &Header) {
        let tensors = part.tensors().iter();
        self.shapes
            .extend(tensors.map(|tensor| (tensor.name.clone(), shape(tensor))));
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

    /// Names the other parts of a split model: `NAME-00001-of-00003.gguf` has two.
    ///
    /// source: llama.cpp, `llama_split_path`
    pub fn other_parts(path: &Path, header: &Header) -> Vec<PathBuf> {
        let count = header
            .get("split.count")
            .and_then(Value::as_u64)
            .unwrap_or(1);
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let Some(stem) = name.strip_suffix(&format!("-00001-of-{count:05}.gguf")) else {
            return Vec::new();
        };
        let part = |part| path.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf"));
        (2..=count.min(99_999)).map(part).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_models_have_other_parts() {
        let mut writer = translora_gguf::Writer::new();
        writer.set("split.count", 3_u16);
        let bytes = writer.to_bytes().expect("a small file");
        let header = Header::parse(&bytes, bytes.len() as u64)
            .expect("whole")
            .expect("whole");
        let parts = Base::other_parts(Path::new("x/m-00001-of-00003.gguf"), &header);
        let others = ["x/m-00002-of-00003.gguf", "x/m-00003-of-00003.gguf"];
        assert_eq!(parts, others.map(PathBuf::from));
        assert!(Base::other_parts(Path::new("x/m.gguf"), &header).is_empty());
    }
}
