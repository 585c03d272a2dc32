//! Says what a file is by its first bytes, for the error where it is something else than expected.

use std::fmt;
use std::io::Read;
use std::path::Path;

use crate::FileError;
use crate::file::open_file;
use crate::reader::MAGIC;

/// Bytes of a file that are looked at.
const START_BYTES: usize = 512;
/// The longest header that the safetensors format allows. units: bytes
const SAFETENSORS_HEADER_MAX: u64 = 100_000_000;

/// What a file is, as far as its first bytes say.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// It has no bytes.
    Empty,
    /// It begins with zeros only, as a download does whose end never came.
    Zeros,
    /// This crate's format.
    Gguf,
    /// A model or an adapter of llama.cpp from before GGUF.
    OldGgml,
    /// A saved state of llama.cpp.
    LlamaState,
    /// Tensors as Hugging Face stores them: a model, or an adapter of PEFT or MLX.
    Safetensors,
    /// Python's pickle, which may run code when it is read: `.bin`, `.pt`, `.pth`.
    Pickle,
    /// Tensors of NumPy.
    Numpy,
    /// A file that holds other files or one in fewer bytes, by its name.
    Packed(&'static str),
    /// A table or a set of arrays in a binary format, by its name.
    Table(&'static str),
    /// A web page: an answer of a server in place of the file.
    WebPage,
    /// What stands in a repository in place of a large file.
    LfsPointer,
    /// A picture, a document or a program, by its name.
    Other(&'static str),
    /// Text that begins as JSON does.
    Json,
    /// Other text.
    Text,
    /// Text of two bytes a character.
    Utf16,
    /// None of these.
    Unknown([u8; 4]),
}

/// Beginnings that name a format at once.
const BEGINNINGS: &[(&[u8], FileKind)] = &[
    (&MAGIC, FileKind::Gguf),
    (b"lmgg", FileKind::OldGgml),
    (b"fmgg", FileKind::OldGgml),
    (b"tjgg", FileKind::OldGgml),
    (b"algg", FileKind::OldGgml),
    (b"nsgg", FileKind::LlamaState),
    (b"qsgg", FileKind::LlamaState),
    (b"\x93NUMPY", FileKind::Numpy),
    (b"\x1f\x8b", FileKind::Packed("gzip")),
    (b"\x28\xb5\x2f\xfd", FileKind::Packed("zstd")),
    (b"BZh", FileKind::Packed("bzip2")),
    (b"\xfd7zXZ\0", FileKind::Packed("xz")),
    (b"7z\xbc\xaf\x27\x1c", FileKind::Packed("7z")),
    (b"Rar!\x1a\x07", FileKind::Packed("rar")),
    (b"PAR1", FileKind::Table("Parquet")),
    (b"ARROW1", FileKind::Table("Arrow")),
    (b"\x89HDF\r\n\x1a\n", FileKind::Table("HDF5")),
    (b"SQLite format 3\0", FileKind::Table("SQLite")),
    (b"\xff\xfe", FileKind::Utf16),
    (b"\xfe\xff", FileKind::Utf16),
    (b"\x89PNG\r\n\x1a\n", FileKind::Other("a PNG picture")),
    (b"\xff\xd8\xff", FileKind::Other("a JPEG picture")),
    (b"GIF8", FileKind::Other("a GIF picture")),
    (b"%PDF-", FileKind::Other("a PDF document")),
    (b"\x7fELF", FileKind::Other("a program or a library")),
    (b"MZ", FileKind::Other("a program of Windows")),
];

impl FileKind {
    /// Tells what a file is that begins with these bytes; 512 of them are enough.
    pub fn of(start: &[u8]) -> Self {
        let start = &start[..start.len().min(START_BYTES)];
        if start.is_empty() {
            return Self::Empty;
        }
        let by_beginning = BEGINNINGS.iter().find(|(with, _)| start.starts_with(with));
        if let Some((_, kind)) = by_beginning {
            return *kind;
        }
        if start.starts_with(b"PK\x03\x04") {
            return zip(start);
        }
        if start.get(257..262) == Some(b"ustar") {
            return Self::Packed("tar");
        }
        if is_safetensors(start) {
            return Self::Safetensors;
        }
        // A protocol of pickle's that came with Python 2.3 or later.
        if start[0] == 0x80
            && start
                .get(1)
                .is_some_and(|protocol| (2..=5).contains(protocol))
        {
            return Self::Pickle;
        }
        if start.iter().all(|byte| *byte == 0) {
            return Self::Zeros;
        }
        text_of(start).map_or_else(|| unknown(start), kind_of_text)
    }

    /// Looks at the file itself.
    ///
    /// fails: there is none, it is a folder or a device, it cannot be read
    pub fn at(path: &Path) -> Result<Self, FileError> {
        let (file, _) = open_file(path)?;
        let mut start = Vec::with_capacity(START_BYTES);
        file.take(START_BYTES as u64).read_to_end(&mut start)?;
        Ok(Self::of(&start))
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(name) => return write!(f, "a {name} archive"),
            Self::Table(name) => return write!(f, "a file of {name}"),
            Self::Unknown(first) => {
                let hex = first.map(|byte| format!("{byte:02x}")).join(" ");
                return write!(
                    f,
                    "a file of a kind that is not known (it begins with {hex})"
                );
            }
            _ => {}
        }
        f.write_str(match self {
            Self::Empty => "an empty file",
            Self::Zeros => "a file of zeros, as an unfinished download is",
            Self::Gguf => "a GGUF file",
            Self::OldGgml => "a file of llama.cpp's formats before GGUF",
            Self::LlamaState => "a saved state of llama.cpp",
            Self::Safetensors => "a safetensors file",
            Self::Pickle => "a PyTorch file (pickle)",
            Self::Numpy => "a NumPy file",
            Self::WebPage => "a web page",
            Self::LfsPointer => "a Git LFS pointer, which stands in place of a file",
            Self::Json => "a JSON file",
            Self::Text => "a text file",
            Self::Utf16 => "a text file in UTF-16",
            Self::Other(name) => name,
            Self::Packed(_) | Self::Table(_) | Self::Unknown(_) => "",
        })
    }
}

fn unknown(start: &[u8]) -> FileKind {
    let mut first = [0; 4];
    let count = start.len().min(4);
    first[..count].copy_from_slice(&start[..count]);
    FileKind::Unknown(first)
}

/// PyTorch's files are zip archives whose first entry is `NAME/data.pkl`, NumPy's hold `.npy`.
fn zip(start: &[u8]) -> FileKind {
    let length = start
        .get(26..28)
        .map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    let name = start.get(30..).unwrap_or_default();
    let name = &name[..name.len().min(length)];
    if name.ends_with(b"data.pkl") || name.ends_with(b".pkl") {
        FileKind::Pickle
    } else if name.ends_with(b".npy") {
        FileKind::Numpy
    } else {
        FileKind::Packed("zip")
    }
}

/// The length of a header in JSON, and its first bracket.
fn is_safetensors(start: &[u8]) -> bool {
    let Some((length, rest)) = start.split_first_chunk() else {
        return false;
    };
    let length = u64::from_le_bytes(*length);
    (2..=SAFETENSORS_HEADER_MAX).contains(&length) && rest.first() == Some(&b'{')
}

/// The bytes as text; none where they are no UTF-8, or hold what no text holds.
fn text_of(start: &[u8]) -> Option<&str> {
    let text = match str::from_utf8(start) {
        Ok(text) => text,
        // The start may end within a character.
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c' | '\x1b');
    (!text.is_empty() && !text.contains(odd)).then_some(text)
}

fn kind_of_text(text: &str) -> FileKind {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let begins = |with: &str| {
        let start = text.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        FileKind::LfsPointer
    } else if ["<!doctype html", "<html", "<head", "<?xml"]
        .into_iter()
        .any(begins)
    {
        FileKind::WebPage
    } else if text.starts_with(['{', '[']) {
        FileKind::Json
    } else {
        FileKind::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_beginning() {
        let tar = [vec![b'a'; 257], b"ustar\0".to_vec(), vec![0; 300]].concat();
        let zip = |name: &str| {
            let header = [
                b"PK\x03\x04".as_slice(),
                &[0; 22],
                &[name.len() as u8, 0, 0, 0],
            ]
            .concat();
            [&header, name.as_bytes(), b"..."].concat()
        };
        let header = br#"{"a": {"dtype": "F32"}}"#;
        let tensors = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
        // The last character is cut.
        let long = format!("{}é", "x".repeat(START_BYTES - 1));
        let cases: &[(&[u8], &str)] = &[
            (b"", "an empty file"),
            (&[0; 600], "a file of zeros"),
            (b"GGUF\x03\0\0\0", "a GGUF file"),
            (b"GGUF\0\0\0\x03", "a GGUF file"),
            (b"algg\x01\0\0\0", "formats before GGUF"),
            (b"tjgg\x03\0\0\0", "formats before GGUF"),
            (b"nsgg\x09\0\0\0", "a saved state"),
            (&tensors, "a safetensors file"),
            (b"\x80\x02}q\x00", "PyTorch"),
            (&zip("archive/data.pkl"), "PyTorch"),
            (&zip("a.npy"), "NumPy"),
            (&zip("rows.jsonl"), "a zip archive"),
            (b"PK\x03\x04", "a zip archive"),
            (b"\x1f\x8b\x08\0", "a gzip archive"),
            (b"\x28\xb5\x2f\xfd\0", "a zstd archive"),
            (&tar, "a tar archive"),
            (b"PAR1\x15\x04", "a file of Parquet"),
            (b"\n<!DOCTYPE HTML><p>", "a web page"),
            (b"<html lang=de>", "a web page"),
            (b"<?xml version=\"1.0\"?><Error>", "a web page"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
                "a Git LFS pointer",
            ),
            (b"\x89PNG\r\n\x1a\n\0", "a PNG picture"),
            (b"\x7fELF\x02", "a program"),
            (b"\xef\xbb\xbf{\"prompt\": 1}", "a JSON file"),
            (b" [1]", "a JSON file"),
            ("prompt,Antwort\nä,ö\n".as_bytes(), "a text file"),
            (long.as_bytes(), "a text file"),
            (b"\xff\xfeh\0", "a text file in UTF-16"),
            (b"\x01\x02\x03\x04", "it begins with 01 02 03 04"),
            (b"\x01", "it begins with 01 00 00 00"),
            (b"abc\0def", "a kind that is not known"),
        ];
        for (start, said) in cases {
            let kind = FileKind::of(start).to_string();
            assert!(kind.contains(said), "{kind:?} is not {said:?}");
        }
    }

    #[test]
    fn any_beginning_has_a_name() {
        for first in 0..=u8::MAX {
            for length in 1..40 {
                assert!(!FileKind::of(&vec![first; length]).to_string().is_empty());
            }
        }
    }
}
