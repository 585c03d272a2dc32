//! Paths in JSON. What is no UTF-8 in one is replaced there: a report of work that is done can
//! always be written. For `serialize_with`.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// Write a path as a text.
pub fn path_as_text<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// Write a path as a text, or null.
pub fn path_as_text_or_null<S: Serializer>(
    path: &Option<PathBuf>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path_as_text(path, to),
        None => to.serialize_none(),
    }
}
