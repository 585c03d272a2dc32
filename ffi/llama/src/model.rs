use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_cpp_sys_2 as sys;
use translora_gguf::{open_file, read_file};
use translora_lora::limits::FILE_BYTES_MAX;
use translora_lora::{Base, Foreign, Lora, gguf_path};

use crate::backend::Backend;
use crate::copied::Copied;
use crate::error::LlamaError;
use crate::log::{self, Reason};
use crate::refuse::check_model;
use crate::vocab::Vocab;

/// A loaded base model. Clones share it; it lives as long as its last clone, context or adapter.
#[derive(Clone)]
pub struct Model(pub(crate) Arc<ModelInner>);

pub(crate) struct ModelInner {
    pub(crate) raw: NonNull<sys::llama_model>,
    pub(crate) path: PathBuf,
    params: ModelParams,
    /// Devices that hold its layers, in the order of llama.cpp.
    devices: Vec<sys::ggml_backend_dev_t>,
    /// The same file on the CPU, mapped, once it was needed.
    on_cpu: Mutex<Option<Model>>,
    /// Held while llama.cpp edits the model's list of adapters, which it does without a lock of its
    /// own.
    adapters: Mutex<()>,
}

// SAFETY: after loading, llama.cpp only reads a model, except for its list of adapters (guarded by
// `adapters`) and its training length (written once by `Context::training`, read by nobody else
// here).
unsafe impl Send for ModelInner {}
// SAFETY: as above.
unsafe impl Sync for ModelInner {}

impl Drop for ModelInner {
    fn drop(&mut self) {
        // SAFETY: this is the last owner: contexts and adapters hold an `Arc` of this value.
        unsafe { sys::llama_model_free(self.raw.as_ptr()) }
    }
}

/// The name of the device that is none.
pub(crate) const CPU: &str = "CPU";

/// How to load a model. Names are llama.cpp's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelParams {
    /// Layers kept on the device; negative means all, 0 that no device takes part.
    pub gpu_layers: i32,
    /// Devices by ggml's names, with commas between: llama.cpp's `--device`. `none` for the CPU
    /// alone, `CPU` for the CPU as if it were a device (ggml's operations only, through its
    /// scheduler); left out, all GPUs there are.
    pub device: Option<String>,
    /// Map the file into memory instead of reading it.
    pub mmap: bool,
    /// Keep the weights in memory, as far as the system allows.
    pub mlock: bool,
    /// Lay weights out anew where that makes products faster: llama.cpp's `--repack`. They are then
    /// a copy in memory of their own, which nothing but ggml's products can read.
    pub repack: bool,
}

impl Default for ModelParams {
    fn default() -> Self {
        Self {
            gpu_layers: -1,
            device: None,
            mmap: true,
            mlock: false,
            repack: false,
        }
    }
}

impl Model {
    /// Load a GGUF model. Unless `repack` is set weights stay in the file's own layout, so that
    /// they can be read back.
    ///
    /// fails: missing or truncated file, a vocabulary that llama.cpp would abort on, unknown
    /// architecture, too little memory; most reasons are llama.cpp's own.
    pub fn load(backend: Backend, path: &Path, params: &ModelParams) -> Result<Self, LlamaError> {
        check_model(path)?;
        let devices = backend.chosen(params)?;
        // A list that ends at once keeps llama.cpp from taking what it finds.
        let mut list: Vec<sys::ggml_backend_dev_t> = devices
            .iter()
            .copied()
            .chain([std::ptr::null_mut()])
            .collect();
        let text = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| LlamaError::Path(path.to_owned()))?;
        let mark = log::mark();
        // SAFETY: `text` and the list, which ends with null, outlive the call; the parameters are
        // the library's defaults with plain values replaced. The loader catches its own exceptions
        // and returns null.
        let raw = unsafe {
            let mut raw_params = sys::llama_model_default_params();
            raw_params.n_gpu_layers = params.gpu_layers;
            raw_params.devices = list.as_mut_ptr();
            raw_params.load_mode = match (params.mmap, params.mlock) {
                (true, true) => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
                (false, true) => sys::LLAMA_LOAD_MODE_MLOCK,
                (true, false) => sys::LLAMA_LOAD_MODE_MMAP,
                (false, false) => sys::LLAMA_LOAD_MODE_NONE,
            };
            raw_params.use_extra_bufts = params.repack;
            sys::llama_model_load_from_file(text.as_ptr(), raw_params)
        };
        let failed = || LlamaError::ModelLoad {
            path: path.to_owned(),
            reason: log::since(mark, "llama.cpp gave no reason"),
        };
        let raw = NonNull::new(raw).ok_or_else(failed)?;
        let (params, on_cpu, adapters) = (params.clone(), Mutex::new(None), Mutex::new(()));
        Ok(Self(Arc::new(ModelInner {
            raw,
            path: path.to_owned(),
            params,
            devices,
            on_cpu,
            adapters,
        })))
    }

    /// Training graphs run on a device, with the CPU behind it.
    pub fn is_on_device(&self) -> bool {
        !self.0.devices.is_empty()
            || self.0.params.gpu_layers != 0 && self.0.params.device.as_deref() == Some(CPU)
    }

    /// This model, or for one on a device the same file on the CPU: what llama.cpp builds for it
    /// can be traced and read. It is mapped, so that what nobody reads costs nothing.
    pub fn on_cpu(&self, backend: Backend) -> Result<Self, LlamaError> {
        if !self.is_on_device() {
            return Ok(self.clone());
        }
        let mut twin = self.0.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(twin) = &*twin {
            return Ok(twin.clone());
        }
        let params = ModelParams {
            gpu_layers: 0,
            device: None,
            mmap: true,
            mlock: false,
            repack: false,
        };
        let loaded = Self::load(backend, self.path(), &params)?;
        Ok(twin.insert(loaded).clone())
    }

    pub(crate) fn devices(&self) -> &[sys::ggml_backend_dev_t] {
        &self.0.devices
    }

    /// The device names, with commas between; `CPU` where there are none.
    pub fn device_names(&self) -> String {
        let names: Vec<String> = self
            .0
            .devices
            .iter()
            .map(|device| crate::backend::describe(*device).name)
            .collect();
        if names.is_empty() {
            CPU.into()
        } else {
            names.join(",")
        }
    }

    /// units: bytes of the weights that lie on devices.
    pub fn device_bytes(&self) -> usize {
        // SAFETY: a live model.
        unsafe { crate::shim::translora_device_bytes(self.raw()) }
    }

    /// A weight by its name, on its device where it has one.
    pub(crate) fn tensor(&self, name: &str) -> Option<*mut sys::ggml_tensor> {
        let name = CString::new(name).ok()?;
        // SAFETY: a live model and a NUL-terminated name.
        let raw = unsafe { crate::shim::translora_tensor(self.raw(), name.as_ptr()) };
        (!raw.is_null()).then_some(raw)
    }

    /// What of this model an adapter is compared with.
    fn base_for(&self, lora: &Lora) -> Base {
        let names = lora.pairs().iter().map(|pair| pair.matrix.as_str());
        let shape = |name: &str| {
            // SAFETY: a tensor of this model, which is live.
            let sizes = unsafe { (*self.tensor(name)?).ne };
            let size = |side: usize| u64::try_from(sizes[side]).unwrap_or(0);
            Some((name.to_owned(), [size(0), size(1), size(2)]))
        };
        let tensors = names.chain([Base::OUTPUT]).filter_map(shape);
        Base::new(self.architecture(), tensors)
    }

    /// The file that the model was read from; the first part of a split one.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The tokenizer.
    pub fn vocab(&self) -> Vocab<'_> {
        // SAFETY: the vocabulary belongs to the model and lives as long as it.
        Vocab::new(self, unsafe { sys::llama_model_get_vocab(self.raw()) })
    }

    /// One metadata value as llama.cpp prints it.
    pub fn metadata(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        let mut buffer = vec![0_u8; 1 << 12];
        loop {
            // SAFETY: the buffer is as long as said; the call writes at most that and ends with
            // NUL.
            let n = unsafe {
                sys::llama_model_meta_val_str(
                    self.raw(),
                    key.as_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            };
            let n = usize::try_from(n).ok()?;
            if n < buffer.len() {
                buffer.truncate(n);
                return String::from_utf8(buffer).ok();
            }
            buffer.resize(n + 1, 0);
        }
    }

    /// `general.architecture` of the file, `llama` for example; empty where it has none.
    pub fn architecture(&self) -> String {
        self.metadata("general.architecture").unwrap_or_default()
    }

    /// The name in the file, or the file's own.
    pub fn name(&self) -> String {
        let stem = || {
            self.path()
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        self.metadata("general.name")
            .filter(|name| !name.is_empty())
            .unwrap_or_else(stem)
    }

    /// Tokens of context that the model was trained with.
    pub fn trained_context(&self) -> usize {
        // SAFETY: a live model.
        usize::try_from(unsafe { sys::llama_model_n_ctx_train(self.raw()) }).unwrap_or(0)
    }

    /// Parameters of all tensors together.
    pub fn parameters(&self) -> u64 {
        // SAFETY: reads a field of a live model.
        unsafe { sys::llama_model_n_params(self.raw()) }
    }

    /// units: bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        // SAFETY: reads a field of a live model.
        unsafe { sys::llama_model_size(self.raw()) }
    }

    /// Transformer blocks.
    pub fn layers(&self) -> usize {
        // SAFETY: reads a field of a live model.
        usize::try_from(unsafe { sys::llama_model_n_layer(self.raw()) }).unwrap_or(0)
    }

    /// The model has an encoder, makes embeddings, is recurrent or hybrid: not the plain decoder
    /// that generation here assumes.
    pub fn unusual(&self) -> Option<&'static str> {
        let key = |name: &str| self.metadata(&format!("{}.{name}", self.architecture()));
        if key("attention.causal").is_some_and(|causal| causal == "false") {
            return Some("it is an encoder: each token sees those that follow");
        }
        // Mean, first, last, rank. 0 is none; files that llama.cpp saves itself may say -1.
        if key("pooling_type").is_some_and(|kind| ["1", "2", "3", "4"].contains(&kind.as_str())) {
            return Some("it is an embedding model");
        }
        // SAFETY: each reads a field of a live model.
        unsafe {
            if sys::llama_model_has_encoder(self.raw()) {
                Some("it has an encoder")
            } else if !sys::llama_model_has_decoder(self.raw()) {
                Some("it has no decoder")
            } else if sys::llama_model_is_recurrent(self.raw())
                || sys::llama_model_is_hybrid(self.raw())
            {
                Some("it keeps recurrent state")
            } else {
                None
            }
        }
    }

    pub(crate) fn raw(&self) -> *mut sys::llama_model {
        self.0.raw.as_ptr()
    }

    pub(crate) fn lock_adapters(&self) -> MutexGuard<'_, ()> {
        self.0
            .adapters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({})", self.path().display())
    }
}

/// Map a file into memory, to be read.
pub fn map_file(path: &Path) -> Result<memmap2::Mmap, LlamaError> {
    let refuse = |source| LlamaError::File {
        path: path.to_owned(),
        source,
    };
    let (file, _) = open_file(path).map_err(refuse)?;
    // SAFETY: the map is read-only. A file truncated by someone else while it is mapped raises
    // SIGBUS; the same holds for llama.cpp's own map of every model, and everything this project
    // writes is renamed into place, never truncated.
    unsafe { memmap2::Mmap::map(&file) }.map_err(|error| refuse(error.into()))
}

/// A LoRA file as it was read and checked.
pub struct AdapterFile {
    /// The GGUF file: the path that was named, or what was written out of it.
    pub file: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
    /// What it is.
    pub lora: Lora,
}

/// A LoRA loaded onto a model. Owns a share of that model, so it cannot outlive it. Clones share
/// the adapter.
#[derive(Clone)]
pub struct Adapter(pub(crate) Arc<AdapterInner>);

pub(crate) struct AdapterInner {
    pub(crate) raw: NonNull<sys::llama_adapter_lora>,
    pub(crate) model: Model,
    file: PathBuf,
}

// SAFETY: an adapter is plain tensors plus an entry in its model's list; the list is edited only
// under the model's lock.
unsafe impl Send for AdapterInner {}
// SAFETY: as above.
unsafe impl Sync for AdapterInner {}

impl Drop for AdapterInner {
    fn drop(&mut self) {
        let _guard = self.model.lock_adapters();
        // SAFETY: the last owner; contexts that use the adapter hold an `Arc` of this value, and
        // the model is still alive.
        unsafe { sys::llama_adapter_lora_free(self.raw.as_ptr()) }
    }
}

impl Model {
    /// Check that the tokenizer beside an adapter of PEFT or MLX, where there is one, cuts texts as
    /// this model does.
    ///
    /// fails: it does not, or is no tokenizer
    pub fn same_words(&self, adapter: &Path) -> Result<(), LlamaError> {
        let unfit = |source| LlamaError::Adapter {
            path: adapter.to_owned(),
            source,
        };
        let Some(foreign) = Foreign::find(adapter).map_err(unfit)? else {
            return Ok(());
        };
        let encode = |text: &str| {
            let tokens = self.vocab().encode(text, true).ok()?;
            tokens
                .into_iter()
                .map(|token| token.try_into().ok())
                .collect()
        };
        foreign.same_words(encode).map_err(unfit)
    }
}

impl Adapter {
    /// Load a LoRA onto `model`: a GGUF file, or a folder of PEFT or MLX. It is read whole and
    /// compared with the model first: llama.cpp ends the process over some of what [`Lora`]
    /// refuses.
    ///
    /// fails: no sound adapter, or made for another base
    pub fn load(model: &Model, path: &Path) -> Result<Self, LlamaError> {
        Self::of(model, path, &Self::read(model, path)?)
    }

    /// Read a LoRA file once, and compare it with a model. What is loaded of it are these bytes.
    ///
    /// fails: as [`Adapter::load`]
    pub fn read(model: &Model, path: &Path) -> Result<AdapterFile, LlamaError> {
        let unfit = |source| LlamaError::Adapter {
            path: path.to_owned(),
            source,
        };
        let file = gguf_path(path, model.path()).map_err(unfit)?;
        model.same_words(path)?;
        let bytes = read_file(&file, FILE_BYTES_MAX).map_err(|source| LlamaError::File {
            path: file.clone(),
            source,
        })?;
        let lora = Lora::read(&bytes).map_err(unfit)?;
        lora.fits(&model.base_for(&lora)).map_err(unfit)?;
        Ok(AdapterFile { file, bytes, lora })
    }

    /// Load what was read for this model. `path` names it in errors.
    ///
    /// fails: llama.cpp refuses it, or too little memory
    pub fn of(model: &Model, path: &Path, read: &AdapterFile) -> Result<Self, LlamaError> {
        let file = read.file.clone();
        let failed = |reason: String| LlamaError::AdapterLoad {
            path: path.to_owned(),
            reason,
        };
        // llama.cpp copies what it reads: the copy goes when that is done.
        let copy = Copied::of(&file, &read.bytes).map_err(|error| failed(error.to_string()))?;
        let text = CString::new(copy.path().as_os_str().as_bytes())
            .map_err(|_| LlamaError::Path(file.clone()))?;
        let (mark, mut reason) = (log::mark(), Reason::new());
        let raw = {
            let _guard = model.lock_adapters();
            let (buffer, size) = reason.pointer();
            // SAFETY: model alive, path NUL-terminated, buffer as long as said; exceptions end in
            // the shim.
            unsafe { crate::shim::translora_adapter(model.raw(), text.as_ptr(), buffer, size) }
        };
        let failed = || failed(reason.or_log(mark, "llama.cpp gave no reason"));
        let raw = NonNull::new(raw).ok_or_else(failed)?;
        Ok(Self(Arc::new(AdapterInner {
            raw,
            model: model.clone(),
            file,
        })))
    }

    /// The GGUF file that was loaded: the path that was named, or what was written out of it.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// The base it was loaded onto.
    pub fn model(&self) -> &Model {
        &self.0.model
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adapter on {:?}", self.0.model)
    }
}
