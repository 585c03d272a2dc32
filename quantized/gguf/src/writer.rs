//! Writes a GGUF file, version 3.

use crate::limits::{
    ARRAY_ELEMENTS_MAX, DIMENSIONS_MAX, KEY_BYTES_MAX, KEYS_MAX, NAME_BYTES_MAX, STRING_BYTES_MAX,
    TENSORS_MAX,
};
use crate::reader::{ALIGNMENT_KEY, MAGIC, alignment_of, check_shape};
use crate::value::write_string;
use crate::{Gguf, GgufError, TensorKind, Value};
use std::borrow::Cow;
use std::collections::HashSet;
use std::io;

const VERSION: u32 = 3;

/// Collects metadata and tensors, in the order in which the file will have them.
///
/// Whatever it writes, [`crate::Gguf::parse`] accepts; what the reader would refuse,
/// [`Writer::write`] refuses before the first byte.
#[derive(Debug, Clone, Default)]
pub struct Writer<'a> {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Pending<'a>>,
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub struct Pending<'a> {
    /// As [`crate::Tensor::name`].
    pub name: String,
    /// The type of its elements.
    pub kind: TensorKind,
    /// shapes: row length first, as in [`crate::Tensor`]
    pub shape: Vec<u64>,
    /// None where it is supplied when the file is written.
    data: Option<Cow<'a, [u8]>>,
}

impl<'a> Writer<'a> {
    /// Starts an empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a file with the metadata of another, and none of its tensors.
    pub fn with_metadata_of(gguf: &Gguf<'_>) -> Self {
        let metadata = gguf.metadata();
        Self {
            metadata: metadata
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect(),
            tensors: Vec::new(),
        }
    }

    /// Starts a copy of another file.
    pub fn copy_of(gguf: &Gguf<'a>) -> Self {
        let mut writer = Self::with_metadata_of(gguf);
        for tensor in gguf.tensors() {
            writer.tensor(&tensor.name, tensor.kind, &tensor.shape, gguf.data(tensor));
        }
        writer
    }

    /// Sets a metadata value; a key that is already there keeps its place and gets the new value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(known, _)| *known == key) {
            Some(entry) => entry.1 = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Keeps the metadata that `keep` says yes to, which may change values.
    pub fn retain_metadata(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) -> &mut Self {
        self.metadata.retain_mut(|(key, value)| keep(key, value));
        self
    }

    /// Keeps the tensors that `keep` says yes to, which may change them.
    pub fn retain_tensors(&mut self, keep: impl FnMut(&mut Pending<'a>) -> bool) -> &mut Self {
        self.tensors.retain_mut(keep);
        self
    }

    /// Adds a tensor, whose data may be owned or borrowed.
    ///
    /// shapes: `shape` is row length first, as in [`crate::Tensor`]
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        kind: TensorKind,
        shape: &[u64],
        data: impl Into<Cow<'a, [u8]>>,
    ) -> &mut Self {
        self.tensors.push(Pending {
            name: name.into(),
            kind,
            shape: shape.to_vec(),
            data: Some(data.into()),
        });
        self
    }

    /// Adds a tensor whose data is supplied by the caller of [`Writer::write_each`].
    pub fn later(&mut self, name: impl Into<String>, kind: TensorKind, shape: &[u64]) -> &mut Self {
        self.tensors.push(Pending {
            name: name.into(),
            kind,
            shape: shape.to_vec(),
            data: None,
        });
        self
    }

    /// Adds an F32 tensor.
    pub fn tensor_f32(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        values: &[f32],
    ) -> &mut Self {
        let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, TensorKind::F32, shape, data)
    }

    /// Writes the file into memory.
    ///
    /// fails: as [`Writer::write`]
    pub fn to_bytes(&self) -> Result<Vec<u8>, GgufError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the file.
    ///
    /// fails: where a name, count, shape or size breaks a rule, before anything is written; else
    /// where `out` fails
    pub fn write(&self, out: impl io::Write) -> Result<(), GgufError> {
        self.write_each(out, |_| Ok::<_, GgufError>(Cow::from(&[][..])))
    }

    /// Writes the file, with `data` for each tensor of [`Writer::later`] by its place in the file:
    /// a file may be larger than memory.
    ///
    /// fails: as [`Writer::write`]; where `data` fails, or is not as long as shape and type say
    pub fn write_each<'d, E: From<GgufError>>(
        &self,
        mut out: impl io::Write,
        mut data: impl FnMut(usize) -> Result<Cow<'d, [u8]>, E>,
    ) -> Result<(), E> {
        let alignment = self.alignment()?;
        let io = |error: io::Error| E::from(error.into());
        out.write_all(&self.header(alignment)?).map_err(io)?;
        for (index, tensor) in self.tensors.iter().enumerate() {
            let supplied;
            let data = match &tensor.data {
                Some(data) => data,
                None => {
                    supplied = data(index)?;
                    tensor.check_size(&supplied, 0)?;
                    &supplied
                }
            };
            out.write_all(data).map_err(io)?;
            let after = vec![0; padding(data.len(), alignment)];
            out.write_all(&after).map_err(io)?;
        }
        out.flush().map_err(io)
    }

    fn alignment(&self) -> Result<usize, GgufError> {
        let value = self
            .metadata
            .iter()
            .find(|(key, _)| key == ALIGNMENT_KEY)
            .map(|(_, value)| value);
        // At most ALIGNMENT_MAX, so it fits.
        Ok(alignment_of(value)? as usize)
    }

    /// Lays out everything before the data, padded to where the data begins.
    fn header(&self, alignment: usize) -> Result<Vec<u8>, GgufError> {
        check_limit("the header", 0, "tensors", self.tensors.len(), TENSORS_MAX)?;
        check_limit(
            "the header",
            0,
            "metadata keys",
            self.metadata.len(),
            KEYS_MAX,
        )?;
        let mut out = Vec::from(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            check_entry(key, value, out.len() as u64)?;
            write_string(key, &mut out);
            value.write(&mut out);
        }
        let (mut names, mut offset) = (HashSet::new(), 0u64);
        for tensor in &self.tensors {
            tensor.check(&mut names, out.len() as u64)?;
            write_string(&tensor.name, &mut out);
            out.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            tensor
                .shape
                .iter()
                .for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            out.extend_from_slice(&tensor.kind.id().to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
            let bytes = check_shape(&tensor.name, tensor.kind, &tensor.shape, offset)?;
            // Sizes that fit in 63 bits; their sum is checked by the reader of the file.
            offset = offset
                .saturating_add(bytes)
                .next_multiple_of(alignment as u64);
        }
        out.resize(out.len() + padding(out.len(), alignment), 0);
        Ok(out)
    }
}

impl<'a> Pending<'a> {
    /// Its data, to be changed; none for a tensor of [`Writer::later`].
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        self.data.get_or_insert_default().to_mut()
    }

    /// Refuses what the reader would refuse.
    fn check<'b>(&'b self, names: &mut HashSet<&'b str>, offset: u64) -> Result<(), GgufError> {
        let place = format!("tensor {:?}", self.name);
        if self.name.is_empty() {
            return Err(GgufError::EmptyName { place, offset });
        }
        check_limit(
            &place,
            offset,
            "bytes in a string",
            self.name.len(),
            NAME_BYTES_MAX,
        )?;
        check_limit(
            &place,
            offset,
            "dimensions",
            self.shape.len(),
            DIMENSIONS_MAX.into(),
        )?;
        if !names.insert(&self.name) {
            return Err(GgufError::DuplicateTensor {
                name: self.name.clone(),
                offset,
            });
        }
        check_shape(&self.name, self.kind, &self.shape, offset)?;
        match &self.data {
            Some(data) => self.check_size(data, offset),
            None => Ok(()),
        }
    }

    fn check_size(&self, data: &[u8], offset: u64) -> Result<(), GgufError> {
        let expected = check_shape(&self.name, self.kind, &self.shape, offset)?;
        let got = data.len() as u64;
        if expected != got {
            return Err(GgufError::DataSize {
                tensor: self.name.clone(),
                expected,
                got,
            });
        }
        Ok(())
    }
}

/// Refuses a key or a value that the reader would refuse.
fn check_entry(key: &str, value: &Value, offset: u64) -> Result<(), GgufError> {
    if key.is_empty() {
        return Err(GgufError::EmptyName {
            place: "a metadata key".into(),
            offset,
        });
    }
    check_limit(
        "a metadata key",
        offset,
        "bytes in a string",
        key.len(),
        KEY_BYTES_MAX,
    )?;
    let place = format!("the value of {key:?}");
    match value {
        Value::String(text) => check_limit(
            &place,
            offset,
            "bytes in a string",
            text.len(),
            STRING_BYTES_MAX,
        ),
        Value::Array(array) => {
            check_limit(
                &place,
                offset,
                "elements in an array",
                array.len(),
                ARRAY_ELEMENTS_MAX,
            )?;
            check_limit(
                &place,
                offset,
                "bytes in a string",
                array.string_bytes_max() as usize,
                STRING_BYTES_MAX,
            )
        }
        _ => Ok(()),
    }
}

fn check_limit(
    place: &str,
    offset: u64,
    unit: &'static str,
    found: usize,
    limit: u64,
) -> Result<(), GgufError> {
    let found = found as u64;
    if found > limit {
        return Err(GgufError::Limit {
            place: place.to_owned(),
            offset,
            unit,
            found,
            limit,
        });
    }
    Ok(())
}

/// Counts the bytes from `length` up to the next multiple of the alignment.
fn padding(length: usize, alignment: usize) -> usize {
    length.next_multiple_of(alignment) - length
}
