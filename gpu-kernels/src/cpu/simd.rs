//! Run-time choice of the instruction set.
//!
//! The macro `dispatch!` compiles one function body once for each path. The
//! bodies hold only operations that are defined to the bit, and Rust neither
//! reassociates nor contracts floats, so a wider path changes speed only.

use crate::error::EngineError;
use serde::{Deserialize, Serialize};

/// Which instruction set the native kernels use. All give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimdPath {
    /// The best one that this machine has.
    #[default]
    Auto,
    /// Plain Rust, for any processor.
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, VL, DQ) and its VNNI dot products.
    Avx512Vnni,
    /// 64-bit Arm with the dot products of 8-bit integers (Armv8.2-DotProd).
    NeonDot,
}

/// A path that this machine was found to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Simd {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
}

impl SimdPath {
    /// The paths other than [`SimdPath::Auto`] that this machine can run.
    pub fn available() -> Vec<SimdPath> {
        let all = [Self::Portable, Self::Avx2, Self::Avx512Vnni, Self::NeonDot];
        all.into_iter().filter(|path| path.resolve().is_ok()).collect()
    }

    pub(crate) fn resolve(self) -> Result<Simd, EngineError> {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Auto | Self::Avx512Vnni if has_avx512_vnni() => return Ok(Simd::Avx512Vnni),
            Self::Auto | Self::Avx2 if is_x86_feature_detected!("avx2") => return Ok(Simd::Avx2),
            _ => {}
        }
        #[cfg(target_arch = "aarch64")]
        if matches!(self, Self::Auto | Self::NeonDot) && std::arch::is_aarch64_feature_detected!("dotprod") {
            return Ok(Simd::NeonDot);
        }
        match self {
            Self::Auto | Self::Portable => Ok(Simd::Portable),
            path => Err(EngineError::SimdMissing { path }),
        }
    }
}

impl Simd {
    /// Consecutive elements of the contracted axis that one packed 32-bit word holds.
    pub(crate) fn group(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512Vnni => 4,
            #[cfg(target_arch = "aarch64")]
            Simd::NeonDot => 4,
            _ => 2,
        }
    }
}

/// Defines `fn name(simd, arguments…)` with one body compiled for every path.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(simd: $crate::cpu::simd::Simd, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }
            match simd {
                $crate::cpu::simd::Simd::Portable => body($($arg),*),
                // SAFETY: a `Simd` exists only for instruction sets that were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Simd::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Simd::Avx512Vnni => unsafe { avx512($($arg),*) },
                // Every 64-bit Arm has the vectors that the compiler needs for this.
                #[cfg(target_arch = "aarch64")]
                $crate::cpu::simd::Simd::NeonDot => body($($arg),*),
            }
        }
    };
}
