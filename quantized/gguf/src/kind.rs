//! The types that a tensor can have, with the shape of their blocks.

/// Declares [`TensorKind`] from one row per type: variant, number in files, ggml's name, elements
/// and bytes of a block.
macro_rules! tensor_kinds {
    ($($variant:ident = $id:literal, $name:literal, $elements:literal, $bytes:literal;)*) => {
        /// Names the type of a tensor's elements.
        ///
        /// source: `enum ggml_type` in ggml.h, block structures in ggml-common.h
        #[allow(non_camel_case_types, reason = "the field's own names")]
        #[non_exhaustive]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum TensorKind { $(#[doc = $name] $variant = $id,)* }

        impl TensorKind {
            /// Lists every type.
            pub const ALL: &'static [TensorKind] = &[$(TensorKind::$variant),*];

            /// Finds the type with a number in files; `None` for one that ggml does not have or no
            /// longer has.
            pub const fn from_id(id: u32) -> Option<TensorKind> {
                match id { $($id => Some(TensorKind::$variant),)* _ => None }
            }

            /// Says how ggml writes the type: `q4_K`, `f16`.
            pub const fn name(self) -> &'static str {
                match self { $(TensorKind::$variant => $name,)* }
            }

            /// Counts the elements of one block; a row is a whole number of blocks.
            pub const fn block_elements(self) -> u64 {
                match self { $(TensorKind::$variant => $elements,)* }
            }

            /// Counts the bytes of one block.
            pub const fn block_bytes(self) -> u64 {
                match self { $(TensorKind::$variant => $bytes,)* }
            }
        }
    };
}

tensor_kinds! {
    F32 = 0, "f32", 1, 4;
    F16 = 1, "f16", 1, 2;
    Q4_0 = 2, "q4_0", 32, 18;
    Q4_1 = 3, "q4_1", 32, 20;
    Q5_0 = 6, "q5_0", 32, 22;
    Q5_1 = 7, "q5_1", 32, 24;
    Q8_0 = 8, "q8_0", 32, 34;
    Q8_1 = 9, "q8_1", 32, 36;
    Q2_K = 10, "q2_K", 256, 84;
    Q3_K = 11, "q3_K", 256, 110;
    Q4_K = 12, "q4_K", 256, 144;
    Q5_K = 13, "q5_K", 256, 176;
    Q6_K = 14, "q6_K", 256, 210;
    Q8_K = 15, "q8_K", 256, 292;
    IQ2_XXS = 16, "iq2_xxs", 256, 66;
    IQ2_XS = 17, "iq2_xs", 256, 74;
    IQ3_XXS = 18, "iq3_xxs", 256, 98;
    IQ1_S = 19, "iq1_s", 256, 50;
    IQ4_NL = 20, "iq4_nl", 32, 18;
    IQ3_S = 21, "iq3_s", 256, 110;
    IQ2_S = 22, "iq2_s", 256, 82;
    IQ4_XS = 23, "iq4_xs", 256, 136;
    I8 = 24, "i8", 1, 1;
    I16 = 25, "i16", 1, 2;
    I32 = 26, "i32", 1, 4;
    I64 = 27, "i64", 1, 8;
    F64 = 28, "f64", 1, 8;
    IQ1_M = 29, "iq1_m", 256, 56;
    BF16 = 30, "bf16", 1, 2;
    TQ1_0 = 34, "tq1_0", 256, 54;
    TQ2_0 = 35, "tq2_0", 256, 66;
    MXFP4 = 39, "mxfp4", 32, 17;
    NVFP4 = 40, "nvfp4", 64, 36;
    Q1_0 = 41, "q1_0", 128, 18;
    Q2_0 = 42, "q2_0", 64, 18;
}

impl TensorKind {
    /// Gives the number that stands for the type in files.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Says whether [`crate::dequantize()`] knows the type.
    pub const fn is_dequantizable(self) -> bool {
        use TensorKind::{
            BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K,
            Q6_K, Q8_0,
        };
        let old = matches!(self, F32 | F16 | BF16 | Q8_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1);
        old || matches!(
            self,
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_NL | IQ4_XS | MXFP4
        )
    }

    /// Counts the bytes of a tensor of this shape.
    ///
    /// fails: `None` where a row is not a whole number of blocks or the count does not fit in 63
    /// bits
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let row = *shape.first()?;
        if row % self.block_elements() != 0 {
            return None;
        }
        let elements = shape
            .iter()
            .try_fold(1u64, |product, &n| product.checked_mul(n))?;
        let bytes = (elements / self.block_elements()).checked_mul(self.block_bytes())?;
        (elements <= i64::MAX as u64 && bytes <= i64::MAX as u64).then_some(bytes)
    }
}

impl std::fmt::Display for TensorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
