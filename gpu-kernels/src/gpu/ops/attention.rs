//! Launchers of `softmax_causal`, `softmax_causal_backward` and `group_sum`.

use super::{GROUP_ROWS, elementwise, word};
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// The scores of some heads: `[head][position][stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Scores {
    pub(crate) heads: usize,
    pub(crate) length: usize,
    /// A multiple of 32, at least the length.
    pub(crate) stride: usize,
    /// 1/√head_dim, rounded once.
    pub(crate) scale: f32,
}

impl Scores {
    fn params(&self, tensors: &[&Buffer], slot: u32) -> Vec<u32> {
        let rows = self.heads * self.length;
        assert!(self.stride >= self.length && tensors.iter().all(|tensor| rows * self.stride <= tensor.len));
        vec![word(rows), word(self.length), word(self.stride), self.scale.to_bits(), slot]
    }

    /// Scores → probabilities, in place.
    pub(crate) fn softmax(&self, scores: &Buffer, slot: u32) -> Dispatch {
        let params = self.params(&[scores], slot);
        Dispatch {
            kernel: Kernel::SoftmaxCausal,
            params,
            buffers: vec![scores.clone()],
            groups: (self.heads * self.length).div_ceil(GROUP_ROWS),
            operations: elementwise(self.heads * self.length * self.stride),
        }
    }

    /// Gradient of probabilities → gradient of scores, in place.
    pub(crate) fn softmax_backward(&self, probabilities: &Buffer, gradient: &Buffer, slot: u32) -> Dispatch {
        let params = self.params(&[probabilities, gradient], slot);
        let buffers = vec![probabilities.clone(), gradient.clone()];
        let rows = self.heads * self.length;
        let (groups, operations) = (rows.div_ceil(GROUP_ROWS), elementwise(rows * self.stride));
        Dispatch { kernel: Kernel::SoftmaxCausalBackward, params, buffers, groups, operations }
    }
}

/// `total[offset + head·head_elements + i]` = Σ over members of `parts[head·members + member][i]`, in
/// order, where a head's elements are `length` rows of `width`.
pub(crate) fn group_sum(
    parts: &Buffer,
    (heads, members): (usize, usize),
    (length, width): (usize, usize),
    (total, offset): (&Buffer, usize),
    slot: u32,
) -> Dispatch {
    let (rows, count) = (heads * length, heads * length * width);
    assert!(count * members <= parts.len && offset + count <= total.len);
    let params = vec![word(rows), word(length), word(width), word(members), word(offset), slot];
    let buffers = vec![parts.clone(), total.clone()];
    let (groups, operations) = (rows.div_ceil(GROUP_ROWS), elementwise(count * members));
    Dispatch { kernel: Kernel::GroupSum, params, buffers, groups, operations }
}
