//! How many multiply-adds a second the processor does when it only has to multiply.

use crate::cpu::pool::Pool;
use crate::cpu::simd::{Simd, SimdPath};
use crate::error::EngineError;
use serde::Serialize;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Iterations between two looks at the clock: about a tenth of a millisecond.
const ROUNDS: u64 = 20_000;

/// Multiply-adds a second of all threads together, from registers alone, in the
/// instructions that this instruction set has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Of 8-bit integers into 32 bits (16-bit ones where there is no 8-bit dot product).
    pub integer_multiply_adds_per_s: u64,
    /// Of f32, fused.
    pub float_multiply_adds_per_s: u64,
}

/// Measures for about `duration_ms` each; none on the portable path, which has no instructions of its own.
///
/// # Errors
/// The threads cannot be started, or the machine lacks the path.
pub fn measure_peak(path: SimdPath, threads: usize, duration_ms: u64) -> Result<Option<Peak>, EngineError> {
    let (simd, pool) = (path.resolve()?, Pool::<()>::new(threads)?);
    // Other programs only ever make a stretch slower: the fastest one counts.
    let fastest = |run: fn(Simd, u64) -> Option<u64>| -> Option<u64> {
        let of_thread = move || {
            let (begun, mut best) = (Instant::now(), 0.0f64);
            while begun.elapsed() < Duration::from_millis(duration_ms) {
                let start = Instant::now();
                let multiply_adds = run(simd, ROUNDS)?;
                best = best.max(multiply_adds as f64 / start.elapsed().as_secs_f64().max(1e-9));
            }
            Some(best as u64)
        };
        pool.install(|| rayon::broadcast(|_| of_thread())).into_iter().sum()
    };
    let rates = fastest(integers).zip(fastest(floats));
    Ok(rates.map(|(integer_multiply_adds_per_s, float_multiply_adds_per_s)| Peak {
        integer_multiply_adds_per_s,
        float_multiply_adds_per_s,
    }))
}

/// Multiply-adds that `rounds` took.
fn integers(simd: Simd, rounds: u64) -> Option<u64> {
    match simd {
        Simd::Portable => None,
        // SAFETY: a `Simd` exists only for instruction sets that were detected.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => Some(unsafe { x86::integers_avx2(rounds) }),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512Vnni => Some(unsafe { x86::integers_avx512(rounds) }),
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Simd::NeonDot => Some(unsafe { arm::integers(rounds) }),
    }
}

fn floats(simd: Simd, rounds: u64) -> Option<u64> {
    match simd {
        Simd::Portable => None,
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 if !is_x86_feature_detected!("fma") => None,
        // SAFETY: a `Simd` exists only for instruction sets that were detected, and so was FMA.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => Some(unsafe { x86::floats_avx2(rounds) }),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512Vnni => Some(unsafe { x86::floats_avx512(rounds) }),
        #[cfg(target_arch = "aarch64")]
        Simd::NeonDot => Some(arm::floats(rounds)),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::black_box;
    use std::arch::x86_64::*;

    /// Sums under way at once: more than the latency of a multiply-add times its rate.
    const WIDE: usize = 16;
    /// As many as 16 registers leave room for.
    const NARROW: usize = 10;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn integers_avx512(rounds: u64) -> u64 {
        let (a, b) = (_mm512_set1_epi32(black_box(0x0102_0304)), _mm512_set1_epi32(black_box(0x0403_0201)));
        let mut sums = [_mm512_setzero_si512(); WIDE];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        for sum in sums {
            black_box(_mm512_reduce_add_epi32(sum));
        }
        rounds * (WIDE * 64) as u64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn floats_avx512(rounds: u64) -> u64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
        let mut sums = [_mm512_setzero_ps(); WIDE];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        for sum in sums {
            black_box(_mm512_reduce_add_ps(sum));
        }
        rounds * (WIDE * 16) as u64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn integers_avx2(rounds: u64) -> u64 {
        let (a, b) = (_mm256_set1_epi32(black_box(0x0001_0002)), _mm256_set1_epi32(black_box(0x0003_0001)));
        let mut sums = [a; NARROW];
        for _ in 0..rounds {
            for sum in &mut sums {
                // The product must not be the same in every round, or it would be taken out of the loop.
                *sum = _mm256_add_epi32(b, _mm256_madd_epi16(*sum, a));
            }
        }
        for sum in sums {
            black_box(_mm256_extract_epi32(sum, 0));
        }
        rounds * (NARROW * 16) as u64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn floats_avx2(rounds: u64) -> u64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
        let mut sums = [_mm256_setzero_ps(); NARROW];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        for sum in sums {
            black_box(_mm256_cvtss_f32(sum));
        }
        rounds * (NARROW * 8) as u64
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::black_box;
    use crate::cpu::matmul::neon::dot;
    use std::arch::aarch64::*;

    /// Sums under way at once: more than the latency of a multiply-add times its rate.
    const WIDE: usize = 20;

    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn integers(rounds: u64) -> u64 {
        let (a, b) = (vdupq_n_u32(black_box(0x0102_0304)), vdupq_n_u32(black_box(0x0403_0201)));
        let mut sums = [vdupq_n_s32(0); WIDE];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = dot(*sum, a, b);
            }
        }
        for sum in sums {
            black_box(vaddvq_s32(sum));
        }
        rounds * (WIDE * 16) as u64
    }

    pub(super) fn floats(rounds: u64) -> u64 {
        // SAFETY: every 64-bit Arm has these vectors.
        unsafe {
            let (a, b) = (vdupq_n_f32(black_box(0.5)), vdupq_n_f32(black_box(1.0)));
            let mut sums = [vdupq_n_f32(0.0); WIDE];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = vfmaq_f32(a, *sum, b);
                }
            }
            for sum in sums {
                black_box(vaddvq_f32(sum));
            }
        }
        rounds * (WIDE * 4) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_peaks_are_of_a_processors_order() {
        for path in SimdPath::available() {
            let Some(peak) = measure_peak(path, 1, 10).unwrap() else { continue };
            // From an emulated or starved core to more than any has: what is not computed at all is faster.
            let plausible = 10_000_000..100_000_000_000_000;
            assert!(plausible.contains(&peak.integer_multiply_adds_per_s), "{path:?}: {peak:?}");
            assert!(plausible.contains(&peak.float_multiply_adds_per_s), "{path:?}: {peak:?}");
        }
    }
}
