//! Launchers of `add`, `sum_peak` and `accumulate`: the last two window by window.

use super::{GROUP_ELEMENTS, elementwise, windows, word};
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// total = a + b
pub(crate) fn add([a, b]: [&Buffer; 2], count: usize, total: &Buffer, slot: u32) -> Dispatch {
    assert!(count <= a.len && count <= b.len && count <= total.len);
    let buffers = vec![a.clone(), b.clone(), total.clone()];
    let groups = count.div_ceil(GROUP_ELEMENTS);
    Dispatch { kernel: Kernel::Add, params: vec![word(count), slot], buffers, groups, operations: elementwise(count) }
}

fn launch(kernel: Kernel, tensors: [&Buffer; 2], count: usize, params: &[u32]) -> Vec<Dispatch> {
    assert!(tensors.iter().all(|tensor| count <= tensor.len));
    let one = |range: std::ops::Range<usize>| {
        let buffers = tensors.map(|tensor| tensor.window(range.clone()).0).into();
        let params = [&[word(range.len())], params].concat();
        let groups = range.len().div_ceil(GROUP_ELEMENTS);
        Dispatch { kernel, params, buffers, groups, operations: elementwise(range.len()) }
    };
    windows(tensors[0], 0..count, GROUP_ELEMENTS).map(one).collect()
}

/// Checks the range of a + b.
pub(crate) fn sum_peak(tensors: [&Buffer; 2], count: usize, slot: u32) -> Vec<Dispatch> {
    launch(Kernel::SumPeak, tensors, count, &[slot])
}

/// total += part, unless any check has failed.
pub(crate) fn accumulate(part: &Buffer, count: usize, total: &Buffer) -> Vec<Dispatch> {
    launch(Kernel::Accumulate, [part, total], count, &[])
}
