// Copies the row of each token that this window of the table has. Twin of `cpu/embedding.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    width: u32,
    /// Of the window's first row, the row of `first_token`.
    offset: u32,
    first_token: u32,
    window_tokens: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parameters: array<u32>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> rows: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let place = tokens[min(row, params.rows - 1u)] - params.first_token;
    // Rows before the window have wrapped to large numbers.
    let inside = row < params.rows && place < params.window_tokens;
    for (var column = lane; column < select(0u, params.width, inside); column += ROW_THREADS) {
        rows[row * params.width + column] = parameters[params.offset + place * params.width + column];
    }
}
