// Sums of the squares of blocks of 4,096 elements. Twin of `norm` in `cpu/adamw.rs`.

struct Params {
    rows: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> sums: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let end = min((row + 1u) * 4096u, params.count);
    var sum = 0u;
    for (var at = row * 4096u + lane; at < end; at += LANES) {
        let value = canon(values[at]);
        sum = f_mul_add(value, value, sum);
    }
    let total = fold_sum(lane, sum);
    if lane == 0u {
        sums[row] = total;
    }
}
