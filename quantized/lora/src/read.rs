//! Reads an adapter, and compares it with a base.

use translora_gguf::{Gguf, Tensor, Value};

use crate::base::{Base, EMBEDDING, shape};
use crate::limits::ALPHA_MAX;
use crate::numbers::finite;
use crate::{Half, LoraError};

/// Keys that name the file an adapter was made for.
const MADE_FOR: [&str; 2] = ["translora.target.sha256", "translora.model.sha256"];
const ALPHA: &str = "adapter.lora.alpha";
const ARCHITECTURE: &str = "general.architecture";
/// How the name of the tensor of DoRA's lengths of rows ends, behind the name of the matrix.
pub const MAGNITUDE: &str = ".magnitude";
const INVOCATION: &str = "adapter.alora.invocation_tokens";

/// A and B of one matrix: y = W x + alpha / rank · B (A x).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name of the matrix in the base.
    pub matrix: String,
    /// The rank of this pair.
    pub rank: u64,
    /// shapes: (in, out) of the matrix
    pub shape: [u64; 2],
    /// Matrices that the model chooses from for each token; 1 where there is no choice.
    pub experts: u64,
}

/// A sound adapter: what exists has passed [`Lora::read`].
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    architecture: String,
    alpha: f32,
    pairs: Vec<Pair>,
    made_for: Option<String>,
}

impl Lora {
    /// Reads an adapter file and checks all that needs no base.
    ///
    /// source: llama.cpp, `llama_adapter_lora_init_impl` and what its graphs ask of a product
    /// fails: at the first thing that is not sound
    pub fn read(bytes: &[u8]) -> Result<Self, LoraError> {
        Self::of(&Gguf::parse(bytes)?)
    }

    /// Does the same with a file that is parsed already.
    pub fn of(gguf: &Gguf<'_>) -> Result<Self, LoraError> {
        Self::checked(gguf, false)
    }

    /// Does the same where the adapter is to be merged: the lengths of rows that DoRA learnt may
    /// stand beside the pairs.
    pub fn for_merging(gguf: &Gguf<'_>) -> Result<Self, LoraError> {
        Self::checked(gguf, true)
    }

    fn checked(gguf: &Gguf<'_>, dora: bool) -> Result<Self, LoraError> {
        for (key, wanted) in [("general.type", "adapter"), ("adapter.type", "lora")] {
            let found = text(gguf, key)?;
            if found != wanted {
                return Err(LoraError::Key {
                    key,
                    wanted,
                    found: found.to_owned(),
                });
            }
        }
        if gguf.get(INVOCATION).is_some() {
            return Err(LoraError::Activated);
        }
        let architecture = text(gguf, ARCHITECTURE)?.to_owned();
        let alpha = alpha(gguf)?;
        let pairs = pairs(gguf, dora)?;
        check_numbers(gguf, &pairs)?;
        let hash = |key: &&str| gguf.get(key).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            architecture,
            alpha,
            pairs,
            made_for: MADE_FOR.iter().find_map(hash),
        })
    }

    /// Compares it with a base, matrix by matrix.
    ///
    /// fails: at the first matrix that llama.cpp would refuse, crash on or leave out
    pub fn fits(&self, base: &Base) -> Result<(), LoraError> {
        if self.architecture != base.architecture() {
            let (adapter, base) = (self.architecture.clone(), base.architecture().to_owned());
            return Err(LoraError::Architecture { adapter, base });
        }
        self.pairs.iter().try_for_each(|pair| pair.fits(base))
    }

    /// Compares the base that it was made for with the one that is served. An adapter that does not
    /// say what it was made for is taken.
    ///
    /// `sha256`: of the base's file, in hexadecimal
    /// fails: they are two files
    pub fn is_for(&self, sha256: &str) -> Result<(), LoraError> {
        match &self.made_for {
            Some(made_for) if !made_for.eq_ignore_ascii_case(sha256) => Err(LoraError::OtherBase {
                made_for: made_for.clone(),
                base: sha256.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Names the architecture of the base that it is for.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Gives LoRA's alpha: each pair is scaled by alpha / rank.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// Gives the highest rank of its pairs.
    pub fn rank(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.rank).max().unwrap_or(0)
    }

    /// Lists what it adapts, in file order; never empty.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Gives the SHA-256 of the base file it was made for, where it says so.
    pub fn made_for(&self) -> Option<&str> {
        self.made_for.as_deref()
    }
}

impl Pair {
    fn fits(&self, base: &Base) -> Result<(), LoraError> {
        let matrix = || self.matrix.clone();
        let Some(found) = base.shape(&self.matrix) else {
            return Err(LoraError::NoMatrix { matrix: matrix() });
        };
        if found[1] == 1 {
            return Err(LoraError::Vector { matrix: matrix() });
        }
        if found[..2] != self.shape {
            let (base, pair) = ([found[0], found[1]], self.shape);
            return Err(LoraError::Shape {
                matrix: matrix(),
                base,
                pair,
            });
        }
        if found[2] != self.experts {
            let (base, pair) = (found[2], self.experts);
            return Err(LoraError::Experts {
                matrix: matrix(),
                base,
                pair,
            });
        }
        if self.matrix == EMBEDDING && base.ties_output() {
            return Err(LoraError::TiedEmbedding);
        }
        Ok(())
    }
}

/// A text of the metadata: llama.cpp reads it as one without asking.
fn text<'g>(gguf: &'g Gguf<'_>, key: &'static str) -> Result<&'g str, LoraError> {
    let refuse = |found| LoraError::KeyKind {
        key,
        wanted: "a string",
        found,
    };
    match gguf.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(refuse(named(other))),
        None => Err(refuse("missing".into())),
    }
}

/// What a value is, for a message.
fn named(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("an array of {:?}", array.element_kind()),
        other => format!("a {:?}", other.kind()),
    }
    .to_lowercase()
}

fn alpha(gguf: &Gguf<'_>) -> Result<f32, LoraError> {
    let refuse = |found| LoraError::KeyKind {
        key: ALPHA,
        wanted: "a 32-bit float",
        found,
    };
    match gguf.get(ALPHA) {
        Some(&Value::F32(alpha)) if alpha != 0.0 && alpha.abs() <= ALPHA_MAX => Ok(alpha),
        Some(&Value::F32(found)) => Err(LoraError::Alpha { found }),
        Some(other) => Err(refuse(named(other))),
        None => Err(refuse("missing".into())),
    }
}

/// A half's matrix and which half it is.
fn half(tensor: &Tensor) -> Option<(&str, Half)> {
    let of = |suffix| tensor.name.strip_suffix(suffix);
    of(".lora_a")
        .map(|name| (name, Half::A))
        .or_else(|| Some((of(".lora_b")?, Half::B)))
}

/// Puts the halves together.
fn pairs(gguf: &Gguf<'_>, dora: bool) -> Result<Vec<Pair>, LoraError> {
    let (mut pairs, mut lengths) = (Vec::new(), Vec::new());
    for tensor in gguf.tensors() {
        if dora && tensor.name.ends_with(MAGNITUDE) {
            lengths.push(tensor);
            continue;
        }
        let (matrix, which) = half(tensor).ok_or_else(|| LoraError::NotHalf {
            tensor: tensor.name.clone(),
        })?;
        if !tensor.kind.is_dequantizable() {
            return Err(LoraError::Kind {
                tensor: tensor.name.clone(),
                kind: tensor.kind,
            });
        }
        if tensor.shape.get(3).is_some_and(|size| *size > 1) {
            let (tensor, shape) = (tensor.name.clone(), tensor.shape.clone());
            return Err(LoraError::Dimensions { tensor, shape });
        }
        let missing = if which == Half::A { Half::B } else { Half::A };
        let other = gguf.tensor(&format!("{matrix}.{missing}"));
        let other = other.ok_or_else(|| LoraError::HalfMissing {
            matrix: matrix.to_owned(),
            missing,
        })?;
        if which == Half::A {
            pairs.push(pair(matrix, shape(tensor), shape(other))?);
        }
    }
    if pairs.is_empty() {
        return Err(LoraError::Nothing {
            reason: "there is no tensor in it",
        });
    }
    lengths
        .into_iter()
        .try_for_each(|tensor| check_lengths(gguf, &pairs, tensor))?;
    Ok(pairs)
}

/// Compares the lengths of rows that DoRA learnt with the pair whose rows they are.
fn check_lengths(gguf: &Gguf<'_>, pairs: &[Pair], lengths: &Tensor) -> Result<(), LoraError> {
    let tensor = || lengths.name.clone();
    let of = |pair: &&Pair| lengths.name.strip_suffix(MAGNITUDE) == Some(pair.matrix.as_str());
    let pair = pairs.iter().find(of);
    let pair = pair.ok_or_else(|| LoraError::NotHalf { tensor: tensor() })?;
    if shape(lengths) != [pair.shape[1], 1, 1] || pair.experts != 1 {
        let (tensor, shape) = (tensor(), lengths.shape.clone());
        return Err(LoraError::Dimensions { tensor, shape });
    }
    if !lengths.kind.is_dequantizable() {
        let (tensor, kind) = (tensor(), lengths.kind);
        return Err(LoraError::Kind { tensor, kind });
    }
    let found = finite(lengths.kind, gguf.data(lengths))?;
    found.map(drop).map_err(|at| LoraError::NotFinite {
        tensor: tensor(),
        at,
    })
}

/// shapes: `a` (in, rank, experts), `b` (rank, out, experts); of the table of words `a` (rank,
/// words), `b` (rank, width)
fn pair(name: &str, a: [u64; 3], b: [u64; 3]) -> Result<Pair, LoraError> {
    let matrix = name.to_owned();
    let (rank, shape) = if name == EMBEDDING {
        (a[0], [b[1], a[1]])
    } else {
        (a[1], [a[0], b[1]])
    };
    if rank != b[0] {
        return Err(LoraError::Rank {
            matrix,
            a: rank,
            b: b[0],
        });
    }
    if a[2] != b[2] {
        return Err(LoraError::HalvesExperts {
            matrix,
            a: a[2],
            b: b[2],
        });
    }
    Ok(Pair {
        matrix,
        rank,
        shape,
        experts: a[2],
    })
}

/// Looks at every number, and whether a product of a B and its A can be other than zero.
fn check_numbers(gguf: &Gguf<'_>, pairs: &[Pair]) -> Result<(), LoraError> {
    let any = |name: String| -> Result<bool, LoraError> {
        let Some(tensor) = gguf.tensor(&name) else {
            return Ok(false);
        };
        let found = finite(tensor.kind, gguf.data(tensor))?;
        found.map_err(|at| LoraError::NotFinite { tensor: name, at })
    };
    let mut works = false;
    for pair in pairs {
        let (a, b) = (
            any(format!("{}.lora_a", pair.matrix))?,
            any(format!("{}.lora_b", pair.matrix))?,
        );
        works |= a && b;
    }
    if works {
        Ok(())
    } else {
        Err(LoraError::Nothing {
            reason: "A or B of every pair is zero",
        })
    }
}
