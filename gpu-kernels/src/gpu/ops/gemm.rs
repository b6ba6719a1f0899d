//! Launchers of `gemm_operand` and `gemm_fold`.

use super::{GROUP_ELEMENTS, elementwise, word};
use crate::buffers::Buffer;
use crate::cpu::random::Key;
use crate::gpu::kernel::Kernel;
use crate::gpu::ops::matmul::Packed;
use crate::gpu::program::Dispatch;

/// Draws `rows` rows of an operand whose rows have a multiple of 4 elements, from its row `first` on.
pub(crate) fn draw(key: Key, first: usize, operand: &Packed, rows: usize) -> Dispatch {
    assert!(operand.k.is_multiple_of(4) && operand.digits == 1);
    let (width, stride) = (operand.k / 4, 4 * operand.pieces());
    let count = rows * stride;
    assert!(count <= operand.words.len);
    let params = vec![word(count), word(width), word(stride), (first * width) as u32, key[0], key[1]];
    Dispatch {
        kernel: Kernel::GemmOperand,
        params,
        buffers: vec![operand.words.clone()],
        groups: count.div_ceil(GROUP_ELEMENTS),
        operations: elementwise(count),
    }
}

/// Folds the rows of a product into `folds`, from `offset` on.
pub(crate) fn fold(
    key: u32,
    (product, rows, columns): (&Buffer, usize, usize),
    (folds, offset): (&Buffer, usize),
) -> Dispatch {
    assert!(rows * columns <= product.len && offset + rows <= folds.len);
    let params = vec![word(rows), word(columns), key, word(offset)];
    let (buffers, operations) = (vec![product.clone(), folds.clone()], elementwise(rows * columns));
    Dispatch { kernel: Kernel::GemmFold, params, buffers, groups: rows, operations }
}
