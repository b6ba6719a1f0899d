//! SwiGLU (Shazeer, 2020): h = gate · σ(gate) · up, on rows \[gate, up\].

use super::simd::Simd;
use crate::arithmetic::{add, magnitude, mul, sub};
use crate::functions::sigmoid;
use rayon::prelude::*;

/// Rows that one task computes.
const TASK_ROWS: usize = 8;

/// Writes h (rows of `width`) from rows \[gate, up\] of 2·width; the largest magnitude in h.
pub(crate) fn forward(simd: Simd, gate_up: &[f32], width: usize, h: &mut [f32]) -> u32 {
    let tasks = gate_up.par_chunks(2 * TASK_ROWS * width).zip(h.par_chunks_mut(TASK_ROWS * width));
    tasks.map(|(gate_up, h)| forward_rows(simd, gate_up, width, h)).reduce(|| 0, u32::max)
}

/// Writes the gradient of \[gate, up\]; its largest magnitude.
pub(crate) fn backward(simd: Simd, dh: &[f32], gate_up: &[f32], width: usize, out: &mut [f32]) -> u32 {
    let task = TASK_ROWS * width;
    let inputs = dh.par_chunks(task).zip(gate_up.par_chunks(2 * task));
    inputs
        .zip(out.par_chunks_mut(2 * task))
        .map(|((dh, gate_up), out)| backward_rows(simd, dh, gate_up, width, out))
        .reduce(|| 0, u32::max)
}

dispatch! {
    fn forward_rows(gate_up: &[f32], width: usize, h: &mut [f32]) -> u32 {
        let mut peak = 0;
        for (gate_up, h) in gate_up.chunks_exact(2 * width).zip(h.chunks_exact_mut(width)) {
            let (gate, up) = gate_up.split_at(width);
            for ((h, &gate), &up) in h.iter_mut().zip(gate).zip(up) {
                *h = mul(mul(gate, sigmoid(gate)), up);
                peak = peak.max(magnitude(*h));
            }
        }
        peak
    }
}

dispatch! {
    fn backward_rows(dh: &[f32], gate_up: &[f32], width: usize, out: &mut [f32]) -> u32 {
        let mut peak = 0;
        let rows = dh.chunks_exact(width).zip(gate_up.chunks_exact(2 * width));
        for ((dh, gate_up), out) in rows.zip(out.chunks_exact_mut(2 * width)) {
            let (gate, up) = gate_up.split_at(width);
            let (d_gate, d_up) = out.split_at_mut(width);
            let inputs = dh.iter().zip(gate).zip(up);
            for (((&dh, &gate), &up), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
                let s = sigmoid(gate);
                *d_up = mul(dh, mul(gate, s));
                // σ·(1 + gate·(1 − σ)) is the slope of gate·σ(gate).
                let slope = mul(s, add(1.0, mul(gate, sub(1.0, s))));
                *d_gate = mul(mul(dh, up), slope);
                peak = peak.max(magnitude(*d_up)).max(magnitude(*d_gate));
            }
        }
        peak
    }
}
