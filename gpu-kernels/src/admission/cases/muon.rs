//! Known answers of Muon's element-wise kernels.

use super::super::bench::{Bench, Outcome, SLOT, expect};
use super::super::vectors::spread;
use super::Cases;
use super::sums::edge;
use crate::arithmetic::{RANGE_LIMIT_BITS, add, from_host, mul};
use crate::cpu::adamw::State;
use crate::cpu::muon::{self as native, COEFFICIENTS, NORM_EPSILON, Scalars};
use crate::cpu::reduce::tree_sum;
use crate::functions::{reciprocal, sqrt};
use crate::gpu::ops;
use std::ops::Range;

/// The part of the vectors that is worked on.
const PART: Range<usize> = 30..690;
const COUNT: usize = 700;

/// Powers of two between which gradients and momenta, and parameters, lie: ordinary ones, some around the flushing
/// threshold, and some around the range limit.
const REGIMES: [(i32, i32, i32, i32); 4] =
    [(-8, 0, -4, 0), (-100, -96, -100, -97), (36, 38, 38, 39), (-50, -44, -8, 0)];

/// Scalars of few digits, so that products end in ties, and of many.
fn scalars(many: bool) -> Scalars {
    match many {
        true => Scalars { gradient_scale: from_host(0.3), learning_rate: from_host(0.037), decay: from_host(0.997) },
        false => Scalars { gradient_scale: 0.75, learning_rate: 0.625, decay: 0.875 },
    }
}

/// Gradient, parameters, momentum and directions.
fn vectors(number: usize) -> [Vec<f32>; 4] {
    let (low, high, parameter_low, parameter_high) = REGIMES[number];
    let seed = 50 + 10 * number as u32;
    let mut gradient = spread(COUNT, seed, low, high);
    gradient[40] = f32::from_bits(5);
    let parameters = spread(COUNT, seed + 1, parameter_low, parameter_high);
    [gradient, parameters, spread(COUNT, seed + 2, low, high), spread(COUNT, seed + 3, low.max(-99), high)]
}

fn state(bench: &Bench, scalars: &Scalars, vectors: &[Vec<f32>; 4]) -> Result<ops::adamw::State, crate::EngineError> {
    let [gradient, parameters, momentum, directions] = vectors;
    Ok(ops::adamw::State {
        gradient: bench.floats(gradient)?,
        scale: bench.floats(&[0.0, scalars.gradient_scale])?,
        parameters: bench.floats(parameters)?,
        first_moment: bench.floats(momentum)?,
        second_moment: bench.floats(directions)?,
    })
}

pub(super) fn direction(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for number in 0..2 * REGIMES.len() {
        let (scalars, vectors) = (scalars(number % 2 == 0), vectors(number / 2));
        let directions = bench.garbage(PART.len())?;
        let state = state(bench, &scalars, &vectors)?;
        let found = bench.run(&ops::muon::direction(&state, &scalars, PART, &directions), &[&directions])?;
        let mut expected = vec![0.0; PART.len()];
        let [gradient, _, momentum, _] = &vectors;
        let (simd, scale) = (bench.simd, scalars.gradient_scale);
        bench.pool.install(|| native::directions(simd, scale, &gradient[PART], &momentum[PART], &mut expected));
        outcomes.push(Outcome { found, expected: expect(&[&expected], 0) });
    }
    Ok(outcomes)
}

pub(super) fn norm(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let positive = |values: Vec<f32>| values.iter().map(|x| x.abs()).collect::<Vec<f32>>();
    let mut cases = vec![vec![0.0; 3], vec![f32::from_bits(28 << 23 | 0x0040_0000)]];
    // Norms around ε, ordinary ones, and ones around the limit.
    cases.extend((0..10).map(|seed| positive(spread(77, seed, -54, -44))));
    cases.extend((10..20).map(|seed| positive(spread(77, seed, -8, 12))));
    cases.push(positive(spread(200, 33, 76, 80)));
    for sums in cases {
        let factor = bench.garbage(1)?;
        let found = bench.run(&[ops::muon::norm((&bench.floats(&sums)?, sums.len()), &factor, SLOT)], &[&factor])?;
        let norm = sqrt(tree_sum(&sums));
        let expected = reciprocal(add(norm, NORM_EPSILON));
        outcomes.push(Outcome { found, expected: expect(&[&[expected]], norm.to_bits()) });
    }
    Ok(outcomes)
}

pub(super) fn scale(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    for (number, factor) in [from_host(1.3e3), 0.75, from_host(0.7), 0.375].into_iter().enumerate() {
        let [values, .., mut x] = vectors(number);
        let (own, target) = (bench.floats(&values[PART])?, bench.floats(&x)?);
        let found = bench.run(&ops::muon::scale(&own, &bench.floats(&[factor])?, &target, PART), &[&target])?;
        x[PART].copy_from_slice(&values[PART]);
        bench.pool.install(|| native::scale(bench.simd, factor, &mut x[PART]));
        outcomes.push(Outcome { found, expected: expect(&[&x], 0) });
    }
    Ok(outcomes)
}

pub(super) fn combine(bench: &mut Bench) -> Cases {
    let mut outcomes = Vec::new();
    let [a, b, c] = COEFFICIENTS;
    for number in 0..REGIMES.len() {
        let [_, y, _, mut x] = vectors(number);
        let (own, target) = (bench.floats(&y[PART])?, bench.floats(&x)?);
        let found = bench.run(&ops::muon::combine(&own, &target, PART, [a, 1.0], SLOT), &[&target])?;
        let peak = bench.pool.install(|| native::add_scaled(bench.simd, a, &mut x[PART], &y[PART]));
        outcomes.push(Outcome { found, expected: expect(&[&x], peak) });
        // A symmetric matrix, of which the native twin knows half.
        let side = 26;
        let (mut whole, mut symmetric) = (x[..side * side].to_vec(), vec![0.0; side * side]);
        // Of the sum that was just made, what is out of range.
        whole.iter_mut().for_each(|x| *x = mul(*x, 0.25));
        native::mirror(&y[..side * side], side, &mut symmetric);
        let (own, target) = (bench.floats(&symmetric)?, bench.floats(&whole)?);
        let found = bench.run(&ops::muon::combine(&own, &target, 0..side * side, [b, c], SLOT), &[&target])?;
        let peak = native::combine(&y[..side * side], side, [b, c], &mut whole);
        outcomes.push(Outcome { found, expected: expect(&[&whole], peak) });
    }
    Ok(outcomes)
}

/// As `muon`, and elements of which the new parameter is just at the limit, and just under it. (Momenta, which
/// are means, do not get there from under it.)
pub(super) fn preview(bench: &mut Bench) -> Cases {
    let mut outcomes = step_cases(bench, false)?;
    let count = 120;
    for seed in 0..4 {
        let scalars = Scalars { decay: if seed < 2 { 1.0 } else { 0.9375 }, ..scalars(seed % 2 == 1) };
        // Changes nearly as large as the limit, so that the rounding of each part shows; away from zero.
        let directions: Vec<f32> = spread(count, seed, 38, 39).iter().map(|x| -x.abs()).collect();
        let mut parameters = vec![0.0; count];
        let mut expected = Vec::new();
        for at in 0..count {
            let fails = |parameter: f32| {
                let new = &mut [directions[at]];
                native::step_parameters(bench.simd, &scalars, &[parameter], new) >= RANGE_LIMIT_BITS
            };
            let edge = edge(fails).min(RANGE_LIMIT_BITS - 1);
            parameters[at] = f32::from_bits(edge - (at as u32 & 1));
            expected.push(u32::from(fails(parameters[at])));
        }
        let none = vec![0.0; count];
        let state = state(bench, &scalars, &[none.clone(), parameters, none, directions])?;
        let dispatches: Vec<_> =
            (0..count).flat_map(|at| ops::muon::preview(&state, &scalars, at..at + 1, SLOT + at as u32)).collect();
        outcomes.push(Outcome { found: bench.run_checks(&dispatches, &[], count)?, expected });
    }
    Ok(outcomes)
}

pub(super) fn step(bench: &mut Bench) -> Cases {
    step_cases(bench, true)
}

/// A checked step over the middle of some vectors; with `outputs`, what it left behind.
fn step_cases(bench: &mut Bench, outputs: bool) -> Cases {
    let mut outcomes = Vec::new();
    for number in 0..2 * REGIMES.len() {
        let (scalars, vectors) = (scalars(number % 2 == 0), vectors(number / 2));
        let state = state(bench, &scalars, &vectors)?;
        let mut dispatches = ops::muon::preview(&state, &scalars, PART, SLOT);
        let mut tensors = Vec::new();
        if outputs {
            dispatches.extend(ops::muon::step(&state, &scalars, PART));
            tensors = vec![&state.parameters, &state.first_moment, &state.second_moment];
        }
        let found = bench.run(&dispatches, &tensors)?;
        let [gradient, mut parameters, mut momentum, mut directions] = vectors;
        let (simd, scale) = (bench.simd, scalars.gradient_scale);
        let peak = bench.pool.install(|| {
            let mut new = vec![0.0; PART.len()];
            let peak = native::directions(simd, scale, &gradient[PART], &momentum[PART], &mut new);
            new.copy_from_slice(&directions[PART]);
            let peak = peak.max(native::step_parameters(simd, &scalars, &parameters[PART], &mut new));
            if peak < RANGE_LIMIT_BITS {
                let state = State {
                    parameters: &mut parameters[PART],
                    first_moment: &mut momentum[PART],
                    second_moment: &mut [],
                };
                native::commit(simd, scale, &gradient[PART], state, &new);
            }
            peak
        });
        directions[PART].fill(0.0);
        let expected = if outputs { expect(&[&parameters, &momentum, &directions], peak) } else { expect(&[], peak) };
        outcomes.push(Outcome { found, expected });
    }
    Ok(outcomes)
}
