//! Sums of canonical f32 in the one fixed order: a tree of 32 lanes.
//!
//! Lane l adds elements l, l + 32, l + 64, … in that order, starting from +0;
//! then lane l adds lane l + s for s = 16, 8, 4, 2, 1.

use crate::arithmetic::{add, larger, magnitude, mul};

/// Number of lanes of the tree.
pub(crate) const LANES: usize = 32;

#[inline(always)]
pub(crate) fn fold_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut stride = LANES / 2;
    while stride > 0 {
        for lane in 0..stride {
            lanes[lane] = add(lanes[lane], lanes[lane + stride]);
        }
        stride /= 2;
    }
    lanes[0]
}

/// Tree sum of `values`.
#[inline(always)]
pub(crate) fn tree_sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = add(lanes[lane], chunk[lane]);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        lanes[lane] = add(lanes[lane], value);
    }
    fold_lanes(lanes)
}

/// Tree sum of the products of equal-length `a` and `b`.
#[inline(always)]
pub(crate) fn tree_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = add(lanes[lane], mul(a[lane], b[lane]));
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] = add(lanes[lane], mul(a, b));
    }
    fold_lanes(lanes)
}

/// The largest of a non-empty row, by comparison.
#[inline(always)]
pub(crate) fn row_maximum(values: &[f32]) -> f32 {
    let mut lanes = [values[0]; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], chunk[lane]);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        lanes[lane] = larger(lanes[lane], value);
    }
    lanes.into_iter().fold(values[0], larger)
}

dispatch! {
    /// Tree sum of the squares of `values`.
    pub(crate) fn sum_of_squares(values: &[f32]) -> f32 {
        tree_dot(values, values)
    }
}

dispatch! {
    /// The largest magnitude in the sum of two vectors.
    pub(crate) fn sum_peak(a: &[f32], b: &[f32]) -> u32 {
        let mut peak = 0;
        for (&a, &b) in a.iter().zip(b) {
            peak = peak.max(magnitude(add(a, b)));
        }
        peak
    }
}

dispatch! {
    /// `accumulator += values`, element by element; the largest magnitude of the result.
    pub(crate) fn add_assign(accumulator: &mut [f32], values: &[f32]) -> u32 {
        let mut peak = 0;
        for (sum, &value) in accumulator.iter_mut().zip(values) {
            *sum = add(*sum, value);
            peak = peak.max(magnitude(*sum));
        }
        peak
    }
}

dispatch! {
    /// `values = accumulator + values`, element by element; the largest magnitude of the result.
    pub(crate) fn add_to(accumulator: &[f32], values: &mut [f32]) -> u32 {
        let mut peak = 0;
        for (&sum, value) in accumulator.iter().zip(values) {
            *value = add(sum, *value);
            peak = peak.max(magnitude(*value));
        }
        peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, one lane at a time.
    fn slow_tree_sum(values: &[f32]) -> f32 {
        let mut lanes: Vec<f32> =
            (0..LANES).map(|lane| values.iter().skip(lane).step_by(LANES).fold(0.0, |sum, &x| add(sum, x))).collect();
        for stride in [16, 8, 4, 2, 1] {
            lanes = (0..stride).map(|lane| add(lanes[lane], lanes[lane + stride])).collect();
        }
        lanes[0]
    }

    #[test]
    fn tree_matches_its_definition_at_every_length() {
        for length in 0..200usize {
            let values: Vec<f32> = (0..length).map(|i| ((i * 7919 % 1000) as f32 - 500.0) * 1.37e-3).collect();
            assert_eq!(tree_sum(&values).to_bits(), slow_tree_sum(&values).to_bits(), "length {length}");
            let squares: Vec<f32> = values.iter().map(|&x| mul(x, x)).collect();
            assert_eq!(tree_dot(&values, &values).to_bits(), slow_tree_sum(&squares).to_bits(), "length {length}");
            if length > 0 {
                let largest = values.iter().copied().fold(f32::MIN, f32::max);
                assert_eq!(row_maximum(&values), largest);
            }
        }
    }

    #[test]
    fn zeros_after_the_end_do_not_change_a_sum() {
        let values: Vec<f32> = (0..45).map(|i| 0.1 + i as f32).collect();
        let mut padded = values.clone();
        padded.resize(96, 0.0);
        assert_eq!(tree_sum(&values).to_bits(), tree_sum(&padded).to_bits());
    }
}
