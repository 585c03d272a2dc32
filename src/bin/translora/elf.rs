//! Reads from a program or library on disk what it wants to be linked with. 64-bit ELF only.

use object::elf::{
    DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, Dyn64, FileHeader64, PT_INTERP,
    ProgramHeader64,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, StringTable};

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
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, bytes).ok()?;
        let dynamic = segments.iter().any(|s| s.p_type(endian) == PT_INTERP);
        let mut tables = segments
            .iter()
            .filter_map(|segment| segment.dynamic(endian, bytes).transpose());
        let Some(table) = tables.next() else {
            return Some(Self {
                dynamic,
                ..Self::default()
            });
        };
        let entries: Vec<&Dyn64<Endianness>> = table
            .ok()?
            .iter()
            .take_while(|entry| entry.tag(endian) != DT_NULL)
            .collect();
        let strings = strings(endian, bytes, segments, &entries)?;
        let texts = |tags: &[i64]| {
            let named = entries
                .iter()
                .filter(|entry| tags.contains(&entry.tag(endian)));
            named
                .map(|entry| entry.string(endian, strings).ok())
                .map(|text| Some(String::from_utf8_lossy(text?).into_owned()))
                .collect::<Option<Vec<String>>>()
        };
        Some(Self {
            needed: texts(&[DT_NEEDED])?,
            folders: texts(&[DT_RPATH, DT_RUNPATH])?
                .iter()
                .flat_map(|all| all.split(':'))
                .filter(|folder| !folder.is_empty())
                .map(str::to_owned)
                .collect(),
            dynamic,
        })
    }
}

/// The texts that the entries of a dynamic table name: where two of these entries say.
fn strings<'data>(
    endian: Endianness,
    bytes: &'data [u8],
    segments: &[ProgramHeader64<Endianness>],
    entries: &[&Dyn64<Endianness>],
) -> Option<StringTable<'data>> {
    let value = |tag: i64| {
        let entry = entries.iter().find(|entry| entry.tag(endian) == tag)?;
        Some(entry.val(endian))
    };
    let (address, size) = (value(DT_STRTAB)?, value(DT_STRSZ)?);
    let strings = segments
        .iter()
        .find_map(|segment| segment.data_range(endian, bytes, address, size).ok()?)?;
    Some(StringTable::new(strings, 0, strings.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("a program")).expect("readable")
    }

    #[test]
    fn this_program_is_dynamic_and_needs_the_c_library() {
        let elf = Elf::parse(&this_program()).expect("an ELF file");
        assert!(elf.dynamic, "{elf:?}");
        assert!(
            elf.needed.iter().any(|name| name.starts_with("libc.")),
            "{elf:?}"
        );
    }

    #[test]
    fn broken_files_are_no_files() {
        let bytes = this_program();
        assert_eq!(Elf::parse(b""), None);
        assert_eq!(Elf::parse(b"#!/bin/sh\n"), None);
        // Where the table of segments, or what it points to, is cut off.
        for length in [6, 20, 64, 100, 400, 4096] {
            assert_eq!(Elf::parse(&bytes[..length]), None, "{length} bytes");
        }
        let spoiled = |range: std::ops::Range<usize>, with: u8| {
            let mut wild = bytes.clone();
            wild[range].fill(with);
            Elf::parse(&wild)
        };
        // Another class, the place of the table of segments, the size of one.
        assert_eq!(spoiled(4..5, 1), None);
        assert_eq!(spoiled(32..40, 0xff), None);
        assert_eq!(spoiled(54..56, 0xff), None);
    }

    /// Whatever one byte of the headers is: an answer or none, and no panic.
    #[test]
    fn no_header_ends_the_program() {
        let mut bytes = this_program();
        for at in 0..1024 {
            let real = std::mem::replace(&mut bytes[at], 0xff);
            _ = Elf::parse(&bytes);
            bytes[at] = real;
        }
    }
}
