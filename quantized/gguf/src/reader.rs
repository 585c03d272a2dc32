//! Reads a GGUF file out of a slice, which may be a mapped file.

use crate::cursor::Cursor;
use crate::limits::{
    ALIGNMENT_DEFAULT, ALIGNMENT_MAX, DIMENSIONS_MAX, KEY_BYTES_MAX, KEYS_MAX, NAME_BYTES_MAX,
    TENSORS_MAX,
};
use crate::{FileKind, GgufError, TensorKind, Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Deref;

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Describes one tensor of a file.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name, which no other tensor of the file has.
    pub name: String,
    /// The type of its elements.
    pub kind: TensorKind,
    /// The dimensions, the one that lies together in memory (the row) first; one to four, none of
    /// them zero.
    pub shape: Vec<u64>,
    /// Where its data begins, counted from the start of the file.
    pub offset: u64,
    /// The size of its data.
    pub bytes: u64,
}

impl Tensor {
    /// Counts the elements.
    pub fn elements(&self) -> u64 {
        // Parsing has shown that the product fits in 63 bits.
        self.shape.iter().product()
    }
}

/// Holds what stands before the tensor data: metadata and the places of the tensors, all by value.
#[derive(Debug, Clone)]
pub struct Header {
    version: u32,
    alignment: u64,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<Tensor>,
    names: HashMap<String, usize>,
}

impl Header {
    /// Parses the header of a file of `file_bytes` bytes out of its first bytes; `None` where
    /// `start` ends before the header does.
    ///
    /// fails: as [`Gguf::parse`] would on the whole file
    pub fn parse(start: &[u8], file_bytes: u64) -> Result<Option<Header>, GgufError> {
        check_magic(start, file_bytes)?;
        let later = file_bytes.saturating_sub(start.len() as u64);
        match read_header(start) {
            Ok((mut header, end)) => {
                place_tensors(&mut header.tensors, end, header.alignment, file_bytes)?;
                Ok(Some(header))
            }
            Err(GgufError::Truncated { missing, .. }) if missing <= later => Ok(None),
            Err(GgufError::Truncated {
                place,
                offset,
                missing,
            }) => Err(GgufError::Truncated {
                place,
                offset,
                missing: missing - later,
            }),
            Err(error) => Err(error),
        }
    }

    /// Gives the version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Gives the alignment of tensor data, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Finds a metadata value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&index| &self.metadata[index].1)
    }

    /// Walks over the metadata in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Lists the tensors in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Finds a tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.names.get(name).map(|&index| &self.tensors[index])
    }

    /// Adds the tensors of another file, unless one of them is here already: then it is named.
    pub(crate) fn join(&mut self, other: &Header) -> Option<String> {
        let twice = |tensor: &&Tensor| self.names.contains_key(&tensor.name);
        if let Some(tensor) = other.tensors.iter().find(twice) {
            return Some(tensor.name.clone());
        }
        for tensor in &other.tensors {
            self.names.insert(tensor.name.clone(), self.tensors.len());
            self.tensors.push(tensor.clone());
        }
        None
    }
}

/// Holds a parsed file: its [`Header`], whose methods it has, and tensor data as slices of the
/// bytes it was parsed from.
#[derive(Debug, Clone)]
pub struct Gguf<'a> {
    bytes: &'a [u8],
    header: Header,
}

impl<'a> Gguf<'a> {
    /// Parses a whole file.
    ///
    /// fails: at the first byte that breaks a rule of the format or a limit; nothing of the file is
    /// kept
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>, GgufError> {
        check_magic(bytes, bytes.len() as u64)?;
        let (mut header, end) = read_header(bytes)?;
        place_tensors(
            &mut header.tensors,
            end,
            header.alignment,
            bytes.len() as u64,
        )?;
        Ok(Gguf { bytes, header })
    }

    /// Borrows the data of a tensor of this file.
    ///
    /// bounds: panics on a tensor of another file that reaches beyond the end of this one
    pub fn data(&self, tensor: &Tensor) -> &'a [u8] {
        let range = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
        self.bytes
            .get(range)
            .expect("parsing has placed every tensor of this file inside it")
    }
}

impl Deref for Gguf<'_> {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

/// Refuses what is no GGUF file. One that ends within the four letters was cut, which the reader
/// finds.
fn check_magic(start: &[u8], file_bytes: u64) -> Result<(), GgufError> {
    if file_bytes > 0 && (start.starts_with(&MAGIC) || MAGIC.starts_with(start)) {
        return Ok(());
    }
    let found = FileKind::of(start);
    Err(GgufError::Magic { found })
}

/// Reads everything before the data, and says where it ends; offsets of tensors still count from
/// the start of the data.
fn read_header(bytes: &[u8]) -> Result<(Header, u64), GgufError> {
    let mut cursor = Cursor::new(bytes);
    let version = read_version(&mut cursor)?;
    let tensor_count = cursor.count("tensors", TENSORS_MAX)?;
    let key_count = cursor.count("metadata keys", KEYS_MAX)?;
    let (metadata, keys) = read_metadata(&mut cursor, key_count)?;
    let alignment = alignment_of(keys.get(ALIGNMENT_KEY).map(|&index| &metadata[index].1))?;
    let (tensors, names) = read_tensors(&mut cursor, tensor_count)?;
    Ok((
        Header {
            version,
            alignment,
            metadata,
            keys,
            tensors,
            names,
        },
        cursor.offset(),
    ))
}

/// Reads the version, which comes after the magic.
fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    cursor.take(MAGIC.len() as u64)?;
    match cursor.u32()? {
        version @ (2 | 3) => Ok(version),
        0 => Err(GgufError::Version { found: 0 }),
        found if found.trailing_zeros() >= 16 => Err(GgufError::BigEndian),
        found => Err(GgufError::Version { found }),
    }
}

type Metadata = (Vec<(String, Value)>, HashMap<String, usize>);

/// Reads the keys and values.
fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
    let (mut metadata, mut keys) = (Vec::new(), HashMap::new());
    for index in 0..count {
        cursor.place = format!("metadata key {index} of {count}");
        let offset = cursor.offset();
        let key = cursor.name(KEY_BYTES_MAX)?;
        match keys.entry(key.clone()) {
            Entry::Occupied(_) => return Err(GgufError::DuplicateKey { key, offset }),
            Entry::Vacant(entry) => entry.insert(metadata.len()),
        };
        cursor.place = format!("the value of {key:?}");
        metadata.push((key, Value::read(cursor)?));
    }
    Ok((metadata, keys))
}

/// Reads the alignment out of its metadata value.
pub(crate) fn alignment_of(value: Option<&Value>) -> Result<u64, GgufError> {
    match value {
        None => Ok(ALIGNMENT_DEFAULT.into()),
        Some(&Value::U32(n)) if n.is_power_of_two() && n <= ALIGNMENT_MAX => Ok(n.into()),
        Some(other) => Err(GgufError::Alignment {
            found: format!("{other:.64?}"),
            limit: ALIGNMENT_MAX,
        }),
    }
}

type Tensors = (Vec<Tensor>, HashMap<String, usize>);

/// Reads the descriptions of the tensors; their offsets still count from the start of the data.
fn read_tensors(cursor: &mut Cursor<'_>, count: u64) -> Result<Tensors, GgufError> {
    let (mut tensors, mut names) = (Vec::new(), HashMap::new());
    for index in 0..count {
        cursor.place = format!("the description of tensor {index} of {count}");
        let start = cursor.offset();
        let name = cursor.name(NAME_BYTES_MAX)?;
        match names.entry(name.clone()) {
            Entry::Occupied(_) => {
                return Err(GgufError::DuplicateTensor {
                    name,
                    offset: start,
                });
            }
            Entry::Vacant(entry) => entry.insert(tensors.len()),
        };
        tensors.push(read_tensor(cursor, name, start)?);
    }
    Ok((tensors, names))
}

/// Reads what follows the name of a tensor.
fn read_tensor(cursor: &mut Cursor<'_>, name: String, start: u64) -> Result<Tensor, GgufError> {
    cursor.place = format!("the description of tensor {name:?}");
    let at = cursor.offset();
    let dimensions = cursor.u32()?;
    if dimensions > DIMENSIONS_MAX {
        let (place, unit) = (cursor.place.clone(), "dimensions");
        return Err(GgufError::Limit {
            place,
            offset: at,
            unit,
            found: dimensions.into(),
            limit: DIMENSIONS_MAX.into(),
        });
    }
    let shape = (0..dimensions)
        .map(|_| cursor.u64())
        .collect::<Result<Vec<_>, _>>()?;
    let kind_at = cursor.offset();
    let id = cursor.u32()?;
    let offset = cursor.u64()?;
    let Some(kind) = TensorKind::from_id(id) else {
        return Err(GgufError::TensorKind {
            tensor: name,
            offset: kind_at,
            found: id,
        });
    };
    let bytes = check_shape(&name, kind, &shape, start)?;
    Ok(Tensor {
        name,
        kind,
        shape,
        offset,
        bytes,
    })
}

/// Counts the bytes of a tensor, refusing shapes that have none or too many.
pub(crate) fn check_shape(
    name: &str,
    kind: TensorKind,
    shape: &[u64],
    offset: u64,
) -> Result<u64, GgufError> {
    let tensor = name.to_owned();
    match shape.first() {
        Some(&row) if !shape.contains(&0) => {
            if row % kind.block_elements() != 0 {
                return Err(GgufError::RowLength {
                    tensor,
                    offset,
                    kind,
                    row,
                });
            }
            let overflow = || GgufError::ShapeOverflow {
                tensor,
                offset,
                shape: shape.to_vec(),
            };
            kind.bytes(shape).ok_or_else(overflow)
        }
        _ => Err(GgufError::EmptyShape {
            tensor,
            offset,
            shape: shape.to_vec(),
        }),
    }
}

/// Turns offsets within the data into offsets within the file, and checks that no tensor leaves it
/// or touches another.
fn place_tensors(
    tensors: &mut [Tensor],
    header_bytes: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    // The header lies in memory, so rounding its size up to the alignment cannot overflow.
    let data_offset = header_bytes.next_multiple_of(alignment);
    let mut missing = None;
    for tensor in tensors.iter_mut() {
        if tensor.offset % alignment != 0 {
            return Err(GgufError::Misaligned {
                tensor: tensor.name.clone(),
                found: tensor.offset,
                alignment,
            });
        }
        let offset = data_offset.saturating_add(tensor.offset);
        let beyond = offset
            .saturating_add(tensor.bytes)
            .saturating_sub(file_bytes);
        if beyond > missing.as_ref().map_or(0, |&(_, bytes)| bytes) {
            missing = Some((tensor.name.clone(), beyond));
        }
        tensor.offset = offset;
    }
    if let Some((name, missing)) = missing {
        return Err(GgufError::Truncated {
            place: format!("the data of {name:?}"),
            offset: file_bytes,
            missing,
        });
    }
    let mut in_order: Vec<&Tensor> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.offset);
    for pair in in_order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
            return Err(GgufError::Overlap {
                first,
                second,
                offset: pair[1].offset,
            });
        }
    }
    Ok(())
}
