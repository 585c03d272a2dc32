//! The C ABI of the plugin: mirror of `include/translora.h`, the gate that every call passes, and
//! the exporter.
//!
//! A library implements [`Plugin`] in safe Rust and writes one line, [`export!`]. Knows nothing of
//! models or pipelines. Only a plugin's door and its export line may name this crate.
#![allow(unsafe_code, reason = "this crate meets C")]
#![warn(missing_docs)]

pub mod c;
mod export;
mod failure;
mod gate;
pub mod host;
mod layout;
mod plugin;
mod process;
mod registry;
mod table;
mod text;

pub use export::{entry, library_path};
pub use failure::{Failure, Status};
pub use layout::layout;
pub use plugin::{Adapters, JobState, Jobs, Plugin, Progress};
pub use process::close_inherited_files;
pub use table::HostTable;

/// Export `translora_get_entry` for a type that implements [`Plugin`]; once in a library.
///
/// The attribute that exports a symbol counts as unsafe code because two libraries could define the
/// same symbol. The name is translora's own, and a second definition in one binary is a link error,
/// so the plugin's crate can stay free of unsafe code.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        /// Answer the table of this ABI version, or null.
        #[unsafe(no_mangle)]
        pub extern "C" fn translora_get_entry(abi_major: u32) -> *const $crate::c::Entry {
            $crate::entry::<$plugin>(abi_major)
        }
    };
}
