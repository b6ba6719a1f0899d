// Rows of a matrix as row-scaled digits. Twin of `cpu/pack.rs`.

fn compute_row(row: u32, lane: u32) {
    let start = row / params.rows * params.batch_stride + row % params.rows * params.stride;
    pack(Line(params.first_line + row, start, 1u, params.columns), row < params.rows * params.batches, lane);
}
