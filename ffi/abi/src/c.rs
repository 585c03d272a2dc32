//! The structs of `include/translora.h`, field by field. What each field means is said there.
#![expect(
    missing_docs,
    reason = "the header documents every field, and a second text would drift from it"
)]

use std::ffi::{c_char, c_void};

pub const ABI_MAJOR: u32 = 1;
pub const ABI_MINOR: u32 = 1;
pub const TEXT_BYTES_MAX: u64 = 64 << 20;
pub const LOG_ERROR: i32 = 1;
pub const ECHO_1: &str = "translora.echo/1";
pub const INSPECT_1: &str = "translora.inspect/1";
pub const JOBS_1: &str = "translora.jobs/1";
pub const ADAPTERS_1: &str = "translora.adapters/1";
pub const HOTSWAP_1: &str = "translora.hotswap/1";

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    pub data: *const c_char,
    pub length: u64,
}

#[repr(C)]
pub struct OwnedText {
    pub struct_size: u32,
    pub reserved: u32,
    pub text: Text,
    pub release: unsafe extern "C" fn(*mut OwnedText),
}

#[repr(C)]
pub struct Error {
    pub struct_size: u32,
    pub status: i32,
    pub message: Text,
    pub hint: Text,
    pub release: unsafe extern "C" fn(*mut Error),
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Host {
    pub struct_size: u32,
    pub reserved: u32,
    pub context: *mut c_void,
    pub log: Option<unsafe extern "C" fn(*mut c_void, i32, Text)>,
    pub is_decode_thread: Option<IsDecodeThread>,
    pub adapter_load: Option<AdapterLoad>,
    pub adapter_set: Option<AdapterSet>,
    pub adapter_free: Option<AdapterFree>,
}

impl Host {
    /// The bytes of version 1.0: up to `log`.
    pub const SIZE_1_0: usize = std::mem::offset_of!(Self, is_decode_thread);

    /// Take back every function that lies, if only in part, behind the first `bytes`.
    pub(crate) fn forget_beyond(&mut self, bytes: usize) {
        macro_rules! forget {
            ($($field:ident),+) => {$(
                if std::mem::offset_of!(Self, $field) + size_of::<usize>() > bytes {
                    self.$field = None;
                }
            )+};
        }
        forget!(
            log,
            is_decode_thread,
            adapter_load,
            adapter_set,
            adapter_free
        );
        self.struct_size = bytes as u32;
    }

    /// A table that offers nothing.
    pub const fn empty() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved: 0,
            context: std::ptr::null_mut(),
            log: None,
            is_decode_thread: None,
            adapter_load: None,
            adapter_set: None,
            adapter_free: None,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Info {
    pub struct_size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub poisoned: i32,
    pub version: Text,
    pub engine: Text,
}

/// A handle: a number in a pointer's clothes, never dereferenced.
#[repr(C)]
pub struct Instance {
    _opaque: [u8; 0],
}

pub type IsDecodeThread = unsafe extern "C" fn(*mut c_void) -> i32;
pub type AdapterLoad = unsafe extern "C" fn(*mut c_void, Text, *mut u64) -> i32;
pub type AdapterSet = unsafe extern "C" fn(*mut c_void, Text, u64, u64) -> i32;
pub type AdapterFree = unsafe extern "C" fn(*mut c_void, u64) -> i32;
pub type Create = unsafe extern "C" fn(*const Host, *mut *mut Instance, *mut *mut Error) -> i32;
pub type Destroy = unsafe extern "C" fn(*mut Instance, *mut *mut Error) -> i32;
pub type InfoOf = unsafe extern "C" fn(*mut Instance, *mut Info, *mut *mut Error) -> i32;
pub type Capability = unsafe extern "C" fn(Text) -> *const c_void;
pub type EchoFail = unsafe extern "C" fn(*mut Instance, i32, Text, *mut *mut Error) -> i32;
pub type EchoPanic = unsafe extern "C" fn(*mut Instance, *mut *mut Error) -> i32;

#[repr(C)]
pub struct Entry {
    pub struct_size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub reserved: u32,
    pub create: Option<Create>,
    pub destroy: Option<Destroy>,
    pub info: Option<InfoOf>,
    pub capability: Option<Capability>,
}

#[repr(C)]
pub struct Echo1 {
    pub struct_size: u32,
    pub reserved: u32,
    pub echo: Option<TextToText>,
    pub fail: Option<EchoFail>,
    pub panic: Option<EchoPanic>,
}

#[repr(C)]
pub struct Inspect1 {
    pub struct_size: u32,
    pub reserved: u32,
    pub inspect: Option<TextToText>,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct JobProgress {
    pub struct_size: u32,
    pub state: i32,
    pub ahead: u32,
    pub process: u32,
    pub done: u64,
    pub total: u64,
    pub last_event: u64,
    pub stage: Text,
}

/// A call with a text that answers with nothing.
pub type TextCall = unsafe extern "C" fn(*mut Instance, Text, *mut *mut Error) -> i32;
/// A call with a text that answers with a text.
pub type TextToText =
    unsafe extern "C" fn(*mut Instance, Text, *mut *mut OwnedText, *mut *mut Error) -> i32;
/// A call with a text that answers with a number.
pub type TextToNumber = unsafe extern "C" fn(*mut Instance, Text, *mut u64, *mut *mut Error) -> i32;
/// A call with a number that answers with a number.
pub type NumberToNumber =
    unsafe extern "C" fn(*mut Instance, u64, *mut u64, *mut *mut Error) -> i32;
/// A call with a number that answers with nothing.
pub type NumberCall = unsafe extern "C" fn(*mut Instance, u64, *mut *mut Error) -> i32;
/// A call with a number that answers with a text.
pub type NumberToText =
    unsafe extern "C" fn(*mut Instance, u64, *mut *mut OwnedText, *mut *mut Error) -> i32;
/// A call that answers with a text.
pub type ToText = unsafe extern "C" fn(*mut Instance, *mut *mut OwnedText, *mut *mut Error) -> i32;
pub type JobPoll =
    unsafe extern "C" fn(*mut Instance, u64, *mut JobProgress, *mut *mut Error) -> i32;
pub type JobWait =
    unsafe extern "C" fn(*mut Instance, u64, u32, *mut JobProgress, *mut *mut Error) -> i32;
pub type JobEvents =
    unsafe extern "C" fn(*mut Instance, u64, u64, u32, *mut *mut OwnedText, *mut *mut Error) -> i32;
pub type SwapPrepare =
    unsafe extern "C" fn(*mut Instance, Text, Text, *mut u64, *mut *mut Error) -> i32;

#[repr(C)]
pub struct Jobs1 {
    pub struct_size: u32,
    pub reserved: u32,
    pub configure: Option<TextCall>,
    pub start: Option<TextToNumber>,
    pub poll: Option<JobPoll>,
    pub wait: Option<JobWait>,
    pub events: Option<JobEvents>,
    pub status: Option<NumberToText>,
    pub list: Option<ToText>,
    pub cancel: Option<NumberCall>,
    pub report: Option<NumberToText>,
    pub free: Option<NumberCall>,
}

#[repr(C)]
pub struct Adapters1 {
    pub struct_size: u32,
    pub reserved: u32,
    pub base: Option<TextCall>,
    pub check: Option<TextToText>,
    pub list: Option<ToText>,
}

#[repr(C)]
pub struct Hotswap1 {
    pub struct_size: u32,
    pub reserved: u32,
    pub prepare: Option<SwapPrepare>,
    pub commit: Option<NumberToNumber>,
    pub discard: Option<NumberCall>,
    pub rollback: Option<TextToNumber>,
    pub unload: Option<TextToNumber>,
}
