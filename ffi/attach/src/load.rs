//! How the library comes into a server: as a backend without devices, or before everything else.
//! Both lead to [`attach`].

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::batch::Batches;
use crate::error::AttachError;
use crate::got::{self, Object};
use crate::hooks::{self, Callers};
use crate::server;
use crate::log::say;
use crate::real::Real;

/// The versions of llama.cpp whose private behaviour the hooks were checked against, by the start
/// of `llama_version()`. Older ones do not have this function.
const VERSIONS: &[&str] = &["0.1.", "0.5."];
/// What only the library with the server in it takes from libllama.
const SERVER_MARK: &str = "llama_state_seq_load_file";
/// `GGML_BACKEND_API_VERSION`
const BACKEND_API: i32 = 2;

/// `ggml_backend_reg`
#[repr(C)]
struct Registry {
    api_version: i32,
    name: unsafe extern "C" fn(*mut Registry) -> *const c_char,
    device_count: unsafe extern "C" fn(*mut Registry) -> usize,
    device: unsafe extern "C" fn(*mut Registry, usize) -> *mut c_void,
    address: unsafe extern "C" fn(*mut Registry, *const c_char) -> *mut c_void,
    context: *mut c_void,
}

// SAFETY: constant but for nothing: nobody writes to it.
unsafe impl Sync for Registry {}

static REGISTRY: Registry = Registry {
    api_version: BACKEND_API,
    name: registry_name,
    device_count: no_devices,
    device: no_device,
    address: no_address,
    context: std::ptr::null_mut(),
};

unsafe extern "C" fn registry_name(_: *mut Registry) -> *const c_char {
    c"translora".as_ptr()
}

unsafe extern "C" fn no_devices(_: *mut Registry) -> usize {
    0
}

unsafe extern "C" fn no_device(_: *mut Registry, _: usize) -> *mut c_void {
    std::ptr::null_mut()
}

unsafe extern "C" fn no_address(_: *mut Registry, _: *const c_char) -> *mut c_void {
    std::ptr::null_mut()
}

/// What ggml's backend loader looks up in a library. Where another backend stood in the variable
/// before, that one is answered with: `TRANSLORA_CHAIN_BACKEND` names it.
///
/// # Safety
/// thread: the one that loads backends
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_init() -> *mut c_void {
    attach(true);
    match std::env::var("TRANSLORA_CHAIN_BACKEND") {
        Ok(path) if !path.is_empty() => chain(&path).unwrap_or_else(|reason| {
            say(&format!("{path}: {reason}; going on without it"));
            (&raw const REGISTRY).cast_mut().cast()
        }),
        _ => (&raw const REGISTRY).cast_mut().cast(),
    }
}

fn chain(path: &str) -> Result<*mut c_void, AttachError> {
    let name = CString::new(path).map_err(|_| AttachError::ZeroByte { path: path.into() })?;
    // SAFETY: a terminated name. A backend's initializers run, as they would if the server had
    // loaded it.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(AttachError::Backend);
    }
    // SAFETY: an open library and a terminated name.
    let found = unsafe { libc::dlsym(library, c"ggml_backend_init".as_ptr()) };
    if found.is_null() || found == ggml_backend_init as *mut c_void {
        return Err(AttachError::NoBackend);
    }
    // SAFETY: the type that ggml gives this name.
    let begin =
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut c_void>(found) };
    // SAFETY: called once, by the thread that loads backends.
    let registry = unsafe { begin() };
    if registry.is_null() {
        Err(AttachError::BackendRefuses)
    } else {
        Ok(registry)
    }
}

/// Runs when the library is loaded. Through `LD_PRELOAD` that is before the server's `main`, with
/// all its libraries in place.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

extern "C" fn loaded() {
    attach(false);
}

/// Put the hooks in, once. Says why not where it cannot; says nothing in a process that has no
/// libllama (a shell under `LD_PRELOAD`, translora itself) unless the server loaded this
/// library as a `backend`.
fn attach(backend: bool) {
    static DONE: Once = Once::new();
    static SAID: AtomicBool = AtomicBool::new(false);
    let all = [hooks::all(true), hooks::all(false)].concat();
    let wanted =
        |name: &str| name == SERVER_MARK || all.iter().any(|(symbol, _, _)| *symbol == name);
    let objects = got::objects(&wanted);
    let Some(libllama) = objects
        .iter()
        .find(|object| is_library(&object.name, "libllama.so"))
    else {
        if backend && !SAID.swap(true, Ordering::Relaxed) {
            say(
                "does nothing: this program has no libllama of its own to load (it is linked in); a shared-library build is needed",
            );
        }
        return;
    };
    DONE.call_once(|| match put_in(&objects, libllama) {
        Ok(said) => say(&said),
        Err(reason) => say(&format!("does nothing: {reason}")),
    });
}

fn is_library(path: &str, name: &str) -> bool {
    path.rsplit('/').next().is_some_and(|file| {
        file == name
            || file
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn put_in(objects: &[Object], libllama: &Object) -> Result<String, AttachError> {
    let older = |reason| AttachError::Old {
        reason: Box::new(reason),
        known: VERSIONS,
    };
    let real = Real::of(&libllama.name).map_err(older)?;
    // SAFETY: a terminated text that lives as long as libllama.
    let version = unsafe { CStr::from_ptr((real.version)()) }
        .to_string_lossy()
        .into_owned();
    if !VERSIONS.iter().any(|known| version.starts_with(known)) {
        return Err(AttachError::Version {
            found: version,
            known: VERSIONS,
        });
    }
    let (server, common) = callers(objects, libllama)?;
    let decoding = Batches::of(&libllama.name)?;
    let all = hooks::all(decoding.are_kept());
    for (symbol, callers, _) in &all {
        let taken = match callers {
            Callers::All => objects
                .iter()
                .any(|object| object.takes(symbol) && object.base != libllama.base),
            Callers::Server => server.takes(symbol),
        };
        let of_drafts = symbol.starts_with("_Z");
        if !taken && !of_drafts {
            return Err(AttachError::NothingTakes { symbol });
        }
    }
    server::begin(real, decoding);
    let mut slots = 0;
    for object in objects.iter().filter(|object| object.base != libllama.base) {
        for slot in &object.slots {
            let hook = all.iter().find(|(symbol, callers, _)| {
                *symbol == slot.symbol && (*callers == Callers::All || object.base == server.base)
            });
            if let Some((_, _, function)) = hook {
                // SAFETY: hooks have the types of llama.h, and this library is never unloaded (see
                // `stay`).
                unsafe { got::exchange(slot, *function) }?;
                slots += 1;
            }
        }
    }
    stay();
    Ok(format!(
        "in llama.cpp {version}, {slots} calls exchanged in {} and {}",
        file(&server.name),
        file(&common.name)
    ))
}

fn file(path: &str) -> &str {
    path.rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("the program")
}

/// The object that holds the server, and the one that holds the helpers; they have to be two, for
/// only then is it known who calls.
fn callers<'a>(
    objects: &'a [Object],
    libllama: &Object,
) -> Result<(&'a Object, &'a Object), AttachError> {
    let others = || objects.iter().filter(|object| object.base != libllama.base);
    let server = others()
        .find(|object| object.takes(SERVER_MARK))
        .ok_or(AttachError::NoServer)?;
    let common = others()
        .find(|object| object.takes("llama_set_adapters_lora"))
        .ok_or(AttachError::NoAdapters)?;
    if server.base == common.base {
        return Err(AttachError::HelpersLinkedIn);
    }
    Ok((server, common))
}

/// Keep this library in memory: the server's calls lead here from now on.
fn stay() {
    // SAFETY: an all-zero structure is a valid one to be filled in.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address of a function of this library, and a structure to fill.
    if unsafe { libc::dladdr(stay as *const c_void, &raw mut info) } != 0
        && !info.dli_fname.is_null()
    {
        // SAFETY: the linker's own terminated name of this library; nothing new is loaded.
        unsafe {
            libc::dlopen(
                info.dli_fname,
                libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE,
            )
        };
    }
}
