//! The structs of `include/translora.h`, field by field. The header is the law: what a call
//! promises, and on which threads, is said there.

use std::ffi::{c_char, c_void};

/// The major version of the ABI.
pub const ABI_MAJOR: u32 = 1;
/// The minor version: capabilities and fields at the end of structs.
pub const ABI_MINOR: u32 = 1;
/// The most bytes that a text argument may have.
pub const TEXT_BYTES_MAX: u64 = 64 << 20;
/// The level of a log line about an error.
pub const LOG_ERROR: i32 = 1;
/// The id of [`Echo1`].
pub const ECHO_1: &str = "translora.echo/1";
/// The id of [`Inspect1`].
pub const INSPECT_1: &str = "translora.inspect/1";
/// The id of [`Jobs1`].
pub const JOBS_1: &str = "translora.jobs/1";
/// The id of [`Adapters1`].
pub const ADAPTERS_1: &str = "translora.adapters/1";
/// The id of [`Hotswap1`].
pub const HOTSWAP_1: &str = "translora.hotswap/1";

/// A borrowed text: UTF-8, without a terminating zero. Mirror of `translora_text`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    /// Its bytes; may be null where there are none.
    pub data: *const c_char,
    /// units: bytes
    pub length: u64,
}

/// A text of the library, for the caller to release once. Mirror of `translora_string`.
#[repr(C)]
pub struct OwnedText {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// What it says.
    pub text: Text,
    /// Frees it; called once, with its own address.
    pub release: unsafe extern "C" fn(*mut OwnedText),
}

/// Why a call failed, for the caller to release once. Mirror of `translora_error`.
#[repr(C)]
pub struct Error {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// The code that the call returned: [`crate::Status`].
    pub status: i32,
    /// What was wrong, and where.
    pub message: Text,
    /// What to do about it; may be empty.
    pub hint: Text,
    /// Frees it; called once, with its own address.
    pub release: unsafe extern "C" fn(*mut Error),
}

/// What a host offers. Mirror of `translora_host`. A shorter table is as good: what it lacks is
/// null.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Host {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Passed back to every function of the table.
    pub context: *mut c_void,
    /// Takes a line for the log: level, text.
    pub log: Option<unsafe extern "C" fn(*mut c_void, i32, Text)>,
    /// Returns 1 on the thread that decodes. Since 1.1.
    pub is_decode_thread: Option<IsDecodeThread>,
    /// Loads a LoRA file onto the model that is served; its number, never 0. Since 1.1.
    pub adapter_load: Option<AdapterLoad>,
    /// Lets a name answer with an adapter, or with the bare base where it is 0: name, adapter,
    /// generation. Since 1.1.
    pub adapter_set: Option<AdapterSet>,
    /// Frees an adapter that no name is set to. Since 1.1.
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

/// What the library and an instance are. Mirror of `translora_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Info {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// The major version of the ABI.
    pub abi_major: u32,
    /// The minor version of the ABI.
    pub abi_minor: u32,
    /// 1 after a call on the instance panicked, else 0.
    pub poisoned: i32,
    /// The library's own version.
    pub version: Text,
    /// `ggml`, or `toy` in a build without llama.cpp.
    pub engine: Text,
}

/// A handle: a number in a pointer's clothes, never dereferenced.
#[repr(C)]
pub struct Instance {
    _opaque: [u8; 0],
}

/// The type of [`Host::is_decode_thread`].
pub type IsDecodeThread = unsafe extern "C" fn(*mut c_void) -> i32;
/// The type of [`Host::adapter_load`].
pub type AdapterLoad = unsafe extern "C" fn(*mut c_void, Text, *mut u64) -> i32;
/// The type of [`Host::adapter_set`].
pub type AdapterSet = unsafe extern "C" fn(*mut c_void, Text, u64, u64) -> i32;
/// The type of [`Host::adapter_free`].
pub type AdapterFree = unsafe extern "C" fn(*mut c_void, u64) -> i32;
/// The type of [`Entry::create`].
pub type Create = unsafe extern "C" fn(*const Host, *mut *mut Instance, *mut *mut Error) -> i32;
/// The type of [`Entry::destroy`].
pub type Destroy = unsafe extern "C" fn(*mut Instance, *mut *mut Error) -> i32;
/// The type of [`Entry::info`].
pub type InfoOf = unsafe extern "C" fn(*mut Instance, *mut Info, *mut *mut Error) -> i32;
/// The type of [`Entry::capability`].
pub type Capability = unsafe extern "C" fn(Text) -> *const c_void;
/// The type of [`Echo1::fail`].
pub type EchoFail = unsafe extern "C" fn(*mut Instance, i32, Text, *mut *mut Error) -> i32;
/// The type of [`Echo1::panic`].
pub type EchoPanic = unsafe extern "C" fn(*mut Instance, *mut *mut Error) -> i32;

/// What the exported function returns. Mirror of `translora_entry`.
#[repr(C)]
pub struct Entry {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// The major version of the ABI.
    pub abi_major: u32,
    /// The minor version of the ABI.
    pub abi_minor: u32,
    /// 0.
    pub reserved: u32,
    /// Creates an instance for a host, which may be null.
    pub create: Option<Create>,
    /// Ends an instance, and cancels its jobs.
    pub destroy: Option<Destroy>,
    /// Says what the library and the instance are.
    pub info: Option<InfoOf>,
    /// Returns the table of a capability by its id, or null.
    pub capability: Option<Capability>,
}

/// `translora.echo/1`: a mirror for testing hosts.
#[repr(C)]
pub struct Echo1 {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Returns its text.
    pub echo: Option<TextToText>,
    /// Fails with this status and message.
    pub fail: Option<EchoFail>,
    /// Panics, so that the instance is poisoned.
    pub panic: Option<EchoPanic>,
}

/// `translora.inspect/1`: what a file is.
#[repr(C)]
pub struct Inspect1 {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Describes an adapter, kit or model file as JSON.
    pub inspect: Option<TextToText>,
}

/// How far a job is. Mirror of `translora_job_progress`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct JobProgress {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// [`crate::JobState`] as a number.
    pub state: i32,
    /// Jobs that come before it.
    pub ahead: u32,
    /// The process id of its worker, or 0.
    pub process: u32,
    /// Of `total`, in this stage.
    pub done: u64,
    /// 0 where it is not known.
    pub total: u64,
    /// The number of its newest event; 0 before the first.
    pub last_event: u64,
    /// The name of the stage; lives as long as the library.
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
/// The type of [`Jobs1::poll`].
pub type JobPoll =
    unsafe extern "C" fn(*mut Instance, u64, *mut JobProgress, *mut *mut Error) -> i32;
/// The type of [`Jobs1::wait`].
pub type JobWait =
    unsafe extern "C" fn(*mut Instance, u64, u32, *mut JobProgress, *mut *mut Error) -> i32;
/// The type of [`Jobs1::events`].
pub type JobEvents =
    unsafe extern "C" fn(*mut Instance, u64, u64, u32, *mut *mut OwnedText, *mut *mut Error) -> i32;
/// The type of [`Hotswap1::prepare`].
pub type SwapPrepare =
    unsafe extern "C" fn(*mut Instance, Text, Text, *mut u64, *mut *mut Error) -> i32;

/// `translora.jobs/1`: transfers beside the work of the host.
#[repr(C)]
pub struct Jobs1 {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Says how jobs run, while none is known: JSON.
    pub configure: Option<TextCall>,
    /// Queues a transfer, which is described in JSON; its number.
    pub start: Option<TextToNumber>,
    /// How far a job is.
    pub poll: Option<JobPoll>,
    /// Waits for the end of a job, but no longer than these milliseconds.
    pub wait: Option<JobWait>,
    /// The events behind a number, as JSON; waits for one, but no longer than these milliseconds.
    pub events: Option<JobEvents>,
    /// All that is known of a job, as JSON.
    pub status: Option<NumberToText>,
    /// All that is known of every job, as JSON.
    pub list: Option<ToText>,
    /// Stops a job; its journal is kept.
    pub cancel: Option<NumberCall>,
    /// The report of a job that is done, as JSON.
    pub report: Option<NumberToText>,
    /// Forgets a job.
    pub free: Option<NumberCall>,
}

/// `translora.adapters/1`: what fits the model that is served.
#[repr(C)]
pub struct Adapters1 {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Names the file of the base model.
    pub base: Option<TextCall>,
    /// Checks that an adapter fits the base, and describes it as JSON.
    pub check: Option<TextToText>,
    /// What each name answers with, as JSON.
    pub list: Option<ToText>,
}

/// `translora.hotswap/1`: exchange of adapters while the host serves.
#[repr(C)]
pub struct Hotswap1 {
    /// The bytes that its maker knows.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Reads and checks an adapter for a name: name, file; the number of the swap.
    pub prepare: Option<SwapPrepare>,
    /// Loads a prepared adapter and lets its name answer with it; the generation.
    pub commit: Option<NumberToNumber>,
    /// Gives a prepared swap up.
    pub discard: Option<NumberCall>,
    /// Lets a name answer with what it had before; the generation.
    pub rollback: Option<TextToNumber>,
    /// Lets a name answer with the bare base; the generation.
    pub unload: Option<TextToNumber>,
}
