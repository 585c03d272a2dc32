//! No function of any table is reached but through the gate: each one is called in every way that
//! the gate refuses.
#![allow(unsafe_code, reason = "a host written in C has no safe code")]
#![allow(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tables of cases are long"
)]

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::{Condvar, Mutex};

use translora_abi::{Status, c};

mod mirror;

use mirror::{JOB, create, destroy, failing, panicking, seen, text};

type Error = *mut *mut c::Error;

/// One function of a table, called with arguments that are in order but for the instance and the
/// output.
struct Function {
    name: &'static str,
    call: fn(*mut c::Instance, Outputs, Error) -> i32,
    /// It has an output.
    writes: bool,
    /// It belongs on the decode thread.
    decodes: bool,
    /// It also works on a poisoned instance.
    tolerant: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Outputs {
    There,
    Null,
}

impl Outputs {
    fn of<T>(self, place: &mut T) -> *mut T {
        if self == Self::There {
            &raw mut *place
        } else {
            null_mut()
        }
    }
}

/// Call with a text output, and release what came.
fn with_text(outputs: Outputs, call: impl FnOnce(*mut *mut c::OwnedText) -> i32) -> i32 {
    let mut out: *mut c::OwnedText = null_mut();
    let status = call(outputs.of(&mut out));
    assert_eq!(
        status == 0,
        !out.is_null(),
        "an output is written on success and only then"
    );
    if status == 0 {
        // SAFETY: the call succeeded, so `out` is a string to be released once.
        unsafe { ((*out).release)(out) };
    }
    status
}

fn with_number(outputs: Outputs, call: impl FnOnce(*mut u64) -> i32) -> i32 {
    let mut out = 0;
    let status = call(outputs.of(&mut out));
    assert_eq!(
        status == 0,
        out != 0,
        "an output is written on success and only then"
    );
    status
}

fn with_progress(outputs: Outputs, call: impl FnOnce(*mut c::JobProgress) -> i32) -> i32 {
    let struct_size = size_of::<c::JobProgress>() as u32;
    let mut out = c::JobProgress {
        struct_size,
        state: -1,
        ahead: 0,
        process: 0,
        done: 0,
        total: 0,
        last_event: 0,
        stage: text(""),
    };
    let status = call(outputs.of(&mut out));
    assert_eq!(
        status == 0,
        out.state != -1,
        "an output is written on success and only then"
    );
    status
}

fn with_info(outputs: Outputs, call: impl FnOnce(*mut c::Info) -> i32) -> i32 {
    let mut out = c::Info {
        struct_size: size_of::<c::Info>() as u32,
        abi_major: 0,
        abi_minor: 0,
        poisoned: 0,
        version: text(""),
        engine: text(""),
    };
    call(outputs.of(&mut out))
}

macro_rules! function {
    ($table:ident.$name:ident, $writes:expr, $decodes:expr, |$instance:ident, $out:ident, $error:ident, $f:ident| $body:expr) => {
        Function {
            name: concat!(stringify!($table), ".", stringify!($name)),
            // Arguments are texts and numbers that live through the call, outputs are locals, and a
            // handle may be any number.
            call: |$instance, $out, $error| {
                let $f = seen().$table.$name.expect("it is in the table");
                #[expect(clippy::undocumented_unsafe_blocks, reason = "said above")]
                unsafe {
                    $body
                }
            },
            writes: $writes,
            decodes: $decodes,
            tolerant: false,
        }
    };
}

/// Every function of every table that takes an instance, but destroy.
fn functions() -> Vec<Function> {
    vec![
        Function {
            tolerant: true,
            ..function!(entry.info, true, false, |i, o, e, f| with_info(o, |out| f(
                i, out, e
            )))
        },
        function!(echo.echo, true, false, |i, o, e, f| with_text(o, |out| f(
            i,
            text("x"),
            out,
            e
        ))),
        function!(echo.fail, false, false, |i, _o, e, f| f(
            i,
            Status::Machine as i32,
            text("x"),
            e
        )),
        function!(echo.panic, false, false, |i, _o, e, f| f(i, e)),
        function!(inspect.inspect, true, false, |i, o, e, f| with_text(
            o,
            |out| f(i, text("x"), out, e)
        )),
        function!(jobs.configure, false, false, |i, _o, e, f| f(
            i,
            text("{}"),
            e
        )),
        function!(jobs.start, true, false, |i, o, e, f| with_number(
            o,
            |out| f(i, text("{}"), out, e)
        )),
        function!(jobs.poll, true, false, |i, o, e, f| with_progress(
            o,
            |out| f(i, JOB, out, e)
        )),
        function!(jobs.wait, true, false, |i, o, e, f| with_progress(
            o,
            |out| f(i, JOB, 9, out, e)
        )),
        function!(jobs.events, true, false, |i, o, e, f| with_text(
            o,
            |out| f(i, JOB, 1, 2, out, e)
        )),
        function!(jobs.status, true, false, |i, o, e, f| with_text(
            o,
            |out| f(i, JOB, out, e)
        )),
        function!(jobs.list, true, false, |i, o, e, f| with_text(o, |out| f(
            i, out, e
        ))),
        function!(jobs.cancel, false, false, |i, _o, e, f| f(i, JOB, e)),
        function!(jobs.report, true, false, |i, o, e, f| with_text(
            o,
            |out| f(i, JOB, out, e)
        )),
        function!(jobs.free, false, false, |i, _o, e, f| f(i, JOB, e)),
        function!(adapters.base, false, false, |i, _o, e, f| f(
            i,
            text("x"),
            e
        )),
        function!(adapters.check, true, false, |i, o, e, f| with_text(
            o,
            |out| f(i, text("x"), out, e)
        )),
        function!(adapters.list, true, false, |i, o, e, f| with_text(
            o,
            |out| f(i, out, e)
        )),
        function!(hotswap.prepare, true, false, |i, o, e, f| with_number(
            o,
            |out| f(i, text("n"), text("x"), out, e)
        )),
        function!(hotswap.commit, true, true, |i, o, e, f| with_number(
            o,
            |out| f(i, JOB, out, e)
        )),
        function!(hotswap.discard, false, false, |i, _o, e, f| f(i, JOB, e)),
        function!(hotswap.rollback, true, true, |i, o, e, f| with_number(
            o,
            |out| f(i, text("n"), out, e)
        )),
        function!(hotswap.unload, true, true, |i, o, e, f| with_number(
            o,
            |out| f(i, text("n"), out, e)
        )),
    ]
}

thread_local! {
    /// What `is_decode_thread` answers here.
    static DECODES: Cell<bool> = const { Cell::new(true) };
    /// What the log of the host below does when it is called.
    static IN_LOG: Cell<Option<fn()>> = const { Cell::new(None) };
}

static INSTANCE: Mutex<usize> = Mutex::new(0);

unsafe extern "C" fn log(_: *mut c_void, _: i32, _: c::Text) {
    if let Some(act) = IN_LOG.take() {
        act();
    }
}

unsafe extern "C" fn is_decode_thread(_: *mut c_void) -> i32 {
    i32::from(DECODES.get())
}

unsafe extern "C" fn load(_: *mut c_void, _: c::Text, out: *mut u64) -> i32 {
    // SAFETY: the header's output is writable.
    unsafe { out.write(5) };
    0
}

unsafe extern "C" fn set(_: *mut c_void, _: c::Text, _: u64, _: u64) -> i32 {
    0
}

unsafe extern "C" fn free(_: *mut c_void, adapter: u64) -> i32 {
    i32::from(adapter != 5)
}

fn host() -> c::Host {
    c::Host {
        log: Some(log),
        is_decode_thread: Some(is_decode_thread),
        adapter_load: Some(load),
        adapter_set: Some(set),
        adapter_free: Some(free),
        ..c::Host::empty()
    }
}

fn instance() -> *mut c::Instance {
    let host = host();
    create(&raw const host)
}

/// The bytes of a table are its head and the functions above: none was forgotten.
#[test]
fn the_list_is_whole() {
    let s = seen();
    let head = [
        ("entry", s.entry.struct_size - 16),
        ("echo", s.echo.struct_size - 8),
        ("inspect", s.inspect.struct_size - 8),
    ];
    let more = [
        ("jobs", s.jobs.struct_size - 8),
        ("adapters", s.adapters.struct_size - 8),
        ("hotswap", s.hotswap.struct_size - 8),
    ];
    for (table, bytes) in head.into_iter().chain(more) {
        let listed = functions()
            .iter()
            .filter(|f| f.name.starts_with(&format!("{table}.")))
            .count();
        // create, destroy and capability take no living instance, and have tests of their own.
        let apart = if table == "entry" { 3 } else { 0 };
        assert_eq!(
            bytes as usize / size_of::<usize>(),
            listed + apart,
            "{table}"
        );
    }
}

#[test]
fn every_function_refuses_a_stale_instance() {
    let gone = instance();
    destroy(gone);
    for function in functions() {
        for handle in [
            gone,
            null_mut(),
            std::ptr::without_provenance_mut(usize::MAX),
        ] {
            let (status, said) = failing(|error| (function.call)(handle, Outputs::There, error));
            assert_eq!(
                status,
                Status::BadHandle as i32,
                "{}: {said}",
                function.name
            );
            assert_eq!(
                (function.call)(handle, Outputs::There, null_mut()),
                status,
                "{}: an error is optional",
                function.name
            );
        }
    }
}

#[test]
fn every_function_refuses_a_poisoned_instance() {
    let poisoned = instance();
    panicking(poisoned);
    for function in functions() {
        let (status, _) = failing(|error| (function.call)(poisoned, Outputs::There, error));
        assert_eq!(
            status,
            if function.tolerant {
                0
            } else {
                Status::Poisoned as i32
            },
            "{}",
            function.name
        );
    }
    assert_eq!(destroy(poisoned), 0);
}

#[test]
fn every_function_with_an_output_refuses_null() {
    let living = instance();
    for function in functions().iter().filter(|function| function.writes) {
        let (status, said) = failing(|error| (function.call)(living, Outputs::Null, error));
        assert_eq!(status, Status::InvalidArgument as i32, "{}", function.name);
        assert!(said.contains("null"), "{}: {said}", function.name);
    }
    destroy(living);
}

/// A panic inside calls the log, and the log calls everything.
#[test]
fn every_function_refuses_to_be_called_by_the_host_s_own_functions() {
    let living = instance();
    *INSTANCE.lock().unwrap() = living.addr();
    IN_LOG.set(Some(|| {
        let living = std::ptr::without_provenance_mut(*INSTANCE.lock().unwrap());
        for function in functions() {
            let (status, _) = failing(|error| (function.call)(living, Outputs::There, error));
            assert_eq!(status, Status::Reentered as i32, "{}", function.name);
        }
        assert_eq!(destroy(living), Status::Reentered as i32);
        let mut made = null_mut();
        assert_eq!(
            // SAFETY: the output is a local.
            unsafe { seen().entry.create.unwrap()(null(), &raw mut made, null_mut()) },
            Status::Reentered as i32
        );
        // SAFETY: the id is readable during the call.
        assert!(unsafe { seen().entry.capability.unwrap()(text(c::ECHO_1)) }.is_null());
    }));
    assert_eq!(panicking(living).0, Status::Panicked as i32);
    assert!(IN_LOG.take().is_none(), "the log was called");
    // Afterwards all is as before.
    let (status, _) = failing(|error| (functions()[0].call)(living, Outputs::There, error));
    assert_eq!((status, destroy(living)), (0, 0));
}

#[test]
fn calls_of_the_decode_thread_are_refused_elsewhere() {
    let living = instance();
    for function in functions().iter().filter(|function| function.decodes) {
        DECODES.set(false);
        let (status, _) = failing(|error| (function.call)(living, Outputs::There, error));
        assert_eq!(status, Status::WrongThread as i32, "{}", function.name);
        DECODES.set(true);
        let (status, said) = failing(|error| (function.call)(living, Outputs::There, error));
        assert_eq!(status, 0, "{}: {said}", function.name);
    }
    destroy(living);
}

/// Where the host is while it sets an adapter: inside, until it is let go.
static SETTING: (Mutex<u32>, Condvar) = (Mutex::new(0), Condvar::new());

unsafe extern "C" fn slow_set(_: *mut c_void, _: c::Text, _: u64, _: u64) -> i32 {
    let (step, moved) = &SETTING;
    // Once let go, it stays so.
    let mut now = step.lock().unwrap();
    *now = (*now).max(1);
    drop(now);
    moved.notify_all();
    drop(
        moved
            .wait_while(step.lock().unwrap(), |step| *step < 2)
            .unwrap(),
    );
    0
}

/// Also of a host that does not say which thread decodes: two exchanges at one time are never
/// right.
#[test]
fn two_calls_of_the_decode_thread_never_meet() {
    let slow = c::Host {
        adapter_set: Some(slow_set),
        is_decode_thread: None,
        ..host()
    };
    let number = create(&raw const slow).addr();
    let commit = || {
        let commit = functions()
            .into_iter()
            .find(|function| function.name == "hotswap.commit")
            .unwrap();
        failing(|error| {
            (commit.call)(
                std::ptr::without_provenance_mut(number),
                Outputs::There,
                error,
            )
        })
        .0
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(commit);
        let (step, moved) = &SETTING;
        drop(
            moved
                .wait_while(step.lock().unwrap(), |step| *step < 1)
                .unwrap(),
        );
        assert_eq!(commit(), Status::WrongThread as i32);
        *step.lock().unwrap() = 2;
        moved.notify_all();
        assert_eq!(first.join().unwrap(), 0);
    });
    assert_eq!(commit(), 0, "and afterwards it is free again");
    destroy(std::ptr::without_provenance_mut(number));
}

#[test]
fn a_host_that_cannot_swap_is_told_so() {
    let old = c::Host {
        struct_size: c::Host::SIZE_1_0 as u32,
        ..host()
    };
    let half = c::Host {
        adapter_set: None,
        ..host()
    };
    for (table, missing) in [
        (&raw const old, "adapter_load"),
        (&raw const half, "adapter_set"),
        (null(), "adapter_load"),
    ] {
        let living = create(table);
        let decoding =
            |function: &&Function| function.decodes || function.name == "hotswap.prepare";
        for function in functions().iter().filter(decoding) {
            let (status, said) = failing(|error| (function.call)(living, Outputs::There, error));
            assert_eq!(status, Status::Unsupported as i32, "{}", function.name);
            assert!(said.contains(missing), "{}: {said}", function.name);
        }
        destroy(living);
    }
}

/// A table that ends in the middle of a field has not got that field, nor what is behind it.
#[test]
fn a_table_may_end_anywhere_behind_its_first_version() {
    for size in c::Host::SIZE_1_0..size_of::<c::Host>() + 9 {
        // Only `size` bytes are there: a tool that watches memory would see a read beyond.
        let mut bytes = vec![0_u64; size.div_ceil(8)];
        let whole = c::Host {
            struct_size: size as u32,
            ..host()
        };
        // SAFETY: both sides have that many bytes; the copy is aligned as u64 is.
        unsafe {
            std::ptr::copy_nonoverlapping(
                (&raw const whole).cast::<u8>(),
                bytes.as_mut_ptr().cast(),
                size.min(size_of::<c::Host>()),
            );
        }
        let living = create(bytes.as_ptr().cast());
        let commit = functions()
            .into_iter()
            .find(|function| function.name == "hotswap.commit")
            .unwrap();
        let (status, _) = failing(|error| (commit.call)(living, Outputs::There, error));
        assert_eq!(status == 0, size >= size_of::<c::Host>(), "{size}");
        destroy(living);
    }
}

#[test]
fn a_struct_too_small_for_an_answer_is_refused_and_not_written() {
    let living = instance();
    for size in [0, 4, 55] {
        let mut out = c::JobProgress {
            struct_size: size,
            state: -9,
            ahead: 0,
            process: 0,
            done: 0,
            total: 0,
            last_event: 0,
            stage: text(""),
        };
        // SAFETY: the struct is whole; it only claims to be smaller.
        let (status, said) =
            failing(|error| unsafe { seen().jobs.poll.unwrap()(living, JOB, &raw mut out, error) });
        assert_eq!(status, Status::InvalidArgument as i32, "{said}");
        assert_eq!(out.state, -9, "{said}");
    }
    destroy(living);
}

/// The same from the source: every function with C's calling convention names the gate, or is one
/// of the few listed here.
#[test]
fn every_exported_body_names_the_gate() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/export");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for body in source.split("unsafe extern \"C\" fn ").skip(1) {
            let name = body.split(['(', '<']).next().unwrap();
            let end = body.find("\n}\n").unwrap();
            assert!(
                body[..end].contains("gate::enter") || body[..end].contains("gate::fenced"),
                "{name} goes past the gate"
            );
            seen += 1;
        }
    }
    // The functions above, and create, destroy and capability.
    assert_eq!(seen, functions().len() + 3);
}
