//! Looks at every number of a tensor.

use std::fmt;

use translora_gguf::{GgufError, TensorKind, dequantize};

/// Blocks that are turned into floats at a time: what a server allocates for a check should be
/// little.
const PIECE_BLOCKS: usize = 1 << 12;

/// A number that is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite {
    /// Its place in the tensor, from 0.
    pub element: u64,
    /// NaN or an infinity.
    pub value: f32,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at element {}", self.value, self.element)
    }
}

/// Checks the numbers of a tensor, quantized ones with their scales, piece by piece.
///
/// Answers whether one of them is not zero.
///
/// fails: the outer error where the type cannot be turned into floats, the inner one at the first
/// number that is not finite
pub fn finite(kind: TensorKind, data: &[u8]) -> Result<Result<bool, NotFinite>, GgufError> {
    let (mut element, mut any) = (0, false);
    for piece in data.chunks(PIECE_BLOCKS * kind.block_bytes() as usize) {
        let values = dequantize(kind, piece)?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Ok(Err(NotFinite {
                element: element + at as u64,
                value: values[at],
            }));
        }
        any |= values.iter().any(|value| *value != 0.0);
        element += values.len() as u64;
    }
    Ok(Ok(any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_across_pieces() {
        let mut values = vec![0.0_f32; PIECE_BLOCKS + 10];
        let bytes = |values: &[f32]| {
            values
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect::<Vec<_>>()
        };
        let checked = |values: &[f32]| finite(TensorKind::F32, &bytes(values)).expect("f32");
        assert_eq!(checked(&values), Ok(false));
        values[7] = 1.0;
        assert_eq!(checked(&values), Ok(true));
        values[PIECE_BLOCKS + 3] = f32::INFINITY;
        let found = NotFinite {
            element: PIECE_BLOCKS as u64 + 3,
            value: f32::INFINITY,
        };
        assert_eq!(checked(&values), Err(found));
        assert!(finite(TensorKind::I8, &[1]).is_err());
    }
}
