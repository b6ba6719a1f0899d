//! Launcher of `cross_entropy`.

use super::word;
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// The losses of `rows` rows of `width` logits; with a scale, the logits become their gradient.
pub(crate) fn cross_entropy(
    logits: &Buffer,
    (rows, width): (usize, usize),
    targets: &Buffer,
    scale: Option<f32>,
    losses: &Buffer,
    slot: u32,
) -> Dispatch {
    assert!(rows * width <= logits.len && rows <= targets.len && rows <= losses.len);
    let params = vec![word(rows), word(width), scale.unwrap_or(0.0).to_bits(), u32::from(scale.is_some()), slot];
    let buffers = vec![logits.clone(), targets.clone(), losses.clone()];
    Dispatch { kernel: Kernel::CrossEntropy, params, buffers, groups: rows }
}
