use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::backend::Backend;
use crate::error::LlamaError;
use crate::graph::{Dtype, Graph, Tensor};
use crate::model::Model;
use crate::scheduler::{Placement, Scheduler, WorkBytes};
use crate::storage::Storage;

/// Runs graphs on the CPU, or on devices with the CPU behind them. Graphs share its work memory, so
/// one is bound at a time.
pub struct Compute {
    /// In order of preference; the CPU is the last.
    backends: Vec<NonNull<sys::ggml_backend>>,
    memory: Work,
    bound: u64,
    /// Seconds of each node of the last run, while runs are timed.
    times: Option<Vec<f64>>,
}

/// A device of a `Compute`, or the CPU behind them. The default is the first device, or the CPU
/// where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(usize);

/// What gives a graph its memory.
enum Work {
    Cpu(NonNull<sys::ggml_gallocr>),
    Scheduled(Scheduler),
}

// SAFETY: no thread affinity; `&mut self` on everything that computes or writes.
unsafe impl Send for Compute {}

impl Compute {
    /// Compute where `model` was loaded to: on its devices, and on the CPU with `threads` threads
    /// what they lack.
    pub fn of(backend: Backend, model: &Model, threads: u32) -> Result<Self, LlamaError> {
        if !model.is_on_device() {
            return Self::cpu(backend, threads);
        }
        let mut this = Self {
            backends: Vec::new(),
            memory: Work::Scheduled(Scheduler::new(Vec::new())),
            bound: 0,
            times: None,
        };
        for device in model.devices() {
            // SAFETY: a device of the registry, which lives for the whole program.
            let made =
                NonNull::new(unsafe { sys::ggml_backend_dev_init(*device, std::ptr::null()) });
            this.backends.push(made.ok_or_else(|| LlamaError::Memory {
                what: "a backend of the device".into(),
            })?);
        }
        if model.devices().is_empty() {
            this.backends.push(cpu_backend(threads)?);
        }
        this.backends.push(cpu_backend(threads)?);
        this.memory = Work::Scheduled(Scheduler::new(
            this.backends
                .iter()
                .map(|backend| backend.as_ptr())
                .collect(),
        ));
        Ok(this)
    }

    /// Compute on the CPU with `threads` threads.
    pub fn cpu(_backend: Backend, threads: u32) -> Result<Self, LlamaError> {
        let refused = || LlamaError::Memory {
            what: "a CPU backend".into(),
        };
        let backend = cpu_backend(threads)?;
        // SAFETY: plain constructors; each result is checked before use; the buffer type is static.
        unsafe {
            let allocator =
                sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.as_ptr()));
            let Some(allocator) = NonNull::new(allocator) else {
                sys::ggml_backend_free(backend.as_ptr());
                return Err(refused());
            };
            Ok(Self {
                backends: vec![backend],
                memory: Work::Cpu(allocator),
                bound: 0,
                times: None,
            })
        }
    }

    /// Place a graph in the work memory. Values of the graph bound before are lost.
    ///
    /// fails: too little memory, or an operation this device has not.
    pub fn bind(&mut self, graph: &mut Graph) -> Result<(), LlamaError> {
        if self.bound == graph.id {
            return Ok(());
        }
        self.bound = 0;
        displace(graph);
        let allocator = match &mut self.memory {
            Work::Cpu(allocator) => *allocator,
            Work::Scheduled(scheduler) => {
                scheduler.place(graph)?;
                self.bound = graph.id;
                return Ok(());
            }
        };
        let backend = self.backend();
        // SAFETY: nodes of this graph; the allocator is live.
        unsafe {
            for i in 0..sys::ggml_graph_n_nodes(graph.cgraph) {
                let node = sys::ggml_graph_node(graph.cgraph, i);
                if !sys::ggml_backend_supports_op(backend, node) {
                    let name = std::ffi::CStr::from_ptr(sys::ggml_op_desc(node))
                        .to_string_lossy()
                        .into_owned();
                    return Err(LlamaError::Graph(format!(
                        "the device cannot compute {name} of these types"
                    )));
                }
            }
            let placed = sys::ggml_gallocr_reserve(allocator.as_ptr(), graph.cgraph)
                && sys::ggml_gallocr_alloc_graph(allocator.as_ptr(), graph.cgraph);
            if !placed {
                return Err(LlamaError::Memory {
                    what: "a training graph".into(),
                });
            }
        }
        self.bound = graph.id;
        Ok(())
    }

    /// The work memory that a graph would need, without taking it.
    ///
    pub fn measure(&mut self, graph: &mut Graph) -> Result<WorkBytes, LlamaError> {
        if self.bound == graph.id {
            self.bound = 0;
        }
        displace(graph);
        if let Work::Scheduled(scheduler) = &self.memory {
            return scheduler.measure(graph);
        }
        // SAFETY: an allocator of its own, freed below, that computes the size of its one
        // buffer; it writes nothing into the graph.
        unsafe {
            let allocator =
                sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(self.backend()));
            let allocator = NonNull::new(allocator).ok_or_else(|| LlamaError::Memory {
                what: "an allocator".into(),
            })?;
            let mut bytes = 0;
            sys::ggml_gallocr_reserve_n_size(
                allocator.as_ptr(),
                graph.cgraph,
                std::ptr::null(),
                std::ptr::null(),
                &raw mut bytes,
            );
            sys::ggml_gallocr_free(allocator.as_ptr());
            Ok(WorkBytes {
                host: bytes,
                device: 0,
            })
        }
    }

    /// Work memory held now.
    pub fn work_bytes(&self) -> WorkBytes {
        match &self.memory {
            Work::Cpu(allocator) => WorkBytes {
                // SAFETY: a live allocator with one buffer.
                host: unsafe { sys::ggml_gallocr_get_buffer_size(allocator.as_ptr(), 0) },
                device: 0,
            },
            Work::Scheduled(scheduler) => scheduler.work_bytes(),
        }
    }

    /// Graphs run through ggml's scheduler: on a device, with the CPU behind it.
    pub fn is_scheduled(&self) -> bool {
        matches!(self.memory, Work::Scheduled(_))
    }

    /// What is free on the devices together, where there are any. units: bytes
    pub fn device_free(&self) -> Option<usize> {
        let devices = self.backends.len() - 1;
        // SAFETY: a live backend and its device.
        let free = |backend: &NonNull<sys::ggml_backend>| unsafe {
            let (mut free, mut total) = (0, 0);
            sys::ggml_backend_dev_memory(
                sys::ggml_backend_get_device(backend.as_ptr()),
                &raw mut free,
                &raw mut total,
            );
            free
        };
        self.is_scheduled()
            .then(|| self.backends[..devices].iter().map(free).sum())
    }

    /// What of the bound graph runs where; nothing where all is the CPU's.
    pub fn placement(&self, graph: &Graph) -> Option<Placement> {
        match &self.memory {
            Work::Scheduled(scheduler) if self.bound == graph.id => {
                Some(scheduler.placement(graph))
            }
            _ => None,
        }
    }

    /// The bound graph computes something from this input; any other has no memory to fill.
    pub fn reads(&self, graph: &Graph, input: Tensor) -> bool {
        self.placed(graph, input).is_ok()
    }

    /// Fill an input of the bound graph. Inputs must be filled before each run: the memory is
    /// reused.
    pub fn set_f32(
        &mut self,
        graph: &Graph,
        input: Tensor,
        values: &[f32],
    ) -> Result<(), LlamaError> {
        self.set(
            graph,
            input,
            Dtype::F32,
            values.as_ptr().cast(),
            values.len(),
        )
    }

    /// As `set_f32`, for inputs of F32 or F16.
    pub fn set_floats(
        &mut self,
        graph: &Graph,
        input: Tensor,
        values: &[f32],
    ) -> Result<(), LlamaError> {
        if graph.dtype(input)? != Dtype::F16 {
            return self.set_f32(graph, input, values);
        }
        // SAFETY: plain arithmetic.
        let halves: Vec<u16> = values
            .iter()
            .map(|value| unsafe { sys::ggml_fp32_to_fp16(*value) })
            .collect();
        self.set(
            graph,
            input,
            Dtype::F16,
            halves.as_ptr().cast(),
            halves.len(),
        )
    }

    /// As `set_f32`, for positions and row numbers; each must be below `limit`.
    pub fn set_ids(
        &mut self,
        graph: &Graph,
        input: Tensor,
        values: &[i32],
        limit: i64,
    ) -> Result<(), LlamaError> {
        if let Some(value) = values
            .iter()
            .find(|value| **value < 0 || i64::from(**value) >= limit)
        {
            return Err(LlamaError::Graph(format!("row {value} of {limit}")));
        }
        self.set(
            graph,
            input,
            Dtype::I32,
            values.as_ptr().cast(),
            values.len(),
        )
    }

    fn set(
        &mut self,
        graph: &Graph,
        input: Tensor,
        dtype: Dtype,
        values: *const std::ffi::c_void,
        count: usize,
    ) -> Result<(), LlamaError> {
        let raw = self.placed(graph, input)?;
        let elements: i64 = graph.shape(input)?.iter().product();
        if graph.dtype(input)? != dtype || usize::try_from(elements).ok() != Some(count) {
            return Err(LlamaError::Graph(format!(
                "{count} values of {} for {elements} of {}",
                dtype.name(),
                graph.dtype(input)?.name()
            )));
        }
        // SAFETY: placed, contiguous (inputs are), and type and length agree.
        unsafe { sys::ggml_backend_tensor_set(raw, values, 0, sys::ggml_nbytes(raw)) };
        Ok(())
    }

    /// Compute every node of the bound graph.
    pub fn run(&mut self, graph: &Graph) -> Result<(), LlamaError> {
        if self.bound != graph.id {
            return Err(LlamaError::Graph("the graph is not bound".into()));
        }
        let (backend, timed) = (self.backends[0], self.times.is_some());
        let (times, status) = match &mut self.memory {
            Work::Cpu(_) if timed => crate::timing::run(backend, graph),
            // SAFETY: bound, so every tensor has memory; operands were checked when the graph was
            // built.
            Work::Cpu(_) => (Vec::new(), unsafe {
                sys::ggml_backend_graph_compute(backend.as_ptr(), graph.cgraph)
            }),
            Work::Scheduled(scheduler) if timed => scheduler.run_timed(graph),
            Work::Scheduled(scheduler) => (Vec::new(), scheduler.run(graph)),
        };
        if timed {
            self.times = Some(times);
        }
        ended(status)
    }

    /// Take the time of each node in later runs.
    pub fn time(&mut self, on: bool) {
        self.times = on.then(Vec::new);
    }

    /// Seconds that each node of the last run took, by its place in the graph; empty unless runs
    /// are timed.
    pub fn times(&self) -> &[f64] {
        self.times.as_deref().unwrap_or_default()
    }

    /// Read an F32 output of the bound graph.
    pub fn get_f32(&self, graph: &Graph, output: Tensor) -> Result<Vec<f32>, LlamaError> {
        let raw = self.placed(graph, output)?;
        // SAFETY: placed; type and contiguity are checked before the copy, whose length is the
        // tensor's.
        unsafe {
            if (*raw).type_ != sys::GGML_TYPE_F32 || !sys::ggml_is_contiguous(raw) {
                return Err(LlamaError::Graph(
                    "only contiguous F32 tensors can be read".into(),
                ));
            }
            let mut values = vec![0_f32; sys::ggml_nbytes(raw) / 4];
            sys::ggml_backend_tensor_get(raw, values.as_mut_ptr().cast(), 0, values.len() * 4);
            Ok(values)
        }
    }

    /// Overwrite a stored tensor with bytes of its own type.
    pub fn write_stored(
        &mut self,
        storage: &Storage,
        index: usize,
        bytes: &[u8],
    ) -> Result<(), LlamaError> {
        // SAFETY: a live tensor.
        let room = unsafe { sys::ggml_nbytes(storage.tensor(index)?) };
        if bytes.len() != room {
            return Err(LlamaError::Graph(format!(
                "{} bytes for a tensor of {room}",
                bytes.len()
            )));
        }
        self.write_part(storage, index, 0, bytes)
    }

    /// Overwrite some bytes of a stored tensor, from `offset` on.
    pub fn write_part(
        &mut self,
        storage: &Storage,
        index: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), LlamaError> {
        let raw = storage.tensor(index)?;
        // SAFETY: a live tensor; the end is checked; no graph runs meanwhile, since running takes
        // `&mut self`.
        unsafe {
            let room = sys::ggml_nbytes(raw);
            if offset.checked_add(bytes.len()).is_none_or(|end| end > room) {
                return Err(LlamaError::Graph(format!(
                    "{} bytes at {offset} of {room}",
                    bytes.len()
                )));
            }
            sys::ggml_backend_tensor_set(raw, bytes.as_ptr().cast(), offset, bytes.len());
        }
        Ok(())
    }

    /// Overwrite a stored F32 tensor.
    pub fn write_floats(
        &mut self,
        storage: &Storage,
        index: usize,
        values: &[f32],
    ) -> Result<(), LlamaError> {
        let raw = storage.tensor(index)?;
        // SAFETY: as `write_stored`, and the type is checked.
        unsafe {
            if (*raw).type_ != sys::GGML_TYPE_F32 || sys::ggml_nbytes(raw) != size_of_val(values) {
                return Err(LlamaError::Graph(format!(
                    "{} floats for a tensor of {} bytes",
                    values.len(),
                    sys::ggml_nbytes(raw)
                )));
            }
            sys::ggml_backend_tensor_set(raw, values.as_ptr().cast(), 0, size_of_val(values));
        }
        Ok(())
    }

    /// Where a weight lies: a product with it runs there. The default for one that the model does
    /// not have.
    pub fn beside(&self, model: &Model, weight: &str) -> Place {
        let Some(raw) = model.tensor(weight) else {
            return Place::default();
        };
        // SAFETY: a weight of a live model, with its memory if it has one; live backends.
        let reads = |backend: &NonNull<sys::ggml_backend>| unsafe {
            let buffer = (*raw).buffer;
            !buffer.is_null()
                && sys::ggml_backend_supports_buft(
                    backend.as_ptr(),
                    sys::ggml_backend_buffer_get_type(buffer),
                )
        };
        Place(self.backends.iter().position(reads).unwrap_or(0))
    }

    /// A place that is not the CPU, except where that stands for a device.
    pub fn is_device(&self, place: Place) -> bool {
        place.0 + 1 < self.backends.len()
    }

    pub(crate) fn backend_at(&self, place: Place) -> sys::ggml_backend_t {
        self.backends
            .get(place.0)
            .unwrap_or(&self.backends[0])
            .as_ptr()
    }

    /// The first device.
    pub(crate) fn backend(&self) -> sys::ggml_backend_t {
        self.backends[0].as_ptr()
    }

    fn placed(&self, graph: &Graph, tensor: Tensor) -> Result<*mut sys::ggml_tensor, LlamaError> {
        let raw = graph.raw(tensor)?;
        // SAFETY: a live tensor of this graph.
        if self.bound != graph.id || unsafe { (*raw).data.is_null() } {
            return Err(LlamaError::Graph(
                "the tensor has no memory: its graph is not bound or does not need it".into(),
            ));
        }
        Ok(raw)
    }
}

fn cpu_backend(threads: u32) -> Result<NonNull<sys::ggml_backend>, LlamaError> {
    // SAFETY: plain constructors; the result is checked before use.
    unsafe {
        let backend =
            NonNull::new(sys::ggml_backend_cpu_init()).ok_or_else(|| LlamaError::Memory {
                what: "a CPU backend".into(),
            })?;
        sys::ggml_backend_cpu_set_n_threads(
            backend.as_ptr(),
            i32::try_from(threads.max(1)).unwrap_or(1),
        );
        Ok(backend)
    }
}

/// Forget where a graph's own tensors lie, so that an allocator sees them as new. Leaves of others
/// are left alone.
fn displace(graph: &mut Graph) {
    graph.rewire();
    // SAFETY: tensors of the graph's own context are live, and nothing runs on them meanwhile.
    unsafe {
        let mut own = sys::ggml_get_first_tensor(graph.ctx());
        while !own.is_null() {
            (*own).data = std::ptr::null_mut();
            (*own).buffer = std::ptr::null_mut();
            own = sys::ggml_get_next_tensor(graph.ctx(), own);
        }
    }
}

fn ended(status: sys::ggml_status) -> Result<(), LlamaError> {
    if status == sys::GGML_STATUS_SUCCESS {
        Ok(())
    } else {
        Err(LlamaError::Graph(format!(
            "computing failed with status {status}"
        )))
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        // SAFETY: the only owner; graphs are unbound by their next bind, stored tensors own their
        // buffers.
        unsafe {
            match &mut self.memory {
                Work::Cpu(allocator) => sys::ggml_gallocr_free(allocator.as_ptr()),
                Work::Scheduled(scheduler) => scheduler.free(),
            }
            for backend in &self.backends {
                sys::ggml_backend_free(backend.as_ptr());
            }
        }
    }
}
