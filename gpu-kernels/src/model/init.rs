//! Initial parameters from a seed: integer-exact Gaussians.
//!
//! A value is (number of ones in 512 random bits) − 256, plus a uniform
//! fraction from −½ to ½ that fills the gaps: mean 0, variance 128 + 1/12
//! (less 2⁻³²/12), excess kurtosis −0.0039, symmetric. It is exact in units of 2⁻¹⁷,
//! rounded once to f32 and multiplied by one constant.

use super::config::ModelConfig;
use super::layout::{Layout, Tensor};
use crate::arithmetic::{from_host, mul};
use crate::cpu::random::{Key, key_from, mix};
use rayon::prelude::*;

/// Hash words whose ones are counted.
const WORDS: usize = 16;
/// The variance of [`gaussian`]: 2³⁴·128 + (2³² − 1)/3.
const VARIANCE_FIXED: f64 = 2_200_454_911_317.0;
/// Domain of the hash from run seed to tensor keys.
const CONTEXT: &str = "manta arithmetic 1 initial parameters";

/// A Gaussian integer with standard deviation √(2³⁴·(128 + 1/12)).
#[inline(always)]
fn gaussian(keys: &[Key; WORDS + 1], index: u32) -> i32 {
    let ones: u32 = keys[..WORDS].iter().map(|&key| mix(key, index).count_ones()).sum();
    let fraction = (mix(keys[WORDS], index) >> 16) as i32;
    (ones as i32 - 256) * (1 << 17) + 2 * fraction + 1 - (1 << 16)
}

/// The keys of one tensor: the first 136 bytes of blake3's extendable output.
fn tensor_keys(run_seed: &[u8; 32], name: &str) -> [Key; WORDS + 1] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(run_seed).update(name.as_bytes());
    let mut output = hasher.finalize_xof();
    std::array::from_fn(|_| {
        let mut bytes = [0; 8];
        output.fill(&mut bytes);
        key_from(&bytes)
    })
}

/// The factor from [`gaussian`] to parameters. Projections into the residual
/// stream are smaller by √(2·layers), so that the stream's variance does not
/// grow with depth (Radford et al., 2019).
fn scale(config: &ModelConfig, tensor: &Tensor) -> f32 {
    let mut deviation = f64::from(config.initializer_range);
    if tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight") {
        deviation /= (2.0 * config.num_hidden_layers as f64).sqrt();
    }
    from_host(deviation / VARIANCE_FIXED.sqrt())
}

/// Fills the flat vector: matrices with Gaussians, norm weights with 1.
pub(crate) fn initialize(config: &ModelConfig, layout: &Layout, run_seed: &[u8; 32], parameters: &mut [f32]) {
    for tensor in layout.tensors() {
        let values = &mut parameters[tensor.range()];
        if tensor.shape.len() == 1 {
            values.fill(1.0);
            continue;
        }
        let (keys, scale) = (tensor_keys(run_seed, &tensor.name), scale(config, tensor));
        values.par_iter_mut().with_min_len(1024).enumerate().for_each(|(index, value)| {
            *value = mul(gaussian(&keys, index as u32) as f32, scale);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_correlations_are_those_of_a_gaussian() {
        let keys = tensor_keys(&[7; 32], "model.layers.0.mlp.up_proj.weight");
        let count = 1 << 18;
        let unit = VARIANCE_FIXED.sqrt();
        let values: Vec<f64> = (0..count).map(|index| f64::from(gaussian(&keys, index)) / unit).collect();
        let other = tensor_keys(&[7; 32], "model.layers.1.mlp.up_proj.weight");
        let others: Vec<f64> = (0..count).map(|index| f64::from(gaussian(&other, index)) / unit).collect();
        let n = f64::from(count);
        let moment = |power: i32| values.iter().map(|x| x.powi(power)).sum::<f64>() / n;
        let error = n.sqrt().recip();
        assert!(moment(1).abs() < 5.0 * error, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 5.0 * 2f64.sqrt() * error, "variance {}", moment(2));
        assert!(moment(3).abs() < 5.0 * 15f64.sqrt() * error, "skewness {}", moment(3));
        assert!((moment(4) - 2.9961).abs() < 5.0 * 96f64.sqrt() * error, "kurtosis {}", moment(4));
        let neighbours = values.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / n;
        assert!(neighbours.abs() < 5.0 * error, "neighbours {neighbours}");
        let tensors = values.iter().zip(&others).map(|(a, b)| a * b).sum::<f64>() / n;
        assert!(tensors.abs() < 5.0 * error, "tensors {tensors}");
        for (limit, share) in [(1.0, 0.682_689), (2.0, 0.954_500), (3.0, 0.997_300)] {
            let found = values.iter().filter(|x| x.abs() < limit).count() as f64 / n;
            assert!((found - share).abs() < 5.0 * (share * (1.0 - share)).sqrt() * error, "within {limit}: {found}");
        }
    }

    #[test]
    fn the_stated_variance_is_exact() {
        // Binomial(512, ½) has variance 128; odd integers under 2¹⁶ have (2³² − 1)/3.
        let exact = 128.0 * 2f64.powi(34) + (2f64.powi(32) - 1.0) / 3.0;
        assert!((VARIANCE_FIXED - exact).abs() < 1.0, "{exact}");
    }
}
