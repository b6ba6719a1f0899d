// Copies the row of each token that this window of the table has. Twin of `cpu/embedding.rs`.

struct Params {
    first_group: u32,
    count: u32,
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

fn compute_element(at: u32) {
    let row = tokens[at / params.width] - params.first_token;
    // Rows before the window have wrapped to large numbers.
    if row < params.window_tokens {
        rows[at] = parameters[params.offset + row * params.width + at % params.width];
    }
}
