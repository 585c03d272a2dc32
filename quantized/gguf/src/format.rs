//! Names files of other formats, by their first bytes.

use std::fmt;

/// What a file is that is no GGUF.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// A web page, saved in place of the file that it shows.
    Html,
    /// The text that Git LFS keeps in place of a large file.
    LfsPointer,
    /// An adapter of llama.cpp's time before GGUF.
    Ggla,
    /// A model of llama.cpp's time before GGUF.
    Ggml,
    /// Tensors as Hugging Face's libraries save them.
    Safetensors,
    /// A ZIP archive, which `torch.save` writes.
    Zip,
    /// A Python pickle, which `torch.save` wrote before.
    Pickle,
    /// A file that was compressed: gzip, xz, Zstandard, bzip2.
    Compressed,
    /// A table in Parquet.
    Parquet,
    /// A text in JSON.
    Json,
}

impl Format {
    /// Recognizes a format by the first bytes of a file; sixteen are enough, and more are better
    /// for text.
    pub fn of(start: &[u8]) -> Option<Self> {
        let begins = |magic: &[u8]| start.starts_with(magic);
        // A number in little endian, then a text in JSON.
        let header = start
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .filter(|bytes| *bytes < SAFETENSORS_HEADER_BYTES_MAX);
        let archives: [&[u8]; 4] = [b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh"];
        Some(if begins(b"version https://git-lfs") {
            Self::LfsPointer
        } else if begins(b"algg") {
            Self::Ggla
        } else if begins(b"lmgg") || begins(b"fmgg") || begins(b"tjgg") {
            Self::Ggml
        } else if begins(b"PK\x03\x04") {
            Self::Zip
        } else if begins(b"PAR1") {
            Self::Parquet
        } else if archives.iter().any(|magic| begins(magic)) {
            Self::Compressed
        } else if header.is_some() && start.get(8) == Some(&b'{') {
            Self::Safetensors
        } else if matches!(start, [0x80, 2..=5, ..]) {
            Self::Pickle
        } else {
            return Self::of_text(start);
        })
    }

    fn of_text(start: &[u8]) -> Option<Self> {
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let text = text.trim_ascii_start();
        let begins = |tag: &[u8]| {
            text.get(..tag.len())
                .is_some_and(|word| word.eq_ignore_ascii_case(tag))
        };
        if begins(b"<!doctype") || begins(b"<html") || begins(b"<?xml") {
            Some(Self::Html)
        } else if text.starts_with(b"{") || text.starts_with(b"[") {
            Some(Self::Json)
        } else {
            None
        }
    }
}

/// The longest header that the crate `safetensors` takes. units: bytes
const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100_000_000;

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Html => "a web page",
            Self::LfsPointer => "a Git LFS pointer, and not the file that it stands for",
            Self::Ggla => "an adapter in llama.cpp's old format (ggla)",
            Self::Ggml => "a model in llama.cpp's old format (ggml)",
            Self::Safetensors => "a safetensors file",
            Self::Zip => "a ZIP archive, as PyTorch's .bin and .pt files are",
            Self::Pickle => "a Python pickle, as PyTorch's old .bin and .pt files are",
            Self::Compressed => "a compressed file",
            Self::Parquet => "a Parquet table",
            Self::Json => "a text in JSON",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let table: [(&[u8], Option<Format>); 18] = [
            (b"<!DOCTYPE html><html>", Some(Format::Html)),
            (b"\xef\xbb\xbf \n<html lang=en>", Some(Format::Html)),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                Some(Format::LfsPointer),
            ),
            (b"algg\x01\0\0\0", Some(Format::Ggla)),
            (b"tjgg\x01\0\0\0", Some(Format::Ggml)),
            (b"\x88\x0e\0\0\0\0\0\0{\"__meta", Some(Format::Safetensors)),
            // A header of 2^56 bytes is none, whatever follows.
            (b"\0\0\0\0\0\0\0\x01{\"a\"", None),
            (b"PK\x03\x04\0\0", Some(Format::Zip)),
            (b"\x80\x02\x8a\x0al", Some(Format::Pickle)),
            (b"\x1f\x8b\x08\0", Some(Format::Compressed)),
            (b"PAR1\x15\x04", Some(Format::Parquet)),
            (b" {\"r\": 8}", Some(Format::Json)),
            (b"[1, 2]", Some(Format::Json)),
            (b"GGUF\x03\0\0\0", None),
            (b"", None),
            (b"\0", None),
            (b"hello", None),
            (b"<", None),
        ];
        for (start, format) in table {
            assert_eq!(Format::of(start), format, "{start:?}");
        }
    }
}
