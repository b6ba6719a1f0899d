//! Launcher of `cross_entropy`: a dispatch for each window of the logits.

use super::{GROUP_ROWS, elementwise, word};
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
) -> Vec<Dispatch> {
    assert!(rows * width <= logits.len && rows <= targets.len && rows <= losses.len);
    let step = (logits.elements_max(1) / width).max(1);
    let launch = |first: usize| {
        let rows = step.min(rows - first);
        let (window, offset) = logits.window(first * width..(first + rows) * width);
        let (scale, with_gradient) = (scale.unwrap_or(0.0).to_bits(), u32::from(scale.is_some()));
        let params = vec![word(rows), word(width), word(offset), word(first), scale, with_gradient, slot];
        let buffers = vec![window, targets.clone(), losses.clone()];
        let operations = 4 * elementwise(rows * width);
        Dispatch { kernel: Kernel::CrossEntropy, params, buffers, groups: rows.div_ceil(GROUP_ROWS), operations }
    };
    (0..rows).step_by(step).map(launch).collect()
}
