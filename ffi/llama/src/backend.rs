use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::log;
use crate::model::{CPU, ModelParams};

/// Proof that llama.cpp was initialised in this process. Free to copy.
#[derive(Clone, Copy, Debug)]
pub struct Backend(());

/// A device that ggml can compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The name that `--device` takes, `CUDA0` for example.
    pub name: String,
    /// What the device calls itself.
    pub description: String,
    /// `CPU`, `GPU`, `IGPU` or `ACCEL`.
    pub kind: &'static str,
    /// Memory that is free now. units: bytes
    pub memory_free: usize,
    /// All of its memory. units: bytes
    pub memory_total: usize,
}

impl Backend {
    /// Initialise llama.cpp once for the process and keep its log for error messages.
    pub fn init() -> Result<Self, LlamaError> {
        static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
        let made = BACKEND.get_or_init(|| LlamaBackend::init().map_err(|error| error.to_string()));
        made.as_ref()
            .map_err(|reason| LlamaError::Graph(reason.clone()))?;
        log::install();
        crate::memory::return_freed();
        static REFUSED: OnceLock<Option<(PathBuf, String)>> = OnceLock::new();
        match REFUSED.get_or_init(|| load_modules().err()).clone() {
            Some((path, reason)) => Err(LlamaError::Module { path, reason }),
            None => Ok(Self(())),
        }
    }

    /// The version of ggml, which comes with llama.cpp.
    pub fn version(&self) -> String {
        // SAFETY: a static string.
        unsafe { CStr::from_ptr(sys::ggml_version()) }
            .to_string_lossy()
            .into_owned()
    }

    /// What llama.cpp was built for: `AVX2 = 1 | …`.
    pub fn system_info(&self) -> String {
        // SAFETY: a string of llama.cpp's that lives until the next such call; it is copied at
        // once.
        unsafe { CStr::from_ptr(sys::llama_print_system_info()) }
            .to_string_lossy()
            .into_owned()
    }

    /// The devices that a model is to be loaded to; none for the CPU.
    ///
    /// fails: a name that no device has.
    pub(crate) fn chosen(
        self,
        params: &ModelParams,
    ) -> Result<Vec<sys::ggml_backend_dev_t>, LlamaError> {
        let device = params.device.as_deref().map(str::trim);
        if params.gpu_layers == 0 || matches!(device, Some("none" | CPU)) {
            return Ok(Vec::new());
        }
        // SAFETY: the registry lives for the whole program; indices are below the count.
        let all: Vec<_> = (0..unsafe { sys::ggml_backend_dev_count() })
            .map(|i| unsafe { sys::ggml_backend_dev_get(i) })
            .collect();
        let of = |kind: &str| {
            all.iter()
                .copied()
                .filter(|device| describe(*device).kind == kind)
                .collect::<Vec<_>>()
        };
        let Some(names) = device else {
            let gpus = of("GPU");
            return Ok(if gpus.is_empty() {
                of("IGPU").into_iter().take(1).collect()
            } else {
                gpus
            });
        };
        let named = |name: &str| {
            let found = all
                .iter()
                .copied()
                .find(|device| describe(*device).name.eq_ignore_ascii_case(name));
            let known = || {
                self.devices()
                    .iter()
                    .map(|device| device.name.clone())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            found.ok_or_else(|| LlamaError::Device {
                name: name.to_owned(),
                known: known(),
            })
        };
        names.split(',').map(|name| named(name.trim())).collect()
    }

    /// List the devices ggml found, the CPU included.
    pub fn devices(&self) -> Vec<Device> {
        // SAFETY: the registry lives for the whole program; indices are below the count.
        (0..unsafe { sys::ggml_backend_dev_count() })
            .map(|i| describe(unsafe { sys::ggml_backend_dev_get(i) }))
            .collect()
    }
}

/// Backends that may lie beside the program as files of their own: `scripts/devices/cuda` and
/// `scripts/devices/vulkan` make them.
const MODULES: [&str; 4] = ["cuda", "vulkan", "metal", "hip"];

/// Load the file that `GGML_BACKEND_PATH` names (ggml's own variable), and the backends that lie
/// beside the program.
///
/// fails: a file that is no backend, one of another ggml, or one that lacks a library, such as the
/// driver of its device; with the reason.
fn load_modules() -> Result<(), (PathBuf, String)> {
    let named = std::env::var_os("GGML_BACKEND_PATH")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let folder = std::env::current_exe()
        .ok()
        .and_then(|program| program.parent().map(Path::to_owned));
    let extension = if cfg!(target_os = "macos") {
        "dylib"
    } else {
        "so"
    };
    let beside = folder
        .iter()
        .flat_map(|folder| MODULES.map(|name| folder.join(format!("libggml-{name}.{extension}"))));
    for path in named.into_iter().chain(beside.filter(|path| path.exists())) {
        let Ok(text) = CString::new(path.as_os_str().as_bytes()) else {
            return Err((path, "a path with a NUL byte".into()));
        };
        let mark = log::mark();
        // SAFETY: a NUL-terminated path. The file's code runs in this process, as that of every
        // shared library beside a program does; ggml refuses one whose interface has another
        // version.
        if unsafe { sys::ggml_backend_load(text.as_ptr()) }.is_null() {
            let said = log::since(mark, "ggml gave no reason");
            // ggml names the file first, and we do too.
            let reason = said
                .strip_prefix(&format!("failed to load {}: ", path.display()))
                .unwrap_or(&said)
                .to_owned();
            return Err((path, reason));
        }
    }
    Ok(())
}

/// Something else takes products from the CPU.
pub(crate) fn accelerated() -> bool {
    // SAFETY: the registry lives for the whole program; indices are below the count.
    (0..unsafe { sys::ggml_backend_dev_count() }).any(|i| unsafe {
        sys::ggml_backend_dev_type(sys::ggml_backend_dev_get(i))
            == sys::GGML_BACKEND_DEVICE_TYPE_ACCEL
    })
}

pub(crate) fn describe(device: sys::ggml_backend_dev_t) -> Device {
    let (mut free, mut total) = (0, 0);
    // SAFETY: `device` comes from the registry; its strings are static.
    unsafe {
        sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total);
        Device {
            name: CStr::from_ptr(sys::ggml_backend_dev_name(device))
                .to_string_lossy()
                .into_owned(),
            description: CStr::from_ptr(sys::ggml_backend_dev_description(device))
                .to_string_lossy()
                .into_owned(),
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
