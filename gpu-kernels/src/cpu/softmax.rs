//! Softmax over the causal prefix of each row, forward and backward, in place.
//!
//! Rows are `stride` long, a multiple of 32; row i of a sequence has i + 1 valid scores. Behind them there is +0 up to
//! the next multiple of [`REACH`], or the row's end; nobody looks further.

use super::reduce::{LANES, fold_lanes, tree_dot};
use crate::arithmetic::{larger, magnitude, mul, sub};
use crate::functions::{exp, reciprocal};

/// Causal rows are whole runs of so many elements to those who read them.
pub(crate) const REACH: usize = 64;

/// A score whose exponential is 0, whatever the maximum.
const NOTHING: f32 = f32::from_bits((127 + 80) << 23 | 1 << 31);

/// x → e^(x − maximum), for no x above `maximum`; their tree sum.
///
/// Canonisation is left out where it changes nothing: e^x is 1 for all |x| < 2⁻¹⁰⁰, and exponentials and their sums
/// are 0 or at least 2⁻⁹³.
#[inline(always)]
pub(crate) fn exponentials(values: &mut [f32], maximum: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - maximum);
            lanes[lane] += chunk[lane];
        }
    }
    for (lane, value) in chunks.into_remainder().iter_mut().enumerate() {
        *value = exp(*value - maximum);
        lanes[lane] += *value;
    }
    fold_lanes(lanes)
}

/// Multiplies whole chunks of 32 by `scale`; the largest of all, and the largest magnitude.
#[inline(always)]
fn scale_whole(scores: &mut [f32], scale: f32) -> (f32, u32) {
    let (mut maxima, mut peaks) = ([f32::MIN; LANES], [0; LANES]);
    for chunk in scores.chunks_exact_mut(LANES) {
        for lane in 0..LANES {
            chunk[lane] = mul(chunk[lane], scale);
            maxima[lane] = larger(maxima[lane], chunk[lane]);
            peaks[lane] = magnitude(chunk[lane]).max(peaks[lane]);
        }
    }
    (maxima.into_iter().fold(f32::MIN, larger), peaks.into_iter().fold(0, u32::max))
}

dispatch! {
    /// scores → probabilities: p = e^(s·scale − max) / Σ, for rows from number
    /// `first` of a sequence. The largest |score · scale| is returned.
    pub(crate) fn softmax_causal(scores: &mut [f32], stride: usize, scale: f32, first: usize) -> u32 {
        let mut peak = 0;
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let length = first + row + 1;
            let (valid, rest) = scores.split_at_mut(length.next_multiple_of(LANES));
            // Vectors are whole: behind the end stands something that changes neither maximum nor sum.
            let copy = valid[0];
            valid[length..].fill(copy);
            let (maximum, row_peak) = scale_whole(valid, scale);
            peak = peak.max(row_peak);
            valid[length..].fill(NOTHING);
            let inverse = reciprocal(exponentials(valid, maximum));
            for p in &mut *valid {
                *p = mul(*p, inverse);
            }
            let behind = length.next_multiple_of(REACH).min(stride) - valid.len();
            rest[..behind].fill(0.0);
        }
        peak
    }
}

dispatch! {
    /// dp → ds = p · (dp − Σ p·dp) · scale, for rows from number `first` of a sequence. The largest |ds| is returned.
    pub(crate) fn softmax_causal_backward(p: &[f32], dp: &mut [f32], stride: usize, scale: f32, first: usize) -> u32 {
        let mut peak = 0;
        for (row, (p, dp)) in p.chunks_exact(stride).zip(dp.chunks_exact_mut(stride)).enumerate() {
            let length = first + row + 1;
            dp[length..length.next_multiple_of(REACH).min(stride)].fill(0.0);
            let padded = length.next_multiple_of(LANES);
            let (p, dp) = (&p[..padded], &mut dp[..padded]);
            let mean = tree_dot(p, dp);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = mul(mul(p, sub(*dp, mean)), scale);
                peak = peak.max(magnitude(*dp));
            }
        }
        peak
    }
}

/// Puts +0 where nobody looks, so that whole rows can be compared.
pub(crate) fn clear_behind_reach(scores: &mut [f32], stride: usize) {
    for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
        scores[(row + 1).next_multiple_of(REACH).min(stride)..].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::FLUSH_BITS;
    use crate::cpu::reduce::tree_sum;

    #[test]
    fn exponentials_are_those_of_the_definition() {
        // From the smallest difference there is to where exponentials vanish, at every place of a chunk and behind one.
        let smallest = f32::from_bits(FLUSH_BITS);
        for maximum in [0.0, smallest, 3.0, 1e12] {
            for length in [1, 31, 32, 45, 96] {
                let below = |place: usize| match place % 5 {
                    0 => maximum,
                    1 => maximum - place as f32,
                    2 => maximum - smallest,
                    3 => maximum - 64.0 + place as f32 * 1e-3,
                    _ => -2e12,
                };
                let mut found: Vec<f32> = (0..length).map(below).collect();
                let expected: Vec<f32> = found.iter().map(|&x| exp(sub(x, maximum))).collect();
                let sum = exponentials(&mut found, maximum);
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(&found), bits(&expected), "{length} values under {maximum}");
                assert_eq!(sum.to_bits(), tree_sum(&expected).to_bits(), "{length} values under {maximum}");
            }
        }
        assert_eq!(exp(NOTHING - 1e12).to_bits(), 0);
    }
}
