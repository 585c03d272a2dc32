//! What a careless host does, by name, and what it gets for it.
#![allow(unsafe_code, reason = "a host written in C has no safe code")]

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use translora_abi::{Status, c, entry};

mod mirror;

use mirror::{Mirror, create, destroy, echoed, failing, panicking, seen, text};

#[test]
fn an_honest_host_is_served() {
    let instance = create(null());
    assert_eq!(echoed(instance, text("grüezi")).unwrap(), "grüezi");
    assert_eq!(
        echoed(
            instance,
            c::Text {
                data: null(),
                length: 0
            }
        )
        .unwrap(),
        ""
    );
    assert_eq!(destroy(instance), 0);
}

#[test]
fn another_major_version_gets_nothing() {
    assert!(entry::<Mirror>(0).is_null());
    assert!(entry::<Mirror>(2).is_null());
    assert_eq!(entry::<Mirror>(1), entry::<Mirror>(1));
}

#[test]
fn an_unknown_capability_is_absent() {
    for id in [
        "translora.echo/2",
        "translora.hotswap/2",
        "",
        "translora.echo/1\0",
    ] {
        assert!(
            // SAFETY: the id is readable for the call.
            unsafe { seen().entry.capability.unwrap()(text(id)) }.is_null(),
            "{id:?}"
        );
    }
    assert!(
        // SAFETY: null with a length is refused before it is read.
        unsafe {
            seen().entry.capability.unwrap()(c::Text {
                data: null(),
                length: 3,
            })
        }
        .is_null()
    );
}

#[test]
fn double_destroy() {
    let instance = create(null());
    assert_eq!(destroy(instance), 0);
    assert_eq!(destroy(instance), Status::BadHandle as i32);
}

#[test]
fn call_after_destroy_and_handles_are_not_reused() {
    let first = create(null());
    destroy(first);
    let second = create(null());
    assert_ne!(first, second);
    assert_eq!(
        echoed(first, text("x")).unwrap_err().0,
        Status::BadHandle as i32
    );
    destroy(second);
}

#[test]
fn made_up_handles() {
    for number in [0_usize, 1 << 40, usize::MAX] {
        let handle = std::ptr::without_provenance_mut(number);
        assert_eq!(
            echoed(handle, text("x")).unwrap_err().0,
            Status::BadHandle as i32
        );
    }
}

#[test]
fn null_outputs() {
    // SAFETY: null outputs are refused before anything is written.
    let (status, said) =
        failing(|error| unsafe { seen().entry.create.unwrap()(null(), null_mut(), error) });
    assert_eq!((status, said.contains("out is null")), (1, true));
    let instance = create(null());
    // SAFETY: as above.
    let (status, _) = failing(|error| unsafe {
        seen().echo.echo.unwrap()(instance, text("x"), null_mut(), error)
    });
    assert_eq!(status, 1);
    // SAFETY: as above.
    let (status, _) =
        failing(|error| unsafe { seen().entry.info.unwrap()(instance, null_mut(), error) });
    assert_eq!(status, 1);
    assert_eq!(
        // SAFETY: an error pointer is optional.
        unsafe { seen().echo.echo.unwrap()(instance, text("x"), null_mut(), null_mut()) },
        1
    );
    destroy(instance);
}

#[test]
fn texts_that_are_none() {
    let instance = create(null());
    assert_eq!(
        echoed(
            instance,
            c::Text {
                data: null(),
                length: 5
            }
        )
        .unwrap_err()
        .0,
        1
    );
    let (status, said) = echoed(
        instance,
        c::Text {
            data: b"ab\xff".as_ptr().cast(),
            length: 3,
        },
    )
    .unwrap_err();
    assert_eq!((status, said.contains("not UTF-8 at byte 2")), (1, true));
    let (status, said) = echoed(
        instance,
        c::Text {
            data: b"ab".as_ptr().cast(),
            length: u64::MAX,
        },
    )
    .unwrap_err();
    assert_eq!((status, said.contains("the limit is")), (1, true));
    destroy(instance);
}

#[test]
fn structs_of_another_size() {
    let mut host = c::Host {
        struct_size: 8,
        ..c::Host::empty()
    };
    let mut instance = null_mut();
    // SAFETY: the table is whole; it only claims to be smaller.
    let (status, said) = failing(|error| unsafe {
        seen().entry.create.unwrap()(&raw const host, &raw mut instance, error)
    });
    assert_eq!(status, 1);
    assert!(said.contains("struct_size is 8"));
    assert!(instance.is_null());
    host.struct_size = size_of::<c::Host>() as u32 + 64;
    let instance = create(&raw const host);

    let mut info = c::Info {
        struct_size: 4,
        abi_major: 7,
        abi_minor: 7,
        poisoned: 7,
        version: text(""),
        engine: text(""),
    };
    // SAFETY: the struct is whole; it only claims to be smaller.
    let (status, _) =
        failing(|error| unsafe { seen().entry.info.unwrap()(instance, &raw mut info, error) });
    assert_eq!((status, info.abi_major), (1, 7));
    info.struct_size = size_of::<c::Info>() as u32;
    // SAFETY: the struct is whole.
    let (status, _) =
        failing(|error| unsafe { seen().entry.info.unwrap()(instance, &raw mut info, error) });
    assert_eq!(status, 0);
    assert_eq!(info.abi_major, 1);
    assert_eq!(info.poisoned, 0);
    assert_eq!(info.version.length, 5);
    destroy(instance);
}

#[test]
fn a_misaligned_output() {
    let instance = create(null());
    let mut room = [0_u8; 32];
    let out = room
        .as_mut_ptr()
        .wrapping_add(1)
        .cast::<*mut c::OwnedText>();
    let out = if out.is_aligned() {
        out.wrapping_byte_add(1)
    } else {
        out
    };
    // SAFETY: a misaligned output is refused before it is written.
    let (status, said) =
        failing(|error| unsafe { seen().echo.echo.unwrap()(instance, text("x"), out, error) });
    assert_eq!((status, said.contains("not aligned")), (1, true));
    destroy(instance);
}

#[test]
fn a_panic_poisons_its_instance_and_no_other() {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    unsafe extern "C" fn log(_: *mut c_void, level: i32, line: c::Text) {
        // SAFETY: the line is readable during the call.
        let bytes =
            unsafe { std::slice::from_raw_parts(line.data.cast::<u8>(), line.length as usize) };
        LINES
            .lock()
            .unwrap()
            .push(format!("{level} {}", String::from_utf8_lossy(bytes)));
    }
    let host = c::Host {
        log: Some(log),
        ..c::Host::empty()
    };
    let (bad, good) = (create(&raw const host), create(null()));
    let (status, said) = panicking(bad);
    assert_eq!(status, Status::Panicked as i32);
    assert!(said.contains("as translora.echo/1 promises"), "{said}");
    assert_eq!(
        echoed(bad, text("x")).unwrap_err().0,
        Status::Poisoned as i32
    );
    assert_eq!(panicking(bad).0, Status::Poisoned as i32);
    assert_eq!(echoed(good, text("x")).unwrap(), "x");
    let mut info = c::Info {
        struct_size: size_of::<c::Info>() as u32,
        abi_major: 0,
        abi_minor: 0,
        poisoned: 0,
        version: text(""),
        engine: text(""),
    };
    // SAFETY: the struct is whole.
    let (status, _) =
        failing(|error| unsafe { seen().entry.info.unwrap()(bad, &raw mut info, error) });
    assert_eq!((status, info.poisoned), (0, 1));
    assert_eq!(
        LINES.lock().unwrap().as_slice(),
        ["1 translora panicked: as translora.echo/1 promises"]
    );
    assert_eq!((destroy(bad), destroy(good)), (0, 0));
}

#[test]
fn failures_are_told_as_asked() {
    let instance = create(null());
    let fail = |status, message| {
        // SAFETY: the message is readable for the call.
        failing(|error| unsafe {
            seen().echo.fail.unwrap()(instance, status, text(message), error)
        })
    };
    for status in Status::ALL.into_iter().filter(|s| *s != Status::Panicked) {
        assert_eq!(
            fail(status as i32, "because"),
            (status as i32, "because|this failure was requested".into())
        );
    }
    for status in [0, 4, 13, 99, -1] {
        assert_eq!(fail(status, "because").0, Status::InvalidArgument as i32);
    }
    assert_eq!(
        echoed(instance, text("still alive")).unwrap(),
        "still alive"
    );
    destroy(instance);
}

#[test]
fn inspect_passes_the_plugins_words() {
    let instance = create(null());
    let mut out: *mut c::OwnedText = null_mut();
    // SAFETY: outputs are locals, the path is readable for the call.
    let failed = failing(|error| unsafe {
        seen().inspect.inspect.unwrap()(instance, text("missing"), &raw mut out, error)
    });
    assert_eq!(failed, (6, "missing: no such file|look elsewhere".into()));
    assert!(out.is_null());
    destroy(instance);
}

#[test]
fn destroy_while_others_call() {
    let instance = create(null()).addr();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for _ in 0..500 {
                    let handle = std::ptr::without_provenance_mut(instance);
                    match echoed(handle, text("hello")) {
                        Ok(said) => assert_eq!(said, "hello"),
                        Err((status, _)) => assert_eq!(status, Status::BadHandle as i32),
                    }
                }
            });
        }
        scope.spawn(move || assert_eq!(destroy(std::ptr::without_provenance_mut(instance)), 0));
    });
}
