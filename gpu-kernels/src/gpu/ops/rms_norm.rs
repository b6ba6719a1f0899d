//! Launchers of `rms_norm`, `rms_norm_backward` and `rms_norm_weight_gradient`.

use super::{GROUP_ROWS, elementwise, word};
use crate::arithmetic::from_host;
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// A norm over rows of `width` elements; its weight starts at `weight` in `parameters`.
#[derive(Clone)]
pub(crate) struct RmsNorm {
    pub(crate) parameters: Buffer,
    pub(crate) weight: usize,
    pub(crate) width: usize,
    pub(crate) epsilon: f32,
}

impl RmsNorm {
    fn reciprocal_width(&self) -> u32 {
        from_host(1.0 / self.width as f64).to_bits()
    }

    fn check(&self, rows: usize, tensors: &[&Buffer], inverse: &Buffer) {
        assert!(tensors.iter().all(|tensor| rows * self.width <= tensor.len) && rows <= inverse.len);
        assert!(self.weight + self.width <= self.parameters.len);
    }

    /// y and the reciprocal roots of `rows` rows from row `first` of x.
    pub(crate) fn forward(
        &self,
        (x, first): (&Buffer, usize),
        rows: usize,
        y: &Buffer,
        inverse: &Buffer,
        slot: u32,
    ) -> Dispatch {
        self.check(rows, &[y], inverse);
        assert!((first + rows) * self.width <= x.len);
        let (parameters, offset) = self.parameters.window(self.weight..self.weight + self.width);
        let params = vec![
            word(rows),
            word(self.width),
            word(first * self.width),
            word(offset),
            self.reciprocal_width(),
            self.epsilon.to_bits(),
            slot,
        ];
        let buffers = vec![x.clone(), parameters, y.clone(), inverse.clone()];
        let operations = elementwise(rows * self.width);
        Dispatch { kernel: Kernel::RmsNorm, params, buffers, groups: rows.div_ceil(GROUP_ROWS), operations }
    }

    /// Adds the gradient of x to `dx`, or writes it there.
    pub(crate) fn backward(
        &self,
        [dy, x, inverse]: [&Buffer; 3],
        rows: usize,
        (dx, accumulate): (&Buffer, bool),
        slot: u32,
    ) -> Dispatch {
        self.check(rows, &[dy, x, dx], inverse);
        let (parameters, offset) = self.parameters.window(self.weight..self.weight + self.width);
        let params =
            vec![word(rows), word(self.width), word(offset), self.reciprocal_width(), u32::from(accumulate), slot];
        let buffers = vec![dy.clone(), x.clone(), inverse.clone(), parameters, dx.clone()];
        let operations = elementwise(rows * self.width);
        Dispatch { kernel: Kernel::RmsNormBackward, params, buffers, groups: rows.div_ceil(GROUP_ROWS), operations }
    }

    /// Writes the gradient of the weight to the weight's place in `gradient`.
    pub(crate) fn weight_gradient(
        &self,
        [dy, x, inverse]: [&Buffer; 3],
        rows: usize,
        gradient: &Buffer,
        slot: u32,
    ) -> Dispatch {
        self.check(rows, &[dy, x], inverse);
        assert!(self.weight + self.width <= gradient.len);
        let (gradient, offset) = gradient.window(self.weight..self.weight + self.width);
        let params = vec![word(rows), word(self.width), word(offset), slot];
        let buffers = vec![dy.clone(), x.clone(), inverse.clone(), gradient];
        let (groups, operations) = (self.width.div_ceil(GROUP_ROWS), elementwise(rows * self.width));
        Dispatch { kernel: Kernel::RmsNormWeightGradient, params, buffers, groups, operations }
    }
}
