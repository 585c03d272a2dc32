//! Takes the time of each node of a graph, for benchmarks.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Instant;

use llama_cpp_sys_2 as sys;

use crate::graph::Graph;

/// The time: what nodes take is measured here, and decides nothing.
#[expect(clippy::disallowed_methods, reason = "ggml's callbacks carry no clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// When each node ended, by ggml's first thread.
struct Stops(Vec<Instant>);

/// ggml calls after each node to learn whether to go on.
unsafe extern "C" fn stop(stops: *mut c_void) -> bool {
    // SAFETY: the pointer is `run`'s own, used by one thread while it waits.
    unsafe { (*stops.cast::<Stops>()).0.push(now()) };
    false
}

/// Compute a bound graph; returns the seconds of each node and ggml's status.
pub(crate) fn run(
    backend: NonNull<sys::ggml_backend>,
    graph: &Graph,
) -> (Vec<f64>, sys::ggml_status) {
    let mut stops = Stops(Vec::with_capacity(graph.nodes() + 1));
    stops.0.push(now());
    // SAFETY: the caller's graph is bound and its backend the CPU's; the callback and its data are
    // taken back before `stops` ends.
    let status = unsafe {
        sys::ggml_backend_cpu_set_abort_callback(
            backend.as_ptr(),
            Some(stop),
            (&raw mut stops).cast(),
        );
        let status = sys::ggml_backend_graph_compute(backend.as_ptr(), graph.cgraph);
        sys::ggml_backend_cpu_set_abort_callback(backend.as_ptr(), None, std::ptr::null_mut());
        status
    };
    let mut seconds = vec![0.0; graph.nodes()];
    let spans = stops
        .0
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64());
    for (place, span) in computed(graph).into_iter().zip(spans) {
        seconds[place] = span;
    }
    (seconds, status)
}

/// The nodes that ggml calls for: not those that compute nothing, nor a product that is fused into
/// the norm before it.
fn computed(graph: &Graph) -> Vec<usize> {
    // SAFETY: live nodes of the caller's graph.
    let node = |place: usize| unsafe {
        &*sys::ggml_graph_node(graph.cgraph, i32::try_from(place).unwrap_or(0))
    };
    let reads = |reader: &sys::ggml_tensor, what: *const sys::ggml_tensor| {
        reader.src.iter().any(|source| source.cast_const() == what)
    };
    let mut places = Vec::new();
    let mut place = 0;
    while place < graph.nodes() {
        let this = node(place);
        let empty = [
            sys::GGML_OP_NONE,
            sys::GGML_OP_VIEW,
            sys::GGML_OP_RESHAPE,
            sys::GGML_OP_PERMUTE,
            sys::GGML_OP_TRANSPOSE,
        ];
        if !empty.contains(&this.op) {
            places.push(place);
            let fused = this.op == sys::GGML_OP_RMS_NORM
                && place + 1 < graph.nodes()
                && node(place + 1).op == sys::GGML_OP_MUL
                && reads(node(place + 1), this)
                && (place + 2..graph.nodes()).all(|later| !reads(node(later), this));
            place += usize::from(fused);
        }
        place += 1;
    }
    places
}
