//! Launchers: each checks shapes and describes one dispatch of its shader.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod gemm;
pub(crate) mod matmul;
pub(crate) mod muon;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod sum;
pub(crate) mod swiglu;

use crate::buffers::Buffer;
use std::ops::Range;

/// Elements that a workgroup of an element-wise kernel computes.
const GROUP_ELEMENTS: usize = 256;

/// Rows that a workgroup of a row-wise kernel computes.
const GROUP_ROWS: usize = 8;

/// A number of elements as a shader's parameter.
fn word(number: usize) -> u32 {
    u32::try_from(number).expect("tensors have fewer than 2^32 elements")
}

/// Operations for so many elements, each of which costs about 64 multiply-adds.
fn elementwise(elements: usize) -> u64 {
    64 * elements as u64
}

/// Pieces of `range` that are bound at once, each but the last a multiple of `step`, which is one of 64.
fn windows(tensor: &Buffer, range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let length = tensor.elements_max(step);
    range.clone().step_by(length).map(move |first| first..(first + length).min(range.end))
}
