//! Launchers: each checks shapes and describes one dispatch of its shader.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod gemm;
pub(crate) mod matmul;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod sum;
pub(crate) mod swiglu;

/// Elements that a workgroup of an element-wise kernel computes.
const GROUP_ELEMENTS: usize = 256;

/// A number of elements as a shader's parameter.
fn word(number: usize) -> u32 {
    u32::try_from(number).expect("tensors have fewer than 2^32 elements")
}
