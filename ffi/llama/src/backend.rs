use std::ffi::CStr;
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;

/// Proof that llama.cpp was initialised in this process. Free to copy.
#[derive(Clone, Copy, Debug)]
pub struct Backend(());

/// A device that ggml can compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub description: String,
    /// `CPU`, `GPU`, `IGPU` or `ACCEL`.
    pub kind: &'static str,
    /// units: bytes.
    pub memory_free: usize,
    pub memory_total: usize,
}

impl Backend {
    /// Initialise llama.cpp once for the process and keep its log for error messages.
    pub fn init() -> Result<Self, LlamaError> {
        static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
        let made = BACKEND.get_or_init(|| LlamaBackend::init().map_err(|error| error.to_string()));
        made.as_ref().map_err(|reason| LlamaError::Graph(reason.clone()))?;
        crate::log::install();
        crate::memory::return_freed();
        Ok(Self(()))
    }

    /// The version of ggml, which comes with llama.cpp.
    pub fn version(&self) -> String {
        // SAFETY: a static string.
        unsafe { CStr::from_ptr(sys::ggml_version()) }.to_string_lossy().into_owned()
    }

    /// What llama.cpp was built for: `AVX2 = 1 | …`.
    pub fn system_info(&self) -> String {
        // SAFETY: a string of llama.cpp's that lives until the next such call; it is copied at once.
        unsafe { CStr::from_ptr(sys::llama_print_system_info()) }.to_string_lossy().into_owned()
    }

    /// List the devices ggml found, the CPU included.
    pub fn devices(&self) -> Vec<Device> {
        // SAFETY: the registry lives for the whole program; indices are below the count.
        (0..unsafe { sys::ggml_backend_dev_count() }).map(|i| describe(unsafe { sys::ggml_backend_dev_get(i) })).collect()
    }
}

fn describe(device: sys::ggml_backend_dev_t) -> Device {
    let (mut free, mut total) = (0, 0);
    // SAFETY: `device` comes from the registry; its strings are static.
    unsafe {
        sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total);
        Device {
            name: CStr::from_ptr(sys::ggml_backend_dev_name(device)).to_string_lossy().into_owned(),
            description: CStr::from_ptr(sys::ggml_backend_dev_description(device)).to_string_lossy().into_owned(),
            kind: match sys::ggml_backend_dev_type(device) {
                sys::GGML_BACKEND_DEVICE_TYPE_CPU => "CPU",
                sys::GGML_BACKEND_DEVICE_TYPE_GPU => "GPU",
                sys::GGML_BACKEND_DEVICE_TYPE_IGPU => "IGPU",
                _ => "ACCEL",
            },
            memory_free: free,
            memory_total: total,
        }
    }
}
