//! What is behind the entry.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Finding, Handle, Seen, Subject, blank, expect, status};
use crate::c;
use crate::failure::Status;
use crate::host::instance::text;
use crate::host::view;
use crate::plugin::JobState;

/// Look at a table where the plugin has it.
macro_rules! table {
    ($subject:expr, $type:ty, $id:expr) => {
        match $subject.table::<$type>($id)? {
            Some(table) => table,
            None => return Ok(Seen::Absent),
        }
    };
}

/// A function that a table must have.
macro_rules! has {
    ($table:expr, $name:ident) => {
        $table.$name.ok_or(concat!(stringify!($name), " is NULL"))?
    };
}

pub(super) fn tables(subject: &Subject) -> Finding {
    let capability = subject.entry().capability.ok_or("no capability")?;
    for id in [
        "",
        "translora.absent/1",
        "translora.echo/1 ",
        "translora.echo/1\0",
    ] {
        expect(
            &format!("the table of {id:?}"),
            // SAFETY: the id is readable during the call.
            unsafe { capability(view(id)) }.is_null(),
            true,
        )?;
    }
    expect(
        "the table of NULL",
        // SAFETY: a null text with a length is refused before it is read, by the header.
        unsafe {
            capability(c::Text {
                data: null(),
                length: 5,
            })
        }
        .is_null(),
        true,
    )?;
    let has = [
        (c::ECHO_1, subject.table::<c::Echo1>(c::ECHO_1)?.is_some()),
        (
            c::INSPECT_1,
            subject.table::<c::Inspect1>(c::INSPECT_1)?.is_some(),
        ),
        (c::JOBS_1, subject.table::<c::Jobs1>(c::JOBS_1)?.is_some()),
        (
            c::ADAPTERS_1,
            subject.table::<c::Adapters1>(c::ADAPTERS_1)?.is_some(),
        ),
        (
            c::HOTSWAP_1,
            subject.table::<c::Hotswap1>(c::HOTSWAP_1)?.is_some(),
        ),
    ];
    let there: Vec<&str> = has
        .iter()
        .filter(|(_, there)| *there)
        .map(|(id, _)| *id)
        .collect();
    Ok(Seen::Right(there.join(", ")))
}

pub(super) fn echo(subject: &Subject) -> Finding {
    let echo = has!(table!(subject, c::Echo1, c::ECHO_1), echo);
    let instance = subject.create(null())?;
    for said in ["", "hello", "grüezi \0 界", &"x".repeat(1 << 20)] {
        // SAFETY: the text is readable during the call; outputs are locals.
        let back = text(|out, error| unsafe { echo(instance, view(said), out, error) })
            .map_err(|failure| failure.message)?;
        expect(
            &format!("an echo of {} bytes", said.len()),
            back.as_str() == said,
            true,
        )?;
    }
    let bad = [
        (null(), 5),
        (c"\xff".as_ptr(), 1),
        (c"x".as_ptr(), u64::MAX),
        (c"x".as_ptr(), c::TEXT_BYTES_MAX + 1),
    ];
    for (data, length) in bad {
        let mut out = null_mut();
        // SAFETY: what is no text, or longer than the header allows, is refused before it is read.
        let answer = status(|error| unsafe {
            echo(instance, c::Text { data, length }, &raw mut out, error)
        })?;
        expect(
            &format!("an echo of what is no text, {length} bytes"),
            answer,
            Some(Status::InvalidArgument),
        )?;
        expect(
            "an output was written by a call that failed",
            out.is_null(),
            true,
        )?;
    }
    // SAFETY: a null output is refused before it is written.
    let answer = status(|error| unsafe { echo(instance, view("x"), null_mut(), error) })?;
    expect("an echo to nowhere", answer, Some(Status::InvalidArgument))?;
    expect("destroy", subject.destroy(instance)?, None)?;
    Ok(Seen::Right("up to 1 MiB".into()))
}

pub(super) fn errors(subject: &Subject) -> Finding {
    let fail = has!(table!(subject, c::Echo1, c::ECHO_1), fail);
    let instance = subject.create(null())?;
    for wanted in Status::ALL
        .into_iter()
        .filter(|wanted| *wanted != Status::Panicked)
    {
        // SAFETY: the message is readable during the call; the error is a local.
        let got = status(|error| unsafe { fail(instance, wanted as i32, view("because"), error) })?;
        expect("a failure that was requested", got, Some(wanted))?;
        // SAFETY: the header makes the error optional.
        let code = unsafe { fail(instance, wanted as i32, view("because"), null_mut()) };
        expect("the same without an error", code, wanted as i32)?;
    }
    expect("destroy", subject.destroy(instance)?, None)?;
    Ok(Seen::Right(format!("{} statuses", Status::ALL.len() - 1)))
}

pub(super) fn panic(subject: &Subject) -> Finding {
    let table = table!(subject, c::Echo1, c::ECHO_1);
    let (echo, panic) = (has!(table, echo), has!(table, panic));
    let (bad, good) = (subject.create(null())?, subject.create(null())?);
    let echoes = |instance| {
        // SAFETY: outputs are locals, the text is readable during the call.
        unsafe { text(|out, error| echo(instance, view("x"), out, error)) }
            .map_err(|failure| failure.status)
    };
    expect(
        "panic",
        // SAFETY: the error is a local.
        status(|error| unsafe { panic(bad, error) })?,
        Some(Status::Panicked),
    )?;
    expect("a call afterwards", echoes(bad), Err(Status::Poisoned))?;
    expect("a call on another instance", echoes(good).is_ok(), true)?;
    let mut info = blank(size_of::<c::Info>());
    expect(
        "info afterwards",
        (subject.info(bad, &raw mut info)?, info.poisoned),
        (None, 1),
    )?;
    expect(
        "destroy",
        (subject.destroy(bad)?, subject.destroy(good)?),
        (None, None),
    )?;
    Ok(Seen::Right("and the process goes on".into()))
}

static FROM_LOG: AtomicUsize = AtomicUsize::new(0);
static IN_LOG: AtomicI32 = AtomicI32::new(-1);

struct Nosy {
    subject: *const Subject,
}

unsafe extern "C" fn nosy_log(context: *mut c_void, _: i32, _: c::Text) {
    // SAFETY: the context of the table of `reentry`, which lives through its calls.
    let subject = unsafe { &*(*context.cast_const().cast::<Nosy>()).subject };
    let handle: Handle = std::ptr::without_provenance_mut(FROM_LOG.load(Ordering::Relaxed));
    let mut info = blank(size_of::<c::Info>());
    let Some(ask) = subject.entry().info else {
        return;
    };
    // SAFETY: the output is a whole local; the error is optional.
    IN_LOG.store(
        unsafe { ask(handle, &raw mut info, null_mut()) },
        Ordering::Relaxed,
    );
}

pub(super) fn reentry(subject: &Subject) -> Finding {
    let panic = has!(table!(subject, c::Echo1, c::ECHO_1), panic);
    let nosy = Nosy { subject };
    let host = c::Host {
        context: (&raw const nosy).cast_mut().cast(),
        log: Some(nosy_log),
        ..c::Host::empty()
    };
    let instance = subject.create(&raw const host)?;
    FROM_LOG.store(instance.addr(), Ordering::Relaxed);
    expect(
        "panic",
        // SAFETY: the error is a local.
        status(|error| unsafe { panic(instance, error) })?,
        Some(Status::Panicked),
    )?;
    let inside = IN_LOG.load(Ordering::Relaxed);
    expect("destroy", subject.destroy(instance)?, None)?;
    match inside {
        -1 => Err("a panic was not logged by the host".into()),
        code if code == Status::Reentered as i32 => Ok(Seen::Right(
            "logged, and the call from the log refused".into(),
        )),
        // Version 1.0 had no such status.
        code if subject.library.abi().1 == 0 => Ok(Seen::Right(format!(
            "logged, and the call from the log answered {code}"
        ))),
        code => Err(format!("info from inside the log was answered {code}")),
    }
}

pub(super) fn threads(subject: &Subject) -> Finding {
    let echo = has!(table!(subject, c::Echo1, c::ECHO_1), echo);
    let number = subject.create(null())?.addr();
    let handle = || -> Handle { std::ptr::without_provenance_mut(number) };
    let shout = || -> Result<(), String> {
        for _ in 0..500 {
            // SAFETY: the text is readable during the call; outputs are locals.
            match text(|out, error| unsafe { echo(handle(), view("hello"), out, error) }) {
                Ok(said) => expect("an echo", said.as_str(), "hello")?,
                Err(failure) => expect(
                    "an echo of an instance that may be gone",
                    failure.status,
                    Status::BadHandle,
                )?,
            }
        }
        Ok(())
    };
    let entry = subject.entry();
    std::thread::scope(|scope| {
        let shouting: Vec<_> = (0..4).map(|_| scope.spawn(shout)).collect();
        let destroy = entry.destroy.ok_or("no destroy")?;
        // SAFETY: the header lets an instance end while others call.
        expect("destroy", unsafe { destroy(handle(), null_mut()) }, 0)?;
        shouting
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    Ok(Seen::Right("four threads".into()))
}

/// A path that is not there.
const NOWHERE: &str = "no such folder/no such file.gguf";

pub(super) fn inspect(subject: &Subject) -> Finding {
    let inspect = has!(table!(subject, c::Inspect1, c::INSPECT_1), inspect);
    let instance = subject.create(null())?;
    let mut out = null_mut();
    // SAFETY: the path is readable during the call; outputs are locals.
    let answer = status(|error| unsafe { inspect(instance, view(NOWHERE), &raw mut out, error) })?;
    expect(
        "a file that is not there",
        (answer, out.is_null()),
        (Some(Status::Input), true),
    )?;
    expect("destroy", subject.destroy(instance)?, None)?;
    Ok(Seen::Right("refused".into()))
}

pub(super) fn jobs(subject: &Subject) -> Finding {
    table!(subject, c::Jobs1, c::JOBS_1);
    let instance = subject
        .library
        .create(None)
        .map_err(|failure| failure.message)?;
    let jobs = instance.jobs().map_err(|failure| failure.message)?;
    expect(
        "the list before any job",
        jobs.list().map_err(|failure| failure.status),
        Ok("[]".into()),
    )?;
    for bad in ["", "[]", "{", "{}", r#"{"no_such_flag": 1}"#] {
        expect(
            &format!("a request of {bad:?}"),
            jobs.start(bad).map_err(|failure| failure.status),
            Err(Status::Input),
        )?;
        if bad != "{}" {
            expect(
                &format!("a configuration of {bad:?}"),
                jobs.configure(bad).map_err(|failure| failure.status),
                Err(Status::Input),
            )?;
        }
    }
    for job in [0, 1, u64::MAX] {
        expect(
            &format!("poll of job {job}"),
            jobs.poll(job).map_err(|failure| failure.status),
            Err(Status::BadHandle),
        )?;
        expect(
            &format!("report of job {job}"),
            jobs.report(job).map_err(|failure| failure.status),
            Err(Status::BadHandle),
        )?;
        expect(
            &format!("cancel of job {job}"),
            jobs.cancel(job).map_err(|failure| failure.status),
            Err(Status::BadHandle),
        )?;
        expect(
            &format!("free of job {job}"),
            jobs.free(job).map_err(|failure| failure.status),
            Err(Status::BadHandle),
        )?;
    }
    Ok(Seen::Right("requests and numbers".into()))
}

pub(super) fn worker(subject: &Subject) -> Finding {
    table!(subject, c::Jobs1, c::JOBS_1);
    let instance = subject
        .library
        .create(None)
        .map_err(|failure| failure.message)?;
    let jobs = instance.jobs().map_err(|failure| failure.message)?;
    let files = ["source", "source_lora", "target", "seeds", "out"]
        .map(|name| format!("\"{name}\": \"{NOWHERE}\""));
    let request = format!("{{{}}}", files.join(", "));
    let worded = |failure: crate::Failure| format!("{}; {}", failure.message, failure.hint);
    let job = jobs.start(&request).map_err(worded)?;
    let ended = jobs.wait(job, Duration::from_secs(20)).map_err(worded)?;
    expect(
        "a job whose files are not there",
        ended.state,
        JobState::Failed,
    )?;
    let failure = jobs
        .report(job)
        .err()
        .ok_or("a job that failed has a report")?;
    expect(
        &format!("its failure ({})", failure.message),
        failure.status,
        Status::Input,
    )?;
    jobs.free(job).map_err(worded)?;
    expect(
        "poll of a job that was freed",
        jobs.poll(job).map_err(|failure| failure.status),
        Err(Status::BadHandle),
    )?;
    Ok(Seen::Right(format!(
        "it ran and said {:?}",
        failure.message
    )))
}

unsafe extern "C" fn never_decodes(_: *mut c_void) -> i32 {
    0
}

unsafe extern "C" fn no_load(_: *mut c_void, _: c::Text, _: *mut u64) -> i32 {
    Status::Machine as i32
}

unsafe extern "C" fn no_set(_: *mut c_void, _: c::Text, _: u64, _: u64) -> i32 {
    Status::Machine as i32
}

unsafe extern "C" fn no_free(_: *mut c_void, _: u64) -> i32 {
    Status::Machine as i32
}

pub(super) fn hotswap(subject: &Subject) -> Finding {
    let table = table!(subject, c::Hotswap1, c::HOTSWAP_1);
    let (prepare, commit, rollback) = (
        has!(table, prepare),
        has!(table, commit),
        has!(table, rollback),
    );
    let cannot = subject.create(null())?;
    let able = c::Host {
        adapter_load: Some(no_load),
        adapter_set: Some(no_set),
        adapter_free: Some(no_free),
        ..c::Host::empty()
    };
    let able = subject.create(&raw const able)?;
    let elsewhere = c::Host {
        is_decode_thread: Some(never_decodes),
        adapter_load: Some(no_load),
        adapter_set: Some(no_set),
        adapter_free: Some(no_free),
        ..c::Host::empty()
    };
    let elsewhere = subject.create(&raw const elsewhere)?;
    for (instance, wanted) in [
        (cannot, Status::Unsupported),
        (able, Status::BadHandle),
        (elsewhere, Status::WrongThread),
    ] {
        let mut out = 0;
        // SAFETY: outputs are locals.
        let answer = status(|error| unsafe { commit(instance, 12_345, &raw mut out, error) })?;
        expect(
            "commit of what was never prepared",
            (answer, out),
            (Some(wanted), 0),
        )?;
    }
    let mut out = 0;
    // SAFETY: texts are readable during the call; outputs are locals.
    let answer =
        status(|error| unsafe { prepare(able, view("name"), view(NOWHERE), &raw mut out, error) })?;
    expect(
        "prepare without a base",
        (answer, out),
        (Some(Status::NotNow), 0),
    )?;
    // SAFETY: as above.
    let answer = status(|error| unsafe { rollback(able, view("name"), &raw mut out, error) })?;
    expect(
        "rollback of what was never loaded",
        (answer, out),
        (Some(Status::Input), 0),
    )?;
    for instance in [cannot, able, elsewhere] {
        expect("destroy", subject.destroy(instance)?, None)?;
    }
    Ok(Seen::Right("refused with the reason".into()))
}
