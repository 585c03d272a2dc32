use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use translora_gguf::{Gguf, Header, Tensor, TensorKind, Value, dequantize};

use super::AdaptersError;
use crate::kit;
use crate::record::{ContentHash, Limits};

/// The largest adapter: rank 256 on every matrix of a large model.
const ADAPTER_BYTES_MAX: u64 = 16 << 30;
/// Keys that name the file an adapter was trained on.
const MADE_FOR: [&str; 2] = ["translora.target.sha256", "translora.model.sha256"];
/// The table of words: llama.cpp transposes its adapters.
const EMBEDDING: &str = "token_embd.weight";

/// What adapters are checked against.
#[derive(Clone, Debug)]
pub struct Base {
    pub path: PathBuf,
    pub architecture: String,
    pub sha256: ContentHash,
    /// By the name of the matrix: (in, out, experts).
    shapes: BTreeMap<String, [u64; 3]>,
}

/// An adapter that fits a base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: ContentHash,
    pub rank: u64,
    pub alpha: Option<f64>,
    pub matrices: usize,
    /// Whether it was trained on this very file; none where it does not say. One trained on another
    /// quantization fits as well.
    pub made_for_this_base: Option<bool>,
}

impl Base {
    /// Read a base model's header, of all its parts where it is split, and its hash.
    pub fn read(path: &Path) -> Result<Self, AdaptersError> {
        let limits = Limits::default();
        let (header, _) = kit::read_header(path, &limits)?;
        let mut shapes = shapes(&header);
        for part in other_parts(path, &header) {
            shapes.extend(self::shapes(&kit::read_header(&part, &limits)?.0));
        }
        let architecture = header
            .get("general.architecture")
            .and_then(Value::as_str)
            .unwrap_or("unknown")
            .to_owned();
        Ok(Self {
            path: path.to_owned(),
            architecture,
            sha256: kit::hash_file(path)?,
            shapes,
        })
    }
}

fn shapes(header: &Header) -> BTreeMap<String, [u64; 3]> {
    header
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.clone(), shape(tensor)))
        .collect()
}

fn shape(tensor: &Tensor) -> [u64; 3] {
    std::array::from_fn(|side| tensor.shape.get(side).copied().unwrap_or(1))
}

/// `NAME-00001-of-00003.gguf` → the two others. source: llama.cpp, `llama_split_path`
fn other_parts(path: &Path, header: &Header) -> Vec<PathBuf> {
    let count = header
        .get("split.count")
        .and_then(Value::as_u64)
        .unwrap_or(1);
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let Some(stem) = name.strip_suffix(&format!("-00001-of-{count:05}.gguf")) else {
        return Vec::new();
    };
    (2..=count.min(99_999))
        .map(|part| path.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf")))
        .collect()
}

/// Read an adapter whole, and check that it fits: what llama.cpp asks of it, and that every number
/// is finite.
///
/// fails: it cannot be read, or does not fit; the error says what is in the way
pub fn check(base: &Base, path: &Path) -> Result<Checked, AdaptersError> {
    check_bytes(base, path, &kit::read_bytes(path, ADAPTER_BYTES_MAX)?)
}

fn check_bytes(base: &Base, path: &Path, bytes: &[u8]) -> Result<Checked, AdaptersError> {
    let gguf = Gguf::parse(bytes).map_err(|source| kit::KitError::Gguf {
        path: path.to_owned(),
        source,
    })?;
    let refuse = |reason: String| AdaptersError::NotFit {
        adapter: path.to_owned(),
        base: base.path.clone(),
        reason,
    };
    let rank = fits(base, &gguf).map_err(&refuse)?;
    finite(&gguf).map_err(&refuse)?;
    let text = |key: &str| gguf.get(key).and_then(Value::as_str);
    let made_for = MADE_FOR
        .iter()
        .find_map(|key| text(key)?.parse::<ContentHash>().ok());
    Ok(Checked {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        sha256: ContentHash::of(bytes),
        rank,
        alpha: gguf.get("adapter.lora.alpha").and_then(Value::as_f64),
        matrices: gguf.tensors().len() / 2,
        made_for_this_base: made_for.map(|hash| hash == base.sha256),
    })
}

/// Compare an adapter with the base matrix by matrix; answer its highest rank. source: llama.cpp,
/// `llama_adapter_lora_init`
fn fits(base: &Base, gguf: &Gguf<'_>) -> Result<u64, String> {
    let text = |key: &str| gguf.get(key).and_then(Value::as_str).unwrap_or("nothing");
    for (key, wanted) in [
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", base.architecture.as_str()),
    ] {
        if text(key) != wanted {
            return Err(format!("its {key} is {:?} and not {wanted:?}", text(key)));
        }
    }
    let mut rank = 0;
    for tensor in gguf.tensors() {
        let (name, is_a) = match (
            tensor.name.strip_suffix(".lora_a"),
            tensor.name.strip_suffix(".lora_b"),
        ) {
            (Some(name), _) => (name, true),
            (None, Some(name)) => (name, false),
            (None, None) => return Err(format!("{:?} is no part of a LoRA", tensor.name)),
        };
        let of_base = base
            .shapes
            .get(name)
            .ok_or_else(|| format!("the base has no {name:?}"))?;
        let other = gguf.tensor(&format!(
            "{name}.{}",
            if is_a { "lora_b" } else { "lora_a" }
        ));
        let other = other.ok_or_else(|| format!("{name} has one half of an adapter only"))?;
        if is_a {
            rank = rank.max(pair(name, *of_base, shape(tensor), shape(other))?);
        }
    }
    if rank == 0 {
        Err("it adapts nothing".into())
    } else {
        Ok(rank)
    }
}

/// The rank of one pair. shapes: A (in, rank, experts), B (rank, out, experts); of the table of
/// words A (rank, words), B (rank, width)
fn pair(name: &str, base: [u64; 3], a: [u64; 3], b: [u64; 3]) -> Result<u64, String> {
    let fits = if name == EMBEDDING {
        a[0] == b[0] && b[1] == base[0] && a[1] == base[1]
    } else {
        a[0] == base[0] && b[1] == base[1] && a[1] == b[0] && a[2] == base[2] && b[2] == base[2]
    };
    if fits {
        Ok(b[0])
    } else {
        Err(format!(
            "{name} is {base:?} in the base, and the adapter has {a:?} and {b:?} for it"
        ))
    }
}

fn finite(gguf: &Gguf<'_>) -> Result<(), String> {
    for tensor in gguf.tensors().iter().filter(|tensor| {
        matches!(
            tensor.kind,
            TensorKind::F32 | TensorKind::F16 | TensorKind::BF16
        )
    }) {
        let values =
            dequantize(tensor.kind, gguf.data(tensor)).map_err(|error| error.to_string())?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(format!(
                "{} holds {} at element {at}",
                tensor.name, values[at]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Blame;

    fn base() -> Base {
        let shapes = [
            ("blk.0.attn_q.weight", [4, 6, 1]),
            ("blk.0.ffn_up_exps.weight", [4, 8, 2]),
            (EMBEDDING, [4, 9, 1]),
        ];
        Base {
            path: "base.gguf".into(),
            architecture: "llama".into(),
            sha256: ContentHash::of(b"base"),
            shapes: shapes.map(|(name, shape)| (name.to_owned(), shape)).into(),
        }
    }

    type Part<'a> = (&'a str, &'a [u64], f32);
    type Keys<'a> = &'a [(&'a str, &'a str)];

    fn adapter(parts: &[Part<'_>], keys: Keys<'_>) -> Result<Checked, AdaptersError> {
        let mut writer = translora_gguf::Writer::new();
        for (key, value) in [
            ("general.type", "adapter"),
            ("adapter.type", "lora"),
            ("general.architecture", "llama"),
        ]
        .iter()
        .chain(keys)
        {
            writer.set(*key, *value);
        }
        for (name, shape, value) in parts {
            writer.tensor_f32(
                *name,
                shape,
                &vec![*value; shape.iter().product::<u64>() as usize],
            );
        }
        check_bytes(&base(), Path::new("a.gguf"), &writer.to_bytes().unwrap())
    }

    const Q: [Part<'_>; 2] = [
        ("blk.0.attn_q.weight.lora_a", &[4, 2], 0.5),
        ("blk.0.attn_q.weight.lora_b", &[2, 6], 0.5),
    ];

    #[test]
    fn what_fits_is_described() {
        let experts: [Part<'_>; 2] = [
            ("blk.0.ffn_up_exps.weight.lora_a", &[4, 3, 2], 0.5),
            ("blk.0.ffn_up_exps.weight.lora_b", &[3, 8, 2], 0.5),
        ];
        let words: [Part<'_>; 2] = [
            ("token_embd.weight.lora_a", &[2, 9], 0.5),
            ("token_embd.weight.lora_b", &[2, 4], 0.5),
        ];
        let all = [Q, experts, words].concat();
        let checked = adapter(&all, &[]).unwrap();
        assert_eq!(
            (checked.rank, checked.matrices, checked.made_for_this_base),
            (3, 3, None)
        );
        for (hash, made_for) in [
            (ContentHash::of(b"base"), true),
            (ContentHash::of(b"other"), false),
        ] {
            let checked = adapter(&Q, &[("translora.target.sha256", &hash.to_string())]).unwrap();
            assert_eq!(checked.made_for_this_base, Some(made_for));
        }
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let cases: [(&[Part<'_>], Keys<'_>, &str); 9] = [
            (&Q, &[("general.type", "model")], "general.type"),
            (&Q, &[("adapter.type", "aloha")], "adapter.type"),
            (&Q, &[("general.architecture", "qwen3")], "qwen3"),
            (&[], &[], "adapts nothing"),
            (&Q[..1], &[], "one half"),
            (
                &[("blk.1.attn_q.weight.lora_a", &[4, 2], 0.5)],
                &[],
                "blk.1.attn_q",
            ),
            (
                &[("blk.0.attn_q.weight", &[4, 2], 0.5)],
                &[],
                "no part of a LoRA",
            ),
            (
                &[Q[0], ("blk.0.attn_q.weight.lora_b", &[2, 7], 0.5)],
                &[],
                "[2, 7, 1]",
            ),
            (
                &[Q[0], ("blk.0.attn_q.weight.lora_b", &[2, 6], f32::NAN)],
                &[],
                "NaN",
            ),
        ];
        for (parts, keys, said) in cases {
            let error = adapter(parts, keys).unwrap_err();
            assert!(
                error.to_string().contains(said) && error.remedy().is_some(),
                "{said}: {error}"
            );
        }
        assert!(check_bytes(&base(), Path::new("a.gguf"), b"GGUF").is_err());
    }

    #[test]
    fn split_models_have_other_parts() {
        let mut writer = translora_gguf::Writer::new();
        writer.set("split.count", 3_u16);
        let bytes = writer.to_bytes().unwrap();
        let header = Header::parse(&bytes, bytes.len() as u64).unwrap().unwrap();
        let parts = other_parts(Path::new("x/m-00001-of-00003.gguf"), &header);
        assert_eq!(
            parts,
            [
                Path::new("x/m-00002-of-00003.gguf"),
                Path::new("x/m-00003-of-00003.gguf")
            ]
        );
        assert!(other_parts(Path::new("x/m.gguf"), &header).is_empty());
    }
}
