use std::ffi::CStr;

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;

/// An element type of ggml, quantized ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dtype(pub(crate) sys::ggml_type);

impl Dtype {
    /// 32-bit floats.
    pub const F32: Self = Self(sys::GGML_TYPE_F32);
    /// 16-bit floats of IEEE 754.
    pub const F16: Self = Self(sys::GGML_TYPE_F16);
    /// 16-bit floats with the exponent of F32.
    pub const BF16: Self = Self(sys::GGML_TYPE_BF16);
    /// 8 bits in blocks of 32 with one F16 scale.
    pub const Q8_0: Self = Self(sys::GGML_TYPE_Q8_0);
    /// 4 bits in blocks of 32 with one F16 scale.
    pub const Q4_0: Self = Self(sys::GGML_TYPE_Q4_0);
    /// 4 bits in blocks of 256, with scales and minima of 6 bits for each 32.
    pub const Q4_K: Self = Self(sys::GGML_TYPE_Q4_K);
    /// 6 bits in blocks of 256, with scales of 8 bits for each 16.
    pub const Q6_K: Self = Self(sys::GGML_TYPE_Q6_K);
    /// 32-bit integers: tokens, positions, row numbers.
    pub const I32: Self = Self(sys::GGML_TYPE_I32);
    /// 64-bit integers: row numbers of `SET_ROWS`.
    pub const I64: Self = Self(sys::GGML_TYPE_I64);

    /// The type of a tensor in a file: the numbers are ggml's.
    pub fn of_kind(kind: translora_gguf::TensorKind) -> Self {
        Self(kind.id() as sys::ggml_type)
    }

    pub(crate) fn of(raw: sys::ggml_type) -> Self {
        Self(raw)
    }

    /// ggml's name of the type, `q4_K` for example.
    pub fn name(self) -> String {
        // SAFETY: ggml returns a static string for each of its types, and only those are
        // constructed here.
        unsafe { CStr::from_ptr(sys::ggml_type_name(self.0)) }
            .to_string_lossy()
            .into_owned()
    }

    /// Elements are stored in blocks with scales of their own.
    pub fn is_quantized(self) -> bool {
        // SAFETY: a table look-up by a valid type.
        unsafe { sys::ggml_is_quantized(self.0) }
    }

    /// Elements in one block.
    pub fn block(self) -> usize {
        // SAFETY: as above.
        usize::try_from(unsafe { sys::ggml_blck_size(self.0) }).unwrap_or(1)
    }

    /// units: bytes of a row of `elements`, which must be whole blocks.
    pub fn row_bytes(self, elements: usize) -> usize {
        // SAFETY: as above.
        elements / self.block() * unsafe { sys::ggml_type_size(self.0) }
    }

    /// Turn rows of floats into this type.
    ///
    /// fails: rows that are no whole blocks, or a type that needs more than the values (an
    /// importance matrix).
    pub fn from_f32(self, values: &[f32], row: usize) -> Result<Vec<u8>, LlamaError> {
        // SAFETY: a look-up by a valid type.
        let plain = !unsafe { sys::ggml_quantize_requires_imatrix(self.0) };
        if !plain
            || row == 0
            || !row.is_multiple_of(self.block())
            || !values.len().is_multiple_of(row)
        {
            return Err(LlamaError::Graph(format!(
                "{} floats in rows of {row} as {}",
                values.len(),
                self.name()
            )));
        }
        let mut bytes = vec![0; self.row_bytes(values.len())];
        let size = |n: usize| i64::try_from(n).unwrap_or(0);
        // SAFETY: as many rows as there are values for, into exactly the bytes that they take; no
        // importance matrix is needed.
        unsafe {
            let (from, to) = (values.as_ptr(), bytes.as_mut_ptr().cast());
            sys::ggml_quantize_chunk(
                self.0,
                from,
                to,
                0,
                size(values.len() / row),
                size(row),
                std::ptr::null(),
            );
        }
        Ok(bytes)
    }

    /// Turn a row of this type into floats.
    ///
    /// fails: `bytes` is not exactly `out.len()` elements, or the type has no conversion.
    pub fn to_f32(self, bytes: &[u8], out: &mut [f32]) -> Result<(), LlamaError> {
        if !out.len().is_multiple_of(self.block()) || bytes.len() != self.row_bytes(out.len()) {
            return Err(LlamaError::Graph(format!(
                "{} bytes are not {} elements of {}",
                bytes.len(),
                out.len(),
                self.name()
            )));
        }
        if self == Self::F32 {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_ne_bytes(*raw);
            }
            return Ok(());
        }
        // SAFETY: the traits are a static table; the conversion reads `bytes` and writes `out`,
        // whose lengths were checked to agree.
        unsafe {
            let convert = (*sys::ggml_get_type_traits(self.0)).to_float;
            let convert = convert.ok_or_else(|| {
                LlamaError::Graph(format!("{} has no conversion to f32", self.name()))
            })?;
            convert(
                bytes.as_ptr().cast(),
                out.as_mut_ptr(),
                i64::try_from(out.len()).unwrap_or(i64::MAX),
            );
        }
        Ok(())
    }
}
