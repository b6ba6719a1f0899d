//! Launchers of `add`, `sum_peak` and `accumulate`.

use super::{GROUP_ELEMENTS, word};
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// total = a + b
pub(crate) fn add([a, b]: [&Buffer; 2], count: usize, total: &Buffer, slot: u32) -> Dispatch {
    assert!(count <= a.len && count <= b.len && count <= total.len);
    let buffers = vec![a.clone(), b.clone(), total.clone()];
    let groups = count.div_ceil(GROUP_ELEMENTS);
    Dispatch { kernel: Kernel::Add, params: vec![word(count), slot], buffers, groups }
}

/// Checks the range of a + b.
pub(crate) fn sum_peak([a, b]: [&Buffer; 2], count: usize, slot: u32) -> Dispatch {
    assert!(count <= a.len && count <= b.len);
    let groups = count.div_ceil(GROUP_ELEMENTS);
    Dispatch { kernel: Kernel::SumPeak, params: vec![word(count), slot], buffers: vec![a.clone(), b.clone()], groups }
}

/// total += part, unless any check has failed.
pub(crate) fn accumulate(part: &Buffer, count: usize, total: &Buffer) -> Dispatch {
    assert!(count <= part.len && count <= total.len);
    let groups = count.div_ceil(GROUP_ELEMENTS);
    let buffers = vec![part.clone(), total.clone()];
    Dispatch { kernel: Kernel::Accumulate, params: vec![word(count)], buffers, groups }
}
