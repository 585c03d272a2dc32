//! Looks at every number of a model.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use translora_gguf::{Parts, open_file};
use translora_lora::finite;

use super::KitError;
use crate::record::Limits;

/// Read at a time, in whole blocks. units: blocks
const PIECE_BLOCKS: u64 = 1 << 16;

/// Read all weights of a model, and find the first that is no number, or a scale of quantized ones
/// that is none; in words. Types that this program cannot turn into floats are not looked at.
///
/// fails: the file cannot be read
pub fn no_number(path: &Path, limits: &Limits) -> Result<Option<String>, KitError> {
    let parts = super::read_parts(path, limits)?;
    for (number, tensor) in parts.tensors().iter().enumerate() {
        if !tensor.kind.is_dequantizable() {
            continue;
        }
        let path = parts.path_of(number).unwrap_or(path);
        if let Some(found) = first(&parts, number, path)? {
            return Ok(Some(format!("its tensor {:?} holds {found}", tensor.name)));
        }
    }
    Ok(None)
}

fn first(parts: &Parts, number: usize, path: &Path) -> Result<Option<String>, KitError> {
    let tensor = &parts.tensors()[number];
    let failed = |error| KitError::of_file(path, error);
    let (mut file, _) = open_file(path).map_err(failed)?;
    let io = |error: std::io::Error| failed(error.into());
    file.seek(SeekFrom::Start(tensor.offset)).map_err(io)?;
    let (block, elements) = (tensor.kind.block_bytes(), tensor.kind.block_elements());
    let (mut left, mut before) = (tensor.bytes, 0);
    while left > 0 {
        let wanted = left.min(PIECE_BLOCKS * block);
        let mut piece = vec![0; wanted as usize];
        file.read_exact(&mut piece).map_err(io)?;
        // Its type is one that can be turned into floats.
        if let Ok(Err(mut found)) = finite(tensor.kind, &piece) {
            found.element += before;
            return Ok(Some(found.to_string()));
        }
        before += wanted / block * elements;
        left -= wanted;
    }
    Ok(None)
}
