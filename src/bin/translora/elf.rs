//! Reads from a program or library on disk what it wants to be linked with. 64-bit little-endian
//! ELF only.
//!
//! source: System V ABI, object files and dynamic linking

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// What a file says about its linking.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// Libraries it needs, by the name they go under.
    pub needed: Vec<String>,
    /// Folders it has them looked for in.
    pub folders: Vec<String>,
    /// It is put together by the dynamic linker when it starts.
    pub dynamic: bool,
}

impl Elf {
    /// Read the file's bytes; none where they are no such file, or a broken one.
    #[expect(clippy::too_many_lines, reason = "to be split")]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (start, size, count) = (
            word(bytes, 32, 8)?,
            word(bytes, 54, 2)?,
            word(bytes, 56, 2)?,
        );
        // Kind, offset in the file, address, size in the file.
        let header = |i: u64| {
            let at = start.checked_add(i.checked_mul(size)?)?;
            Some((
                word(bytes, at, 4)? as u32,
                word(bytes, at + 8, 8)?,
                word(bytes, at + 16, 8)?,
                word(bytes, at + 32, 8)?,
            ))
        };
        let headers = (0..count).map(header).collect::<Option<Vec<_>>>()?;
        let dynamic = headers.iter().any(|header| header.0 == PT_INTERP);
        let Some(table) = headers.iter().find(|header| header.0 == PT_DYNAMIC) else {
            return Some(Self {
                dynamic,
                ..Self::default()
            });
        };
        let entry = |i: u64| {
            Some((
                word(bytes, table.1.checked_add(i * 16)?, 8)?,
                word(bytes, table.1.checked_add(i * 16 + 8)?, 8)?,
            ))
        };
        let entries: Vec<(u64, u64)> = (0..table.3 / 16)
            .map_while(entry)
            .take_while(|entry| entry.0 != 0)
            .collect();
        let value = |tag: u64| {
            entries
                .iter()
                .find(|entry| entry.0 == tag)
                .map(|entry| entry.1)
        };
        let place = |address: u64| {
            let segment = headers
                .iter()
                .find(|h| h.0 == PT_LOAD && address >= h.2 && address - h.2 < h.3)?;
            Some(segment.1 + (address - segment.2))
        };
        let from = usize::try_from(place(value(DT_STRTAB)?)?).ok()?;
        let strings =
            bytes.get(from..from.checked_add(usize::try_from(value(DT_STRSZ)?).ok()?)?)?;
        let text = |at: u64| {
            let rest = strings.get(usize::try_from(at).ok()?..)?;
            Some(
                String::from_utf8_lossy(&rest[..rest.iter().position(|byte| *byte == 0)?])
                    .into_owned(),
            )
        };
        let texts = |tags: &[u64]| {
            entries
                .iter()
                .filter(|entry| tags.contains(&entry.0))
                .filter_map(|entry| text(entry.1))
                .collect::<Vec<_>>()
        };
        let folders = texts(&[DT_RPATH, DT_RUNPATH])
            .iter()
            .flat_map(|all| all.split(':'))
            .filter(|f| !f.is_empty())
            .map(str::to_owned)
            .collect();
        Some(Self {
            needed: texts(&[DT_NEEDED]),
            folders,
            dynamic,
        })
    }
}

/// A little-endian number of `size` bytes.
fn word(bytes: &[u8], at: u64, size: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_dynamic_and_needs_the_c_library() {
        let bytes = std::fs::read(std::env::current_exe().expect("a program")).expect("readable");
        let elf = Elf::parse(&bytes).expect("an ELF file");
        assert!(
            elf.dynamic && elf.needed.iter().any(|name| name.starts_with("libc.")),
            "{elf:?}"
        );
    }

    #[test]
    fn broken_files_are_no_files() {
        let bytes = std::fs::read(std::env::current_exe().expect("a program")).expect("readable");
        assert_eq!(Elf::parse(b""), None);
        assert_eq!(Elf::parse(b"#!/bin/sh\n"), None);
        for length in [6, 20, 64, 100, 400, 4096] {
            // No panic, whatever is left of it.
            _ = Elf::parse(&bytes[..length]);
        }
        let mut wild = bytes;
        wild[32..40].fill(0xff);
        assert_eq!(Elf::parse(&wild), None);
    }
}
