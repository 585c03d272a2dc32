//! The module inside an unmodified llama-server: swaps the adapter of a server that keeps running,
//! without a mixed answer.
//!
//! The same library is loaded by the server's backend loader (`GGML_BACKEND_PATH`) or by the linker
//! (`LD_PRELOAD`). It exchanges the addresses that the server's libraries keep of some functions of
//! libllama (`hooks`), notes which adapter computed which KV (`provenance`), and takes commands on a
//! unix socket (`control`). It links nothing of libllama, and opens no port. Where something it
//! needs is missing it does nothing, and says why in the server's log.
//!
//! Three promises hold for every response:
//! - a request is answered by one adapter from its first token to its last: the one that was live
//!   when it began;
//! - KV of another adapter is never used: it is computed again, or the server has to do so;
//! - after a swap was answered on the socket, every request that is sent is answered by the new
//!   adapter.
//!
//! Only Linux has the module. The commands ([`command`]) are the same for every server, and exist
//! everywhere.
#![allow(unsafe_code, reason = "this crate meets C")]
#![warn(missing_docs)]

pub mod command;

/// The module proper.
macro_rules! on_linux {
    ($($item:item)*) => {
        $(
            #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
            $item
        )*
    };
}

on_linux! {
    mod adapter;
    mod batch;
    mod carried;
    mod control;
    mod error;
    mod faults;
    mod got;
    mod harvest;
    mod hooks;
    mod server;
    mod jobs;
    mod load;
    mod log;
    mod provenance;
    mod real;
    mod split;
    mod words;

    pub use control::{listen, load, place};
    pub use error::AttachError;
    pub use jobs::{Transfers, register};
    pub use log::say;
}

/// Let the library carry out transfers in a server that it is loaded into: `$make` answers a
/// [`Transfers`], and is called by the first command about one.
///
/// Runs when the library is loaded. The attribute counts as unsafe code because such a function
/// runs before `main`; this one stores a pointer, so the plugin's crate can stay free of unsafe
/// code.
#[macro_export]
macro_rules! transfers {
    ($make:path) => {
        const _: () = {
            extern "C" fn register() {
                $crate::register($make);
            }
            #[used]
            #[unsafe(link_section = ".init_array")]
            static REGISTER: extern "C" fn() = register;
        };
    };
}
