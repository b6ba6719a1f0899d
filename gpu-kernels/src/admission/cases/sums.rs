//! Known answers of sums and of the optimiser.

use super::super::bench::{Bench, Outcome, SLOT, expect};
use super::super::vectors::{ordinary, spread};
use super::Cases;
use crate::arithmetic::{from_host, mul};
use crate::cpu;
use crate::cpu::adamw::NORM_BLOCK;
use crate::cpu::reduce::{add_assign, tree_sum};
use crate::functions::sqrt;
use crate::gpu::ops;
use crate::model::optimizer::{clipped_scale, scalars};
use crate::model::step::StepNumbers;
use crate::spec::OptimizerConfig;

/// Pairs of vectors whose sums are ordinary, around the flushing threshold, and around the range limit.
fn sum_cases() -> Vec<(Vec<f32>, Vec<f32>)> {
    let count = 777;
    let pair = |low, high| (spread(count, 1, low, high), spread(count, 2, low, high));
    vec![pair(-20, 0), pair(-1, 0), pair(-100, -99), pair(37, 39), pair(-100, 38)]
}

pub(super) fn add(bench: &mut Bench) -> Cases {
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
pub(super) fn edge(fails: impl Fn(f32) -> bool) -> u32 {
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

pub(super) fn sum_peak(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (a, b) in sum_cases() {
        let (left, right) = (bench.floats(&a)?, bench.floats(&b)?);
        let found = bench.run(&ops::sum::sum_peak([&left, &right], a.len(), SLOT), &[])?;
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
            dispatches.extend(ops::sum::sum_peak([&bench.floats(&[a])?, &bench.floats(&[b])?], 1, slot));
            expected.push(u32::from(fails(a)));
        }
    }
    let found = bench.run_checks(&dispatches, &[], dispatches.len())?;
    outcomes.push(Outcome { found, expected });
    Ok(outcomes)
}

/// Adds where all is well, and leaves everything where a check has failed before it.
pub(super) fn accumulate(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (mut a, b) in sum_cases() {
        let (total, part) = (bench.floats(&a)?, bench.floats(&b)?);
        let mut dispatches = ops::sum::sum_peak([&total, &part], a.len(), SLOT);
        dispatches.extend(ops::sum::accumulate(&part, a.len(), &total));
        let found = bench.run(&dispatches, &[&total])?;
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

pub(super) fn sum_of_squares(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for values in norm_inputs() {
        let blocks = values.len().div_ceil(NORM_BLOCK);
        let sums = bench.garbage(blocks)?;
        let dispatches = ops::adamw::sum_of_squares(&bench.floats(&values)?, values.len(), &sums);
        let found = bench.run(&dispatches, &[&sums])?;
        let expected: Vec<f32> =
            values.chunks(NORM_BLOCK).map(|block| cpu::reduce::sum_of_squares(bench.simd, block)).collect();
        outcomes.push(Outcome { found, expected: expect(&[&expected], 0) });
    }
    Ok(outcomes)
}

pub(super) fn gradient_scale(bench: &mut Bench) -> Cases {
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
pub(super) fn adamw_preview(bench: &mut Bench) -> Cases {
    let mut outcomes = optimizer_step(bench, false)?;
    let config = OptimizerConfig { warmup_steps: 0, learning_rate: 0.7, ..Default::default() };
    let scalars = scalars(&config, StepNumbers::in_order(7), from_host(0.3), true);
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
            let peaks = cpu::adamw::preview(bench.simd, &scalars, &gradient[at..=at], &state, &mut [0.0]);
            cpu::adamw::largest(peaks) >= crate::arithmetic::RANGE_LIMIT_BITS
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
    let dispatches: Vec<_> = (0..count).flat_map(|at| state.preview(&scalars, at..at + 1, SLOT + at as u32)).collect();
    let found = bench.run_checks(&dispatches, &[], count)?;
    outcomes.push(Outcome { found, expected });
    Ok(outcomes)
}

pub(super) fn adamw(bench: &mut Bench) -> Cases {
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
        let scalars = scalars(&config, StepNumbers::in_order(3 + 40 * number as u64), from_host(0.3), number % 2 == 0);
        let state = ops::adamw::State {
            gradient: bench.floats(&gradient)?,
            scale: bench.floats(&[0.0, scalars.gradient_scale])?,
            parameters: bench.floats(&parameters)?,
            first_moment: bench.floats(&first)?,
            second_moment: bench.floats(&second)?,
        };
        let mut dispatches = state.preview(&scalars, range.clone(), SLOT);
        let mut tensors = Vec::new();
        if outputs {
            dispatches.extend(state.step(&scalars, range.clone()));
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
            let peak = cpu::adamw::largest(cpu::adamw::preview(bench.simd, &scalars, part, &native, &mut new));
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
