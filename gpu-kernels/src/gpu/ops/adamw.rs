//! Launchers of `sum_of_squares`, `gradient_scale`, `adamw_preview` and `adamw`.

use super::{GROUP_ELEMENTS, GROUP_ROWS, elementwise, windows, word};
use crate::buffers::Buffer;
use crate::cpu::adamw::{NORM_BLOCK, Scalars};
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;
use std::ops::Range;

/// Sums of squares of blocks of the first `count` elements.
pub(crate) fn sum_of_squares(values: &Buffer, count: usize, sums: &Buffer) -> Vec<Dispatch> {
    assert!(count <= values.len && count.div_ceil(NORM_BLOCK) <= sums.len);
    let launch = |range: Range<usize>| {
        let (blocks, first) = (range.len().div_ceil(NORM_BLOCK), range.start / NORM_BLOCK);
        let params = vec![word(blocks), word(range.len()), word(first)];
        let buffers = vec![values.window(range.clone()).0, sums.clone()];
        let operations = elementwise(range.len());
        Dispatch { kernel: Kernel::SumOfSquares, params, buffers, groups: blocks.div_ceil(GROUP_ROWS), operations }
    };
    windows(values, 0..count, NORM_BLOCK).map(launch).collect()
}

/// `result` = norm of the mean gradient, and the factor that makes the sum the clipped mean.
pub(crate) fn gradient_scale(
    (sums, blocks): (&Buffer, usize),
    mean_scale: f32,
    clip: f32,
    result: &Buffer,
    slot: u32,
) -> Dispatch {
    assert!(blocks <= sums.len && result.len >= 2);
    let params = vec![1, word(blocks), mean_scale.to_bits(), clip.to_bits(), slot];
    let buffers = vec![sums.clone(), result.clone()];
    // One workgroup cannot be cut, so its work counts as none.
    Dispatch { kernel: Kernel::GradientScale, params, buffers, groups: 1, operations: 0 }
}

/// What an optimiser step reads and writes.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) gradient: Buffer,
    /// The result of [`gradient_scale`].
    pub(crate) scale: Buffer,
    pub(crate) parameters: Buffer,
    pub(crate) first_moment: Buffer,
    pub(crate) second_moment: Buffer,
}

impl State {
    fn launch(&self, kernel: Kernel, scalars: &Scalars, range: Range<usize>, slot: u32) -> Vec<Dispatch> {
        windows(&self.parameters, range, GROUP_ELEMENTS)
            .map(|window| self.launch_window(kernel, scalars, window, slot))
            .collect()
    }

    fn launch_window(&self, kernel: Kernel, scalars: &Scalars, range: Range<usize>, slot: u32) -> Dispatch {
        let tensors = [&self.gradient, &self.parameters, &self.first_moment, &self.second_moment];
        assert!(tensors.iter().all(|tensor| range.end <= tensor.len));
        let floats = [
            scalars.beta1,
            scalars.one_minus_beta1,
            scalars.beta2,
            scalars.one_minus_beta2,
            scalars.correction1,
            scalars.correction2,
            scalars.epsilon,
            scalars.learning_rate,
            scalars.decay,
        ];
        let [gradient, parameters, first_moment, second_moment] = tensors.map(|tensor| tensor.window(range.clone()));
        // All begin at the same place of tensors that begin alike.
        let mut params = vec![word(range.len()), word(parameters.1)];
        params.extend(floats.map(f32::to_bits));
        params.push(slot);
        Dispatch {
            kernel,
            params,
            buffers: vec![gradient.0, self.scale.clone(), parameters.0, first_moment.0, second_moment.0],
            groups: range.len().div_ceil(GROUP_ELEMENTS),
            operations: 4 * elementwise(range.len()),
        }
    }

    /// Checks the magnitudes that the step would write in `range`.
    pub(crate) fn preview(&self, scalars: &Scalars, range: Range<usize>, slot: u32) -> Vec<Dispatch> {
        self.launch(Kernel::AdamwPreview, scalars, range, slot)
    }

    /// Takes the step in `range`, unless any check has failed.
    pub(crate) fn step(&self, scalars: &Scalars, range: Range<usize>) -> Vec<Dispatch> {
        self.launch(Kernel::Adamw, scalars, range, crate::gpu::program::NO_SLOT)
    }
}
