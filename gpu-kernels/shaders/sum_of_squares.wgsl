// Sums of the squares of blocks of 4,096 elements. Twin of `norm` in `cpu/adamw.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    count: u32,
    /// Where the sums go.
    first_block: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> sums: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let first = row * 4096u;
    let count = select(0u, min(4096u, params.count - first), row < params.rows);
    var sums_of_lanes = vec4<u32>(0u);
    for (var at = lane; at < whole_turns(count); at += ROW_THREADS) {
        var sum = sums_of_lanes.x;
        if at < count {
            let value = canon(values[first + at]);
            sum = f_mul_add(value, value, sum);
        }
        sums_of_lanes = turned(sums_of_lanes, sum);
    }
    let total = fold_sum(sums_of_lanes);
    if lane == 0u && row < params.rows {
        sums[params.first_block + row] = total;
    }
}
