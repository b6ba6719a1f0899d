// The norm of the mean gradient, and the factor from the summed gradient to the clipped
// mean. Twin of `apply` in `model/optimizer.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    count: u32,
    mean_scale: u32,
    clip: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sums: array<u32>;
@group(0) @binding(3) var<storage, read_write> result: array<u32>;

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
    let norm = f_mul(f_sqrt(fold_sum(sums_of_lanes)), params.mean_scale);
    if lane == 0u && row < params.rows {
        result[0] = norm;
        var scale = params.mean_scale;
        if f_less(params.clip, norm) {
            scale = f_mul(scale, f_mul(params.clip, f_reciprocal(norm)));
        }
        result[1] = scale;
        report(params.slot, norm);
    }
}
