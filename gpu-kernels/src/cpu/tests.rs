//! Each op with a way back, against central differences of its formula in f64,
//! and every SIMD path of it against the portable one, bit for bit.

use super::attention::{Attention, AttentionKeys, BlockScratch, Gradients, HeadScratch, Inputs, Memory};
use super::cross_entropy::Judged;
use super::pack::{Along, Packed, Packing, View};
use super::pool::Pool;
use super::quantize::Rounding;
use super::random::mix;
use super::rmsnorm::RmsNorm;
use super::rows::peak_of;
use super::simd::{Simd, SimdPath};
use super::{adamw, cross_entropy, swiglu};
use rayon::prelude::*;

/// Values from −1 to 1 that look random.
fn values(count: usize, seed: u32) -> Vec<f32> {
    (0..count).map(|index| (mix([seed, 3], index as u32) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The gradient of `formula` at `at`.
fn differences(at: &[f32], formula: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let mut at = wide(at);
    (0..at.len())
        .map(|index| {
            let middle = at[index];
            at[index] = middle + step;
            let up = formula(&at);
            at[index] = middle - step;
            let down = formula(&at);
            at[index] = middle;
            (up - down) / (2.0 * step)
        })
        .collect()
}

/// Σ weights·outputs: a scalar whose gradient is the way back of `weights`.
fn weighted(outputs: &[f64], weights: &[f32]) -> f64 {
    outputs.iter().zip(weights).map(|(y, &w)| y * f64::from(w)).sum()
}

fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= tolerance * size, "{what}[{index}]: {found} for {expected} (largest {size})");
    }
}

/// Runs `op` on every path and returns the portable result; all must be equal in bits.
fn on_every_path(op: impl Fn(Simd) -> Vec<f32>) -> Vec<f32> {
    let reference = op(SimdPath::Portable.resolve().unwrap());
    for path in SimdPath::available() {
        let found = op(path.resolve().unwrap());
        let differs = (0..found.len()).find(|&index| found[index].to_bits() != reference[index].to_bits());
        assert_eq!(differs, None, "{path:?} differs from the portable path");
    }
    reference
}

#[test]
fn rms_norm() {
    for width in [8, 36, 77] {
        let rows = 19;
        let (x, weight, dy) = (values(rows * width, 1), values(width, 2), values(rows * width, 3));
        let formula = |x: &[f64], weight: &[f64]| -> Vec<f64> {
            let rows = x.chunks(width).flat_map(|x| {
                let inverse = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt().recip();
                x.iter().zip(weight).map(move |(x, w)| x * inverse * w).collect::<Vec<f64>>()
            });
            rows.collect()
        };
        let run = |simd| {
            let norm = RmsNorm { simd, weight: &weight, epsilon: 1e-5 };
            let (mut y, mut inverse) = (vec![f32::NAN; x.len()], vec![f32::NAN; rows]);
            let (mut dx, mut dw) = (vec![1.0; x.len()], vec![f32::NAN; width]);
            peak_of(norm.forward(&x, &mut y, &mut inverse));
            norm.backward(&dy, &x, &inverse, &mut dx);
            norm.weight_gradient(&dy, &x, &inverse, &mut dw);
            [y, dx, dw].concat()
        };
        let found = on_every_path(run);
        let (y, rest) = found.split_at(x.len());
        let (dx, dw) = rest.split_at(x.len());
        assert_close("y", y, &formula(&wide(&x), &wide(&weight)), 1e-6);
        let expected = differences(&x, |x| weighted(&formula(x, &wide(&weight)), &dy));
        // The gradient was added to ones.
        assert_close("dx", dx, &expected.iter().map(|dx| dx + 1.0).collect::<Vec<f64>>(), 1e-5);
        assert_close("dw", dw, &differences(&weight, |weight| weighted(&formula(&wide(&x), weight), &dy)), 1e-5);
    }
}

/// A packed matrix without what its buffers may hold behind it.
fn contents(packed: &Packed) -> (Vec<u32>, Vec<u32>, Vec<i32>) {
    let bits = packed.scales.iter().map(|scale| scale.to_bits()).collect();
    (packed.words.to_vec(), bits, packed.sums.clone())
}

#[test]
fn rows_packed_as_they_are_written_are_those_packed_afterwards_by_any_number_of_threads() {
    for (rows, width, digits) in [(1, 3, 1), (16, 64, 2), (37, 130, 1), (150, 51, 2)] {
        let (x, weight) = (values(rows * width, 15), values(width, 16));
        for (path, threads) in SimdPath::available().into_iter().zip([1, 3, 13].into_iter().cycle()) {
            let simd = path.resolve().unwrap();
            let pool = Pool::<BlockScratch>::new(threads).unwrap();
            for rounding in [Rounding::Nearest, Rounding::Stochastic([9, 10])] {
                let (mut y, mut inverse) = (vec![f32::NAN; x.len()], vec![f32::NAN; rows]);
                let (mut written, mut whole, mut one) = (Packed::default(), Packed::default(), Packed::default());
                let norm = RmsNorm { simd, weight: &weight, epsilon: 1e-5 }.forward(&x, &mut y, &mut inverse);
                let packing = Packing::left(Along::Rows, digits, rounding);
                let told = written.pack_written(simd, (rows, width), packing, norm).map(|(peak, ())| peak);
                assert_eq!(pool.install(|| told.max()), Some(crate::arithmetic::peak(&y)));
                for along in [Along::Rows, Along::Columns] {
                    let packing = Packing::left(along, digits, rounding);
                    one.pack(simd, View::whole(&y, rows, width), packing);
                    pool.install(|| whole.pack_parallel(simd, View::whole(&y, rows, width), packing));
                    assert_eq!(contents(&whole), contents(&one), "{path:?} {threads} {along:?} {rounding:?}");
                    if along == Along::Rows {
                        assert_eq!(contents(&written), contents(&one), "{path:?} {threads} {rounding:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn swiglu_gate() {
    let (width, rows) = (51, 9);
    let gate_up: Vec<f32> = values(2 * width * rows, 4).iter().map(|x| x * 6.0).collect();
    let dh = values(width * rows, 5);
    let formula = |gate_up: &[f64]| -> Vec<f64> {
        let rows = gate_up.chunks(2 * width).flat_map(|row| {
            let (gate, up) = row.split_at(width);
            gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect::<Vec<f64>>()
        });
        rows.collect()
    };
    let found = on_every_path(|simd| {
        let (mut h, mut gradient) = (vec![f32::NAN; dh.len()], vec![f32::NAN; gate_up.len()]);
        peak_of(swiglu::forward(simd, &gate_up, width, &mut h));
        peak_of(swiglu::backward(simd, &dh, &gate_up, width, &mut gradient));
        [h, gradient].concat()
    });
    let (h, gradient) = found.split_at(dh.len());
    assert_close("h", h, &formula(&wide(&gate_up)), 1e-6);
    assert_close("gradient", gradient, &differences(&gate_up, |x| weighted(&formula(x), &dh)), 1e-5);
}

#[test]
fn cross_entropy_of_rows() {
    let (width, rows) = (45, 21);
    let logits: Vec<f32> = values(width * rows, 6).iter().map(|x| x * 8.0).collect();
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 13 % width as u32).collect();
    let formula = |logits: &[f64]| -> f64 {
        let losses = logits
            .chunks(width)
            .zip(&targets)
            .map(|(row, &target)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target as usize]);
        losses.sum::<f64>() / rows as f64
    };
    let found = on_every_path(|simd| {
        let mut gradient = logits.clone();
        let written = cross_entropy::cross_entropy(simd, &mut gradient, &targets, Some(1.0 / rows as f32));
        let loss = Judged::sum(written.map(|(_, _, judged)| judged)).unwrap();
        assert_eq!(cross_entropy::judge(simd, &mut logits.clone(), &targets), Some(loss));
        gradient.push(loss.fixed as f32 / 1_048_576.0 / rows as f32);
        gradient
    });
    let (gradient, loss) = found.split_at(logits.len());
    assert_close("loss", loss, &[formula(&wide(&logits))], 1e-6);
    assert_close("gradient", gradient, &differences(&logits, formula), 1e-5);
    let mut hopeless = vec![0.0; width];
    hopeless[0] = 3000.0;
    let simd = SimdPath::Auto.resolve().unwrap();
    assert_eq!(cross_entropy::judge(simd, &mut hopeless, &[1]), None);
    // A tie is no hit.
    let mut rows = [[0.0, 2.0, -1.0], [1.0, 1.0, 0.0], [3.0, 3.5, 0.0]].concat();
    let judged = cross_entropy::judge(simd, &mut rows, &[1, 0, 0]);
    assert_eq!(judged.map(|judged| judged.hits), Some(1));
}

/// Causal grouped-query attention in f64.
fn attend(shape: &Attention, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let (length, width) = (shape.length, shape.head_dim);
    let mut out = vec![0.0; q.len()];
    for head in 0..q.len() / (length * width) {
        let key_head = head * shape.key_heads / shape.query_heads;
        for i in 0..length {
            let row = |tensor: &'_ [f64], head: usize, i: usize, d: usize| tensor[(head * length + i) * width + d];
            let scores: Vec<f64> = (0..=i)
                .map(|j| (0..width).map(|d| row(q, head, i, d) * row(k, key_head, j, d)).sum::<f64>())
                .map(|score| (score / (width as f64).sqrt()).exp())
                .collect();
            let sum: f64 = scores.iter().sum();
            for d in 0..width {
                out[(head * length + i) * width + d] =
                    (0..=i).map(|j| scores[j] / sum * row(v, key_head, j, d)).sum::<f64>();
            }
        }
    }
    out
}

#[test]
fn causal_attention() {
    for (length, head_dim, query_heads, key_heads) in [(1, 2, 1, 1), (9, 6, 4, 2), (37, 4, 3, 1), (150, 2, 1, 1)] {
        let attention = |simd| Attention {
            simd,
            length,
            head_dim,
            query_heads,
            key_heads,
            scale: 1.0 / (head_dim as f32).sqrt(),
            digits: 2,
            gradient_digits: 2,
        };
        let sequences = 2;
        let (queries, keys) = (sequences * query_heads * length * head_dim, sequences * key_heads * length * head_dim);
        let scaled = |count, seed| values(count, seed).iter().map(|x| x * 2.0).collect::<Vec<f32>>();
        let (q, k, v, d_out) = (scaled(queries, 7), scaled(keys, 8), scaled(keys, 9), scaled(queries, 10));
        let run = |simd, threads, wave| {
            let pool = Pool::<BlockScratch>::new(threads).unwrap();
            let mut scratch: Vec<HeadScratch> = std::iter::repeat_with(HeadScratch::default).take(wave).collect();
            let mut parts = [queries, queries, keys, keys].map(|count| vec![f32::NAN; count]);
            let [out, dq, dk, dv] = &mut parts;
            let inputs = Inputs { queries: &q, keys: &k, values: &v };
            let sites = AttentionKeys {
                output_rows: [1, 2],
                output_columns: [3, 4],
                scores_rows: [5, 6],
                scores_columns: [7, 8],
            };
            pool.install(|| {
                attention(simd).forward(Memory { pool: &pool, heads: &mut scratch }, inputs, out);
                let gradients = Gradients { queries: dq, keys: dk, values: dv };
                let memory = Memory { pool: &pool, heads: &mut scratch };
                attention(simd).backward(memory, inputs, &d_out, &sites, gradients);
            });
            parts.concat()
        };
        let found = on_every_path(|simd| run(simd, 2, 2));
        // One head at a time, waves that part heads with the same keys, all heads at once, more threads than heads.
        for (threads, wave) in [(1, 1), (3, 3), (2, 5), (13, 99)] {
            let simd = SimdPath::Auto.resolve().unwrap();
            let same = run(simd, threads, wave).iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{threads} threads, {wave} heads at a time");
        }
        let shape = attention(SimdPath::Portable.resolve().unwrap());
        let (q64, k64, v64) = (wide(&q), wide(&k), wide(&v));
        let (out, rest) = found.split_at(queries);
        let (dq, rest) = rest.split_at(queries);
        let (dk, dv) = rest.split_at(keys);
        // Two digits keep about 14 bits of each operand.
        assert_close("out", out, &attend(&shape, &q64, &k64, &v64), 1e-3);
        let of_queries = differences(&q, |q| weighted(&attend(&shape, q, &k64, &v64), &d_out));
        let of_keys = differences(&k, |k| weighted(&attend(&shape, &q64, k, &v64), &d_out));
        let of_values = differences(&v, |v| weighted(&attend(&shape, &q64, &k64, v), &d_out));
        if length > 1 {
            assert_close("dq", dq, &of_queries, 2e-3);
            assert_close("dk", dk, &of_keys, 2e-3);
        }
        assert_close("dv", dv, &of_values, 2e-3);
    }
}

/// Scalars of a first step, when corrections are largest.
fn scalars() -> adamw::Scalars {
    adamw::Scalars {
        gradient_scale: 0.5,
        beta1: 0.9,
        one_minus_beta1: 0.1,
        beta2: 0.95,
        one_minus_beta2: 0.05,
        correction1: 10.0,
        correction2: 20.0,
        epsilon: 1e-8,
        learning_rate: 1e-3,
        decay: 0.9999,
    }
}

#[test]
fn one_pass_of_adamw_equals_two() {
    let count = adamw::NORM_BLOCK + 77;
    let gradient: Vec<f32> = values(count, 11).iter().map(|x| x * 3.0).collect();
    let start = [values(count, 12), values(count, 13), values(count, 14).iter().map(|x| x * x).collect()];
    on_every_path(|simd| {
        let [mut one, mut two] = [start.clone(), start.clone()];
        let [p, m, v] = &mut one;
        let state = adamw::State { parameters: p, first_moment: m, second_moment: v };
        let peaks = adamw::step_in_place(simd, &scalars(), &gradient, state);
        let mut new = vec![f32::NAN; count];
        let [p, m, v] = &mut two;
        let state = adamw::State { parameters: p, first_moment: m, second_moment: v };
        assert_eq!(adamw::preview(simd, &scalars(), &gradient, &state, &mut new), peaks);
        adamw::step(simd, &scalars(), &gradient, state, &new);
        assert_eq!(one, two);
        assert_eq!(peaks, [&one[0], &one[1], &one[2]].map(|vector| crate::arithmetic::peak(vector)));
        one.concat()
    });
}

#[test]
fn a_step_that_may_leave_the_range_is_previewed() {
    let simd = SimdPath::Auto.resolve().unwrap();
    let bits = |x: f32| x.to_bits();
    let one = bits(1.0);
    assert!(adamw::stays_in_range(&scalars(), one, [one; 3]));
    assert!(!adamw::stays_in_range(&scalars(), one, adamw::UNKNOWN_PEAKS));
    assert!(!adamw::stays_in_range(&scalars(), bits(f32::INFINITY), [one; 3]));
    // One vector at a time grows until the answer is no; up to there, no outcome leaves the range.
    for which in 0..4 {
        let mut refused = false;
        for exponent in 0..40 {
            let large = 1.9 * 2f32.powi(exponent);
            let of = |number| if number == which { large } else { 1.0 };
            // With v as small as it gets, the direction is as large as it gets.
            let (mut p, mut m, mut v) = ([-of(0)], [of(1)], [if which == 2 { large } else { 0.0 }]);
            let g = of(3);
            let peaks = [bits(of(0)), bits(of(1)), bits(of(2))];
            refused = !adamw::stays_in_range(&scalars(), bits(g), peaks);
            if refused {
                break;
            }
            let state = adamw::State { parameters: &mut p, first_moment: &mut m, second_moment: &mut v };
            let peaks = adamw::step_in_place(simd, &scalars(), &[g], state);
            assert!(adamw::largest(peaks) < crate::arithmetic::RANGE_LIMIT_BITS, "{which} {exponent}: {peaks:?}");
        }
        assert!(refused, "vector {which}");
    }
}
