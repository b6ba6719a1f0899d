// Columns of a matrix as row-scaled digits. Twin of `cpu/pack.rs`.

/// Here a row is a column of a matrix.
fn compute_row(number: u32, lane: u32) {
    let start = number / params.columns * params.batch_stride + number % params.columns;
    pack(Line(params.first_line + number, start, params.stride, params.rows), number < params.columns * params.batches, lane);
}
