//! Reads the header of a model that may be split over several files.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::{FileError, Header, Value};

/// Holds what stands before the data of a model, out of all its files: the metadata of the first,
/// the tensors of all. Offsets of tensors count from the start of their own file.
#[derive(Debug, Clone)]
pub struct Parts {
    paths: Vec<PathBuf>,
    /// How many tensors there are up to the end of each part.
    ends: Vec<usize>,
    bytes: u64,
    header: Header,
}

/// Why the parts of a split model are no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// A part is not there.
    #[error("part {number} of {count} of this model is missing: there is no {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Counted from one.
        number: u64,
        /// Of all parts.
        count: u64,
    },
    /// Not the first part was named.
    #[error("{} is part {number} of {count} of a model, and not the first", path.display())]
    NotFirst {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        number: u64,
        /// Of all parts.
        count: u64,
    },
    /// The other parts cannot be found by the name of the first.
    #[error(
        "{} is the first of {count} parts of a model, and was renamed: its name must be NAME-00001-of-{count:05}.gguf",
        path.display()
    )]
    Renamed {
        /// The file.
        path: PathBuf,
        /// Of all parts.
        count: u64,
    },
    /// What lies where a part should be is something else.
    #[error("{} is no part of this model: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// A part cannot be read.
    #[error("{}: {source}", path.display())]
    Part {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<FileError>,
    },
}

impl Parts {
    /// Reads the header of a model file, and those of its other parts where it is the first of a
    /// split model.
    ///
    /// source: llama.cpp, `llama_split_path` and `llama_model_loader`
    /// bounds: holds `bytes_max` bytes of each file at most
    /// fails: as [`Header::open`]; a part that is missing, renamed, or of another model
    pub fn open(path: &Path, bytes_max: u64) -> Result<Self, FileError> {
        let (header, bytes) = Header::open(path, bytes_max)?;
        let count = number(&header, "split.count").unwrap_or(1);
        let mut parts = Self {
            paths: vec![path.to_owned()],
            ends: vec![header.tensors().len()],
            bytes,
            header,
        };
        if count > 1 {
            parts.add_others(path, count, bytes_max)?;
        }
        Ok(parts)
    }

    /// Names the files of a model, in order: a split model has several, any other file is one by
    /// itself. Only a file that is named like the first of several parts is opened.
    ///
    /// fails: as [`Parts::open`]
    pub fn files(path: &Path, bytes_max: u64) -> Result<Vec<PathBuf>, FileError> {
        if is_named_first(path) {
            Ok(Self::open(path, bytes_max)?.paths)
        } else {
            Ok(vec![path.to_owned()])
        }
    }

    /// Lists the files in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Sums the sizes of the files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Names the file that holds the data of a tensor, by the tensor's place in
    /// [`Header::tensors`].
    pub fn path_of(&self, tensor: usize) -> Option<&Path> {
        let part = self.ends.partition_point(|end| *end <= tensor);
        self.paths.get(part).map(PathBuf::as_path)
    }

    fn add_others(&mut self, path: &Path, count: u64, bytes_max: u64) -> Result<(), SplitError> {
        let own = number(&self.header, "split.no").map_or(1, |index| index + 1);
        if own != 1 {
            return Err(SplitError::NotFirst {
                path: path.to_owned(),
                number: own,
                count,
            });
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(stem) =
            name.and_then(|name| name.strip_suffix(&format!("-00001-of-{count:05}.gguf")))
        else {
            return Err(SplitError::Renamed {
                path: path.to_owned(),
                count,
            });
        };
        for number in 2..=count {
            let path = path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
            let (part, bytes) = match Header::open(&path, bytes_max) {
                Ok(read) => read,
                Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(SplitError::Missing {
                        path,
                        number,
                        count,
                    });
                }
                Err(source) => {
                    return Err(SplitError::Part {
                        path,
                        source: Box::new(source),
                    });
                }
            };
            self.add(path, &part, bytes, (number, count))?;
        }
        self.check_tensors(path)
    }

    fn add(
        &mut self,
        path: PathBuf,
        part: &Header,
        bytes: u64,
        (expected, count): (u64, u64),
    ) -> Result<(), SplitError> {
        let is = number(part, "split.no").map(|index| index + 1);
        let of = number(part, "split.count");
        let foreign = match (is, of) {
            (Some(is), Some(of)) if (is, of) != (expected, count) => {
                Some(format!("it says that it is part {is} of {of}"))
            }
            (None, _) | (_, None) => Some("it is a model of its own".into()),
            _ => None,
        };
        let architecture = |header: &Header| {
            let value = header.get("general.architecture").and_then(Value::as_str);
            value.map(str::to_owned)
        };
        let other =
            architecture(part).filter(|its| Some(its) != architecture(&self.header).as_ref());
        let foreign = foreign
            .or_else(|| other.map(|its| format!("its architecture is {its}")))
            .or_else(|| {
                let twice = self.header.join(part)?;
                Some(format!("another part holds the tensor {twice} too"))
            });
        if let Some(reason) = foreign {
            return Err(SplitError::Foreign { path, reason });
        }
        self.paths.push(path);
        self.ends.push(self.header.tensors().len());
        self.bytes += bytes;
        Ok(())
    }

    /// Compares the number of tensors with what the first part says.
    fn check_tensors(&self, path: &Path) -> Result<(), SplitError> {
        let found = self.header.tensors().len() as u64;
        match number(&self.header, "split.tensors.count") {
            Some(expected) if expected != found => Err(SplitError::Foreign {
                path: path.to_owned(),
                reason: format!(
                    "it says that all parts hold {expected} tensors together, and they hold {found}"
                ),
            }),
            _ => Ok(()),
        }
    }
}

impl Deref for Parts {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

fn number(header: &Header, key: &str) -> Option<u64> {
    header.get(key).and_then(Value::as_u64)
}

/// `NAME-00001-of-00003.gguf`
fn is_named_first(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let count = name
        .and_then(|name| name.strip_suffix(".gguf"))
        .and_then(|name| name.rsplit_once("-00001-of-"))
        .map(|(_, count)| count);
    count.is_some_and(|count| count.len() == 5 && count.bytes().all(|byte| byte.is_ascii_digit()))
}
