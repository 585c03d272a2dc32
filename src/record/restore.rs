use serde::Deserializer;
use serde::de::DeserializeOwned;

/// The right to bring nouns back, with the bytes that were kept beside them.
///
/// Only the pipeline's journal makes one: what no stage made cannot be read in as if one had. A
/// test reads the source and holds that (`tests/it/invariants.rs`).
#[derive(Debug)]
pub struct Restore(Vec<u8>);

impl Restore {
    pub(crate) fn from_journal(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes beside what is brought back; empty where there are none.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// What a journal can bring back.
///
/// Plain data comes back by itself. A noun is no plain data: it implements this in its own room and
/// does not implement `Deserialize`, which would be a second implementation and does not compile.
pub trait Restored: Sized {
    /// Bring it back.
    fn restore<'de, D: Deserializer<'de>>(from: D, right: Restore) -> Result<Self, D::Error>;
}

impl<T: DeserializeOwned> Restored for T {
    fn restore<'de, D: Deserializer<'de>>(from: D, _: Restore) -> Result<Self, D::Error> {
        T::deserialize(from)
    }
}
