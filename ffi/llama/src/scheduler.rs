//! Runs a graph on a device and, for what the device lacks, on the CPU. Counts what ran where.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::time::Instant;

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::graph::Graph;
use crate::timing;

/// What of a graph runs where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Operations (with the kind of their first operand) and devices, with how often.
    pub operations: BTreeMap<(String, String), usize>,
    /// Parts between which values move from one device to another.
    pub splits: usize,
}

impl Placement {
    /// Operations on one device, by its name.
    pub fn on(&self, device: &str) -> usize {
        self.operations
            .iter()
            .filter(|((_, at), _)| at == device)
            .map(|(_, count)| count)
            .sum()
    }
}

/// Work memory that a graph needs. units: bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkBytes {
    /// On the CPU.
    pub host: usize,
    /// On all other devices.
    pub device: usize,
}

/// ggml's scheduler over some backends, the CPU last.
pub(crate) struct Scheduler {
    backends: Vec<sys::ggml_backend_t>,
    /// Made for graphs of up to so many tensors.
    scheduler: Option<(NonNull<sys::ggml_backend_sched>, usize)>,
}

impl Scheduler {
    /// The backends must outlive the result; the last one must be a CPU.
    pub fn new(backends: Vec<sys::ggml_backend_t>) -> Self {
        Self {
            backends,
            scheduler: None,
        }
    }

    fn make(&self, tensors: usize) -> Result<NonNull<sys::ggml_backend_sched>, LlamaError> {
        let mut backends = self.backends.clone();
        let count = i32::try_from(backends.len()).unwrap_or(0);
        // SAFETY: live backends, the last a CPU, which is what ggml asserts; it copies the list.
        let raw = unsafe {
            sys::ggml_backend_sched_new(
                backends.as_mut_ptr(),
                std::ptr::null_mut(),
                count,
                tensors,
                false,
                false,
            )
        };
        NonNull::new(raw).ok_or_else(|| LlamaError::Memory {
            what: "a scheduler".into(),
        })
    }

    /// Give every tensor of a graph a device and memory. The graph's own tensors must have none.
    pub fn place(&mut self, graph: &Graph) -> Result<(), LlamaError> {
        let needed = graph.tensors_max();
        if self.scheduler.is_none_or(|(_, size)| size < needed) {
            self.free();
            self.scheduler = Some((self.make(needed)?, needed));
        }
        let Some((raw, _)) = self.scheduler else {
            return Err(LlamaError::Memory {
                what: "a scheduler".into(),
            });
        };
        // SAFETY: a live scheduler with room for the graph.
        let placed = unsafe {
            sys::ggml_backend_sched_reset(raw.as_ptr());
            sys::ggml_backend_sched_alloc_graph(raw.as_ptr(), graph.cgraph)
        };
        if placed {
            Ok(())
        } else {
            Err(LlamaError::Memory {
                what: "a training graph on the device".into(),
            })
        }
    }

    /// The work memory that a graph would need, without taking it.
    pub fn measure(&self, graph: &Graph) -> Result<WorkBytes, LlamaError> {
        let raw = self.make(graph.tensors_max())?;
        let mut sizes = vec![0; self.backends.len()];
        // SAFETY: a scheduler of its own, freed at once; one size for each backend.
        unsafe {
            sys::ggml_backend_sched_reserve_size(raw.as_ptr(), graph.cgraph, sizes.as_mut_ptr());
            sys::ggml_backend_sched_free(raw.as_ptr());
        }
        Ok(self.sum(&sizes))
    }

    pub fn work_bytes(&self) -> WorkBytes {
        let Some((raw, _)) = self.scheduler else {
            return WorkBytes::default();
        };
        // SAFETY: a live scheduler and its backends.
        let size = |backend: &sys::ggml_backend_t| unsafe {
            sys::ggml_backend_sched_get_buffer_size(raw.as_ptr(), *backend)
        };
        self.sum(&self.backends.iter().map(size).collect::<Vec<_>>())
    }

    /// ggml tells the size of a memory that several backends share at each of them, or at the
    /// first.
    fn sum(&self, sizes: &[usize]) -> WorkBytes {
        let mut seen = Vec::new();
        let mut sum = WorkBytes::default();
        for (place, (backend, bytes)) in self.backends.iter().zip(sizes).enumerate() {
            // SAFETY: a live backend.
            let kind = unsafe { sys::ggml_backend_get_default_buffer_type(*backend) };
            if seen.contains(&kind) {
                continue;
            }
            seen.push(kind);
            if place + 1 == self.backends.len() {
                sum.host += bytes;
            } else {
                sum.device += bytes;
            }
        }
        sum
    }

    /// Compute the placed graph.
    pub fn run(&mut self, graph: &Graph) -> sys::ggml_status {
        let Some((raw, _)) = self.scheduler else {
            return sys::GGML_STATUS_FAILED;
        };
        // SAFETY: the graph was placed by this scheduler.
        unsafe { sys::ggml_backend_sched_graph_compute(raw.as_ptr(), graph.cgraph) }
    }

    /// As `run`, with the seconds of each node; moving a node's operands to its device counts as
    /// its own.
    pub fn run_timed(&mut self, graph: &Graph) -> (Vec<f64>, sys::ggml_status) {
        let Some((raw, _)) = self.scheduler else {
            return (Vec::new(), sys::GGML_STATUS_FAILED);
        };
        // SAFETY: nodes of the graph.
        let node = |place: usize| unsafe {
            sys::ggml_graph_node(graph.cgraph, i32::try_from(place).unwrap_or(0))
        };
        let places = (0..graph.nodes())
            .map(|place| (node(place).cast_const(), place))
            .collect();
        let mut stops = Stops {
            places,
            seconds: vec![0.0; graph.nodes()],
            last: timing::now(),
        };
        // SAFETY: as in `run`; the callback and its data are taken back before `stops` ends.
        let status = unsafe {
            sys::ggml_backend_sched_set_eval_callback(
                raw.as_ptr(),
                Some(stop),
                (&raw mut stops).cast(),
            );
            let status = sys::ggml_backend_sched_graph_compute(raw.as_ptr(), graph.cgraph);
            sys::ggml_backend_sched_set_eval_callback(raw.as_ptr(), None, std::ptr::null_mut());
            status
        };
        (stops.seconds, status)
    }

    /// What of the placed graph runs where.
    pub fn placement(&self, graph: &Graph) -> Placement {
        let Some((raw, _)) = self.scheduler else {
            return Placement::default();
        };
        let mut operations = BTreeMap::new();
        for place in (0..graph.nodes()).filter(|place| graph.computes(*place)) {
            // SAFETY: a node of the placed graph; backends have static names.
            let device = unsafe {
                let node = sys::ggml_graph_node(graph.cgraph, i32::try_from(place).unwrap_or(0));
                let backend = sys::ggml_backend_sched_get_tensor_backend(raw.as_ptr(), node);
                if backend.is_null() {
                    "?".into()
                } else {
                    name_of(
                        backend,
                        self.backends.last().is_some_and(|last| *last == backend),
                    )
                }
            };
            *operations
                .entry((graph.describe(place), device))
                .or_default() += 1;
        }
        // SAFETY: a live scheduler.
        let splits = usize::try_from(unsafe { sys::ggml_backend_sched_get_n_splits(raw.as_ptr()) })
            .unwrap_or(0);
        Placement { operations, splits }
    }

    pub fn free(&mut self) {
        if let Some((raw, _)) = self.scheduler.take() {
            // SAFETY: the only owner; whoever was placed is placed anew before it runs.
            unsafe { sys::ggml_backend_sched_free(raw.as_ptr()) }
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.free();
    }
}

fn is_cpu(backend: sys::ggml_backend_t) -> bool {
    // SAFETY: a live backend.
    unsafe {
        sys::ggml_backend_dev_type(sys::ggml_backend_get_device(backend))
            == sys::GGML_BACKEND_DEVICE_TYPE_CPU
    }
}

/// A CPU that stands for a device has another name than the one behind it.
///
/// # Safety
/// `backend` must be live.
unsafe fn name_of(backend: sys::ggml_backend_t, last: bool) -> String {
    // SAFETY: the caller promises a live backend; its name is NUL-terminated and lives as long.
    let name = unsafe { CStr::from_ptr(sys::ggml_backend_name(backend)) }
        .to_string_lossy()
        .into_owned();
    if last || !is_cpu(backend) {
        name
    } else {
        format!("{name} as a device")
    }
}

struct Stops {
    places: HashMap<*const sys::ggml_tensor, usize>,
    seconds: Vec<f64>,
    last: Instant,
}

/// ggml calls before each node whether to stop after it, and again when it has.
unsafe extern "C" fn stop(node: *mut sys::ggml_tensor, ask: bool, stops: *mut c_void) -> bool {
    if !ask {
        // SAFETY: the pointer is `run_timed`'s own, used by one thread while it waits.
        let stops = unsafe { &mut *stops.cast::<Stops>() };
        if let Some(place) = stops.places.get(&node.cast_const()) {
            stops.seconds[*place] += stops.last.elapsed().as_secs_f64();
        }
        stops.last = timing::now();
    }
    true
}
