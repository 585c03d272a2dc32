//! The values that metadata can have, and how each lies in the file.

use crate::GgufError;
use crate::cursor::Cursor;
use crate::limits::{ARRAY_ELEMENTS_MAX, STRING_BYTES_MAX};

const ARRAY_ID: u32 = 9;

/// Reads and writes one element, as it lies in the file.
trait Wire: Sized {
    /// The least bytes that an element takes.
    const BYTES_MIN: u64;
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError>;
    fn write(&self, out: &mut Vec<u8>);

    fn read_many(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Self>, GgufError> {
        // `count` is at most ARRAY_ELEMENTS_MAX, so the product fits; the check precedes the
        // allocation.
        cursor.require(count * Self::BYTES_MIN)?;
        let mut items = Vec::with_capacity(count as usize);
        for _ in 0..count {
            items.push(Self::read(cursor)?);
        }
        Ok(items)
    }
}

macro_rules! wire_numbers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            const BYTES_MIN: u64 = size_of::<$type>() as u64;
            fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError> {
                Ok(<$type>::from_le_bytes(cursor.array()?))
            }
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
wire_numbers!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl Wire for bool {
    const BYTES_MIN: u64 = 1;
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError> {
        let offset = cursor.offset();
        match u8::read(cursor)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(GgufError::Bool {
                place: cursor.place.clone(),
                offset,
                found,
            }),
        }
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Wire for String {
    const BYTES_MIN: u64 = 8;
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError> {
        cursor.string(STRING_BYTES_MAX)
    }
    fn write(&self, out: &mut Vec<u8>) {
        write_string(self, out);
    }
}

/// Appends a string with its length before it.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).write(out);
    out.extend_from_slice(text.as_bytes());
}

/// Declares the values from one row per type: variant, Rust type, number in files.
macro_rules! values {
    ($($variant:ident($type:ty) = $id:literal),*) => {
        /// Holds one metadata value.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $(#[doc = concat!("A `", stringify!($type), "`.")] $variant($type),)*
            /// Many values of one type.
            Array(Array),
        }

        /// Holds a metadata array: values of one type, which an empty array has too.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $(#[doc = concat!("An array of `", stringify!($type), "`.")] $variant(Vec<$type>),)*
        }

        /// Names the type of a value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ValueKind {
            $(#[doc = concat!("A `", stringify!($type), "`.")] $variant,)*
            /// An array.
            Array,
        }

        impl ValueKind {
            /// Gives the number that stands for the type in files.
            pub const fn id(self) -> u32 {
                match self { $(ValueKind::$variant => $id,)* ValueKind::Array => ARRAY_ID }
            }
        }

        impl Value {
            /// Names the type of the value.
            pub const fn kind(&self) -> ValueKind {
                match self { $(Value::$variant(_) => ValueKind::$variant,)* Value::Array(_) => ValueKind::Array }
            }

            pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Value, GgufError> {
                let offset = cursor.offset();
                Ok(match cursor.u32()? {
                    $($id => Value::$variant(Wire::read(cursor)?),)*
                    ARRAY_ID => Value::Array(Array::read(cursor)?),
                    found => return Err(GgufError::ValueKind { place: cursor.place.clone(), offset, found }),
                })
            }

            pub(crate) fn write(&self, out: &mut Vec<u8>) {
                self.kind().id().write(out);
                match self {
                    $(Value::$variant(value) => value.write(out),)*
                    Value::Array(array) => array.write(out),
                }
            }
        }

        impl Array {
            /// Names the type of the elements.
            pub const fn element_kind(&self) -> ValueKind {
                match self { $(Array::$variant(_) => ValueKind::$variant,)* }
            }

            /// Counts the elements.
            pub fn len(&self) -> usize {
                match self { $(Array::$variant(items) => items.len(),)* }
            }

            /// Copies out one element.
            pub fn get(&self, index: usize) -> Option<Value> {
                match self { $(Array::$variant(items) => items.get(index).cloned().map(Value::$variant),)* }
            }

            /// Keeps the elements for which `keep` answers true, given their position.
            pub fn retain_positions(&mut self, mut keep: impl FnMut(usize) -> bool) {
                let mut positions = 0..;
                let mut next = || positions.next().is_some_and(&mut keep);
                match self { $(Array::$variant(items) => items.retain(|_| next()),)* }
            }

            fn read(cursor: &mut Cursor<'_>) -> Result<Array, GgufError> {
                let offset = cursor.offset();
                let kind = cursor.u32()?;
                let count = cursor.count("elements in an array", ARRAY_ELEMENTS_MAX)?;
                Ok(match kind {
                    $($id => Array::$variant(Wire::read_many(cursor, count)?),)*
                    ARRAY_ID => return Err(GgufError::NestedArray { place: cursor.place.clone(), offset }),
                    found => return Err(GgufError::ValueKind { place: cursor.place.clone(), offset, found }),
                })
            }

            fn write(&self, out: &mut Vec<u8>) {
                self.element_kind().id().write(out);
                (self.len() as u64).write(out);
                match self { $(Array::$variant(items) => items.iter().for_each(|item| item.write(out)),)* }
            }
        }

        $(
            impl From<$type> for Value {
                fn from(value: $type) -> Value { Value::$variant(value) }
            }
            impl From<Vec<$type>> for Array {
                fn from(items: Vec<$type>) -> Array { Array::$variant(items) }
            }
            impl From<Vec<$type>> for Value {
                fn from(items: Vec<$type>) -> Value { Value::Array(Array::$variant(items)) }
            }
        )*
    };
}

values! {
    U8(u8) = 0, I8(i8) = 1, U16(u16) = 2, I16(i16) = 3, U32(u32) = 4, I32(i32) = 5, F32(f32) = 6, Bool(bool) = 7,
    String(String) = 8, U64(u64) = 10, I64(i64) = 11, F64(f64) = 12
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl Value {
    /// Borrows a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Reads an integer of any width that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U64(n) => Some(n),
            _ => self.as_i64().and_then(|n| u64::try_from(n).ok()),
        }
    }

    /// Reads an integer of any width.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Value::U8(n) => n.into(),
            Value::I8(n) => n.into(),
            Value::U16(n) => n.into(),
            Value::I16(n) => n.into(),
            Value::U32(n) => n.into(),
            Value::I32(n) => n.into(),
            Value::I64(n) => n,
            Value::U64(n) => return i64::try_from(n).ok(),
            _ => return None,
        })
    }

    /// Reads a float of either width.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }

    /// Reads a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// Borrows an array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Borrows an array of strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Value::Array(Array::String(items)) => Some(items),
            _ => None,
        }
    }
}

impl Array {
    /// Says whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Walks over copies of the elements; match on the variant to borrow them.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Finds the longest string; zero in an array of anything else.
    pub(crate) fn string_bytes_max(&self) -> u64 {
        match self {
            Array::String(items) => items
                .iter()
                .map(|item| item.len() as u64)
                .max()
                .unwrap_or(0),
            _ => 0,
        }
    }
}
