use std::mem::{offset_of, size_of};

use crate::c;
use crate::failure::Status;
use crate::plugin::JobState;

/// A struct of the header: its name there, its size, and each field with its offset.
type Struct = (&'static str, usize, Vec<(&'static str, usize)>);

macro_rules! structs {
    ($($name:literal $type:ident: $($field:ident)+;)+) => {
        fn structs() -> Vec<Struct> {
            vec![$((
                $name,
                size_of::<c::$type>(),
                vec![$((stringify!($field), offset_of!(c::$type, $field))),+],
            )),+]
        }
    };
}

structs! {
    "translora_text" Text: data length;
    "translora_string" OwnedText: struct_size reserved text release;
    "translora_error" Error: struct_size status message hint release;
    "translora_host" Host:
        struct_size reserved context log is_decode_thread adapter_load adapter_set adapter_free;
    "translora_info" Info: struct_size abi_major abi_minor poisoned version engine;
    "translora_entry" Entry:
        struct_size abi_major abi_minor reserved create destroy info capability;
    "translora_echo_1" Echo1: struct_size reserved echo fail panic;
    "translora_inspect_1" Inspect1: struct_size reserved inspect;
    "translora_job_progress" JobProgress:
        struct_size state ahead process done total last_event stage;
    "translora_jobs_1" Jobs1:
        struct_size reserved configure start poll wait events status list cancel report free;
    "translora_adapters_1" Adapters1: struct_size reserved base check list;
    "translora_hotswap_1" Hotswap1:
        struct_size reserved prepare commit discard rollback unload;
}

/// The numbers of the header that are no sizes.
fn numbers() -> Vec<(String, i64)> {
    let mut numbers = vec![
        ("ABI_MAJOR".to_owned(), i64::from(c::ABI_MAJOR)),
        ("ABI_MINOR".to_owned(), i64::from(c::ABI_MINOR)),
        ("LOG_ERROR".to_owned(), i64::from(c::LOG_ERROR)),
        ("TEXT_BYTES_MAX".to_owned(), c::TEXT_BYTES_MAX as i64),
    ];
    numbers.extend(Status::ALL.map(|status| (format!("{status:?}"), status as i64)));
    numbers.extend(JobState::ALL.map(|state| (format!("Job{state:?}"), state as i64)));
    numbers
}

/// Describe the ABI as this crate has it: for every struct a line `name size` and lines `name.field
/// offset`, then the numbers.
///
/// A C program that includes the header prints the same lines; a test compares the two.
///
/// ```
/// let layout = translora_abi::layout();
/// let mut lines = layout.lines();
/// if cfg!(target_pointer_width = "64") {
///     assert_eq!(lines.next(), Some("translora_text 16"));
///     assert_eq!(lines.next(), Some("translora_text.data 0"));
/// }
/// assert!(layout.contains("ABI_MAJOR 1"));
/// ```
pub fn layout() -> String {
    let mut lines = String::new();
    for (name, bytes, fields) in structs() {
        lines.push_str(&format!("{name} {bytes}\n"));
        for (field, offset) in fields {
            lines.push_str(&format!("{name}.{field} {offset}\n"));
        }
    }
    for (name, number) in numbers() {
        lines.push_str(&format!("{name} {number}\n"));
    }
    lines
}

// The numbers of the first release on 64-bit machines. Growth at the end may raise a size, never
// move a field.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<c::Text>() == 16);
    assert!(size_of::<c::OwnedText>() == 32 && offset_of!(c::OwnedText, release) == 24);
    assert!(size_of::<c::Error>() == 48);
    assert!(offset_of!(c::Error, message) == 8);
    assert!(offset_of!(c::Error, release) == 40);
    assert!(c::Host::SIZE_1_0 == 24 && offset_of!(c::Host, log) == 16);
    assert!(size_of::<c::Info>() == 48);
    assert!(offset_of!(c::Info, version) == 16);
    assert!(offset_of!(c::Info, engine) == 32);
    assert!(size_of::<c::Entry>() == 48);
    assert!(offset_of!(c::Entry, create) == 16);
    assert!(offset_of!(c::Entry, capability) == 40);
    assert!(size_of::<c::Echo1>() == 32 && size_of::<c::Inspect1>() == 16);
    assert!(size_of::<c::Host>() == 56);
    assert!(offset_of!(c::Host, is_decode_thread) == 24);
    assert!(offset_of!(c::Host, adapter_free) == 48);
    assert!(size_of::<c::JobProgress>() == 56 && offset_of!(c::JobProgress, stage) == 40);
    assert!(size_of::<c::Jobs1>() == 88);
    assert!(size_of::<c::Adapters1>() == 32);
    assert!(size_of::<c::Hotswap1>() == 48);
};
