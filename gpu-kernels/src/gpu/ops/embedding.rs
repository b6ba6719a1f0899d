//! Launchers of `embedding` and `embedding_gradient`: a dispatch for each window of the table.

use super::{GROUP_ELEMENTS, GROUP_ROWS, elementwise, word};
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;
use std::ops::Range;

/// The table's rows, by as many as are bound at once.
fn windows(tensor: &Buffer, rows: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (tensor.elements_max(1) / width).max(1);
    (0..rows).step_by(step).map(move |first| first..(first + step).min(rows))
}

/// The table's rows of `count` tokens; it starts at `offset` in `parameters`.
pub(crate) fn embedding(
    (parameters, offset): (&Buffer, usize),
    (vocab_size, width): (usize, usize),
    (tokens, count): (&Buffer, usize),
    rows: &Buffer,
) -> Vec<Dispatch> {
    let elements = count * width;
    assert!(count <= tokens.len && elements <= rows.len);
    let launch = |window: Range<usize>| {
        let (table, start) = parameters.window(offset + window.start * width..offset + window.end * width);
        let params = vec![word(count), word(width), word(start), word(window.start), word(window.len())];
        let buffers = vec![table, tokens.clone(), rows.clone()];
        let groups = count.div_ceil(GROUP_ROWS);
        Dispatch { kernel: Kernel::Embedding, params, buffers, groups, operations: elementwise(elements) }
    };
    windows(parameters, vocab_size, width).map(launch).collect()
}

/// Adds rows of `dx` to the table's gradient, or starts it from zero. Token t
/// stands in `places[segments[t]..segments[t + 1]]`.
pub(crate) fn embedding_gradient(
    dx: &Buffer,
    [segments, places]: [&Buffer; 2],
    (vocab_size, width): (usize, usize),
    (gradient, offset, accumulate): (&Buffer, usize, bool),
    slot: u32,
) -> Vec<Dispatch> {
    assert!(vocab_size < segments.len);
    let launch = |window: Range<usize>| {
        let (table, start) = gradient.window(offset + window.start * width..offset + window.end * width);
        let count = window.len() * width;
        let params = vec![word(count), word(width), word(start), word(window.start), u32::from(accumulate), slot];
        let buffers = vec![dx.clone(), segments.clone(), places.clone(), table];
        let groups = count.div_ceil(GROUP_ELEMENTS);
        let operations = elementwise(count + dx.len);
        Dispatch { kernel: Kernel::EmbeddingGradient, params, buffers, groups, operations }
    };
    windows(gradient, vocab_size, width).map(launch).collect()
}
