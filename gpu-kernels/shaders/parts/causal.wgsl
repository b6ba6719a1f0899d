// Rows of square matrices of scores, of which only the part up to the diagonal counts.

struct Params {
    first_group: u32,
    rows: u32,
    length: u32,
    stride: u32,
    scale: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;

/// Elements of the row that count; none beyond the last row.
fn causal_width(row: u32) -> u32 {
    return select(0u, row % params.length + 1u, row < params.rows);
}
