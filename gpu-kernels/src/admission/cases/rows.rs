//! Known answers of the kernels that work on rows: norms, rotary turns,
//! softmax, SwiGLU, cross-entropy and embedding.

use super::super::bench::{Bench, Outcome, SLOT, expect};
use super::super::vectors::{ordinary, spread, tokens};
use super::Cases;
use crate::arithmetic::from_host;
use crate::buffers::{Buffer, bits};
use crate::cpu;
use crate::cpu::cross_entropy::Judged;
use crate::cpu::reduce::add_assign;
use crate::cpu::rope::{Rotary, Turn};
use crate::cpu::rows::peak_of;
use crate::error::EngineError;
use crate::gpu::ops;
use rayon::prelude::*;

/// Inputs and native results of a norm.
struct NormCase {
    rows: usize,
    width: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    dy: Vec<f32>,
    y: Vec<f32>,
    inverse: Vec<f32>,
    peak: u32,
}

const EPSILON: f32 = 1e-5;

fn norm_cases(bench: &Bench) -> Vec<NormCase> {
    let mut cases = Vec::new();
    for (rows, width) in [(3, 36), (45, 77), (70, 8)] {
        for (x_range, weight_range) in [((-3, 1), (-2, 1)), ((-60, -40), (-60, -38)), ((18, 19), (36, 39))] {
            let seed = (rows + width) as u32;
            let x = spread(rows * width, seed, x_range.0, x_range.1);
            let weight = spread(width, seed + 1, weight_range.0, weight_range.1);
            let dy = spread(rows * width, seed + 2, x_range.0, x_range.1);
            let (mut y, mut inverse) = (vec![0.0; x.len()], vec![0.0; rows]);
            let norm = cpu::rmsnorm::RmsNorm { simd: bench.simd, weight: &weight, epsilon: EPSILON };
            let peak = bench.pool.install(|| peak_of(norm.forward(&x, &mut y, &mut inverse)));
            cases.push(NormCase { rows, width, x, weight, dy, y, inverse, peak });
        }
    }
    cases
}

impl NormCase {
    fn device(&self, bench: &Bench) -> Result<ops::rms_norm::RmsNorm, EngineError> {
        let parameters = bench.floats(&self.weight)?;
        Ok(ops::rms_norm::RmsNorm { parameters, weight: 0, width: self.width, epsilon: EPSILON })
    }

    fn native<'a>(&'a self, bench: &Bench) -> cpu::rmsnorm::RmsNorm<'a> {
        cpu::rmsnorm::RmsNorm { simd: bench.simd, weight: &self.weight, epsilon: EPSILON }
    }

    fn backward_inputs(&self, bench: &Bench) -> Result<[Buffer; 3], EngineError> {
        Ok([bench.floats(&self.dy)?, bench.floats(&self.x)?, bench.floats(&self.inverse)?])
    }
}

pub(super) fn rms_norm(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for case in norm_cases(bench) {
        let (x, y, inverse) = (bench.floats(&case.x)?, bench.garbage(case.x.len())?, bench.garbage(case.rows)?);
        let dispatch = case.device(bench)?.forward((&x, 0), case.rows, &y, &inverse, SLOT);
        let found = bench.run(&[dispatch], &[&y, &inverse])?;
        outcomes.push(Outcome { found, expected: expect(&[&case.y, &case.inverse], case.peak) });
    }
    Ok(outcomes)
}

pub(super) fn rms_norm_backward(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for case in norm_cases(bench) {
        for accumulate in [true, false] {
            let start = if accumulate { ordinary(case.x.len(), 9) } else { vec![0.0; case.x.len()] };
            let dx = if accumulate { bench.floats(&start)? } else { bench.garbage(start.len())? };
            let [dy, x, inverse] = case.backward_inputs(bench)?;
            let dispatch = case.device(bench)?.backward([&dy, &x, &inverse], case.rows, (&dx, accumulate), SLOT);
            let found = bench.run(&[dispatch], &[&dx])?;
            let mut expected = start;
            let norm = case.native(bench);
            let peak = bench.pool.install(|| norm.backward(&case.dy, &case.x, &case.inverse, &mut expected));
            outcomes.push(Outcome { found, expected: expect(&[&expected], peak) });
        }
    }
    Ok(outcomes)
}

pub(super) fn rms_norm_weight_gradient(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for case in norm_cases(bench) {
        let gradient = bench.garbage(case.width)?;
        let [dy, x, inverse] = case.backward_inputs(bench)?;
        let dispatch = case.device(bench)?.weight_gradient([&dy, &x, &inverse], case.rows, &gradient, SLOT);
        let found = bench.run(&[dispatch], &[&gradient])?;
        let mut dw = vec![0.0; case.width];
        let norm = case.native(bench);
        let peak = bench.pool.install(|| norm.weight_gradient(&case.dy, &case.x, &case.inverse, &mut dw));
        outcomes.push(Outcome { found, expected: expect(&[&dw], peak) });
    }
    Ok(outcomes)
}

pub(super) fn rope(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let (sequences, length, head_dim, heads, row_width, first) = (2, 9, 6, 3, 25, 4);
    let mut rotary = Rotary::new(head_dim, 10_000.0);
    rotary.extend_to(length);
    let table: Vec<f32> = rotary.angles().flat_map(|(cosine, sine)| [cosine, sine]).collect();
    let angles = bench.floats(&table)?;
    let native = cpu::rope::HeadLayout { simd: bench.simd, length, head_dim, heads, row_width, first };
    let device = ops::rope::HeadLayout { sequences, length, head_dim, heads, row_width, first };
    let (row_elements, head_elements) = (sequences * length * row_width, sequences * length * heads * head_dim);
    for (low, high) in [(-3, 1), (-100, -96), (36, 39)] {
        let (rows, by_head) = (spread(row_elements, 1, low, high), spread(head_elements, 2, low, high));
        for turn in [Turn::Not, Turn::Forward, Turn::Backward] {
            let out = bench.garbage(head_elements)?;
            let dispatch = device.split(&angles, turn, &bench.floats(&rows)?, &out, SLOT);
            let found = bench.run(&[dispatch], &[&out])?;
            let mut heads = vec![0.0; head_elements];
            let peak = bench.pool.install(|| native.split(&rotary, turn, &rows, &mut heads));
            outcomes.push(Outcome { found, expected: expect(&[&heads], peak) });

            let out = bench.floats(&rows)?;
            let dispatch = device.merge(&angles, turn, &bench.floats(&by_head)?, &out, SLOT);
            let found = bench.run(&[dispatch], &[&out])?;
            let mut merged = rows.clone();
            let peak =
                bench.pool.install(|| peak_of(cpu::rope::merge(&rotary, [(native, turn, &by_head)], &mut merged)));
            outcomes.push(Outcome { found, expected: expect(&[&merged], peak) });
        }
    }
    Ok(outcomes)
}

/// One head of scores: length, stride, scale, values.
fn score_cases() -> Vec<(usize, usize, f32, Vec<f32>)> {
    let mut cases = Vec::new();
    for length in [1, 9, 33, 70] {
        let stride = usize::div_ceil(length, 32) * 32;
        let scale = from_host(1.0 / (length as f64 + 2.0).sqrt());
        for (low, high) in [(-3, 3), (-100, -97), (36, 41), (3, 7)] {
            let scores = spread(length * stride, length as u32, low, high);
            cases.push((length, stride, scale, scores));
        }
    }
    // Rows long enough for the faintest probabilities to be flushed.
    let (length, stride) = (300, 320);
    let scores = spread(length * stride, 5, 0, 0).into_iter().map(|x| if x < -1.9 { 32.5 * x } else { 0.0 });
    cases.push((length, stride, 1.0, scores.collect()));
    let faint = spread(33 * 64, 6, -96, -90);
    cases.push((33, 64, 0.5, faint));
    cases
}

pub(super) fn softmax_causal(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (length, stride, scale, mut scores) in score_cases() {
        let buffer = bench.floats(&scores)?;
        let shape = ops::attention::Scores { heads: 1, length, stride, scale };
        let found = bench.run(&[shape.softmax(&buffer, SLOT)], &[&buffer])?;
        let peak = cpu::softmax::softmax_causal(bench.simd, &mut scores, stride, scale, 0);
        cpu::softmax::clear_behind_reach(&mut scores, stride);
        outcomes.push(Outcome { found, expected: expect(&[&scores], peak) });
    }
    Ok(outcomes)
}

pub(super) fn softmax_causal_backward(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (length, stride, scale, mut gradient) in score_cases() {
        let mut probabilities = spread(length * stride, 77, -4, 2);
        cpu::softmax::softmax_causal(bench.simd, &mut probabilities, stride, 1.0, 0);
        cpu::softmax::clear_behind_reach(&mut probabilities, stride);
        let buffers = (bench.floats(&probabilities)?, bench.floats(&gradient)?);
        let shape = ops::attention::Scores { heads: 1, length, stride, scale };
        let dispatch = shape.softmax_backward(&buffers.0, &buffers.1, SLOT);
        let found = bench.run(&[dispatch], &[&buffers.1])?;
        let peak = cpu::softmax::softmax_causal_backward(bench.simd, &probabilities, &mut gradient, stride, scale, 0);
        cpu::softmax::clear_behind_reach(&mut gradient, stride);
        outcomes.push(Outcome { found, expected: expect(&[&gradient], peak) });
    }
    Ok(outcomes)
}

pub(super) fn group_sum(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let (heads, members, (length, width)) = (3, 5, (7, 11));
    let elements = length * width;
    for (low, high) in [(-6, 0), (-100, -98), (38, 39)] {
        let parts = spread(heads * members * elements, 3, low, high);
        let total = bench.garbage(heads * elements)?;
        let parts_there = bench.floats(&parts)?;
        let dispatch = ops::attention::group_sum(&parts_there, (heads, members), (length, width), (&total, 0), SLOT);
        let found = bench.run(&[dispatch], &[&total])?;
        let (mut sums, mut peak) = (vec![0.0; heads * elements], 0);
        for (head, sums) in sums.chunks_exact_mut(elements).enumerate() {
            for part in parts[head * members * elements..].chunks_exact(elements).take(members) {
                peak = peak.max(add_assign(bench.simd, sums, part));
            }
        }
        outcomes.push(Outcome { found, expected: expect(&[&sums], peak) });
    }
    Ok(outcomes)
}

/// Rows, width, gradients of h, and rows \[gate, up\].
fn gate_cases() -> Vec<(usize, usize, Vec<f32>, Vec<f32>)> {
    let (rows, width) = (9, 51);
    [(-4, 2), (-60, -45), (2, 6), (19, 21)]
        .into_iter()
        .map(|(low, high)| (rows, width, spread(rows * width, 5, low, high), spread(2 * rows * width, 6, low, high)))
        .collect()
}

pub(super) fn swiglu(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (rows, width, dh, gate_up) in gate_cases() {
        let h = bench.garbage(dh.len())?;
        let dispatch = ops::swiglu::swiglu(&bench.floats(&gate_up)?, (rows, width), &h, SLOT);
        let found = bench.run(&[dispatch], &[&h])?;
        let mut expected = vec![0.0; dh.len()];
        let peak = bench.pool.install(|| peak_of(cpu::swiglu::forward(bench.simd, &gate_up, width, &mut expected)));
        outcomes.push(Outcome { found, expected: expect(&[&expected], peak) });
    }
    Ok(outcomes)
}

pub(super) fn swiglu_backward(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (rows, width, dh, gate_up) in gate_cases() {
        let out = bench.garbage(gate_up.len())?;
        let inputs = (bench.floats(&dh)?, bench.floats(&gate_up)?);
        let dispatch = ops::swiglu::swiglu_backward([&inputs.0, &inputs.1], (rows, width), &out, SLOT);
        let found = bench.run(&[dispatch], &[&out])?;
        let mut expected = vec![0.0; gate_up.len()];
        let peak =
            bench.pool.install(|| peak_of(cpu::swiglu::backward(bench.simd, &dh, &gate_up, width, &mut expected)));
        outcomes.push(Outcome { found, expected: expect(&[&expected], peak) });
    }
    Ok(outcomes)
}

pub(super) fn cross_entropy(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let (rows, width) = (21, 45);
    let targets = tokens(rows, 8, width);
    for ((low, high), scale) in [
        ((-4, 3), Some(from_host(1.0 / 21.0))),
        ((0, 5), Some(f32::from_bits(27 << 23 | 77))),
        ((-100, -90), None),
        ((9, 11), None),
    ] {
        let mut logits = spread(rows * width, 7, low, high);
        // Of three rows, one's target is a hit and one's is level with the largest of the others.
        for (row, &target) in logits.chunks_exact_mut(width).zip(&targets).step_by(3) {
            row[target as usize] = f32::from_bits(((128 + high) as u32) << 23);
        }
        for (row, &target) in logits.chunks_exact_mut(width).zip(&targets).skip(1).step_by(3) {
            row[target as usize] = f32::from_bits(0xff7f_ffff);
            row[target as usize] = cpu::reduce::row_maximum(row);
        }
        let (buffer, losses) = (bench.floats(&logits)?, bench.garbage(rows)?);
        let dispatches =
            ops::cross_entropy::cross_entropy(&buffer, (rows, width), &bench.words(&targets)?, scale, &losses, SLOT);
        let mut found = bench.run(&dispatches, &[&losses, &buffer])?;
        let written = cpu::cross_entropy::cross_entropy(bench.simd, &mut logits, &targets, scale);
        let judged = bench.pool.install(|| Judged::sum(written.map(|(_, _, judged)| judged)));
        let failed = found.pop();
        // The native twin gives the sums of losses and hits only, and nothing if one fails.
        let sum: u64 = found[..rows].iter().map(|&loss| u64::from(loss & !(1 << 31))).sum();
        let hits: u32 = found[..rows].iter().map(|&loss| loss >> 31).sum();
        let mut comparable = vec![failed.unwrap_or(0)];
        let mut expected = vec![u32::from(judged.is_none())];
        if let Some(Judged { fixed, hits: expected_hits }) = judged {
            comparable.extend([sum as u32, (sum >> 32) as u32, hits]);
            expected.extend([fixed as u32, (fixed >> 32) as u32, expected_hits as u32]);
            if scale.is_some() {
                comparable.extend(&found[rows..]);
                expected.extend(bits(&logits));
            }
        }
        outcomes.push(Outcome { found: comparable, expected });
    }
    Ok(outcomes)
}

pub(super) fn embedding(bench: &mut Bench) -> Cases {
    let (vocab_size, width, count, offset) = (29, 37, 41, 11);
    let (table, places) = (spread(offset + vocab_size * width, 1, -100, 39), tokens(count, 2, vocab_size));
    let rows = bench.garbage(count * width)?;
    let (parameters, list) = (bench.floats(&table)?, bench.words(&places)?);
    let shape = (vocab_size, width);
    let dispatches = ops::embedding::embedding((&parameters, offset), shape, (&list, count), &rows);
    let found = bench.run(&dispatches, &[&rows])?;
    let mut expected = vec![0.0; count * width];
    bench.pool.install(|| cpu::embedding::gather(&table[offset..], &places, width, &mut expected));
    Ok(vec![Outcome { found, expected: expect(&[&expected], 0) }])
}

pub(super) fn embedding_gradient(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let (vocab_size, width, count) = (13, 37, 60);
    let list = tokens(count, 3, vocab_size - 2);
    let mut segments = cpu::embedding::Segments::default();
    segments.sort(&list, vocab_size);
    let (starts, places) = (bench.words(segments.offsets())?, bench.words(segments.all_places())?);
    for (low, high) in [(-6, 0), (-100, -98), (37, 39)] {
        for accumulate in [true, false] {
            let dx = spread(count * width, 4, low, high);
            let mut table = if accumulate { ordinary(vocab_size * width, 5) } else { vec![0.0; vocab_size * width] };
            let gradient = if accumulate { bench.floats(&table)? } else { bench.garbage(table.len())? };
            let dispatches = ops::embedding::embedding_gradient(
                &bench.floats(&dx)?,
                [&starts, &places],
                (vocab_size, width),
                (&gradient, 0, accumulate),
                SLOT,
            );
            let found = bench.run(&dispatches, &[&gradient])?;
            let peak = bench
                .pool
                .install(|| cpu::embedding::scatter_add(bench.simd, &segments, &dx, width, (&mut table, false)));
            outcomes.push(Outcome { found, expected: expect(&[&table], peak) });
        }
    }
    Ok(outcomes)
}
