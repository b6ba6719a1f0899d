// Copies the row of each token. Twin of `cpu/embedding.rs`.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parameters: array<u32>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> rows: array<u32>;

fn compute_element(at: u32) {
    rows[at] = parameters[params.offset + tokens[at / params.width] * params.width + at % params.width];
}
