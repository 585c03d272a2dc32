//! CPU kernels for the gradients of operations that no short chain of ggml's covers: recurrences
//! and chosen matrices.
//!
//! All operands are contiguous F32 but for the weights of `mul_mat_id_back` and the choices (I32);
//! `Graph` checks the shapes. Each kernel divides its work so that a result does not depend on the
//! number of threads.

use std::ffi::c_void;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use llama_cpp_sys_2 as sys;

/// States kept between the recomputed stretches of a recurrence.
const STRETCH: usize = 16;

/// One operand: its sizes and numbers.
struct Operand<'a> {
    shape: [usize; 4],
    values: &'a [f32],
}

/// # Safety
/// `target` must be a placed tensor with a live, placed, contiguous F32 operand `index`.
unsafe fn operand<'a>(target: *mut sys::ggml_tensor, index: usize) -> Operand<'a> {
    // SAFETY: as promised.
    unsafe {
        let source = (*target).src[index];
        let shape = (*source).ne.map(|size| size as usize);
        Operand {
            shape,
            values: from_raw_parts((*source).data.cast::<f32>(), shape.iter().product()),
        }
    }
}

/// # Safety
/// `target` must be a placed tensor with a live, placed, contiguous I32 operand `index`.
unsafe fn choices<'a>(target: *mut sys::ggml_tensor, index: usize) -> &'a [i32] {
    // SAFETY: as promised.
    unsafe {
        let source = (*target).src[index];
        from_raw_parts(
            (*source).data.cast::<i32>(),
            (*source).ne.iter().product::<i64>() as usize,
        )
    }
}

/// A stretch of the result that one thread writes alone.
///
/// # Safety
/// The stretch must lie inside the result and be written by one thread only.
unsafe fn part<'a>(target: *mut sys::ggml_tensor, start: usize, length: usize) -> &'a mut [f32] {
    // SAFETY: as promised.
    unsafe { from_raw_parts_mut((*target).data.cast::<f32>().add(start), length) }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (mut lanes, split) = ([0_f32; 16], a.len() / 16 * 16);
    for (a, b) in a[..split].chunks_exact(16).zip(b[..split].chunks_exact(16)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>()
        + a[split..]
            .iter()
            .zip(&b[split..])
            .map(|(a, b)| a * b)
            .sum::<f32>()
}

/// y += factor x
fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

/// See `Graph::phi`.
///
/// source: Abramowitz and Stegun 7.1.26, to 1.5e-7
///
/// # Safety
/// As `Graph::kernel` says; called by ggml.
pub(crate) unsafe extern "C" fn phi(
    target: *mut sys::ggml_tensor,
    thread: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: operands as the caller promises; each thread has a stretch of its own.
    unsafe {
        let x = operand(target, 0);
        let (thread, threads, all) = (thread as usize, threads as usize, x.values.len());
        let (first, last) = (all * thread / threads, all * (thread + 1) / threads);
        for (to, x) in part(target, first, last - first)
            .iter_mut()
            .zip(&x.values[first..last])
        {
            let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
            let t = 1.0 / (1.0 + 0.327_591_1 * z);
            let poly = t
                * (0.254_829_6
                    + t * (-0.284_496_72 + t * (1.421_413_8 + t * (-1.453_152 + t * 1.061_405_4))));
            let tail = 0.5 * poly * (-z * z).exp();
            *to = if *x < 0.0 { tail } else { 1.0 - tail };
        }
    }
}

/// See `Graph::ssm_conv_back`: dx[t + j, c] += dy[c, t] w[j, c].
///
/// # Safety
/// As `Graph::kernel` says; called by ggml.
pub(crate) unsafe extern "C" fn ssm_conv_back(
    target: *mut sys::ggml_tensor,
    thread: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: operands as the caller promises; channels are divided among the threads.
    unsafe {
        let (dy, weights) = (operand(target, 0), operand(target, 1));
        let ([channels, tokens, sequences, _], taps) = (dy.shape, weights.shape[0]);
        let length = taps - 1 + tokens;
        for channel in (thread as usize..channels).step_by(threads as usize) {
            let w = &weights.values[channel * taps..(channel + 1) * taps];
            for sequence in 0..sequences {
                let dx = part(target, (sequence * channels + channel) * length, length);
                dx.fill(0.0);
                for t in 0..tokens {
                    add_scaled(
                        &mut dx[t..t + taps],
                        dy.values[(sequence * tokens + t) * channels + channel],
                        w,
                    );
                }
            }
        }
    }
}

/// See `Graph::gated_delta_net_back`.
///
/// source: the forward recurrence in ggml's `ggml_compute_forward_gated_delta_net`: M ← M e^g; d =
/// β (v − M k); M ← M + d kᵀ; y = M q / √s
///
/// # Safety
/// As `Graph::kernel` says; called by ggml.
pub(crate) unsafe extern "C" fn gated_delta_net_back(
    target: *mut sys::ggml_tensor,
    thread: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: operands as the caller promises; a thread owns whole groups of heads that share a q
    // and a k.
    unsafe {
        let [q, k, v, gate, beta, dy] = [0, 1, 2, 3, 4, 5].map(|index| operand(target, index));
        let ([s, heads, tokens, _], groups) = (v.shape, q.shape[1]);
        let sizes = [&q, &k, &v, &gate].map(|operand| operand.values.len());
        let starts = [
            0,
            sizes[0],
            sizes[0] + sizes[1],
            sizes[0] + sizes[1] + sizes[2],
            sizes.iter().sum(),
        ];
        let mut states = States::new(s, tokens);
        for group in (thread as usize..groups).step_by(threads as usize) {
            for t in 0..tokens {
                for start in &starts[..2] {
                    part(target, start + (t * groups + group) * s, s).fill(0.0);
                }
            }
            for head in (group..heads).step_by(groups) {
                let row = |operand: &Operand<'_>, count: usize, at: usize, t: usize| {
                    let width = operand.shape[0];
                    let from = (t * count + at) * width;
                    from_raw_parts(operand.values.as_ptr().add(from), width)
                };
                let at = |t: usize| Token {
                    q: row(&q, groups, group, t),
                    k: row(&k, groups, group, t),
                    v: row(&v, heads, head, t),
                    gate: row(&gate, heads, head, t),
                    beta: row(&beta, heads, head, t)[0],
                    dy: row(&dy, heads, head, t),
                };
                let width = gate.shape[0];
                states.head(tokens, at, |t| TokenGradient {
                    q: part(target, starts[0] + (t * groups + group) * s, s),
                    k: part(target, starts[1] + (t * groups + group) * s, s),
                    v: part(target, starts[2] + (t * heads + head) * s, s),
                    gate: part(target, starts[3] + (t * heads + head) * width, width),
                    beta: part(target, starts[4] + t * heads + head, 1),
                });
            }
        }
    }
}

/// What one head of a gated delta net reads at one token.
struct Token<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    gate: &'a [f32],
    beta: f32,
    dy: &'a [f32],
}

/// Where its gradients go. Those of q and k are added, for heads share them; the others are set.
struct TokenGradient<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    gate: &'a mut [f32],
    beta: &'a mut [f32],
}

/// Work memory of one thread: the state at the start of every stretch, and the states inside one.
struct States {
    size: usize,
    starts: Vec<f32>,
    inside: Vec<f32>,
    gradient: Vec<f32>,
    decayed: Vec<f32>,
    decay: Vec<f32>,
    residual: Vec<f32>,
}

impl States {
    fn new(size: usize, tokens: usize) -> Self {
        let square = size * size;
        Self {
            size,
            starts: vec![0.0; square * tokens.div_ceil(STRETCH)],
            inside: vec![0.0; square * (STRETCH + 1)],
            gradient: vec![0.0; square],
            decayed: vec![0.0; square],
            decay: vec![0.0; size],
            residual: vec![0.0; size],
        }
    }

    /// All tokens of one head: forward to the starts of the stretches, then backward through one
    /// stretch after the other.
    fn head<'a>(
        &mut self,
        tokens: usize,
        at: impl Fn(usize) -> Token<'a>,
        gradient: impl Fn(usize) -> TokenGradient<'a>,
    ) {
        let square = self.size * self.size;
        let mut state = vec![0.0; square];
        for t in 0..tokens {
            if t % STRETCH == 0 {
                self.starts[t / STRETCH * square..][..square].copy_from_slice(&state);
            }
            advance(&mut state, &at(t), &mut self.decay);
        }
        self.gradient.fill(0.0);
        for stretch in (0..tokens.div_ceil(STRETCH)).rev() {
            let (first, last) = (stretch * STRETCH, ((stretch + 1) * STRETCH).min(tokens));
            self.inside[..square].copy_from_slice(&self.starts[stretch * square..][..square]);
            for t in first..last {
                let (before, after) = self.inside[(t - first) * square..].split_at_mut(square);
                after[..square].copy_from_slice(before);
                advance(&mut after[..square], &at(t), &mut self.decay);
            }
            for t in (first..last).rev() {
                self.retreat(t - first, &at(t), &mut gradient(t));
            }
        }
    }

    /// One token backwards: `self.gradient` goes from that of the state after it to that of the
    /// state before it.
    fn retreat(&mut self, place: usize, token: &Token<'_>, out: &mut TokenGradient<'_>) {
        let (s, square) = (self.size, self.size * self.size);
        let scale = 1.0 / (s as f32).sqrt();
        let (before, after) = self.inside[place * square..(place + 2) * square].split_at(square);
        spread(token.gate, &mut self.decay);
        let (mut beta, mut decays) = (0.0, vec![0.0_f32; s]);
        for j in 0..s {
            let row = j * s..(j + 1) * s;
            let decayed = &mut self.decayed[row.clone()];
            decayed
                .iter_mut()
                .zip(&before[row.clone()])
                .zip(&self.decay)
                .for_each(|((to, from), decay)| *to = from * decay);
            self.residual[j] = token.v[j] - dot(decayed, token.k);
        }
        for j in 0..s {
            let row = j * s..(j + 1) * s;
            let gradient = &mut self.gradient[row.clone()];
            let dy = token.dy[j] * scale;
            add_scaled(out.q, dy, &after[row.clone()]);
            add_scaled(gradient, dy, token.q);
            let (error, written) = (dot(gradient, token.k), self.residual[j] * token.beta);
            beta += error * self.residual[j];
            let back = error * token.beta;
            out.v[j] = back;
            add_scaled(out.k, written, gradient);
            add_scaled(out.k, -back, &self.decayed[row.clone()]);
            add_scaled(gradient, -back, token.k);
            let decayed = &self.decayed[row];
            for ((sum, gradient), (decayed, decay)) in decays
                .iter_mut()
                .zip(gradient)
                .zip(decayed.iter().zip(&self.decay))
            {
                *sum += *gradient * decayed;
                *gradient *= decay;
            }
        }
        out.beta[0] = beta;
        if out.gate.len() == 1 {
            out.gate[0] = decays.iter().sum();
        } else {
            out.gate.copy_from_slice(&decays);
        }
    }
}

/// e^g for each key dimension, from one gate or one for each.
fn spread(gate: &[f32], decay: &mut [f32]) {
    for (i, decay) in decay.iter_mut().enumerate() {
        *decay = gate[if gate.len() == 1 { 0 } else { i }].exp();
    }
}

/// One token forwards. The state has a row of keys for each value.
fn advance(state: &mut [f32], token: &Token<'_>, decay: &mut [f32]) {
    spread(token.gate, decay);
    for (row, v) in state.chunks_exact_mut(decay.len()).zip(token.v) {
        row.iter_mut()
            .zip(&*decay)
            .for_each(|(value, decay)| *value *= decay);
        let written = (v - dot(row, token.k)) * token.beta;
        add_scaled(row, written, token.k);
    }
}

/// See `Graph::ssm_scan_back`.
///
/// source: the forward recurrence in ggml's `ggml_compute_forward_ssm_scan_f32`: Δ = softplus(dt);
/// s ← s e^(ΔA) + B x Δ; y = s · C
///
/// # Safety
/// As `Graph::kernel` says; called by ggml.
pub(crate) unsafe extern "C" fn ssm_scan_back(
    target: *mut sys::ggml_tensor,
    thread: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: operands as the caller promises; a thread owns whole groups of heads that share a B
    // and a C.
    unsafe {
        let [x, dt, a, b, c, dy] = [0, 1, 2, 3, 4, 5].map(|index| operand(target, index));
        let ([width, heads, tokens, _], [size, groups, ..]) = (x.shape, b.shape);
        let starts = [
            0,
            x.values.len(),
            x.values.len() + dt.values.len(),
            x.values.len() + dt.values.len() + b.values.len(),
        ];
        let each = heads / groups;
        let mut states = vec![0.0_f32; (tokens + 1) * size];
        for group in (thread as usize..groups).step_by(threads as usize) {
            for t in 0..tokens {
                part(target, starts[2] + (t * groups + group) * size, size).fill(0.0);
                part(target, starts[3] + (t * groups + group) * size, size).fill(0.0);
            }
            for head in group * each..(group + 1) * each {
                let mut steps: Vec<f32> = vec![0.0; tokens];
                let rates = &a.values[head * a.shape[0]..(head + 1) * a.shape[0]];
                let rate = |i: usize| rates[if rates.len() == 1 { 0 } else { i }];
                let step = |t: usize| softplus(dt.values[t * heads + head]);
                let place = |t: usize| (t * groups + group) * size;
                for channel in 0..width {
                    let at = |t: usize| (t * heads + head) * width + channel;
                    states[..size].fill(0.0);
                    for t in 0..tokens {
                        let (before, after) = states[t * size..].split_at_mut(size);
                        let (step, moved) = (step(t), x.values[at(t)] * step(t));
                        for i in 0..size {
                            after[i] =
                                before[i] * (step * rate(i)).exp() + b.values[place(t) + i] * moved;
                        }
                    }
                    let mut gradient = vec![0.0_f32; size];
                    for t in (0..tokens).rev() {
                        let (before, after) = states[t * size..].split_at(size);
                        let (step, dy, x) = (step(t), dy.values[at(t)], x.values[at(t)]);
                        let (db, dc) = (
                            part(target, starts[2] + place(t), size),
                            part(target, starts[3] + place(t), size),
                        );
                        let (mut dx, mut dstep) = (0.0, 0.0);
                        for i in 0..size {
                            let (b, decay) = (b.values[place(t) + i], (step * rate(i)).exp());
                            let g = gradient[i] + dy * c.values[place(t) + i];
                            dc[i] += dy * after[i];
                            dstep += g * (before[i] * decay * rate(i) + b * x);
                            dx += g * b;
                            db[i] += g * x * step;
                            gradient[i] = g * decay;
                        }
                        part(target, at(t), 1)[0] = dx * step;
                        steps[t] += dstep;
                    }
                }
                for (t, step) in steps.iter().enumerate() {
                    let value = dt.values[t * heads + head];
                    let slope = if value > SOFTPLUS_LINEAR {
                        1.0
                    } else {
                        1.0 / (1.0 + (-value).exp())
                    };
                    part(target, starts[1] + t * heads + head, 1)[0] = step * slope;
                }
            }
        }
    }
}

/// ggml's softplus is the identity above this.
const SOFTPLUS_LINEAR: f32 = 20.0;

fn softplus(x: f32) -> f32 {
    if x > SOFTPLUS_LINEAR {
        x
    } else {
        x.exp().ln_1p()
    }
}

/// See `Graph::mul_mat_id_back`. Rows of the first operand are read in its own type, one after the
/// other.
///
/// # Safety
/// As `Graph::kernel` says, with a first operand of any type that ggml converts to F32; called by
/// ggml.
pub(crate) unsafe extern "C" fn mul_mat_id_back(
    target: *mut sys::ggml_tensor,
    thread: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: operands as the caller promises; a thread owns whole experts, and each (token,
    // choice) belongs to one.
    unsafe {
        let (weights, dy, ids) = ((*target).src[0], operand(target, 1), choices(target, 2));
        let [k, m, experts, _] = (*weights).ne.map(|size| size as usize);
        let [_, row_bytes, expert_bytes, _] = (*weights).nb;
        let convert = (*sys::ggml_get_type_traits((*weights).type_)).to_float;
        let mut row = vec![0.0_f32; k];
        for expert in (thread as usize..experts).step_by(threads as usize) {
            let pairs: Vec<usize> = (0..ids.len())
                .filter(|pair| ids[*pair] == expert as i32)
                .collect();
            for pair in &pairs {
                part(target, pair * k, k).fill(0.0);
            }
            for j in 0..if pairs.is_empty() { 0 } else { m } {
                let from = (*weights)
                    .data
                    .cast::<u8>()
                    .add(expert * expert_bytes + j * row_bytes);
                match convert {
                    Some(convert) => convert(from.cast(), row.as_mut_ptr(), k as i64),
                    None => row.copy_from_slice(from_raw_parts(from.cast::<f32>(), k)),
                }
                for pair in &pairs {
                    add_scaled(part(target, pair * k, k), dy.values[pair * m + j], &row);
                }
            }
        }
    }
}

/// See `Graph::mul_mat_id_weights`.
///
/// # Safety
/// As `Graph::kernel` says; called by ggml.
pub(crate) unsafe extern "C" fn mul_mat_id_weights(
    target: *mut sys::ggml_tensor,
    thread: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: operands as the caller promises; a thread owns whole experts.
    unsafe {
        let (x, dy, ids) = (operand(target, 0), operand(target, 1), choices(target, 2));
        let ([k, rows, ..], [m, chosen, ..]) = (x.shape, dy.shape);
        let experts = (*target).ne[2] as usize;
        for expert in (thread as usize..experts).step_by(threads as usize) {
            let gradient = part(target, expert * k * m, k * m);
            gradient.fill(0.0);
            for pair in (0..ids.len()).filter(|pair| ids[*pair] == expert as i32) {
                let (token, choice) = (pair / chosen, pair % chosen);
                let from = (token * rows + if rows == 1 { 0 } else { choice }) * k;
                for j in 0..m {
                    add_scaled(
                        &mut gradient[j * k..(j + 1) * k],
                        dy.values[pair * m + j],
                        &x.values[from..from + k],
                    );
                }
            }
        }
    }
}
