use std::mem::{offset_of, size_of};

use crate::c;
use crate::failure::Status;
use crate::plugin::JobState;

/// Describe the ABI as this crate has it: for every struct a line `name size` and lines `name.field
/// offset`, then the numbers.
///
/// A C program that includes the header prints the same lines; a test compares the two.
#[expect(clippy::too_many_lines, reason = "to be split")]
pub fn layout() -> String {
    let mut lines = String::new();
    macro_rules! describe {
        ($name:literal, $type:ty, $($field:ident),+) => {
            lines.push_str(&format!("{} {}\n", $name, size_of::<$type>()));
            $(lines.push_str(&format!("{}.{} {}\n", $name, stringify!($field), offset_of!($type, $field)));)+
        };
    }
    describe!("translora_text", c::Text, data, length);
    describe!(
        "translora_string",
        c::OwnedText,
        struct_size,
        reserved,
        text,
        release
    );
    describe!(
        "translora_error",
        c::Error,
        struct_size,
        status,
        message,
        hint,
        release
    );
    describe!(
        "translora_host",
        c::Host,
        struct_size,
        reserved,
        context,
        log,
        is_decode_thread,
        adapter_load,
        adapter_set,
        adapter_free
    );
    describe!(
        "translora_info",
        c::Info,
        struct_size,
        abi_major,
        abi_minor,
        poisoned,
        version,
        engine
    );
    describe!(
        "translora_entry",
        c::Entry,
        struct_size,
        abi_major,
        abi_minor,
        reserved,
        create,
        destroy,
        info,
        capability
    );
    describe!(
        "translora_echo_1",
        c::Echo1,
        struct_size,
        reserved,
        echo,
        fail,
        panic
    );
    describe!(
        "translora_inspect_1",
        c::Inspect1,
        struct_size,
        reserved,
        inspect
    );
    describe!(
        "translora_job_progress",
        c::JobProgress,
        struct_size,
        state,
        ahead,
        process,
        done,
        total,
        last_event,
        stage
    );
    describe!(
        "translora_jobs_1",
        c::Jobs1,
        struct_size,
        reserved,
        configure,
        start,
        poll,
        wait,
        events,
        status,
        list,
        cancel,
        report,
        free
    );
    describe!(
        "translora_adapters_1",
        c::Adapters1,
        struct_size,
        reserved,
        base,
        check,
        list
    );
    describe!(
        "translora_hotswap_1",
        c::Hotswap1,
        struct_size,
        reserved,
        prepare,
        commit,
        discard,
        rollback,
        unload
    );
    let statuses = Status::ALL.map(|status| (format!("{status:?}"), status as i64));
    let numbers = [
        ("ABI_MAJOR", i64::from(c::ABI_MAJOR)),
        ("ABI_MINOR", i64::from(c::ABI_MINOR)),
        ("LOG_ERROR", i64::from(c::LOG_ERROR)),
    ];
    let numbers = numbers.map(|(name, n)| (name.to_owned(), n));
    for (name, number) in numbers
        .into_iter()
        .chain([("TEXT_BYTES_MAX".into(), c::TEXT_BYTES_MAX as i64)])
        .chain(statuses)
    {
        lines.push_str(&format!("{name} {number}\n"));
    }
    for state in JobState::ALL {
        lines.push_str(&format!("Job{state:?} {}\n", state as i32));
    }
    lines
}

// The numbers of the first release on 64-bit machines. Growth at the end may raise a size, never
// move a field.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<c::Text>() == 16);
    assert!(size_of::<c::OwnedText>() == 32 && offset_of!(c::OwnedText, release) == 24);
    assert!(
        size_of::<c::Error>() == 48
            && offset_of!(c::Error, message) == 8
            && offset_of!(c::Error, release) == 40
    );
    assert!(c::Host::SIZE_1_0 == 24 && offset_of!(c::Host, log) == 16);
    assert!(
        size_of::<c::Info>() == 48
            && offset_of!(c::Info, version) == 16
            && offset_of!(c::Info, engine) == 32
    );
    assert!(
        size_of::<c::Entry>() == 48
            && offset_of!(c::Entry, create) == 16
            && offset_of!(c::Entry, capability) == 40
    );
    assert!(size_of::<c::Echo1>() == 32 && size_of::<c::Inspect1>() == 16);
    assert!(
        size_of::<c::Host>() == 56
            && offset_of!(c::Host, is_decode_thread) == 24
            && offset_of!(c::Host, adapter_free) == 48
    );
    assert!(size_of::<c::JobProgress>() == 56 && offset_of!(c::JobProgress, stage) == 40);
    assert!(
        size_of::<c::Jobs1>() == 88
            && size_of::<c::Adapters1>() == 32
            && size_of::<c::Hotswap1>() == 48
    );
};
