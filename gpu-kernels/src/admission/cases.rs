//! The known-answer tests of each kernel: odd sizes, ordinary numbers, ties,
//! numbers around the flushing threshold, and outputs at the edge of the range.

use super::bench::{Bench, Outcome, SLOT, expect};
use super::vectors::{faint, ordinary, spread, ties, tokens};
use crate::arithmetic::{from_host, mul};
use crate::buffers::{Buffer, bits};
use crate::cpu;
use crate::cpu::adamw::NORM_BLOCK;
use crate::cpu::pack::{Along, PANEL, Packing, View};
use crate::cpu::quantize::{self, digit_of, quantize_line, scale_of};
use crate::cpu::reduce::{add_assign, tree_sum};
use crate::cpu::rope::{Rotary, Turn};
use crate::error::EngineError;
use crate::functions::sqrt;
use crate::gpu::ops;
use crate::gpu::ops::matmul::{Matrix, Packed, Rounding, packed_words};
use crate::model::optimizer::{clipped_scale, scalars};
use crate::spec::OptimizerConfig;

type Cases = Result<Vec<Outcome>, EngineError>;

/// The tests of one kernel.
pub(crate) struct Suite {
    /// The kernel's name.
    pub(crate) op: &'static str,
    pub(crate) run: fn(&mut Bench) -> Cases,
}

/// All kernels, each with its tests.
pub(crate) const SUITES: &[Suite] = &[
    Suite { op: "pack_rows", run: pack_rows },
    Suite { op: "pack_columns", run: pack_columns },
    Suite { op: "matmul", run: matmul },
    Suite { op: "rms_norm", run: rms_norm },
    Suite { op: "rms_norm_backward", run: rms_norm_backward },
    Suite { op: "rms_norm_weight_gradient", run: rms_norm_weight_gradient },
    Suite { op: "rope", run: rope },
    Suite { op: "softmax_causal", run: softmax_causal },
    Suite { op: "softmax_causal_backward", run: softmax_causal_backward },
    Suite { op: "group_sum", run: group_sum },
    Suite { op: "swiglu", run: swiglu },
    Suite { op: "swiglu_backward", run: swiglu_backward },
    Suite { op: "cross_entropy", run: cross_entropy },
    Suite { op: "embedding", run: embedding },
    Suite { op: "embedding_gradient", run: embedding_gradient },
    Suite { op: "add", run: add },
    Suite { op: "sum_peak", run: sum_peak },
    Suite { op: "accumulate", run: accumulate },
    Suite { op: "sum_of_squares", run: sum_of_squares },
    Suite { op: "gradient_scale", run: gradient_scale },
    Suite { op: "adamw_preview", run: adamw_preview },
    Suite { op: "adamw", run: adamw },
];

fn pack_rows(bench: &mut Bench) -> Cases {
    pack(bench, Along::Rows)
}

fn pack_columns(bench: &mut Bench) -> Cases {
    pack(bench, Along::Columns)
}

/// Two matrices inside a larger tensor, packed along one axis in every way.
fn pack(bench: &mut Bench, along: Along) -> Cases {
    let mut outcomes = Vec::new();
    let (rows, columns, stride, batches) = (35, 21, 24, 2);
    let (offset, index) = (5, 1000);
    let batch_stride = rows * stride + 3;
    let len = offset + batches * batch_stride;
    for values in [ordinary(len, 1), ties(len, 2), faint(len, 3), spread(len, 4, -100, 39), vec![0.0; len]] {
        let matrix =
            Matrix { buffer: bench.floats(&values)?, rows, columns, stride, batches, batch_stride, offset, index };
        for digits in [1, 2] {
            for rounding in [Rounding::Nearest, Rounding::Stochastic(1)] {
                let (lines, k) = if along == Along::Rows { (rows, columns) } else { (columns, rows) };
                let words = bench.garbage(packed_words(lines, k, digits, batches))?;
                let scales = bench.garbage(batches * lines)?;
                let packed = Packed::of(&matrix, along, digits, &words, &scales);
                let dispatch = ops::matmul::pack(&matrix, along, rounding, &bench.keys, &packed);
                let found = bench.run(&[dispatch], &[&words, &scales])?;
                let native = match rounding {
                    Rounding::Nearest => quantize::Rounding::Nearest,
                    Rounding::Stochastic(key) => quantize::Rounding::Stochastic(bench.key_pairs[key]),
                };
                let expected = pack_native(&matrix, &values, along, (digits, native));
                outcomes.push(Outcome { found, expected });
            }
        }
    }
    Ok(outcomes)
}

/// Words and exponent fields in the device's order, from the native rounding of single elements.
fn pack_native(
    matrix: &Matrix,
    values: &[f32],
    along: Along,
    (digits, rounding): (usize, quantize::Rounding),
) -> Vec<u32> {
    let (lines, k) = match along {
        Along::Rows => (matrix.rows, matrix.columns),
        Along::Columns => (matrix.columns, matrix.rows),
    };
    let groups = k.div_ceil(4);
    let mut words = vec![0u32; packed_words(lines, k, digits, matrix.batches)];
    let mut fields = Vec::new();
    for batch in 0..matrix.batches {
        for line in 0..lines {
            let place = |at: usize| {
                let (row, column) = if along == Along::Rows { (line, at) } else { (at, line) };
                batch * matrix.batch_stride + row * matrix.stride + column
            };
            let element = |at: usize| values[matrix.offset + place(at)];
            let peak = (0..k).map(|at| crate::arithmetic::magnitude(element(at))).max().unwrap_or(0);
            let (scale, inverse) = scale_of(peak, digits);
            fields.push(scale.to_bits() >> 23);
            for at in 0..k {
                let mut q = [0];
                let index = matrix.index.wrapping_add(place(at) as u32);
                quantize_line(&[element(at)], |_| inverse, (digits, rounding), index, &mut q);
                for digit in 0..digits {
                    let word = &mut words[((batch * lines + line) * digits + digit) * groups + at / 4];
                    *word |= (digit_of(q[0], digits, digit) as u32 & 0xff) << (8 * (at % 4));
                }
            }
        }
    }
    words.extend(fields);
    words.push(0);
    words
}

/// Products of packed operands, whole path, in every number of digits.
fn matmul(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let shapes = [(1, 1, 1), (67, 45, 37), (5, 130, 300)];
    for (m, n, k) in shapes {
        let regimes: [fn(usize, u32) -> Vec<f32>; 5] = [
            ordinary,
            |count, seed| spread(count, seed, -1, 0),
            // Products around the flushing threshold, and around the range limit.
            |count, seed| spread(count, seed, -51, -48),
            |count, seed| spread(count, seed, 16, 19),
            |count, _| vec![-1.984_375; count],
        ];
        for (number, values) in regimes.into_iter().enumerate() {
            let (a, b) = (values(m * k, 2 * number as u32), values(n * k, 2 * number as u32 + 1));
            for (left_digits, right_digits) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
                let operand = |values: &[f32], rows: usize, digits: usize| -> Result<_, EngineError> {
                    let matrix = Matrix::whole(&bench.floats(values)?, 0, rows, k);
                    let words = bench.garbage(packed_words(rows, k, digits, 1))?;
                    let packed = Packed::of(&matrix, Along::Rows, digits, &words, &bench.garbage(rows)?);
                    let pack = ops::matmul::pack(&matrix, Along::Rows, Rounding::Nearest, &bench.keys, &packed);
                    Ok((packed, pack))
                };
                let (left, pack_left) = operand(&a, m, left_digits)?;
                let (right, pack_right) = operand(&b, n, right_digits)?;
                let out = Matrix::whole(&bench.garbage(m * n)?, 0, m, n);
                let product = ops::matmul::matmul(&left, &right, 1, &out, SLOT);
                let found = bench.run(&[pack_left, pack_right, product], &[&out.buffer])?;
                let (mut left, mut right) = (cpu::pack::Packed::default(), cpu::pack::Packed::default());
                let packing = |side: fn(Along, usize, quantize::Rounding) -> Packing, digits| {
                    side(Along::Rows, digits, quantize::Rounding::Nearest)
                };
                left.pack(bench.simd, View::whole(&a, m, k), packing(Packing::left, left_digits));
                right.pack(bench.simd, View::whole(&b, n, k), packing(Packing::right, right_digits));
                let mut c = vec![0.0; m * n];
                let peak = cpu::matmul::product(bench.simd, &left, 0..m.div_ceil(PANEL), &right, &mut c, n);
                outcomes.push(Outcome { found, expected: expect(&[&c], peak) });
            }
        }
    }
    Ok(outcomes)
}

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
            let peak = bench.pool.install(|| norm.forward(&x, &mut y, &mut inverse));
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

fn rms_norm(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for case in norm_cases(bench) {
        let (x, y, inverse) = (bench.floats(&case.x)?, bench.garbage(case.x.len())?, bench.garbage(case.rows)?);
        let dispatch = case.device(bench)?.forward((&x, 0), case.rows, &y, &inverse, SLOT);
        let found = bench.run(&[dispatch], &[&y, &inverse])?;
        outcomes.push(Outcome { found, expected: expect(&[&case.y, &case.inverse], case.peak) });
    }
    Ok(outcomes)
}

fn rms_norm_backward(bench: &mut Bench) -> Cases {
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

fn rms_norm_weight_gradient(bench: &mut Bench) -> Cases {
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

fn rope(bench: &mut Bench) -> Cases {
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
            let peak = bench.pool.install(|| native.merge(&rotary, turn, &by_head, &mut merged));
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

fn softmax_causal(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (length, stride, scale, mut scores) in score_cases() {
        let buffer = bench.floats(&scores)?;
        let shape = ops::attention::Scores { heads: 1, length, stride, scale };
        let found = bench.run(&[shape.softmax(&buffer, SLOT)], &[&buffer])?;
        let peak = cpu::softmax::softmax_causal(bench.simd, &mut scores, stride, scale, 0);
        outcomes.push(Outcome { found, expected: expect(&[&scores], peak) });
    }
    Ok(outcomes)
}

fn softmax_causal_backward(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (length, stride, scale, mut gradient) in score_cases() {
        let mut probabilities = spread(length * stride, 77, -4, 2);
        cpu::softmax::softmax_causal(bench.simd, &mut probabilities, stride, 1.0, 0);
        let buffers = (bench.floats(&probabilities)?, bench.floats(&gradient)?);
        let shape = ops::attention::Scores { heads: 1, length, stride, scale };
        let dispatch = shape.softmax_backward(&buffers.0, &buffers.1, SLOT);
        let found = bench.run(&[dispatch], &[&buffers.1])?;
        let peak = cpu::softmax::softmax_causal_backward(bench.simd, &probabilities, &mut gradient, stride, scale);
        outcomes.push(Outcome { found, expected: expect(&[&gradient], peak) });
    }
    Ok(outcomes)
}

fn group_sum(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let (heads, members, elements) = (3, 5, 67);
    for (low, high) in [(-6, 0), (-100, -98), (38, 39)] {
        let parts = spread(heads * members * elements, 3, low, high);
        let total = bench.garbage(heads * elements)?;
        let dispatch = ops::attention::group_sum(&bench.floats(&parts)?, (heads, members, elements), (&total, 0), SLOT);
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

fn swiglu(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (rows, width, dh, gate_up) in gate_cases() {
        let h = bench.garbage(dh.len())?;
        let dispatch = ops::swiglu::swiglu(&bench.floats(&gate_up)?, (rows, width), &h, SLOT);
        let found = bench.run(&[dispatch], &[&h])?;
        let mut expected = vec![0.0; dh.len()];
        let peak = bench.pool.install(|| cpu::swiglu::forward(bench.simd, &gate_up, width, &mut expected));
        outcomes.push(Outcome { found, expected: expect(&[&expected], peak) });
    }
    Ok(outcomes)
}

fn swiglu_backward(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (rows, width, dh, gate_up) in gate_cases() {
        let out = bench.garbage(gate_up.len())?;
        let inputs = (bench.floats(&dh)?, bench.floats(&gate_up)?);
        let dispatch = ops::swiglu::swiglu_backward([&inputs.0, &inputs.1], (rows, width), &out, SLOT);
        let found = bench.run(&[dispatch], &[&out])?;
        let mut expected = vec![0.0; gate_up.len()];
        let peak = bench.pool.install(|| cpu::swiglu::backward(bench.simd, &dh, &gate_up, width, &mut expected));
        outcomes.push(Outcome { found, expected: expect(&[&expected], peak) });
    }
    Ok(outcomes)
}

fn cross_entropy(bench: &mut Bench) -> Cases {
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
        let (buffer, losses) = (bench.floats(&logits)?, bench.garbage(rows)?);
        let dispatch =
            ops::cross_entropy::cross_entropy(&buffer, (rows, width), &bench.words(&targets)?, scale, &losses, SLOT);
        let mut found = bench.run(&[dispatch], &[&losses, &buffer])?;
        let fixed = bench.pool.install(|| cpu::cross_entropy::cross_entropy(bench.simd, &mut logits, &targets, scale));
        let failed = found.pop();
        // The native twin gives the sum of losses only, and nothing if one fails.
        let sum: u64 = found[..rows].iter().map(|&loss| u64::from(loss)).sum();
        let mut comparable = vec![failed.unwrap_or(0)];
        let mut expected = vec![u32::from(fixed.is_none())];
        if let Some(fixed) = fixed {
            comparable.extend([sum as u32, (sum >> 32) as u32]);
            expected.extend([fixed as u32, (fixed >> 32) as u32]);
            if scale.is_some() {
                comparable.extend(&found[rows..]);
                expected.extend(bits(&logits));
            }
        }
        outcomes.push(Outcome { found: comparable, expected });
    }
    Ok(outcomes)
}

fn embedding(bench: &mut Bench) -> Cases {
    let (vocab_size, width, count, offset) = (29, 37, 41, 11);
    let (table, places) = (spread(offset + vocab_size * width, 1, -100, 39), tokens(count, 2, vocab_size));
    let rows = bench.garbage(count * width)?;
    let (parameters, list) = (bench.floats(&table)?, bench.words(&places)?);
    let dispatch = ops::embedding::embedding((&parameters, offset), (&list, count), width, &rows);
    let found = bench.run(&[dispatch], &[&rows])?;
    let mut expected = vec![0.0; count * width];
    bench.pool.install(|| cpu::embedding::gather(&table[offset..], &places, width, &mut expected));
    Ok(vec![Outcome { found, expected: expect(&[&expected], 0) }])
}

fn embedding_gradient(bench: &mut Bench) -> Cases {
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
            let dispatch = ops::embedding::embedding_gradient(
                &bench.floats(&dx)?,
                [&starts, &places],
                (vocab_size, width),
                (&gradient, 0, accumulate),
                SLOT,
            );
            let found = bench.run(&[dispatch], &[&gradient])?;
            let peak =
                bench.pool.install(|| cpu::embedding::scatter_add(bench.simd, &segments, &dx, width, &mut table));
            outcomes.push(Outcome { found, expected: expect(&[&table], peak) });
        }
    }
    Ok(outcomes)
}

/// Pairs of vectors whose sums are ordinary, around the flushing threshold, and around the range limit.
fn sum_cases() -> Vec<(Vec<f32>, Vec<f32>)> {
    let count = 777;
    let pair = |low, high| (spread(count, 1, low, high), spread(count, 2, low, high));
    vec![pair(-20, 0), pair(-1, 0), pair(-100, -99), pair(37, 39), pair(-100, 38)]
}

fn add(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (mut a, b) in sum_cases() {
        let (left, right, total) = (bench.floats(&a)?, bench.floats(&b)?, bench.garbage(a.len())?);
        let found = bench.run(&[ops::sum::add([&left, &right], a.len(), &total, SLOT)], &[&total])?;
        let peak = add_assign(bench.simd, &mut a, &b);
        outcomes.push(Outcome { found, expected: expect(&[&a], peak) });
    }
    Ok(outcomes)
}

/// The bits of the least positive number that `fails`, if all from it on do.
fn edge(fails: impl Fn(f32) -> bool) -> u32 {
    let (mut low, mut high) = (0, crate::arithmetic::RANGE_LIMIT_BITS);
    while low < high {
        let middle = low + (high - low) / 2;
        if fails(f32::from_bits(middle)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

fn sum_peak(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (a, b) in sum_cases() {
        let (left, right) = (bench.floats(&a)?, bench.floats(&b)?);
        let found = bench.run(&[ops::sum::sum_peak([&left, &right], a.len(), SLOT)], &[])?;
        let peak = cpu::reduce::sum_peak(bench.simd, &a, &b);
        outcomes.push(Outcome { found, expected: expect(&[], peak) });
    }
    // Pairs whose sum is just at the limit, and just under it.
    let (mut dispatches, mut expected) = (Vec::new(), Vec::new());
    for b in spread(40, 9, 12, 38) {
        let fails = |a: f32| cpu::reduce::sum_peak(bench.simd, &[a], &[b]) >= crate::arithmetic::RANGE_LIMIT_BITS;
        let edge = edge(fails).min(crate::arithmetic::RANGE_LIMIT_BITS - 1);
        for a in [edge, edge - 1] {
            let a = f32::from_bits(a);
            let slot = SLOT + dispatches.len() as u32;
            dispatches.push(ops::sum::sum_peak([&bench.floats(&[a])?, &bench.floats(&[b])?], 1, slot));
            expected.push(u32::from(fails(a)));
        }
    }
    let found = bench.run_checks(&dispatches, &[], dispatches.len())?;
    outcomes.push(Outcome { found, expected });
    Ok(outcomes)
}

/// Adds where all is well, and leaves everything where a check has failed before it.
fn accumulate(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (mut a, b) in sum_cases() {
        let (total, part) = (bench.floats(&a)?, bench.floats(&b)?);
        let check = ops::sum::sum_peak([&total, &part], a.len(), SLOT);
        let dispatch = ops::sum::accumulate(&part, a.len(), &total);
        let found = bench.run(&[check, dispatch], &[&total])?;
        let peak = cpu::reduce::sum_peak(bench.simd, &a, &b);
        if peak < crate::arithmetic::RANGE_LIMIT_BITS {
            add_assign(bench.simd, &mut a, &b);
        }
        outcomes.push(Outcome { found, expected: expect(&[&a], peak) });
    }
    Ok(outcomes)
}

fn norm_inputs() -> Vec<Vec<f32>> {
    let count = 2 * NORM_BLOCK + 77;
    vec![ordinary(count, 1), spread(100, 2, -52, -48), spread(count, 3, 20, 39), vec![0.0; 3], vec![1e-38, -0.0]]
}

fn sum_of_squares(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for values in norm_inputs() {
        let blocks = values.len().div_ceil(NORM_BLOCK);
        let sums = bench.garbage(blocks)?;
        let dispatch = ops::adamw::sum_of_squares(&bench.floats(&values)?, values.len(), &sums);
        let found = bench.run(&[dispatch], &[&sums])?;
        let expected: Vec<f32> =
            values.chunks(NORM_BLOCK).map(|block| cpu::reduce::sum_of_squares(bench.simd, block)).collect();
        outcomes.push(Outcome { found, expected: expect(&[&expected], 0) });
    }
    Ok(outcomes)
}

fn gradient_scale(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let mean_scale = from_host(1.0 / 3.0);
    let positive = |values: Vec<f32>| values.iter().map(|x| x.abs()).collect::<Vec<f32>>();
    let mut cases = vec![vec![0.0; 3], vec![f32::from_bits(28 << 23 | 0x0040_0000)]];
    cases.extend((0..20).map(|seed| positive(spread(77, seed, -8, 12))));
    cases.push(positive(spread(200, 33, 76, 80)));
    for sums in cases {
        for clip in [1.0, 1e-3, 1e6] {
            let result = bench.garbage(2)?;
            let blocks = (&bench.floats(&sums)?, sums.len());
            let dispatch = ops::adamw::gradient_scale(blocks, mean_scale, clip, &result, SLOT);
            let found = bench.run(&[dispatch], &[&result])?;
            let norm = mul(sqrt(tree_sum(&sums)), mean_scale);
            let scale = clipped_scale(norm, mean_scale, clip);
            outcomes.push(Outcome { found, expected: expect(&[&[norm, scale]], norm.to_bits()) });
        }
    }
    Ok(outcomes)
}

/// As `adamw`, and elements of which the new parameter is just at the limit, and just under it.
fn adamw_preview(bench: &mut Bench) -> Cases {
    let mut outcomes = optimizer_step(bench, false)?;
    let config = OptimizerConfig { warmup_steps: 0, learning_rate: 0.7, ..Default::default() };
    let scalars = scalars(&config, 7, from_host(0.3), true);
    let count = 120;
    // Updates nearly as large as the limit, so that the rounding of each part
    // shows, from denominators near epsilon, whose sum with it is often a tie.
    let (gradient, first) = (spread(count, 1, -32, -30), spread(count, 2, 11, 12));
    let second: Vec<f32> = spread(count, 3, -27, -25).iter().map(|&x| mul(x, x)).collect();
    let mut parameters = vec![0.0; count];
    let mut expected = Vec::new();
    for at in 0..count {
        let fails = |parameter: f32| {
            let state = cpu::adamw::State {
                parameters: &mut [parameter],
                first_moment: &mut [first[at]],
                second_moment: &mut [second[at]],
            };
            let peak = cpu::adamw::preview(bench.simd, &scalars, &gradient[at..=at], &state, &mut [0.0]);
            peak >= crate::arithmetic::RANGE_LIMIT_BITS
        };
        let edge = edge(fails).min(crate::arithmetic::RANGE_LIMIT_BITS - 1);
        parameters[at] = f32::from_bits(edge - (at as u32 & 1));
        expected.push(u32::from(fails(parameters[at])));
    }
    let state = ops::adamw::State {
        gradient: bench.floats(&gradient)?,
        scale: bench.floats(&[0.0, scalars.gradient_scale])?,
        parameters: bench.floats(&parameters)?,
        first_moment: bench.floats(&first)?,
        second_moment: bench.floats(&second)?,
    };
    let dispatches: Vec<_> = (0..count).map(|at| state.preview(&scalars, at..at + 1, SLOT + at as u32)).collect();
    let found = bench.run_checks(&dispatches, &[], count)?;
    outcomes.push(Outcome { found, expected });
    Ok(outcomes)
}

fn adamw(bench: &mut Bench) -> Cases {
    optimizer_step(bench, true)
}

/// A checked step over the middle of some vectors; with `outputs`, what it left behind.
fn optimizer_step(bench: &mut Bench, outputs: bool) -> Cases {
    let mut outcomes = Vec::new();
    let (count, range) = (700, 30..690);
    let config = OptimizerConfig { warmup_steps: 0, ..Default::default() };
    let regimes = [(-8, 0, -4, 0), (-60, -40, -99, -90), (10, 18, 38, 39), (-50, -44, -8, 0)];
    for (number, (low, high, parameter_low, parameter_high)) in regimes.into_iter().enumerate() {
        let seed = 10 * number as u32;
        let mut gradient = spread(count, seed, low, high);
        gradient[40] = f32::from_bits(5);
        let mut parameters = spread(count, seed + 1, parameter_low, parameter_high);
        let mut first = spread(count, seed + 2, low, high);
        let mut second: Vec<f32> = spread(count, seed + 3, low, high).iter().map(|&x| mul(x, x)).collect();
        let scalars = scalars(&config, 3 + 40 * number as u64, from_host(0.3), number % 2 == 0);
        let state = ops::adamw::State {
            gradient: bench.floats(&gradient)?,
            scale: bench.floats(&[0.0, scalars.gradient_scale])?,
            parameters: bench.floats(&parameters)?,
            first_moment: bench.floats(&first)?,
            second_moment: bench.floats(&second)?,
        };
        let mut dispatches = vec![state.preview(&scalars, range.clone(), SLOT)];
        let mut tensors = Vec::new();
        if outputs {
            dispatches.push(state.step(&scalars, range.clone()));
            tensors = vec![&state.parameters, &state.first_moment, &state.second_moment];
        }
        let found = bench.run(&dispatches, &tensors)?;
        let (part, mut new) = (&gradient[range.clone()], vec![0.0; range.len()]);
        let native = cpu::adamw::State {
            parameters: &mut parameters[range.clone()],
            first_moment: &mut first[range.clone()],
            second_moment: &mut second[range.clone()],
        };
        let peak = bench.pool.install(|| {
            let peak = cpu::adamw::preview(bench.simd, &scalars, part, &native, &mut new);
            if peak < crate::arithmetic::RANGE_LIMIT_BITS {
                cpu::adamw::step(bench.simd, &scalars, part, native, &new);
            }
            peak
        });
        let expected = if outputs { expect(&[&parameters, &first, &second], peak) } else { expect(&[], peak) };
        outcomes.push(Outcome { found, expected });
    }
    Ok(outcomes)
}
