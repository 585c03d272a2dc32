//! Reads files: a header without the data behind it, or the whole of a small one.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{GgufError, Header, SplitError};

const CHUNK_BYTES: u64 = 1 << 20;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A folder, a device, a pipe.
    #[error("this is {what}, and no file")]
    NotAFile {
        /// What it is.
        what: &'static str,
    },
    /// The bytes break the format.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// It is no whole split model.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// Larger than the reader was allowed to hold.
    #[error("it has {bytes} bytes, and {bytes_max} at most are read")]
    TooLarge {
        /// The size of the file.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The header alone is larger than the reader was allowed to hold.
    #[error("its header is longer than {bytes_max} bytes")]
    LargeHeader {
        /// The limit.
        bytes_max: u64,
    },
}

impl FileError {
    /// Says whether nothing lies at the path.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Opens a file and tells its size. A pipe is refused before it is opened: opening it would wait for
/// a writer.
///
/// fails: there is none, it is a folder or a device, it may not be read
pub fn open_file(path: &Path) -> Result<(File, u64), FileError> {
    let kind = path.metadata()?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a folder"
        } else {
            "a device or a pipe"
        };
        return Err(FileError::NotAFile { what });
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// Reads a whole file of at most `bytes_max` bytes.
pub fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let (file, bytes) = open_file(path)?;
    if bytes > bytes_max {
        return Err(FileError::TooLarge { bytes, bytes_max });
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.take(bytes_max + 1).read_to_end(&mut content)?;
    let bytes = content.len() as u64;
    if bytes > bytes_max {
        Err(FileError::TooLarge { bytes, bytes_max })
    } else {
        Ok(content)
    }
}

impl Header {
    /// Reads the header of a file, without the data behind it, and tells the size of the file.
    ///
    /// bounds: holds `bytes_max` bytes at most
    pub fn open(path: &Path, bytes_max: u64) -> Result<(Header, u64), FileError> {
        let (mut file, bytes) = open_file(path)?;
        let mut start = Vec::new();
        loop {
            let held = start.len() as u64;
            let more = held.max(CHUNK_BYTES).min(bytes_max - held);
            let read = file.by_ref().take(more).read_to_end(&mut start)? as u64;
            let held = start.len() as u64;
            // A file that ends before its size says was cut while it was read.
            let bytes = if read < more { held } else { bytes.max(held) };
            match Header::parse(&start, bytes)? {
                Some(header) => return Ok((header, bytes)),
                None if held == bytes_max => return Err(FileError::LargeHeader { bytes_max }),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    #[test]
    fn a_header_is_read_without_the_data_and_has_a_limit() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("a.gguf");
        let mut writer = Writer::new();
        writer.set(
            "tokens",
            (0..200_000)
                .map(|n| format!("token {n}"))
                .collect::<Vec<_>>(),
        );
        writer.tensor_f32("t", &[100_000], &vec![1.0; 100_000]);
        let file = writer.to_bytes().expect("it keeps the limits");
        std::fs::write(&path, &file).expect("the folder is writable");
        let (header, bytes) = Header::open(&path, 8 << 20).expect("it is whole");
        assert_eq!((bytes, header.tensors().len()), (file.len() as u64, 1));
        assert!(matches!(
            Header::open(&path, 3 << 20),
            Err(FileError::LargeHeader { .. })
        ));
        assert_eq!(read_file(&path, 8 << 20).expect("it is small"), file);
        assert!(matches!(
            read_file(&path, 1 << 20),
            Err(FileError::TooLarge { .. })
        ));
        std::fs::write(&path, &file[..file.len() - 1000]).expect("the folder is writable");
        let error = Header::open(&path, 8 << 20).expect_err("it is cut");
        assert!(error.to_string().contains("truncated"), "{error}");
        let error = read_file(folder.path(), 1).expect_err("a folder");
        assert!(error.to_string().contains("a folder"), "{error}");
    }
}
