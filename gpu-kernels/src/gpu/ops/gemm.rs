//! Launchers of `gemm_operand` and `gemm_fold`.

use super::{GROUP_ELEMENTS, word};
use crate::buffers::Buffer;
use crate::cpu::random::Key;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// Draws `count` words of an operand from its word `first` on.
pub(crate) fn draw(key: Key, first: u32, words: &Buffer, count: usize) -> Dispatch {
    assert!(count <= words.len);
    let params = vec![word(count), first, key[0], key[1]];
    Dispatch {
        kernel: Kernel::GemmOperand,
        params,
        buffers: vec![words.clone()],
        groups: count.div_ceil(GROUP_ELEMENTS),
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
    Dispatch { kernel: Kernel::GemmFold, params, buffers: vec![product.clone(), folds.clone()], groups: rows }
}
