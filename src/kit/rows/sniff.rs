//! Say what a file is that holds no rows, and make text of one that does.

use crate::record::Step;

/// A kind of file that people give in place of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it is, with its article.
    pub name: &'static str,
    /// What makes data of it.
    pub step: Step,
}

const fn kind(name: &'static str, step: Step) -> Foreign {
    Foreign { name, step }
}

/// First bytes → what the file is.
const MAGIC: &[(&[u8], Foreign)] = &[
    (b"\x1f\x8b", kind("gzip", Step::Unpack)),
    (
        b"PK\x03\x04",
        kind("a zip archive or a spreadsheet", Step::Unpack),
    ),
    (b"BZh", kind("bzip2", Step::Unpack)),
    (b"\xfd7zXZ\0", kind("xz", Step::Unpack)),
    (b"\x28\xb5\x2f\xfd", kind("zstd", Step::Unpack)),
    (b"7z\xbc\xaf\x27\x1c", kind("a 7-zip archive", Step::Unpack)),
    (b"PAR1", kind("Parquet", Step::ExportRows)),
    (b"ARROW1", kind("Arrow", Step::ExportRows)),
    (
        b"\xff\xff\xff\xff",
        kind("an Arrow stream", Step::ExportRows),
    ),
    (b"FEA1", kind("Feather", Step::ExportRows)),
    (b"Obj\x01", kind("Avro", Step::ExportRows)),
    (
        b"SQLite format 3\0",
        kind("a SQLite database", Step::ExportRows),
    ),
    (b"\x89HDF", kind("HDF5", Step::ExportRows)),
    (b"\x93NUMPY", kind("a NumPy array", Step::ExportRows)),
    (
        b"\xd0\xcf\x11\xe0",
        kind("an Office document", Step::ExportRows),
    ),
    (b"%PDF", kind("a PDF", Step::ExportRows)),
    (b"{\\rtf", kind("an RTF document", Step::ExportRows)),
    (b"GGUF", kind("a GGUF", Step::OtherFile)),
    (b"\xff\xfe", kind("UTF-16 text", Step::SaveAsUtf8)),
    (b"\xfe\xff", kind("UTF-16 text", Step::SaveAsUtf8)),
];

/// First words, in lower case → what the file is.
const WORDS: &[(&str, Foreign)] = &[
    (
        "version https://git-lfs",
        kind(
            "a Git LFS pointer, which stands for the file",
            Step::FetchPointer,
        ),
    ),
    ("<!doctype html", kind("an HTML page", Step::FetchPage)),
    ("<html", kind("an HTML page", Step::FetchPage)),
    ("<?xml", kind("XML", Step::ExportRows)),
];

/// Where `tar` writes its name.
const TAR_AT: usize = 257;
/// What Excel and PowerShell put before UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What the bytes are, where they are known to be no rows.
pub(super) fn foreign(bytes: &[u8]) -> Option<Foreign> {
    if let Some((_, found)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(*found);
    }
    match bytes {
        [0x80, 2..=5, ..] => return Some(kind("a Python pickle", Step::ExportRows)),
        // Every other byte of plain words is 0.
        [0, 1..=255, 0, 1..=255, ..] | [1..=255, 0, 1..=255, 0, ..] => {
            return Some(kind("UTF-16 text", Step::SaveAsUtf8));
        }
        _ if bytes
            .get(TAR_AT..)
            .is_some_and(|at| at.starts_with(b"ustar")) =>
        {
            return Some(kind("a tar archive", Step::Unpack));
        }
        _ => {}
    }
    let start = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii_start();
    let start = String::from_utf8_lossy(&start[..start.len().min(64)]).to_lowercase();
    let found = WORDS.iter().find(|(words, _)| start.starts_with(words));
    found.map(|(_, found)| *found)
}

/// The text of a file without its byte order mark, or the line and the byte of it that are no
/// UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, (usize, usize)> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().rposition(|&byte| byte == b'\n');
        let start = line.map_or(0, |at| at + 1);
        (lines(before) + 1, before.len() - start)
    })
}

/// Line ends in a text: line feeds, and carriage returns that no line feed follows.
pub(super) fn lines(bytes: &[u8]) -> usize {
    let ends = |at: usize| match bytes[at] {
        b'\n' => true,
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        _ => false,
    };
    (0..bytes.len()).filter(|&at| ends(at)).count()
}
