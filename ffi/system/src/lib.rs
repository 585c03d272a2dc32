//! Calls of the operating system that no safe crate has.
#![allow(unsafe_code, reason = "this crate meets C")]

use std::io;

pub mod sandbox;

/// Let this thread, and those that it starts from now on, compute only while nothing else on this
/// machine wants the processor (`SCHED_IDLE`). Unlike the lowest niceness it is put aside at once
/// when another thread wakes.
///
/// fails: the system refuses, or is not Linux.
/// source: sched(7)
#[cfg(target_os = "linux")]
pub fn compute_when_idle() -> io::Result<()> {
    // SAFETY: numbers, of which all zeros are a value.
    let params: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the thread that calls; the parameters outlive the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const params) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// See sched(7), which other systems do not have.
///
/// fails: always.
#[cfg(not(target_os = "linux"))]
pub fn compute_when_idle() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Say why, before the system ends the process over a mapped file that was cut, or whose disk
/// failed (`SIGBUS`). Once in a process.
///
/// fails: the system refuses, or is not Linux
/// source: signal-safety(7)
#[cfg(target_os = "linux")]
pub fn say_why_on_bus_error() -> io::Result<()> {
    extern "C" fn say(_: libc::c_int) {
        const WHY: &[u8] =
            b"translora: a file that is mapped into memory was cut while it was in use, \
            or its disk failed (SIGBUS); hint: replace files by rename, never write over them, and \
            start again\n";
        // SAFETY: write(2) may be called in a handler; the text lives for ever. The signal's own
        // action is back, and ends the process when the access is repeated.
        unsafe { libc::write(2, WHY.as_ptr().cast(), WHY.len()) };
    }
    // SAFETY: numbers and pointers, of which all zeros are a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = say as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
    // SAFETY: the handler calls nothing but write(2), and the structure outlives the call.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// See sigaction(2), which other systems have otherwise.
///
/// fails: always.
#[cfg(not(target_os = "linux"))]
pub fn say_why_on_bus_error() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    /// The policy of the thread that calls, as the system tells it. source: proc(5), the 41st field
    fn policy() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(38)
            .unwrap()
            .parse()
            .unwrap()
    }

    #[test]
    fn a_thread_and_what_it_starts_give_way_to_all_others() {
        let seen = std::thread::spawn(|| {
            super::compute_when_idle().unwrap();
            (policy(), std::thread::spawn(policy).join().unwrap())
        });
        assert_eq!(seen.join().unwrap(), (libc::SCHED_IDLE, libc::SCHED_IDLE));
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
