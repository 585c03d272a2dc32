//! Takes an adapter file in: a private copy in memory, read and checked before the server's
//! libllama sees it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use sha2::{Digest, Sha256};
use translora_gguf::{Gguf, Tensor, dequantize};

use crate::faults;

/// The largest file that is taken.
const BYTES_MAX: u64 = 4 << 30;
/// Blocks of a tensor that are checked at a time.
const PIECE_BLOCKS: usize = 1 << 12;

/// An adapter file that was found whole. What was checked is what is loaded: the copy cannot
/// change.
#[derive(Debug)]
pub struct Prepared {
    /// The file it was read from.
    pub name: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// The architecture of the base it is for.
    pub architecture: String,
    copy: OwnedFd,
}

impl Prepared {
    /// Read and check a file.
    ///
    /// fails: with a sentence, where the file is no sound LoRA adapter
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let bytes = read(path).map_err(|error| format!("{name}: {error}"))?;
        let gguf = Gguf::parse(&bytes).map_err(|error| format!("{name}: {error}"))?;
        if !faults::on("checks") {
            check(&gguf).map_err(|reason| format!("{name}: {reason}"))?;
        }
        let architecture = text(&gguf, "general.architecture")
            .unwrap_or_default()
            .to_owned();
        let sha256 = hex(&Sha256::digest(&bytes));
        let copy = sealed_copy(&bytes)
            .map_err(|error| format!("{name}: no memory file for it: {error}"))?;
        Ok(Self {
            name,
            sha256,
            bytes: bytes.len() as u64,
            architecture,
            copy,
        })
    }

    /// A path under which this process can open the copy.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.copy.as_raw_fd())
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256_of(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).ok()? {
            0 => return Some(hex(&hash.finalize())),
            n => hash.update(&piece[..n]),
        }
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("this is not a file".into());
    }
    if metadata.len() > BYTES_MAX {
        return Err(format!(
            "{} bytes are more than the {BYTES_MAX} that are taken",
            metadata.len()
        ));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn text<'a>(gguf: &'a Gguf<'_>, key: &str) -> Option<&'a str> {
    gguf.get(key).and_then(translora_gguf::Value::as_str)
}

fn check(gguf: &Gguf<'_>) -> Result<(), String> {
    for (key, wanted) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        let found = text(gguf, key).unwrap_or("nothing");
        if found != wanted {
            return Err(format!(
                "{key} is {found}, and a LoRA adapter says {wanted}"
            ));
        }
    }
    if text(gguf, "general.architecture").is_none() {
        return Err("general.architecture is missing: nothing says which base it is for".into());
    }
    if gguf.get("adapter.alora.invocation_tokens").is_some() {
        return Err("this is an activated LoRA, which the server switches on in the middle of a prompt; only plain ones are swapped".into());
    }
    let alpha = gguf
        .get("adapter.lora.alpha")
        .and_then(translora_gguf::Value::as_f64);
    if !alpha.is_some_and(|alpha| alpha.is_finite() && alpha != 0.0) {
        return Err("adapter.lora.alpha is missing, zero or no number".into());
    }
    if gguf.tensors().is_empty() {
        return Err("there is no tensor in it".into());
    }
    gguf.tensors()
        .iter()
        .try_for_each(|tensor| check_tensor(gguf, tensor))
}

fn check_tensor(gguf: &Gguf<'_>, tensor: &Tensor) -> Result<(), String> {
    let name = &tensor.name;
    let Some(stem) = name
        .strip_suffix(".lora_a")
        .or_else(|| name.strip_suffix(".lora_b"))
    else {
        return Err(format!("tensor {name} is neither half of a LoRA"));
    };
    let half = |end: &str| gguf.tensor(&format!("{stem}.{end}"));
    let (Some(a), Some(b)) = (half("lora_a"), half("lora_b")) else {
        return Err(format!("{stem} has only one half"));
    };
    let dimension = |tensor: &Tensor, i: usize| tensor.shape.get(i).copied().unwrap_or(1);
    // The embedding's halves lie the other way around. source: llm_build_inp_embd in
    // llama-graph.cpp
    let fits = if stem.ends_with("token_embd.weight") {
        dimension(a, 0) == dimension(b, 0)
    } else {
        dimension(a, 1) == dimension(b, 0)
    };
    if !fits {
        return Err(format!(
            "the halves of {stem} have different ranks: {:?} and {:?}",
            a.shape, b.shape
        ));
    }
    // A piece at a time: what is allocated in a server should be little.
    let piece = PIECE_BLOCKS * tensor.kind.block_bytes() as usize;
    let mut before = 0;
    for bytes in gguf.data(tensor).chunks(piece) {
        let values =
            dequantize(tensor.kind, bytes).map_err(|error| format!("tensor {name}: {error}"))?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(format!(
                "tensor {name} has {} at place {}",
                values[at],
                before + at
            ));
        }
        before += values.len();
    }
    Ok(())
}

/// A file in memory that nobody can change any more.
fn sealed_copy(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    // SAFETY: a terminated name.
    let number = unsafe {
        libc::memfd_create(
            c"translora-adapter".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if number < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the system has just handed out this number, to nobody else.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: asks for seals on an open file of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use translora_gguf::Writer;

    fn written(change: impl FnOnce(&mut Writer<'_>), b: &[f32]) -> Result<Prepared, String> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!(
            "translora-adapter-{}-{number}.gguf",
            std::process::id()
        ));
        let mut writer = Writer::new();
        writer
            .set("general.type", "adapter")
            .set("adapter.type", "lora")
            .set("general.architecture", "llama");
        writer.set("adapter.lora.alpha", 2.0_f32);
        writer.tensor_f32("blk.0.attn_q.weight.lora_a", &[4, 1], &[1.0; 4]);
        writer.tensor_f32("blk.0.attn_q.weight.lora_b", &[1, 4], b);
        change(&mut writer);
        std::fs::write(&file, writer.to_bytes().expect("a small file")).expect("written");
        let prepared = Prepared::read(&file);
        std::fs::remove_file(&file).expect("removed");
        prepared
    }

    #[test]
    fn a_sound_adapter_outlives_its_file() {
        let prepared = written(|_| {}, &[0.5; 4]).expect("sound");
        assert_eq!(
            prepared.bytes,
            std::fs::metadata(prepared.path()).expect("readable").len()
        );
        assert_eq!(
            Some(&prepared.sha256),
            sha256_of(Path::new(&prepared.path())).as_ref()
        );
        assert!(
            std::fs::OpenOptions::new()
                .write(true)
                .open(prepared.path())
                .and_then(|mut file| file.write(b"x"))
                .is_err()
        );
    }

    #[test]
    fn what_is_unsound_is_refused_with_a_reason() {
        let refused = |found: Result<Prepared, String>, said: &str| {
            let reason = found.expect_err(said);
            assert!(reason.contains(said), "{reason}");
        };
        refused(
            written(|_| {}, &[0.5, f32::NAN, 0.5, 0.5]),
            "NaN at place 1",
        );
        refused(
            written(
                |w| {
                    w.set("general.type", "model");
                },
                &[0.5; 4],
            ),
            "general.type is model",
        );
        refused(
            written(
                |w| {
                    w.set("adapter.lora.alpha", 0.0_f32);
                },
                &[0.5; 4],
            ),
            "alpha",
        );
        refused(
            written(
                |w| {
                    w.set("adapter.alora.invocation_tokens", vec![1_u32]);
                },
                &[0.5; 4],
            ),
            "activated",
        );
        refused(
            written(
                |w| {
                    w.tensor_f32("x.lora_a", &[4, 2], &[1.0; 8]);
                },
                &[0.5; 4],
            ),
            "only one half",
        );
        refused(
            written(
                |w| {
                    w.tensor_f32("output_norm.weight", &[4], &[1.0; 4]);
                },
                &[0.5; 4],
            ),
            "neither half",
        );
        refused(
            Prepared::read(Path::new("no-such-file.gguf")),
            "no-such-file.gguf",
        );
        refused(Prepared::read(&std::env::temp_dir()), "not a file");
    }
}
