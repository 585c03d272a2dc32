//! Keeps what llama.cpp writes to its log, so that an error can say why.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use llama_cpp_sys_2 as sys;

const LINES_MAX: usize = 256;

#[derive(Default)]
struct Log {
    lines: VecDeque<(u64, bool, String)>,
    next: u64,
    open: String,
    level: sys::ggml_log_level,
}

static LOG: Mutex<Option<Log>> = Mutex::new(None);
static INSTALL: Once = Once::new();

fn log() -> MutexGuard<'static, Option<Log>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn receive(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for the call; null was excluded
    // above.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut guard = log();
    let log = guard.get_or_insert_with(Log::default);
    if level != sys::GGML_LOG_LEVEL_CONT {
        log.level = level;
    }
    let bad = log.level == sys::GGML_LOG_LEVEL_ERROR || log.level == sys::GGML_LOG_LEVEL_WARN;
    log.open.push_str(&text);
    while let Some(end) = log.open.find('\n') {
        let line: String = log.open.drain(..=end).collect();
        let line = line.trim();
        if !line.is_empty() {
            if log.lines.len() == LINES_MAX {
                log.lines.pop_front();
            }
            let number = log.next;
            log.next += 1;
            log.lines.push_back((number, bad, line.to_owned()));
        }
    }
}

pub(crate) fn install() {
    // SAFETY: `receive` lives for the whole program and needs no user data.
    INSTALL.call_once(|| unsafe { sys::llama_log_set(Some(receive), std::ptr::null_mut()) });
}

/// Marks the log's end, so that a later `since` tells what was said in between.
pub(crate) fn mark() -> u64 {
    log().as_ref().map_or(0, |log| log.next)
}

/// The warnings and errors since `mark`, or the last lines of any kind, or `fallback`.
pub(crate) fn since(mark: u64, fallback: &str) -> String {
    let guard = log();
    let lines: Vec<&(u64, bool, String)> = guard
        .iter()
        .flat_map(|log| &log.lines)
        .filter(|line| line.0 >= mark)
        .collect();
    let mut said: Vec<&str> = Vec::new();
    for line in lines.iter().filter(|line| line.1) {
        // `llama_model_load: error loading model: …`: the function's name helps nobody.
        let text = line
            .2
            .split_once(": ")
            .map_or(line.2.as_str(), |(head, rest)| {
                if head.contains(' ') { &line.2 } else { rest }
            });
        if !said.contains(&text) {
            said.push(text);
        }
    }
    if said.is_empty() {
        fallback.to_owned()
    } else {
        said.join("; ")
    }
}

/// A buffer for the reason of a C++ exception.
pub(crate) struct Reason([c_char; 512]);

impl Reason {
    pub(crate) fn new() -> Self {
        Self([0; 512])
    }

    pub(crate) fn pointer(&mut self) -> (*mut c_char, usize) {
        (self.0.as_mut_ptr(), self.0.len())
    }

    /// The exception's text if there was one, else what the log said since `mark`.
    pub(crate) fn or_log(&self, mark: u64, fallback: &str) -> String {
        let bytes: Vec<u8> = self
            .0
            .iter()
            .take_while(|c| **c != 0)
            .map(|c| c.cast_unsigned())
            .collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.is_empty() {
            since(mark, fallback)
        } else {
            text
        }
    }
}
