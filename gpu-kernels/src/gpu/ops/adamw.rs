//! Launchers of `sum_of_squares`, `gradient_scale`, `adamw_preview` and `adamw`.

use super::{GROUP_ELEMENTS, word};
use crate::buffers::Buffer;
use crate::cpu::adamw::{NORM_BLOCK, Scalars};
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;
use std::ops::Range;

/// Sums of squares of blocks of the first `count` elements.
pub(crate) fn sum_of_squares(values: &Buffer, count: usize, sums: &Buffer) -> Dispatch {
    let blocks = count.div_ceil(NORM_BLOCK);
    assert!(count <= values.len && blocks <= sums.len);
    let buffers = vec![values.clone(), sums.clone()];
    Dispatch { kernel: Kernel::SumOfSquares, params: vec![word(blocks), word(count)], buffers, groups: blocks }
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
    Dispatch { kernel: Kernel::GradientScale, params, buffers: vec![sums.clone(), result.clone()], groups: 1 }
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
    fn launch(&self, kernel: Kernel, scalars: &Scalars, range: Range<usize>, slot: u32) -> Dispatch {
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
        let mut params = vec![word(range.len()), word(range.start)];
        params.extend(floats.map(f32::to_bits));
        params.push(slot);
        let buffers = [&self.gradient, &self.scale, &self.parameters, &self.first_moment, &self.second_moment];
        Dispatch {
            kernel,
            params,
            buffers: buffers.map(Buffer::clone).into(),
            groups: range.len().div_ceil(GROUP_ELEMENTS),
        }
    }

    /// Checks the magnitudes that the step would write in `range`.
    pub(crate) fn preview(&self, scalars: &Scalars, range: Range<usize>, slot: u32) -> Dispatch {
        self.launch(Kernel::AdamwPreview, scalars, range, slot)
    }

    /// Takes the step in `range`, unless any check has failed.
    pub(crate) fn step(&self, scalars: &Scalars, range: Range<usize>) -> Dispatch {
        self.launch(Kernel::Adamw, scalars, range, crate::gpu::program::NO_SLOT)
    }
}
