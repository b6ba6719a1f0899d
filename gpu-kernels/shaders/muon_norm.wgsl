// The factor that makes directions those of norm 1, from their block sums. Twin of `cpu/muon.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    count: u32,
    epsilon: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sums: array<u32>;
@group(0) @binding(3) var<storage, read_write> factor: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let count = select(0u, params.count, row < params.rows);
    var sums_of_lanes = vec4<u32>(0u);
    for (var at = lane; at < whole_turns(count); at += ROW_THREADS) {
        var sum = sums_of_lanes.x;
        if at < count {
            sum = f_add(sum, sums[at]);
        }
        sums_of_lanes = turned(sums_of_lanes, sum);
    }
    let norm = f_sqrt(fold_sum(sums_of_lanes));
    if lane == 0u && row < params.rows {
        factor[0] = f_reciprocal(f_add(norm, params.epsilon));
        report(params.slot, norm);
    }
}
