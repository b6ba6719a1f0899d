//! Launchers of `embedding` and `embedding_gradient`.

use super::{GROUP_ELEMENTS, word};
use crate::buffers::Buffer;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// The table's rows of `count` tokens; it starts at `offset` in `parameters`.
pub(crate) fn embedding(
    (parameters, offset): (&Buffer, usize),
    (tokens, count): (&Buffer, usize),
    width: usize,
    rows: &Buffer,
) -> Dispatch {
    let elements = count * width;
    assert!(count <= tokens.len && elements <= rows.len);
    let params = vec![word(elements), word(width), word(offset)];
    let buffers = vec![parameters.clone(), tokens.clone(), rows.clone()];
    Dispatch { kernel: Kernel::Embedding, params, buffers, groups: elements.div_ceil(GROUP_ELEMENTS) }
}

/// Adds rows of `dx` to the table's gradient, or starts it from zero. Token t
/// stands in `places[segments[t]..segments[t + 1]]`.
pub(crate) fn embedding_gradient(
    dx: &Buffer,
    [segments, places]: [&Buffer; 2],
    (vocab_size, width): (usize, usize),
    (gradient, offset, accumulate): (&Buffer, usize, bool),
    slot: u32,
) -> Dispatch {
    let count = vocab_size * width;
    assert!(vocab_size < segments.len && offset + count <= gradient.len);
    let params = vec![word(count), word(width), word(offset), u32::from(accumulate), slot];
    let buffers = vec![dx.clone(), segments.clone(), places.clone(), gradient.clone()];
    Dispatch { kernel: Kernel::EmbeddingGradient, params, buffers, groups: count.div_ceil(GROUP_ELEMENTS) }
}
