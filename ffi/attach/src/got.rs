//! The places where a loaded library keeps the addresses of functions of others, and how one is
//! exchanged.
//!
//! source: System V ABI, dynamic linking; `dl_iterate_phdr(3)`

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use libc::{dl_phdr_info, size_t};

use crate::error::AttachError;

/// Relocations that fill in the address of one function: GLOB_DAT and JUMP_SLOT.
#[cfg(target_arch = "x86_64")]
const ADDRESS_KINDS: [u32; 2] = [6, 7];
#[cfg(target_arch = "aarch64")]
const ADDRESS_KINDS: [u32; 2] = [1025, 1026];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ADDRESS_KINDS: [u32; 2] = [u32::MAX, u32::MAX];

const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;

#[repr(C)]
struct Dynamic {
    tag: i64,
    value: u64,
}

#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    addend: i64,
}

#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

/// One address that a library keeps of a function of another.
#[derive(Debug)]
pub struct Slot {
    /// The function's name.
    pub symbol: String,
    address: usize,
    /// The linker took the right to write away after it filled the slot in.
    sealed: bool,
}

/// A library or program in this process.
#[derive(Debug)]
pub struct Object {
    /// Its path; empty for the program.
    pub name: String,
    /// Where it lies.
    pub base: usize,
    /// The functions it takes from others, among those that are wanted.
    pub slots: Vec<Slot>,
}

impl Object {
    /// True if it takes a function of this name.
    pub fn takes(&self, symbol: &str) -> bool {
        self.slots.iter().any(|slot| slot.symbol == symbol)
    }
}

struct Walk<'a> {
    wanted: &'a dyn Fn(&str) -> bool,
    found: Vec<Object>,
}

/// Every object of this process, with its slots for functions whose name is `wanted`.
pub fn objects(wanted: &dyn Fn(&str) -> bool) -> Vec<Object> {
    let mut walk = Walk {
        wanted,
        found: Vec::new(),
    };
    // SAFETY: the callback gets the pointer back during this call only, and `walk` outlives it.
    unsafe { libc::dl_iterate_phdr(Some(visit), ptr::from_mut(&mut walk).cast()) };
    walk.found
}

unsafe extern "C" fn visit(info: *mut dl_phdr_info, _: size_t, walk: *mut c_void) -> c_int {
    // SAFETY: both pointers are valid during the call: one is the linker's, the other comes from
    // `objects`.
    let (info, walk) = unsafe { (&*info, &mut *walk.cast::<Walk<'_>>()) };
    // SAFETY: the linker keeps a terminated name for every object.
    let name = unsafe { CStr::from_ptr(info.dlpi_name) }
        .to_string_lossy()
        .into_owned();
    let base = info.dlpi_addr as usize;
    // The kernel's own page has no relocations, and its tables may be unmapped parts.
    let slots = if name.contains("linux-vdso") {
        Vec::new()
    } else {
        slots_of(info, base, walk.wanted)
    };
    walk.found.push(Object { name, base, slots });
    0
}

fn slots_of(info: &dl_phdr_info, base: usize, wanted: &dyn Fn(&str) -> bool) -> Vec<Slot> {
    // SAFETY: the linker passes `dlpi_phnum` headers.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let Some(dynamic) = headers
        .iter()
        .find(|header| header.p_type == libc::PT_DYNAMIC)
    else {
        return Vec::new();
    };
    let sealed: Vec<_> = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_GNU_RELRO)
        .collect();
    let is_sealed = |address: usize| {
        sealed.iter().any(|header| {
            (header.p_vaddr..header.p_vaddr + header.p_memsz).contains(&((address - base) as u64))
        })
    };
    let table = (base + dynamic.p_vaddr as usize) as *const Dynamic;
    let entry = |tag: i64| {
        // SAFETY: the table of a loaded object is mapped and ends with an entry of tag 0.
        let entries = (0..)
            .map(|i| unsafe { &*table.add(i) })
            .take_while(|entry| entry.tag != 0);
        entries
            .filter(|entry| entry.tag == tag)
            .map(|entry| entry.value as usize)
            .next()
    };
    // glibc turns these into addresses, other linkers leave offsets.
    let place = |tag: i64| entry(tag).map(|value| if value < base { base + value } else { value });
    let (Some(symbols), Some(strings)) = (place(DT_SYMTAB), place(DT_STRTAB)) else {
        return Vec::new();
    };
    let mut slots = Vec::new();
    for (start, bytes) in [
        (place(DT_JMPREL), entry(DT_PLTRELSZ)),
        (place(DT_RELA), entry(DT_RELASZ)),
    ] {
        let (Some(start), Some(bytes)) = (start, bytes) else {
            continue;
        };
        for i in 0..bytes / size_of::<Relocation>() {
            // SAFETY: the object says that it has that many relocations there; it was relocated by
            // them.
            let relocation = unsafe { &*(start as *const Relocation).add(i) };
            if !ADDRESS_KINDS.contains(&(relocation.info as u32)) {
                continue;
            }
            // SAFETY: the linker looked this symbol up by the same two tables.
            let name = unsafe {
                let symbol = &*(symbols as *const Symbol).add((relocation.info >> 32) as usize);
                CStr::from_ptr((strings as *const libc::c_char).add(symbol.name as usize))
            };
            let name = name.to_string_lossy();
            if wanted(&name) {
                let address = base + relocation.offset as usize;
                slots.push(Slot {
                    symbol: name.into_owned(),
                    address,
                    sealed: is_sealed(address),
                });
            }
        }
    }
    slots
}

/// Let the owner of `slot` call `function` from now on.
///
/// # Safety
/// `function` has the type of the function it takes the place of, and is never unloaded. No thread
/// of the process is inside a lookup that fills the same slot in (the objects of `objects` are
/// relocated when they are listed).
pub unsafe fn exchange(slot: &Slot, function: usize) -> Result<(), AttachError> {
    // SAFETY: reads a number.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let page = (slot.address & !(page_bytes - 1)) as *mut c_void;
    // SAFETY: the page holds the slot of a loaded object, and stays readable throughout.
    if unsafe { libc::mprotect(page, page_bytes, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return Err(AttachError::Exchange {
            symbol: slot.symbol.clone(),
            source: std::io::Error::last_os_error(),
        });
    }
    // SAFETY: an aligned word of a table of addresses, writable since the call above; readers in
    // other threads see the old or the new one.
    unsafe {
        (*(slot.address as *const std::sync::atomic::AtomicUsize))
            .store(function, std::sync::atomic::Ordering::Release);
    };
    if slot.sealed {
        // SAFETY: as it was before.
        unsafe { libc::mprotect(page, page_bytes, libc::PROT_READ) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This very test program takes `getppid` from the C library: exchange it for a function of our
    /// own, and back.
    #[test]
    fn a_function_is_exchanged_and_put_back() {
        unsafe extern "C" fn mine() -> libc::pid_t {
            -42
        }
        // SAFETY: reads a number.
        let real = unsafe { libc::getppid() };
        let found = objects(&|name| name == "getppid");
        let slots: Vec<&Slot> = found
            .iter()
            .filter(|object| object.name.is_empty())
            .flat_map(|object| &object.slots)
            .collect();
        assert!(!slots.is_empty(), "{found:?}");
        let before: Vec<usize> = slots.iter().map(|slot| slot.address).collect();
        // SAFETY: the addresses are slots of this program.
        let before: Vec<usize> = before
            .iter()
            .map(|address| unsafe { *(*address as *const usize) })
            .collect();
        for slot in &slots {
            // SAFETY: the same type, and a function of this program.
            unsafe { exchange(slot, mine as *const () as usize) }.expect("exchanged");
        }
        // SAFETY: reads a number.
        assert_eq!(unsafe { libc::getppid() }, -42);
        for (slot, before) in slots.iter().zip(before) {
            // SAFETY: what stood there before.
            unsafe { exchange(slot, before) }.expect("put back");
        }
        // SAFETY: reads a number.
        assert_eq!(unsafe { libc::getppid() }, real);
    }
}
