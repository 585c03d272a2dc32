//! The host's side: load a plugin like any stranger, and call it safely.
//!
//! Knows the header and nothing else; `translora doctor` and the tests use it. A
//! library is never unloaded: its threads, and those of what it links, may outlive every instance.

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::{Library as Loaded, RTLD_LOCAL, RTLD_NOW};

use crate::c;
use crate::failure::{Failure, Status};

mod calls;
mod instance;
mod offered;
pub mod referee;

pub use calls::{Adapters, Hotswap, Jobs};
pub use instance::{Info, Instance};
pub use offered::{Callbacks, Swapper};

/// Why a library is no plugin for this host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not there, or the system does not load it.
    #[error("{path}: cannot be loaded: {reason}")]
    Load {
        /// What was to be loaded.
        path: PathBuf,
        /// In the system's words.
        reason: String,
    },
    /// It does not export the entry.
    #[error("{path}: no translora plugin: it exports no translora_get_entry")]
    Stranger {
        /// What was loaded.
        path: PathBuf,
    },
    /// It does not speak this version.
    #[error("{path}: it does not speak version {wanted} of the ABI")]
    Version {
        /// What was loaded.
        path: PathBuf,
        /// The major version of this host.
        wanted: u32,
    },
    /// It breaks the header's word.
    #[error("{path}: a broken plugin: {what}")]
    Broken {
        /// What was loaded.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A loaded plugin.
pub struct Library {
    path: PathBuf,
    get_entry: unsafe extern "C" fn(u32) -> *const c::Entry,
    entry: &'static c::Entry,
}

impl Library {
    /// Load a plugin and check what it says of itself. This runs its code in this process: give
    /// what you would also start.
    ///
    /// fails: it cannot be loaded, is no plugin, speaks another version, or its tables are too
    /// small
    pub fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let load = |reason: String| OpenError::Load {
            path: path.to_owned(),
            reason,
        };
        let path = path
            .canonicalize()
            .map_err(|error| load(error.to_string()))?;
        // SAFETY: the library's initialisers run here; that it may be trusted is the caller's word,
        // as for any program that is started.
        let loaded = unsafe { Loaded::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        let loaded = loaded.map_err(|error| load(error.to_string()))?;
        // SAFETY: the header gives the symbol of this name this type.
        let symbol = unsafe {
            loaded.get::<unsafe extern "C" fn(u32) -> *const c::Entry>(b"translora_get_entry\0")
        };
        let get_entry = *symbol.map_err(|_| OpenError::Stranger { path: path.clone() })?;
        // The code behind the pointers below stays until the process ends.
        std::mem::forget(loaded);
        // SAFETY: the header's entry function takes any version, on any thread.
        let entry = unsafe { get_entry(c::ABI_MAJOR) };
        if entry.is_null() {
            return Err(OpenError::Version {
                path,
                wanted: c::ABI_MAJOR,
            });
        }
        let entry =
            whole::<c::Entry>("its entry", entry.cast()).map_err(|what| OpenError::Broken {
                path: path.clone(),
                what,
            })?;
        let missing = entry.create.is_none()
            || entry.destroy.is_none()
            || entry.info.is_none()
            || entry.capability.is_none();
        let what = match entry {
            c::Entry { abi_major, .. } if *abi_major != c::ABI_MAJOR => {
                format!(
                    "the entry for version {} says that it is of {abi_major}",
                    c::ABI_MAJOR
                )
            }
            _ if missing => "a function of its entry is missing".into(),
            _ => {
                return Ok(Arc::new(Self {
                    path,
                    get_entry,
                    entry,
                }));
            }
        };
        Err(OpenError::Broken { path, what })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version it speaks: major, minor.
    pub fn abi(&self) -> (u32, u32) {
        (self.entry.abi_major, self.entry.abi_minor)
    }

    /// Whether it has an entry for another major version.
    pub fn speaks(&self, abi_major: u32) -> bool {
        // SAFETY: the header's entry function takes any version, on any thread; the code stays.
        !unsafe { (self.get_entry)(abi_major) }.is_null()
    }

    /// The table of a capability, where the library has it.
    ///
    /// fails: there is one, and it is too small for its id
    fn table<T>(&self, id: &'static str) -> Result<Option<&'static T>, Failure> {
        let Some(capability) = self.entry.capability else {
            return Ok(None);
        };
        // SAFETY: the id is readable during the call.
        let table = unsafe { capability(view(id)) };
        if table.is_null() {
            return Ok(None);
        }
        whole::<T>(id, table)
            .map(Some)
            .map_err(|what| Failure::new(Status::Internal, what))
    }
}

/// Look at a table that says it has all fields of `T`.
fn whole<T>(name: &str, table: *const c_void) -> Result<&'static T, String> {
    let table = table.cast::<T>();
    if !table.is_aligned() {
        return Err(format!("{name} is not aligned"));
    }
    // SAFETY: not null, aligned; the header lets every table begin with struct_size and live as
    // long as the library, which is never unloaded.
    let size = unsafe { table.cast::<u32>().read() } as usize;
    if size < size_of::<T>() {
        return Err(format!(
            "{name} has {size} bytes, and {} are needed",
            size_of::<T>()
        ));
    }
    // SAFETY: as above, and it says that it has every field.
    Ok(unsafe { &*table })
}

fn view(text: &str) -> c::Text {
    c::Text {
        data: text.as_ptr().cast(),
        length: text.len() as u64,
    }
}

/// Copy a text of a plugin. Bytes that are no UTF-8 are replaced: a broken plugin is still
/// to be heard.
///
/// # Safety
/// `text` is readable: its maker has not released it.
unsafe fn copied(text: c::Text) -> String {
    if text.data.is_null() || text.length == 0 {
        return String::new();
    }
    let length = usize::try_from(text.length.min(c::TEXT_BYTES_MAX)).unwrap_or(0);
    // SAFETY: not null, and readable for its length by this function's contract.
    String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(text.data.cast(), length) })
        .into_owned()
}
