//! The entry: loading, versions, instances, sizes.

use std::ptr::{null, null_mut};

use super::{Finding, Seen, Subject, blank, expect};
use crate::c;
use crate::failure::Status;
use crate::host::copied;

pub(super) fn load(subject: &Subject) -> Finding {
    let (major, minor) = subject.library.abi();
    Ok(Seen::Right(format!("version {major}.{minor}")))
}

pub(super) fn versions(subject: &Subject) -> Finding {
    // A second look at the same library.
    let again =
        crate::host::Library::open(subject.library.path()).map_err(|error| error.to_string())?;
    expect(
        "the entry of a second call",
        std::ptr::eq(again.entry, subject.entry()),
        true,
    )?;
    for other in [0, c::ABI_MAJOR + 1, u32::MAX] {
        expect(
            &format!("an entry for version {other}"),
            subject.library.speaks(other),
            false,
        )?;
    }
    Ok(Seen::Right(
        "0, the next and the last are not spoken".into(),
    ))
}

pub(super) fn life(subject: &Subject) -> Finding {
    let instance = subject.create(null())?;
    let mut info = blank(size_of::<c::Info>());
    expect("info", subject.info(instance, &raw mut info)?, None)?;
    expect("info.abi_major", info.abi_major, c::ABI_MAJOR)?;
    expect("info.poisoned", info.poisoned, 0)?;
    // SAFETY: the header's texts in this struct live as long as the library, which stays.
    let (version, engine) = unsafe { (copied(info.version), copied(info.engine)) };
    expect("an empty version", version.is_empty(), false)?;
    expect("destroy", subject.destroy(instance)?, None)?;
    Ok(Seen::Right(format!("{version}, engine {engine}")))
}

pub(super) fn stale(subject: &Subject) -> Finding {
    let gone = subject.create(null())?;
    expect("destroy", subject.destroy(gone)?, None)?;
    let other = subject.create(null())?;
    for handle in [
        gone,
        null_mut(),
        std::ptr::without_provenance_mut(usize::MAX),
        std::ptr::without_provenance_mut(64),
    ] {
        let mut info = blank(size_of::<c::Info>());
        expect(
            &format!("info of {handle:?}"),
            subject.info(handle, &raw mut info)?,
            Some(Status::BadHandle),
        )?;
        expect("info was written by a call that failed", info.abi_major, 77)?;
        expect(
            &format!("destroy of {handle:?}"),
            subject.destroy(handle)?,
            Some(Status::BadHandle),
        )?;
    }
    expect("destroy of another", subject.destroy(other)?, None)?;
    Ok(Seen::Right("destroyed, null and invented".into()))
}

pub(super) fn nulls(subject: &Subject) -> Finding {
    expect(
        "create without an output",
        subject.create_into(null(), null_mut())?,
        Some(Status::InvalidArgument),
    )?;
    let instance = subject.create(null())?;
    expect(
        "info without an output",
        subject.info(instance, null_mut())?,
        Some(Status::InvalidArgument),
    )?;
    let destroy = subject.entry().destroy.ok_or("no destroy")?;
    expect(
        "destroy without an error",
        // SAFETY: the header makes the error optional.
        unsafe { destroy(instance, null_mut()) },
        0,
    )?;
    expect(
        "destroy of nothing without an error",
        // SAFETY: as above.
        unsafe { destroy(null_mut(), null_mut()) },
        Status::BadHandle as i32,
    )?;
    Ok(Seen::Right("outputs and errors".into()))
}

pub(super) fn sizes(subject: &Subject) -> Finding {
    let mut instance = null_mut();
    // Longer than any version knows, and what is behind the known fields is not zero.
    let mut table = [0x5a5a_5a5a_5a5a_5a5a_u64; 32];
    let whole = c::Host::empty();
    // SAFETY: the room is larger than the table, and aligned as it is.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (&raw const whole).cast::<u64>(),
            table.as_mut_ptr(),
            size_of::<c::Host>() / 8,
        );
    };
    for (size, taken) in [
        (0, false),
        (4, false),
        (c::Host::SIZE_1_0 - 1, false),
        (c::Host::SIZE_1_0, true),
        (size_of_val(&table), true),
    ] {
        // SAFETY: the first field of the table is struct_size.
        unsafe { table.as_mut_ptr().cast::<u32>().write(size as u32) };
        let answer = subject.create_into(table.as_ptr().cast(), &raw mut instance)?;
        expect(
            &format!("create with a table of {size} bytes"),
            answer,
            (!taken).then_some(Status::InvalidArgument),
        )?;
        if taken {
            expect("destroy", subject.destroy(instance)?, None)?;
        }
    }
    instance = subject.create(null())?;
    for size in [0, 4, 16] {
        let mut info = blank(size);
        expect(
            &format!("info with {size} bytes"),
            subject.info(instance, &raw mut info)?,
            Some(Status::InvalidArgument),
        )?;
        expect("info was written by a call that failed", info.abi_major, 77)?;
    }
    expect("destroy", subject.destroy(instance)?, None)?;
    Ok(Seen::Right("tables of 0, 4, 23, 24 and 256 bytes".into()))
}
