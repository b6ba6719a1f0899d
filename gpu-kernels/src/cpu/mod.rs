//! The native twin of each op; every SIMD path and thread count gives the same bits.

#[macro_use]
pub(crate) mod simd;

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod gemm;
pub(crate) mod matmul;
pub(crate) mod muon;
pub(crate) mod pack;
pub(crate) mod pool;
pub(crate) mod quantize;
pub(crate) mod random;
pub(crate) mod reduce;
pub(crate) mod rmsnorm;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod softmax;
pub(crate) mod swiglu;
#[cfg(test)]
mod tests;
