//! Walks over untrusted bytes without ever leaving them.

use crate::GgufError;

/// Holds the bytes, how far they are read, and what is being read, for the errors.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    pub(crate) place: String,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor {
            bytes,
            at: 0,
            place: "the header".into(),
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Takes the next `count` bytes.
    pub(crate) fn take(&mut self, count: u64) -> Result<&'a [u8], GgufError> {
        self.require(count)?;
        // `require` has shown that `count` bytes remain, so it fits in usize and the sum cannot
        // overflow.
        let end = self.at + count as usize;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Checks that `count` bytes remain, before anything is allocated for them.
    pub(crate) fn require(&self, count: u64) -> Result<(), GgufError> {
        let left = (self.bytes.len() - self.at) as u64;
        if count > left {
            return Err(GgufError::Truncated {
                place: self.place.clone(),
                offset: self.offset(),
                missing: count - left,
            });
        }
        Ok(())
    }

    /// Takes a fixed number of bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a count and holds it against a limit.
    pub(crate) fn count(&mut self, unit: &'static str, limit: u64) -> Result<u64, GgufError> {
        let offset = self.offset();
        let found = self.u64()?;
        if found > limit {
            return Err(GgufError::Limit {
                place: self.place.clone(),
                offset,
                unit,
                found,
                limit,
            });
        }
        Ok(found)
    }

    /// Takes a string of at most `limit` bytes.
    pub(crate) fn string(&mut self, limit: u64) -> Result<String, GgufError> {
        let length = self.count("bytes in a string", limit)?;
        let offset = self.offset();
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(source) => Err(GgufError::Utf8 {
                place: self.place.clone(),
                offset,
                source,
            }),
        }
    }

    /// Takes the name of a key or a tensor, which may not be empty.
    pub(crate) fn name(&mut self, limit: u64) -> Result<String, GgufError> {
        let offset = self.offset();
        let name = self.string(limit)?;
        if name.is_empty() {
            return Err(GgufError::EmptyName {
                place: self.place.clone(),
                offset,
            });
        }
        Ok(name)
    }
}
