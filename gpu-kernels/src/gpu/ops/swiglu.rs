//! Launchers of `swiglu` and `swiglu_backward`.

use super::{GROUP_ROWS, elementwise, word};
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// Columns of a row that eight threads compute.
const PIECE: usize = 256;

/// h of `rows` rows of `width` from rows \[gate, up\].
pub(crate) fn swiglu(gate_up: &Buffer, (rows, width): (usize, usize), h: &Buffer, slot: u32) -> Dispatch {
    let count = rows * width;
    assert!(2 * count <= gate_up.len && count <= h.len);
    let buffers = vec![gate_up.clone(), h.clone()];
    let pieces = width.div_ceil(PIECE);
    let groups = (rows * pieces).div_ceil(GROUP_ROWS);
    let (params, operations) = (vec![word(rows * pieces), word(pieces), word(width), slot], 4 * elementwise(count));
    Dispatch { kernel: Kernel::Swiglu, params, buffers, groups, operations }
}

/// The gradient of \[gate, up\].
pub(crate) fn swiglu_backward(
    [dh, gate_up]: [&Buffer; 2],
    (rows, width): (usize, usize),
    d_gate_up: &Buffer,
    slot: u32,
) -> Dispatch {
    let count = rows * width;
    assert!(count <= dh.len && 2 * count <= gate_up.len && 2 * count <= d_gate_up.len);
    let buffers = vec![dh.clone(), gate_up.clone(), d_gate_up.clone()];
    let pieces = width.div_ceil(PIECE);
    let groups = (rows * pieces).div_ceil(GROUP_ROWS);
    let (params, operations) = (vec![word(rows * pieces), word(pieces), word(width), slot], 4 * elementwise(count));
    Dispatch { kernel: Kernel::SwigluBackward, params, buffers, groups, operations }
}
