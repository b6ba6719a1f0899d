// Rows of square matrices of scores, of which only the part up to the diagonal counts.

struct Params {
    rows: u32,
    length: u32,
    stride: u32,
    scale: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;

/// Elements of the row that count.
fn causal_width(row: u32) -> u32 {
    return row % params.length + 1u;
}
