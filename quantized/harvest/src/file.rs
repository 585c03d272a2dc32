//! One file: the prompts of one adapter.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::row::{ROW_BYTES_MAX, Rank, Row};
use crate::{Damage, HarvestError};

/// The largest file. units: bytes
const FILE_BYTES_MAX: u64 = 1 << 30;
/// A line of a file that nobody wrote by hand is no longer. units: bytes
const LINE_BYTES_MAX: usize = ROW_BYTES_MAX + 1;
const VERSION: u64 = 1;
/// What every file begins with.
pub(crate) const MARK: &str = r#"{"translora":"harvest","#;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    translora: String,
    version: u64,
    pub adapter: String,
    pub seed: u64,
    pub rows_max: usize,
    pub bytes_max: u64,
}

impl Header {
    pub(crate) fn new(adapter: &str, seed: u64, rows_max: usize, bytes_max: u64) -> Self {
        Self {
            translora: "harvest".into(),
            version: VERSION,
            adapter: adapter.to_owned(),
            seed,
            rows_max,
            bytes_max,
        }
    }

    pub(crate) fn to_line(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    fn of_line(line: &[u8]) -> Result<Self, Damage> {
        let value: serde_json::Value = serde_json::from_slice(line).map_err(|_| Damage::Foreign)?;
        match value["version"].as_u64() {
            Some(found) if found != VERSION && value["translora"] == "harvest" => {
                return Err(Damage::Version { found });
            }
            _ => {}
        }
        let header: Self = serde_json::from_value(value).map_err(|_| Damage::Foreign)?;
        if header.translora == "harvest" {
            Ok(header)
        } else {
            Err(Damage::Foreign)
        }
    }
}

/// Where a row lies, and how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub from: usize,
    pub bytes: usize,
    pub at: u64,
    pub until: u64,
    pub answered: bool,
}

/// The bottom of the ranks: which rows are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub places: BTreeMap<Rank, Place>,
    bytes: u64,
}

impl Sample {
    /// Take a row in, and put out what is too much: what has the highest ranks.
    pub(crate) fn take(&mut self, rank: Rank, place: Place, header: &Header) {
        if self.places.contains_key(&rank) {
            return;
        }
        self.bytes += place.bytes as u64;
        self.places.insert(rank, place);
        while self.places.len() > header.rows_max || self.bytes > header.bytes_max {
            let Some((_, out)) = self.places.pop_last() else {
                break;
            };
            self.bytes -= out.bytes as u64;
        }
    }

    /// Whether a row of so many bytes would be among the kept.
    pub(crate) fn admits(&self, rank: Rank, bytes: usize, header: &Header) -> bool {
        let lower = || {
            self.places
                .range(..rank)
                .map(|(_, place)| place.bytes as u64)
        };
        lower().count() < header.rows_max && lower().sum::<u64>() + bytes as u64 <= header.bytes_max
    }

    /// Bytes of the rows that are kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A file as it lies there.
pub(crate) struct Parsed {
    pub header: Header,
    pub sample: Sample,
    pub bytes: Vec<u8>,
    /// Bytes up to the last line feed.
    pub whole: usize,
    /// Lines of rows, those that are no longer kept too.
    pub lines: usize,
    /// When the first of all these lines is too old.
    pub until_first: Option<u64>,
    /// Lines whose time is over.
    pub expired: usize,
}

impl Parsed {
    /// Read and check a file.
    ///
    /// bounds: `FILE_BYTES_MAX`, [`ROW_BYTES_MAX`] a row
    /// fails: the file cannot be read, or at the first damaged line, by its number
    pub(crate) fn read(path: &Path, now: u64) -> Result<Self, HarvestError> {
        let meta = fs::metadata(path).map_err(HarvestError::io(path))?;
        if meta.len() > FILE_BYTES_MAX {
            return Err(HarvestError::Large {
                path: path.to_owned(),
                bytes: meta.len(),
                bytes_max: FILE_BYTES_MAX,
            });
        }
        let bytes = fs::read(path).map_err(HarvestError::io(path))?;
        Self::of(bytes, now).map_err(|(line, what)| HarvestError::Line {
            path: path.to_owned(),
            line,
            what,
        })
    }

    fn of(bytes: Vec<u8>, now: u64) -> Result<Self, (usize, Damage)> {
        // What is behind the last line feed was being written when its writer was killed.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let (mut header, mut sample) = (None, Sample::default());
        let (mut from, mut lines, mut expired, mut until_first) = (0, 0, 0, None);
        for (number, line) in (1..).zip(bytes[..whole].split_inclusive(|byte| *byte == b'\n')) {
            let wrong = |what| (number, what);
            if line.len() > LINE_BYTES_MAX {
                return Err(wrong(Damage::Long {
                    bytes: line.len() - 1,
                    bytes_max: ROW_BYTES_MAX,
                }));
            }
            match &header {
                None => header = Some(Header::of_line(line).map_err(wrong)?),
                Some(header) => {
                    let row = Row::of_line(line).map_err(|why| wrong(Damage::Row(why)))?;
                    lines += 1;
                    until_first =
                        Some(until_first.map_or(row.until, |first: u64| first.min(row.until)));
                    let place = Place {
                        from,
                        bytes: line.len(),
                        at: row.at,
                        until: row.until,
                        answered: row.answer.is_some(),
                    };
                    if row.until <= now {
                        expired += 1;
                    } else {
                        sample.take(row.rank(header.seed), place, header);
                    }
                }
            }
            from += line.len();
        }
        Ok(Self {
            header: header.ok_or((1, Damage::Foreign))?,
            sample,
            bytes,
            whole,
            lines,
            until_first,
            expired,
        })
    }

    /// The row at a place.
    fn row(&self, place: &Place) -> Option<Row> {
        Row::of_line(&self.bytes[place.from..place.from + place.bytes]).ok()
    }

    /// The rows that are kept, lowest rank first.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let places = self.sample.places.values();
        places.filter_map(|place| self.row(place)).collect()
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Of whom the prompts are.
    pub adapter: String,
    /// In an order that says nothing of when they came.
    pub rows: Vec<Row>,
}

/// Read the prompts of one adapter. Rows whose time is over by `now` (units: seconds since 1970)
/// are none.
///
/// fails: the file cannot be read or is too large, or at its first damaged line
pub fn read(path: &Path, now: u64) -> Result<Contents, HarvestError> {
    let parsed = Parsed::read(path, now)?;
    Ok(Contents {
        rows: parsed.rows(),
        adapter: parsed.header.adapter,
    })
}

/// The path that a file is written under before it gets its name.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}
