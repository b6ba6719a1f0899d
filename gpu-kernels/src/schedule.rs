//! How a learning rate falls, the same to the bit on every machine.
//!
//! Only + − × ÷ √ of f64 are used, which IEEE 754 rounds alike everywhere; cosines come from
//! the series of the rotary table, not from a library.

use crate::cpu::rope::sine_cosine;
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// The curve from the highest learning rate (where decay starts) to the last one (at the end).
///
/// A cosine schedule (Loshchilov & Hutter, 2017) is warm-up and a decay that starts where warm-up
/// ends; warm-up–stable–decay (Hu et al., 2024) has a constant stretch between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayShape {
    /// A straight line.
    #[default]
    Linear,
    /// Half a period of a cosine: slow at both ends.
    Cosine,
    /// 1 − √: fast at first (Hägele et al., 2024).
    OneMinusSqrt,
}

impl DecayShape {
    /// Whether it is a straight line.
    pub fn is_linear(&self) -> bool {
        *self == Self::Linear
    }

    /// Which share of the way down is behind when `done` (0 to 1) of the steps are.
    pub(crate) fn fallen(self, done: f64) -> f64 {
        match self {
            Self::Linear => done,
            Self::Cosine => {
                let (sine, _) = sine_cosine(done * FRAC_PI_2);
                sine * sine
            }
            Self::OneMinusSqrt => done.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    const SHAPES: [DecayShape; 3] = [DecayShape::Linear, DecayShape::Cosine, DecayShape::OneMinusSqrt];

    #[test]
    fn every_shape_falls_from_one_end_to_the_other() {
        for shape in SHAPES {
            assert_eq!((shape.fallen(0.0), shape.fallen(1.0)), (0.0, 1.0), "{shape:?}");
            let values: Vec<f64> = (0..=10_000).map(|place| shape.fallen(f64::from(place) / 1e4)).collect();
            assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{shape:?}");
        }
    }

    #[test]
    fn the_cosine_is_the_library_s_within_its_bound() {
        // Twice the series' 10⁻¹⁵ (a square), and as much for the library's own cancellation.
        let worst = (0..=1_000_003)
            .map(|place| f64::from(place) / 1_000_003.0)
            .map(|done| (DecayShape::Cosine.fallen(done) - 0.5 * (1.0 - (PI * done).cos())).abs())
            .fold(0.0, f64::max);
        assert!(worst < 3e-15, "{worst:e}");
    }

    /// Computed by another program, from `docs/arithmetic.md`.
    #[test]
    fn bits_are_golden() {
        let thirds = |shape: DecayShape| [1.0, 2.0].map(|part: f64| shape.fallen(part / 3.0).to_bits());
        assert_eq!(thirds(DecayShape::Linear), [0x3fd5_5555_5555_5555, 0x3fe5_5555_5555_5555]);
        assert_eq!(thirds(DecayShape::Cosine), [0x3fcf_ffff_ffff_fffe, 0x3fe7_ffff_ffff_ffff]);
        assert_eq!(thirds(DecayShape::OneMinusSqrt), [0x3fe2_79a7_4590_331c, 0x3fea_20bd_700c_2c3e]);
    }
}
