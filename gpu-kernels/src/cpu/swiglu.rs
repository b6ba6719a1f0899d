//! SwiGLU (Shazeer, 2020): h = gate · σ(gate) · up, on rows \[gate, up\].

use super::rows::{RowPeaks, TASK_ROWS, Written};
use super::simd::Simd;
use crate::arithmetic::{add, magnitude, mul, sub};
use crate::functions::sigmoid;
use rayon::prelude::*;

/// Writes h (rows of `width`) from rows \[gate, up\] of 2·width; tells the largest magnitudes in h.
pub(crate) fn forward<'a>(simd: Simd, gate_up: &'a [f32], width: usize, h: &'a mut [f32]) -> impl Written<'a> {
    let tasks = gate_up.par_chunks(2 * TASK_ROWS * width).zip(h.par_chunks_mut(TASK_ROWS * width));
    tasks.map(move |(gate_up, h)| {
        let peaks = forward_rows(simd, gate_up, width, h);
        (&*h, peaks, ())
    })
}

/// Writes the gradient of \[gate, up\]; tells its largest magnitudes.
pub(crate) fn backward<'a>(
    simd: Simd,
    dh: &'a [f32],
    gate_up: &'a [f32],
    width: usize,
    out: &'a mut [f32],
) -> impl Written<'a> {
    let task = TASK_ROWS * width;
    let inputs = dh.par_chunks(task).zip(gate_up.par_chunks(2 * task));
    inputs.zip(out.par_chunks_mut(2 * task)).map(move |((dh, gate_up), out)| {
        let peaks = backward_rows(simd, dh, gate_up, width, out);
        (&*out, peaks, ())
    })
}

dispatch! {
    fn forward_rows(gate_up: &[f32], width: usize, h: &mut [f32]) -> RowPeaks {
        let mut peaks = RowPeaks::default();
        for ((gate_up, h), row_peak) in gate_up.chunks_exact(2 * width).zip(h.chunks_exact_mut(width)).zip(&mut peaks) {
            let mut peak = 0;
            let (gate, up) = gate_up.split_at(width);
            for ((h, &gate), &up) in h.iter_mut().zip(gate).zip(up) {
                *h = mul(mul(gate, sigmoid(gate)), up);
                peak = peak.max(magnitude(*h));
            }
            *row_peak = peak;
        }
        peaks
    }
}

dispatch! {
    fn backward_rows(dh: &[f32], gate_up: &[f32], width: usize, out: &mut [f32]) -> RowPeaks {
        let mut peaks = RowPeaks::default();
        let rows = dh.chunks_exact(width).zip(gate_up.chunks_exact(2 * width));
        for (((dh, gate_up), out), row_peak) in rows.zip(out.chunks_exact_mut(2 * width)).zip(&mut peaks) {
            let mut peak = 0;
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
            *row_peak = peak;
        }
        peaks
    }
}
