//! What a saved state carries with it: who computed it and what it holds. Behind a state in memory as a
//! trailer, beside a file as a file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::provenance::{Log, ComputedBy};

const MAGIC: u64 = u64::from_le_bytes(*b"trlrKV01");
/// Process mark, computed_by, length of the log, magic.
const TAIL_BYTES: usize = 32;
const UNKNOWN: u64 = u64::MAX;

/// The size of the trailer of a log.
pub fn trailer_bytes(log: &Log) -> usize {
    log.entries().len() * 8 + TAIL_BYTES
}

/// Write the trailer of a state. `mark` tells this process from others: adapter numbers mean
/// nothing elsewhere.
pub fn trailer(log: &Log, computed_by: ComputedBy, mark: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(trailer_bytes(log));
    for (position, token) in log.entries() {
        bytes.extend(position.to_le_bytes());
        bytes.extend(token.to_le_bytes());
    }
    let computed_by = match computed_by {
        ComputedBy::One(id) => u64::from(id),
        ComputedBy::Nobody | ComputedBy::Unknown => UNKNOWN,
    };
    for word in [mark, computed_by, log.entries().len() as u64, MAGIC] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// Read the trailer at the end of a state: its size, the log, the computed_by. None where there is none
/// of this process.
pub fn read_trailer(state: &[u8], mark: u64) -> Option<(usize, Log, ComputedBy)> {
    let tail = state.last_chunk::<TAIL_BYTES>()?;
    let word =
        |i: usize| u64::from_le_bytes(tail[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
    if word(3) != MAGIC || word(0) != mark {
        return None;
    }
    let count = usize::try_from(word(2)).ok()?;
    let size = count.checked_mul(8)?.checked_add(TAIL_BYTES)?;
    let entries = state
        .len()
        .checked_sub(size)
        .map(|from| &state[from..state.len() - TAIL_BYTES])?;
    let number = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let entries = entries
        .chunks_exact(8)
        .map(|entry| (number(&entry[..4]), number(&entry[4..])))
        .collect();
    let computed_by = if word(1) == UNKNOWN {
        ComputedBy::Unknown
    } else {
        ComputedBy::One(u32::try_from(word(1)).ok()?)
    };
    Some((size, Log::of(entries), computed_by))
}

/// Where the note about a slot file lies.
fn note(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".translora.json");
    name.into()
}

/// Size and time of the last change: what ties a note to its file.
fn stamp(file: &Path) -> Option<(u64, String)> {
    let metadata = file.metadata().ok()?;
    let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((metadata.len(), changed.as_nanos().to_string()))
}

/// Write the note about a slot file: the adapter by its content's hash, and the tokens.
pub fn write_note(file: &Path, adapter: &str, log: &Log) -> std::io::Result<()> {
    let (bytes, changed) =
        stamp(file).ok_or_else(|| std::io::Error::other("the slot file has no size and time"))?;
    let text = json!({"translora": 1, "adapter": adapter, "bytes": bytes, "changed": changed, "log": log.entries()}).to_string();
    let part = note(file).with_extension(format!("part-{}", std::process::id()));
    fs::File::create(&part)?.write_all(text.as_bytes())?;
    fs::rename(&part, note(file))
}

/// Read the note about a slot file: the adapter's hash and the tokens. None where it is missing,
/// broken, or about another file.
pub fn read_note(file: &Path) -> Option<(String, Log)> {
    let value: Value = serde_json::from_slice(&fs::read(note(file)).ok()?).ok()?;
    let (bytes, changed) = stamp(file)?;
    if value["translora"] != 1 || value["bytes"] != bytes || value["changed"] != changed.as_str() {
        return None;
    }
    let number = |value: &Value| value.as_i64().and_then(|n| i32::try_from(n).ok());
    let entry = |value: &Value| Some((number(&value[0])?, number(&value[1])?));
    let entries = value["log"]
        .as_array()?
        .iter()
        .map(entry)
        .collect::<Option<Vec<_>>>()?;
    Some((value["adapter"].as_str()?.to_owned(), Log::of(entries)))
}

/// The adapter that a note names, whether or not the file was written again since.
pub fn noted_adapter(file: &Path) -> Option<String> {
    let value: Value = serde_json::from_slice(&fs::read(note(file)).ok()?).ok()?;
    value["adapter"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_comes_back_and_strangers_have_none() {
        let log = Log::of(vec![(0, 5), (1, 6)]);
        let mut state = vec![9_u8; 100];
        state.extend(trailer(&log, ComputedBy::One(3), 77));
        assert_eq!(
            read_trailer(&state, 77),
            Some((trailer_bytes(&log), log, ComputedBy::One(3)))
        );
        assert_eq!(read_trailer(&state, 78), None);
        assert_eq!(read_trailer(&state[..99], 77), None);
        assert_eq!(read_trailer(&[], 77), None);
        let at = state.len() - 16;
        state[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(read_trailer(&state, 77), None);
    }

    #[test]
    fn a_note_belongs_to_one_state_of_its_file() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let file = folder.path().join("slot.bin");
        fs::write(&file, "state").expect("written");
        let log = Log::of(vec![(0, 5)]);
        write_note(&file, "abc", &log).expect("written");
        assert_eq!(read_note(&file), Some(("abc".into(), log)));
        fs::write(&file, "another state").expect("written");
        assert_eq!(read_note(&file), None);
assert_eq!(noted_adapter(&file), Some("abc".into()));
        fs::write(note(&file), "{").expect("written");
        assert_eq!(read_note(&file), None);
    }
}
